//! The forward pass of decoders on candle tensors, for gradients.
//!
//! It computes what `novaq_engine::model::Model` computes on dense weights; a test holds the two together.
//! Sequences of different lengths go through the linear layers as one batch of positions.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Device, Layout, Result, Shape, Tensor};
use novaq_engine::model::{Activation, Config, Rope, RopeScaling, Variant};
use rayon::prelude::*;

use super::student::{first_factor, second_factor};

/// A model's tensors by their names in the checkpoint.
pub(super) type Weights = BTreeMap<String, Tensor>;

/// What a pass computes.
pub(super) struct Outputs {
    /// The residual stream after each layer, `[positions, hidden_size]`.
    pub(super) hidden: Vec<Tensor>,
    /// `[positions, vocab_size]`.
    pub(super) logits: Tensor,
}

/// The hyper-parameters, with tables of the rotary embeddings.
pub(super) struct Forward<'a> {
    config: &'a Config,
    angles: Angles,
    /// Those of layers whose attention slides, where they have their own.
    local_angles: Option<Angles>,
}

/// Cosines and sines of the rotary embedding, `[max_positions, head_dim / 2]`.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Angles {
    fn new(rope: &Rope, max_positions: usize, device: &Device) -> Result<Self> {
        let frequencies = rope.inverse_frequencies();
        let angles = (0..max_positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let tensor = |values| Tensor::from_vec(values, (max_positions, frequencies.len()), device);
        Ok(Self { cos: tensor(cos)?, sin: tensor(sin)? })
    }

    /// Rotates `x [heads, t, d]`.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (_, t, d) = x.dims3()?;
        let (cos, sin) = (self.cos.narrow(0, 0, t)?, self.sin.narrow(0, 0, t)?);
        let (a, b) = (x.narrow(D::Minus1, 0, d / 2)?, x.narrow(D::Minus1, d / 2, d / 2)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], D::Minus1)
    }
}

impl<'a> Forward<'a> {
    /// Passes over sequences of at most `max_positions` tokens.
    pub(super) fn new(config: &'a Config, max_positions: usize, device: &Device) -> Result<Self> {
        let rope = |theta, scaling: &RopeScaling| {
            Angles::new(&Rope::new(config.head_dim, theta, scaling), max_positions, device)
        };
        let local = config.variant.rope_local_base_freq;
        Ok(Self {
            config,
            angles: rope(config.rope_theta, &config.rope_scaling)?,
            local_angles: local.map(|base| rope(base, &RopeScaling::Default)).transpose()?,
        })
    }

    /// Runs `sequences` through the model.
    pub(super) fn model(&self, weights: &Weights, sequences: &[&[u32]]) -> Result<Outputs> {
        const EMBEDDING: &str = "model.embed_tokens.weight";
        const HEAD: &str = "lm_head.weight";
        let tokens: Vec<u32> = sequences.concat();
        let lengths: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
        let tokens = Tensor::from_vec(tokens, lengths.iter().sum::<usize>(), self.angles.cos.device())?;
        let mut x = if let Some(embedding) = weights.get(EMBEDDING) {
            embedding.index_select(&tokens, 0)?
        } else {
            let rows = tensor(weights, &second_factor(EMBEDDING))?.index_select(&tokens, 0)?;
            rows.matmul(tensor(weights, &first_factor(EMBEDDING))?)?
        };
        if self.config.variant.scale_embeddings {
            x = (x * f64::from((self.config.hidden_size as f32).sqrt()))?;
        }
        let mut hidden = Vec::new();
        for layer in 0..self.config.num_hidden_layers {
            x = self.layer(weights, &format!("model.layers.{layer}."), layer, &x, &lengths)?;
            hidden.push(x.clone());
        }
        let normed = self.rms_norm(&x, tensor(weights, "model.norm.weight")?)?;
        let head = if self.config.tie_word_embeddings { EMBEDDING } else { HEAD };
        let logits = product(weights, head, &normed)?;
        Ok(Outputs { hidden, logits })
    }

    /// Decoder layer `layer` on `x [positions, hidden_size]`; its tensors' names begin with `prefix`.
    pub(super) fn layer(
        &self,
        weights: &Weights,
        prefix: &str,
        layer: usize,
        x: &Tensor,
        lengths: &[usize],
    ) -> Result<Tensor> {
        let Variant { post_norms, hidden_act, .. } = self.config.variant;
        let get = |name: &str| tensor(weights, &format!("{prefix}{name}"));
        let linear = |name: &str, x: &Tensor| -> Result<Tensor> {
            let y = product(weights, &format!("{prefix}{name}.weight"), x)?;
            match weights.get(&format!("{prefix}{name}.bias")) {
                Some(bias) => y.broadcast_add(bias),
                None => Ok(y),
            }
        };
        let norm = |name: &str, x: &Tensor| self.rms_norm(x, get(&format!("{name}.weight"))?);
        let normed = norm("input_layernorm", x)?;
        let q = linear("self_attn.q_proj", &normed)?;
        let k = linear("self_attn.k_proj", &normed)?;
        let v = linear("self_attn.v_proj", &normed)?;
        let head_norms = if self.config.variant.qk_norm {
            Some([get("self_attn.q_norm.weight")?, get("self_attn.k_norm.weight")?])
        } else {
            None
        };
        let mut attended = Vec::new();
        let mut start = 0;
        for &length in lengths {
            let part = |t: &Tensor| t.narrow(0, start, length);
            attended.push(self.attention(layer, &part(&q)?, &part(&k)?, &part(&v)?, head_norms)?);
            start += length;
        }
        let mut added = linear("self_attn.o_proj", &Tensor::cat(&attended, 0)?)?;
        // Llama names the norm before the feed-forward layers by what it comes after; Gemma has both.
        let before = if post_norms {
            added = norm("post_attention_layernorm", &added)?;
            "pre_feedforward_layernorm"
        } else {
            "post_attention_layernorm"
        };
        let x = (x + added)?;
        let normed = norm(before, &x)?;
        let gate = linear("mlp.gate_proj", &normed)?;
        let gate = match hidden_act {
            Activation::Silu => gate.silu()?,
            // Candle's own is the approximation with tanh.
            Activation::GeluPytorchTanh => gate.gelu()?,
        };
        let mut added = linear("mlp.down_proj", &(gate * linear("mlp.up_proj", &normed)?)?)?;
        if post_norms {
            added = norm("post_feedforward_layernorm", &added)?;
        }
        x + added
    }

    /// Causal attention of one sequence: `q [t, heads · d]`, `k` and `v [t, key heads · d]` to `[t, heads · d]`.
    fn attention(
        &self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        head_norms: Option<[&Tensor; 2]>,
    ) -> Result<Tensor> {
        let Config { num_attention_heads: heads, num_key_value_heads: key_heads, head_dim: d, .. } =
            *self.config;
        let t = q.dim(0)?;
        let window = self.config.window(layer);
        let angles = self.local_angles.as_ref().filter(|_| window.is_some()).unwrap_or(&self.angles);
        let (mut q, mut k) = (q.reshape((t, heads, d))?, k.reshape((t, key_heads, d))?);
        if let Some([of_q, of_k]) = head_norms {
            (q, k) = (self.rms_norm(&q, of_q)?, self.rms_norm(&k, of_k)?);
        }
        let q = angles.rotate(&q.transpose(0, 1)?)?;
        let k = angles.rotate(&k.transpose(0, 1)?)?;
        let v = v.reshape((t, key_heads, d))?.transpose(0, 1)?.contiguous()?;
        // The query heads of a key head stand one below the other.
        let q = q.reshape((key_heads, heads / key_heads * t, d))?;
        let width = self.config.variant.query_pre_attn_scalar.unwrap_or(d as f64);
        let scores = (q.matmul(&k.transpose(1, 2)?)? * (1.0 / width.sqrt()))?;
        let attended = causal_softmax(&scores, window.unwrap_or(t))?.matmul(&v)?;
        attended.reshape((heads, t, d))?.transpose(0, 1)?.reshape((t, heads * d))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let factor = (mean_square + self.config.rms_norm_eps)?.sqrt()?.recip()?;
        x.broadcast_mul(&factor)?.broadcast_mul(weight)
    }
}

/// `x Wᵀ` for the matrix `name`, whole or as the product of its factors.
fn product(weights: &Weights, name: &str, x: &Tensor) -> Result<Tensor> {
    if let Some(whole) = weights.get(name) {
        return x.matmul(&whole.t()?);
    }
    let between = x.matmul(&tensor(weights, &first_factor(name))?.t()?)?;
    between.matmul(&tensor(weights, &second_factor(name))?.t()?)
}

fn tensor<'w>(weights: &'w Weights, name: &str) -> Result<&'w Tensor> {
    weights.get(name).ok_or_else(|| candle_core::Error::Msg(format!("tensor `{name}` is missing")))
}

/// Softmax over the last `window` of the first `i % t + 1` elements of row `i` of `scores [heads, rows, t]`; the others
/// become 0.
fn causal_softmax(scores: &Tensor, window: usize) -> Result<Tensor> {
    if scores.device().is_cpu() {
        scores.contiguous()?.apply_op1(CausalSoftmax { window })
    } else {
        masked_softmax(scores, window)
    }
}

/// The same in candle's own operations: on other devices, and for the test of the faster one.
fn masked_softmax(scores: &Tensor, window: usize) -> Result<Tensor> {
    let (_, rows, t) = scores.dims3()?;
    let seen = |i: usize| (i / t % t).checked_sub(i % t).is_some_and(|back| back < window);
    let mask: Vec<f32> = (0..rows * t).map(|i| if seen(i) { 0.0 } else { f32::NEG_INFINITY }).collect();
    let masked = scores.broadcast_add(&Tensor::from_vec(mask, (rows, t), scores.device())?)?;
    let exponentials = masked.broadcast_sub(&masked.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)
}

struct CausalSoftmax {
    window: usize,
}

fn floats<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(candle_core::Error::Msg("the tensor is not contiguous".to_owned())),
    }
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let mut out = floats(storage, layout)?.to_vec();
        out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            let (seen, later) = out.split_at_mut(row % width + 1);
            let (earlier, seen) = seen.split_at_mut(seen.len().saturating_sub(self.window));
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
    use candle_core::Var;

    /// The faster softmax and its gradient are those of candle's operations.
    #[test]
    fn both_softmaxes_agree() {
        let scores = Var::from_tensor(&Tensor::randn(0f32, 2.0, (2, 15, 5), &Device::Cpu).unwrap()).unwrap();
        let other = Tensor::randn(0f32, 1.0, (2, 15, 5), &Device::Cpu).unwrap();
        for (window, unseen) in [(5, 10), (2, 16), (1, 20)] {
            let [a, b] = [causal_softmax, masked_softmax].map(|softmax| {
                let p = softmax(&scores, window).unwrap();
                let gradients = (&p * &other).unwrap().sum_all().unwrap().backward().unwrap();
                let floats = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                [floats(&p), floats(gradients.get(&scores).unwrap())]
            });
            for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
            assert_eq!(a[0].iter().filter(|p| **p == 0.0).count(), 2 * 3 * unseen, "{window}");
        }
    }
}
