//! Installation and upgrade.

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_status};
use ic_cdk::{init, post_upgrade, pre_upgrade};
use shared_types::coordinator::CoordinatorInitArgs;

use crate::{driver, state};

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: CoordinatorInitArgs) {
    let usable = !args.admins.is_empty() && !args.admins.contains(&Principal::anonymous());
    // Installation has no result; a trap is its only way to say no.
    assert!(usable, "admins: at least one is needed, and the anonymous principal can't be one");
    if let Err(error) = args.config.validate() {
        panic!("config.{error}");
    }
    state::mutate(|state| state.install(args));
}

/// Refuses the upgrade of a canister that was not stopped while calls are under way: their answers would come to code that does
/// not know them. `skip_pre_upgrade` is the way out if the canister can't be stopped.
#[pre_upgrade]
fn pre_upgrade() {
    let calls = driver::calls();
    assert!(
        calls == 0 || canister_status() == CanisterStatusCode::Stopped,
        "stop the canister before its upgrade: {calls} calls are under way"
    );
}

#[post_upgrade]
fn post_upgrade() {
    // Timers don't survive an upgrade.
    driver::wake_all();
}
