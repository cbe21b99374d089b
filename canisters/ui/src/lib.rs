//! The ui canister: the web app's files, certified, published by two roles together.
//!
//! Endpoints only; `shared_types::ui` documents them, `ui.did` is the interface. The rules are in [`site`], [`rules`],
//! [`contents`], [`roles`] and [`serving`], which know nothing of `ic-cdk`.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

pub mod contents;
pub mod guards;
pub mod lifecycle;
pub mod memory;
pub mod queries;
pub mod roles;
pub mod rules;
pub mod serving;
pub mod site;
pub mod state;
pub mod updates;

use ic_cdk::{query, update};
use shared_types::ui::{
    BatchState, BeginBatchArgs, CommitBatchArgs, FilePage, HttpGatewayRequest, HttpGatewayResponse,
    ListFilesArgs, ListPublicationsArgs, ListUiRolesArgs, MissingChunksArgs, MissingChunksPage, Publication,
    PublicationPage, PutChunkArgs, SiteConfig, UiError, UiRoleGrant, UiRolePage, UiStatus,
};

#[query]
fn http_request(request: HttpGatewayRequest) -> HttpGatewayResponse {
    queries::pages::http_request(&request)
}

#[update]
fn begin_batch(args: BeginBatchArgs) -> Result<BatchState, UiError> {
    updates::publishing::begin_batch(args)
}

#[update]
fn put_chunk(args: PutChunkArgs) -> Result<BatchState, UiError> {
    updates::publishing::put_chunk(&args)
}

#[update]
fn propose(batch_id: u64) -> Result<BatchState, UiError> {
    updates::publishing::propose(batch_id)
}

#[update]
fn commit(args: CommitBatchArgs) -> Result<Publication, UiError> {
    updates::publishing::commit(&args)
}

#[update]
fn discard_batch(batch_id: u64) -> Result<(), UiError> {
    updates::publishing::discard_batch(batch_id)
}

#[update]
fn grant_role(grant: UiRoleGrant) -> Result<(), UiError> {
    updates::administration::grant_role(grant)
}

#[update]
fn revoke_role(grant: UiRoleGrant) -> Result<(), UiError> {
    updates::administration::revoke_role(grant)
}

#[update]
fn configure(config: SiteConfig) -> Result<(), UiError> {
    updates::administration::configure(config)
}

#[query]
fn missing_chunks(args: MissingChunksArgs) -> Result<MissingChunksPage, UiError> {
    queries::publishing::missing_chunks(&args)
}

#[query]
fn list_files(args: ListFilesArgs) -> Result<FilePage, UiError> {
    queries::publishing::list_files(&args)
}

#[query]
fn list_publications(args: ListPublicationsArgs) -> PublicationPage {
    queries::publishing::list_publications(&args)
}

#[query]
fn list_roles(args: ListUiRolesArgs) -> UiRolePage {
    queries::publishing::list_roles(&args)
}

#[query]
fn status() -> UiStatus {
    queries::publishing::status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::ui::UiInitArgs;

    candid::export_service!();

    #[test]
    fn candid_file_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ui.did");
        canister_common::interface::assert_candid_file(path, &__export_service());
    }
}
