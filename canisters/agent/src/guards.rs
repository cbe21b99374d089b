//! Who may call.

use shared_types::agent::AgentError;

use crate::state;

/// Refuses everybody but the owner, who is never the anonymous principal.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn require_owner() -> Result<(), AgentError> {
    let caller = ic_cdk::api::msg_caller();
    if state::read(|state| state.is_owner(caller)) { Ok(()) } else { Err(AgentError::Unauthorized) }
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
