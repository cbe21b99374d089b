//! Embeddings and one layer of BERT. Names are those of the checkpoints.

use super::super::ModelError;
use super::super::llama::{Linear, LinearInput, Observer, TensorSource, load_matrix, load_vector};
use super::BertConfig;
use crate::codec::{Input, Matrix};
use crate::kernel::Backend;
use std::f32::consts::FRAC_1_SQRT_2;
use std::ops::ControlFlow;

/// Layer normalisation (Ba et al., 2016): `y = (x - mean) / √(variance + ε) · weight + bias`.
#[derive(Clone, Debug)]
struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    fn load(source: &mut dyn TensorSource, name: &str, config: &BertConfig) -> Result<Self, ModelError> {
        Ok(Self {
            weight: load_vector(source, &format!("{name}.weight"), config.hidden_size)?,
            bias: load_vector(source, &format!("{name}.bias"), config.hidden_size)?,
            epsilon: config.layer_norm_eps as f32,
        })
    }

    /// Normalises each position of `hidden`, `[positions, hidden_size]`, in place. The mean is summed in ascending order.
    fn apply(&self, backend: Backend, hidden: &mut [f32]) {
        let width = self.weight.len();
        for x in hidden.chunks_exact_mut(width) {
            let mean = x.iter().sum::<f32>() / width as f32;
            for x in &mut *x {
                *x -= mean;
            }
            let variance = backend.dot_f32(x, x) / width as f32;
            let factor = 1.0 / (variance + self.epsilon).sqrt();
            for ((x, w), b) in x.iter_mut().zip(&self.weight).zip(&self.bias) {
                *x = *x * factor * w + b;
            }
        }
    }
}

/// What a layer reads first: the sum of the embeddings of a token, its kind and its position, normalised.
#[derive(Clone, Debug)]
pub struct BertEmbeddings {
    word: Matrix,
    position: Matrix,
    token_type: Matrix,
    norm: LayerNorm,
}

impl BertEmbeddings {
    /// Takes the embeddings of `config`'s model from `source`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(source: &mut dyn TensorSource, config: &BertConfig) -> Result<Self, ModelError> {
        let mut table = |name: &str, rows| {
            load_matrix(source, &format!("embeddings.{name}.weight"), [rows, config.hidden_size])
        };
        let word = table("word_embeddings", config.vocab_size)?;
        let position = table("position_embeddings", config.max_position_embeddings)?;
        let token_type = table("token_type_embeddings", config.type_vocab_size)?;
        Ok(Self {
            word,
            position,
            token_type,
            norm: LayerNorm::load(source, "embeddings.LayerNorm", config)?,
        })
    }

    pub(super) fn matrices(&self) -> [&Matrix; 3] {
        [&self.word, &self.position, &self.token_type]
    }

    /// The hidden states `[tokens, hidden_size]` of a text, all of whose tokens are of kind 0, before the first layer.
    ///
    /// # Errors
    /// If there is no token, a token is not in the vocabulary, or there are more of them than positions.
    pub fn embed(&self, backend: Backend, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let (vocab_size, context) = (self.word.rows(), self.position.rows());
        if tokens.is_empty() || tokens.len() > context {
            return Err(ModelError::Context { positions: tokens.len(), context });
        }
        let width = self.word.columns();
        let mut kind = vec![0.0; width];
        self.token_type.decode_row(0, &mut kind);
        let mut row = vec![0.0; width];
        let mut hidden = vec![0.0; tokens.len() * width];
        for ((position, &token), hidden) in tokens.iter().enumerate().zip(hidden.chunks_exact_mut(width)) {
            if token as usize >= vocab_size {
                return Err(ModelError::Token { token, vocab_size });
            }
            self.word.decode_row(token as usize, hidden);
            self.position.decode_row(position, &mut row);
            for ((x, kind), position) in hidden.iter_mut().zip(&kind).zip(&row) {
                *x = *x + kind + position;
            }
        }
        self.norm.apply(backend, &mut hidden);
        Ok(hidden)
    }
}

/// Activations of a layer, kept between layers and texts.
#[derive(Debug, Default)]
pub struct BertBuffers {
    input: Input,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// Of a query, on every position.
    weights: Vec<f32>,
    projected: Vec<f32>,
    inner: Vec<f32>,
}

/// One layer of the encoder: attention over all positions, then a feed-forward layer, each added to what it read and
/// normalised after that.
#[derive(Clone, Debug)]
pub struct BertLayer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    head_dim: usize,
}

impl BertLayer {
    /// Takes the tensors of layer `index` of `config`'s model from `source`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(
        source: &mut dyn TensorSource,
        config: &BertConfig,
        index: usize,
    ) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let prefix = format!("encoder.layer.{index}");
        let attention = format!("{prefix}.attention");
        let mut linear = |name: &str, shape| Linear::load(source, name, shape, true);
        let query = linear(&format!("{attention}.self.query"), [hidden, hidden])?;
        let key = linear(&format!("{attention}.self.key"), [hidden, hidden])?;
        let value = linear(&format!("{attention}.self.value"), [hidden, hidden])?;
        let attention_output = linear(&format!("{attention}.output.dense"), [hidden, hidden])?;
        let intermediate = linear(&format!("{prefix}.intermediate.dense"), [inner, hidden])?;
        let output = linear(&format!("{prefix}.output.dense"), [hidden, inner])?;
        Ok(Self {
            query,
            key,
            value,
            attention_output,
            attention_norm: LayerNorm::load(source, &format!("{attention}.output.LayerNorm"), config)?,
            intermediate,
            output,
            output_norm: LayerNorm::load(source, &format!("{prefix}.output.LayerNorm"), config)?,
            head_dim: config.head_dim(),
        })
    }

    pub(super) fn linears(&self) -> [&Linear; 6] {
        let Self { query, key, value, attention_output, intermediate, output, .. } = self;
        [query, key, value, attention_output, intermediate, output]
    }

    /// Work of the layer's matrices for one position.
    pub(super) fn work(&self) -> u64 {
        self.linears().iter().map(|linear| linear.weight.work()).sum()
    }

    /// Runs the layer on `hidden`, `[positions, hidden_size]`, in place. `index` is its number for `observer`, which sees
    /// the inputs of the linear layers beside what their outputs are added to.
    pub fn forward(
        &self,
        backend: Backend,
        index: usize,
        hidden: &mut [f32],
        buffers: &mut BertBuffers,
        observer: &mut Option<&mut dyn Observer>,
    ) -> ControlFlow<()> {
        let BertBuffers { input, query, key, value, weights, projected, inner } = buffers;
        let width = self.output.weight.rows();
        let positions = hidden.len() / width;
        let mut observe = |which, input: &Input, residual: &[f32]| match observer {
            Some(observer) => observer.linear_input(index, which, input.values(), residual),
            None => ControlFlow::Continue(()),
        };

        input.reset(positions, width).copy_from_slice(hidden);
        observe(LinearInput::Qkv, input, hidden)?;
        self.query.forward(backend, input, query, positions);
        self.key.forward(backend, input, key, positions);
        self.value.forward(backend, input, value, positions);
        let attended = input.reset(positions, width);
        attend(backend, self.head_dim, width, [query, key, value], weights, attended);
        observe(LinearInput::O, input, hidden)?;
        self.attention_output.forward(backend, input, projected, positions);
        hidden.iter_mut().zip(&*projected).for_each(|(h, o)| *h += o);
        self.attention_norm.apply(backend, hidden);

        input.reset(positions, width).copy_from_slice(hidden);
        observe(LinearInput::GateUp, input, hidden)?;
        self.intermediate.forward(backend, input, inner, positions);
        let activated = input.reset(positions, self.intermediate.weight.rows());
        activated.iter_mut().zip(&*inner).for_each(|(y, x)| *y = gelu(*x));
        observe(LinearInput::Down, input, hidden)?;
        self.output.forward(backend, input, projected, positions);
        hidden.iter_mut().zip(&*projected).for_each(|(h, o)| *h += o);
        self.output_norm.apply(backend, hidden);
        ControlFlow::Continue(())
    }
}

/// Attention of every head and position over all positions: softmax of the scaled products with the keys, then the
/// weighted sum of the values, positions in ascending order throughout. All but `weights` are `[positions, width]`.
fn attend(
    backend: Backend,
    head_dim: usize,
    width: usize,
    [query, key, value]: [&[f32]; 3],
    weights: &mut Vec<f32>,
    output: &mut [f32],
) {
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (query, output) in query.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let heads = query.chunks_exact(head_dim).zip(output.chunks_exact_mut(head_dim));
        for (head, (query, output)) in heads.enumerate() {
            let of_head = head * head_dim..(head + 1) * head_dim;
            let products = key.chunks_exact(width).map(|key| backend.dot_f32(&key[of_head.clone()], query));
            weights.clear();
            weights.extend(products.map(|product| product * scale));
            let inverse = 1.0 / backend.softmax_numerators(weights);
            output.fill(0.0);
            for (value, numerator) in value.chunks_exact(width).zip(&*weights) {
                let weight = numerator * inverse;
                for (o, v) in output.iter_mut().zip(&value[of_head.clone()]) {
                    *o += weight * v;
                }
            }
        }
    }
}

/// `x · Φ(x)` with the distribution function of the standard normal (Hendrycks and Gimpel, 2016), by the error function.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * FRAC_1_SQRT_2))
}
