//! Who calls, and when.

use candid::Principal;
use shared_types::factory::FactoryError;

use crate::state;

/// The caller of an update; the anonymous principal is refused before anything else is looked at.
///
/// # Errors
/// [`FactoryError::Anonymous`].
pub fn signed_caller() -> Result<Principal, FactoryError> {
    let caller = ic_cdk::api::msg_caller();
    if caller == Principal::anonymous() { Err(FactoryError::Anonymous) } else { Ok(caller) }
}

/// Refuses callers that are no admins.
///
/// # Errors
/// [`FactoryError::Anonymous`], [`FactoryError::Unauthorized`].
pub fn require_admin() -> Result<(), FactoryError> {
    let caller = signed_caller()?;
    let admin = state::read(|state| state.settings().admins.contains(&caller));
    if admin { Ok(()) } else { Err(FactoryError::Unauthorized) }
}
