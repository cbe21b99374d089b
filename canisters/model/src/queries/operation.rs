//! Audit log, status, HTTP.

use ic_cdk::api::{canister_cycle_balance, data_certificate, stable_size};
use shared_types::model::{AuditLogArgs, AuditPage, ModelCanisterStatus};

use super::proof;
use crate::http::{self, HttpRequest, HttpResponse};
use crate::repository::Repository;
use crate::state;

const WASM_PAGE_BYTES: u64 = 65_536;

/// A page of the audit log, with what proves its head.
pub fn audit_log(args: &AuditLogArgs) -> AuditPage {
    state::read(|repository| {
        let mut page = repository.audit().list(args);
        page.proof = proof(|| repository.tree().audit_witness());
        page
    })
}

/// Version, sizes, balance.
pub fn status() -> ModelCanisterStatus {
    ModelCanisterStatus {
        stable_bytes: stable_size() * WASM_PAGE_BYTES,
        heap_bytes: heap_bytes(),
        cycles: canister_cycle_balance(),
        ..state::read(Repository::status)
    }
}

/// `/health` and `/metrics`.
pub fn http_request(request: &HttpRequest) -> HttpResponse {
    let mut response = http::respond(request, status);
    if let Some(certificate) = data_certificate() {
        let witness = state::read(|repository| repository.tree().http_witness());
        http::certify(&mut response, &certificate, &witness);
    }
    response
}

#[cfg(target_family = "wasm")]
fn heap_bytes() -> u64 {
    core::arch::wasm32::memory_size(0) as u64 * WASM_PAGE_BYTES
}

/// Natively there is no Wasm heap to measure.
#[cfg(not(target_family = "wasm"))]
fn heap_bytes() -> u64 {
    0
}
