//! The canister's state, and the turns of those who work on it, which live no longer than the heap.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ic_stable_structures::DefaultMemoryImpl;
use shared_types::econ::EconError;

use crate::economy::{Economy, Task};
use crate::memory::Memories;
use crate::rate_limits::RateLimits;

thread_local! {
    static ECONOMY: RefCell<Economy> = RefCell::new(Economy::open(Memories::of(DefaultMemoryImpl::default())));
    static WORK_LIMITS: RefCell<RateLimits> = RefCell::default();
    static CALL_LIMITS: RefCell<RateLimits> = RefCell::default();
    static IN_PROGRESS: RefCell<BTreeSet<Task>> = const { RefCell::new(BTreeSet::new()) };
}

/// Reads the state.
pub fn read<R>(f: impl FnOnce(&Economy) -> R) -> R {
    ECONOMY.with_borrow(f)
}

/// Changes the state.
pub fn mutate<R>(f: impl FnOnce(&mut Economy) -> R) -> R {
    ECONOMY.with_borrow_mut(f)
}

/// The token buckets of accounts, for what is reserved for them.
pub fn limit_work<R>(f: impl FnOnce(&mut RateLimits) -> R) -> R {
    WORK_LIMITS.with_borrow_mut(f)
}

/// The token buckets of callers, for what they ask for themselves.
pub fn limit_calls<R>(f: impl FnOnce(&mut RateLimits) -> R) -> R {
    CALL_LIMITS.with_borrow_mut(f)
}

/// Invoices and transfers that are being worked on.
pub fn in_progress() -> u32 {
    IN_PROGRESS.with_borrow(|set| set.len() as u32)
}

/// The right to work on an invoice or a transfer; given back on drop, also when a message after an await traps.
#[derive(Debug)]
pub struct Turn(Task);

impl Turn {
    /// Takes the turn for `task`; `None` when somebody has it.
    ///
    /// # Errors
    /// [`EconError::Busy`] when `max_concurrent` turns are taken.
    pub fn take(task: Task, max_concurrent: u32) -> Result<Option<Self>, EconError> {
        IN_PROGRESS.with_borrow_mut(|set| {
            let in_progress = set.len() as u32;
            if set.contains(&task) {
                return Ok(None);
            }
            if in_progress >= max_concurrent {
                return Err(EconError::Busy { in_progress });
            }
            set.insert(task);
            Ok(Some(Self(task)))
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IN_PROGRESS.with_borrow_mut(|set| set.remove(&self.0));
    }
}
