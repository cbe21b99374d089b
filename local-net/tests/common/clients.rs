//! The clients in `clients/`: whether they are installed, and how they are run.

use super::server::{Server, TEST_CANISTER};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Seconds after which a client is taken for stuck.
const PATIENCE: &str = "300";

/// The folder of the clients.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// A file of an installed npm package; says so when it is absent.
pub fn package_file(path: &str) -> Option<PathBuf> {
    let file = folder().join("node_modules").join(path);
    if file.exists() {
        return Some(file);
    }
    skip(&format!(
        "`{path}` is not installed; `cargo xtask test`, or `npm ci` in local-net/clients, does that"
    ));
    None
}

/// Prints why a test does nothing, past the test runner's capture.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "skipped: {}: {reason}", thread.name().unwrap_or_default());
}

/// A command that ends after some minutes in any case.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=10").arg(PATIENCE).arg(program);
    command
}

/// Runs the tests of a file in `clients/` against `server`.
pub fn run_node_tests(file: &str, server: &Server) {
    let output = command("node")
        .args(["--test", "--test-reporter=tap", file])
        .current_dir(folder())
        .env("LOCAL_NET_URL", server.url.as_str().trim_end_matches('/'))
        .env("LOCAL_NET_ROOT_KEY", hex::encode(&server.root_key))
        .env("LOCAL_NET_EFFECTIVE_CANISTER", server.effective_canister.to_text())
        .env("LOCAL_NET_WASM", TEST_CANISTER.as_os_str())
        .output()
        .expect("`node` can be started");
    let report = String::from_utf8_lossy(&output.stdout);
    let passed = report.lines().find_map(|line| line.strip_prefix("# pass ")?.parse::<u32>().ok());
    assert!(
        output.status.success() && passed.is_some_and(|passed| passed > 0),
        "{file}: {}\n{report}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
