//! Interface of the `model` canister: roles, upload, validation, governance, catalogue, shards, audit log.
//!
//! # From upload to service
//! 1. `begin_upload(manifest)` parses and checks the manifest, reserves space and returns the model's id. Calling it
//!    again with the same manifest returns the state of the same upload, from whatever machine.
//! 2. `put_shard` in any order, in parallel, and again: each shard is checked against the manifest on arrival.
//! 3. `missing_shards` says what a resumed upload still has to send.
//! 4. `finish_upload` has the canister validate the whole, in slices; `validation_report` tells what it found.
//! 5. `propose(Activate)` by the uploader or an admin, `approve` by as many admins as the policy wants. With a threshold of one,
//!    an admin's proposal is executed at once.
//!
//! # What is certified
//! The canister's certified data is the root of a hash tree (of the Internet Computer's interface specification) with
//! - `/audit`: the number of entries of the audit log (8 bytes, big-endian) and the hash of the last one (32 bytes);
//! - `/http_expr`: what HTTP gateways look for;
//! - `/latest/<name>`: the id of the greatest version of that name that is Active;
//! - `/model/<id>`: [`ModelRecord::hash`] of each model that is Active or Deprecated.
//!
//! A model's id is the hash of its manifest, which has the hash of every shard: who trusts the id can check every byte.

mod audit;
mod catalogue;
mod error;
mod governance;
mod index;
mod roles;
mod status;
mod upload;
mod validation;

pub use audit::{AuditEntry, AuditEvent, AuditHead, AuditLogArgs, AuditPage};
pub use catalogue::{
    Capability, CertifiedModel, Deprecation, GetShardArgs, GetShardChunkArgs, ListModelsArgs, ModelCard,
    ModelFilter, ModelPage, ModelRecord, Proof, Quality,
};
pub use error::ModelError;
pub use governance::{
    ListProposalsArgs, Policy, Proposal, ProposalAction, ProposalPage, ProposalState, ProposalSummary,
};
pub use index::{
    ANSWER_VALID_SECONDS, IndexPage, IndexedModel, KnownRepository, ListIndexArgs, MAX_REPOSITORIES,
};
pub use roles::{
    ListRolesArgs, MAX_KEYS_PER_UPLOADER, RegisterKeyArgs, RegisteredKey, Role, RoleGrant, RolePage,
    key_possession_message,
};
pub use status::{ModelCanisterStatus, ModelInitArgs};
pub use upload::{
    BeginUploadArgs, MissingShardsArgs, MissingShardsPage, PutShardArgs, PutShardResult, UploadState,
    UploaderUsage,
};
pub use validation::{Check, CheckKind, DecodedRow, Outcome, Validation, ValidationReport};

/// Largest shard file in bytes, header included: a 2 MiB message with room for its envelope.
pub const MAX_SHARD_BYTES: u64 = 1_900_000;

/// Largest manifest in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1_500_000;

/// Most shards in a model: 64 GB at the largest shard size, far above what one canister's heap can run.
pub const MAX_SHARDS: u32 = 34_000;

/// Most uploads that one uploader may have open at a time.
pub const MAX_OPEN_UPLOADS: u32 = 64;

/// Longest reason of a deprecation, in bytes.
pub const MAX_REASON_BYTES: usize = 1_000;

/// Most proposals that may be open at a time.
pub const MAX_OPEN_PROPOSALS: u32 = 256;

/// Most grants of roles.
pub const MAX_GRANTS: u64 = 1_000;

/// Labels of the certified hash tree; see the module.
pub mod labels {
    /// The head of the audit log.
    pub const AUDIT: &str = "audit";
    /// By name, the version that `latest` means.
    pub const LATEST: &str = "latest";
    /// By id, the records of the models that are Active or Deprecated.
    pub const MODEL: &str = "model";
}
