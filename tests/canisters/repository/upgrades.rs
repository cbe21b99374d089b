//! Golden states: stable memory as released versions left it, read by this one. A file per layout in `golden/`.

use candid::Encode;
use ohms_tests::golden;
use ohms_tests::network::{Network, Repository, admin, stranger, uploader};
use ohms_tests::wasm::Canister;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    AuditEntry, AuditEvent, AuditLogArgs, AuditPage, CertifiedModel, ListModelsArgs, ModelCanisterStatus,
    ModelError, ModelInitArgs, ModelPage, Policy, ProposalAction, ProposalState, Validation,
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
    let record = repository.finish(uploader(), id).unwrap();
    assert!(matches!(record.validation, Validation::Passed { .. }), "{record:?}");
    let proposal = repository.activate(admin(), id).unwrap();
    assert!(matches!(proposal.state, ProposalState::Executed { .. }));
    audit_log(&network, &repository);
}
