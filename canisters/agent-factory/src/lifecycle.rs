//! Installation and upgrade. Everything lives in stable memory, so that an upgrade has nothing to do; requests under
//! way are lost with the heap, and their callers repeat them with the same key.

use candid::Principal;
use ic_cdk::init;
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
