//! The forward pass of BERT encoders on candle tensors, for gradients.
//!
//! It computes what `novaq_engine::model::Encoder` computes on dense weights; a test holds the two together.

use candle_core::{D, Device, Result, Tensor};
use novaq_engine::model::{BertConfig, Pooling};

use super::layers::{Seen, Weights, attention_softmax, cosines, each_sequence, linear, rows, tensor};
use super::student::Loss;
use super::{COSINE, Network};

/// What a pass computes.
pub(super) struct Outputs {
    /// The hidden states after each layer, `[positions, hidden_size]`.
    pub(super) hidden: Vec<Tensor>,
    /// The embeddings of the texts, `[texts, hidden_size]`.
    pub(super) embeddings: Tensor,
}

/// The hyper-parameters.
pub(super) struct Encoder<'a> {
    config: &'a BertConfig,
    device: Device,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(config: &'a BertConfig, device: &Device) -> Self {
        Self { config, device: device.clone() }
    }

    /// Runs `texts` through the model.
    pub(super) fn model(&self, weights: &Weights, texts: &[&[u32]]) -> Result<Outputs> {
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let count = positions.len();
        let table = |name: &str, rows_of: Vec<u32>| {
            let rows_of = Tensor::from_vec(rows_of, count, &self.device)?;
            rows(weights, &format!("embeddings.{name}_embeddings.weight"), &rows_of)
        };
        let sum = (table("word", texts.concat())? + table("token_type", vec![0; count])?)?;
        let mut x =
            self.layer_norm(weights, "embeddings.LayerNorm", &(sum + table("position", positions)?)?)?;
        let mut hidden = Vec::new();
        for layer in 0..self.config.num_hidden_layers {
            x = self.layer(weights, &format!("encoder.layer.{layer}."), layer, &x, &lengths)?;
            hidden.push(x.clone());
        }
        Ok(Outputs { embeddings: self.pool(&x, &lengths)?, hidden })
    }

    /// One row of each text of `x [positions, hidden_size]`.
    fn pool(&self, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let pooled = each_sequence(lengths, |start, length| match self.config.pooling {
            Pooling::Cls => x.narrow(0, start, 1),
            Pooling::Mean => x.narrow(0, start, length)?.mean_keepdim(0),
            Pooling::Max => x.narrow(0, start, length)?.max_keepdim(0),
        })?;
        if !self.config.normalize {
            return Ok(pooled);
        }
        let squares = pooled.sqr()?.sum_keepdim(D::Minus1)?;
        pooled.broadcast_div(&(squares + f64::from(f32::MIN_POSITIVE))?.sqrt()?)
    }

    /// Attention of one text over itself: `q`, `k` and `v [t, heads · d]` to `[t, heads · d]`.
    fn attention(&self, [q, k, v]: [Tensor; 3]) -> Result<Tensor> {
        let (heads, d) = (self.config.num_attention_heads, self.config.head_dim());
        let t = q.dim(0)?;
        let split = |x: Tensor| x.reshape((t, heads, d))?.transpose(0, 1)?.contiguous();
        let (q, k, v) = (split(q)?, split(k)?, split(v)?);
        let scores = (q.matmul(&k.transpose(1, 2)?)? * (1.0 / (d as f64).sqrt()))?;
        let attended = attention_softmax(&scores, Seen::All)?.matmul(&v)?;
        attended.transpose(0, 1)?.reshape((t, heads * d))
    }

    /// Layer normalisation of the rows of `x` by the vectors `name.weight` and `name.bias`.
    fn layer_norm(&self, weights: &Weights, name: &str, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let factor = (variance + self.config.layer_norm_eps)?.sqrt()?.recip()?;
        let scaled = x.broadcast_mul(&factor)?.broadcast_mul(tensor(weights, &format!("{name}.weight"))?)?;
        scaled.broadcast_add(tensor(weights, &format!("{name}.bias"))?)
    }
}

impl Network for Encoder<'_> {
    fn layer(
        &self,
        weights: &Weights,
        prefix: &str,
        _: usize,
        x: &Tensor,
        lengths: &[usize],
    ) -> Result<Tensor> {
        let linear = |name: &str, x: &Tensor| linear(weights, &format!("{prefix}{name}"), x);
        let norm = |name: &str, x: &Tensor| self.layer_norm(weights, &format!("{prefix}{name}"), x);
        let q = linear("attention.self.query", x)?;
        let k = linear("attention.self.key", x)?;
        let v = linear("attention.self.value", x)?;
        let attended = each_sequence(lengths, |start, length| {
            let part = |t: &Tensor| t.narrow(0, start, length);
            self.attention([part(&q)?, part(&k)?, part(&v)?])
        })?;
        let x = norm("attention.output.LayerNorm", &(x + linear("attention.output.dense", &attended)?)?)?;
        let inner = linear("intermediate.dense", &x)?.gelu_erf()?;
        norm("output.LayerNorm", &(&x + linear("output.dense", &inner)?)?)
    }

    /// One minus the cosine of the embeddings for each text, and the angles between the hidden states.
    fn loss(&self, teacher: &Weights, student: &Weights, texts: &[&[u32]]) -> Result<Loss> {
        let reference = self.model(teacher, texts)?;
        let Outputs { hidden, embeddings } = self.model(student, texts)?;
        let cosine = cosines(&reference.embeddings, &embeddings)?.sum_all()?;
        let value = texts.len() as f64 - f64::from(cosine.to_scalar::<f32>()?);
        let mut tensor = cosine.neg()?;
        let weight = COSINE * texts.len() as f64 / hidden.len().max(1) as f64;
        for (t, s) in reference.hidden.iter().zip(&hidden) {
            tensor = (tensor - (cosines(t, s)?.mean_all()? * weight)?)?;
        }
        Ok(Loss { tensor, value, count: texts.len() })
    }

    /// Embeddings stay as they are: a text shows few of their rows, and codewords that followed these would move all
    /// others.
    fn trains(&self, name: &str) -> bool {
        !name.starts_with("embeddings.")
    }
}
