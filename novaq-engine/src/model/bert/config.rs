//! Hyper-parameters of an encoder, under the names of Hugging Face's `config.json` and of sentence-transformers.

use super::super::ModelError;
use serde::{Deserialize, Serialize};

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token, `[CLS]`.
    Cls,
    /// The largest value of each dimension.
    Max,
}

/// Hyper-parameters of a BERT encoder (Devlin et al., 2018, <https://arxiv.org/abs/1810.04805>) and of what makes a
/// sentence embedding of it (Reimers and Gurevych, 2019, <https://arxiv.org/abs/1908.10084>).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the hidden states, and of an embedding.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads; each is `hidden_size / num_attention_heads` wide.
    pub num_attention_heads: usize,
    /// Positions that have an embedding.
    pub max_position_embeddings: usize,
    /// Kinds of tokens that have an embedding; those of a single text are of kind 0.
    pub type_vocab_size: usize,
    /// Added to the variance in the layer norms.
    pub layer_norm_eps: f64,
    /// Tokens of a text that are read, special ones included; a longer text is cut.
    pub max_seq_length: usize,
    /// How the vectors of the tokens become one.
    pub pooling: Pooling,
    /// Whether an embedding is divided by its Euclidean length.
    pub normalize: bool,
}

impl BertConfig {
    /// Checks that the numbers make a model.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        /// Keeps every product of two sizes within 64 bits.
        const LARGEST: usize = 1 << 24;
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("max_seq_length", self.max_seq_length),
        ];
        for (field, value) in sizes {
            if value == 0 || value > LARGEST {
                return Err(ModelError::config(field, format!("{value} is not in 1..={LARGEST}")));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let reason = format!("{} does not divide {}", self.num_attention_heads, self.hidden_size);
            return Err(ModelError::config("num_attention_heads", reason));
        }
        if self.max_seq_length > self.max_position_embeddings {
            let reason =
                format!("{} is above {} positions", self.max_seq_length, self.max_position_embeddings);
            return Err(ModelError::config("max_seq_length", reason));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            let reason = format!("{} is not in (0, 1)", self.layer_norm_eps);
            return Err(ModelError::config("layer_norm_eps", reason));
        }
        Ok(())
    }

    /// Names and shapes of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let table = move |name: &str, rows| (format!("embeddings.{name}.weight"), vec![rows, hidden]);
        let tables = [
            table("word_embeddings", self.vocab_size),
            table("position_embeddings", self.max_position_embeddings),
            table("token_type_embeddings", self.type_vocab_size),
        ];
        let linears = [
            ("attention.self.query", vec![hidden, hidden]),
            ("attention.self.key", vec![hidden, hidden]),
            ("attention.self.value", vec![hidden, hidden]),
            ("attention.output.dense", vec![hidden, hidden]),
            ("attention.output.LayerNorm", vec![hidden]),
            ("intermediate.dense", vec![inner, hidden]),
            ("output.dense", vec![hidden, inner]),
            ("output.LayerNorm", vec![hidden]),
        ];
        let layers = (0..self.num_hidden_layers).flat_map(move |layer| {
            let named =
                linears.iter().map(|(name, shape)| (format!("encoder.layer.{layer}.{name}"), shape.clone()));
            named.collect::<Vec<_>>()
        });
        let biased = [("embeddings.LayerNorm".to_owned(), vec![hidden])].into_iter().chain(layers);
        tables.into_iter().chain(biased.flat_map(|(name, shape)| {
            let bias = (format!("{name}.bias"), vec![shape[0]]);
            [(format!("{name}.weight"), shape), bias]
        }))
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Estimated WebAssembly instructions of one layer's attention for one position of a text of `positions`: 8 per
    /// element of the query (two products in 32-bit floats) and 400 per head.
    pub fn attention_work(&self, positions: usize) -> u64 {
        (self.hidden_size * 8 + self.num_attention_heads * 400) as u64 * positions as u64
    }
}
