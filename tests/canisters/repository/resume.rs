//! `novaq upload` is killed in the middle, and another machine goes on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candid::Principal;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ic_agent::Identity;
use ic_agent::identity::BasicIdentity;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, admin};
use ohms_tests::wasm::program;
use shared_types::model::{ModelError, ModelRecord, ProposalAction, Role, RoleGrant, Validation};

/// Megabytes a minute that an upload has to reach on the local network.
const LEAST_MEGABYTES_A_MINUTE: f64 = 20.0;

fn novaq(artifact: &Path, url: &str, canister: Principal, identity: &Path) -> Command {
    let mut command = Command::new(program("novaq"));
    command.arg("upload").arg(artifact).args(["--network", url, "--canister", &canister.to_text()]);
    command.arg("--identity").arg(identity).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command
}

#[test]
fn a_killed_upload_goes_on_from_another_folder() {
    let mut network = Network::new();
    let url = network.pic.make_live(None);
    let repository = network.repository();
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let artifact = Artifact::large();
    for path in [&here, &there] {
        std::fs::create_dir(path).unwrap();
        artifact.write_unsigned(path);
    }
    let key = [9; 32];
    let identity = folder.path().join("identity.pem");
    std::fs::write(&identity, SigningKey::from_bytes(&key).to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
    let me = BasicIdentity::from_raw_key(&key).sender().unwrap();
    let grant = RoleGrant { principal: me, role: Role::Uploader };
    repository.propose(admin(), ProposalAction::GrantRole(grant)).unwrap();

    let record = || -> Option<ModelRecord> {
        let record: Result<ModelRecord, ModelError> =
            network.query(admin(), repository.id, "get_model", (artifact.id,));
        record.ok()
    };
    let mut first =
        novaq(&here, url.as_str(), repository.id, &identity).args(["--jobs", "1"]).spawn().unwrap();
    let begin = Instant::now();
    while record().is_none_or(|record| record.missing + 3 > record.shards) {
        assert!(begin.elapsed() < Duration::from_mins(3), "nothing is uploaded");
        std::thread::sleep(Duration::from_millis(10));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    std::fs::remove_dir_all(&here).unwrap();
    let missing = record().unwrap().missing;
    assert!(missing > 0, "the upload was to be killed in the middle");

    let output = novaq(&there, url.as_str(), repository.id, &identity).arg("--json").output().unwrap();
    let upload: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{upload}");
    let uploaded = upload["uploaded"].as_u64().unwrap();
    // The call that was on its way when the process was killed may have arrived.
    assert!((u64::from(missing) - 1..=u64::from(missing)).contains(&uploaded), "{uploaded} of {missing}");
    let seconds = upload["seconds"].as_f64().unwrap();
    let megabytes_a_minute = upload["uploaded_bytes"].as_f64().unwrap() / 1e6 * 60.0 / seconds;
    println!("{megabytes_a_minute:.0} MB a minute");
    assert!(megabytes_a_minute > LEAST_MEGABYTES_A_MINUTE, "{megabytes_a_minute} MB a minute");
    assert!(matches!(record().unwrap().validation, Validation::Passed { .. }));
}
