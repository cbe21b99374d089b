//! Several repositories behind one.

use candid::Principal;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, admin, stranger};
use ohms_tests::wasm::Canister;
use shared_types::model::{
    IndexPage, KnownRepository, ListIndexArgs, ModelError, ProposalAction, ProposalState,
};
use std::time::Duration;

#[test]
fn an_index_tells_where_models_are_and_where_there_is_room() {
    let network = Network::new();
    let (index, other, gone) = (network.repository(), network.repository(), network.repository());
    let artifact = Artifact::small();
    index.publish(artifact);
    let add = |canister| {
        let proposal = index.propose(admin(), ProposalAction::AddRepository { canister }).unwrap();
        assert!(matches!(proposal.state, ProposalState::Executed { .. }));
    };
    network.pic.stop_canister(gone.id, Some(admin())).unwrap();
    add(other.id);
    add(gone.id);
    let known = || -> Vec<KnownRepository> { network.query(stranger(), index.id, "list_repositories", ()) };
    let answered = |canister| {
        network.wait_for("an answer", || {
            known().into_iter().find(|it| it.canister == canister && it.answered_at_ns.is_some())
        })
    };
    assert!(answered(other.id).free_bytes > 0);
    network.wait_for("a refusal", || {
        known().into_iter().find(|it| it.canister == gone.id && it.failure.is_some())
    });

    // This one has a model, the other has not: there is more room there.
    let placement = |bytes: u64| -> Result<Principal, ModelError> {
        network.query(stranger(), index.id, "placement", (bytes,))
    };
    assert_eq!(placement(1_000_000), Ok(other.id));
    assert_eq!(placement(1 << 60), Err(ModelError::OutOfStorage { requested: 1 << 60 }));
    let locate = |id: shared_types::ModelId| -> Result<Principal, ModelError> {
        network.query(stranger(), index.id, "locate", (id,))
    };
    assert_eq!(locate(artifact.id), Ok(index.id));

    // A model of the other one is found with the next reading, after an upgrade of the index too.
    let second = Artifact::long_context();
    other.publish(&second);
    assert_eq!(locate(second.id), Err(ModelError::UnknownModel { model_id: second.id }));
    network.upgrade(index.id, Canister::Model);
    network.pic.advance_time(Duration::from_mins(11));
    network.wait_for("the next reading", || locate(second.id).ok());
    assert_eq!(locate(second.id), Ok(other.id));
    let args = ListIndexArgs { name: Some("synthetic".to_owned()), after: None, limit: 10 };
    let page: IndexPage = network.query(stranger(), index.id, "list_index", (args,));
    assert_eq!(
        page.models.iter().map(|it| (it.model_id, it.repository)).collect::<Vec<_>>(),
        [(second.id, other.id)]
    );

    index.propose(admin(), ProposalAction::RemoveRepository { canister: other.id }).unwrap();
    assert_eq!(locate(second.id), Err(ModelError::UnknownModel { model_id: second.id }));
    assert_eq!(placement(1_000_000), Ok(index.id));
}
