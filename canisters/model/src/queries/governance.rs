//! Roles, audit log, status.

use shared_types::model::{AuditLogArgs, AuditPage, ListRolesArgs, ModelCanisterStatus, RolePage};

use crate::lifecycle::VERSION;
use crate::state;

/// A page of the roles.
pub fn list_roles(args: &ListRolesArgs) -> RolePage {
    state::read(|repository| repository.roles().list(args))
}

/// A page of the audit log.
pub fn audit_log(args: &AuditLogArgs) -> AuditPage {
    state::read(|repository| repository.audit().list(args))
}

/// Version, sizes, balance.
pub fn status() -> ModelCanisterStatus {
    state::read(|repository| ModelCanisterStatus {
        version: VERSION.to_owned(),
        models: repository.models(),
        reserved_bytes: repository.reserved_bytes(),
        audit_entries: repository.audit().len(),
        audit_head: repository.audit().head(),
        cycles: ic_cdk::api::canister_cycle_balance(),
    })
}
