//! Uploads that go wrong, are interrupted or come from strangers, and what an activation fixes.

use candid::Principal;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, Repository, admin, stranger, uploader};
use ohms_tests::wasm::Canister;
use shared_types::lifecycle::{ModelOperation, ModelStatus};
use shared_types::model::{
    AuditEntry, AuditLogArgs, AuditPage, GetShardArgs, ListModelsArgs, MissingShardsArgs, MissingShardsPage,
    ModelCanisterStatus, ModelError, ModelPage, ProposalState,
};
use shared_types::{Digest, ModelId};

fn missing(network: &Network, repository: &Repository, model_id: ModelId) -> Vec<u32> {
    let args = MissingShardsArgs { model_id, after: None, limit: 100 };
    let page: Result<MissingShardsPage, ModelError> =
        network.query(uploader(), repository.id, "missing_shards", (args,));
    page.unwrap().indices
}

fn get_shard(
    network: &Network,
    repository: &Repository,
    caller: Principal,
    model_id: ModelId,
    index: u32,
) -> Result<Vec<u8>, ModelError> {
    let args = GetShardArgs { model_id, index };
    let bytes: Result<serde_bytes::ByteBuf, ModelError> =
        network.query(caller, repository.id, "get_shard", (args,));
    bytes.map(serde_bytes::ByteBuf::into_vec)
}

#[test]
fn an_interrupted_upload_is_resumed_and_an_active_model_is_immutable() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    let (id, last) = (artifact.id, artifact.shards.len() as u32 - 1);
    assert!(last >= 2, "the test needs several shards");

    // Out of order, with an upgrade in between, and some of it twice.
    assert_eq!(repository.begin(uploader(), &artifact.manifest_bytes).unwrap().model_id, id);
    assert!(repository.put(uploader(), id, last, &artifact.shards[last as usize]).unwrap().newly_stored);
    network.upgrade(repository.id, Canister::Model);
    let resumed = repository.begin(uploader(), &artifact.manifest_bytes).unwrap();
    assert_eq!((resumed.missing, resumed.shards), (last, last + 1));
    assert!(!repository.put(uploader(), id, last, &artifact.shards[last as usize]).unwrap().newly_stored);
    assert_eq!(repository.finish(uploader(), id), Err(ModelError::Incomplete { missing: last }));
    assert_eq!(repository.activate(admin(), id), Err(ModelError::NotValidated));
    assert_eq!(missing(&network, &repository, id), (0..last).collect::<Vec<_>>());
    for index in missing(&network, &repository, id) {
        repository.put(uploader(), id, index, &artifact.shards[index as usize]).unwrap();
    }
    assert_eq!(repository.activate(admin(), id), Err(ModelError::NotValidated));
    repository.finish(uploader(), id).unwrap();

    // A Pending model is nobody else's business.
    let pending = ModelError::WrongStatus { status: ModelStatus::Pending, operation: ModelOperation::Serve };
    assert_eq!(get_shard(&network, &repository, stranger(), id, 0), Err(pending));
    let args = ListModelsArgs { status: None, filter: None, after: None, limit: 10 };
    let page: ModelPage = network.query(stranger(), repository.id, "list_models", (args.clone(),));
    assert!(page.models.is_empty());
    // Its uploader may propose it; that is no approval.
    let proposal = repository.activate(uploader(), id).unwrap();
    assert_eq!((proposal.state, proposal.approvals), (ProposalState::Open, Vec::new()));
    repository.activate(admin(), id).unwrap();

    // Nothing that anybody may call changes the bytes any more.
    let mut other = artifact.shards[0].clone();
    *other.last_mut().unwrap() ^= 1;
    assert!(matches!(
        repository.put(uploader(), id, 0, &other),
        Err(ModelError::WrongShardHash { index: 0, .. })
    ));
    for caller in [uploader(), admin()] {
        let discarded: Result<(), ModelError> =
            network.update(caller, repository.id, "discard_upload", (id,));
        let refused =
            ModelError::WrongStatus { status: ModelStatus::Active, operation: ModelOperation::DiscardUpload };
        assert_eq!(discarded, Err(refused));
        assert_eq!(repository.begin(caller, &artifact.manifest_bytes).unwrap().status, ModelStatus::Active);
    }
    network.upgrade(repository.id, Canister::Model);
    for (index, shard) in artifact.shards.iter().enumerate() {
        assert_eq!(get_shard(&network, &repository, stranger(), id, index as u32).unwrap(), *shard);
    }
    let page: ModelPage = network.query(stranger(), repository.id, "list_models", (args,));
    assert_eq!(page.models.iter().map(|record| record.model_id).collect::<Vec<_>>(), [id]);

    repository.deprecate(admin(), id, "superseded").unwrap();
    let refused =
        ModelError::WrongStatus { status: ModelStatus::Deprecated, operation: ModelOperation::Serve };
    assert_eq!(get_shard(&network, &repository, admin(), id, 0), Err(refused));
    let manifest: Result<serde_bytes::ByteBuf, ModelError> =
        network.query(stranger(), repository.id, "get_manifest", (id,));
    assert_eq!(manifest.unwrap().as_slice(), artifact.manifest_bytes);

    // The log verifies from its first entry to the head that the status shows.
    let mut log: Vec<AuditEntry> = Vec::new();
    loop {
        let args = AuditLogArgs { after: log.last().map(|entry| entry.index), limit: 3 };
        let page: AuditPage = network.query(stranger(), repository.id, "audit_log", (args,));
        for entry in page.entries {
            assert!(entry.follows(log.last()));
            log.push(entry);
        }
        if page.next.is_none() {
            break;
        }
    }
    let status: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    assert_eq!((status.audit_entries, status.audit_head), (log.len() as u64, log.last().unwrap().hash));
}

#[test]
fn wrong_shards_and_manifests_are_refused() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    let id = repository.begin(uploader(), &artifact.manifest_bytes).unwrap().model_id;
    let shard = &artifact.shards[0];

    let mut flipped = shard.clone();
    flipped[1_000] ^= 1;
    let wrong_hash =
        ModelError::WrongShardHash { index: 0, expected: Digest::of(shard), actual: Digest::of(&flipped) };
    assert_eq!(repository.put(uploader(), id, 0, &flipped), Err(wrong_hash));

    let mut oversized = shard.clone();
    oversized.resize(1_950_000, 0);
    let (expected, actual) = (shard.len() as u64, oversized.len() as u64);
    let wrong_length = ModelError::WrongShardLength { index: 0, expected, actual };
    assert_eq!(repository.put(uploader(), id, 0, &oversized), Err(wrong_length));

    let shards = artifact.shards.len() as u32;
    assert_eq!(
        repository.put(uploader(), id, shards, shard),
        Err(ModelError::ShardOutOfRange { index: shards, shards })
    );
    let unknown = Digest::of(b"unknown");
    assert_eq!(
        repository.put(uploader(), unknown, 0, shard),
        Err(ModelError::UnknownModel { model_id: unknown })
    );

    let truncated = &artifact.manifest_bytes[..artifact.manifest_bytes.len() - 1];
    assert!(matches!(repository.begin(uploader(), truncated), Err(ModelError::InvalidManifest(_))));
    assert!(matches!(repository.begin(uploader(), b"{}"), Err(ModelError::InvalidManifest(_))));
    assert_eq!(missing(&network, &repository, id).len(), artifact.shards.len(), "nothing was stored");

    // A dropped upload gives its space back and can begin again.
    let discarded: Result<(), ModelError> =
        network.update(uploader(), repository.id, "discard_upload", (id,));
    discarded.unwrap();
    let status: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    assert_eq!((status.models, status.reserved_bytes), (0, 0));
    repository.begin(uploader(), &artifact.manifest_bytes).unwrap();
}
