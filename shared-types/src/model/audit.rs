//! The audit log: every change of state, append-only, each entry with the hash of the one before.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::catalogue::Proof;
use super::governance::{Policy, ProposalAction};
use super::roles::RoleGrant;
use crate::digest::{Digest, ModelId};

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
    /// Validation ended.
    Validated {
        /// The model.
        model_id: ModelId,
        /// Whether every check passed.
        passed: bool,
        /// [`ValidationReport::hash`](super::ValidationReport::hash).
        report: Digest,
    },
    /// An upload that nobody worked on was dropped and its space freed.
    UploadCollected {
        /// The model.
        model_id: ModelId,
    },
    /// A proposal was made.
    ProposalMade {
        /// Its number.
        id: u64,
        /// What it would do.
        action: ProposalAction,
    },
    /// Somebody approved a proposal.
    ProposalApproved {
        /// Its number.
        id: u64,
    },
    /// Somebody rejected a proposal.
    ProposalOpposed {
        /// Its number.
        id: u64,
    },
    /// A proposal was done; what it changed has an entry of its own, before this one.
    ProposalExecuted {
        /// Its number.
        id: u64,
    },
    /// A proposal was approved, but could no longer be done.
    ProposalFailed {
        /// Its number.
        id: u64,
        /// Why not.
        reason: String,
    },
    /// A proposal was rejected or taken back.
    ProposalRejected {
        /// Its number.
        id: u64,
    },
    /// The time of a proposal was over.
    ProposalExpired {
        /// Its number.
        id: u64,
    },
    /// The rules were changed.
    PolicySet(Policy),
    /// An uploader's quota was changed.
    QuotaSet {
        /// The uploader.
        uploader: Principal,
        /// Bytes; absent for what the policy says.
        bytes: Option<u64>,
    },
    /// A signing key was registered for the actor.
    KeyRegistered {
        /// The key, in hexadecimal.
        public_key: String,
    },
    /// A signing key was taken off.
    KeyRevoked {
        /// Whose it was.
        uploader: Principal,
        /// The key, in hexadecimal.
        public_key: String,
    },
    /// Another repository is known.
    RepositoryAdded {
        /// Its canister.
        canister: Principal,
    },
    /// Another repository was forgotten.
    RepositoryRemoved {
        /// Its canister.
        canister: Principal,
    },
    /// An event that a newer version of the canister recorded, and this one knows by its text alone.
    Unknown {
        /// [`AuditEvent::canonical`] of that version.
        canonical: String,
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
        let proposal = |end: &str, id: u64| format!("proposal_{end}\n{id}\n");
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
            Self::Validated { model_id, passed, report } => {
                text = model("validated", model_id);
                let _ = writeln!(text, "{passed}\n{report}");
            }
            Self::UploadCollected { model_id } => text = model("upload_collected", model_id),
            Self::ProposalMade { id, action } => {
                let _ = write!(text, "proposal_made\n{id}\n{}", action.canonical());
            }
            Self::ProposalApproved { id } => text = proposal("approved", *id),
            Self::ProposalOpposed { id } => text = proposal("opposed", *id),
            Self::ProposalExecuted { id } => text = proposal("executed", *id),
            Self::ProposalFailed { id, reason } => {
                text = proposal("failed", *id);
                let _ = writeln!(text, "{}:{reason}", reason.len());
            }
            Self::ProposalRejected { id } => text = proposal("rejected", *id),
            Self::ProposalExpired { id } => text = proposal("expired", *id),
            Self::PolicySet(policy) => {
                let _ = write!(text, "policy_set\n{}", policy.canonical());
            }
            Self::QuotaSet { uploader, bytes } => {
                let _ = writeln!(text, "quota_set\n{uploader}\n{bytes:?}");
            }
            Self::KeyRegistered { public_key } => {
                let _ = writeln!(text, "key_registered\n{public_key}");
            }
            Self::KeyRevoked { uploader, public_key } => {
                let _ = writeln!(text, "key_revoked\n{uploader}\n{public_key}");
            }
            Self::RepositoryAdded { canister } => {
                let _ = writeln!(text, "repository_added\n{canister}");
            }
            Self::RepositoryRemoved { canister } => {
                let _ = writeln!(text, "repository_removed\n{canister}");
            }
            Self::Unknown { canonical } => text.clone_from(canonical),
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
    /// The head of the log.
    pub head: AuditHead,
    /// What proves the head; absent where the method is not called as a query.
    pub proof: Option<Proof>,
}

/// The head of the audit log, which stands for all of it.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// Entries in the log.
    pub entries: u64,
    /// Hash of the last one; [`Digest::ZERO`] for an empty log.
    pub hash: Digest,
}

impl AuditHead {
    /// The bytes of the certified leaf `/audit`.
    pub fn to_bytes(self) -> Vec<u8> {
        [&self.entries.to_be_bytes()[..], self.hash.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::roles::Role;
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
            (model_id.clone(), ".{0,20}")
                .prop_map(|(model_id, reason)| AuditEvent::Deprecated { model_id, reason }),
            (model_id, any::<u64>(), ".{0,20}").prop_map(|(model_id, id, reason)| {
                AuditEvent::ProposalMade { id, action: ProposalAction::Deprecate { model_id, reason } }
            }),
            (any::<u64>(), ".{0,20}").prop_map(|(id, reason)| AuditEvent::ProposalFailed { id, reason }),
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
