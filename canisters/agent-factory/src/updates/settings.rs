//! Limits, amounts, and who may have agents created for others.

use candid::Principal;
use shared_types::FieldError;
use shared_types::factory::{FactoryConfig, FactoryError, MAX_COORDINATORS};

use crate::guards::require_admin;
use crate::{state, upkeep};

/// Changes limits and amounts; agents that exist keep what they have.
///
/// # Errors
/// Callers that are no admins are refused; [`FactoryError::InvalidField`].
pub fn set_config(config: FactoryConfig) -> Result<(), FactoryError> {
    require_admin()?;
    config.validate().map_err(|error| {
        FactoryError::InvalidField(FieldError::new(format!("config.{}", error.field), error.reason))
    })?;
    state::mutate(|state| state.set_config(config));
    upkeep::schedule();
    Ok(())
}

/// Registers the coordinators, in the place of those before.
///
/// # Errors
/// Callers that are no admins are refused; [`FactoryError::InvalidField`] for too many, and for the anonymous principal.
pub fn set_coordinators(coordinators: Vec<Principal>) -> Result<(), FactoryError> {
    require_admin()?;
    let invalid = |reason: String| FactoryError::InvalidField(FieldError::new("coordinators", reason));
    if coordinators.len() > MAX_COORDINATORS {
        return Err(invalid(format!("are {}, at most {MAX_COORDINATORS} are allowed", coordinators.len())));
    }
    if coordinators.contains(&Principal::anonymous()) {
        return Err(invalid("the anonymous principal can't be one".to_owned()));
    }
    state::mutate(|state| state.set_coordinators(coordinators));
    Ok(())
}
