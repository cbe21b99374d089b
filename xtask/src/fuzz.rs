//! `cargo xtask fuzz`: libFuzzer with the pinned stable toolchain.
//!
//! cargo-fuzz, whose layout `fuzz/` has, wants a nightly one for its sanitizers; what they look for, safe Rust does not have. Coverage alone
//! guides the fuzzer here, and a panic is what it finds.

use crate::cargo::{cargo, workspace};
use crate::run;
use anyhow::Context;
use std::process::Command;

/// What cargo-fuzz passes for coverage, without a sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Fuzzes `target` from its seeds; what is found stays in `fuzz/artifacts`, inputs that reach new code in `fuzz/corpus`.
pub fn run_target(target: &str, args: &[String]) -> anyhow::Result<()> {
    let folder = workspace().join("fuzz");
    for name in ["corpus", "artifacts"] {
        let path = folder.join(name).join(target);
        std::fs::create_dir_all(&path).with_context(|| format!("`{}` can't be made", path.display()))?;
    }
    let mut command = cargo();
    // Named, so that build scripts are built without coverage.
    command.args(["run", "--release", "--target", &host()?, "--bin", target, "--"]);
    command.arg(format!("corpus/{target}")).arg(format!("seeds/{target}"));
    command.arg(format!("-artifact_prefix=artifacts/{target}/"));
    run(command.args(args).env("RUSTFLAGS", COVERAGE).current_dir(folder))
}

/// The target triple of this machine.
fn host() -> anyhow::Result<String> {
    let version =
        Command::new("rustc").arg("-vV").current_dir(workspace()).output().context("`rustc -vV`")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}
