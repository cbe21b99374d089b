//! The artifact: a manifest and shards that together hold one compressed model.
//!
//! Everything here treats its bytes as hostile: lengths are checked before they are used, and nothing is allocated
//! that the bytes at hand don't justify.

mod loader;
mod manifest;
mod outline;
mod row;
mod shard;
mod signature;
mod writer;

pub use loader::{LoadedEncoder, LoadedModel, Loader, ShardSource, Shards, read_tokenizer};
pub use manifest::{
    CodebookEntry, Codec, Compression, Estimates, Manifest, Origin, Section, ShardEntry, Similarity,
    SourceFile, TensorEntry, TokenizerEntry, Verification,
};
pub use outline::Outline;
pub use row::{MAX_ROW_BYTES, decode_row};
pub use shard::{ShardHeader, verify_shard};
pub use signature::Signature;
pub use writer::{ManifestDraft, ShardSink, VectorPrecision, Writer};

use crate::model::ModelError;
use crate::tokenizer::TokenizerError;

/// Version of the format that this engine writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Largest shard file: a message of 2 MiB with room for its envelope.
pub const MAX_SHARD_BYTES: usize = 1_900_000;
/// Largest manifest: it travels in one message too.
pub const MAX_MANIFEST_BYTES: usize = 1_500_000;
/// Longest compact form of a tokenizer. That of Gemma 3, with 262,144 tokens, has a sixth of it.
pub const MAX_TOKENIZER_BYTES: u64 = 32 << 20;
/// Sections begin at multiples of this in a shard's payload.
pub const SECTION_ALIGNMENT: usize = 16;

/// Why an artifact is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The manifest is not the JSON it has to be.
    #[error("manifest: {0}")]
    Json(String),
    /// The manifest's bytes are not the canonical form of its content, so its id would be ambiguous.
    #[error("manifest: not in canonical form (RFC 8785)")]
    NotCanonical,
    /// A field of the manifest has a value that it can't have.
    #[error("manifest `{field}`: {reason}")]
    Field {
        /// Path of the field, as `shards[3].bytes`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A shard's bytes are not those that the manifest names.
    #[error("shard {index}: {reason}")]
    Shard {
        /// Number of the shard.
        index: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// A shard can't be read or written.
    #[error("shard {index}: {source}")]
    Io {
        /// Number of the shard.
        index: u32,
        /// What the storage said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no memory for a section.
    #[error("no memory for a section of {bytes} bytes")]
    OutOfMemory {
        /// Bytes of the section.
        bytes: u64,
    },
    /// The model is of another kind than what it is asked for.
    #[error("the model is {found}, and {needed} is needed")]
    Kind {
        /// The kind it is.
        found: &'static str,
        /// The kind it would have to be.
        needed: &'static str,
    },
    /// The tensors don't make the model that the configuration describes.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer's section does not decode.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
}

impl ArtifactError {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn shard(index: u32, reason: impl Into<String>) -> Self {
        Self::Shard { index, reason: reason.into() }
    }
}
