//! Arguments of the model repository's methods from anybody. The first byte chooses the method.

#![no_main]

use candid::utils::decode_args_with_config;
use candid::{DecoderConfig, Principal};
use libfuzzer_sys::fuzz_target;
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::model::{
    AuditLogArgs, BeginUploadArgs, GetShardArgs, GetShardChunkArgs, ListIndexArgs, ListModelsArgs,
    ListProposalsArgs, ListRolesArgs, MissingShardsArgs, ModelInitArgs, ProposalAction, PutShardArgs,
    RegisterKeyArgs,
};
use shared_types::ui::HttpGatewayRequest;

macro_rules! decoders {
    ($($method:literal: ($($argument:ty),*),)*) => {
        /// Methods, and what takes their arguments apart.
        const DECODERS: &[(&str, fn(&[u8]))] = &[$(($method, |bytes| {
            let _ = decode_args_with_config::<($($argument,)*)>(bytes, &as_in_a_canister());
        })),*];
    };
}

decoders! {
    "init": (ModelInitArgs),
    "approve": (u64),
    "audit_log": (AuditLogArgs),
    "begin_upload": (BeginUploadArgs),
    "discard_upload": (ModelId),
    "finish_upload": (ModelId),
    "get_certified_model": (ModelId),
    "get_manifest": (ModelId),
    "get_model": (ModelId),
    "get_proposal": (u64),
    "get_shard": (GetShardArgs),
    "get_shard_chunk": (GetShardChunkArgs),
    "governance": (),
    "http_request": (HttpGatewayRequest),
    "latest": (String),
    "list_index": (ListIndexArgs),
    "list_keys": (Principal),
    "list_models": (ListModelsArgs),
    "list_proposals": (ListProposalsArgs),
    "list_repositories": (),
    "list_roles": (ListRolesArgs),
    "locate": (ModelId),
    "missing_shards": (MissingShardsArgs),
    "placement": (u64),
    "propose": (ProposalAction),
    "put_shard": (PutShardArgs),
    "register_key": (RegisterKeyArgs),
    "reject": (u64),
    "revalidate": (ModelId),
    "revoke_key": (ByteBuf),
    "status": (),
    "uploader_usage": (),
    "validation_report": (ModelId),
}

/// What the macros of `ic-cdk` 0.20 decode arguments with. Without the quota, values that nobody wants could be skipped for hours: elements of
/// a `vec null` take no bytes.
fn as_in_a_canister() -> DecoderConfig {
    let mut config = DecoderConfig::new();
    config.set_skipping_quota(10_000);
    config
}

/// Every method of the Candid file has a decoder.
fn check_methods() {
    let did = include_str!("../../canisters/model/model.did");
    let (_, service) = did.split_once("service :").expect("a service");
    let methods = service.lines().filter(|line| line.contains("->") && line.starts_with("  "));
    let methods: Vec<&str> = methods.filter_map(|line| line.trim().split(' ').next()).collect();
    let known: Vec<&str> = DECODERS.iter().skip(1).map(|(method, _)| *method).collect();
    assert_eq!(known, methods);
}

fuzz_target!(init: check_methods(), |bytes: &[u8]| {
    let Some((method, bytes)) = bytes.split_first() else { return };
    let (_, decode) = DECODERS[usize::from(*method) % DECODERS.len()];
    decode(bytes);
});
