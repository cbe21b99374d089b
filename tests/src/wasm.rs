//! The canisters' Wasm modules, as `cargo xtask build` leaves them.

use std::path::PathBuf;

/// A canister of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canister {
    /// The model repository.
    Model,
    /// The agent factory.
    AgentFactory,
    /// The agent template.
    Agent,
    /// Tiers, quotas, payments, settlement.
    Econ,
    /// Plans, tasks, messages, routing, votes.
    Coordinator,
    /// The web app's host.
    Ui,
    /// The comparison of kernels.
    Kernels,
    /// The tests' token ledger.
    Ledger,
    /// The tests' exchange rate canister.
    ExchangeRate,
}

impl Canister {
    /// The Wasm module.
    ///
    /// # Panics
    /// When it was not built; says how to.
    pub fn wasm(self) -> Vec<u8> {
        let name = match self {
            Self::Model => "ohms_model",
            Self::AgentFactory => "ohms_agent_factory",
            Self::Agent => "ohms_agent",
            Self::Econ => "ohms_econ",
            Self::Coordinator => "ohms_coordinator",
            Self::Ui => "ohms_ui",
            Self::Kernels => "kernel_canister",
            Self::Ledger => "ledger_canister",
            Self::ExchangeRate => "exchange_rate_canister",
        };
        let path = target_dir().join("wasm32-unknown-unknown/canister").join(format!("{name}.wasm"));
        std::fs::read(&path).unwrap_or_else(|error| {
            panic!("no Wasm at {}: {error}; run `cargo xtask build` first", path.display())
        })
    }

    /// The text of the canister's committed Candid file.
    ///
    /// # Panics
    /// For the tests' own canisters, which have none.
    pub fn candid(self) -> &'static str {
        match self {
            Self::Model => include_str!("../../canisters/model/model.did"),
            Self::AgentFactory => include_str!("../../canisters/agent-factory/agent-factory.did"),
            Self::Agent => include_str!("../../canisters/agent/agent.did"),
            Self::Econ => include_str!("../../canisters/econ/econ.did"),
            Self::Coordinator => include_str!("../../canisters/coordinator/coordinator.did"),
            Self::Ui => include_str!("../../canisters/ui/ui.did"),
            Self::Kernels | Self::Ledger | Self::ExchangeRate => {
                panic!("the tests' own canisters have no Candid file")
            }
        }
    }

    /// Names of the methods in the canister's Candid file.
    pub fn methods(self) -> Vec<String> {
        let service = self.candid().split_once("service :").map_or("", |(_, service)| service);
        let lines = service.lines().filter(|line| line.contains("->") && line.starts_with("  "));
        lines.filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
    }
}

/// A program of the workspace.
///
/// # Panics
/// When it was not built; says how to.
pub fn program(name: &str) -> PathBuf {
    let path = target_dir().join("debug").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "no program at {}: run `cargo xtask build` first", path.display());
    path
}

fn target_dir() -> PathBuf {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // Joining an absolute path gives that path.
    workspace.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
