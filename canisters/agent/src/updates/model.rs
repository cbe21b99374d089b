//! Loading the model, and working with it.

use std::time::Duration;

use ic_cdk::api::{performance_counter, time};
use shared_types::agent::{AgentError, LoadState};

use crate::guards::{require_owner, require_self};
use crate::{slices, state};

/// Begins to load the model, or begins again after a failure, without waiting for a job.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn load_model() -> Result<LoadState, AgentError> {
    require_owner()?;
    let load = state::mutate(|state| {
        state.store.begin(time());
        state.store.state().clone()
    });
    slices::schedule(Duration::ZERO);
    Ok(load)
}

/// Works on the job whose turn it is, within the slice's budget.
///
/// # Errors
/// [`AgentError::Unauthorized`] unless the canister calls itself.
pub fn run_slice() -> Result<(), AgentError> {
    require_self()?;
    let worked = state::mutate(|state| {
        let Some(job_id) = state.jobs.queue().in_service() else { return Ok(()) };
        // Each further attempt of a slice that trapped has half the budget: if the instruction limit was the reason, it
        // is not met again.
        let halvings = state.jobs.attempt(job_id).saturating_sub(1);
        let budget = state.settings().config.slice_instructions >> halvings.min(32);
        let meter = || performance_counter(0);
        let worked = state::with_engine(|engine| {
            engine.slice(&mut state.jobs, &mut state.store, job_id, budget, &meter, time())
        });
        worked.inspect_err(|reason| state.store.fail(reason.clone()))
    });
    if worked.is_err() {
        slices::fail_open_jobs();
    }
    Ok(())
}
