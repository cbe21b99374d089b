//! Installation and operation.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::governance::Policy;
use crate::digest::Digest;

/// Argument of the canister's installation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
pub struct ModelInitArgs {
    /// The first admins. At least one; none of them anonymous.
    pub admins: Vec<Principal>,
    /// The first owners, if any.
    pub owners: Option<Vec<Principal>>,
    /// The rules; absent for [`Policy::default`].
    pub policy: Option<Policy>,
}

/// Result of `status`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelCanisterStatus {
    /// Version of the canister's code.
    pub version: String,
    /// Version of the layout of stable memory.
    pub layout: u32,
    /// Models of any status.
    pub models: u64,
    /// Models that are being uploaded or wait for activation.
    pub pending: u64,
    /// Validations under way.
    pub validations: u64,
    /// Bytes reserved for manifests and shards.
    pub reserved_bytes: u64,
    /// Bytes that are left for manifests and shards.
    pub free_bytes: u64,
    /// Bytes of stable memory.
    pub stable_bytes: u64,
    /// Bytes of the heap.
    pub heap_bytes: u64,
    /// Proposals that can be approved.
    pub open_proposals: u64,
    /// Entries of the audit log.
    pub audit_entries: u64,
    /// Hash of the last entry of the audit log.
    pub audit_head: Digest,
    /// Cycles balance.
    pub cycles: u128,
}
