//! `local-net serve` in a process of its own, and the canister made with the usual Rust libraries (`test-canister/`).

use super::rust;
use candid::Principal;
use ic_agent::{Agent, Identity, export::reqwest::Url};
use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
};

/// A running `local-net serve`, ended when dropped.
pub struct Server {
    process: Child,
    pub url: Url,
    pub root_key: Vec<u8>,
    pub effective_canister: Principal,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with more arguments.
    pub fn start_with(arguments: &[&OsStr]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_local-net"))
            .args(["serve", "--port", "0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut value = |name: &str| {
            let line = lines.next().unwrap().unwrap();
            line.strip_prefix(&format!("{name}: "))
                .unwrap_or_else(|| panic!("{name} missing in `{line}`"))
                .to_owned()
        };
        Self {
            url: value("url").parse().unwrap(),
            root_key: hex::decode(value("root key")).unwrap(),
            effective_canister: value("default effective canister id").parse().unwrap(),
            process,
        }
    }

    pub fn agent(&self, identity: impl Identity + 'static) -> Agent {
        let agent = Agent::builder().with_url(self.url.clone()).with_identity(identity).build().unwrap();
        agent.set_root_key(self.root_key.clone());
        agent
    }
}

impl Server {
    /// Asks the process to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        let terminate = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(terminate.success());
        self.process.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The file of the test canister's Wasm, built once.
pub static TEST_CANISTER: LazyLock<PathBuf> = LazyLock::new(|| rust::build("local-net-test-canister"));
