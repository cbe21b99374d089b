//! What authorised canisters reserve and settle.

use ic_cdk::api::time;
use shared_types::econ::{
    EconError, Reservation, ReservationId, ReserveArgs, ReturnAgentArgs, SettleArgs, Settlement,
};

use crate::guards::{self, signed_caller};
use crate::state;

/// Reserves from an account's quota, as often as the account's class allows.
///
/// # Errors
/// As [`crate::economy::Economy::reserve`]; [`EconError::RateLimited`].
pub fn reserve(args: &ReserveArgs) -> Result<Reservation, EconError> {
    let caller = signed_caller()?;
    let class = state::read(|economy| {
        if !economy.may_reserve(caller, args.account) {
            return Err(EconError::Unauthorized);
        }
        Ok(economy.account(args.account).rate_class())
    })?;
    guards::limit_work(args.account, class)?;
    state::mutate(|economy| economy.reserve(caller, args, time()))
}

/// Charges what was really spent.
///
/// # Errors
/// As [`crate::economy::Economy::settle`].
pub fn settle(args: &SettleArgs) -> Result<Settlement, EconError> {
    let caller = signed_caller()?;
    state::mutate(|economy| economy.settle(caller, args, time()))
}

/// Gives a reservation back.
///
/// # Errors
/// As [`crate::economy::Economy::release`].
pub fn release(reservation: ReservationId) -> Result<(), EconError> {
    let caller = signed_caller()?;
    state::mutate(|economy| economy.release(caller, reservation, time()))
}

/// Takes note that an agent does not live any more.
///
/// # Errors
/// As [`crate::economy::Economy::return_agent`].
pub fn return_agent(args: ReturnAgentArgs) -> Result<(), EconError> {
    let caller = signed_caller()?;
    state::mutate(|economy| economy.return_agent(caller, args, time()))
}
