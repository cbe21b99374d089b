//! Submitting and cancelling jobs.

use std::time::Duration;

use ic_cdk::api::time;
use shared_types::agent::{AgentError, JobId, JobRecord, SubmitJobArgs};

use crate::guards::require_owner;
use crate::{slices, state};

/// Puts a job into the queue.
///
/// # Errors
/// [`AgentError::Unauthorized`], and see [`crate::jobs::Jobs::submit`].
pub fn submit_job(args: SubmitJobArgs) -> Result<JobRecord, AgentError> {
    require_owner()?;
    let record = state::mutate(|state| state.jobs.submit(args, time()))?;
    slices::schedule(Duration::ZERO);
    Ok(record)
}

/// Cancels a job.
///
/// # Errors
/// [`AgentError::Unauthorized`], and see [`crate::jobs::Jobs::cancel`].
pub fn cancel_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    require_owner()?;
    let record = state::mutate(|state| state.jobs.cancel(job_id, time()))?;
    slices::schedule(Duration::ZERO);
    Ok(record)
}
