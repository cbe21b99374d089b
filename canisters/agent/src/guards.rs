//! Who may call.

use shared_types::agent::{AgentError, JobId};

use crate::state;

/// Refuses everybody but the owner, who is never the anonymous principal.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn require_owner() -> Result<(), AgentError> {
    let caller = ic_cdk::api::msg_caller();
    if state::read(|state| state.is_owner(caller)) { Ok(()) } else { Err(AgentError::Unauthorized) }
}

/// Refuses everybody but the owner and the coordinator that the owner lets submit jobs.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn require_client() -> Result<(), AgentError> {
    let caller = ic_cdk::api::msg_caller();
    let coordinates = state::read(|state| state.settings().coordinator == Some(caller));
    if coordinates { Ok(()) } else { require_owner() }
}

/// Refuses everybody but the owner and, for a job of its own, the coordinator.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn require_job_client(job_id: JobId) -> Result<(), AgentError> {
    require_owner().or_else(|refused| {
        require_client()?;
        let caller = ic_cdk::api::msg_caller();
        let is_own = state::read(|state| state.jobs.get(job_id).is_ok_and(|job| job.caller == caller));
        if is_own { Ok(()) } else { Err(refused) }
    })
}

/// Refuses everybody but the canister's controllers.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn require_controller() -> Result<(), AgentError> {
    let caller = ic_cdk::api::msg_caller();
    if ic_cdk::api::is_controller(&caller) { Ok(()) } else { Err(AgentError::Unauthorized) }
}

/// Refuses everybody but the canister itself.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn require_self() -> Result<(), AgentError> {
    let caller = ic_cdk::api::msg_caller();
    if caller == ic_cdk::api::canister_self() { Ok(()) } else { Err(AgentError::Unauthorized) }
}
