//! `cargo xtask test`.

use crate::cargo::{build_all, cargo, program};
use crate::{clients, run};
use anyhow::Context;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

/// Sums of the test runners' closing lines.
#[derive(Default)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Summary {
    /// Adds `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Checks the format, lints, builds and runs all tests; ends with the sum of their results.
pub fn run_all() -> anyhow::Result<()> {
    run(cargo().args(["fmt", "--all", "--check"])).context("`cargo fmt --all` mends the format")?;
    clients::set_up()?;
    build_all()?;
    // The cross-canister tests run on any server that speaks PocketIC's interface.
    let server = std::env::var_os("POCKET_IC_BIN").unwrap_or_else(|| OsString::from(program("local-net")));
    eprintln!("testing: on {}", server.to_string_lossy());
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]);
    tests.env("POCKET_IC_BIN", server).stdout(Stdio::piped());
    let mut child = tests.spawn().context("`cargo test` can't be started")?;
    let mut summary = Summary::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context("the tests' output can't be read")?;
            summary.add(&line);
            writeln!(std::io::stdout(), "{line}").context("the output is closed")?;
        }
    }
    let status = child.wait().context("`cargo test`")?;
    run_lints()?;
    println!("total: {} passed, {} failed, {} skipped", summary.passed, summary.failed, summary.ignored);
    anyhow::ensure!(status.success() && summary.failed == 0, "there are failing tests");
    anyhow::ensure!(summary.passed > 0, "no test ran");
    Ok(())
}

/// Clippy, with every warning an error.
fn run_lints() -> anyhow::Result<()> {
    eprintln!("linting");
    run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}
