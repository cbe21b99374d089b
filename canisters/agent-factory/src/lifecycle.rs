//! Installation and upgrade. Everything lives in stable memory, so that an upgrade has nothing to do.

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_status};
use ic_cdk::{init, pre_upgrade};
use shared_types::factory::FactoryInitArgs;

use crate::state;

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: FactoryInitArgs) {
    let usable = !args.admins.is_empty() && !args.admins.contains(&Principal::anonymous());
    // Installation has no result; a trap is its only way to say no.
    assert!(usable, "admins: at least one is needed, and the anonymous principal can't be one");
    let config = &args.config;
    assert!(
        config.max_concurrent > 0 && config.max_agents_per_owner > 0,
        "config: limits must be at least 1"
    );
    state::mutate(|state| state.install(args));
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
