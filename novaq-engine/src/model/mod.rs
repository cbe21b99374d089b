//! The transformers, decoders and encoders: configuration, weights, key/value cache and the resumable forward pass.

mod bert;
mod config;
mod kv_cache;
mod llama;
mod profile;
mod rope;

pub use bert::{BertBuffers, BertConfig, BertEmbeddings, BertLayer, Encoder, EncoderPass, Pooling};
pub use config::{Activation, Config, LayerType, RopeScaling, Variant};
pub use kv_cache::{CachePrecision, KvCache};
pub use llama::{
    Budget, DecoderLayer, Linear, LinearInput, LogitsFor, Model, Observer, Pass, Progress, TensorSource,
};
pub use profile::{Part, Profile};
pub use rope::Rope;

use crate::codec::CodecError;

/// What kind of model there is, with its hyper-parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Architecture {
    /// A decoder, which goes on with a text.
    Decoder(Config),
    /// An encoder, which embeds a text.
    Encoder(BertConfig),
}

impl From<Config> for Architecture {
    fn from(config: Config) -> Self {
        Self::Decoder(config)
    }
}

impl From<BertConfig> for Architecture {
    fn from(config: BertConfig) -> Self {
        Self::Encoder(config)
    }
}

/// Why a model can't be built or a step can't be taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A hyper-parameter is missing, out of range, or not supported.
    #[error("config `{field}`: {reason}")]
    Config {
        /// Name as in `config.json`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the architecture needs is not there.
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` is {got:?}, expected {expected:?}")]
    TensorShape {
        /// Name as in the checkpoint.
        name: String,
        /// `[rows, columns]` found.
        got: [usize; 2],
        /// `[rows, columns]` expected.
        expected: [usize; 2],
    },
    /// A tensor's bytes don't decode.
    #[error("tensor `{name}`: {source}")]
    Tensor {
        /// Name as in the checkpoint.
        name: String,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The id.
        token: u32,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// The tokens don't fit the context window or the cache.
    #[error("{positions} positions don't fit a context of {context}")]
    Context {
        /// Positions needed.
        positions: usize,
        /// Positions there are.
        context: usize,
    },
    /// There is no memory for a cache of this size.
    #[error("no memory for a cache of {positions} positions")]
    OutOfMemory {
        /// Positions asked for.
        positions: usize,
    },
}

impl ModelError {
    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { field, reason: reason.into() }
    }
}
