//! Giving the cycles back before the canister is deleted.

use ic_cdk::api::{canister_liquid_cycle_balance, cost_call, msg_caller, time};
use ic_cdk_management_canister::{DepositCyclesArgs, deposit_cycles};
use shared_types::agent::AgentError;
use shared_types::agent::phase::AgentOperation;

use crate::guards::require;
use crate::{reservations, state};

/// Cycles that stay, for the messages until the canister is stopped.
const RESERVE: u128 = 20_000_000_000;

/// Bound of the encoded argument of `deposit_cycles`: a principal.
const MAX_ARGUMENT_BYTES: u64 = 256;

/// Rounds of calls to settle what jobs took. What `econ` did not answer to is not due again so soon.
const SETTLEMENT_ROUNDS: usize = 16;

/// Ends the jobs that take from the owner's quota, and settles what they took. What `econ` does not answer to now ends there by itself.
async fn settle_quota() {
    state::mutate(|state| state.jobs.cancel_metered(time()));
    for _ in 0..SETTLEMENT_ROUNDS {
        if !reservations::settle_some().await {
            break;
        }
    }
}

/// Sends the agent's cycles to the controller that asks, for deletion; returns how many.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub async fn return_cycles() -> Result<u128, AgentError> {
    require(AgentOperation::Return)?;
    let controller = msg_caller();
    settle_quota().await;
    // The Internet Computer sets the cost of the longest possible answer aside before a call is made.
    let call = cost_call("deposit_cycles".len() as u64, MAX_ARGUMENT_BYTES);
    let cycles = canister_liquid_cycle_balance().saturating_sub(call + RESERVE);
    if cycles == 0 {
        return Ok(0);
    }
    // A failure keeps the cycles here: the controller sees 0 and decides.
    let sent = deposit_cycles(&DepositCyclesArgs { canister_id: controller }, cycles).await;
    Ok(if sent.is_ok() { cycles } else { 0 })
}
