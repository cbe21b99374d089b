//! Methods that only read.

use shared_types::agent::{
    AgentError, AgentStatus, JobId, JobPage, JobProgress, JobProgressArgs, JobRecord, ListJobsArgs,
};

use crate::guards::{require_controller, require_owner};
use crate::lifecycle::VERSION;
use crate::state;

/// A job and its tokens from a position on.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownJob`].
pub fn job_progress(args: &JobProgressArgs) -> Result<JobProgress, AgentError> {
    require_owner()?;
    state::read(|state| state.jobs.progress(args))
}

/// A job.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownJob`].
pub fn get_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    require_owner()?;
    state::read(|state| state.jobs.get(job_id))
}

/// A page of the jobs.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn list_jobs(args: &ListJobsArgs) -> Result<JobPage, AgentError> {
    require_owner()?;
    Ok(state::read(|state| state.jobs.list(args)))
}

/// Version, model, loading, sizes, balance: for the owner and for controllers.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn status() -> Result<AgentStatus, AgentError> {
    require_owner().or_else(|_| require_controller())?;
    let in_heap = state::with_engine(|engine| engine.is_ready());
    Ok(state::read(|state| {
        let settings = state.settings();
        AgentStatus {
            version: VERSION.to_owned(),
            owner: settings.owner,
            model_canister: settings.model_canister,
            model_id: settings.model_id,
            config: settings.config.clone(),
            load: state.store.state().clone(),
            load_counts: state.store.counts(),
            in_heap,
            jobs: state.jobs.len(),
            open_jobs: state.jobs.open_jobs(),
            heap_bytes: heap_bytes(),
            stable_bytes: ic_cdk::api::stable_size() * WASM_PAGE_BYTES,
            cycles: ic_cdk::api::canister_cycle_balance(),
        }
    }))
}

const WASM_PAGE_BYTES: u64 = 65_536;

#[cfg(target_family = "wasm")]
fn heap_bytes() -> u64 {
    core::arch::wasm32::memory_size(0) as u64 * WASM_PAGE_BYTES
}

/// Natively there is no Wasm heap to measure.
#[cfg(not(target_family = "wasm"))]
fn heap_bytes() -> u64 {
    0
}
