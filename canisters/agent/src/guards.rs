//! Who may call, by the table of `shared_types::agent::phase`.

use candid::Principal;
use shared_types::agent::phase::{AgentOperation, AgentRole};
use shared_types::agent::{AgentError, JobId};

use crate::state;

/// Refuses callers who may not do this now; says in which role the caller may.
///
/// # Errors
/// [`AgentError::Unauthorized`] for whoever may never do it, [`AgentError::WrongPhase`].
pub fn require(operation: AgentOperation) -> Result<AgentRole, AgentError> {
    let caller = ic_cdk::api::msg_caller();
    let (roles, phase) = state::read(|state| (roles(state, caller), state.character().phase));
    let mut refusal = AgentError::Unauthorized;
    for role in roles {
        if phase.allows(role, operation) {
            return Ok(role);
        }
        if role.ever(operation) {
            refusal = AgentError::WrongPhase { phase, operation };
        }
    }
    Err(refusal)
}

/// What the caller is to the agent. The owner is never the anonymous principal, nor is the coordinator.
fn roles(state: &state::State, caller: Principal) -> Vec<AgentRole> {
    let is = [
        (AgentRole::Owner, state.is_owner(caller)),
        (AgentRole::Coordinator, state.settings().coordinator == Some(caller)),
        (AgentRole::Controller, ic_cdk::api::is_controller(&caller)),
    ];
    is.into_iter().filter(|(_, is)| *is).map(|(role, _)| role).collect()
}

/// Refuses everybody but the owner, and him where the phase does not allow it.
///
/// # Errors
/// As [`require`].
pub fn require_owner(operation: AgentOperation) -> Result<(), AgentError> {
    match require(operation)? {
        AgentRole::Owner => Ok(()),
        AgentRole::Coordinator | AgentRole::Controller => Err(AgentError::Unauthorized),
    }
}

/// As [`require`], and lets the coordinator at jobs of its own alone.
///
/// # Errors
/// As [`require`].
pub fn require_job_client(operation: AgentOperation, job_id: JobId) -> Result<(), AgentError> {
    if require(operation)? == AgentRole::Owner {
        return Ok(());
    }
    let caller = ic_cdk::api::msg_caller();
    let is_own = state::read(|state| state.jobs.get(job_id).is_ok_and(|job| job.caller == caller));
    if is_own { Ok(()) } else { Err(AgentError::Unauthorized) }
}

/// Refuses everybody but the canister itself.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn require_self() -> Result<(), AgentError> {
    let caller = ic_cdk::api::msg_caller();
    if caller == ic_cdk::api::canister_self() { Ok(()) } else { Err(AgentError::Unauthorized) }
}
