//! What the factory does though nobody asks: it keeps the pool full, goes on with rollouts, and finishes what was interrupted.
//!
//! A timer looks what there is to do and begins as much of it as may be under way at the same time; each answer has it look again.
//!
//! Invariant: while there is something to do, a timer is armed that no single message can take along when it traps. A message that
//! traps loses the one-shot timer that started it, and the timer it would have set; the watch, a repeated timer, is left.

use std::cell::Cell;
use std::time::Duration;

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_liquid_cycle_balance, canister_self, canister_status, time};
use ic_cdk_timers::TimerId;
use shared_types::factory::rollout::{UpgradeOutcome, UpgradeRecord};
use shared_types::factory::{AgentState, FactoryError};

use crate::agents::POOL_KEY;
use crate::platform::{self, Wish};
use crate::rollouts::Wanted;
use crate::state::{self, Turn};
use crate::updates::agent::proceed;

/// While there is something to do, it is taken up again at least this often, whatever trapped.
const WATCH: Duration = Duration::from_mins(1);

thread_local! {
    static TIMER: Cell<Option<TimerId>> = const { Cell::new(None) };
    static WATCH_TIMER: Cell<Option<TimerId>> = const { Cell::new(None) };
    /// No canister is created for the pool before this time: the last creation failed.
    static POOL_PAUSED_UNTIL: Cell<u64> = const { Cell::new(0) };
}

/// Looks what there is to do. There is one timer: a later call replaces an earlier one.
pub fn schedule() {
    if !is_needed() {
        return;
    }
    if let Some(earlier) = TIMER.take() {
        ic_cdk_timers::clear_timer(earlier);
    }
    TIMER.set(Some(ic_cdk_timers::set_timer(Duration::ZERO, async { look() })));
    if WATCH_TIMER.get().is_none() {
        WATCH_TIMER.set(Some(ic_cdk_timers::set_timer_interval(WATCH, || async { watch() })));
    }
}

fn watch() {
    if is_needed() {
        schedule();
    } else if let Some(watch) = WATCH_TIMER.take() {
        ic_cdk_timers::clear_timer(watch);
    }
}

/// Canisters that the pool lacks.
fn missing_in_pool() -> u64 {
    state::read(|state| {
        let target = u64::from(state.settings().config.pool_target.unwrap_or(0));
        target.saturating_sub(state.agents.spares() + pool_creations())
    })
}

/// Creations for the pool under way.
fn pool_creations() -> u64 {
    state::turns_of(canister_self())
}

fn is_needed() -> bool {
    let unfinished = state::read(|state| {
        let rolls = state.rollouts.latest().is_some_and(|rollout| rollout.state.is_active());
        rolls || !state.agents.unfinished().is_empty() || state.agents.pool_begun() > pool_creations()
    });
    unfinished || missing_in_pool() > 0
}

/// Begins as much of what there is to do as may be under way.
fn look() {
    TIMER.set(None);
    // A canister that is being stopped makes no calls; the watch goes on after it was started again.
    if canister_status() != CanisterStatusCode::Running {
        return;
    }
    let (now, factory) = (time(), canister_self());
    state::mutate(|state| state.agents.note_lost_pool_creations(factory, pool_creations(), now));
    let most = state::read(|state| state.settings().config.max_concurrent);
    for (owner, key) in state::read(|state| state.agents.unfinished()) {
        // The rollout takes up its own.
        if is_upgrading(owner, &key) && rollout_is_active() {
            continue;
        }
        if let Ok(turn) = Turn::take(owner, &key, most) {
            ic_cdk::futures::spawn(finish(turn, owner, key));
        }
    }
    let was_active = rollout_is_active();
    let free = most.saturating_sub(state::in_progress()) as usize;
    let wanted = state::mutate(|state| {
        let crate::state::State { rollouts, agents, .. } = state;
        rollouts.next(agents, free, |record| state::is_taken(record.owner, &record.key), now)
    });
    for wanted in wanted {
        if let Ok(turn) = Turn::take(wanted.owner, &wanted.key, most) {
            ic_cdk::futures::spawn(upgrade(turn, wanted));
        }
    }
    if was_active {
        state::mutate(state::State::adopt_rollout_template);
    }
    // Requests of people come before the pool: it takes at most half of what may be under way.
    let mut creations = missing_in_pool().min(u64::from(most.div_ceil(2)).saturating_sub(pool_creations()));
    while creations > 0 && now >= POOL_PAUSED_UNTIL.get() && pool_has_cycles() {
        let index = state::read(|state| state.agents.pool_begun());
        let Ok(turn) = Turn::take(factory, &format!("{POOL_KEY}/{now}/{index}"), most) else { break };
        state::mutate(|state| state.agents.pool_creation_begun(factory, now));
        ic_cdk::futures::spawn(create_spare(turn));
        creations -= 1;
    }
    // The walk of a rollout goes on in the next message, unless answers are awaited, which wake.
    if rollout_is_active() && state::in_progress() == 0 {
        schedule();
    }
}

fn rollout_is_active() -> bool {
    state::read(|state| state.rollouts.latest().is_some_and(|rollout| rollout.state.is_active()))
}

fn is_upgrading(owner: Principal, key: &str) -> bool {
    let record = state::read(|state| state.agents.get(owner, key));
    record.is_ok_and(|record| matches!(record.state, AgentState::Upgrading { .. }))
}

/// Whether the balance covers another canister beside an agent that somebody asks for.
fn pool_has_cycles() -> bool {
    let agent_cycles = state::read(|state| state.settings().config.agent_cycles);
    let creation = ic_cdk::api::cost_create_canister();
    canister_liquid_cycle_balance() >= agent_cycles.saturating_add(creation.saturating_mul(2))
}

/// Finishes what was interrupted. What fails is taken up again by the watch.
async fn finish(turn: Turn, owner: Principal, key: String) {
    let proceeded = proceed(owner, &key, &Wish::default()).await;
    drop(turn);
    if proceeded.failure.is_none() && proceeded.ended.is_ok() {
        schedule();
    }
}

/// Upgrades one agent of the rollout and reports.
async fn upgrade(turn: Turn, wanted: Wanted) {
    let Wanted { owner, key, template } = wanted;
    let begun = state::mutate(|state| {
        let before = state.agents.get(owner, &key)?;
        state.agents.request_upgrade(owner, &key, template)?;
        Ok::<_, FactoryError>(before)
    });
    if let Ok(before) = begun {
        let proceeded = proceed(owner, &key, &Wish::default()).await;
        if proceeded.ended.is_err() {
            // Interrupted: the watch takes it up again, and reports.
            return;
        }
        state::mutate(|state| {
            let Ok(after) = state.agents.get(owner, &key) else { return };
            let Some(canister) = before.canister else { return };
            let outcome = match proceeded.failure {
                Some((step, reason)) if after.template != template => UpgradeOutcome::Failed { step, reason },
                _ => UpgradeOutcome::Done,
            };
            state.rollouts.upgraded(UpgradeRecord {
                canister,
                owner,
                key: key.clone(),
                from: before.template,
                to: template,
                outcome,
                time_ns: time(),
            });
        });
    }
    drop(turn);
    schedule();
}

/// Creates a canister for the pool.
async fn create_spare(turn: Turn) {
    let outcome = platform::create().await.map_err(|error| error.to_string());
    state::mutate(|state| {
        let failed = outcome.is_err();
        state.agents.pool_creation_ended(canister_self(), outcome, time());
        if failed {
            POOL_PAUSED_UNTIL.set(time().saturating_add(WATCH.as_nanos() as u64));
        }
    });
    drop(turn);
    schedule();
}
