//! Golden states: stable memory as released versions left it, read by this one. A file per layout in `golden/`.

use candid::{CandidType, Encode, Reserved};
use novaq_engine::kernel::Fold;
use novaq_engine::model::{Config, RopeScaling, Variant};
use novaq_engine::synth::{self, Format, Synthetic};
use ohms_tests::artifact::{Artifact, signing_key};
use ohms_tests::golden;
use ohms_tests::network::{Network, Repository, admin, stranger, uploader};
use ohms_tests::wasm::Canister;
use serde::Deserialize;
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    AuditEntry, AuditEvent, AuditLogArgs, AuditPage, CertifiedModel, CheckKind, GetShardArgs, ListModelsArgs,
    ListProposalsArgs, ModelCanisterStatus, ModelError, ModelInitArgs, ModelPage, Outcome, Policy,
    ProposalAction, ProposalPage, ProposalState, RegisteredKey, Role, RoleGrant, UploaderUsage, Validation,
    ValidationReport,
};

/// A canister that has the golden state `name`, upgraded to this version of the code.
fn upgraded<'a>(network: &'a Network, name: &str) -> Repository<'a> {
    let args = ModelInitArgs { admins: vec![stranger()], ..ModelInitArgs::default() };
    let id = network.install(Canister::Model, args);
    network.pic.stop_canister(id, Some(admin())).unwrap();
    let memory = golden::read(name);
    network.pic.set_stable_memory(id, memory, pocket_ic::common::rest::BlobCompression::NoCompression);
    network.pic.upgrade_canister(id, Canister::Model.wasm(), Encode!().unwrap(), Some(admin())).unwrap();
    network.pic.start_canister(id, Some(admin())).unwrap();
    Repository::at(network, id)
}

fn audit_log(network: &Network, repository: &Repository) -> Vec<AuditEntry> {
    let args = AuditLogArgs { after: None, limit: 100 };
    let page: AuditPage = network.query(stranger(), repository.id, "audit_log", (args,));
    for (i, entry) in page.entries.iter().enumerate() {
        assert!(entry.follows(i.checked_sub(1).map(|previous| &page.entries[previous])), "{entry:?}");
    }
    page.entries
}

/// Version 0.1.0: an Active model `golden` 1.0.0, a Deprecated one 0.9.0, and a Pending one 1.1.0, which that version called validated.
#[test]
fn layout_1_is_read_and_goes_on() {
    let network = Network::new();
    let repository = upgraded(&network, "model-layout-1");
    let status: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    assert_eq!((status.layout, status.models, status.pending), (2, 3, 1));
    let log = audit_log(&network, &repository);
    assert!(matches!(log[0].event, AuditEvent::Installed { .. }));
    assert!(matches!(log.last().unwrap().event, AuditEvent::Upgraded { .. }));

    let args = ListModelsArgs { status: None, filter: None, after: None, limit: 10 };
    let page: ModelPage = network.query(admin(), repository.id, "list_models", (args,));
    let of = |status| page.models.iter().find(|record| record.status == status).unwrap();
    assert!(page.models.iter().all(|record| record.card.is_some()));
    assert_eq!(of(ModelStatus::Deprecated).deprecation.as_ref().unwrap().reason, "superseded");
    let latest: Result<CertifiedModel, ModelError> =
        network.query(stranger(), repository.id, "latest", ("golden",));
    assert_eq!(latest.unwrap().record.version, "1.0.0");

    // The Pending one is validated anew, by today's rules.
    let pending = of(ModelStatus::Pending);
    assert_eq!((pending.version.as_str(), pending.validation), ("1.1.0", Validation::NotStarted));
    let id = pending.model_id;
    assert_eq!(repository.activate(admin(), id), Err(ModelError::NotValidated));
    let record = repository.finish(uploader(), id).unwrap();
    assert!(matches!(record.validation, Validation::Failed { .. }), "it is not signed");
    let policy = Policy { require_signature: false, ..Policy::default() };
    repository.propose(admin(), ProposalAction::SetPolicy(policy)).unwrap();
    repository.finish(uploader(), id).unwrap();
    let report: Result<ValidationReport, ModelError> =
        network.query(admin(), repository.id, "validation_report", (id,));
    let report = report.unwrap();
    let failed = report.checks.iter().filter(|check| matches!(check.outcome, Outcome::Failed { .. }));
    // Its tokenizer was made up: 0.1.0 did not look at it.
    assert_eq!(failed.map(|check| check.kind).collect::<Vec<_>>(), [CheckKind::Tokenizer]);
    assert!(matches!(repository.activate(admin(), id), Err(ModelError::ValidationFailed { .. })));
    audit_log(&network, &repository);
}

/// The module as it was released.
const RELEASED: &[u8] = include_bytes!("../../golden/ohms_model_0.1.0.wasm.gz");

/// Ids and first shards of the models that everybody may read, whatever else a version says of them.
fn readable(network: &Network, repository: &Repository) -> Vec<(ModelId, Vec<u8>)> {
    #[derive(CandidType, Deserialize)]
    struct Listed {
        model_id: ModelId,
    }
    #[derive(CandidType, Deserialize)]
    struct Page {
        models: Vec<Listed>,
    }
    let args = ListModelsArgs { status: Some(ModelStatus::Active), filter: None, after: None, limit: 10 };
    let page: Page = network.query(stranger(), repository.id, "list_models", (args,));
    let shard = |model_id| -> Result<ByteBuf, Reserved> {
        network.query(stranger(), repository.id, "get_shard", (GetShardArgs { model_id, index: 0 },))
    };
    page.models.iter().map(|model| (model.model_id, shard(model.model_id).unwrap().into_vec())).collect()
}

/// 0.1.0, this version, 0.1.0, this version: what 0.1.0 had is there at every step, and the log is one chain.
#[test]
fn a_rollback_to_the_release_before_keeps_everything() {
    let network = Network::new();
    let pic = &network.pic;
    let repository = upgraded(&network, "model-layout-1");
    let id = repository.id;
    let admin = Some(admin());
    let upgrade = |wasm: Vec<u8>| {
        pic.stop_canister(id, admin).unwrap();
        pic.upgrade_canister(id, wasm, Encode!().unwrap(), admin).unwrap();
        pic.start_canister(id, admin).unwrap();
    };
    pic.stop_canister(id, admin).unwrap();
    let blob = pocket_ic::common::rest::BlobCompression::NoCompression;
    pic.set_stable_memory(id, golden::read("model-layout-1"), blob);
    pic.start_canister(id, admin).unwrap();
    upgrade(RELEASED.to_vec());
    let before = readable(&network, &repository);
    assert_eq!(before.len(), 1);

    upgrade(Canister::Model.wasm());
    assert_eq!(readable(&network, &repository), before);
    let log = audit_log(&network, &repository);
    upgrade(RELEASED.to_vec());
    assert_eq!(readable(&network, &repository), before);
    upgrade(Canister::Model.wasm());
    assert_eq!(readable(&network, &repository), before);
    let goes_on = audit_log(&network, &repository);
    assert_eq!(goes_on[..log.len()], log, "the log is only added to");
    assert!(matches!(goes_on.last().unwrap().event, AuditEvent::Upgraded { .. }));
    let latest: Result<CertifiedModel, ModelError> =
        network.query(stranger(), repository.id, "latest", ("golden",));
    assert_eq!(latest.unwrap().record.version, "1.0.0");
}

/// A model of a few kilobytes, `golden` of this version.
fn tiny(version: &str, seed: u64) -> Artifact {
    let config = Config {
        vocab_size: 256,
        hidden_size: 16,
        intermediate_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        variant: Variant::default(),
    };
    let body = Format::Aq { codebooks: 2, dimension: 8, fold: Fold::ONE };
    let tokenizer = synth::tokenizer(config.vocab_size).unwrap().to_bytes();
    let synthetic = Synthetic { config, body, embedding: body, seed, tokenizer };
    let mut shards = Vec::new();
    let mut manifest = synthetic.write(&mut shards).unwrap();
    (manifest.name, manifest.version) = ("golden".to_owned(), version.to_owned());
    Artifact::signed(manifest.recounted().unwrap(), shards, &signing_key())
}

/// Makes the golden state of the current layout.
fn write_layout_2(network: &Network) {
    let repository = network.repository();
    let auditor = RoleGrant { principal: stranger(), role: Role::Auditor };
    repository.propose(admin(), ProposalAction::GrantRole(auditor)).unwrap();
    let quota = ProposalAction::SetQuota { uploader: uploader(), bytes: Some(1 << 20) };
    repository.propose(admin(), quota).unwrap();
    repository.publish(&tiny("1.0.0", 1));
    let waiting = tiny("1.1.0", 2);
    repository.begin(uploader(), &waiting.manifest_bytes).unwrap();
    repository.put(uploader(), waiting.id, 0, &waiting.shards[0]).unwrap();
    repository.finish(uploader(), waiting.id).unwrap();
    repository.activate(uploader(), waiting.id).unwrap();
    repository.begin(uploader(), &tiny("1.2.0", 3).manifest_bytes).unwrap();
    network.pic.stop_canister(repository.id, Some(admin())).unwrap();
    golden::write("model-layout-2", &network.pic.get_stable_memory(repository.id));
}

/// An Active model, one whose activation is proposed by its uploader, and an upload that has just begun; a quota, a key, an auditor.
/// `UPDATE_GOLDEN=1` writes the file anew, which is right only before the first release of the layout.
#[test]
fn layout_2_is_read_and_goes_on() {
    let network = Network::new();
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        write_layout_2(&network);
    }
    let repository = upgraded(&network, "model-layout-2");
    let status: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    assert_eq!((status.layout, status.models, status.pending, status.open_proposals), (2, 3, 2, 1));
    let keys: Vec<RegisteredKey> = network.query(stranger(), repository.id, "list_keys", (uploader(),));
    assert_eq!(keys.len(), 1);
    let usage: UploaderUsage = network.query(uploader(), repository.id, "uploader_usage", ());
    assert_eq!((usage.quota_bytes, usage.open_uploads), (1 << 20, 2));

    let args = ListProposalsArgs { open_only: true, before: None, limit: 10 };
    let page: ProposalPage = network.query(stranger(), repository.id, "list_proposals", (args,));
    let ProposalAction::Activate { model_id } = page.proposals[0].action else { panic!("{page:?}") };
    // An auditor sees what is Pending, and the report of its validation.
    let report: Result<ValidationReport, ModelError> =
        network.query(stranger(), repository.id, "validation_report", (model_id,));
    assert!(report.unwrap().passed());
    let done = repository.vote(admin(), page.proposals[0].id, true).unwrap();
    assert!(matches!(done.state, ProposalState::Executed { .. }), "{done:?}");
    let latest: Result<CertifiedModel, ModelError> =
        network.query(stranger(), repository.id, "latest", ("golden",));
    assert_eq!(latest.unwrap().record.version, "1.1.0");
    audit_log(&network, &repository);
}
