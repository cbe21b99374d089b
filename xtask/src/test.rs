//! `cargo xtask test`.

use crate::cargo::{build_all, cargo, program};
use crate::{clients, frontend, run};
use anyhow::Context;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Sums of the test runners' closing lines.
#[derive(Default)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Summary {
    /// Adds cargo's `test result: ok. 3 passed; 0 failed; 1 ignored; …`, Vitest's `Tests  1 failed | 3 passed (4)`, or what
    /// Node.js ends with, `# pass 3`, `# fail 0` and `# skipped 1`, a line each.
    fn add(&mut self, line: &str) {
        if let Some((what, count)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
            return self.count(what, count);
        }
        let counts = line.strip_prefix("test result: ").or_else(|| line.trim().strip_prefix("Tests  "));
        for part in counts.unwrap_or_default().split(['.', ';', '|']) {
            let mut words = part.split_whitespace();
            if let (Some(count), Some(what)) = (words.next(), words.next()) {
                self.count(what, count);
            }
        }
    }

    fn count(&mut self, what: &str, count: &str) {
        let Ok(count) = count.parse::<u64>() else { return };
        match what {
            "passed" | "pass" => self.passed += count,
            "failed" | "fail" => self.failed += count,
            "ignored" | "skipped" => self.ignored += count,
            _ => {}
        }
    }

    /// Runs tests to their end, passing their output on; returns whether all of them passed.
    fn run(&mut self, mut tests: Command) -> anyhow::Result<bool> {
        let name = tests.get_program().to_string_lossy().into_owned();
        let mut child =
            tests.stdout(Stdio::piped()).spawn().with_context(|| format!("`{name}` can't be started"))?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines() {
                let line = line.context("the tests' output can't be read")?;
                self.add(&line);
                writeln!(std::io::stdout(), "{line}").context("the output is closed")?;
            }
        }
        Ok(child.wait().with_context(|| format!("`{name}`"))?.success())
    }
}

/// Checks the format, lints, builds and runs all tests; ends with the sum of their results.
pub fn run_all() -> anyhow::Result<()> {
    run(cargo().args(["fmt", "--all", "--check"])).context("`cargo fmt --all` mends the format")?;
    clients::set_up()?;
    build_all()?;
    frontend::build()?;
    // The cross-canister tests run on any server that speaks PocketIC's interface.
    let server = std::env::var_os("POCKET_IC_BIN").unwrap_or_else(|| OsString::from(program("local-net")));
    eprintln!("testing: on {}", server.to_string_lossy());
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--all-targets", "--no-fail-fast"]).env("POCKET_IC_BIN", server);
    let mut summary = Summary::default();
    let mut success = summary.run(tests)?;
    eprintln!("testing: the web app");
    for tests in frontend::tests() {
        success &= summary.run(tests)?;
    }
    run_lints()?;
    println!("total: {} passed, {} failed, {} skipped", summary.passed, summary.failed, summary.ignored);
    anyhow::ensure!(success && summary.failed == 0, "there are failing tests");
    anyhow::ensure!(summary.passed > 0, "no test ran");
    Ok(())
}

/// Clippy, with every warning an error.
fn run_lints() -> anyhow::Result<()> {
    eprintln!("linting");
    run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_all_runners_are_counted() {
        let mut summary = Summary::default();
        let lines = [
            "test result: ok. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "      Tests  1 failed | 22 passed | 1 skipped (24)",
            " Test Files  1 failed | 5 passed (6)",
            "# tests 4",
            "# pass 4",
            "# fail 0",
            "# skipped 1",
            "# Subtest: the pass 9",
        ];
        for line in lines {
            summary.add(line);
        }
        assert_eq!((summary.passed, summary.failed, summary.ignored), (29, 2, 4));
    }
}
