//! Whether the balance covers what comes next.

use ic_cdk::api::{canister_cycle_balance, canister_liquid_cycle_balance, cost_call, subnet_self_node_count};
use shared_types::agent::CyclesShortage;

/// Cycles of an update message on a subnet of 13 nodes ("Cycles" in the facts about the Internet Computer).
const UPDATE_MESSAGE_FEE: u128 = 5_000_000;

/// Cycles of an instruction on a subnet of 13 nodes (the same place).
const INSTRUCTION_FEE: u128 = 1;

/// Instructions of a message at most ("Limits", the same place): their cycles are set aside before a message is executed,
/// and what it does not use comes back.
const MESSAGE_INSTRUCTIONS: u128 = 40_000_000_000;

/// Nodes of the subnets for which the fees above are published.
const REFERENCE_NODES: u128 = 13;

/// Bytes of the longest name of a method that the agent calls, and a bound of its arguments.
const CALL_BYTES: (u64, u64) = (16, 256);

/// Cycles that are set aside for one message.
fn message_cost(nodes: u128) -> u128 {
    (UPDATE_MESSAGE_FEE + MESSAGE_INSTRUCTIONS * INSTRUCTION_FEE) * nodes / REFERENCE_NODES
}

/// What is missing when the balance, without the freezing threshold, does not cover `calls` calls at the same time: each
/// with its answer, a message at the callee that this canister may be itself, and the timer that looks again.
pub fn shortage(calls: u32) -> Option<CyclesShortage> {
    let message = message_cost(u128::from(subnet_self_node_count()));
    let cost = u128::from(calls) * cost_call(CALL_BYTES.0, CALL_BYTES.1) + 2 * message;
    let (balance, liquid) = (canister_cycle_balance(), canister_liquid_cycle_balance());
    let frozen = balance.saturating_sub(liquid);
    (liquid < cost).then_some(CyclesShortage { balance, needed: frozen + cost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cost_in_proportion_to_the_nodes() {
        assert_eq!(message_cost(13), 40_005_000_000);
        assert_eq!(message_cost(26), 80_010_000_000);
    }
}
