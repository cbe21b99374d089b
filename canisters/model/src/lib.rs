//! The model canister: the repository that agents load their models from.
//!
//! Endpoints only; `shared_types::model` documents them, `model.did` is the interface. The rules are in
//! [`uploads`], [`validation`], [`governance`], [`catalogue`], [`roles`] and [`audit`], which know nothing of `ic-cdk`.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

pub mod audit;
pub mod catalogue;
pub mod governance;
pub mod guards;
pub mod http;
pub mod index;
pub mod lifecycle;
pub mod manifest;
pub mod memory;
pub mod migration;
pub mod queries;
pub mod repository;
pub mod roles;
pub mod settings;
pub mod state;
pub mod sync;
pub mod timers;
pub mod updates;
pub mod uploads;
pub mod validation;

use std::marker::PhantomData;

use candid::Principal;
use ic_cdk::{query, update};
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::model::{
    AuditLogArgs, AuditPage, BeginUploadArgs, CertifiedModel, GetShardArgs, GetShardChunkArgs, IndexPage,
    KnownRepository, ListIndexArgs, ListModelsArgs, ListProposalsArgs, ListRolesArgs, MissingShardsArgs,
    MissingShardsPage, ModelCanisterStatus, ModelError, ModelPage, ModelRecord, Proposal, ProposalAction,
    ProposalPage, ProposalSummary, PutShardArgs, PutShardResult, RegisterKeyArgs, RegisteredKey, RolePage,
    UploadState, UploaderUsage, ValidationReport,
};

use http::{HttpRequest, HttpResponse};

#[update]
fn begin_upload(args: BeginUploadArgs) -> Result<UploadState, ModelError> {
    updates::upload::begin_upload(&args)
}

#[update]
fn put_shard(args: PutShardArgs) -> Result<PutShardResult, ModelError> {
    updates::upload::put_shard(&args)
}

#[update]
fn finish_upload(model_id: ModelId) -> Result<ModelRecord, ModelError> {
    updates::upload::finish_upload(&model_id)
}

#[update]
fn discard_upload(model_id: ModelId) -> Result<(), ModelError> {
    updates::upload::discard_upload(&model_id)
}

#[update]
fn revalidate(model_id: ModelId) -> Result<(), ModelError> {
    updates::upload::revalidate(&model_id)
}

#[update]
fn propose(action: ProposalAction) -> Result<Proposal, ModelError> {
    updates::governance::propose(action)
}

#[update]
fn approve(id: u64) -> Result<Proposal, ModelError> {
    updates::governance::approve(id)
}

#[update]
fn reject(id: u64) -> Result<Proposal, ModelError> {
    updates::governance::reject(id)
}

#[update]
fn register_key(args: RegisterKeyArgs) -> Result<(), ModelError> {
    updates::governance::register_key(&args)
}

#[update]
fn revoke_key(public_key: ByteBuf) -> Result<(), ModelError> {
    updates::governance::revoke_key(&public_key)
}

#[query]
fn missing_shards(args: MissingShardsArgs) -> Result<MissingShardsPage, ModelError> {
    queries::uploads::missing_shards(&args)
}

#[query]
fn uploader_usage() -> UploaderUsage {
    queries::uploads::uploader_usage()
}

#[query]
fn validation_report(model_id: ModelId) -> Result<ValidationReport, ModelError> {
    queries::uploads::validation_report(&model_id)
}

#[query]
fn list_models(args: ListModelsArgs) -> ModelPage {
    queries::catalogue::list_models(&args)
}

#[query]
fn get_model(model_id: ModelId) -> Result<ModelRecord, ModelError> {
    queries::catalogue::get_model(&model_id)
}

#[query]
fn get_certified_model(model_id: ModelId) -> Result<CertifiedModel, ModelError> {
    queries::catalogue::get_certified_model(&model_id)
}

#[query]
fn latest(name: String) -> Result<CertifiedModel, ModelError> {
    queries::catalogue::latest(&name)
}

#[query]
fn get_manifest(model_id: ModelId) -> Result<ByteBuf, ModelError> {
    queries::catalogue::get_manifest(&model_id)
}

#[query(manual_reply = true)]
fn get_shard(args: GetShardArgs) -> PhantomData<Result<ByteBuf, ModelError>> {
    queries::shards::get_shard(&args);
    PhantomData
}

#[query(manual_reply = true)]
fn get_shard_chunk(args: GetShardChunkArgs) -> PhantomData<Result<ByteBuf, ModelError>> {
    queries::shards::get_shard_chunk(&args);
    PhantomData
}

#[query]
fn list_roles(args: ListRolesArgs) -> RolePage {
    queries::governance::list_roles(&args)
}

#[query]
fn list_keys(uploader: Principal) -> Vec<RegisteredKey> {
    queries::governance::list_keys(uploader)
}

#[query]
fn list_proposals(args: ListProposalsArgs) -> ProposalPage {
    queries::governance::list_proposals(&args)
}

#[query]
fn get_proposal(id: u64) -> Result<Proposal, ModelError> {
    queries::governance::get_proposal(id)
}

#[query]
fn governance() -> ProposalSummary {
    queries::governance::governance()
}

#[query]
fn list_repositories() -> Vec<KnownRepository> {
    queries::index::list_repositories()
}

#[query]
fn list_index(args: ListIndexArgs) -> IndexPage {
    queries::index::list_index(&args)
}

#[query]
fn placement(bytes: u64) -> Result<Principal, ModelError> {
    queries::index::placement(bytes)
}

#[query]
fn locate(model_id: ModelId) -> Result<Principal, ModelError> {
    queries::index::locate(&model_id)
}

#[query]
fn audit_log(args: AuditLogArgs) -> AuditPage {
    queries::operation::audit_log(&args)
}

#[query]
fn status() -> ModelCanisterStatus {
    queries::operation::status()
}

#[query]
fn http_request(request: HttpRequest) -> HttpResponse {
    queries::operation::http_request(&request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::model::ModelInitArgs;

    candid::export_service!();

    #[test]
    fn candid_file_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/model.did");
        canister_common::interface::assert_candid_file(path, &__export_service());
    }
}
