//! The execution of one message: its effect on the canister's memory, cycles and log.

use super::Network;
use crate::{
    canister::{Canister, Code},
    execution::{Function, Outcome},
    reject::Reject,
    system_api::{Effects, EntryPoint, Message, Stop},
};
use candid::Principal;

/// What happens to the canister's state after an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It stays, and cycles are charged.
    Changes,
    /// It is undone, but cycles are charged: a query executed as an update.
    Charge,
    /// It is undone, and nothing is charged: a query.
    Nothing,
    /// It stays until the composite query it belongs to has ended, and nothing is charged.
    ForQuery,
    /// It stays as it is without being committed, for the next step of an upgrade; cycles are charged.
    Pending,
}

impl Keep {
    fn is_charged(self) -> bool {
        matches!(self, Self::Changes | Self::Charge | Self::Pending)
    }

    fn is_kept(self) -> bool {
        matches!(self, Self::Changes | Self::Pending)
    }
}

/// A message that was executed.
pub(crate) struct Executed {
    /// What it asks for, or why it was undone.
    pub(crate) result: Result<Effects, Reject>,
    /// Instructions it used.
    pub(crate) instructions: u64,
}

impl From<Reject> for Executed {
    fn from(reject: Reject) -> Self {
        Self { result: Err(reject), instructions: 0 }
    }
}

impl Network {
    /// Runs `function` of `id`. Memory, globals, balance, timer, certified data and log are up to date afterwards.
    pub(crate) fn execute(
        &mut self,
        id: Principal,
        function: Function<'_>,
        message: Message,
        keep: Keep,
    ) -> Executed {
        let time = self.time;
        let Some(environment) = self.environment(id) else { return Reject::canister_not_found(id).into() };
        let trap = self.take_trap();
        let canister = match self.canister_mut(id) {
            Ok(canister) => canister,
            Err(reject) => return reject.into(),
        };
        let prepaid = if keep.is_charged() { canister.fees.execution(message.instruction_limit) } else { 0 };
        let (balance, timer) = (canister.balance, canister.timer);
        let memory_limit = memory_limit(canister, message.entry_point);
        let Some(Code { instance, .. }) = &mut canister.code else { return Reject::no_module(id).into() };
        let available = balance.saturating_sub(prepaid);
        let Outcome { result, mut effects, instructions, copy_instructions, heap_pages } =
            instance.run(function, environment, message, available, timer);
        let result = match memory_limit {
            Some(limit) if result.is_ok() && canister.heap.len() as u64 > limit => {
                Err(Stop::WasmMemoryLimit(limit))
            }
            _ if trap => Err(Stop::Trapped("injected fault".into())),
            _ => result,
        };
        let result = canister.settle_memory(result, keep, &heap_pages);
        if keep.is_charged() {
            for line in std::mem::take(&mut effects.log) {
                canister.log.push(time, line);
            }
            if let Err(stop) = &result {
                canister.log.push(time, format!("[TRAP]: {stop}").into_bytes());
            }
            let after = if result.is_ok() { effects.balance + prepaid.min(balance) } else { balance };
            canister.balance =
                after.saturating_sub(canister.fees.execution(instructions + copy_instructions));
            canister.version += 1;
        }
        if result.is_ok() && keep.is_kept() {
            canister.timer = effects.timer.unwrap_or(timer);
            if let Some(data) = effects.certified_data.take() {
                canister.certified_data = data;
            }
        }
        Executed { result: result.map(|()| effects).map_err(|stop| stop.into_reject(id)), instructions }
    }
}

/// The setting `wasm_memory_limit`, where it counts: not in callbacks, so that a canister can finish what it began.
fn memory_limit(canister: &Canister, entry_point: EntryPoint) -> Option<u64> {
    let limit = canister.settings.wasm_memory_limit;
    let counts = matches!(
        entry_point,
        EntryPoint::Update | EntryPoint::SystemTask | EntryPoint::Init | EntryPoint::PostUpgrade
    );
    (counts && limit > 0).then_some(limit)
}

impl Canister {
    /// Commits or undoes what a message did to memories and globals.
    fn settle_memory(
        &mut self,
        mut result: Result<(), Stop>,
        keep: Keep,
        heap_pages: &crate::memory::PageScan,
    ) -> Result<(), Stop> {
        let Some(Code { instance, module }) = &mut self.code else { return result };
        if result.is_ok() && keep == Keep::Changes {
            let committed = self
                .heap
                .commit(heap_pages)
                .and_then(|()| self.stable.commit_pages(instance.stable_written()));
            match committed {
                Ok(()) => instance.commit_globals(),
                Err(error) => result = Err(Stop::OutOfMemory(error.to_string())),
            }
        }
        if result.is_err() || matches!(keep, Keep::Charge | Keep::Nothing) {
            instance.roll_back(module);
        }
        result
    }
}
