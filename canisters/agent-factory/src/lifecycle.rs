//! Installation and upgrade. Everything but the timers lives in stable memory.

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_status};
use ic_cdk::{init, post_upgrade, pre_upgrade};
use shared_types::factory::FactoryInitArgs;

use crate::{state, upkeep};

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: FactoryInitArgs) {
    let usable = !args.admins.is_empty() && !args.admins.contains(&Principal::anonymous());
    // Installation has no result; a trap is its only way to say no.
    assert!(usable, "admins: at least one is needed, and the anonymous principal can't be one");
    if let Err(error) = args.config.validate() {
        panic!("config.{error}");
    }
    state::mutate(|state| state.install(args));
    upkeep::schedule();
}

/// Refuses to upgrade a canister that was not stopped while requests are under way: their answers, among them the ids of new
/// canisters, would be lost with the heap. `skip_pre_upgrade` is the way out if the canister can't be stopped.
#[pre_upgrade]
fn pre_upgrade() {
    let in_progress = state::in_progress();
    assert!(
        in_progress == 0 || canister_status() == CanisterStatusCode::Stopped,
        "stop the canister before its upgrade: {in_progress} requests are under way"
    );
}

/// Timers don't survive an upgrade; nor does what was in the chunk store, if who made the upgrade sent the module through it.
#[post_upgrade]
fn post_upgrade() {
    state::mutate(|state| state.templates.chunk_store_cleared());
    upkeep::schedule();
}
