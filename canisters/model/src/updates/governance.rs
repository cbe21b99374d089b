//! Proposals and keys.

use shared_types::model::{ModelError, Proposal, ProposalAction, ProposalState, RegisterKeyArgs};

use crate::guards::update_context;
use crate::{state, timers};

/// Makes a proposal.
///
/// # Errors
/// See [`crate::repository::Repository::propose`].
pub fn propose(action: ProposalAction) -> Result<Proposal, ModelError> {
    let context = update_context()?;
    let proposal = state::mutate(|repository| repository.propose(&context, action))?;
    done(&proposal);
    Ok(proposal)
}

/// Approves a proposal.
///
/// # Errors
/// See [`crate::repository::Repository::approve`].
pub fn approve(id: u64) -> Result<Proposal, ModelError> {
    let context = update_context()?;
    let proposal = state::mutate(|repository| repository.approve(&context, id))?;
    done(&proposal);
    Ok(proposal)
}

/// Begins what follows from a proposal that was done: a new repository is read at once.
fn done(proposal: &Proposal) {
    let added = matches!(proposal.action, ProposalAction::AddRepository { .. });
    if added && matches!(proposal.state, ProposalState::Executed { .. }) {
        timers::start_sync();
    }
}

/// Rejects a proposal.
///
/// # Errors
/// See [`crate::repository::Repository::reject`].
pub fn reject(id: u64) -> Result<Proposal, ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.reject(&context, id))
}

/// Registers a signing key for the caller.
///
/// # Errors
/// See [`crate::repository::Repository::register_key`].
pub fn register_key(args: &RegisterKeyArgs) -> Result<(), ModelError> {
    let context = update_context()?;
    let this = ic_cdk::api::canister_self();
    state::mutate(|repository| repository.register_key(&context, this, args))
}

/// Takes a signing key off.
///
/// # Errors
/// See [`crate::repository::Repository::revoke_key`].
pub fn revoke_key(public_key: &[u8]) -> Result<(), ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.revoke_key(&context, public_key))
}
