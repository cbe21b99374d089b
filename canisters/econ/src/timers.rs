//! What time brings: reservations expire, subscriptions change, invoices are collected, transfers go on.

use std::time::Duration;

use ic_cdk::api::time;

use crate::driver;
use crate::economy::Task;
use crate::state;

/// Time between two looks at the schedule.
const PERIOD: Duration = Duration::from_secs(30);

/// Tasks that one look takes up.
const TASKS_PER_TICK: usize = 100;

/// Invoices and transfers that one look begins to work on.
const PAYMENTS_PER_TICK: usize = 20;

/// Begins to look at the schedule; again after every upgrade.
pub fn start() {
    ic_cdk_timers::set_timer_interval(PERIOD, async || tick());
}

fn tick() {
    let now_ns = time();
    let tasks = state::read(|economy| economy.due(now_ns, TASKS_PER_TICK));
    state::mutate(|economy| economy.sweep_settlement(now_ns, TASKS_PER_TICK));
    let mut payments = 0;
    for task in tasks {
        let takes_calls = state::mutate(|economy| economy.take_up(task, now_ns));
        if !takes_calls || payments >= PAYMENTS_PER_TICK {
            continue;
        }
        payments += 1;
        ic_cdk::futures::spawn(async move {
            // Busy is no loss: it stays due.
            match task {
                Task::Invoice(id) => drop(driver::collect(id).await),
                Task::Transfer(id) => drop(driver::drive(id).await),
                Task::Reservation(_) | Task::Account(_) => {}
            }
        });
    }
}
