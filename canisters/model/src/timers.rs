//! What the canister does by itself: validation in slices, and once in a while the end of what nobody cares for any more.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use ic_cdk::api::performance_counter;

use crate::guards::CallContext;
use crate::repository::IdKey;
use crate::validation::SLICE_INSTRUCTIONS;
use crate::{state, sync};

/// Time between two looks at whose turn it is among other repositories.
const SYNC: Duration = Duration::from_mins(10);

/// Time after which a slice that has not run to its end is one that trapped.
const TRAPPED_AFTER: Duration = Duration::from_mins(10);

/// Time between two looks at proposals whose time is over and at abandoned uploads.
const TIDY: Duration = Duration::from_hours(1);

thread_local! {
    static SYNC_STARTED: Cell<bool> = const { Cell::new(false) };
    /// When the next slice was scheduled, if one is.
    static SLICE_SCHEDULED: Cell<Option<u64>> = const { Cell::new(None) };
    static COLLECTED_UP_TO: RefCell<Option<IdKey>> = const { RefCell::new(None) };
}

/// Sets the timers: at installation and after each upgrade, which forgets them.
pub fn start() {
    ic_cdk_timers::set_timer_interval(TIDY, || async { tidy() });
    schedule_validation();
    if state::read(|repository| !repository.index().is_empty()) {
        start_sync();
    }
}

/// Reads other repositories, now those that were never read, and from time to time all of them.
pub fn start_sync() {
    ic_cdk_timers::set_timer(Duration::ZERO, sync::read_repositories());
    if !SYNC_STARTED.replace(true) {
        ic_cdk_timers::set_timer_interval(SYNC, sync::read_repositories);
    }
}

/// Works on validations in this message, as long as its budget lasts, and then in messages of their own.
pub fn validate_on() {
    let meter = || performance_counter(0);
    let context = CallContext::of_canister();
    if state::mutate(|repository| repository.validate(&context, &meter, SLICE_INSTRUCTIONS)) {
        schedule_validation();
    }
}

fn schedule_validation() {
    let work = state::read(|repository| repository.status().validations > 0);
    if !work || SLICE_SCHEDULED.get().is_some() {
        return;
    }
    SLICE_SCHEDULED.set(Some(ic_cdk::api::time()));
    ic_cdk_timers::set_timer(Duration::ZERO, async {
        SLICE_SCHEDULED.set(None);
        validate_on();
    });
}

/// Ends what is over; a message drops at most one upload, and the next one goes on.
fn tidy() {
    let context = CallContext::of_canister();
    let more = state::mutate(|repository| {
        repository.expire_proposals(&context);
        COLLECTED_UP_TO.with_borrow_mut(|after| {
            repository.collect_abandoned(&context, after).is_some() || after.is_some()
        })
    });
    if more {
        ic_cdk_timers::set_timer(Duration::ZERO, async { tidy() });
    }
    // Whatever was scheduled has run long ago, unless its message trapped, which takes back that it ran.
    let trapped =
        |scheduled: u64| context.now_ns.saturating_sub(scheduled) >= TRAPPED_AFTER.as_nanos() as u64;
    if SLICE_SCHEDULED.get().is_some_and(trapped) {
        SLICE_SCHEDULED.set(None);
        state::mutate(|repository| repository.slice_trapped(&context));
    }
    schedule_validation();
}
