//! `icp` 1.5.0 against local-net: a network that runs already (connected mode), and one that `icp` starts (managed mode).

use crate::common::{
    clients,
    server::{Server, TEST_CANISTER},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// A project of `icp` in a temporary folder, with everything that `icp` keeps about its user.
struct Project {
    program: PathBuf,
    folder: TempDir,
    /// Options that follow every subcommand.
    environment: &'static [&'static str],
}

impl Project {
    /// A project with the test canister `demo` and a network; `None` when `icp` is not installed.
    fn new(network: &str, environment: &'static [&'static str]) -> Option<Self> {
        let program = clients::package_file("@icp-sdk/icp-cli-linux-x64/bin/icp")?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&*TEST_CANISTER, folder.path().join("demo.wasm")).unwrap();
        let canisters = "canisters:\n  - name: demo\n    build:\n      steps:\n        - type: pre-built\n          path: demo.wasm\n";
        std::fs::write(folder.path().join("icp.yaml"), format!("{canisters}{network}")).unwrap();
        Some(Self { program, folder, environment })
    }

    /// `icp` with these arguments, and nothing of the user's own settings.
    fn command(&self, arguments: &[&str]) -> Command {
        let folder = self.folder.path();
        let mut command = clients::command(&self.program);
        command.args(arguments).current_dir(folder).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", folder.join("home")).env("ICP_HOME", folder.join("icp-home"));
        command.env("TMPDIR", folder).env("ICP_TELEMETRY_DISABLED", "1").env("CI", "1");
        command.env("ICP_CLI_NETWORK_LAUNCHER_PATH", env!("CARGO_BIN_EXE_local-net"));
        command
    }

    /// What `icp` prints, after the subcommand has succeeded.
    fn icp(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).args(self.environment).output().unwrap();
        assert!(output.status.success(), "icp {}: {}", arguments.join(" "), text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `icp` prints, after the subcommand has failed.
    fn icp_fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).args(self.environment).output().unwrap();
        assert!(!output.status.success(), "icp {} must fail: {}", arguments.join(" "), text(&output));
        text(&output)
    }

    /// The same for subcommands that print JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.icp(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("icp {arguments:?}: {error} in {text}"))
    }

    /// A subcommand that needs no network.
    fn plain(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "icp {}: {}", arguments.join(" "), text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A new identity; its principal.
    fn identity(&self, name: &str) -> String {
        self.plain(&["identity", "new", name, "--storage", "plaintext"]);
        self.plain(&["identity", "principal", "--identity", name]).trim().to_owned()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A project that is connected to `server`.
fn connected(server: &Server) -> Option<Project> {
    let url = server.url.as_str().trim_end_matches('/');
    let key = hex::encode(&server.root_key);
    let network = format!(
        "networks:\n  - name: running\n    mode: connected\n    url: {url}\n    root-key: {key}\n\
         environments:\n  - name: test\n    network: running\n    canisters: [demo]\n"
    );
    Project::new(&network, &["--environment", "test"])
}

/// The number in `Balance: 1_000 cycles` and the like.
fn number(text: &str) -> u128 {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|error| panic!("{error}: `{text}`"))
}

#[test]
fn connected_mode_deploys_calls_and_manages() {
    let server = Server::start();
    let Some(project) = connected(&server) else { return };
    project.icp(&["deploy"]);
    assert_eq!(project.icp(&["canister", "call", "demo", "put", "(\"a\", 3 : nat64)"]).trim(), "(null)");
    let call = project.icp(&["canister", "call", "demo", "get", "(\"a\")", "--query"]);
    assert_eq!(call.trim(), "(opt (3 : nat64))");
    let trap = project.icp_fails(&["canister", "call", "demo", "put_then_trap", "(\"a\", 4 : nat64)"]);
    assert!(trap.contains("put and trapped") && trap.contains("IC0503"), "{trap}");

    let status = project.json(&["canister", "status", "demo", "--json"]);
    assert_eq!(status["status"], "Running");
    assert_eq!(status["settings"]["controllers"][0], "2vxsx-fae");
    // 2 trillion less the fee of a canister, less what the calls cost.
    let cycles = number(status["cycles"].as_str().unwrap());
    assert!((1_400_000_000_000..1_500_000_000_000).contains(&cycles), "{cycles}");
    let hash = <sha2::Sha256 as sha2::Digest>::digest(std::fs::read(&*TEST_CANISTER).unwrap());
    assert_eq!(status["module_hash"], format!("0x{}", hex::encode(hash)));
    let interface = project.icp(&["canister", "metadata", "demo", "candid:service"]);
    assert!(interface.contains("whoami : () -> (principal) query"), "{interface}");

    project.icp(&["canister", "settings", "update", "demo", "--freezing-threshold", "3000000"]);
    let settings = project.icp(&["canister", "settings", "show", "demo"]);
    assert!(settings.contains("3_000_000"), "{settings}");
    project.icp(&["canister", "call", "demo", "log", "(\"something happened\")"]);
    assert!(project.icp(&["canister", "logs", "demo"]).contains("something happened"));

    let alice = project.identity("alice");
    let stranger = project.icp_fails(&["canister", "stop", "demo", "--identity", "alice"]);
    assert!(stranger.contains("IC0512") || stranger.contains("controller"), "{stranger}");
    let whoami = ["canister", "call", "demo", "whoami", "()", "--query", "--identity", "alice"];
    assert!(project.icp(&whoami).contains(&alice));

    project.icp(&["canister", "stop", "demo"]);
    assert_eq!(project.json(&["canister", "status", "demo", "--json"])["status"], "Stopped");
    let stopped = project.icp_fails(&["canister", "call", "demo", "get", "(\"a\")"]);
    assert!(stopped.contains("IC0508"), "{stopped}");
    project.icp(&["canister", "start", "demo"]);
    // A second deployment upgrades: what is in stable memory stays.
    project.icp(&["deploy", "--mode", "upgrade"]);
    let call = project.icp(&["canister", "call", "demo", "get", "(\"a\")", "--query"]);
    assert_eq!(call.trim(), "(opt (3 : nat64))");
    project.icp(&["canister", "stop", "demo"]);
    // `icp` sends the canister's cycles to the cycles ledger before it deletes the canister.
    let before = number(&project.icp(&["cycles", "balance"]));
    project.icp(&["canister", "delete", "demo"]);
    assert!(number(&project.icp(&["cycles", "balance"])) > before + 1_300_000_000_000);
}

#[test]
fn connected_mode_takes_and_restores_snapshots() {
    let server = Server::start();
    let Some(project) = connected(&server) else { return };
    let put =
        |value: &str| project.icp(&["canister", "call", "demo", "put", &format!("(\"a\", {value} : nat64)")]);
    let get = || project.icp(&["canister", "call", "demo", "get", "(\"a\")", "--query"]).trim().to_owned();
    project.icp(&["deploy"]);
    put("3");
    let running = project.icp_fails(&["canister", "snapshot", "create", "demo"]);
    assert!(running.contains("stop"), "{running}");
    project.icp(&["canister", "stop", "demo"]);
    project.icp(&["canister", "snapshot", "create", "demo"]);
    let list = project.json(&["canister", "snapshot", "list", "demo", "--json"]);
    let snapshot = list["snapshots"][0]["snapshot_id"].as_str().unwrap();
    project.icp(&["canister", "snapshot", "download", "demo", snapshot, "--output", "saved"]);

    project.icp(&["canister", "start", "demo"]);
    put("4");
    project.icp(&["canister", "stop", "demo"]);
    project.icp(&["canister", "snapshot", "restore", "demo", snapshot]);
    project.icp(&["canister", "start", "demo"]);
    assert_eq!(get(), "(opt (3 : nat64))");

    // The downloaded snapshot does the same after the other is gone.
    put("5");
    project.icp(&["canister", "stop", "demo"]);
    project.icp(&["canister", "snapshot", "delete", "demo", snapshot]);
    project.icp(&["canister", "snapshot", "upload", "demo", "--input", "saved"]);
    let list = project.json(&["canister", "snapshot", "list", "demo", "--json"]);
    let uploaded = list["snapshots"][0]["snapshot_id"].as_str().unwrap();
    project.icp(&["canister", "snapshot", "restore", "demo", uploaded]);
    project.icp(&["canister", "start", "demo"]);
    assert_eq!(get(), "(opt (3 : nat64))");
}

#[test]
fn connected_mode_moves_tokens_and_cycles() {
    let server = Server::start();
    let Some(project) = connected(&server) else { return };
    assert_eq!(project.icp(&["token", "balance"]).trim(), "Balance: 1000000000.00000000 ICP");
    assert_eq!(number(&project.icp(&["cycles", "balance"])), 1 << 127);
    let (alice, bob) = (project.identity("alice"), project.identity("bob"));
    assert_eq!(project.icp(&["token", "balance", "--identity", "alice"]).trim(), "Balance: 0 ICP");
    project.icp(&["token", "transfer", "5", &alice]);
    assert_eq!(project.icp(&["token", "balance", "--identity", "alice"]).trim(), "Balance: 5.00000000 ICP");
    let poor = project.icp_fails(&["token", "transfer", "5", &bob, "--identity", "alice"]);
    assert!(poor.contains("nsufficient"), "{poor}");

    // The amounts are those of the real cycles minting canister at PocketIC's rate.
    let minted = project.icp(&["cycles", "mint", "--icp", "1", "--identity", "alice"]);
    assert!(minted.contains("Minted 3_519_900_000_000 cycles"), "{minted}");
    let minted = project.icp(&["cycles", "mint", "--cycles", "1500000000", "--identity", "alice"]);
    assert!(minted.contains("Minted 1_500_016_000 cycles"), "{minted}");
    project.icp(&["cycles", "transfer", "1t", &bob, "--identity", "alice"]);
    assert_eq!(number(&project.icp(&["cycles", "balance", "--identity", "bob"])), 1_000_000_000_000);
    let left = number(&project.icp(&["cycles", "balance", "--identity", "alice"]));
    assert_eq!(left, 3_519_900_000_000 + 1_500_016_000 - 1_000_000_000_000 - 100_000_000);

    let ledger = "um5iw-rqaaa-aaaaq-qaaba-cai";
    project.icp(&["token", ledger, "approve", "0.5", &alice, "--identity", "bob"]);
    let allowance = project.icp(&["token", ledger, "allowance", &alice, "--of-principal", &bob]);
    assert!(allowance.contains("0.5"), "{allowance}");

    project.icp(&["deploy"]);
    let cycles = |project: &Project| {
        number(project.json(&["canister", "status", "demo", "--json"])["cycles"].as_str().unwrap())
    };
    let before = cycles(&project);
    project.icp(&["canister", "top-up", "demo", "--amount", "1t", "--identity", "alice"]);
    assert!(cycles(&project) > before + 990_000_000_000);
}

/// Stops the project's network in any case.
struct Running<'a>(&'a Project);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.0.command(&["network", "stop"]).output();
    }
}

#[test]
fn managed_mode_starts_and_stops_the_network() {
    let network = "networks:\n  - name: local\n    mode: managed\n    gateway:\n      port: 0\n";
    let Some(project) = Project::new(network, &[]) else { return };
    let running = Running(&project);
    project.icp(&["network", "start", "--background"]);
    let status = project.icp(&["network", "status"]);
    assert!(status.contains("Root Key: 30"), "{status}");
    project.icp(&["network", "ping"]);
    project.icp(&["deploy"]);
    assert_eq!(project.icp(&["canister", "call", "demo", "put", "(\"a\", 3 : nat64)"]).trim(), "(null)");
    // `icp` gives its identities tokens of the anonymous one.
    assert!(number(&project.icp(&["cycles", "balance"])) > 0);
    let warnings = project.folder.path().join(".icp/cache/networks/local/network-launcher/stderr.log");
    assert_eq!(std::fs::read_to_string(&warnings).unwrap(), "", "nothing to warn of");
    project.icp(&["network", "stop"]);
    let stopped = project.icp_fails(&["canister", "status", "demo"]);
    assert!(stopped.contains("not running"), "{stopped}");
    drop(running);
    assert!(!left_over(project.folder.path()), "the network's process has ended");
}

/// Whether a process still runs that was started for `folder`.
fn left_over(folder: &Path) -> bool {
    let folder = folder.to_string_lossy().into_owned();
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.contains(&folder) && command.contains("--interface-version")
    })
}
