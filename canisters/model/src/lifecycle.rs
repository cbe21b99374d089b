//! Installation and upgrade.

use candid::Principal;
use ic_cdk::{init, post_upgrade};
use shared_types::model::{AuditEvent, ModelInitArgs};

use crate::guards::CallContext;
use crate::state;

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: ModelInitArgs) {
    let context = CallContext::of_message();
    let usable = !args.admins.is_empty() && !args.admins.contains(&Principal::anonymous());
    // Installation has no result; a trap is its only way to say no.
    assert!(usable, "admins: at least one is needed, and the anonymous principal can't be one");
    state::mutate(|repository| repository.install(&context, args.admins));
}

#[post_upgrade]
fn post_upgrade() {
    let context = CallContext::of_message();
    state::mutate(|repository| {
        repository.record(&context, AuditEvent::Upgraded { version: VERSION.to_owned() });
    });
}
