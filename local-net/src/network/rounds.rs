//! Rounds: due timers, heartbeats, deadlines and storage fees, then the messages that wait.

use super::{
    Network,
    messages::{Delivery, SystemTask},
};
use crate::{canister::LowMemoryHook, limits};

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

impl Network {
    /// One round: the clock moves by a nanosecond, tasks become due, and each subnet executes messages until none waits or
    /// its round has used [`limits::ROUND_INSTRUCTIONS`].
    pub fn round(&mut self) {
        self.set_time(self.time() + 1);
        self.start_round();
        for subnet in 0..self.subnets.len() {
            let mut instructions = 0;
            while instructions < limits::ROUND_INSTRUCTIONS {
                match self.execute_next(subnet) {
                    Some(used) => instructions += used + limits::MESSAGE_OVERHEAD,
                    None => break,
                }
            }
        }
    }

    /// Puts everything that is due at the present time into the queues.
    pub fn start_round(&mut self) {
        self.charge_storage();
        self.expire_ingress();
        self.expire_calls();
        self.expire_stop_requests();
        self.start_faulty_round();
        self.expire_outcalls();
        for subnet in &mut self.subnets {
            subnet.queue.extend(subnet.incoming.drain(..));
        }
        self.enqueue_tasks();
    }

    /// Executes one waiting message of each subnet.
    pub fn execute_messages(&mut self) {
        for subnet in 0..self.subnets.len() {
            self.execute_next(subnet);
        }
    }

    /// Whether a message waits that can be executed in this round.
    pub fn is_busy(&self) -> bool {
        self.subnets.iter().any(|subnet| !subnet.queue.is_empty())
    }

    fn enqueue_tasks(&mut self) {
        let time = self.time();
        for (id, canister) in &mut self.canisters {
            let queue = &mut self.subnets[canister.subnet].queue;
            let Some(code) = canister.code.as_ref().filter(|_| canister.is_running()) else { continue };
            if canister.low_memory_hook == LowMemoryHook::Ready {
                queue.push_front(Delivery::Task { canister: *id, task: SystemTask::LowMemory });
            }
            if code.module.exports(SystemTask::Heartbeat.export()) {
                queue.push_back(Delivery::Task { canister: *id, task: SystemTask::Heartbeat });
            }
            if canister.timer != 0 && canister.timer <= time {
                canister.timer = 0;
                queue.push_back(Delivery::Task { canister: *id, task: SystemTask::GlobalTimer });
            }
        }
    }

    /// Charges every canister for storage and compute allocation since the last time, in whole seconds. A canister that cannot pay is
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
            let fee = canister.idle_cycles(seconds);
            if fee > canister.balance && canister.code.is_some() {
                broke.push(*id);
            }
            canister.balance = canister.balance.saturating_sub(fee);
        }
        for id in broke {
            tracing::warn!("canister {id} is uninstalled: it cannot pay for its storage");
            self.run_out_of_cycles(id);
        }
    }
}
