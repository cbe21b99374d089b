//! Submitting, pausing and cancelling jobs.

use std::time::Duration;

use candid::Principal;
use ic_cdk::api::{msg_caller, time};
use shared_types::FieldError;
use shared_types::agent::phase::{AgentOperation, AgentPhase};
use shared_types::agent::{AgentError, JobId, JobRecord, SubmitJobArgs};

use crate::guards::{require, require_job_client, require_owner};
use crate::{slices, state};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Puts a job into the queue.
///
/// # Errors
/// [`AgentError::Unauthorized`], and see [`crate::jobs::Jobs::submit`].
pub fn submit_job(args: SubmitJobArgs) -> Result<JobRecord, AgentError> {
    require(AgentOperation::Submit)?;
    let record = state::mutate(|state| {
        let cache_seconds = state.settings().config.cache_seconds.unwrap_or(0);
        state.submit(args, msg_caller(), cache_seconds * NANOS_PER_SECOND, time())
    })?;
    slices::schedule(Duration::ZERO);
    Ok(record)
}

/// Cancels a job.
///
/// # Errors
/// [`AgentError::Unauthorized`], and see [`crate::jobs::Jobs::cancel`].
pub fn cancel_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    require_job_client(AgentOperation::Cancel, job_id)?;
    let record = state::mutate(|state| state.jobs.cancel(job_id, time()))?;
    slices::schedule(Duration::ZERO);
    Ok(record)
}

/// Pauses a job.
///
/// # Errors
/// [`AgentError::Unauthorized`], and see [`crate::jobs::Jobs::pause`].
pub fn pause_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    require_owner(AgentOperation::Schedule)?;
    let record = state::mutate(|state| state.jobs.pause(job_id, time()))?;
    slices::schedule(Duration::ZERO);
    Ok(record)
}

/// Lets a paused job go on.
///
/// # Errors
/// [`AgentError::Unauthorized`], and see [`crate::jobs::Jobs::resume`].
pub fn resume_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    require_owner(AgentOperation::Schedule)?;
    let record = state::mutate(|state| state.jobs.resume(job_id, time()))?;
    slices::schedule(Duration::ZERO);
    Ok(record)
}

/// Pauses all jobs, or lets them go on. While the agent is Paused they rest in any case.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`].
pub fn set_queue_paused(paused: bool) -> Result<(), AgentError> {
    require_owner(AgentOperation::Schedule)?;
    let phase = state::read(|state| state.character().phase);
    if phase == AgentPhase::Paused && !paused {
        return Err(AgentError::WrongPhase { phase, operation: AgentOperation::Schedule });
    }
    state::mutate(|state| state.jobs.set_queue_paused(paused));
    slices::schedule(Duration::ZERO);
    Ok(())
}

/// Says who may submit jobs beside the owner; nobody, when absent. Jobs that were submitted go on.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::InvalidField`] for the anonymous principal.
pub fn set_coordinator(coordinator: Option<Principal>) -> Result<(), AgentError> {
    require_owner(AgentOperation::Configure)?;
    if coordinator == Some(Principal::anonymous()) {
        let reason = "the anonymous principal can't submit jobs";
        return Err(AgentError::InvalidField(FieldError::new("coordinator", reason)));
    }
    state::mutate(|state| state.set_coordinator(coordinator));
    Ok(())
}
