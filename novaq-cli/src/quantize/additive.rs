//! Additive codes for a weight matrix: codebooks, codes and row scales found by turns.

use half::f16;
use ndarray::{Array2, ArrayView2, Axis, CowArray, Ix2, s};
use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::beam::{BeamSearch, Codebooks, SearchTables};
use super::feedback::{assign, revisit};
use super::fit::{Coded, fit_codebooks, fit_scales, loss};
use super::hessian::{BlockFactors, NotPositiveDefinite};
use super::{ENTRIES, ROWS_PER_TASK};

/// How hard to search.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Partial choices that the beam search keeps.
    pub beam: usize,
    /// Rounds of error feedback, each followed by least squares.
    pub feedback_rounds: usize,
    /// Rounds of revisiting every group, each followed by least squares.
    pub revisit_rounds: usize,
    /// Conjugate-gradient steps of one least-squares fit.
    pub fit_steps: usize,
    /// Vectors that codebooks are fitted to at most. Small samples lose some: 5 % more error with 8,192 vectors.
    pub fit_vectors: usize,
}

impl Effort {
    /// What quantizing a matrix of `rows` rows of `columns` weights takes, in vectors of `dim`.
    pub fn work(&self, [rows, columns]: [usize; 2], dim: usize) -> Work {
        let all = (rows * columns.div_ceil(dim)).max(1) as f64;
        let share = (self.fit_vectors as f64 / all).min(1.0);
        let (feedback, revisits) = (self.feedback_rounds as f64, self.revisit_rounds as f64);
        // The first gradient, one of each step, and row scales.
        let fit = (self.fit_steps + 2) as f64;
        let fitted = feedback * (0.5 + fit) + revisits * (2.0 + fit);
        // What follows on all rows where codebooks were fitted to some: feedback, a revisit, and row scales after each.
        let rest = f64::from(u8::from(share < 1.0));
        // The last revisit, row scales, and the error that is reported.
        Work {
            searches: share * (feedback + revisits) + 2.0 * rest + 1.0,
            products: share * fitted + 4.5 * rest + 5.0,
        }
    }
}

/// What a matrix takes to be quantized.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// How often codes are searched for a weight.
    pub searches: f64,
    /// How often a weight is multiplied with a row of the Hessian.
    pub products: f64,
}

impl Default for Effort {
    fn default() -> Self {
        Self { beam: 16, feedback_rounds: 2, revisit_rounds: 2, fit_steps: 12, fit_vectors: 1 << 18 }
    }
}

/// A matrix in additive codes with codewords of 8 bits, as the artifact stores it:
/// `Ŵ[r, g d + j] = row_scale[r] · codebook_scale · Σ_m C[m][code[r][g][m]][j]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Number of codebooks, `M`.
    pub books: usize,
    /// Weights per codeword, `d`.
    pub dim: usize,
    /// Weights per row, `k`; the last vector of a row may reach beyond it.
    pub columns: usize,
    /// The codewords, `[M][16][d]`.
    pub codewords: Vec<i8>,
    /// What a codeword is multiplied with.
    pub codebook_scale: f32,
    /// The codes, `[n][⌈k / d⌉][M]`.
    pub codes: Vec<u8>,
    /// The scale of each row, `[n]`.
    pub row_scales: Vec<f16>,
    /// `tr (W - Ŵ) H (W - Ŵ)ᵀ / tr W H Wᵀ`.
    pub relative_error: f64,
}

/// Quantizes `w [n, k]` for inputs with the (damped) second moments `h [k, k]`. `weights [n]` says how much the error
/// of each row counts when the codebooks are fitted.
///
/// # Errors
/// When `h` is not positive definite.
pub fn quantize(
    w: ArrayView2<f32>,
    h: ArrayView2<f32>,
    weights: &[f32],
    start: &Codebooks,
    effort: Effort,
) -> Result<Quantized, NotPositiveDefinite> {
    let columns = w.ncols();
    let (w, h) = (&padded_weights(w, start.dim), &padded_hessian(h, start.dim));
    let (w, h) = (w.view(), h.view());
    let factors = BlockFactors::new(h, start.dim)?;
    let groups = w.ncols() / start.dim;
    let scales =
        w.rows().into_iter().map(|row| (row.dot(&row) / row.len() as f32).sqrt().max(f32::MIN_POSITIVE));
    let mut coded = Coded {
        codebooks: start.clone(),
        codes: vec![0; w.nrows() * groups * start.books],
        scales: scales.collect(),
    };
    let sample = Sample::new(w, weights, (effort.fit_vectors / groups.max(1)).max(1));
    sample.change(&mut coded, |w, coded| {
        let fit = |coded: &mut Coded| {
            fit_codebooks(w, coded, h, &sample.weights, effort.fit_steps);
            fit_scales(w, coded, h, |x| x);
        };
        for _ in 0..effort.feedback_rounds {
            assign(w, coded, &factors, effort.beam);
            fit(coded);
        }
        for _ in 0..effort.revisit_rounds {
            revisit(w, coded, h, effort.beam);
            fit(coded);
        }
    });
    if sample.rows.len() < w.nrows() {
        assign(w, &mut coded, &factors, effort.beam);
        fit_scales(w, &mut coded, h, |x| x);
        revisit(w, &mut coded, h, effort.beam);
        fit_scales(w, &mut coded, h, |x| x);
    }

    // From here on with what is stored: codewords of 8 bits, row scales of 16 bits around one.
    let largest = coded.codebooks.words.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let step = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let codewords: Vec<i8> = coded.codebooks.words.iter().map(|x| (x / step).round() as i8).collect();
    let mean = coded.scales.iter().sum::<f32>() / coded.scales.len().max(1) as f32;
    coded.codebooks.words = codewords.iter().map(|&c| f32::from(c) * step * mean).collect();
    coded.scales.iter_mut().for_each(|scale| *scale = f16::from_f32(*scale / mean).to_f32());
    revisit(w, &mut coded, h, effort.beam);
    fit_scales(w, &mut coded, h, |x| f16::from_f32(x).to_f32());

    let ones = vec![1.0; w.nrows()];
    let whole: f64 = w.dot(&h).iter().zip(w.iter()).map(|(a, b)| f64::from(a * b)).sum();
    Ok(Quantized {
        books: start.books,
        dim: start.dim,
        columns,
        codewords,
        codebook_scale: step * mean,
        relative_error: if whole > 0.0 { loss(w, &coded, h, &ones) / whole } else { 0.0 },
        row_scales: coded.scales.iter().map(|&scale| f16::from_f32(scale)).collect(),
        codes: coded.codes,
    })
}

/// Rows that stand for all rows of a matrix where codebooks are fitted.
struct Sample {
    rows: Vec<usize>,
    /// Their weights `[rows, k]`.
    w: Array2<f32>,
    /// How much each counts.
    weights: Vec<f32>,
}

impl Sample {
    /// Rows of `w` where multiples of an even share of the sum of `weights` fall on, at most `count` of them; all rows if there
    /// are no more.
    fn new(w: ArrayView2<f32>, weights: &[f32], count: usize) -> Self {
        if w.nrows() <= count {
            return Self { rows: (0..w.nrows()).collect(), w: w.to_owned(), weights: weights.to_vec() };
        }
        let share = weights.iter().map(|&x| f64::from(x)).sum::<f64>() / count as f64;
        let (mut rows, mut counts, mut sum) = (Vec::new(), Vec::new(), 0.0);
        for (row, &weight) in weights.iter().enumerate() {
            // Shares are counted at their middles.
            let before = (sum / share + 0.5).floor();
            sum += f64::from(weight);
            let falling = (sum / share + 0.5).floor() - before;
            if falling > 0.0 {
                rows.push(row);
                counts.push(falling as f32);
            }
        }
        Self { w: w.select(Axis(0), &rows), rows, weights: counts }
    }

    /// Lets `change` work on these rows of `coded` alone. Codebooks are those of all rows, and the other rows' scales change as
    /// these do on average; their codes stay.
    fn change(&self, coded: &mut Coded, change: impl FnOnce(ArrayView2<f32>, &mut Coded)) {
        let mut part = Coded {
            codebooks: coded.codebooks.clone(),
            codes: self.rows.iter().flat_map(|&r| coded.row(r)).copied().collect(),
            scales: self.rows.iter().map(|&r| coded.scales[r]).collect(),
        };
        let before: f32 = part.scales.iter().sum();
        change(self.w.view(), &mut part);
        let factor = part.scales.iter().sum::<f32>() / before.max(f32::MIN_POSITIVE);
        coded.scales.iter_mut().for_each(|scale| *scale *= factor);
        let per_row = coded.codes.len() / coded.scales.len();
        for (i, &r) in self.rows.iter().enumerate() {
            coded.scales[r] = part.scales[i];
            coded.codes[r * per_row..(r + 1) * per_row].copy_from_slice(part.row(i));
        }
        coded.codebooks = part.codebooks;
    }
}

impl Quantized {
    /// The matrix `[n, k]` that is stored.
    pub fn decode(&self) -> Array2<f32> {
        let width = self.columns.next_multiple_of(self.dim);
        let coded = Coded {
            codebooks: Codebooks {
                books: self.books,
                dim: self.dim,
                words: self.codewords.iter().map(|&c| f32::from(c) * self.codebook_scale).collect(),
            },
            codes: self.codes.clone(),
            scales: self.row_scales.iter().map(|scale| scale.to_f32()).collect(),
        };
        coded.decode(width).slice_move(s![.., ..self.columns])
    }
}

/// `w` with columns of zeros up to a multiple of `d`.
fn padded_weights(w: ArrayView2<f32>, d: usize) -> CowArray<f32, Ix2> {
    let (rows, columns) = w.dim();
    if columns.is_multiple_of(d) {
        return w.into();
    }
    let mut padded = Array2::zeros((rows, columns.next_multiple_of(d)));
    padded.slice_mut(s![.., ..columns]).assign(&w);
    padded.into()
}

/// `h` for padded weights: inputs that are always zero, but for the diagonal that keeps it positive definite.
fn padded_hessian(h: ArrayView2<f32>, d: usize) -> CowArray<f32, Ix2> {
    let columns = h.nrows();
    if columns.is_multiple_of(d) {
        return h.into();
    }
    let width = columns.next_multiple_of(d);
    let least = h.diag().iter().copied().fold(f32::INFINITY, f32::min);
    let mut padded = Array2::from_diag_elem(width, 0.01 * least);
    padded.slice_mut(s![..columns, ..columns]).assign(&h);
    padded.into()
}

/// Vectors that the codebooks of a unit Gaussian are trained on.
pub(crate) const GAUSSIAN_VECTORS: usize = 8192;

/// Codebooks for vectors of independent Gaussian weights of variance one, the start of every fit: residual k-means,
/// then beam search and least squares by turns.
pub fn gaussian_codebooks(books: usize, dim: usize, rounds: usize, seed: u64) -> Codebooks {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let vectors = Array2::from_shape_simple_fn((GAUSSIAN_VECTORS, dim), || normal(&mut rng));
    train(vectors.view(), books, rounds, &mut rng)
}

/// A sample of the standard normal distribution (Box and Muller).
pub(crate) fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Codebooks for `vectors [count, d]` in the plain Euclidean metric.
pub fn train(vectors: ArrayView2<f32>, books: usize, rounds: usize, rng: &mut impl Rng) -> Codebooks {
    let (count, dim) = vectors.dim();
    let identity = Array2::<f32>::eye(dim);
    let mut codebooks = Codebooks::zeros(books, dim);
    let mut residual = vectors.to_owned();
    for book in 0..books {
        let words = k_means(&mut residual, rng);
        let at = book * ENTRIES * dim;
        codebooks.words[at..at + words.len()].copy_from_slice(&words);
    }
    let mut coded = Coded { codebooks, codes: vec![0; count * books], scales: vec![1.0; count] };
    let weights = vec![1.0; count];
    for _ in 0..rounds {
        let tables = SearchTables::new(&coded.codebooks, identity.view());
        coded.codes.par_chunks_mut(ROWS_PER_TASK * books).enumerate().for_each(|(task, codes)| {
            let mut search = BeamSearch::new(TRAINING_BEAM);
            for (i, codes) in codes.chunks_exact_mut(books).enumerate() {
                let target = vectors.row(task * ROWS_PER_TASK + i);
                search.encode(&tables, target.to_slice().expect("rows are contiguous"), codes);
            }
        });
        fit_codebooks(vectors, &mut coded, identity.view(), &weights, 20);
    }
    coded.codebooks
}

/// Beam width while the starting codebooks are trained.
const TRAINING_BEAM: usize = 16;

/// Sixteen means of the rows of `vectors`, `[16][d]`; leaves the residuals in `vectors`.
fn k_means(vectors: &mut Array2<f32>, rng: &mut impl Rng) -> Vec<f32> {
    let (count, dim) = vectors.dim();
    let mut words: Vec<f32> =
        index::sample(rng, count, ENTRIES.min(count)).iter().flat_map(|i| vectors.row(i).to_vec()).collect();
    words.resize(ENTRIES * dim, 0.0);
    let nearest = |words: &[f32], x: &[f32]| -> usize {
        let distance = |w: &[f32]| w.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        (0..ENTRIES)
            .min_by(|&a, &b| {
                distance(&words[a * dim..(a + 1) * dim]).total_cmp(&distance(&words[b * dim..(b + 1) * dim]))
            })
            .unwrap_or(0)
    };
    for _ in 0..12 {
        let mut sums = vec![0.0f64; ENTRIES * dim];
        let mut counts = [0.0f64; ENTRIES];
        for row in vectors.rows() {
            let row = row.to_slice().expect("rows are contiguous");
            let entry = nearest(&words, row);
            counts[entry] += 1.0;
            for (s, x) in sums[entry * dim..].iter_mut().zip(row) {
                *s += f64::from(*x);
            }
        }
        for entry in 0..ENTRIES {
            if counts[entry] > 0.0 {
                for j in 0..dim {
                    words[entry * dim + j] = (sums[entry * dim + j] / counts[entry]) as f32;
                }
            }
        }
    }
    for mut row in vectors.rows_mut() {
        let entry = nearest(&words, row.as_slice().expect("rows are contiguous"));
        for j in 0..dim {
            row[j] -= words[entry * dim + j];
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::testing::{correlated_hessian, gaussian, output_error};

    /// The errors that the field knows for these codecs on unit Gaussians; greedy residual codes are far off
    /// (0.222 and 0.126 in place of 0.182 and 0.097).
    #[test]
    fn gaussian_vectors_are_coded_as_well_as_can_be() {
        for (books, dim, expected) in
            [(2, 8, 0.338), (3, 8, 0.182), (4, 8, 0.097), (6, 8, 0.028), (2, 4, 0.108)]
        {
            let codebooks = gaussian_codebooks(books, dim, 8, 7);
            let tables = SearchTables::new(&codebooks, Array2::eye(dim).view());
            let mut search = BeamSearch::new(32);
            let vectors = gaussian(2000, dim, 99);
            let (mut codes, mut word, mut error) = (vec![0; books], vec![0.0; dim], 0.0);
            for vector in vectors.rows() {
                search.encode(&tables, vector.as_slice().unwrap(), &mut codes);
                codebooks.decode(&codes, &mut word);
                error += vector.iter().zip(&word).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            }
            let error = f64::from(error) / vectors.len() as f64;
            assert!((error / expected - 1.0f64).abs() < 0.04, "{books}x16@{dim}: {error}");
        }
    }

    #[test]
    fn error_feedback_pays_on_correlated_inputs() {
        let w = gaussian(40, 64, 3);
        let h = correlated_hessian(64, 4);
        let start = gaussian_codebooks(3, 8, 3, 0);
        let weights = vec![1.0; w.nrows()];
        let quantized = |h: &Array2<f32>| {
            quantize(w.view(), h.view(), &weights, &start, Effort::default()).unwrap().decode()
        };
        let (with, without) = (quantized(&h), quantized(&Array2::eye(64)));
        let (with, without) = (output_error(&w, &with, &h), output_error(&w, &without, &h));
        assert!(with < 0.6 * without, "{with} {without}");
    }

    /// Rows that count more are chosen more often, in all as much as they count.
    #[test]
    fn a_sample_of_rows_counts_as_much_as_all_rows() {
        let w = gaussian(1_536, 8, 10);
        let mut weights = vec![1.0; w.nrows()];
        weights[7] = 100.0;
        let sample = Sample::new(w.view(), &weights, 512);
        assert_eq!(sample.weights.iter().sum::<f32>(), 512.0);
        let at = sample.rows.iter().position(|&row| row == 7).unwrap();
        let expected = 100.0 * 512.0 / weights.iter().sum::<f32>();
        assert!((sample.weights[at] - expected).abs() <= 1.0, "{} {expected}", sample.weights[at]);
    }

    /// All rows have codes and scales of their own, whatever the codebooks were fitted to.
    #[test]
    fn codebooks_of_a_sample_are_nearly_as_good() {
        let w = gaussian(2_048, 64, 11);
        let h = correlated_hessian(64, 12);
        let start = gaussian_codebooks(4, 8, 3, 0);
        let error = |fit_vectors| {
            let effort = Effort { fit_vectors, ..Effort::default() };
            let quantized = quantize(w.view(), h.view(), &vec![1.0; w.nrows()], &start, effort).unwrap();
            let found = output_error(&w, &quantized.decode(), &h);
            let whole = output_error(&w, &Array2::zeros(w.dim()), &h);
            assert!((found / whole / quantized.relative_error - 1.0).abs() < 1e-3, "{}", found / whole);
            found
        };
        let (all, sampled) = (error(usize::MAX), error(4_096));
        assert!(sampled < 1.05 * all, "{sampled} {all}");
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let w = gaussian(100, 32, 5);
        let h = correlated_hessian(32, 6);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let start = gaussian_codebooks(2, 8, 2, 1);
                quantize(w.view(), h.view(), &[1.0; 100], &start, Effort::default()).unwrap()
            })
        };
        assert_eq!(run(1), run(5));
    }

    #[test]
    fn columns_need_not_be_whole_vectors() {
        let w = gaussian(40, 20, 8);
        let h = correlated_hessian(20, 9);
        let start = gaussian_codebooks(4, 8, 3, 0);
        let quantized = quantize(w.view(), h.view(), &[1.0; 40], &start, Effort::default()).unwrap();
        assert_eq!(quantized.codes.len(), 40 * 3 * 4);
        let decoded = quantized.decode();
        assert_eq!(decoded.dim(), w.dim());
        let whole = output_error(&w, &Array2::zeros(w.dim()), &h);
        let relative = output_error(&w, &decoded, &h) / whole;
        // Relative errors are counted with the target's own error; padding adds nothing to them.
        assert!((relative - quantized.relative_error).abs() < 1e-3, "{relative}");
        assert!(relative < 0.1, "{relative}");
    }

    #[test]
    fn rows_of_zeros_stay_zero() {
        let mut w = gaussian(8, 16, 1);
        w.row_mut(3).fill(0.0);
        let start = gaussian_codebooks(2, 8, 1, 0);
        let eye = Array2::eye(16);
        let quantized = quantize(w.view(), eye.view(), &[1.0; 8], &start, Effort::default()).unwrap();
        assert!(quantized.decode().row(3).iter().all(|x| x.abs() < 1e-6));
    }
}
