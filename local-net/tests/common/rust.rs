//! Canisters written in Rust.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The file of the Wasm of a package of this workspace, built if need be.
pub fn build(package: &str) -> PathBuf {
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
    target.join(file)
}
