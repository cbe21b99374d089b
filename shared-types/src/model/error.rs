//! Why a call was refused.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::governance::ProposalState;
use super::roles::Role;
use crate::digest::{Digest, ModelId};
use crate::field::FieldError;
use crate::lifecycle::{ModelOperation, ModelStatus};

/// Why the `model` canister refused a call.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The anonymous principal may not change anything.
    #[error("the anonymous identity may not call this method: sign in with an identity")]
    Anonymous,
    /// The caller lacks the role.
    #[error("the caller lacks the role {required:?}")]
    Unauthorized {
        /// The least role that would do.
        required: Role,
    },
    /// No such model, or none that the caller may see.
    #[error("model {model_id} is not in the catalogue")]
    UnknownModel {
        /// The id asked for.
        model_id: ModelId,
    },
    /// An argument breaks a rule.
    #[error("{0}")]
    InvalidField(FieldError),
    /// The manifest was refused.
    #[error("manifest refused: {0}")]
    InvalidManifest(FieldError),
    /// The shard's index is not in the manifest.
    #[error("shard {index} is not in the manifest, which has {shards} shards")]
    ShardOutOfRange {
        /// The index given.
        index: u32,
        /// Shards in the manifest.
        shards: u32,
    },
    /// The shard's length is not the manifest's.
    #[error("shard {index} has {actual} bytes, the manifest says {expected}")]
    WrongShardLength {
        /// The shard.
        index: u32,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// The shard's SHA-256 is not the manifest's.
    #[error("shard {index} has SHA-256 {actual}, the manifest says {expected}")]
    WrongShardHash {
        /// The shard.
        index: u32,
        /// Hash by the manifest.
        expected: Digest,
        /// Hash of the bytes received.
        actual: Digest,
    },
    /// The shard's header is wrong.
    #[error("shard {index} has a wrong header: {reason}")]
    WrongShardHeader {
        /// The shard.
        index: u32,
        /// What is wrong.
        reason: String,
    },
    /// The shard is not stored yet.
    #[error("shard {index} is not stored yet")]
    ShardMissing {
        /// The shard.
        index: u32,
    },
    /// The upload has gaps.
    #[error("{missing} shards are not stored yet")]
    Incomplete {
        /// Shards not stored yet.
        missing: u32,
    },
    /// `finish_upload` has not validated the model.
    #[error("the upload is not validated: call `finish_upload` first")]
    NotValidated,
    /// The model's status does not allow the operation.
    #[error("a model that is {status:?} does not allow {operation:?}")]
    WrongStatus {
        /// The model's status.
        status: ModelStatus,
        /// What was asked for.
        operation: ModelOperation,
    },
    /// The uploader's storage quota would be exceeded.
    #[error("quota exceeded: {used} of {quota} bytes are used, {requested} more were requested")]
    QuotaExceeded {
        /// Bytes in use.
        used: u64,
        /// Bytes requested.
        requested: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// The canister's stable memory can't grow.
    #[error("the canister has no room for {requested} more bytes")]
    OutOfStorage {
        /// Bytes requested.
        requested: u64,
    },
    /// The last admin can't be revoked.
    #[error("the last admin can't be revoked")]
    LastAdmin,
    /// Fewer principals vote than would have to approve.
    #[error("{approvals} approvals are out of reach of {voters} who vote")]
    ThresholdOutOfReach {
        /// Approvals that would be wanted.
        approvals: u32,
        /// Principals that would vote.
        voters: u32,
    },
    /// The model's validation found something; only a model that passed can be proposed.
    #[error("validation failed: {reason}")]
    ValidationFailed {
        /// The first check that failed.
        reason: String,
    },
    /// Validation has not ended.
    #[error("validation is still running")]
    ValidationRunning,
    /// A model of the same name and the same or a greater version was Active before.
    #[error("version {version} is not greater than {latest}, which was Active before")]
    VersionNotGreater {
        /// The model's version.
        version: String,
        /// The greatest version of the name that was ever Active.
        latest: String,
    },
    /// There is no such name in the catalogue, or none of its versions is Active.
    #[error("no version of `{name}` is active")]
    UnknownName {
        /// The name asked for.
        name: String,
    },
    /// There is no such proposal.
    #[error("there is no proposal {id}")]
    UnknownProposal {
        /// The number asked for.
        id: u64,
    },
    /// The proposal can no longer be approved or rejected.
    #[error("proposal {id} is no longer open: {state:?}")]
    ProposalClosed {
        /// Its number.
        id: u64,
        /// Where it stands.
        state: ProposalState,
    },
    /// A bound is reached.
    #[error("there are {limit} {what} already, the most there can be")]
    TooMany {
        /// What there are too many of.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// The signature does not show that the caller has the key.
    #[error("the signature does not prove the possession of the key")]
    NotPossessed,
    /// The key is registered for somebody else.
    #[error("the key is registered for {uploader}")]
    KeyTaken {
        /// For whom.
        uploader: Principal,
    },
    /// The key is not registered.
    #[error("the key is not registered")]
    UnknownKey,
}
