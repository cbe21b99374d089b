//! The forward pass of decoders on candle tensors, for gradients.
//!
//! It computes what `novaq_engine::model::Model` computes on dense weights; a test holds the two together.
//! Sequences of different lengths go through the linear layers as one batch of positions.

use candle_core::{D, Device, Result, Tensor};
use novaq_engine::model::{Activation, Config, Rope, RopeScaling, Variant};
use rayon::prelude::*;

use super::layers::{
    Seen, Weights, attention_softmax, cosines, each_sequence, linear, product, rows, tensor,
};
use super::student::Loss;
use super::{COSINE, Network};

/// What a pass computes.
pub(super) struct Outputs {
    /// The residual stream after each layer, `[positions, hidden_size]`.
    pub(super) hidden: Vec<Tensor>,
    /// `[positions, vocab_size]`.
    pub(super) logits: Tensor,
}

/// The hyper-parameters, with tables of the rotary embeddings.
pub(super) struct Decoder<'a> {
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

impl<'a> Decoder<'a> {
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
        let mut x = rows(weights, EMBEDDING, &tokens)?;
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
        let attended = attention_softmax(&scores, Seen::Last(window.unwrap_or(t)))?.matmul(&v)?;
        attended.reshape((heads, t, d))?.transpose(0, 1)?.reshape((t, heads * d))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let factor = (mean_square + self.config.rms_norm_eps)?.sqrt()?.recip()?;
        x.broadcast_mul(&factor)?.broadcast_mul(weight)
    }
}

impl Network for Decoder<'_> {
    fn layer(
        &self,
        weights: &Weights,
        prefix: &str,
        layer: usize,
        x: &Tensor,
        lengths: &[usize],
    ) -> Result<Tensor> {
        let Variant { post_norms, hidden_act, .. } = self.config.variant;
        let get = |name: &str| tensor(weights, &format!("{prefix}{name}"));
        let linear = |name: &str, x: &Tensor| linear(weights, &format!("{prefix}{name}"), x);
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
        let attended = each_sequence(lengths, |start, length| {
            let part = |t: &Tensor| t.narrow(0, start, length);
            self.attention(layer, &part(&q)?, &part(&k)?, &part(&v)?, head_norms)
        })?;
        let mut added = linear("self_attn.o_proj", &attended)?;
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

    /// The Kullback-Leibler divergence of the next-token distribution from the teacher's, in nats per position, and the angles
    /// between the hidden states.
    fn loss(&self, teacher: &Weights, student: &Weights, sequences: &[&[u32]]) -> Result<Loss> {
        let reference = self.model(teacher, sequences)?;
        let Outputs { hidden, logits } = self.model(student, sequences)?;
        let (value, gradient) = divergence(&reference.logits, &logits.detach())?;
        // Its gradient with respect to the logits is `gradient`.
        let mut tensor = (&logits * &gradient)?.sum_all()?;
        let weight = COSINE / hidden.len().max(1) as f64;
        for (t, s) in reference.hidden.iter().zip(&hidden) {
            tensor = (tensor - (cosines(t, s)?.sum_all()? * weight)?)?;
        }
        Ok(Loss { tensor, value, count: logits.dim(0)? })
    }

    fn trains(&self, _: &str) -> bool {
        true
    }
}

/// The sum over positions of the Kullback-Leibler divergence of the student's distribution from the teacher's, in nats,
/// and its gradient with respect to the student's logits, `q - p`. Both take logits `[positions, vocab_size]`.
fn divergence(teacher: &Tensor, student: &Tensor) -> Result<(f64, Tensor)> {
    let vocab_size = student.dim(D::Minus1)?;
    let reference = teacher.flatten_all()?.to_vec1::<f32>()?;
    let mut gradient = student.flatten_all()?.to_vec1::<f32>()?;
    let rows = gradient.par_chunks_mut(vocab_size).zip(reference.par_chunks(vocab_size));
    let sums: Vec<f64> = rows
        .map(|(student, teacher)| {
            let (q, p) = (normaliser(student), normaliser(teacher));
            let mut sum = 0.0;
            for (s, t) in student.iter_mut().zip(teacher) {
                let (log_p, log_q) = (t - p, *s - q);
                let p = log_p.exp();
                sum += f64::from(p * (log_p - log_q));
                *s = log_q.exp() - p;
            }
            sum
        })
        .collect();
    Ok((sums.iter().sum(), Tensor::from_vec(gradient, student.shape(), student.device())?))
}

/// The logarithm of the sum of the exponentials.
fn normaliser(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + logits.iter().map(|x| (x - max).exp()).sum::<f32>().ln()
}
