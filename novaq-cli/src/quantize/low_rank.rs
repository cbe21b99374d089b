//! Binary low-rank codes: a matrix as the product of two matrices of signs, each with row scales.
//!
//! The start is the best product of two real matrices of that rank in the metric of the inputs. A random rotation
//! between them spreads what its directions carry evenly, so that signs keep most of it; the size of each factor's
//! entries becomes a scale per row and column (the dual decomposition of `LittleBit`,
//! <https://arxiv.org/abs/2506.13771>), and those of the inner dimension become one. What signs lose is won back by
//! refinement ([`crate::refine`]); by themselves they are a start, not a result.

use half::f16;
use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array2, ArrayView2};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::additive::normal;
use super::hessian::NotPositiveDefinite;

/// A matrix of signs with a scale per row, `scale[r] · sign`.
#[derive(Clone, Debug, PartialEq)]
pub struct Signs {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Four signs each, `[rows][⌈columns / 4⌉]`: bit `i` is set where weight `i` is positive.
    pub codes: Vec<u8>,
    /// The scale of each row.
    pub scales: Vec<f16>,
}

/// A product of two matrices of signs.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// `[rank, k]`.
    pub first: Signs,
    /// `[n, rank]`.
    pub second: Signs,
    /// `tr (W - Ŵ) H (W - Ŵ)ᵀ / tr W H Wᵀ`.
    pub relative_error: f64,
}

impl Signs {
    /// The signs of `values`.
    fn of(values: &DMatrix<f64>, scales: &[f64]) -> Self {
        let (rows, columns) = values.shape();
        let nibble = |r: usize, g: usize| {
            (4 * g..(4 * g + 4).min(columns))
                .fold(0, |code, c| code | u8::from(values[(r, c)] >= 0.0) << (c % 4))
        };
        let groups = columns.div_ceil(4);
        Self {
            rows,
            columns,
            codes: (0..rows)
                .flat_map(|r| (0..groups).map(move |g| (r, g)))
                .map(|(r, g)| nibble(r, g))
                .collect(),
            scales: scales.iter().map(|&s| f16::from_f64(s)).collect(),
        }
    }

    fn decode(&self) -> DMatrix<f64> {
        let groups = self.columns.div_ceil(4);
        DMatrix::from_fn(self.rows, self.columns, |r, c| {
            let positive = self.codes[r * groups + c / 4] >> (c % 4) & 1 == 1;
            let scale = self.scales[r].to_f64();
            if positive { scale } else { -scale }
        })
    }
}

/// Second moments of inputs, decomposed: `H^½` and `H^-½`.
#[derive(Clone, Debug)]
pub struct Metric {
    root: DMatrix<f64>,
    inverse: DMatrix<f64>,
}

impl Metric {
    /// For inputs with the (damped) second moments `h [k, k]`.
    ///
    /// # Errors
    /// When `h` is not positive definite.
    pub fn new(h: ArrayView2<f32>) -> Result<Self, NotPositiveDefinite> {
        let k = h.nrows();
        // The search for eigenvalues would not end.
        if let Some(column) = h.columns().into_iter().position(|c| c.iter().any(|x| !x.is_finite())) {
            return Err(NotPositiveDefinite { column });
        }
        let eigen = SymmetricEigen::new(DMatrix::from_fn(k, k, |r, c| f64::from(h[[r, c]])));
        if let Some(column) = eigen.eigenvalues.iter().position(|&e| !(e > 0.0 && e.is_finite())) {
            return Err(NotPositiveDefinite { column });
        }
        let power = |exponent: f64| {
            let scaled = DMatrix::from_fn(k, k, |r, c| {
                eigen.eigenvectors[(r, c)] * eigen.eigenvalues[c].powf(exponent)
            });
            scaled * eigen.eigenvectors.transpose()
        };
        Ok(Self { root: power(0.5), inverse: power(-0.5) })
    }
}

/// Signs for `w [n, k]` with an inner dimension of `rank`, for inputs with the given metric.
pub fn quantize(w: ArrayView2<f32>, metric: &Metric, rank: usize, seed: u64) -> LowRank {
    let (n, k) = w.dim();
    let Metric { root, inverse } = metric;
    let w = DMatrix::from_fn(n, k, |r, c| f64::from(w[[r, c]]));
    // The directions that the outputs W H^½ depend on most, as columns.
    let outputs = &w * root;
    let eigen = SymmetricEigen::new(outputs.transpose() * &outputs);
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]).then(a.cmp(&b)));
    // Directions that hardly count would be noise, blown up.
    let largest = order.first().map_or(0.0, |&i| eigen.eigenvalues[i]);
    let least = (1e-9 * largest).max(f64::MIN_POSITIVE);
    let balance = |j: usize| order.get(j).map_or(1.0, |&i| eigen.eigenvalues[i].max(least).powf(0.25));
    let direction = |r: usize, j: usize| order.get(j).map_or(0.0, |&i| eigen.eigenvectors[(r, i)]);
    let directions = DMatrix::from_fn(k, rank, direction);
    let spread = rotation(rank, seed);
    let second = &outputs * DMatrix::from_fn(k, rank, |r, j| directions[(r, j)] / balance(j)) * &spread;
    let first = DMatrix::from_fn(k, rank, |r, j| directions[(r, j)] * balance(j)) * &spread;
    let first = first.transpose() * inverse;

    let (rows, inner) = magnitudes(&second);
    let mean = |j: usize| first.row(j).iter().map(|x| x.abs()).sum::<f64>() / k.max(1) as f64;
    let inner: Vec<f64> = inner.iter().enumerate().map(|(j, size)| size * mean(j)).collect();
    let first = Signs::of(&first, &inner);
    let mut low_rank = LowRank { first, second: Signs::of(&second, &rows), relative_error: 0.0 };
    // The output scales that minimise the error with the signs as they are.
    let ones = Signs { scales: vec![f16::ONE; n], ..low_rank.second.clone() };
    let product = ones.decode() * low_rank.first.decode() * root;
    for (r, scale) in low_rank.second.scales.iter_mut().enumerate() {
        let (along, square) = (product.row(r).dot(&outputs.row(r)), product.row(r).norm_squared());
        // Scales are positive: refinement moves their logarithms.
        if along > 0.0 {
            *scale = f16::from_f64(along / square);
        }
    }
    let error = low_rank.second.decode() * low_rank.first.decode() * root - &outputs;
    let whole = outputs.norm_squared();
    low_rank.relative_error = if whole > 0.0 { error.norm_squared() / whole } else { 0.0 };
    low_rank
}

/// A random orthogonal matrix `[rank, rank]`.
fn rotation(rank: usize, seed: u64) -> DMatrix<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    DMatrix::from_fn(rank, rank, |_, _| f64::from(normal(&mut rng))).qr().q()
}

/// Sizes `(p, q)` of rows and columns with `|m| ≈ p qᵀ`, by power iteration, which converges fast on positive numbers.
fn magnitudes(m: &DMatrix<f64>) -> (Vec<f64>, Vec<f64>) {
    let sizes = m.abs();
    let mut q = DMatrix::from_element(m.ncols(), 1, 1.0);
    let mut p = DMatrix::zeros(m.nrows(), 1);
    for _ in 0..8 {
        p = &sizes * &q / q.norm_squared().max(f64::MIN_POSITIVE);
        q = sizes.transpose() * &p / p.norm_squared().max(f64::MIN_POSITIVE);
    }
    (p.iter().copied().collect(), q.iter().copied().collect())
}

impl LowRank {
    /// The matrix `[n, k]` that the signs stand for.
    pub fn decode(&self) -> Array2<f32> {
        let product = self.second.decode() * self.first.decode();
        Array2::from_shape_fn(product.shape(), |at| product[at] as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::testing::{correlated_hessian, gaussian, output_error};

    /// The error falls with the rank, also beyond that of the matrix.
    #[test]
    fn more_rank_is_less_error() {
        let w = gaussian(40, 20, 1).dot(&gaussian(20, 48, 2));
        let h = Array2::eye(48);
        let whole = output_error(&w, &Array2::zeros(w.dim()), &h);
        let errors: Vec<f64> = [4, 12, 24, 60]
            .iter()
            .map(|&rank| {
                let quantized = quantize(w.view(), &Metric::new(h.view()).unwrap(), rank, 0);
                let relative = output_error(&w, &quantized.decode(), &h) / whole;
                assert!((relative - quantized.relative_error).abs() < 1e-3, "{relative} {quantized:?}");
                relative
            })
            .collect();
        assert!(errors.windows(2).all(|e| e[1] < e[0]), "{errors:?}");
        assert!(errors[3] < 0.5, "{errors:?}");
    }

    #[test]
    fn the_metric_counts() {
        let w = gaussian(40, 48, 4);
        let h = correlated_hessian(48, 5);
        let error = |metric: &Array2<f32>| {
            let metric = Metric::new(metric.view()).unwrap();
            output_error(&w, &quantize(w.view(), &metric, 16, 0).decode(), &h)
        };
        let (with, without) = (error(&h), error(&Array2::eye(48)));
        assert!(with < 0.9 * without, "{with} {without}");
    }

    #[test]
    fn undefined_inputs_are_reported() {
        let mut h = Array2::<f32>::eye(8);
        h[[3, 3]] = f32::NAN;
        assert!(Metric::new(h.view()).is_err());
    }

    #[test]
    fn zeros_stay_zero() {
        let metric = Metric::new(Array2::eye(8).view()).unwrap();
        let quantized = quantize(Array2::zeros((5, 8)).view(), &metric, 4, 0);
        assert!(quantized.decode().iter().all(|x| x.abs() < 1e-6));
        assert_eq!(quantized.relative_error, 0.0);
    }
}
