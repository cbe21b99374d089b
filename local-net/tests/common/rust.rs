//! Canisters written in Rust.

use std::{path::Path, process::Command};

/// The Wasm of a package of this workspace, built if need be.
pub fn build(package: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_BIN_EXE_local-net")).ancestors().nth(2).unwrap();
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", package])
        .args(["--target", "wasm32-unknown-unknown", "--profile", "canister", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "{package} does not build");
    let file = format!("wasm32-unknown-unknown/canister/{}.wasm", package.replace('-', "_"));
    std::fs::read(target.join(file)).unwrap()
}
