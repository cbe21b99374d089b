//! Least squares for codewords and row scales with the codes fixed.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::beam::Codebooks;
use super::{ENTRIES, ROWS_PER_TASK};

/// A matrix in codes: `Ŵ[r, g d + j] = scale[r] Σ_m C[m][code[r][g][m]][j]`.
#[derive(Clone, Debug)]
pub struct Coded {
    /// The codebooks.
    pub codebooks: Codebooks,
    /// The codes, `[n][k / d][M]`.
    pub codes: Vec<u8>,
    /// The scale of each row, `[n]`.
    pub scales: Vec<f32>,
}

impl Coded {
    /// Codes of one row, `[k / d][M]`.
    pub fn row(&self, r: usize) -> &[u8] {
        let len = self.codes.len() / self.scales.len();
        &self.codes[r * len..(r + 1) * len]
    }

    /// Writes row `r` without its scale into `out [k]`.
    pub fn decode_row(&self, codebooks: &Codebooks, r: usize, out: &mut [f32]) {
        for (codes, out) in self.row(r).chunks_exact(codebooks.books).zip(out.chunks_exact_mut(codebooks.dim))
        {
            codebooks.decode(codes, out);
        }
    }

    /// The matrix `[n, k]` that the codes stand for.
    pub fn decode(&self, width: usize) -> Array2<f32> {
        let mut out = Array2::zeros((self.scales.len(), width));
        for (r, mut row) in out.rows_mut().into_iter().enumerate() {
            self.decode_row(
                &self.codebooks,
                r,
                row.as_slice_mut().expect("rows of a new matrix are contiguous"),
            );
            row *= self.scales[r];
        }
        out
    }
}

/// Row ranges of the parallel tasks over `rows` rows.
pub(super) fn tasks(rows: usize) -> Vec<std::ops::Range<usize>> {
    (0..rows).step_by(ROWS_PER_TASK).map(|at| at..(at + ROWS_PER_TASK).min(rows)).collect()
}

/// Sum over rows of `weight[r] · e_r H e_rᵀ` for the errors `e = w - Ŵ`.
pub fn loss(w: ArrayView2<f32>, coded: &Coded, h: ArrayView2<f32>, weights: &[f32]) -> f64 {
    let parts: Vec<f64> = tasks(w.nrows())
        .into_par_iter()
        .map(|range| {
            let e = errors(w, coded, range.clone());
            let eh = e.dot(&h);
            range
                .enumerate()
                .map(|(i, r)| f64::from(weights[r]) * f64::from(e.row(i).dot(&eh.row(i))))
                .sum::<f64>()
        })
        .collect();
    parts.iter().sum()
}

/// `w - Ŵ` for a range of rows.
pub(super) fn errors(w: ArrayView2<f32>, coded: &Coded, rows: std::ops::Range<usize>) -> Array2<f32> {
    let mut e = Array2::zeros((rows.len(), w.ncols()));
    for (i, r) in rows.enumerate() {
        let mut row = e.row_mut(i);
        coded.decode_row(
            &coded.codebooks,
            r,
            row.as_slice_mut().expect("rows of a new matrix are contiguous"),
        );
        row.zip_mut_with(&w.row(r), |u, &x| *u = x - coded.scales[r] * *u);
    }
    e
}

/// Sets each row's scale to the one that minimises its error, through `round` (the precision it is stored in).
pub fn fit_scales(w: ArrayView2<f32>, coded: &mut Coded, h: ArrayView2<f32>, round: fn(f32) -> f32) {
    let scales: Vec<Vec<f32>> = tasks(w.nrows())
        .into_par_iter()
        .map(|range| {
            let mut u = Array2::zeros((range.len(), w.ncols()));
            for (i, r) in range.clone().enumerate() {
                coded.decode_row(&coded.codebooks, r, u.row_mut(i).as_slice_mut().expect("contiguous"));
            }
            let uh = u.dot(&h);
            range
                .enumerate()
                .map(|(i, r)| {
                    let (along, square) = (uh.row(i).dot(&w.row(r)), uh.row(i).dot(&u.row(i)));
                    if square > 0.0 && along > 0.0 { round(along / square) } else { coded.scales[r] }
                })
                .collect()
        })
        .collect();
    coded.scales = scales.concat();
}

/// Moves the codewords towards the least-squares solution for the given codes and scales, by at most `steps` steps of
/// preconditioned conjugate gradients on `Σ_r weight[r] · e_r H e_rᵀ`. Starts from the present codewords, so the loss
/// does not grow.
pub fn fit_codebooks(
    w: ArrayView2<f32>,
    coded: &mut Coded,
    h: ArrayView2<f32>,
    weights: &[f32],
    steps: usize,
) {
    let mut residual: Vec<f64> = gather(coded, h, weights, |range| errors(w, coded, range));
    let diagonal = curvature(coded, h, weights);
    let condition = |v: &[f64]| -> Vec<f64> {
        v.iter().zip(&diagonal).map(|(x, d)| if *d > 0.0 { x / d } else { 0.0 }).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();

    let mut z = condition(&residual);
    let mut direction = z.clone();
    let mut rz = dot(&residual, &z);
    let start = rz;
    let mut words: Vec<f64> = coded.codebooks.words.iter().map(|&x| f64::from(x)).collect();
    let mut step = Codebooks { words: Vec::new(), ..coded.codebooks };
    for _ in 0..steps {
        if rz <= 1e-10 * start || rz <= 0.0 {
            break;
        }
        step.words = direction.iter().map(|&x| x as f32).collect();
        let image = gather(coded, h, weights, |range| {
            let mut u = Array2::zeros((range.len(), w.ncols()));
            for (i, r) in range.enumerate() {
                let mut row = u.row_mut(i);
                coded.decode_row(&step, r, row.as_slice_mut().expect("contiguous"));
                row *= coded.scales[r];
            }
            u
        });
        let curve = dot(&direction, &image);
        if curve <= 0.0 {
            break;
        }
        let alpha = rz / curve;
        for i in 0..words.len() {
            words[i] += alpha * direction[i];
            residual[i] -= alpha * image[i];
        }
        z = condition(&residual);
        let next = dot(&residual, &z);
        let beta = next / rz;
        rz = next;
        for (d, z) in direction.iter_mut().zip(&z) {
            *d = z + beta * *d;
        }
    }
    for (to, from) in coded.codebooks.words.iter_mut().zip(&words) {
        *to = *from as f32;
    }
}

/// `Σ_r weight[r] scale[r] (x_r H)` summed into the codewords that the codes name, `[M][16][d]`, for rows `x` given by
/// ranges.
fn gather(
    coded: &Coded,
    h: ArrayView2<f32>,
    weights: &[f32],
    rows: impl Fn(std::ops::Range<usize>) -> Array2<f32> + Sync,
) -> Vec<f64> {
    let (books, dim) = (coded.codebooks.books, coded.codebooks.dim);
    let parts: Vec<Vec<f32>> = tasks(coded.scales.len())
        .into_par_iter()
        .map(|range| {
            let xh = rows(range.clone()).dot(&h);
            let mut sum = vec![0.0f32; books * ENTRIES * dim];
            for (i, r) in range.enumerate() {
                let factor = weights[r] * coded.scales[r];
                let row = xh.slice(s![i, ..]);
                let row = row.as_slice().expect("contiguous");
                for (codes, x) in coded.row(r).chunks_exact(books).zip(row.chunks_exact(dim)) {
                    for (book, &code) in codes.iter().enumerate() {
                        let at = (book * ENTRIES + usize::from(code)) * dim;
                        for (o, x) in sum[at..at + dim].iter_mut().zip(x) {
                            *o += factor * x;
                        }
                    }
                }
            }
            sum
        })
        .collect();
    let mut total = vec![0.0f64; books * ENTRIES * dim];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += f64::from(p);
        }
    }
    total
}

/// Diagonal of the normal equations of the codewords, `[M][16][d]`.
fn curvature(coded: &Coded, h: ArrayView2<f32>, weights: &[f32]) -> Vec<f64> {
    let (books, dim) = (coded.codebooks.books, coded.codebooks.dim);
    let diagonal = h.diag();
    let mut sum = vec![0.0f64; books * ENTRIES * dim];
    for (r, &scale) in coded.scales.iter().enumerate() {
        let factor = f64::from(weights[r] * scale * scale);
        for (g, codes) in coded.row(r).chunks_exact(books).enumerate() {
            for (book, &code) in codes.iter().enumerate() {
                let at = (book * ENTRIES + usize::from(code)) * dim;
                for j in 0..dim {
                    sum[at + j] += factor * f64::from(diagonal[g * dim + j]);
                }
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quantize::testing::{correlated_hessian, gaussian};

    /// Random codes, codebooks and scales for `rows` rows of `groups` vectors of 4 weights.
    fn example(rows: usize, groups: usize, books: usize, seed: u64) -> Coded {
        let words = gaussian(books * ENTRIES, 4, seed).into_raw_vec_and_offset().0;
        let code = |v: &f32| (v.to_bits() >> 8 & 15) as u8;
        Coded {
            codebooks: Codebooks { books, dim: 4, words },
            codes: gaussian(rows, groups * books, seed + 1).iter().map(code).collect(),
            scales: gaussian(rows, 1, seed + 2).iter().map(|x| x.abs() + 0.1).collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn least_squares_never_increases_the_error(
            rows in 1usize..40, groups in 1usize..5, books in 1usize..4, steps in 1usize..20, seed in 0u64..1000,
        ) {
            let w = gaussian(rows, groups * 4, seed + 10);
            let h = correlated_hessian(groups * 4, seed + 11);
            let weights: Vec<f32> = (0..rows).map(|r| 0.5 + (r % 3) as f32).collect();
            let mut coded = example(rows, groups, books, seed);
            let before = loss(w.view(), &coded, h.view(), &weights);
            fit_codebooks(w.view(), &mut coded, h.view(), &weights, steps);
            let fitted = loss(w.view(), &coded, h.view(), &weights);
            // What is left of an exact fit is rounding.
            prop_assert!(fitted <= before * (1.0 + 1e-4) + 1e-6, "{before} {fitted}");
            fit_scales(w.view(), &mut coded, h.view(), |x| x);
            let scaled = loss(w.view(), &coded, h.view(), &weights);
            prop_assert!(scaled <= fitted * (1.0 + 1e-4) + 1e-6, "{fitted} {scaled}");
        }
    }

    #[test]
    fn exact_codebooks_are_found() {
        let truth = example(200, 4, 1, 5);
        let w = truth.decode(16);
        let mut coded = Coded { codebooks: Codebooks::zeros(1, 4), ..truth.clone() };
        let weights = vec![1.0; 200];
        fit_codebooks(w.view(), &mut coded, correlated_hessian(16, 3).view(), &weights, 400);
        for (found, wanted) in coded.codebooks.words.iter().zip(&truth.codebooks.words) {
            assert!((found - wanted).abs() < 0.05, "{found} {wanted}");
        }
    }
}
