//! Rollouts of templates.

use ic_cdk::api::time;
use shared_types::factory::FactoryError;
use shared_types::factory::rollout::{BeginRolloutArgs, Rollout};

use crate::guards::require_admin;
use crate::{state, upkeep};

/// Begins to upgrade the agents to a committed template, stage by stage.
///
/// # Errors
/// Callers that are no admins are refused; [`FactoryError::UnknownTemplate`], [`FactoryError::TemplateIncomplete`], and see
/// [`crate::rollouts::Rollouts::begin`].
pub fn begin_rollout(args: BeginRolloutArgs) -> Result<Rollout, FactoryError> {
    require_admin()?;
    let rollout = state::mutate(|state| {
        state.templates.committed(Some(&args.template))?;
        let previous = state.default_template()?;
        state.rollouts.begin(args, previous, time())
    })?;
    upkeep::schedule();
    Ok(rollout)
}

/// Goes on to the next stage, or after a halt tries again what failed.
///
/// # Errors
/// Callers that are no admins are refused; [`FactoryError::NoRollout`].
pub fn advance_rollout() -> Result<Rollout, FactoryError> {
    require_admin()?;
    let rollout = state::mutate(|state| state.rollouts.advance())?;
    upkeep::schedule();
    Ok(rollout)
}

/// Brings the agents back to the template of before, which new agents get again at once.
///
/// # Errors
/// Callers that are no admins are refused; [`FactoryError::NoRollout`].
pub fn roll_back() -> Result<Rollout, FactoryError> {
    require_admin()?;
    let rollout = state::mutate(|state| {
        let rollout = state.rollouts.roll_back()?;
        state.set_default_template(rollout.previous);
        Ok::<_, FactoryError>(rollout)
    })?;
    upkeep::schedule();
    Ok(rollout)
}
