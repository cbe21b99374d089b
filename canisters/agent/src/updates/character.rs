//! What the agent is for, and its life.

use std::time::Duration;

use shared_types::agent::AgentError;
use shared_types::agent::phase::{AgentOperation, AgentPhase};
use shared_types::agent::profile::AgentProfile;

use crate::guards::require_owner;
use crate::{slices, state};

/// Says what the agent is for.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], [`AgentError::InvalidField`].
pub fn configure(profile: AgentProfile) -> Result<(), AgentError> {
    require_owner(AgentOperation::Configure)?;
    profile.validate()?;
    state::mutate(|state| state.set_profile(profile));
    Ok(())
}

/// Moves the agent on to another phase of its life. A pause lets its jobs rest; one that is archived has none.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], [`AgentError::NoSuchStep`], [`AgentError::OpenJobs`].
pub fn set_phase(next: AgentPhase) -> Result<(), AgentError> {
    require_owner(AgentOperation::Advance)?;
    state::mutate(|state| {
        let phase = state.character().phase;
        if phase == next {
            return Ok(());
        }
        if !phase.may_become(next) {
            return Err(AgentError::NoSuchStep { phase, next });
        }
        let jobs = state.jobs.queue().len();
        if next == AgentPhase::Archived && jobs > 0 {
            return Err(AgentError::OpenJobs { jobs });
        }
        match next {
            AgentPhase::Paused => state.jobs.set_queue_paused(true),
            // What it has it finishes.
            AgentPhase::Active | AgentPhase::Deprecated => state.jobs.set_queue_paused(false),
            _ => {}
        }
        state.set_phase(next);
        Ok(())
    })?;
    slices::schedule(Duration::ZERO);
    Ok(())
}
