//! The launcher protocol of `icp`, as `icp` 1.5.0 uses it: options in, `status.json` out, a signal to stop.

use candid::Nat;
use ic_agent::{Agent, agent::AgentBuilder};
use icrc_ledger_types::icrc1::{
    account::Account,
    transfer::{TransferArg, TransferError},
};
use pocket_ic::PocketIcBuilder;
use serde_json::Value;
use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Much longer than a start or a stop takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

fn local_net(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-net"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What the program prints before it fails.
fn failure(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = local_net(arguments).output().unwrap();
    assert!(!status.success(), "{arguments:?} must fail");
    String::from_utf8(stderr).unwrap()
}

/// A launched network, ended when dropped.
struct Launched(Child);

impl Launched {
    /// Starts a network; returns when it says that it is ready.
    fn start(status_dir: &Path, further: &[&str]) -> (Self, Value) {
        let state_dir = status_dir.with_file_name("state");
        std::fs::create_dir_all(&state_dir).unwrap();
        let mut command = local_net(&["--interface-version", "1.1.0"]);
        command.arg("--state-dir").arg(state_dir).args(["--bind", "127.0.0.1"]);
        command.arg("--status-dir").arg(status_dir).args(further);
        let launched = Self(command.spawn().unwrap());
        let file = status_dir.join("status.json");
        let start = Instant::now();
        while !file.exists() {
            assert!(start.elapsed() < PATIENCE, "the network does not get ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.ends_with('\n'), "the status is a line");
        (launched, serde_json::from_str(&text).unwrap())
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end; what the program printed as errors and warnings.
    fn end(mut self) -> String {
        let start = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "the network does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.0.wait().unwrap().success(), "a stop by signal is no failure");
        std::io::read_to_string(self.0.stderr.take().unwrap()).unwrap()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(status: &Value) -> Agent {
    let agent = AgentBuilder::default()
        .with_url(format!("http://127.0.0.1:{}", status["gateway_port"]))
        .build()
        .unwrap();
    agent.set_root_key(hex::decode(status["root_key"].as_str().unwrap()).unwrap());
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_leads_to_the_network_until_a_signal() {
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let status_dir = folder.path().join("status");
        let (network, status) = Launched::start(&status_dir, &["--subnet=application", "--subnet=system"]);
        assert_eq!(status["v"], "1");
        let agent = agent(&status);
        let ledger = "ryjl3-tyaaa-aaaaa-aaaba-cai".parse().unwrap();
        let argument = candid::encode_args(()).unwrap();
        let reply = agent.query(&ledger, "icrc1_symbol").with_arg(argument).call().await.unwrap();
        assert_eq!(candid::decode_one::<String>(&reply).unwrap(), "ICP");

        // The same network is there for the `pocket-ic` crate.
        let url = format!("http://127.0.0.1:{}/", status["config_port"]).parse().unwrap();
        let id = status["instance_id"].as_u64().unwrap() as usize;
        let kinds = tokio::task::spawn_blocking(move || {
            let pic = pocket_ic::PocketIc::new_from_existing_instance(url, id, None);
            let topology = pic.topology();
            (topology.get_app_subnets().len(), topology.get_system_subnets().len(), topology.get_nns())
        });
        let (application, system, nns) = kinds.await.unwrap();
        assert_eq!((application, system), (1, 1));
        assert!(nns.is_some());

        network.signal(signal);
        network.end();
        assert!(!status_dir.join("status.json").exists(), "a stopped network has no status");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_directory_keeps_keys_and_balances() {
    let folder = tempfile::tempdir().unwrap();
    let status_dir = folder.path().join("status");
    let ledger = "ryjl3-tyaaa-aaaaa-aaaba-cai".parse().unwrap();
    let user = candid::Principal::self_authenticating(b"user");
    let (network, status) = Launched::start(&status_dir, &[]);
    let argument = TransferArg {
        from_subaccount: None,
        to: user.into(),
        fee: None,
        created_at_time: None,
        memo: None,
        amount: 123u8.into(),
    };
    let argument = candid::encode_one(argument).unwrap();
    let agent_before = agent(&status);
    let transfer = agent_before.update(&ledger, "icrc1_transfer").with_arg(argument).call_and_wait();
    candid::decode_one::<Result<Nat, TransferError>>(&transfer.await.unwrap()).unwrap().unwrap();
    network.signal("INT");
    network.end();

    let (_network, restarted) = Launched::start(&status_dir, &[]);
    assert_eq!(restarted["root_key"], status["root_key"]);
    let argument = candid::encode_one(Account::from(user)).unwrap();
    let balance = agent(&restarted).query(&ledger, "icrc1_balance_of").with_arg(argument).call().await;
    assert_eq!(candid::decode_one::<Nat>(&balance.unwrap()).unwrap(), 123u8);
}

#[test]
fn mistakes_are_told() {
    assert!(failure(&["--interface-version", "2.0.0"]).contains("version 2.0.0 of the launcher protocol"));
    assert!(failure(&["--interface-version", "one"]).contains("--interface-version"));
    assert!(failure(&["--interface-version", "1.1.0", "--what"]).contains("--what"));
    assert!(failure(&["--interface-version", "1.0.0", "--what"]).contains("--what"));
    assert!(failure(&["--interface-version", "1.1.0", "--subnet=moon"]).contains("--subnet"));
    assert!(failure(&["--interface-version=1.1.0", "--ii"]).contains("Internet Identity"));
    assert!(failure(&["--interface-version=1.1.0", "--nns"]).contains("--nns"));
    assert!(failure(&["--interface-version=1.1.0", "--bitcoind-addr=127.0.0.1:1"]).contains("Bitcoin"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let text = failure(&["--interface-version=1.1.0", "--gateway-port", &port]);
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{text}");
}

#[test]
fn options_without_effect_give_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let status_dir = folder.path().join("status");
    let (network, _) = Launched::start(&status_dir, &["--artificial-delay-ms=5", "--stdout-file=out.txt"]);
    network.signal("INT");
    let warnings = network.end();
    assert!(warnings.contains("warning: ignored --artificial-delay-ms"), "{warnings}");
    assert!(warnings.contains("warning: ignored --stdout-file"), "{warnings}");

    let text = failure(&["--interface-version=1.2.0", "--future", "--further=3", "--ii"]);
    assert!(text.contains("warning: ignored --future"), "{text}");
    assert!(text.contains("warning: ignored --further"), "{text}");
}

#[test]
fn features_are_there_for_the_pocket_ic_crate() {
    let features = pocket_ic::common::rest::IcpFeatures {
        icp_token: Some(pocket_ic::common::rest::IcpFeaturesConfig::DefaultConfig),
        ..Default::default()
    };
    let pic = PocketIcBuilder::new()
        .with_server_binary(env!("CARGO_BIN_EXE_local-net").into())
        .with_nns_subnet()
        .with_icp_features(features)
        .build();
    let ledger = "ryjl3-tyaaa-aaaaa-aaaba-cai".parse().unwrap();
    let (balance,): (Nat,) = pocket_ic::query_candid(
        &pic,
        ledger,
        "icrc1_balance_of",
        (Account::from(candid::Principal::anonymous()),),
    )
    .unwrap();
    assert_eq!(balance, 100_000_000_000_000_000u64);
}

#[test]
fn features_that_are_absent_are_refused_by_the_rest_interface_too() {
    let refused = std::panic::catch_unwind(|| {
        let features = pocket_ic::common::rest::IcpFeatures {
            nns_governance: Some(pocket_ic::common::rest::IcpFeaturesConfig::DefaultConfig),
            ..Default::default()
        };
        PocketIcBuilder::new()
            .with_server_binary(env!("CARGO_BIN_EXE_local-net").into())
            .with_nns_subnet()
            .with_icp_features(features)
            .build()
    });
    let message = *refused.err().expect("there is no governance").downcast::<String>().unwrap();
    assert!(message.contains("nns_governance"), "{message}");
}
