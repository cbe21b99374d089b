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
        let (entry_point, caller) = (message.entry_point, message.caller);
        let before = canister.memory_usage();
        let Some(Code { instance, .. }) = &mut canister.code else { return Reject::no_module(id).into() };
        let available = balance.saturating_sub(prepaid);
        let Outcome { result, backtrace, mut effects, instructions, copy_instructions, heap_pages } =
            instance.run(function, environment, message, available, timer);
        let result = result.and_then(|()| {
            if trap {
                return Err(Stop::Trapped("injected fault".into()));
            }
            canister.check_growth(entry_point, before, effects.balance)
        });
        let result = canister.settle_memory(result, keep, &heap_pages);
        let backtrace = if backtrace.is_empty() {
            String::new()
        } else {
            format!("\nCanister Backtrace:\n{}\n", backtrace.join("\n"))
        };
        if keep.is_charged() {
            for line in std::mem::take(&mut effects.log) {
                canister.write_log(time, line);
            }
            if let Some(line) = result.as_ref().err().and_then(Stop::log_line) {
                canister.write_log(time, (line + &backtrace).into_bytes());
            }
            let after = if result.is_ok() { effects.balance + prepaid.min(balance) } else { balance };
            canister.balance =
                after.saturating_sub(canister.fees.execution(instructions + copy_instructions));
            canister.version += u64::from(result.is_ok() && keep != Keep::Pending);
        }
        if result.is_ok() && keep.is_kept() {
            canister.timer = effects.timer.unwrap_or(timer);
            if let Some(data) = effects.certified_data.take() {
                canister.certified_data = data;
            }
            canister.update_low_memory_hook();
        }
        let may_see = canister.lets_read(&canister.settings.log_visibility, caller);
        let visible = if may_see { backtrace.as_str() } else { "" };
        if keep == Keep::Changes {
            self.run_low_memory_hook(id);
        }
        Executed {
            result: result.map(|()| effects).map_err(|stop| stop.into_reject(id, visible)),
            instructions,
        }
    }
}

impl Canister {
    /// Checks the memory that an execution has allocated: `before` are the bytes that the canister used, `balance` are
    /// its cycles now. Callbacks, timers and hooks before an upgrade may exceed the setting `wasm_memory_limit`, so that a
    /// canister can finish what it began; installations check the freezing limit at their end.
    fn check_growth(&self, entry_point: EntryPoint, before: u64, balance: u128) -> Result<(), Stop> {
        let (heap, limit) = (self.heap.len() as u64, self.settings.wasm_memory_limit);
        let is_limited = matches!(
            entry_point,
            EntryPoint::Update | EntryPoint::Start | EntryPoint::Init | EntryPoint::PostUpgrade
        );
        if is_limited && limit > 0 && heap > limit {
            return Err(Stop::WasmMemoryLimit { bytes: heap, limit });
        }
        let bytes = self.memory_usage().saturating_sub(before);
        let missing = self.freezing_limit().saturating_sub(balance);
        if matches!(entry_point, EntryPoint::Update | EntryPoint::SystemTask) && bytes > 0 && missing > 0 {
            return Err(Stop::InsufficientCyclesInMemoryGrow { bytes, missing });
        }
        Ok(())
    }

    /// Commits or undoes what a message did to memories and globals.
    fn settle_memory(
        &mut self,
        mut result: Result<(), Stop>,
        keep: Keep,
        heap_pages: &crate::memory::PageScan,
    ) -> Result<(), Stop> {
        let Some(Code { instance, .. }) = &mut self.code else { return result };
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
            instance.roll_back();
        }
        result
    }
}
