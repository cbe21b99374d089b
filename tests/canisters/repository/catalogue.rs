//! The catalogue as a client sees it that trusts the network's key alone.

use ic_agent::Agent;
use ic_agent::identity::BasicIdentity;
use novaq_cli::commands::audit;
use novaq_cli::network::ModelCanister;
use ohms_tests::artifact::{Artifact, signing_key};
use ohms_tests::network::{Network, admin, uploader};
use shared_types::Digest;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{Capability, ModelFilter};

#[test]
fn catalogue_latest_and_audit_log_are_certified() {
    let mut network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::small();
    repository.publish(artifact);
    // A second name, deprecated, and one that stays Pending.
    let renamed = |name: &str, version: &str| {
        let mut manifest = novaq_engine::artifact::Manifest { signature: None, ..artifact.manifest.clone() };
        (manifest.name, manifest.version) = (name.to_owned(), version.to_owned());
        manifest.tags = vec!["tale".to_owned()];
        Artifact::signed(manifest.recounted().unwrap(), artifact.shards.clone(), &signing_key())
    };
    let old = renamed("other", "1.0.0");
    repository.publish(&old);
    repository.deprecate(admin(), old.id, "old").unwrap();
    let newer = renamed("other", "1.1.0");
    repository.publish(&newer);
    repository.begin(uploader(), &renamed("third", "1.0.0").manifest_bytes).unwrap();

    let canister = repository.id;
    let url = network.pic.make_live(None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let identity = BasicIdentity::from_raw_key(&[9; 32]);
        let agent = Agent::builder().with_url(url).with_identity(identity).build().unwrap();
        agent.fetch_root_key().await.unwrap();
        let canister = ModelCanister::new(agent, canister);

        // Each of these checks certificate and witness.
        let models = canister.list_models(None, None).await.unwrap();
        assert_eq!(models.len(), 3, "Pending models are nobody else's business");
        let filter = |filter: ModelFilter| canister.list_models(None, Some(filter));
        let tagged = filter(ModelFilter { tag: Some("tale".to_owned()), ..ModelFilter::default() });
        assert_eq!(tagged.await.unwrap().len(), 2);
        let embedding = ModelFilter { capability: Some(Capability::Embed), ..ModelFilter::default() };
        assert!(filter(embedding).await.unwrap().is_empty());
        let named = ModelFilter {
            name: Some("other".to_owned()),
            architecture: Some("llama".to_owned()),
            min_bytes: Some(1_000_000),
            max_bytes: Some(10_000_000),
            ..ModelFilter::default()
        };
        assert_eq!(filter(named).await.unwrap().len(), 2);
        let active = canister.list_models(Some(ModelStatus::Active), None).await.unwrap();
        assert_eq!(active.len(), 2);

        assert_eq!(canister.latest("other").await.unwrap().model_id, newer.id);
        let record = canister.get_certified_model(old.id).await.unwrap();
        assert_eq!(record.deprecation.unwrap().reason, "old");
        let card = record.card.unwrap();
        assert_eq!(
            (card.architecture.as_str(), card.capabilities.as_slice()),
            ("llama", &[Capability::Generate][..])
        );
        assert_eq!(card.heap_bytes, artifact.manifest.estimates.heap_bytes);
        let unknown = canister.get_certified_model(Digest::of(b"unknown")).await.unwrap_err();
        assert_eq!(unknown.to_string(), "`get_certified_model` was refused");

        let (entries, head) = canister.audit_log().await.unwrap();
        audit::verify(&entries, head).unwrap();
        assert!(entries.len() > 10);
    });
}
