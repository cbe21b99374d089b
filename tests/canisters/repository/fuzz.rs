//! Bytes that are no argument, to every method: a rejection or a typed error, never a change.

use candid::{Encode, Principal};
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, admin, stranger, uploader};
use ohms_tests::wasm::Canister;
use serde_bytes::ByteBuf;
use shared_types::model::{
    AuditLogArgs, BeginUploadArgs, GetShardArgs, GetShardChunkArgs, ListIndexArgs, ListModelsArgs,
    ListProposalsArgs, ListRolesArgs, MissingShardsArgs, ModelCanisterStatus, ModelError, ProposalAction,
    PutShardArgs, RegisterKeyArgs, UploadState,
};

/// An argument of each method that takes one, to be damaged.
fn argument(method: &str) -> Vec<u8> {
    let model_id = Artifact::small().id;
    let blob = || ByteBuf::from([7; 32]);
    match method {
        "begin_upload" => Encode!(&BeginUploadArgs { manifest: blob() }),
        "put_shard" => Encode!(&PutShardArgs { model_id, index: 0, bytes: blob() }),
        "propose" => Encode!(&ProposalAction::Deprecate { model_id, reason: "r".to_owned() }),
        "approve" | "reject" | "get_proposal" => Encode!(&1u64),
        "register_key" => Encode!(&RegisterKeyArgs { public_key: blob(), possession: blob() }),
        "revoke_key" => Encode!(&blob()),
        "missing_shards" => Encode!(&MissingShardsArgs { model_id, after: Some(1), limit: 9 }),
        "list_models" => Encode!(&ListModelsArgs { status: None, filter: None, after: None, limit: 9 }),
        "get_shard" => Encode!(&GetShardArgs { model_id, index: 0 }),
        "get_shard_chunk" => Encode!(&GetShardChunkArgs { model_id, index: 0, offset: 1, length: 1 }),
        "list_roles" => Encode!(&ListRolesArgs { after: None, limit: 9 }),
        "list_proposals" => Encode!(&ListProposalsArgs { open_only: true, before: None, limit: 9 }),
        "audit_log" => Encode!(&AuditLogArgs { after: None, limit: 9 }),
        "list_keys" => Encode!(&Principal::anonymous()),
        "latest" => Encode!(&"name"),
        "list_index" => Encode!(&ListIndexArgs { name: None, after: None, limit: 9 }),
        "placement" => Encode!(&1u64),
        "status" | "governance" | "uploader_usage" | "list_repositories" => Encode!(),
        _ => Encode!(&model_id),
    }
    .unwrap()
}

#[test]
fn damaged_arguments_change_nothing() {
    let network = Network::new();
    let repository = network.repository();
    repository.begin(uploader(), &Artifact::small().manifest_bytes).unwrap();
    let before: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    // The callers may do nothing but read, so that an argument that happens to be whole changes nothing either.
    let mut state = 1u64;
    let mut random = move |bound: usize| {
        // Numerical Recipes' linear congruential generator; the high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for method in Canister::Model.methods() {
        let whole = argument(&method);
        for round in 0..24 {
            let mut bytes = whole.clone();
            match round % 4 {
                0 => bytes.truncate(random(bytes.len())),
                1 => {
                    let at = random(bytes.len());
                    bytes[at] ^= 1 << random(8);
                }
                2 => bytes.extend((0..random(40)).map(|i| i as u8)),
                _ => {
                    for _ in 0..4 {
                        let at = random(bytes.len());
                        bytes[at] = random(256) as u8;
                    }
                }
            }
            let caller = if round % 2 == 0 { stranger() } else { Principal::anonymous() };
            // A rejection (the decoder traps) or an answer; the canister is there afterwards.
            let _ = network.pic.update_call(repository.id, caller, &method, bytes.clone());
            let _ = network.pic.query_call(repository.id, caller, &method, bytes);
        }
    }
    let after: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    assert_eq!((after.audit_entries, after.audit_head), (before.audit_entries, before.audit_head));
}

#[test]
fn hostile_manifests_are_refused_by_name() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::small();
    let begin = |bytes: Vec<u8>| -> Result<UploadState, ModelError> { repository.begin(uploader(), &bytes) };
    let refused = |bytes: Vec<u8>| match begin(bytes) {
        Err(ModelError::InvalidManifest(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(refused(vec![b' '; 1_500_001]).reason.contains("at most 1500000"));
    let text = String::from_utf8(artifact.manifest_bytes.clone()).unwrap();
    // A name twice; a number that no shard has; fields of another format.
    let twice = text.replacen("\"model.norm.weight\"", "\"model.embed_tokens.weight\"", 1);
    assert!(refused(twice.into_bytes()).reason.contains("twice"));
    let wrong_shard = text.replacen("\"shard\":1", "\"shard\":7", 1);
    assert!(!refused(wrong_shard.into_bytes()).field.is_empty());
    let unknown = text.replacen('{', "{\"aaa\":1,", 1);
    assert!(refused(unknown.into_bytes()).reason.contains("aaa"));
    // Bits and pieces.
    for at in (0..text.len()).step_by(text.len() / 60) {
        let mut bytes = artifact.manifest_bytes.clone();
        bytes[at] ^= 1 << (at % 7);
        if let Ok(state) = begin(bytes) {
            // Another letter in free text makes another model, which is dropped again.
            let dropped: Result<(), ModelError> =
                network.update(admin(), repository.id, "discard_upload", (state.model_id,));
            dropped.unwrap();
        }
        assert!(begin(artifact.manifest_bytes[..at].to_vec()).is_err());
    }
    let status: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    assert_eq!((status.models, status.reserved_bytes), (0, 0));
}
