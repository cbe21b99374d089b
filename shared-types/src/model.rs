//! Interface of the `model` canister: upload, lifecycle, catalogue, shards, roles, audit log.
//!
//! # Upload
//! 1. `begin_upload(manifest)` parses and checks the manifest, reserves space and returns the model's id. Calling it
//!    again with the same manifest returns the state of the same upload.
//! 2. `put_shard` in any order, in parallel, and again: each shard is checked against the manifest on arrival.
//! 3. `missing_shards` says what a resumed upload still has to send.
//! 4. `finish_upload` validates the whole; then an admin calls `activate`.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::digest::{Digest, ModelId};
use crate::field::FieldError;
use crate::lifecycle::{ModelOperation, ModelStatus};

/// Largest shard file in bytes, header included: a 2 MiB message with room for its envelope.
pub const MAX_SHARD_BYTES: u64 = 1_900_000;

/// Largest manifest in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1_500_000;

/// Most shards in a model: 64 GB at the largest shard size, far above what one canister's heap can run.
pub const MAX_SHARDS: u32 = 34_000;

/// Bytes that one uploader may have reserved in models it began and that still exist.
pub const UPLOADER_QUOTA_BYTES: u64 = 32 << 30;

/// Longest reason of a deprecation, in bytes.
pub const MAX_REASON_BYTES: usize = 1_000;

/// Argument of the canister's installation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelInitArgs {
    /// The first admins. At least one; none of them anonymous.
    pub admins: Vec<Principal>,
}

/// What a principal may do in the repository.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Grants and revokes roles, activates and deprecates models, and whatever an uploader may do.
    Admin,
    /// Begins uploads and works on its own Pending models.
    Uploader,
}

/// A role and who has it.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleGrant {
    /// Who has the role.
    pub principal: Principal,
    /// The role.
    pub role: Role,
}

/// Page request of `list_roles`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListRolesArgs {
    /// The last grant of the page before.
    pub after: Option<RoleGrant>,
    /// Most grants to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_roles`, ordered by principal and role.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RolePage {
    /// The grants.
    pub grants: Vec<RoleGrant>,
    /// `after` of the next page.
    pub next: Option<RoleGrant>,
}

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
    /// Whether `finish_upload` has validated the model.
    pub validated: bool,
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

/// Argument of `deprecate`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DeprecateArgs {
    /// The model.
    pub model_id: ModelId,
    /// Why; shown in the catalogue. 1 to [`MAX_REASON_BYTES`] bytes.
    pub reason: String,
}

/// A model as the catalogue shows it. The manifest says the rest.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
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
    /// When `finish_upload` validated the model.
    pub validated_at_ns: Option<u64>,
    /// When the model became Active.
    pub activated_at_ns: Option<u64>,
    /// When and why the model was deprecated.
    pub deprecation: Option<Deprecation>,
}

/// When and why a model was deprecated.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// The admin's reason.
    pub reason: String,
}

/// Page request of `list_models`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListModelsArgs {
    /// Only models of this status. Pending models are listed to their uploader and to admins only.
    pub status: Option<ModelStatus>,
    /// The last id of the page before.
    pub after: Option<ModelId>,
    /// Most records to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_models`, ordered by id.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelPage {
    /// The records.
    pub models: Vec<ModelRecord>,
    /// `after` of the next page.
    pub next: Option<ModelId>,
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

/// A state change, as the audit log keeps it.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    /// The canister was installed.
    Installed {
        /// The first admins.
        admins: Vec<Principal>,
    },
    /// The canister was upgraded.
    Upgraded {
        /// Version of the code that runs since.
        version: String,
    },
    /// A role was granted.
    RoleGranted(RoleGrant),
    /// A role was revoked.
    RoleRevoked(RoleGrant),
    /// An upload began.
    UploadBegun {
        /// The model.
        model_id: ModelId,
    },
    /// A shard was stored.
    ShardStored {
        /// The model.
        model_id: ModelId,
        /// The shard's index.
        index: u32,
    },
    /// An upload was validated.
    UploadFinished {
        /// The model.
        model_id: ModelId,
    },
    /// An upload was dropped and its space freed.
    UploadDiscarded {
        /// The model.
        model_id: ModelId,
    },
    /// A model became Active.
    Activated {
        /// The model.
        model_id: ModelId,
    },
    /// A model became Deprecated.
    Deprecated {
        /// The model.
        model_id: ModelId,
        /// The admin's reason.
        reason: String,
    },
}

impl AuditEvent {
    /// The text that the entry's hash covers: the event's name, then its fields, each ended by a line feed, free text
    /// with its length in front so that no two events share a text.
    pub fn canonical(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let grant =
            |name: &str, grant: &RoleGrant| format!("{name}\n{}\n{:?}\n", grant.principal, grant.role);
        let model = |name: &str, model_id: &ModelId| format!("{name}\n{model_id}\n");
        match self {
            Self::Installed { admins } => {
                text.push_str("installed\n");
                for admin in admins {
                    let _ = writeln!(text, "{admin}");
                }
            }
            Self::Upgraded { version } => {
                let _ = writeln!(text, "upgraded\n{}:{version}", version.len());
            }
            Self::RoleGranted(it) => text = grant("role_granted", it),
            Self::RoleRevoked(it) => text = grant("role_revoked", it),
            Self::UploadBegun { model_id } => text = model("upload_begun", model_id),
            Self::ShardStored { model_id, index } => {
                text = model("shard_stored", model_id);
                let _ = writeln!(text, "{index}");
            }
            Self::UploadFinished { model_id } => text = model("upload_finished", model_id),
            Self::UploadDiscarded { model_id } => text = model("upload_discarded", model_id),
            Self::Activated { model_id } => text = model("activated", model_id),
            Self::Deprecated { model_id, reason } => {
                text = model("deprecated", model_id);
                let _ = writeln!(text, "{}:{reason}", reason.len());
            }
        }
        text
    }
}

/// An entry of the audit log. Entries are only ever appended.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Position in the log, from 0.
    pub index: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Who caused the change.
    pub actor: Principal,
    /// What changed.
    pub event: AuditEvent,
    /// Hash of the entry before; [`Digest::ZERO`] for the first.
    pub previous: Digest,
    /// [`AuditEntry::digest`] of this entry.
    pub hash: Digest,
}

impl AuditEntry {
    /// Appends `event` to a log whose last entry is `last`.
    pub fn following(last: Option<&Self>, time_ns: u64, actor: Principal, event: AuditEvent) -> Self {
        let (index, previous) = last.map_or((0, Digest::ZERO), |last| (last.index + 1, last.hash));
        let mut entry = Self { index, time_ns, actor, event, previous, hash: Digest::ZERO };
        entry.hash = entry.digest();
        entry
    }

    /// The hash of the entry: SHA-256 of `ohms-audit-1`, the previous hash, the index and the time as little-endian
    /// `u64`, then the actor's text, a line feed, and [`AuditEvent::canonical`].
    pub fn digest(&self) -> Digest {
        let mut preimage = b"ohms-audit-1".to_vec();
        preimage.extend_from_slice(self.previous.as_bytes());
        preimage.extend_from_slice(&self.index.to_le_bytes());
        preimage.extend_from_slice(&self.time_ns.to_le_bytes());
        preimage.extend_from_slice(format!("{}\n{}", self.actor, self.event.canonical()).as_bytes());
        Digest::of(&preimage)
    }

    /// Whether this entry is what it claims to be and follows `last`.
    pub fn follows(&self, last: Option<&Self>) -> bool {
        let (index, previous) = last.map_or((0, Digest::ZERO), |last| (last.index + 1, last.hash));
        self.index == index && self.previous == previous && self.hash == self.digest()
    }
}

/// Page request of `audit_log`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AuditLogArgs {
    /// The last index of the page before.
    pub after: Option<u64>,
    /// Most entries to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `audit_log`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// `after` of the next page.
    pub next: Option<u64>,
}

/// Result of `status`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelCanisterStatus {
    /// Version of the canister's code.
    pub version: String,
    /// Models of any status.
    pub models: u64,
    /// Bytes reserved for manifests and shards.
    pub reserved_bytes: u64,
    /// Entries of the audit log.
    pub audit_entries: u64,
    /// Hash of the last entry of the audit log.
    pub audit_head: Digest,
    /// Cycles balance.
    pub cycles: u128,
}

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = AuditEvent> {
        let model_id = any::<[u8; 32]>().prop_map(Digest::new);
        let principal = prop::collection::vec(any::<u8>(), 0..29).prop_map(|b| Principal::from_slice(&b));
        prop_oneof![
            prop::collection::vec(principal.clone(), 0..4)
                .prop_map(|admins| AuditEvent::Installed { admins }),
            principal
                .prop_map(|principal| AuditEvent::RoleGranted(RoleGrant { principal, role: Role::Admin })),
            (model_id.clone(), any::<u32>())
                .prop_map(|(model_id, index)| AuditEvent::ShardStored { model_id, index }),
            (model_id, ".{0,20}").prop_map(|(model_id, reason)| AuditEvent::Deprecated { model_id, reason }),
        ]
    }

    proptest! {
        #[test]
        fn a_changed_log_does_not_verify(
            events in prop::collection::vec(event(), 1..12),
            at in any::<prop::sample::Index>(),
            other in event(),
        ) {
            let mut log: Vec<AuditEntry> = Vec::new();
            for (time, event) in events.into_iter().enumerate() {
                let entry = AuditEntry::following(log.last(), time as u64, Principal::anonymous(), event);
                log.push(entry);
            }
            let verifies = |log: &[AuditEntry]| {
                log.iter().enumerate().all(|(i, e)| e.follows(i.checked_sub(1).map(|p| &log[p])))
            };
            prop_assert!(verifies(&log));
            let at = at.index(log.len());
            prop_assume!(log[at].event != other);
            let head = log.last().unwrap().hash;
            log[at].event = other;
            prop_assert!(!verifies(&log));
            // Recomputing the chain from there on can't be hidden either: the head differs.
            for i in at..log.len() {
                log[i].previous = if i == 0 { Digest::ZERO } else { log[i - 1].hash };
                log[i].hash = log[i].digest();
            }
            prop_assert_ne!(log.last().unwrap().hash, head);
        }
    }
}
