//! Who calls.

use candid::Principal;
use ic_cdk::api::time;
use shared_types::econ::{EconError, RateClass};

use crate::state;

/// The caller of an update; the anonymous principal is refused before anything else is looked at.
///
/// # Errors
/// [`EconError::Anonymous`].
pub fn signed_caller() -> Result<Principal, EconError> {
    let caller = ic_cdk::api::msg_caller();
    if caller == Principal::anonymous() { Err(EconError::Anonymous) } else { Ok(caller) }
}

/// Refuses callers that are no admins.
///
/// # Errors
/// [`EconError::Anonymous`], [`EconError::Unauthorized`].
pub fn require_admin() -> Result<(), EconError> {
    let caller = signed_caller()?;
    if state::read(|economy| economy.is_admin(caller)) { Ok(()) } else { Err(EconError::Unauthorized) }
}

/// Whose records a reader gets: the caller's own, or those of `account` if the caller is that account or an admin.
///
/// # Errors
/// [`EconError::Anonymous`], [`EconError::Unauthorized`].
pub fn readable(account: Option<Principal>) -> Result<Principal, EconError> {
    let caller = signed_caller()?;
    let account = account.unwrap_or(caller);
    let may = account == caller || state::read(|economy| economy.is_admin(caller));
    if may { Ok(account) } else { Err(EconError::Unauthorized) }
}

/// Takes a call from the bucket of a principal.
///
/// # Errors
/// [`EconError::RateLimited`] with the time to wait.
pub fn limit_rate(principal: Principal, class: RateClass) -> Result<(), EconError> {
    let taken = state::limit_rates(|limits| limits.take(principal, class, 1, time()));
    taken.map_err(|retry_after_ns| EconError::RateLimited { retry_after_ns })
}
