//! `cargo xtask bench econ`: instructions per reserve and settle in the real canister, by the number of accounts.
//!
//! The accounts are written natively into a memory as the canister would have written it, with the same code, and the memory
//! is given to the canister through the network's `set_stable_memory`: a million subscriptions by calls would take days.

use std::io::Write;

use anyhow::Context;
use candid::{CandidType, Principal};
use ic_stable_structures::DefaultMemoryImpl;
use local_net::costs::{INGRESS_BYTE_FEE, INGRESS_MESSAGE_FEE, UPDATE_MESSAGE_FEE};
use ohms_econ::economy::Economy;
use ohms_econ::events::EventKind;
use ohms_econ::memory::Memories;
use ohms_tests::network::{Network, admin, principal};
use ohms_tests::wasm::Canister;
use pocket_ic::common::rest::BlobCompression;
use serde::de::DeserializeOwned;
use shared_types::econ::{
    EconConfig, EconError, EconInitArgs, HOUR_NS, Reservation, ReserveArgs, Resource, ServiceGrant,
    ServiceRole, SettleArgs, Settlement, SubscriptionInput, UsageEnvelope, tiers,
};

/// Numbers of accounts.
const SIZES: [u64; 3] = [1, 1_000, 1_000_000];
/// Accounts whose calls are measured, spread over all.
const MEASURED: u64 = 20;
/// Largest growth from the smallest to the largest number of accounts.
const MAX_GROWTH: f64 = 2.0;

fn coordinator() -> Principal {
    principal(5)
}

fn account(n: u64) -> Principal {
    // Spread over the tree as hashes are.
    let mut bytes = [2; 29];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Principal::from_slice(&bytes)
}

/// Stable memory of a canister with so many subscribed accounts.
fn memory(canister: Principal, accounts: u64, now_ns: u64) -> anyhow::Result<Vec<u8>> {
    let memory = DefaultMemoryImpl::default();
    let mut economy = Economy::open(Memories::of(memory.clone()));
    let args = EconInitArgs { admins: vec![admin()], config: EconConfig::default() };
    economy.install(canister, args, now_ns)?;
    economy.grant_service(ServiceGrant { service: coordinator(), role: ServiceRole::Coordinator }, now_ns)?;
    let terms = tiers::initial().pop().context("there are tiers")?;
    for n in 0..accounts {
        let input = SubscriptionInput::Started { terms: terms.clone() };
        economy.record(now_ns, EventKind::Subscription { account: account(n), input, at_ns: now_ns });
    }
    drop(economy);
    Ok(memory.take())
}

struct Bench<'a> {
    network: &'a Network,
    canister: Principal,
}

impl Bench<'_> {
    /// The answer of a call of the coordinator, and the instructions of its message: its cycles without the fees that any message
    /// of this size costs, at one cycle an instruction.
    fn measure<R: CandidType + DeserializeOwned>(
        &self,
        method: &str,
        args: impl CandidType + Clone,
    ) -> anyhow::Result<(R, f64)> {
        let bytes = method.len() + candid::encode_one(args.clone())?.len();
        let fees = UPDATE_MESSAGE_FEE + INGRESS_MESSAGE_FEE + INGRESS_BYTE_FEE * bytes as u128;
        let before = self.network.pic.cycle_balance(self.canister);
        let answer: Result<R, EconError> = self.network.update(coordinator(), self.canister, method, (args,));
        let cycles = before - self.network.pic.cycle_balance(self.canister);
        Ok((answer?, cycles.saturating_sub(fees) as f64))
    }

    fn reserve(&self, n: u64) -> anyhow::Result<(Reservation, f64)> {
        let now_ns = self.network.pic.get_time().as_nanos_since_unix_epoch();
        let args = ReserveArgs {
            account: account(n),
            resource: Resource::Tokens(1_000),
            key: format!("run {n}"),
            expires_ns: now_ns + HOUR_NS,
        };
        self.measure("reserve", args)
    }

    fn settle(&self, reservation: &Reservation) -> anyhow::Result<f64> {
        let usage = UsageEnvelope {
            latency_ns: 5_000_000_000,
            tokens_in: 100,
            tokens_out: 400,
            instructions: 40_000_000_000,
            cycles: 50_000_000_000,
        };
        let args =
            SettleArgs { reservation: reservation.id, amount: 500, agents: Vec::new(), usage: Some(usage) };
        let (settled, instructions): (Settlement, f64) = self.measure("settle", args)?;
        anyhow::ensure!(settled.charged == 500, "{settled:?}");
        Ok(instructions)
    }
}

fn main() -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "| accounts | stable memory | reserve: mean | most | settle: mean | most |")?;
    writeln!(out, "|---:|---:|---:|---:|---:|---:|")?;
    let mut means: Vec<[f64; 2]> = Vec::new();
    for accounts in SIZES {
        let network = Network::new();
        let args = EconInitArgs { admins: vec![admin()], config: EconConfig::default() };
        let canister = network.install(Canister::Econ, args);
        let now_ns = network.pic.get_time().as_nanos_since_unix_epoch();
        let bytes = memory(canister, accounts, now_ns)?;
        let size = bytes.len();
        network.pic.set_stable_memory(canister, bytes, BlobCompression::NoCompression);
        // What the heap remembers is of the memory before.
        network.upgrade(canister, Canister::Econ);
        let bench = Bench { network: &network, canister };
        let measured = MEASURED.min(accounts);
        let (mut reserves, mut settles) = (Vec::new(), Vec::new());
        for n in 0..measured {
            let (reservation, instructions) = bench.reserve(n * (accounts / measured))?;
            reserves.push(instructions);
            settles.push(bench.settle(&reservation)?);
        }
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        let most = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
        writeln!(
            out,
            "| {accounts} | {:.1} MiB | {:.2} M | {:.2} M | {:.2} M | {:.2} M |",
            size as f64 / f64::from(1 << 20),
            mean(&reserves) / 1e6,
            most(&reserves) / 1e6,
            mean(&settles) / 1e6,
            most(&settles) / 1e6,
        )?;
        means.push([mean(&reserves), mean(&settles)]);
    }
    let (first, last) = (means[0], means[means.len() - 1]);
    let growth = [last[0] / first[0], last[1] / first[1]];
    writeln!(out, "growth: reserve {:.2}, settle {:.2} times", growth[0], growth[1])?;
    anyhow::ensure!(
        growth.iter().all(|growth| *growth <= MAX_GROWTH),
        "not flat within a factor of {MAX_GROWTH}"
    );
    Ok(())
}
