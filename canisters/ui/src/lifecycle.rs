//! Installation and upgrade.

use ic_cdk::{init, post_upgrade};
use shared_types::ui::UiInitArgs;

use crate::state;

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: UiInitArgs) {
    let installed = state::mutate(|site| site.install(args.roles, args.config));
    // Installation has no result; a trap is its only way to say no.
    installed.unwrap_or_else(|error| panic!("{error}"));
    state::certify();
}

#[post_upgrade]
fn post_upgrade() {
    state::certify();
}
