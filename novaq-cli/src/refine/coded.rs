//! Matrices in additive codes as something to be trained.
//!
//! A vector of weights in units of its row's scale is `u = Σ_m C[m][code[m]]`. The gradient of the loss with respect to
//! `u` moves three things: the codewords, the row's scale, and latent weights that the vector once was chosen for. After
//! each step every vector takes the codes whose sum is nearest to its latent weights, so codes change as soon as enough
//! gradients agree: a straight-through estimator (Bengio et al., 2013, <https://arxiv.org/abs/1308.3432>) in place of
//! the linearised subspace steps by which PV-Tuning (<https://arxiv.org/abs/2405.14852>) moves codes.

use std::sync::Arc;

use ndarray::Array2;
use novaq_engine::codec::{AqMatrix, Codebooks as Stored, CodecError};
use rayon::prelude::*;

use super::adam::Trained;
use crate::quantize::beam::{BeamSearch, Codebooks, SearchTables};
use crate::quantize::fit::Coded;
use crate::quantize::{ENTRIES, ROWS_PER_TASK};

/// Partial choices that the search for a vector's codes keeps. It starts from the present codes, so few are enough.
const BEAM: usize = 4;

/// Of so many steps, one searches for the codes of every vector; the others only where a single other code is better already.
/// Few codes change in a step.
const SEARCH_EVERY: usize = 8;

/// Codebooks up to which every step searches: with so few, vectors have to change all their codes together, and a search
/// takes little time.
const SEARCHED_BOOKS: usize = 2;

/// How far a step moves each kind of number at most, about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// Latent weights, in units of the row's scale, or as a share of the mean error that a student's codecs are expected to have;
    /// `None` keeps the codes as they are.
    pub(super) latent: Option<f32>,
    /// Codewords, in units of the row's scale.
    pub(super) words: f32,
    /// Row scales, relative.
    pub(super) scales: f32,
    /// Norms and biases.
    pub(super) vectors: f32,
}

/// Size of the latent weights of signs at first. Small, so that they change soon; what was known of sizes is in the scales.
const SIGN_SIZE: f32 = 0.5;

/// Latent weights of signs do not grow beyond this, so that a sign can always change back within some steps.
const LARGEST_LATENT: f32 = 2.0;

/// Matrices that share a codebook set.
pub(super) struct CodedSet {
    books: usize,
    dim: usize,
    /// Whether the codebook is that of signs, which stays as it is.
    signs: bool,
    /// `[M][16][d]`.
    words: Trained,
    pub(super) matrices: Vec<CodedMatrix>,
}

/// A matrix in codes, with the weights that its codes follow.
pub(super) struct CodedMatrix {
    pub(super) name: String,
    rows: usize,
    columns: usize,
    /// `[rows][⌈columns / d⌉][M]`.
    codes: Vec<u8>,
    /// Natural logarithms, `[rows]`.
    scales: Trained,
    /// `[rows, ⌈columns / d⌉ d]`.
    latent: Trained,
}

impl CodedMatrix {
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn width(&self) -> usize {
        self.latent.values.len() / self.rows
    }

    /// The codes of row `r`, `[⌈columns / d⌉][M]`.
    fn row_codes(&self, r: usize) -> &[u8] {
        let len = self.codes.len() / self.rows;
        &self.codes[r * len..(r + 1) * len]
    }
}

/// Root mean square of the error of AQ(M, d) on a unit Gaussian, about: that of the codecs over 8 weights is within a sixth of
/// `1.25 · 2^-bits`. The finer the codes, the less a latent weight has to move to change one; coarser ones than those of 2
/// bits gain nothing by longer steps.
fn expected_error(books: usize, dim: usize) -> f32 {
    1.25 * (-4.0 * books as f32 / dim as f32).min(-2.0).exp2()
}

/// What one task of [`CodedSet::step`] adds up over its rows.
struct Gradients {
    scales: Vec<f32>,
    latent: Vec<f32>,
    words: Vec<f32>,
}

impl CodedSet {
    /// `matrices` with their names, all with the same codebook set and without row means.
    pub(super) fn new(matrices: &[(String, AqMatrix)]) -> Self {
        let stored = matrices.first().map(|(_, m)| Arc::clone(m.codebooks()));
        let (books, dim) = stored.as_ref().map_or((0, 0), |s| (s.count(), s.dimension()));
        let words: Vec<f32> =
            stored.iter().flat_map(|s| s.codewords().iter().map(|&c| f32::from(c) * s.scale())).collect();
        // In units in which the sum of random codewords has variance one, whatever the size of the weights.
        let square: f64 = words.iter().map(|w| f64::from(*w).powi(2)).sum();
        let unit = (square / (ENTRIES * dim.max(1)) as f64).sqrt().max(f64::from(f32::MIN_POSITIVE)) as f32;
        let signs = stored.is_some_and(|s| s.is_signs());
        let codebooks = Codebooks { books, dim, words: words.iter().map(|w| w / unit).collect() };
        let matrices = matrices
            .iter()
            .map(|(name, m)| {
                let coded =
                    Coded { codebooks: codebooks.clone(), codes: m.codes(), scales: vec![1.0; m.rows()] };
                let mut latent = coded.decode(m.columns().next_multiple_of(dim)).into_raw_vec_and_offset().0;
                if signs {
                    for l in &mut latent {
                        *l *= SIGN_SIZE;
                    }
                }
                let scales = m.row_scales().iter().map(|s| (s * unit).max(f32::MIN_POSITIVE).ln());
                CodedMatrix {
                    name: name.clone(),
                    rows: m.rows(),
                    columns: m.columns(),
                    codes: coded.codes,
                    scales: Trained::new(scales.collect()),
                    latent: Trained::new(latent),
                }
            })
            .collect();
        Self { books, dim, signs, words: Trained::new(codebooks.words), matrices }
    }

    /// The weights of all matrices, and the error that the codec is expected to have, in units of the row's scale.
    pub(super) fn expected_error(&self) -> (usize, f32) {
        let weights = self.matrices.iter().map(|m| m.rows * m.columns).sum();
        (weights, expected_error(self.books, self.dim))
    }

    fn codebooks(&self) -> Codebooks {
        Codebooks { books: self.books, dim: self.dim, words: self.words.values.clone() }
    }

    /// The values of matrix `index`, row-major.
    pub(super) fn decode(&self, index: usize) -> Vec<f32> {
        let (m, codebooks) = (&self.matrices[index], self.codebooks());
        let mut out = vec![0.0; m.rows * m.columns];
        out.par_chunks_mut(m.columns).enumerate().for_each(|(r, out)| {
            let scale = m.scales.values[r].exp();
            let mut vector = vec![0.0; self.dim];
            for (codes, out) in m.row_codes(r).chunks_exact(self.books).zip(out.chunks_mut(self.dim)) {
                codebooks.decode(codes, &mut vector);
                out.iter_mut().zip(&vector).for_each(|(o, u)| *o = u * scale);
            }
        });
        out
    }

    /// Takes step number `step` against `gradients`, one for each matrix, row-major.
    pub(super) fn step(&mut self, gradients: &[Vec<f32>], rates: Rates, step: usize) {
        let codebooks = self.codebooks();
        let mut words = vec![0.0; self.words.values.len()];
        for (m, gradient) in self.matrices.iter_mut().zip(gradients) {
            let rows: Vec<usize> = (0..m.rows).step_by(ROWS_PER_TASK).collect();
            let parts: Vec<Gradients> = rows
                .into_par_iter()
                .map(|first| {
                    gradients_of(m, &codebooks, gradient, first..(first + ROWS_PER_TASK).min(m.rows))
                })
                .collect();
            let (mut scales, mut latent) = (Vec::new(), Vec::new());
            // In the order of the rows, so that the number of threads changes nothing.
            for part in parts {
                scales.extend(part.scales);
                latent.extend(part.latent);
                words.iter_mut().zip(part.words).for_each(|(sum, w)| *sum += w);
            }
            m.scales.step(&scales, rates.scales, step);
            if let Some(rate) = rates.latent {
                m.latent.step(&latent, rate, step);
                if self.signs {
                    m.latent.values.iter_mut().for_each(|l| *l = l.clamp(-LARGEST_LATENT, LARGEST_LATENT));
                }
            }
        }
        if !self.signs {
            self.words.step(&words, rates.words, step);
        }
        if rates.latent.is_some() {
            self.choose(self.books <= SEARCHED_BOOKS || step.is_multiple_of(SEARCH_EVERY));
        }
    }

    /// Gives every vector the codes nearest to its latent weights; unless it is to `search_all`, those of which no single
    /// one can be replaced for a better one stay.
    fn choose(&mut self, search_all: bool) {
        let (books, dim) = (self.books, self.dim);
        let tables = SearchTables::new(&self.codebooks(), Array2::eye(dim).view());
        for m in &mut self.matrices {
            let per_task = ROWS_PER_TASK * m.codes.len() / m.rows / books;
            let targets = m.latent.values.par_chunks(per_task * dim);
            m.codes.par_chunks_mut(per_task * books).zip(targets).for_each(|(codes, targets)| {
                let mut search = BeamSearch::new(BEAM);
                for (codes, target) in codes.chunks_exact_mut(books).zip(targets.chunks_exact(dim)) {
                    if search_all {
                        search.encode(&tables, target, codes);
                    } else {
                        search.revise(&tables, target, codes);
                    }
                }
            });
        }
    }

    /// The matrices as they are stored, with their names.
    pub(super) fn stored(&self) -> Result<Vec<(String, AqMatrix)>, CodecError> {
        let scales = |m: &CodedMatrix| m.scales.values.iter().map(|s| s.exp()).collect::<Vec<f32>>();
        let all: Vec<f32> = self.matrices.iter().flat_map(scales).collect();
        // 16-bit floats are most precise, and furthest from both ends of their range, around one.
        let mean = if self.signs { 1.0 } else { all.iter().sum::<f32>() / all.len().max(1) as f32 };
        let words: Vec<f32> = self.words.values.iter().map(|w| w * mean).collect();
        let codebooks =
            if self.signs { Stored::signs() } else { Stored::quantize(self.books, self.dim, &words)? };
        let codebooks = Arc::new(codebooks);
        let stored = |m: &CodedMatrix| {
            let scales: Vec<f32> = scales(m).iter().map(|s| s / mean).collect();
            let codebooks = Arc::clone(&codebooks);
            AqMatrix::from_codes(m.rows, m.columns, codebooks, &m.codes, &scales, None)
        };
        self.matrices.iter().map(|m| Ok((m.name.clone(), stored(m)?))).collect()
    }

    /// Adds what a later call goes on from to `state`.
    pub(super) fn state<'a>(&'a mut self, state: &mut State<'a>) {
        let first = self.matrices.first().map_or_else(String::new, |m| m.name.clone());
        state.trained.push((format!("{first}:words"), &mut self.words));
        for m in &mut self.matrices {
            state.trained.push((format!("{}:scales", m.name), &mut m.scales));
            state.trained.push((format!("{}:latent", m.name), &mut m.latent));
            state.codes.push((format!("{}:codes", m.name), &mut m.codes));
        }
    }
}

/// All numbers that are trained, and all codes, with a name each.
#[derive(Default)]
pub(super) struct State<'a> {
    pub(super) trained: Vec<(String, &'a mut Trained)>,
    pub(super) codes: Vec<(String, &'a mut Vec<u8>)>,
}

/// The gradients that `rows` of `m` contribute; `gradient` is that of the matrix's values.
fn gradients_of(
    m: &CodedMatrix,
    codebooks: &Codebooks,
    gradient: &[f32],
    rows: std::ops::Range<usize>,
) -> Gradients {
    let (books, dim, width) = (codebooks.books, codebooks.dim, m.width());
    let mut sums = Gradients {
        scales: Vec::with_capacity(rows.len()),
        latent: vec![0.0; rows.len() * width],
        words: vec![0.0; codebooks.words.len()],
    };
    let mut vector = vec![0.0; dim];
    for (r, latent) in rows.zip(sums.latent.chunks_exact_mut(width)) {
        let scale = m.scales.values[r].exp();
        let gradient = &gradient[r * m.columns..(r + 1) * m.columns];
        let mut along = 0.0;
        let groups = latent.chunks_exact_mut(dim).zip(gradient.chunks(dim));
        for (codes, (latent, gradient)) in m.row_codes(r).chunks_exact(books).zip(groups) {
            codebooks.decode(codes, &mut vector);
            for ((l, g), u) in latent.iter_mut().zip(gradient).zip(&vector) {
                *l = g * scale;
                along += g * scale * u;
            }
            for (book, &code) in codes.iter().enumerate() {
                let at = (book * ENTRIES + usize::from(code)) * dim;
                sums.words[at..at + dim].iter_mut().zip(&*latent).for_each(|(w, l)| *w += l);
            }
        }
        sums.scales.push(along);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(rows: [usize; 2], columns: usize, seed: u64) -> CodedSet {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let words: Vec<f32> = (0..2 * ENTRIES * 8).map(|_| rng.random_range(-0.1..0.1)).collect();
        let codebooks = Arc::new(Stored::quantize(2, 8, &words).unwrap());
        let matrices = rows.map(|rows| {
            let codes: Vec<u8> =
                (0..rows * columns.div_ceil(8) * 2).map(|_| rng.random_range(0..16)).collect();
            let scales: Vec<f32> = (0..rows).map(|_| rng.random_range(0.5..2.0)).collect();
            let codebooks = Arc::clone(&codebooks);
            AqMatrix::from_codes(rows, columns, codebooks, &codes, &scales, None).unwrap()
        });
        let [a, b] = matrices;
        CodedSet::new(&[("a".to_owned(), a), ("b".to_owned(), b)])
    }

    /// Without a step, what is stored is what was taken.
    #[test]
    fn matrices_come_back_as_they_were() {
        let set = random([40, 5], 20, 1);
        for (index, (_, stored)) in set.stored().unwrap().into_iter().enumerate() {
            let mut decoded = Vec::new();
            for r in 0..stored.rows() {
                let mut row = vec![0.0; stored.columns()];
                novaq_engine::codec::Matrix::Aq(stored.clone()).decode_row(r, &mut row);
                decoded.extend(row);
            }
            for (a, b) in decoded.iter().zip(set.decode(index)) {
                assert!((a - b).abs() < 2e-3, "{a} {b}");
            }
        }
    }

    /// Every gradient against differences of `Σ c · Ŵ`, which is linear in codewords and in each scale.
    #[test]
    fn gradients_are_those_of_differences() {
        const SMALL: f32 = 1e-2;
        let mut set = random([6, 3], 20, 2);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let c: Vec<Vec<f32>> =
            [6, 3].map(|rows| (0..rows * 20).map(|_| rng.random_range(-1.0..1.0)).collect()).to_vec();
        let value = |set: &CodedSet| -> f64 {
            let product = |(i, c): (usize, &Vec<f32>)| -> f64 {
                set.decode(i).iter().zip(c).map(|(w, c)| f64::from(w * c)).sum()
            };
            c.iter().enumerate().map(product).sum()
        };
        let codebooks = set.codebooks();
        let parts: Vec<Gradients> = (0..2)
            .map(|i| gradients_of(&set.matrices[i], &codebooks, &c[i], 0..set.matrices[i].rows))
            .collect();
        for at in 0..codebooks.words.len() {
            let before = value(&set);
            set.words.values[at] += SMALL;
            let slope = (value(&set) - before) / f64::from(SMALL);
            set.words.values[at] -= SMALL;
            let gradient = f64::from(parts[0].words[at] + parts[1].words[at]);
            assert!((slope - gradient).abs() < 1e-2, "word {at}: {slope} {gradient}");
        }
        for r in 0..6 {
            let before = value(&set);
            set.matrices[0].scales.values[r] += SMALL;
            let slope = (value(&set) - before) / f64::from(SMALL);
            set.matrices[0].scales.values[r] -= SMALL;
            let gradient = f64::from(parts[0].scales[r]);
            assert!((slope - gradient).abs() < 2e-2 * (1.0 + gradient.abs()), "row {r}: {slope} {gradient}");
        }
    }

    /// A target that other codes describe better is reached only by changing codes.
    #[test]
    fn codes_follow_the_gradients() {
        let target = random([6, 3], 16, 5);
        let mut set = random([6, 3], 16, 5);
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        for m in &mut set.matrices {
            m.codes.iter_mut().for_each(|code| *code = rng.random_range(0..16));
        }
        let distance = |set: &CodedSet| -> f32 {
            let of =
                |i| set.decode(i).iter().zip(target.decode(i)).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            of(0) + of(1)
        };
        let rates = |latent| Rates { latent, words: 0.0, scales: 0.0, vectors: 0.0 };
        let before = distance(&set);
        for step in 1..=300 {
            let gradients: Vec<Vec<f32>> = (0..2)
                .map(|i| set.decode(i).iter().zip(target.decode(i)).map(|(a, b)| a - b).collect())
                .collect();
            set.step(&gradients, rates(Some(0.03)), step);
        }
        assert!(distance(&set) < 0.05 * before, "{} {before}", distance(&set));
        let codes = set.matrices[0].codes.clone();
        let gradients = vec![vec![1.0; 6 * 16], vec![1.0; 3 * 16]];
        set.step(&gradients, rates(None), 301);
        assert_eq!(codes, set.matrices[0].codes);
    }
}
