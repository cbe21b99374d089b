//! Who calls.

use candid::Principal;
use shared_types::coordinator::CoordinatorError;

use crate::state;

/// The caller, whose workspace is meant; the anonymous principal has none.
///
/// # Errors
/// [`CoordinatorError::Anonymous`].
pub fn signed_caller() -> Result<Principal, CoordinatorError> {
    let caller = ic_cdk::api::msg_caller();
    if caller == Principal::anonymous() { Err(CoordinatorError::Anonymous) } else { Ok(caller) }
}

/// Refuses callers that are no admins.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], [`CoordinatorError::Unauthorized`].
pub fn require_admin() -> Result<(), CoordinatorError> {
    let caller = signed_caller()?;
    let admin = state::read(|state| state.settings().admins.contains(&caller));
    if admin { Ok(()) } else { Err(CoordinatorError::Unauthorized) }
}
