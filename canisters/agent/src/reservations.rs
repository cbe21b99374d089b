//! The calls to `econ`, and the timer that has them made.
//!
//! That a call is made is journalled before its await; its outcome is the first thing that is written after it. One that was begun and
//! not heard of is made again when nobody waits for its answer any more.
//!
//! Invariant: while a call is due, now or later, a repeated timer is armed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use candid::Principal;
use canister_common::calls::{NoAnswer, ask};
use ic_cdk::api::{CanisterStatusCode, canister_status, time};
use ic_cdk_timers::TimerId;
use shared_types::agent::{JobFailure, JobId, JobState};
use shared_types::econ::{
    EconError, Reservation, ReservationState, ReserveArgs, Resource, SettleArgs, Settlement,
};

use crate::quota::{Due, Verdict};
use crate::turns::{Turn, UnderWay};
use crate::{cycles, slices, state};

/// While a call is due, it is looked for this often.
const WATCH: Duration = Duration::from_secs(5);

thread_local! {
    static TIMER: Cell<Option<TimerId>> = const { Cell::new(None) };
    static IN_FLIGHT: UnderWay<JobId> = const { RefCell::new(BTreeSet::new()) };
}

/// Has the calls made that are due, and those that will be.
pub fn schedule() {
    if !state::read(|state| state.jobs.quota().is_busy()) {
        return;
    }
    ic_cdk_timers::set_timer(Duration::ZERO, async { look() });
    if TIMER.get().is_none() {
        TIMER.set(Some(ic_cdk_timers::set_timer_interval(WATCH, || async { look() })));
    }
}

/// Makes the calls that are due, or ends the watch when none will be.
fn look() {
    // A canister that is being stopped makes no calls.
    if canister_status() != CanisterStatusCode::Running {
        return;
    }
    if !state::read(|state| state.jobs.quota().is_busy()) {
        if let Some(timer) = TIMER.take() {
            ic_cdk_timers::clear_timer(timer);
        }
        return;
    }
    for job_id in due() {
        ic_cdk::futures::spawn(call(job_id));
    }
}

fn due() -> Vec<JobId> {
    let flying = |job_id: JobId| IN_FLIGHT.with_borrow(|flying| flying.contains(&job_id));
    state::read(|state| state.jobs.quota().due(flying, time()))
}

/// Makes some of the calls that are due, for an agent that is about to be deleted; whether there were any.
pub async fn settle_some() -> bool {
    let due = due();
    let some = !due.is_empty();
    for job_id in due {
        call(job_id).await;
    }
    some
}

/// Makes a job's call, unless it is under way, and has the job run, fail or go on as `econ` says.
async fn call(job_id: JobId) {
    let Some(turn) = Turn::take(&IN_FLIGHT, job_id) else { return };
    // Waiting for cycles is no attempt.
    if cycles::shortage(1).is_some() {
        return;
    }
    // An agent that was installed without quota has no entries.
    let Some(account) = state::read(state::State::account) else { return };
    let Some(due) = state::mutate(|state| state.jobs.quota_mut().begin(job_id)) else { return };
    let outcome = match due {
        Due::Reserve { tokens, expires_ns } => reserve(account, job_id, tokens, expires_ns).await,
        Due::Settle(reservation, usage) => {
            let (amount, usage) = (usage.tokens(), Some(usage));
            settle(account.0, SettleArgs { reservation, amount, agents: Vec::new(), usage }).await
        }
    };
    let now = time();
    state::mutate(|state| {
        let quota = state.jobs.quota_mut();
        let verdict = match outcome {
            Outcome::Reserved(reservation) => quota.reserved(job_id, reservation, now),
            Outcome::Over(reason) => quota.over(job_id, reason),
            Outcome::Failed(reason) => quota.failed(job_id, reason, now),
        };
        match verdict {
            Verdict::Nothing => {}
            Verdict::Funded(until_ns) => state.jobs.funded(job_id, until_ns),
            Verdict::Refused(reason) => {
                let state_after = JobState::Failed { reason: JobFailure::Quota { reason } };
                state.jobs.set_state(job_id, &state_after, now);
            }
        }
    });
    drop(turn);
    slices::schedule(Duration::ZERO);
    schedule();
}

/// What a call has come to.
enum Outcome {
    Reserved(u64),
    Over(String),
    Failed(String),
}

impl From<NoAnswer> for Outcome {
    fn from(failure: NoAnswer) -> Self {
        Self::Failed(format!("econ did not answer: {}", failure.reason()))
    }
}

async fn reserve(
    (econ, account): (Principal, Principal),
    job_id: JobId,
    tokens: u64,
    expires_ns: u64,
) -> Outcome {
    // The time tells it from a job of an agent that was in this canister before.
    let key = format!("job {job_id} until {expires_ns}");
    let args = ReserveArgs { account, resource: Resource::Tokens(tokens), key, expires_ns };
    match ask::<Result<Reservation, EconError>>(econ, "reserve", &args, 0).await {
        Ok(Ok(reservation)) => match reservation.state {
            ReservationState::Open | ReservationState::Expired => Outcome::Reserved(reservation.id),
            ReservationState::Settled(_) | ReservationState::Released => {
                Outcome::Over("the reservation has ended".to_owned())
            }
        },
        // An agent is known at `econ` once its creation is settled.
        Ok(Err(
            error @ (EconError::Unauthorized
            | EconError::RateLimited { .. }
            | EconError::TooManyReservations { .. }),
        )) => Outcome::Failed(error.to_string()),
        Ok(Err(error)) => Outcome::Over(error.to_string()),
        Err(failure) => failure.into(),
    }
}

async fn settle(econ: Principal, args: SettleArgs) -> Outcome {
    match ask::<Result<Settlement, EconError>>(econ, "settle", &args, 0).await {
        Ok(Err(error @ (EconError::RateLimited { .. } | EconError::Busy { .. }))) => {
            Outcome::Failed(error.to_string())
        }
        // Settled, or forgotten.
        Ok(_) => Outcome::Over(String::new()),
        Err(failure) => failure.into(),
    }
}
