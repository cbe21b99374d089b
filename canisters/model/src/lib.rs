//! The model canister: the repository that agents load their models from.
//!
//! Endpoints only; `shared_types::model` documents them, `model.did` is the interface. The rules are in
//! [`repository`], [`roles`] and [`audit`], which know nothing of `ic-cdk`.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

pub mod audit;
pub mod guards;
pub mod lifecycle;
pub mod manifest;
pub mod memory;
pub mod queries;
pub mod repository;
pub mod roles;
pub mod state;
pub mod updates;

use ic_cdk::{query, update};
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::model::{
    AuditLogArgs, AuditPage, BeginUploadArgs, DeprecateArgs, GetShardArgs, GetShardChunkArgs, ListModelsArgs,
    ListRolesArgs, MissingShardsArgs, MissingShardsPage, ModelCanisterStatus, ModelError, ModelPage,
    ModelRecord, PutShardArgs, PutShardResult, RoleGrant, RolePage, UploadState,
};

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
fn activate(model_id: ModelId) -> Result<ModelRecord, ModelError> {
    updates::status::activate(&model_id)
}

#[update]
fn deprecate(args: DeprecateArgs) -> Result<ModelRecord, ModelError> {
    updates::status::deprecate(args)
}

#[update]
fn grant_role(grant: RoleGrant) -> Result<(), ModelError> {
    updates::roles::grant_role(grant)
}

#[update]
fn revoke_role(grant: RoleGrant) -> Result<(), ModelError> {
    updates::roles::revoke_role(grant)
}

#[query]
fn missing_shards(args: MissingShardsArgs) -> Result<MissingShardsPage, ModelError> {
    queries::catalogue::missing_shards(&args)
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
fn get_manifest(model_id: ModelId) -> Result<ByteBuf, ModelError> {
    queries::catalogue::get_manifest(&model_id)
}

#[query]
fn get_shard(args: GetShardArgs) -> Result<ByteBuf, ModelError> {
    queries::shards::get_shard(&args)
}

#[query]
fn get_shard_chunk(args: GetShardChunkArgs) -> Result<ByteBuf, ModelError> {
    queries::shards::get_shard_chunk(&args)
}

#[query]
fn list_roles(args: ListRolesArgs) -> RolePage {
    queries::governance::list_roles(&args)
}

#[query]
fn audit_log(args: AuditLogArgs) -> AuditPage {
    queries::governance::audit_log(&args)
}

#[query]
fn status() -> ModelCanisterStatus {
    queries::governance::status()
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
