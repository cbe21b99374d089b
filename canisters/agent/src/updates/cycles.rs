//! Giving the cycles back before the canister is deleted.

use ic_cdk::api::{canister_liquid_cycle_balance, msg_caller};
use ic_cdk_management_canister::{DepositCyclesArgs, deposit_cycles};
use shared_types::agent::AgentError;

use crate::guards::require_controller;

/// Cycles that stay, for the messages until the canister is stopped.
const RESERVE: u128 = 20_000_000_000;

/// Sends the agent's cycles to the controller that asks, for deletion; returns how many.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub async fn return_cycles() -> Result<u128, AgentError> {
    require_controller()?;
    let controller = msg_caller();
    let cycles = canister_liquid_cycle_balance().saturating_sub(RESERVE);
    // A failure keeps the cycles here: the controller sees 0 and decides.
    let sent = deposit_cycles(&DepositCyclesArgs { canister_id: controller }, cycles).await;
    Ok(if sent.is_ok() { cycles } else { 0 })
}
