//! Granting and revoking roles.

use shared_types::model::{ModelError, RoleGrant};

use crate::guards::update_context;
use crate::state;

/// Grants a role.
///
/// # Errors
/// See [`crate::repository::Repository::grant_role`].
pub fn grant_role(grant: RoleGrant) -> Result<(), ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.grant_role(&context, grant))
}

/// Revokes a role.
///
/// # Errors
/// See [`crate::repository::Repository::revoke_role`].
pub fn revoke_role(grant: RoleGrant) -> Result<(), ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.revoke_role(&context, grant))
}
