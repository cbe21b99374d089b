//! Building.

use crate::run;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;

const WASM_TARGET: &str = "wasm32-unknown-unknown";
/// Packages that become canisters, those of the tests included.
const CANISTERS: [&str; 9] = [
    "ohms-model",
    "ohms-agent-factory",
    "ohms-agent",
    "ohms-econ",
    "ohms-coordinator",
    "ohms-ui",
    "exchange-rate-canister",
    "kernel-canister",
    "ledger-canister",
];

/// The cargo that runs this program, in the workspace's folder.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A native program of the workspace, once built.
pub fn program(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("debug").join(name).with_extension(std::env::consts::EXE_EXTENSION)
}

/// Builds the canisters' Wasm and the native programs, at the same time: they have target folders of their own, and a Wasm module is
/// optimised as a whole on one core.
///
/// The native build is the whole workspace with its tests: a smaller selection would build dependencies with other features,
/// and going from the demo to the tests and back would compile them anew each time.
pub fn build_all() -> anyhow::Result<()> {
    ensure_wasm_target()?;
    eprintln!("building: the canisters' Wasm and the native programs");
    let mut wasm = cargo();
    wasm.args(["build", "--profile", "canister", "--target", WASM_TARGET]);
    for package in CANISTERS {
        wasm.args(["--package", package]);
    }
    let mut wasm = wasm.spawn().context("`cargo` can't be started")?;
    let native = run(cargo().args(["build", "--workspace", "--all-targets"]));
    let wasm = wasm.wait().context("`cargo`")?;
    native?;
    anyhow::ensure!(wasm.success(), "the canisters' Wasm could not be built ({wasm})");
    Ok(())
}

/// Adds the Wasm target to the toolchain if it is not there.
fn ensure_wasm_target() -> anyhow::Result<()> {
    let list =
        Command::new("rustup").args(["target", "list", "--installed"]).current_dir(workspace()).output();
    let list =
        list.context("`rustup` can't be started; it is needed to add the target wasm32-unknown-unknown")?;
    if String::from_utf8_lossy(&list.stdout).lines().any(|line| line.trim() == WASM_TARGET) {
        return Ok(());
    }
    eprintln!("adding: the target {WASM_TARGET}");
    run(Command::new("rustup").args(["target", "add", WASM_TARGET]).current_dir(workspace()))
}
