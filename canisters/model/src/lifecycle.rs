//! Installation and upgrade.

use candid::Principal;
use ic_cdk::{init, post_upgrade};
use shared_types::model::{AuditEvent, ModelInitArgs};

use crate::guards::CallContext;
use crate::{state, timers};

/// Version of the code.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[init]
fn init(args: ModelInitArgs) {
    let context = CallContext::of_message();
    let ModelInitArgs { admins, owners, policy } = args;
    let (owners, policy) = (owners.unwrap_or_default(), policy.unwrap_or_default());
    // Installation has no result; a trap is its only way to say no.
    let anonymous = Principal::anonymous();
    assert!(
        !admins.is_empty() && !admins.contains(&anonymous) && !owners.contains(&anonymous),
        "admins: at least one is needed, and the anonymous principal can't be one"
    );
    if let Err(error) = policy.check() {
        ic_cdk::trap(format!("policy.{error}"));
    }
    state::mutate(|repository| repository.install(&context, admins, owners, policy));
    let voters = state::read(|repository| repository.roles().voters());
    assert!(policy.approvals <= voters, "policy.approvals: {} of {voters} who vote", policy.approvals);
    timers::start();
}

#[post_upgrade]
fn post_upgrade() {
    let context = CallContext::of_message();
    state::mutate(|repository| {
        repository.migrate(context.now_ns);
        repository.record(&context, AuditEvent::Upgraded { version: VERSION.to_owned() });
    });
    timers::start();
}
