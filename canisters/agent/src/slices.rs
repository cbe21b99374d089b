//! The messages that drive the agent: a timer asks what there is to do, a call to itself does it.
//!
//! A slice that traps rolls its own writes back, and with them anything it could say about itself. So the timer's message
//! journals the attempt first; the await commits it. The outcome comes as an answer or a rejection.
//!
//! Invariant: while there is work, a timer is armed that no single message can take along when it traps. A message that
//! traps loses the one-shot timer that started it, and the timer it would have set; the watch, a repeated timer, is left.

use std::cell::Cell;
use std::time::Duration;

use ic_cdk::api::{CanisterStatusCode, canister_self, canister_status, time};
use ic_cdk::call::{Call, CallFailed, CallRejected};
use ic_cdk_timers::TimerId;
use shared_types::agent::{JobFailure, JobId, JobState, LoadState};

use crate::engine::Engine;
use crate::{cycles, loading, state};

/// While parts of the model are on their way, whether they still are is looked at this often.
const LOADING_WATCH: Duration = Duration::from_secs(20);

/// While there is work, it is taken up again at least this often, whatever trapped; and as often it is looked at whether there
/// are cycles again.
const WATCH: Duration = Duration::from_mins(1);

/// After a failure that waiting may cure, such as a lack of cycles.
const RETRY: Duration = Duration::from_secs(10);

thread_local! {
    static TIMER: Cell<Option<TimerId>> = const { Cell::new(None) };
    static WATCH_TIMER: Cell<Option<TimerId>> = const { Cell::new(None) };
    static SLICE_UNDER_WAY: Cell<bool> = const { Cell::new(false) };
}

/// The right to run a slice; given back on drop, also when a message after the await traps.
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        // Lazily: a turn that is not taken must not be given back.
        (!SLICE_UNDER_WAY.replace(true)).then(|| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        SLICE_UNDER_WAY.set(false);
    }
}

/// Looks after `delay` what there is to do. There is one timer: a later call replaces an earlier one.
pub fn schedule(delay: Duration) {
    if let Some(earlier) = TIMER.take() {
        ic_cdk_timers::clear_timer(earlier);
    }
    TIMER.set(Some(ic_cdk_timers::set_timer(delay, take_turn())));
    if WATCH_TIMER.get().is_none() {
        WATCH_TIMER.set(Some(ic_cdk_timers::set_timer_interval(WATCH, || async { watch() })));
    }
}

/// Takes the work up again, or ends the watch when there is none. A turn too many does no harm.
fn watch() {
    let work = state::read(|state| state.jobs.head().is_some() || *state.store.state() == LoadState::Loading);
    if work {
        schedule(Duration::ZERO);
    } else if let Some(watch) = WATCH_TIMER.take() {
        ic_cdk_timers::clear_timer(watch);
    }
}

/// Fails whatever waits for a model that can't be had.
pub fn fail_open_jobs() {
    state::mutate(|state| {
        if let LoadState::Failed { reason } = state.store.state().clone() {
            state.jobs.fail_all(&JobFailure::Load(reason), time());
        }
    });
    if state::read(|state| state.jobs.queue().failing().is_some()) {
        schedule(Duration::ZERO);
    }
}

/// Does the next thing there is to do.
async fn take_turn() {
    TIMER.set(None);
    if state::mutate(|state| state.jobs.end_due(time())) {
        return schedule(Duration::ZERO);
    }
    let Some(job_id) = state::read(|state| state.jobs.head()) else {
        state::mutate(|state| state.jobs.set_shortage(None, time()));
        return load_on();
    };
    // A slice under way has its cycles set aside, and looks again when it ends.
    if SLICE_UNDER_WAY.get() {
        return;
    }
    let shortage = cycles::shortage(1);
    state::mutate(|state| state.jobs.set_shortage(shortage.map(|shortage| (job_id, shortage)), time()));
    if shortage.is_some() {
        return schedule(WATCH);
    }
    let loaded = state::mutate(|state| {
        if state.store.loaded().is_none() {
            state.store.begin(time());
        }
        state.store.loaded().is_some()
    });
    if !loaded {
        state::mutate(|state| state.jobs.set_state(job_id, &JobState::Loading, time()));
        return load_on();
    }
    let Some(turn) = Turn::take() else { return };
    state::mutate(|state| state.jobs.begin_attempt(job_id));
    let outcome = Call::unbounded_wait(canister_self(), "run_slice").await;
    let delay = match outcome {
        Ok(_) => {
            // A slice that a pause prevented is no attempt.
            if state::read(|state| state.jobs.attempt(job_id) > 0) {
                state::mutate(|state| state.jobs.forget_attempts(job_id));
            }
            Duration::ZERO
        }
        Err(failed) => slice_failed(job_id, &failed),
    };
    drop(turn);
    if state::read(|state| state.jobs.head().is_some()) {
        schedule(delay);
    }
}

/// Keeps parts of the model on their way, as long as any is wanted.
fn load_on() {
    if state::read(|state| *state.store.state() != LoadState::Loading) {
        return;
    }
    loading::ask_for_parts();
    let pause = state::read(|state| state.store.pause_ns(time()));
    schedule(if pause > 0 { Duration::from_nanos(pause) } else { LOADING_WATCH });
}

/// Journals why a slice did not end; returns how long to wait.
fn slice_failed(job_id: JobId, failed: &CallFailed) -> Duration {
    match failed {
        // A canister that is being stopped refuses its own calls too: the slice did not run.
        CallFailed::CallRejected(rejected) if canister_status() == CanisterStatusCode::Running => {
            trapped(job_id, rejected)
        }
        _ => {
            state::mutate(|state| state.jobs.forget_attempts(job_id));
            RETRY
        }
    }
}

fn trapped(job_id: JobId, rejected: &CallRejected) -> Duration {
    let message = rejected.reject_message();
    // With less in the heap, the next attempt is another one.
    let counts = !(is_about_memory(message) && memory_was_short());
    state::mutate(|state| state.jobs.trapped(job_id, message, counts, time()));
    // What the slice found in the heap may be why it trapped.
    state::with_engine(Engine::clear);
    Duration::ZERO
}

/// Whether a trap tells of a heap that may not grow: the Internet Computer's words for the setting `wasm_memory_limit` and for
/// a subnet without memory.
fn is_about_memory(message: &str) -> bool {
    message.contains("memory")
}

/// Has the engine get along with less memory, if it can; returns whether it can.
pub fn memory_was_short() -> bool {
    state::read(|state| {
        let configured = state.limits().heap_bytes;
        state::with_engine(|engine| engine.memory_was_short(&state.store, configured))
    })
}
