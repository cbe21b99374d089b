//! Health and figures over HTTP, abandoned uploads, a large model's validation.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use candid::Principal;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, http_get, stranger, uploader};
use serde_bytes::ByteBuf;
use shared_types::model::{
    GetShardArgs, ModelCanisterStatus, ModelError, ModelRecord, UploaderUsage, Validation, ValidationReport,
};
use shared_types::ui::HttpGatewayResponse;

fn get(network: &Network, canister: Principal, url: &'static str) -> (u16, String, Vec<(String, String)>) {
    let response: HttpGatewayResponse = network.query(stranger(), canister, "http_request", (http_get(url),));
    (response.status_code, String::from_utf8(response.body.into_vec()).unwrap(), response.headers)
}

#[test]
fn health_and_metrics_are_served() {
    let mut network = Network::new();
    let repository = network.repository();
    repository.begin(uploader(), &Artifact::small().manifest_bytes).unwrap();
    let (code, body, headers) = get(&network, repository.id, "/health");
    assert_eq!(code, 200);
    assert!(body.contains("\"status\":\"ok\""), "{body}");
    assert!(headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("ic-certificate")), "{headers:?}");
    let status: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    let (_, metrics, _) = get(&network, repository.id, "/metrics");
    for (name, value) in [("pending_models", status.pending), ("reserved_bytes", status.reserved_bytes)] {
        assert!(metrics.contains(&format!("\nohms_model_{name} {value}\n")), "{metrics}");
    }
    assert!(status.cycles > 0 && status.stable_bytes > 0 && status.heap_bytes > 0);

    // Through the gateway, which looks for certificates.
    let host = format!("{}.localhost", repository.id);
    let port = network.pic.make_live(None).port().unwrap();
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let client = reqwest::Client::builder().resolve(&host, address).no_proxy().build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = client.get(format!("http://{host}:{port}/metrics")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.text().await.unwrap().contains("# TYPE ohms_model_models gauge"));
    });
}

#[test]
fn an_upload_that_nobody_works_on_is_collected() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::small();
    repository.begin(uploader(), &artifact.manifest_bytes).unwrap();
    let usage = || -> UploaderUsage { network.query(uploader(), repository.id, "uploader_usage", ()) };
    assert_eq!(usage().open_uploads, 1);
    for _ in 0..2 {
        network.pic.advance_time(Duration::from_hours(5 * 24));
        for _ in 0..5 {
            network.pic.tick();
        }
    }
    assert_eq!((usage().open_uploads, usage().used_bytes), (0, 0));
    let record: Result<ModelRecord, ModelError> =
        network.query(uploader(), repository.id, "get_model", (artifact.id,));
    assert_eq!(record.unwrap_err(), ModelError::UnknownModel { model_id: artifact.id });
}

/// More than fits into the message that finishes the upload; an upgrade in between is no harm. Prints what `docs/SCALING.md` is
/// made of: `cargo test -p ohms-tests --test canisters a_large_model -- --nocapture`.
#[test]
fn a_large_model_is_validated_in_slices() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::large();
    // An update costs 5 M cycles and 1 for each instruction, its messages and this subnet's storage aside.
    let cost = |call: &dyn Fn()| {
        let before = network.pic.cycle_balance(repository.id);
        call();
        before - network.pic.cycle_balance(repository.id)
    };
    let begin = cost(&|| {
        repository.begin(uploader(), &artifact.manifest_bytes).unwrap();
    });
    println!("begin_upload of {} shards: {begin} cycles", artifact.shards.len());
    for (index, shard) in artifact.shards.iter().enumerate() {
        let put = cost(&|| {
            repository.put(uploader(), artifact.id, index as u32, shard).unwrap();
        });
        if index == 1 {
            println!("put_shard of {} bytes: {put} cycles", shard.len());
        }
    }
    let args = GetShardArgs { model_id: artifact.id, index: 1 };
    let get = cost(&|| {
        let bytes: Result<ByteBuf, ModelError> =
            network.update(uploader(), repository.id, "get_shard", (args.clone(),));
        assert_eq!(bytes.unwrap().as_slice(), artifact.shards[1]);
    });
    println!("get_shard as an update: {get} cycles");
    let finished: Result<ModelRecord, ModelError> =
        network.update(uploader(), repository.id, "finish_upload", (artifact.id,));
    let begun = finished.unwrap().validation;
    network.upgrade(repository.id, ohms_tests::wasm::Canister::Model);
    let record = repository.finish(uploader(), artifact.id).unwrap();
    assert!(matches!(record.validation, Validation::Passed { .. }), "{record:?}");
    let report: Result<ValidationReport, ModelError> =
        network.query(uploader(), repository.id, "validation_report", (artifact.id,));
    let report = report.unwrap();
    assert_eq!(report.shards as usize, artifact.shards.len());
    println!("{begun:?}: {} instructions in {} messages", report.instructions, report.messages);
    assert!(report.instructions / u64::from(report.messages) < 3_000_000_000);
}
