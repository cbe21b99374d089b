//! `local-net serve` in a process of its own, and the canister made with the usual Rust libraries (`test-canister/`).

use super::rust;
use candid::Principal;
use ic_agent::{Agent, Identity, export::reqwest::Url};
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
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
        let mut process = Command::new(env!("CARGO_BIN_EXE_local-net"))
            .args(["serve", "--port", "0"])
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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The file of the test canister's Wasm, built once.
pub static TEST_CANISTER: LazyLock<PathBuf> = LazyLock::new(|| rust::build("local-net-test-canister"));
