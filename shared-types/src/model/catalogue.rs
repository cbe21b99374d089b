//! The catalogue: models, their cards, and what proves them.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::validation::Validation;
use crate::digest::{Digest, ModelId};
use crate::lifecycle::ModelStatus;

/// What a model can be asked for.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Going on with a text.
    Generate,
    /// Answering conversations: it has a chat template.
    Chat,
    /// Embedding texts.
    Embed,
}

/// What compression cost, by the manifest's report.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Quality {
    /// Of a decoder.
    Predictions {
        /// What the text is.
        text: String,
        /// Tokens predicted.
        tokens: u64,
        /// Perplexity of the compressed model.
        perplexity: f64,
        /// Perplexity of the original.
        perplexity_original: f64,
        /// Kullback-Leibler divergence from the original, nats per token.
        kl: f64,
        /// Share of positions at which both find the same token most likely.
        top1_agreement: f64,
    },
    /// Of an encoder.
    Embeddings {
        /// What the texts are.
        text: String,
        /// Texts embedded.
        texts: u64,
        /// Mean cosine of the two embeddings of a text.
        mean_cosine: f64,
        /// Smallest cosine.
        min_cosine: f64,
    },
}

/// What a person wants to know about a model, by its manifest.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// Architecture, as the manifest has it.
    pub architecture: String,
    /// What it can be asked for.
    pub capabilities: Vec<Capability>,
    /// Words to search by.
    pub tags: Vec<String>,
    /// Repository or folder that held the checkpoint.
    pub origin: String,
    /// Revision of it, if known.
    pub revision: Option<String>,
    /// Weights.
    pub parameters: u64,
    /// Bits per weight of the layers' matrices.
    pub bits_per_weight_body: f64,
    /// Bits per weight of the whole.
    pub bits_per_weight_file: f64,
    /// How many times smaller it is than its weights in 32-bit floats.
    pub ratio_fp32: f64,
    /// What compression cost, if it was measured.
    pub quality: Option<Quality>,
    /// Tokens that it can read at a time.
    pub context_tokens: u64,
    /// Bytes of weights on the heap.
    pub heap_bytes: u64,
    /// Bytes of the key/value cache per token of context.
    pub cache_bytes_per_token: u64,
    /// Estimated WebAssembly instructions per token.
    pub instructions_per_token: u64,
    /// The ed25519 public key that signed the manifest, 32 bytes.
    pub signed_by: Option<ByteBuf>,
}

/// A model as the catalogue shows it. The manifest says the rest.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ModelRecord {
    /// The model's id.
    pub model_id: ModelId,
    /// Name from the manifest.
    pub name: String,
    /// Semantic version from the manifest.
    pub version: String,
    /// License from the manifest (SPDX expression).
    pub license: String,
    /// Where the model stands.
    pub status: ModelStatus,
    /// Who began the upload.
    pub uploader: Principal,
    /// Bytes of all shard files.
    pub bytes: u64,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// Shards in the manifest.
    pub shards: u32,
    /// Shards not stored yet.
    pub missing: u32,
    /// When the upload began, in nanoseconds since 1970.
    pub created_at_ns: u64,
    /// How far validation is.
    #[serde(default)]
    pub validation: Validation,
    /// When the model became Active.
    pub activated_at_ns: Option<u64>,
    /// When and why the model was deprecated.
    pub deprecation: Option<Deprecation>,
    /// What it is; absent where an older version of the canister stored it and this one can't read its manifest.
    #[serde(default)]
    pub card: Option<ModelCard>,
}

impl ModelRecord {
    /// The hash that the canister certifies: [`crate::receipt::hash_of`] of the record.
    pub fn hash(&self) -> Digest {
        crate::receipt::hash_of(self)
    }
}

/// When and why a model was deprecated.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// The proposal's reason.
    pub reason: String,
}

/// Which models a page is to have: those of which everything that is given is true.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct ModelFilter {
    /// The name, whole.
    pub name: Option<String>,
    /// A tag that it has.
    pub tag: Option<String>,
    /// Its architecture.
    pub architecture: Option<String>,
    /// Something that it can be asked for.
    pub capability: Option<Capability>,
    /// Least bytes of manifest and shards.
    pub min_bytes: Option<u64>,
    /// Most bytes of manifest and shards.
    pub max_bytes: Option<u64>,
}

impl ModelFilter {
    /// Whether `record` is one of them.
    pub fn matches(&self, record: &ModelRecord) -> bool {
        let card = record.card.as_ref();
        let bytes = record.bytes + record.manifest_bytes;
        self.name.as_ref().is_none_or(|name| *name == record.name)
            && self.tag.as_ref().is_none_or(|tag| card.is_some_and(|card| card.tags.contains(tag)))
            && self.architecture.as_ref().is_none_or(|it| card.is_some_and(|card| card.architecture == *it))
            && self.capability.is_none_or(|it| card.is_some_and(|card| card.capabilities.contains(&it)))
            && self.min_bytes.is_none_or(|least| bytes >= least)
            && self.max_bytes.is_none_or(|most| bytes <= most)
    }
}

/// Page request of `list_models`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListModelsArgs {
    /// Only models of this status. Pending models are listed to their uploader, auditors and admins only.
    pub status: Option<ModelStatus>,
    /// Only these models.
    pub filter: Option<ModelFilter>,
    /// The last id of the page before.
    pub after: Option<ModelId>,
    /// Most records to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// What proves an answer of a query: the Internet Computer's certificate, and the part of the certified hash tree that the
/// answer is in.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The certificate of the canister's certified data, in CBOR.
    pub certificate: ByteBuf,
    /// The hash tree in CBOR, pruned to what the answer needs.
    pub witness: ByteBuf,
}

/// Page of `list_models`, ordered by id.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ModelPage {
    /// The records.
    pub models: Vec<ModelRecord>,
    /// `after` of the next page. A page may have few records or none and still have a next one: a limited number is looked at.
    pub next: Option<ModelId>,
    /// What proves the records that are not Pending. Without filter and status it proves too that there are no others between
    /// the first and the last of them. Absent where the method is not called as a query.
    pub proof: Option<Proof>,
}

/// Result of `get_certified_model` and `latest`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CertifiedModel {
    /// The record.
    pub record: ModelRecord,
    /// What proves it; absent where the method is not called as a query.
    pub proof: Option<Proof>,
}

/// Argument of `get_shard`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GetShardArgs {
    /// The model.
    pub model_id: ModelId,
    /// The shard's index.
    pub index: u32,
}

/// Argument of `get_shard_chunk`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GetShardChunkArgs {
    /// The model.
    pub model_id: ModelId,
    /// The shard's index.
    pub index: u32,
    /// First byte of the shard file to read.
    pub offset: u64,
    /// Bytes to read; the range must lie inside the shard file.
    pub length: u64,
}
