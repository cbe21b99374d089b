//! What forward passes of all architectures are made of, on candle tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::student::{first_factor, second_factor};

/// A model's tensors by their names in the checkpoint.
pub(super) type Weights = BTreeMap<String, Tensor>;

/// `x Wᵀ + b` for the matrix `name.weight` and the bias `name.bias`, if there is one.
pub(super) fn linear(weights: &Weights, name: &str, x: &Tensor) -> Result<Tensor> {
    let y = product(weights, &format!("{name}.weight"), x)?;
    match weights.get(&format!("{name}.bias")) {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// The rows of the matrix `name`, whole or the product of its factors, that `tokens` name.
pub(super) fn rows(weights: &Weights, name: &str, tokens: &Tensor) -> Result<Tensor> {
    if let Some(whole) = weights.get(name) {
        return whole.index_select(tokens, 0);
    }
    let rows = tensor(weights, &second_factor(name))?.index_select(tokens, 0)?;
    rows.matmul(tensor(weights, &first_factor(name))?)
}

/// The cosines of the angles between the rows of `a` and `b`, both `[n, width]`: `[n]`.
pub(super) fn cosines(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let product = (a * b)?.sum(D::Minus1)?;
    let norms = (a.sqr()?.sum(D::Minus1)? * b.sqr()?.sum(D::Minus1)?)?;
    product.div(&(norms + f64::from(f32::MIN_POSITIVE))?.sqrt()?)
}

/// What `part` makes of the rows of each sequence of `x`, one below the other; the sequences have `lengths` rows.
pub(super) fn each_sequence(
    lengths: &[usize],
    mut part: impl FnMut(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut start = 0;
    let parts = lengths.iter().map(|&length| {
        start += length;
        part(start - length, length)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}

/// `x Wᵀ` for the matrix `name`, whole or as the product of its factors.
pub(super) fn product(weights: &Weights, name: &str, x: &Tensor) -> Result<Tensor> {
    if let Some(whole) = weights.get(name) {
        return x.matmul(&whole.t()?);
    }
    let between = x.matmul(&tensor(weights, &first_factor(name))?.t()?)?;
    between.matmul(&tensor(weights, &second_factor(name))?.t()?)
}

pub(super) fn tensor<'w>(weights: &'w Weights, name: &str) -> Result<&'w Tensor> {
    weights.get(name).ok_or_else(|| candle_core::Error::Msg(format!("tensor `{name}` is missing")))
}

/// The positions that a query sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// All of them.
    All,
    /// The last so many up to its own.
    Last(usize),
}

impl Seen {
    /// Those of the query at `position`, of `count`.
    fn range(self, position: usize, count: usize) -> Range<usize> {
        match self {
            Self::All => 0..count,
            Self::Last(window) => (position + 1).saturating_sub(window)..position + 1,
        }
    }
}

/// Softmax over the elements of row `i` of `scores [heads, rows, t]` that a query at position `i % t` sees; the others
/// become 0.
pub(super) fn attention_softmax(scores: &Tensor, seen: Seen) -> Result<Tensor> {
    if scores.device().is_cpu() {
        scores.contiguous()?.apply_op1(Softmax { seen })
    } else {
        masked_softmax(scores, seen)
    }
}

/// The same in candle's own operations: on other devices, and for the test of the faster one.
fn masked_softmax(scores: &Tensor, seen: Seen) -> Result<Tensor> {
    let (_, rows, t) = scores.dims3()?;
    let is_seen = |i: usize| seen.range(i / t % t, t).contains(&(i % t));
    let mask: Vec<f32> = (0..rows * t).map(|i| if is_seen(i) { 0.0 } else { f32::NEG_INFINITY }).collect();
    let masked = scores.broadcast_add(&Tensor::from_vec(mask, (rows, t), scores.device())?)?;
    let exponentials = masked.broadcast_sub(&masked.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)
}

struct Softmax {
    seen: Seen,
}

fn floats<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(candle_core::Error::Msg("the tensor is not contiguous".to_owned())),
    }
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "attention-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let mut out = floats(storage, layout)?.to_vec();
        out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            let seen = self.seen.range(row % width, width);
            let (out, later) = out.split_at_mut(seen.end);
            let (earlier, seen) = out.split_at_mut(seen.start);
            let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for x in &mut *seen {
                *x = (*x - max).exp();
                sum += *x;
            }
            for x in seen {
                *x /= sum;
            }
            earlier.fill(0.0);
            later.fill(0.0);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(result.apply_op2_no_bwd(&gradient.contiguous()?, &SoftmaxGradient)?))
    }
}

/// `p · (g - Σ p g)` by row.
struct SoftmaxGradient;

impl CustomOp2 for SoftmaxGradient {
    fn name(&self) -> &'static str {
        "softmax-gradient"
    }

    fn cpu_fwd(
        &self,
        probabilities: &CpuStorage,
        layout: &Layout,
        gradients: &CpuStorage,
        gradients_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let p = floats(probabilities, layout)?;
        let mut out = floats(gradients, gradients_layout)?.to_vec();
        out.par_chunks_mut(width).zip(p.par_chunks(width)).for_each(|(g, p)| {
            let dot: f32 = p.iter().zip(&*g).map(|(p, g)| p * g).sum();
            g.iter_mut().zip(p).for_each(|(g, p)| *g = p * (*g - dot));
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// The faster softmax and its gradient are those of candle's operations.
    #[test]
    fn both_softmaxes_agree() {
        let scores = Var::from_tensor(&Tensor::randn(0f32, 2.0, (2, 15, 5), &Device::Cpu).unwrap()).unwrap();
        let other = Tensor::randn(0f32, 1.0, (2, 15, 5), &Device::Cpu).unwrap();
        for (seen, unseen) in [(Seen::Last(5), 10), (Seen::Last(2), 16), (Seen::Last(1), 20), (Seen::All, 0)]
        {
            let [a, b] = [attention_softmax, masked_softmax].map(|softmax| {
                let p = softmax(&scores, seen).unwrap();
                let gradients = (&p * &other).unwrap().sum_all().unwrap().backward().unwrap();
                let floats = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                [floats(&p), floats(gradients.get(&scores).unwrap())]
            });
            for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
            assert_eq!(a[0].iter().filter(|p| **p == 0.0).count(), 2 * 3 * unseen, "{seen:?}");
        }
    }
}
