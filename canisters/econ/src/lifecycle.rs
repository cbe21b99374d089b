//! Installation and upgrade. Everything lives in stable memory; an upgrade only starts the timer again.

use ic_cdk::api::{CanisterStatusCode, canister_self, canister_status, time};
use ic_cdk::{init, post_upgrade, pre_upgrade};
use shared_types::econ::EconInitArgs;

use crate::{state, timers};

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: EconInitArgs) {
    let installed = state::mutate(|economy| economy.install(canister_self(), args, time()));
    // Installation has no result; a trap is its only way to say no.
    if let Err(error) = installed {
        panic!("{error}");
    }
    timers::start();
}

/// Refuses to upgrade a canister that was not stopped while payments are under way: the answers of their calls would come to code
/// that does not know them. Nothing would be lost, since what has no answer is reconciled, but it would take longer.
#[pre_upgrade]
fn pre_upgrade() {
    let in_progress = state::in_progress();
    assert!(
        in_progress == 0 || canister_status() == CanisterStatusCode::Stopped,
        "stop the canister before its upgrade: {in_progress} payments are under way"
    );
}

#[post_upgrade]
fn post_upgrade() {
    timers::start();
}
