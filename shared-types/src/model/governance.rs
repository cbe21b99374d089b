//! Decisions by several admins: activation, deprecation, roles and the rules themselves.
//!
//! A proposal is executed once as many distinct principals who vote (admins and owners, as they are then) have approved it as the
//! policy wants. It ends before that when an owner rejects it, when its proposer takes it back, when so many reject it that
//! the others are too few, or when its time is over.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::roles::RoleGrant;
use crate::digest::ModelId;
use crate::field::FieldError;

/// The rules of a repository. Only a proposal changes them.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Distinct principals that have to approve a proposal; at least 1, at most the number of those who vote.
    pub approvals: u32,
    /// Seconds for which a proposal may be approved.
    pub proposal_ttl_seconds: u64,
    /// Whether models without a signature fail validation.
    pub require_signature: bool,
    /// Bytes that an uploader may have stored, unless it has a quota of its own.
    pub uploader_quota_bytes: u64,
    /// Seconds after which an upload that nobody works on is dropped.
    pub abandoned_after_seconds: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            approvals: 1,
            proposal_ttl_seconds: 7 * 86_400,
            require_signature: true,
            uploader_quota_bytes: 32 << 30,
            abandoned_after_seconds: 7 * 86_400,
        }
    }
}

impl Policy {
    /// Shortest and longest of the times, in seconds: a minute, a year.
    pub const SECONDS: std::ops::RangeInclusive<u64> = 60..=366 * 86_400;

    /// Checks what does not depend on the number of those who vote.
    ///
    /// # Errors
    /// The field that is out of range.
    pub fn check(&self) -> Result<(), FieldError> {
        if self.approvals == 0 {
            return Err(FieldError::new("approvals", "is 0, the least is 1"));
        }
        for (field, seconds) in [
            ("proposal_ttl_seconds", self.proposal_ttl_seconds),
            ("abandoned_after_seconds", self.abandoned_after_seconds),
        ] {
            if !Self::SECONDS.contains(&seconds) {
                let (least, most) = (Self::SECONDS.start(), Self::SECONDS.end());
                return Err(FieldError::new(field, format!("is {seconds}, not within {least}..={most}")));
            }
        }
        Ok(())
    }

    /// The text that the audit log hashes.
    pub(super) fn canonical(&self) -> String {
        let Self {
            approvals,
            proposal_ttl_seconds: ttl,
            require_signature,
            uploader_quota_bytes: quota,
            abandoned_after_seconds: abandoned,
        } = self;
        format!("{approvals}\n{ttl}\n{require_signature}\n{quota}\n{abandoned}\n")
    }
}

/// What a proposal would do.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ProposalAction {
    /// Make a validated model available to agents.
    Activate {
        /// The model.
        model_id: ModelId,
    },
    /// Withdraw an Active model.
    Deprecate {
        /// The model.
        model_id: ModelId,
        /// Why; shown in the catalogue. 1 to [`super::MAX_REASON_BYTES`] bytes.
        reason: String,
    },
    /// Give a role.
    GrantRole(RoleGrant),
    /// Take a role.
    RevokeRole(RoleGrant),
    /// Change the rules.
    SetPolicy(Policy),
    /// Give an uploader a quota of its own, or take it back.
    SetQuota {
        /// The uploader.
        uploader: Principal,
        /// Bytes; absent for what the policy says.
        bytes: Option<u64>,
    },
    /// Have this repository know another one, so that it tells where models are and where there is room.
    AddRepository {
        /// The other one's canister.
        canister: Principal,
    },
    /// Have it forget one.
    RemoveRepository {
        /// The other one's canister.
        canister: Principal,
    },
}

impl ProposalAction {
    /// The text that the audit log hashes: the action's name, then its fields, each ended by a line feed, free text with its length
    /// in front.
    pub(super) fn canonical(&self) -> String {
        match self {
            Self::Activate { model_id } => format!("activate\n{model_id}\n"),
            Self::Deprecate { model_id, reason } => {
                format!("deprecate\n{model_id}\n{}:{reason}\n", reason.len())
            }
            Self::GrantRole(it) => format!("grant_role\n{}\n{:?}\n", it.principal, it.role),
            Self::RevokeRole(it) => format!("revoke_role\n{}\n{:?}\n", it.principal, it.role),
            Self::SetPolicy(policy) => format!("set_policy\n{}", policy.canonical()),
            Self::SetQuota { uploader, bytes } => format!("set_quota\n{uploader}\n{bytes:?}\n"),
            Self::AddRepository { canister } => format!("add_repository\n{canister}\n"),
            Self::RemoveRepository { canister } => format!("remove_repository\n{canister}\n"),
        }
    }
}

/// Where a proposal stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ProposalState {
    /// It can be approved.
    Open,
    /// It was done.
    Executed {
        /// Nanoseconds since 1970.
        at_ns: u64,
    },
    /// It was approved, but could no longer be done.
    Failed {
        /// Nanoseconds since 1970.
        at_ns: u64,
        /// Why not.
        reason: String,
    },
    /// It was rejected or taken back.
    Rejected {
        /// Nanoseconds since 1970.
        at_ns: u64,
    },
    /// Its time was over.
    Expired,
}

/// A proposal.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its number, from 1.
    pub id: u64,
    /// What it would do.
    pub action: ProposalAction,
    /// Who made it.
    pub proposer: Principal,
    /// Nanoseconds since 1970.
    pub created_at_ns: u64,
    /// When it can no longer be approved.
    pub expires_at_ns: u64,
    /// Who approved it.
    pub approvals: Vec<Principal>,
    /// Who rejected it.
    pub rejections: Vec<Principal>,
    /// Where it stands.
    pub state: ProposalState,
}

/// Page request of `list_proposals`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListProposalsArgs {
    /// Only those that can be approved.
    pub open_only: bool,
    /// The number of the last proposal of the page before.
    pub before: Option<u64>,
    /// Most proposals to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_proposals`, the newest first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ProposalPage {
    /// The proposals.
    pub proposals: Vec<Proposal>,
    /// `before` of the next page.
    pub next: Option<u64>,
}

/// Result of `governance`: the rules, and who is there to follow them.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposalSummary {
    /// The rules.
    pub policy: Policy,
    /// Principals that vote.
    pub voters: u32,
    /// Proposals that can be approved.
    pub open: u32,
    /// Proposals in all.
    pub proposals: u64,
}
