//! Uploading a model.

use candid::CandidType;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::validation::Validation;
use crate::digest::ModelId;
use crate::lifecycle::ModelStatus;

/// Argument of `begin_upload`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BeginUploadArgs {
    /// The bytes of `manifest.json`.
    pub manifest: ByteBuf,
}

/// How far an upload is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UploadState {
    /// The model's id, computed by the canister.
    pub model_id: ModelId,
    /// The model's status: an upload that was activated meanwhile needs no more shards.
    pub status: ModelStatus,
    /// Shards in the manifest.
    pub shards: u32,
    /// Shards not stored yet.
    pub missing: u32,
    /// How far validation is.
    pub validation: Validation,
}

/// Argument of `put_shard`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PutShardArgs {
    /// The model that the shard belongs to.
    pub model_id: ModelId,
    /// The shard's index in the manifest.
    pub index: u32,
    /// The shard file, header included.
    pub bytes: ByteBuf,
}

/// Result of `put_shard`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PutShardResult {
    /// False when the same shard was stored before.
    pub newly_stored: bool,
    /// Shards not stored yet.
    pub missing: u32,
}

/// Page request of `missing_shards`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MissingShardsArgs {
    /// The model.
    pub model_id: ModelId,
    /// The last index of the page before.
    pub after: Option<u32>,
    /// Most indices to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `missing_shards`, in rising order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MissingShardsPage {
    /// Indices of shards that are not stored yet.
    pub indices: Vec<u32>,
    /// `after` of the next page.
    pub next: Option<u32>,
}

/// Result of `uploader_usage`: what the caller has stored, and may.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploaderUsage {
    /// Bytes of models that the caller began and that still exist.
    pub used_bytes: u64,
    /// Bytes that it may use.
    pub quota_bytes: u64,
    /// Uploads that are neither Active nor dropped.
    pub open_uploads: u32,
}
