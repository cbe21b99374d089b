//! Roles and configuration.

use shared_types::ui::{SiteConfig, UiError, UiRoleGrant};

use crate::guards::update_context;
use crate::state;

/// Grants a role.
///
/// # Errors
/// See [`crate::site::Site::grant_role`].
pub fn grant_role(grant: UiRoleGrant) -> Result<(), UiError> {
    let context = update_context()?;
    state::mutate(|site| site.grant_role(&context, grant))
}

/// Revokes a role.
///
/// # Errors
/// See [`crate::site::Site::revoke_role`].
pub fn revoke_role(grant: UiRoleGrant) -> Result<(), UiError> {
    let context = update_context()?;
    state::mutate(|site| site.revoke_role(&context, grant))
}

/// Sets what the pages get to know, and certifies them anew.
///
/// # Errors
/// See [`crate::site::Site::configure`].
pub fn configure(config: SiteConfig) -> Result<(), UiError> {
    let context = update_context()?;
    state::mutate(|site| site.configure(&context, config))?;
    state::certify();
    Ok(())
}
