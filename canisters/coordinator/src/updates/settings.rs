//! Limits and times.

use shared_types::coordinator::{CoordinatorConfig, CoordinatorError};

use crate::guards::require_admin;
use crate::state;

/// Changes limits and times; what was planned before keeps its plan.
///
/// # Errors
/// Callers that are no admins are refused; [`CoordinatorError::InvalidField`].
pub fn set_config(config: CoordinatorConfig) -> Result<(), CoordinatorError> {
    require_admin()?;
    config.validate().map_err(CoordinatorError::InvalidField)?;
    state::mutate(|state| state.set_config(config));
    Ok(())
}
