//! Roles that the owner defines.

use shared_types::coordinator::{CoordinatorError, RoleTemplate};

use super::command;
use crate::commands;
use crate::guards::signed_caller;

/// Defines a role.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::define_role`].
pub fn define_role(role: RoleTemplate) -> Result<(), CoordinatorError> {
    command(signed_caller()?, |workspace, _| commands::define_role(workspace, role).map(Some))
}

/// Removes a role.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::remove_role`].
pub fn remove_role(name: String) -> Result<(), CoordinatorError> {
    command(signed_caller()?, |workspace, _| commands::remove_role(workspace, name).map(Some))
}
