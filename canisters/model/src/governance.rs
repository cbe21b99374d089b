//! Proposals: made, approved, rejected, done. See `shared_types::model::governance` for the rules in words.

use candid::Principal;
use canister_common::cbor::Extensible;
use ed25519_dalek::{Signature, VerifyingKey};
use ic_stable_structures::{Memory, StableBTreeMap};
use serde_bytes::ByteBuf;
use shared_types::lifecycle::ModelOperation;
use shared_types::model::{
    AuditEvent, Deprecation, ListProposalsArgs, MAX_OPEN_PROPOSALS, MAX_REASON_BYTES, ModelError, Policy,
    Proposal, ProposalAction, ProposalPage, ProposalState, ProposalSummary, RegisterKeyArgs, RegisteredKey,
    Role, RoleGrant, Validation, key_possession_message,
};
use shared_types::{FieldError, ModelId, paging};

use crate::guards::CallContext;
use crate::repository::{Repository, key_bytes, require_status};

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// All proposals, by number. Those that are open are known in the heap as well.
pub struct Proposals<M: Memory> {
    all: StableBTreeMap<u64, Extensible<Proposal>, M>,
    /// Numbers of the open ones; a cache of `all`.
    open: Vec<u64>,
}

impl<M: Memory> Proposals<M> {
    /// Opens the proposals that `memory` holds.
    pub fn init(memory: M) -> Self {
        let all: StableBTreeMap<u64, Extensible<Proposal>, M> = StableBTreeMap::init(memory);
        let open = all.iter().filter(|entry| entry.value().state == ProposalState::Open);
        let open = open.map(|entry| *entry.key()).collect();
        Self { all, open }
    }

    fn get(&self, id: u64) -> Result<Extensible<Proposal>, ModelError> {
        self.all.get(&id).ok_or(ModelError::UnknownProposal { id })
    }

    fn put(&mut self, proposal: Extensible<Proposal>) {
        let id = proposal.id;
        self.open.retain(|open| *open != id);
        if proposal.state == ProposalState::Open {
            self.open.push(id);
        }
        self.all.insert(id, proposal);
    }

    fn all_open(&self) -> impl Iterator<Item = Extensible<Proposal>> {
        self.open.iter().filter_map(|id| self.all.get(id))
    }

    /// Proposals that can be approved.
    pub fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// Whether an open proposal is about the model.
    pub fn concerns(&self, model_id: &ModelId) -> bool {
        self.all_open().any(|proposal| match &proposal.action {
            ProposalAction::Activate { model_id: it } | ProposalAction::Deprecate { model_id: it, .. } => {
                it == model_id
            }
            _ => false,
        })
    }

    /// A page of the proposals, the newest first.
    pub fn list(&self, args: &ListProposalsArgs) -> ProposalPage {
        let before = args.before.unwrap_or(u64::MAX);
        let (proposals, next) = if args.open_only {
            let mut open: Vec<u64> = self.open.iter().copied().filter(|id| *id < before).collect();
            open.sort_unstable_by(|a, b| b.cmp(a));
            let rest = open.into_iter().filter_map(|id| self.all.get(&id)).map(Extensible::into_inner);
            paging::page(rest, args.limit, |proposal| proposal.id)
        } else {
            let rest = self.all.range(..before).rev().map(|entry| entry.value().into_inner());
            paging::page(rest, args.limit, |proposal| proposal.id)
        };
        ProposalPage { proposals, next }
    }
}

impl Repository {
    /// Makes a proposal. One of somebody who votes is approved by it, so that it is executed at once where one approval is
    /// enough. A proposal to do what an open one would do is an approval of that one.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller votes, or proposes to activate its own upload;
    /// [`ModelError::TooMany`]; and why the action can't be done: nothing is stored then.
    pub fn propose(&mut self, context: &CallContext, action: ProposalAction) -> Result<Proposal, ModelError> {
        match &action {
            ProposalAction::Activate { model_id } if self.roles.has(context.caller, Role::Uploader) => {
                let entry = self.entry(model_id)?;
                self.require_uploader_of(context, &entry.record)?;
            }
            _ => self.roles.require(context.caller, Role::Admin)?,
        }
        self.check_action(&action)?;
        self.expire_proposals(context);
        let same = self.proposals.all_open().find(|proposal| proposal.action == action);
        if let Some(same) = same {
            let votes = self.roles.votes(context.caller);
            return if votes { self.approve(context, same.id) } else { Ok(same.into_inner()) };
        }
        if self.proposals.open() >= u64::from(MAX_OPEN_PROPOSALS) {
            let limit = u64::from(MAX_OPEN_PROPOSALS);
            return Err(ModelError::TooMany { what: "open proposals".to_owned(), limit });
        }
        let id = self.proposals.all.last_key_value().map_or(1, |(last, _)| last + 1);
        let ttl = self.policy().proposal_ttl_seconds.saturating_mul(SECOND_NS);
        let proposal = Proposal {
            id,
            action: action.clone(),
            proposer: context.caller,
            created_at_ns: context.now_ns,
            expires_at_ns: context.now_ns.saturating_add(ttl),
            approvals: Vec::new(),
            rejections: Vec::new(),
            state: ProposalState::Open,
        };
        self.proposals.put(Extensible::new(proposal.clone()));
        self.record(context, AuditEvent::ProposalMade { id, action });
        if self.roles.votes(context.caller) { self.approve(context, id) } else { Ok(proposal) }
    }

    /// Approves a proposal, which is executed if that was the last approval that it needed. Approving again looks once more
    /// whether there are enough.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller votes; [`ModelError::UnknownProposal`],
    /// [`ModelError::ProposalClosed`].
    pub fn approve(&mut self, context: &CallContext, id: u64) -> Result<Proposal, ModelError> {
        let mut proposal = self.open_proposal(context, id)?;
        let caller = context.caller;
        if !proposal.approvals.contains(&caller) {
            proposal.approvals.push(caller);
            proposal.rejections.retain(|other| *other != caller);
            self.record(context, AuditEvent::ProposalApproved { id });
        }
        let approvals = proposal.approvals.iter().filter(|who| self.roles.votes(**who)).count();
        if approvals as u64 >= u64::from(self.policy().approvals) {
            let at_ns = context.now_ns;
            proposal.state = match self.execute(context, &proposal.action) {
                Ok(()) => {
                    self.record(context, AuditEvent::ProposalExecuted { id });
                    ProposalState::Executed { at_ns }
                }
                Err(error) => {
                    let reason = error.to_string();
                    self.record(context, AuditEvent::ProposalFailed { id, reason: reason.clone() });
                    ProposalState::Failed { at_ns, reason }
                }
            };
        }
        self.proposals.put(proposal.clone());
        Ok(proposal.into_inner())
    }

    /// Rejects a proposal. It ends when its proposer takes it back, when an owner rejects it (but for one that takes the role from
    /// this owner), and when those who have not rejected it are too few.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller votes or made it; [`ModelError::UnknownProposal`],
    /// [`ModelError::ProposalClosed`].
    pub fn reject(&mut self, context: &CallContext, id: u64) -> Result<Proposal, ModelError> {
        let caller = context.caller;
        let made_it = self.proposals.get(id).is_ok_and(|proposal| proposal.proposer == caller);
        let mut proposal =
            if made_it { self.still_open(context, id)? } else { self.open_proposal(context, id)? };
        if !proposal.rejections.contains(&caller) {
            proposal.rejections.push(caller);
            proposal.approvals.retain(|other| *other != caller);
            self.record(context, AuditEvent::ProposalOpposed { id });
        }
        let own_role = RoleGrant { principal: caller, role: Role::Owner };
        let veto =
            self.roles.has(caller, Role::Owner) && proposal.action != ProposalAction::RevokeRole(own_role);
        let rejections = proposal.rejections.iter().filter(|who| self.roles.votes(**who)).count() as u32;
        let left = self.roles.voters().saturating_sub(rejections);
        if made_it || veto || left < self.policy().approvals {
            proposal.state = ProposalState::Rejected { at_ns: context.now_ns };
            self.record(context, AuditEvent::ProposalRejected { id });
        }
        self.proposals.put(proposal.clone());
        Ok(proposal.into_inner())
    }

    /// The proposal, if it is open and the caller votes.
    fn open_proposal(&mut self, context: &CallContext, id: u64) -> Result<Extensible<Proposal>, ModelError> {
        self.roles.require(context.caller, Role::Admin)?;
        self.still_open(context, id)
    }

    fn still_open(&mut self, context: &CallContext, id: u64) -> Result<Extensible<Proposal>, ModelError> {
        let proposal = self.proposals.get(id)?;
        match &proposal.state {
            // Nothing is stored here: a call that is refused changes nothing. The timer ends the proposal.
            ProposalState::Open if context.now_ns >= proposal.expires_at_ns => {
                Err(ModelError::ProposalClosed { id, state: ProposalState::Expired })
            }
            ProposalState::Open => Ok(proposal),
            state => Err(ModelError::ProposalClosed { id, state: state.clone() }),
        }
    }

    /// Ends the proposals whose time is over.
    pub fn expire_proposals(&mut self, context: &CallContext) {
        let over: Vec<_> =
            self.proposals.all_open().filter(|proposal| context.now_ns >= proposal.expires_at_ns).collect();
        for mut proposal in over {
            let id = proposal.id;
            proposal.state = ProposalState::Expired;
            self.proposals.put(proposal);
            self.record(context, AuditEvent::ProposalExpired { id });
        }
    }

    /// A page of the proposals.
    pub fn list_proposals(&self, args: &ListProposalsArgs) -> ProposalPage {
        self.proposals.list(args)
    }

    /// A proposal.
    ///
    /// # Errors
    /// [`ModelError::UnknownProposal`].
    pub fn get_proposal(&self, id: u64) -> Result<Proposal, ModelError> {
        self.proposals.get(id).map(Extensible::into_inner)
    }

    /// The rules, and who is there to follow them.
    pub fn governance(&self) -> ProposalSummary {
        ProposalSummary {
            policy: self.policy(),
            voters: self.roles.voters(),
            open: self.proposals.open() as u32,
            proposals: self.proposals.all.len(),
        }
    }

    /// Whether `action` can be done now.
    fn check_action(&self, action: &ProposalAction) -> Result<(), ModelError> {
        match action {
            ProposalAction::Activate { model_id } => {
                let entry = self.entry(model_id)?;
                require_status(&entry.record, ModelOperation::Activate)?;
                match entry.record.validation {
                    Validation::Passed { .. } => {}
                    Validation::NotStarted => return Err(ModelError::NotValidated),
                    Validation::Running { .. } => return Err(ModelError::ValidationRunning),
                    Validation::Failed { .. } => {
                        let reason = self.first_failure(model_id).unwrap_or_default();
                        return Err(ModelError::ValidationFailed { reason });
                    }
                }
                self.check_version(&entry.record)
            }
            ProposalAction::Deprecate { model_id, reason } => {
                FieldError::check_text("reason", reason, MAX_REASON_BYTES)
                    .map_err(ModelError::InvalidField)?;
                require_status(&self.entry(model_id)?.record, ModelOperation::Deprecate).map(|_| ())
            }
            ProposalAction::GrantRole(grant) => {
                if grant.principal == Principal::anonymous() {
                    let reason = "the anonymous principal can't have a role";
                    return Err(ModelError::InvalidField(FieldError::new("principal", reason)));
                }
                self.roles.check_grant(*grant)
            }
            ProposalAction::RevokeRole(grant) => self.roles.check_revocation(*grant, self.policy().approvals),
            ProposalAction::SetPolicy(policy) => {
                policy.check().map_err(ModelError::InvalidField)?;
                let (approvals, voters) = (policy.approvals, self.roles.voters());
                if approvals > voters {
                    return Err(ModelError::ThresholdOutOfReach { approvals, voters });
                }
                Ok(())
            }
            ProposalAction::AddRepository { canister } => self.index.check_add(*canister),
            ProposalAction::SetQuota { .. } | ProposalAction::RemoveRepository { .. } => Ok(()),
        }
    }

    /// Does what was approved, and records it.
    fn execute(&mut self, context: &CallContext, action: &ProposalAction) -> Result<(), ModelError> {
        self.check_action(action)?;
        match action {
            ProposalAction::Activate { model_id } => {
                let mut entry = self.entry(model_id)?;
                entry.record.status = require_status(&entry.record, ModelOperation::Activate)?;
                entry.record.activated_at_ns = Some(context.now_ns);
                self.pending.remove(model_id.as_bytes());
                self.add_version(&entry.record);
                self.put_entry(entry);
                self.record(context, AuditEvent::Activated { model_id: *model_id });
            }
            ProposalAction::Deprecate { model_id, reason } => {
                let mut entry = self.entry(model_id)?;
                entry.record.status = require_status(&entry.record, ModelOperation::Deprecate)?;
                entry.record.deprecation =
                    Some(Deprecation { at_ns: context.now_ns, reason: reason.clone() });
                let name = entry.record.name.clone();
                self.put_entry(entry);
                self.certify_latest(&name);
                let reason = reason.clone();
                self.record(context, AuditEvent::Deprecated { model_id: *model_id, reason });
            }
            ProposalAction::GrantRole(grant) => {
                if self.roles.grant(*grant) {
                    self.record(context, AuditEvent::RoleGranted(*grant));
                }
            }
            ProposalAction::RevokeRole(grant) => {
                if self.roles.revoke(*grant) {
                    self.record(context, AuditEvent::RoleRevoked(*grant));
                }
            }
            ProposalAction::SetPolicy(policy) => self.set_policy(context, *policy),
            ProposalAction::SetQuota { uploader, bytes } => {
                match bytes {
                    Some(bytes) => self.quotas.insert(*uploader, *bytes),
                    None => self.quotas.remove(uploader),
                };
                self.record(context, AuditEvent::QuotaSet { uploader: *uploader, bytes: *bytes });
            }
            ProposalAction::AddRepository { canister } => {
                if self.index.add(*canister) {
                    self.record(context, AuditEvent::RepositoryAdded { canister: *canister });
                }
            }
            ProposalAction::RemoveRepository { canister } => {
                if self.index.remove(*canister) {
                    self.record(context, AuditEvent::RepositoryRemoved { canister: *canister });
                }
            }
        }
        Ok(())
    }

    fn set_policy(&mut self, context: &CallContext, policy: Policy) {
        self.settings.set_policy(policy);
        self.record(context, AuditEvent::PolicySet(policy));
    }

    /// Registers a signing key for the caller; registering it again changes nothing.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an uploader; [`ModelError::InvalidField`],
    /// [`ModelError::NotPossessed`], [`ModelError::KeyTaken`], [`ModelError::TooMany`].
    pub fn register_key(
        &mut self,
        context: &CallContext,
        repository: Principal,
        args: &RegisterKeyArgs,
    ) -> Result<(), ModelError> {
        self.roles.require(context.caller, Role::Uploader)?;
        let key: [u8; 32] = key_bytes("public_key", &args.public_key)?;
        let possession: [u8; 64] = key_bytes("possession", &args.possession)?;
        let message = key_possession_message(repository, context.caller);
        let verifying = VerifyingKey::from_bytes(&key).map_err(|_| ModelError::NotPossessed)?;
        verifying
            .verify_strict(&message, &Signature::from_bytes(&possession))
            .map_err(|_| ModelError::NotPossessed)?;
        if self.keys.register(key, context.caller)? {
            self.record(context, AuditEvent::KeyRegistered { public_key: hex::encode(key) });
        }
        Ok(())
    }

    /// The signing keys that `uploader` has registered.
    pub fn keys_of(&self, uploader: Principal) -> Vec<RegisteredKey> {
        let keys = self.keys.of(uploader).into_iter();
        keys.map(|key| RegisteredKey { public_key: ByteBuf::from(key), uploader }).collect()
    }

    /// Takes a signing key off: an uploader its own, an admin anybody's. Models that it signed keep their status.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`], [`ModelError::InvalidField`], [`ModelError::UnknownKey`].
    pub fn revoke_key(&mut self, context: &CallContext, public_key: &[u8]) -> Result<(), ModelError> {
        self.roles.require(context.caller, Role::Uploader)?;
        let key: [u8; 32] = key_bytes("public_key", public_key)?;
        let uploader = self.keys.uploader(&key).ok_or(ModelError::UnknownKey)?;
        if uploader != context.caller {
            self.roles.require(context.caller, Role::Admin)?;
        }
        self.keys.remove(&key);
        self.record(context, AuditEvent::KeyRevoked { uploader, public_key: hex::encode(key) });
        Ok(())
    }
}

#[cfg(test)]
#[path = "governance_tests.rs"]
mod tests;
