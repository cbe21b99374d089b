//! Roles, keys, proposals.

use candid::Principal;
use shared_types::model::{
    ListProposalsArgs, ListRolesArgs, ModelError, Proposal, ProposalPage, ProposalSummary, RegisteredKey,
    RolePage,
};

use crate::repository::Repository;
use crate::state;

/// A page of the roles.
pub fn list_roles(args: &ListRolesArgs) -> RolePage {
    state::read(|repository| repository.roles().list(args))
}

/// The signing keys of an uploader.
pub fn list_keys(uploader: Principal) -> Vec<RegisteredKey> {
    state::read(|repository| repository.keys_of(uploader))
}

/// A page of the proposals.
pub fn list_proposals(args: &ListProposalsArgs) -> ProposalPage {
    state::read(|repository| repository.list_proposals(args))
}

/// A proposal.
///
/// # Errors
/// See [`crate::repository::Repository::get_proposal`].
pub fn get_proposal(id: u64) -> Result<Proposal, ModelError> {
    state::read(|repository| repository.get_proposal(id))
}

/// The rules, and who is there to follow them.
pub fn governance() -> ProposalSummary {
    state::read(Repository::governance)
}
