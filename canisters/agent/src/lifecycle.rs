//! Installation and upgrade.

use std::time::Duration;

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_status};
use ic_cdk::{init, on_low_wasm_memory, post_upgrade, pre_upgrade};
use shared_types::agent::AgentInitArgs;

use crate::{payments, reservations, slices, state};

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: AgentInitArgs) {
    // Installation has no result; a trap is its only way to say no.
    assert!(args.owner != Principal::anonymous(), "owner: the anonymous principal can't own an agent");
    if let Err(error) = args.config.validate() {
        panic!("config.{error}");
    }
    if let Some(profile) = &args.profile
        && let Err(error) = profile.validate()
    {
        panic!("{error}");
    }
    state::mutate(|state| state.install(args));
}

/// Refuses the upgrade of a canister that was not stopped: an answer under way to code that is gone would be given to the
/// new code with an address that means nothing there. `skip_pre_upgrade` is the way out if the canister can't be stopped.
#[pre_upgrade]
fn pre_upgrade() {
    assert!(
        canister_status() == CanisterStatusCode::Stopped,
        "stop the canister before its upgrade: answers to its calls may be under way"
    );
}

#[post_upgrade]
fn post_upgrade() {
    // The hash tree of the receipts is in the heap: it is built here, not in the first query. The version before may
    // not have certified any.
    state::mutate(|_| ());
    // Timers don't survive an upgrade; the first one looks what there is to do.
    slices::schedule(Duration::ZERO);
    payments::schedule();
    reservations::schedule();
}

/// Less than the setting `wasm_memory_threshold` is left of the heap: from now on the engine gets along with less.
#[on_low_wasm_memory]
fn on_low_wasm_memory() {
    slices::memory_was_short();
}
