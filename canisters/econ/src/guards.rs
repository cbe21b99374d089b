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

/// The caller of an update that everybody may call, as often as the caller's class allows.
///
/// # Errors
/// [`EconError::Anonymous`], [`EconError::RateLimited`] with the time to wait.
pub fn limited_caller() -> Result<Principal, EconError> {
    let caller = signed_caller()?;
    let class = state::read(|economy| economy.class_of(caller));
    granted(state::limit_calls(|limits| limits.take(caller, class, 1, time())))?;
    Ok(caller)
}

/// Takes a reservation from an account's bucket.
///
/// # Errors
/// [`EconError::RateLimited`] with the time to wait.
pub fn limit_work(account: Principal, class: RateClass) -> Result<(), EconError> {
    granted(state::limit_work(|limits| limits.take(account, class, 1, time())))
}

fn granted(taken: Result<(), u64>) -> Result<(), EconError> {
    taken.map_err(|retry_after_ns| EconError::RateLimited { retry_after_ns })
}
