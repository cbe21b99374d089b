//! Second moments of a layer's inputs, and their block decomposition for error feedback.

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

/// Parts that a sum over positions is cut into; fixed, so that it does not depend on the number of threads.
const PARTS: usize = 8;

/// `E[aᵀ b]` over positions, `[p, q]` for `a [positions, p]` and `b [positions, q]`: with `a = b` the second moments of
/// a layer's inputs, the Hessian of its squared output error.
pub fn mean_product(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Array2<f32> {
    let positions = a.nrows().max(1);
    let length = positions.div_ceil(PARTS);
    let parts: Vec<Array2<f32>> = a
        .axis_chunks_iter(Axis(0), length)
        .into_par_iter()
        .zip(b.axis_chunks_iter(Axis(0), length).into_par_iter())
        .map(|(a, b)| a.t().dot(&b))
        .collect();
    let mut sum = Array2::zeros((a.ncols(), b.ncols()));
    for part in parts {
        sum += &part;
    }
    sum / positions as f32
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

/// Weights that make the quantized model's inputs give the original's outputs: the minimiser of
/// `E|W x - T x' + r|²` over `T`, with the original's inputs `x`, the quantized model's `x'`, and `r` what the
/// residual stream lacks already where the layer's output is added to it. Errors of earlier layers are made up for
/// as far as a linear layer can.
///
/// `h` is `E[x' x'ᵀ]`, damped; `difference` is `E[(x - x') x'ᵀ]`, both `[k, k]`; `residual` is `E[r x'ᵀ] [n, k]`.
///
/// # Errors
/// When `h` is not positive definite.
pub fn corrected(
    w: ArrayView2<f32>,
    h: ArrayView2<f32>,
    difference: ArrayView2<f32>,
    residual: Option<ArrayView2<f32>>,
) -> Result<Array2<f32>, NotPositiveDefinite> {
    let mut missing = w.dot(&difference);
    if let Some(residual) = residual {
        missing += &residual;
    }
    let lower = cholesky(h.mapv(f64::from)).map_err(|column| NotPositiveDefinite { column })?;
    let upper = lower.t().as_standard_layout().into_owned();
    let k = h.nrows();
    missing.axis_iter_mut(Axis(0)).into_par_iter().for_each(|mut row| {
        // Each row of the correction solves `t H = missing`, by the two triangular factors.
        let mut t: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        for i in 0..k {
            let factor = lower.row(i);
            let factor = factor.as_slice().unwrap_or_default();
            t[i] = (t[i] - dot(&factor[..i], &t[..i])) / factor[i];
        }
        for i in (0..k).rev() {
            let factor = upper.row(i);
            let factor = factor.as_slice().unwrap_or_default();
            t[i] = (t[i] - dot(&factor[i + 1..], &t[i + 1..])) / factor[i];
        }
        row.iter_mut().zip(&t).for_each(|(to, from)| *to = *from as f32);
    });
    Ok(missing + w)
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
#[error(
    "the calibration Hessian is not positive definite at column {column}: the inputs hold infinite or undefined values"
)]
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
        let weight: Vec<f32> = (0..groups).map(|g| h.diag().slice(s![g * d..(g + 1) * d]).sum()).collect();
        let mut order: Vec<usize> = (0..groups).collect();
        order.sort_by(|&a, &b| weight[b].total_cmp(&weight[a]).then(a.cmp(&b)));

        // With the columns reversed, the lower Cholesky factor is the upper one that this order needs: H = U Uᵀ.
        let column = |i: usize| order[i / d] * d + i % d;
        let reversed =
            Array2::from_shape_fn((k, k), |(a, b)| f64::from(h[[column(k - 1 - a), column(k - 1 - b)]]));
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
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { dot_avx2(a, b) };
    }
    dot_portable(a, b)
}

/// [`dot_portable`], compiled for registers of 256 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(a: &[f64], b: &[f64]) -> f64 {
    dot_portable(a, b)
}

#[allow(clippy::inline_always, reason = "it is compiled anew for wider registers by inlining it")]
#[inline(always)]
fn dot_portable(a: &[f64], b: &[f64]) -> f64 {
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
    use crate::quantize::testing::gaussian;

    /// A correlated positive definite matrix.
    fn example(k: usize) -> Array2<f32> {
        let x = Array2::from_shape_fn((3 * k, k), |(i, j)| {
            let v = ((i * 31 + j * 17 + i * j) % 23) as f32 - 11.0;
            v / 7.0 + if j > 0 { ((i * 13) % 7) as f32 } else { 0.0 }
        });
        damped(mean_product(x.view(), x.view()), 0.01)
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
    fn corrected_weights_give_the_original_outputs() {
        // The quantized model's inputs are an invertible map of the original's, so nothing need be lost.
        let x = gaussian(400, 12, 1);
        let map = Array2::<f32>::eye(12) + 0.1 * gaussian(12, 12, 2);
        let y = x.dot(&map);
        let w = gaussian(5, 12, 3);
        let h = damped(mean_product(y.view(), y.view()), 1e-6);
        let difference = mean_product((&x - &y).view(), y.view());
        let target = corrected(w.view(), h.view(), difference.view(), None).unwrap();
        let outputs = x.dot(&w.t());
        let missing = &outputs - &y.dot(&target.t());
        assert!(missing.iter().all(|e| e.abs() < 1e-2));
        // A part of the residual stream that the inputs explain is added.
        let residual = y.dot(&w.t()) * 0.5;
        let residual = mean_product(residual.view(), y.view());
        let zero = Array2::zeros((12, 12));
        let target = corrected(w.view(), h.view(), zero.view(), Some(residual.view())).unwrap();
        assert!((&target - &(&w * 1.5)).iter().all(|e| e.abs() < 1e-2));
    }

    #[test]
    fn wider_registers_change_nothing() {
        let values = gaussian(2, 77, 4).mapv(f64::from);
        let (a, b) = (values.row(0).to_vec(), values.row(1).to_vec());
        for length in 0..=77 {
            let (a, b) = (&a[..length], &b[..length]);
            assert_eq!(dot(a, b).to_bits(), dot_portable(a, b).to_bits());
        }
    }

    #[test]
    fn undefined_inputs_are_reported() {
        let mut h = Array2::<f32>::eye(8);
        h[[3, 3]] = f32::NAN;
        assert!(BlockFactors::new(h.view(), 4).is_err());
    }
}
