//! Rounds: due timers, heartbeats, deadlines and storage fees, then the messages that wait.

use super::{Network, messages::Delivery};
use crate::{costs, limits};
use candid::Principal;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

impl Network {
    /// One round: the clock moves by a nanosecond, tasks become due, and messages are executed until none waits or the
    /// round has used [`limits::ROUND_INSTRUCTIONS`].
    pub fn round(&mut self) {
        self.set_time(self.time() + 1);
        self.start_round();
        let mut instructions = 0;
        while instructions < limits::ROUND_INSTRUCTIONS {
            match self.execute_next() {
                Some(used) => instructions += used + limits::MESSAGE_OVERHEAD,
                None => break,
            }
        }
    }

    /// Puts everything that is due at the present time into the queue.
    pub fn start_round(&mut self) {
        self.charge_storage();
        self.expire_ingress();
        self.expire_calls();
        self.enqueue_tasks();
    }

    /// Executes one waiting message; false when there is none.
    pub fn execute_message(&mut self) -> bool {
        self.execute_next().is_some()
    }

    /// Whether a message waits.
    pub fn is_busy(&self) -> bool {
        self.has_messages()
    }

    fn enqueue_tasks(&mut self) {
        let time = self.time();
        let mut tasks: Vec<(Principal, &'static str)> = Vec::new();
        for (id, canister) in &mut self.canisters {
            let Some(code) = canister.code.as_ref().filter(|_| canister.is_running()) else { continue };
            if code.module.exports("canister_heartbeat") {
                tasks.push((*id, "canister_heartbeat"));
            }
            if canister.timer != 0 && canister.timer <= time {
                canister.timer = 0;
                tasks.push((*id, "canister_global_timer"));
            }
        }
        for (canister, function) in tasks {
            self.enqueue(Delivery::Task { canister, function });
        }
    }

    /// Charges every canister for its storage since the last time, in whole seconds. A canister that cannot pay is
    /// uninstalled.
    fn charge_storage(&mut self) {
        let time = self.time();
        let mut broke = Vec::new();
        for (id, canister) in &mut self.canisters {
            let seconds = time.saturating_sub(canister.storage_paid_until) / SECOND;
            if seconds == 0 {
                continue;
            }
            canister.storage_paid_until += seconds * SECOND;
            let bytes = canister.memory_usage().max(canister.settings.memory_allocation);
            let fee = costs::storage_fee(bytes, seconds);
            if fee > canister.balance && canister.code.is_some() {
                broke.push(*id);
            }
            canister.balance = canister.balance.saturating_sub(fee);
        }
        for id in broke {
            tracing::warn!("canister {id} is uninstalled: it cannot pay for its storage");
            self.uninstall(id);
        }
    }
}
