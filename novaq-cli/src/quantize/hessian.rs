//! Second moments of a layer's inputs, and their block decomposition for error feedback.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

/// Positions that one product `xᵀ x` covers; fixed, so that the sum does not depend on how the inputs arrive.
const POSITIONS_PER_BLOCK: usize = 256;

/// Sum of `x xᵀ` over the inputs of a linear layer, `[k, k]`.
#[derive(Clone, Debug)]
pub struct Moments {
    sum: Array2<f32>,
    positions: usize,
}

impl Moments {
    /// No inputs yet, for a layer of `width` inputs.
    pub fn new(width: usize) -> Self {
        Self { sum: Array2::zeros((width, width)), positions: 0 }
    }

    /// Adds the inputs `x [positions, k]`.
    pub fn add(&mut self, x: ArrayView2<f32>) {
        self.add_product(x, x);
    }

    /// Adds `aᵀ b` for two sets of inputs of the same positions, both `[positions, k]`.
    pub fn add_product(&mut self, a: ArrayView2<f32>, b: ArrayView2<f32>) {
        for (a, b) in
            a.axis_chunks_iter(Axis(0), POSITIONS_PER_BLOCK).zip(b.axis_chunks_iter(Axis(0), POSITIONS_PER_BLOCK))
        {
            let product = |mut band: ArrayViewMut2<f32>, a: ArrayView2<f32>| {
                ndarray::linalg::general_mat_mul(1.0, &a.t(), &b, 1.0, &mut band);
            };
            self.sum
                .axis_chunks_iter_mut(Axis(0), 64)
                .into_par_iter()
                .zip(a.axis_chunks_iter(Axis(1), 64).into_par_iter())
                .for_each(|(band, a)| product(band, a));
        }
        self.positions += a.nrows();
    }

    /// Number of positions added so far.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The mean of `x xᵀ`; zeros when nothing was added.
    pub fn mean(&self) -> Array2<f32> {
        &self.sum / self.positions.max(1) as f32
    }
}

/// `h` with `share` of its mean diagonal added to the diagonal: makes it positive definite and keeps the codes from
/// leaning on directions that the calibration text hardly showed. A matrix of zeros becomes the identity.
pub fn damped(mut h: Array2<f32>, share: f32) -> Array2<f32> {
    let k = h.nrows().max(1);
    let mean = h.diag().sum() / k as f32;
    let add = if mean > 0.0 { share * mean } else { 1.0 };
    h.diag_mut().mapv_inplace(|x| x + add);
    h
}

/// `H = Mᵀ D M` over column groups of width `d` taken in some order, with `M` unit lower block triangular and `D`
/// block diagonal. Then `e H eᵀ = Σ_i |e_i + Σ_{j<i} e_j A_ij|²` in the metrics `D_i`: group `i` sees the errors of
/// the groups before it as a shift of its target.
#[derive(Debug)]
pub struct BlockFactors {
    /// The groups in the order in which they are quantized.
    pub order: Vec<usize>,
    /// For the `i`-th group in that order, what it takes over from the groups before it: `[i * d, d]`, rows in order.
    pub shift: Vec<Array2<f32>>,
    /// For the `i`-th group in that order, its metric `[d, d]`.
    pub metric: Vec<Array2<f32>>,
}

/// A Hessian that has no Cholesky factor.
#[derive(Debug, thiserror::Error)]
#[error("the calibration Hessian is not positive definite at column {column}: the inputs hold infinite or undefined values")]
pub struct NotPositiveDefinite {
    /// The column at which the factorisation stopped.
    pub column: usize,
}

impl BlockFactors {
    /// Factors `h [k, k]` for groups of `d` columns, those with the largest diagonal first.
    ///
    /// # Errors
    /// When `h` is not positive definite.
    pub fn new(h: ArrayView2<f32>, d: usize) -> Result<Self, NotPositiveDefinite> {
        let k = h.nrows();
        let groups = k / d;
        let weight: Vec<f32> =
            (0..groups).map(|g| h.diag().slice(s![g * d..(g + 1) * d]).sum()).collect();
        let mut order: Vec<usize> = (0..groups).collect();
        order.sort_by(|&a, &b| weight[b].total_cmp(&weight[a]).then(a.cmp(&b)));

        // With the columns reversed, the lower Cholesky factor is the upper one that this order needs: H = U Uᵀ.
        let column = |i: usize| order[i / d] * d + i % d;
        let reversed = Array2::from_shape_fn((k, k), |(a, b)| {
            f64::from(h[[column(k - 1 - a), column(k - 1 - b)]])
        });
        let lower = cholesky(reversed).map_err(|at| NotPositiveDefinite { column: column(k - 1 - at) })?;
        let upper = |a: usize, b: usize| lower[[k - 1 - a, k - 1 - b]];

        let (shift, metric) = (0..groups)
            .into_par_iter()
            .map(|i| {
                let at = i * d;
                let metric = Array2::from_shape_fn((d, d), |(a, b)| {
                    (a.max(b)..d).map(|c| upper(at + a, at + c) * upper(at + b, at + c)).sum::<f64>() as f32
                });
                // Row x of the block column times the inverse of the triangular diagonal block.
                let mut shift = Array2::zeros((at, d));
                for row in 0..at {
                    let mut solved = vec![0.0f64; d];
                    for c in 0..d {
                        let known: f64 = (0..c).map(|b| solved[b] * upper(at + b, at + c)).sum();
                        solved[c] = (upper(row, at + c) - known) / upper(at + c, at + c);
                        shift[[row, c]] = solved[c] as f32;
                    }
                }
                (shift, metric)
            })
            .unzip();
        Ok(Self { order, shift, metric })
    }
}

/// Lower Cholesky factor, rows filled from the top; on failure the column that stopped it.
fn cholesky(mut a: Array2<f64>) -> Result<Array2<f64>, usize> {
    let n = a.nrows();
    for j in 0..n {
        let (above, mut below) = a.view_mut().split_at(Axis(0), j);
        let row = below.row(0).to_owned();
        // Forward substitution for row j against the finished rows.
        let mut new = row.to_vec();
        for i in 0..j {
            let known = above.row(i);
            let dot = dot(&new[..i], &known.as_slice().unwrap_or_default()[..i]);
            new[i] = (new[i] - dot) / known[i];
        }
        let pivot = new[j] - dot(&new[..j], &new[..j]);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(j);
        }
        new[j] = pivot.sqrt();
        new[j + 1..].fill(0.0);
        below.row_mut(0).assign(&ndarray::ArrayView1::from(&new));
    }
    Ok(a)
}

/// Dot product over eight partial sums, in an order that does not depend on the machine.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (blocks_a, rest_a) = a.as_chunks::<8>();
    let (blocks_b, rest_b) = b.as_chunks::<8>();
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + rest_a.iter().zip(rest_b).map(|(x, y)| x * y).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A correlated positive definite matrix.
    fn example(k: usize) -> Array2<f32> {
        let x = Array2::from_shape_fn((3 * k, k), |(i, j)| {
            let v = ((i * 31 + j * 17 + i * j) % 23) as f32 - 11.0;
            v / 7.0 + if j > 0 { ((i * 13) % 7) as f32 } else { 0.0 }
        });
        let mut moments = Moments::new(k);
        moments.add(x.view());
        damped(moments.mean(), 0.01)
    }

    #[test]
    fn factors_multiply_back_to_the_hessian() {
        let (k, d) = (24, 4);
        let h = example(k);
        let factors = BlockFactors::new(h.view(), d).unwrap();
        // M D Mᵀ in the order of the factors, rebuilt block by block.
        let mut unit = Array2::<f32>::eye(k);
        let mut middle = Array2::<f32>::zeros((k, k));
        for i in 0..k / d {
            let range = i * d..(i + 1) * d;
            unit.slice_mut(s![..i * d, range.clone()]).assign(&factors.shift[i]);
            middle.slice_mut(s![range.clone(), range]).assign(&factors.metric[i]);
        }
        let product = unit.dot(&middle).dot(&unit.t());
        let column = |i: usize| factors.order[i / d] * d + i % d;
        for a in 0..k {
            for b in 0..k {
                let want = h[[column(a), column(b)]];
                assert!((product[[a, b]] - want).abs() < 1e-3 * (1.0 + want.abs()), "{a} {b}");
            }
        }
    }

    #[test]
    fn undefined_inputs_are_reported() {
        let mut h = Array2::<f32>::eye(8);
        h[[3, 3]] = f32::NAN;
        assert!(BlockFactors::new(h.view(), 4).is_err());
    }
}
