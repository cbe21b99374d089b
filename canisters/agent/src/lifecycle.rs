//! Installation and upgrade. Stop the canister before an upgrade, so that no answer is under way to code that is gone.

use std::time::Duration;

use candid::Principal;
use ic_cdk::{init, post_upgrade};
use shared_types::agent::AgentInitArgs;

use crate::{slices, state};

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: AgentInitArgs) {
    // Installation has no result; a trap is its only way to say no.
    assert!(args.owner != Principal::anonymous(), "owner: the anonymous principal can't own an agent");
    if let Err(error) = args.config.validate() {
        panic!("config.{error}");
    }
    state::mutate(|state| state.install(args));
}

#[post_upgrade]
fn post_upgrade() {
    // Timers don't survive an upgrade; the first one looks what there is to do.
    slices::schedule(Duration::ZERO);
}
