//! What the canisters promise, kept under every fault at every await.
//!
//! Each scenario is run once undisturbed, and then again for each of its points and each fault that may happen there. A
//! run that fails prints its plan; with `FAULT_PLAN` set to that text the scenarios are run with this plan only.

mod agent;
mod coordinator;
mod econ;
mod factory;
mod model;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use candid::Principal;
use local_net::network::faults::{
    Await, CyclesLeft, Delay, Fault, FaultPlan, FaultTrace, MessageKind, Rule, When,
};
use ohms_tests::faults::Faults;
use ohms_tests::network::Network;

/// A network whose server has faults; otherwise says that the test is skipped.
fn network() -> Option<(Network, Faults)> {
    let network = Network::new();
    let faults = Faults::of(&network.pic);
    if faults.is_none() {
        let _ = writeln!(std::io::stderr(), "skipped: POCKET_IC_BIN is a server without faults on demand");
    }
    faults.map(|faults| (network, faults))
}

/// Runs `scenario` undisturbed, then with every plan that `plans` makes of the trace of that run.
fn explore(
    scenario: impl Fn(&FaultPlan) -> Option<FaultTrace>,
    plans: impl FnOnce(&FaultTrace) -> Vec<FaultPlan>,
) {
    let fails = |plan: &FaultPlan| {
        let run = catch_unwind(AssertUnwindSafe(|| scenario(plan)));
        run.is_err().then(|| format!("FAULT_PLAN='{}'", serde_json::to_string(plan).expect("JSON")))
    };
    if let Ok(plan) = std::env::var("FAULT_PLAN") {
        let trace = scenario(&serde_json::from_str(&plan).expect("FAULT_PLAN is a plan"));
        let _ = writeln!(std::io::stderr(), "{}", trace.map_or_else(String::new, |trace| trace.to_string()));
        return;
    }
    let Some(undisturbed) = scenario(&FaultPlan::default()) else { return };
    let plans = plans(&undisturbed);
    assert!(!plans.is_empty(), "there is something to disturb: {undisturbed}");
    let failures: Vec<String> = plans.iter().filter_map(fails).collect();
    assert!(
        failures.is_empty(),
        "{} of {} runs failed:\n{}",
        failures.len(),
        plans.len(),
        failures.join("\n")
    );
}

/// So many of `plans`, spread over all of them; all with `FAULTS=all` in the environment. The first one is chosen by `FAULT_SEED`.
fn sample(plans: Vec<FaultPlan>, most: usize) -> Vec<FaultPlan> {
    if std::env::var("FAULTS").is_ok_and(|which| which == "all") {
        return plans;
    }
    let seed = std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0usize);
    // An odd stride comes by each of the eight faults of an await.
    let stride = plans.len().div_ceil(most).max(1) | 1;
    plans.into_iter().skip(seed % stride).step_by(stride).collect()
}

fn single(rule: Rule) -> FaultPlan {
    FaultPlan { rules: vec![rule], ..FaultPlan::default() }
}

/// Every fault that an await may suffer, at each await that `wanted` picks.
fn at_each_await(trace: &FaultTrace, wanted: impl Fn(&Await) -> bool) -> Vec<FaultPlan> {
    let late = Delay { rounds: 3, nanos: 0 };
    let faults = [
        Fault::Trap,
        Fault::Reject,
        Fault::RejectUnknown,
        Fault::DropRequest,
        Fault::DropAnswer,
        Fault::DelayRequest(late),
        Fault::DelayAnswer(late),
        Fault::Duplicate,
    ];
    let points = trace.awaits.iter().filter(|point| wanted(point));
    let pairs = points.flat_map(|point| faults.iter().map(move |fault| (point, fault)));
    let possible = pairs.filter(|(point, fault)| point.bounded || !fault.is_bounded_only());
    possible.map(|(point, fault)| single(Rule::at(point.index, fault.clone()))).collect()
}

/// Everything that can happen to `canister` at or between its messages, at each of them.
fn at_every_message(trace: &FaultTrace, canister: Principal) -> Vec<FaultPlan> {
    let target = Some(canister);
    let low = |left| Fault::LowCycles { canister: target, left, rounds: 5 };
    let faults = [
        Fault::TrapMessage,
        Fault::Upgrade { canister: target, stop: true },
        Fault::Upgrade { canister: target, stop: false },
        Fault::AdvanceTime { nanos: 400_000_000_000 },
        low(CyclesLeft::Frozen),
        low(CyclesLeft::OneMessage),
    ];
    faults.iter().flat_map(|fault| at_each_message(trace, canister, fault)).collect()
}

/// `fault` at or after each message that `canister` executes. Messages that only the code of `ic-cdk-timers` executes don't
/// trap: the timer of that library does not survive it, and nothing in it can.
fn at_each_message(trace: &FaultTrace, canister: Principal, fault: &Fault) -> Vec<FaultPlan> {
    let messages = trace.messages.iter().filter(|message| {
        message.callee == canister && (*fault != Fault::TrapMessage || message.kind != MessageKind::Task)
    });
    messages.map(|message| single(Rule::at(message.index, fault.clone()))).collect()
}

/// Plans of many faults that `seeds` choose.
fn at_random(seeds: std::ops::Range<u64>, canister: Principal) -> Vec<FaultPlan> {
    let often = |chance, fault| Rule { when: When::Chance(chance), ..Rule::at(0, fault) };
    let canister = Some(canister);
    seeds
        .map(|seed| FaultPlan {
            seed,
            reorder: seed % 2 == 0,
            rules: vec![
                often(0.04, Fault::Trap),
                often(0.04, Fault::Reject),
                often(0.04, Fault::RejectUnknown),
                often(0.02, Fault::DropAnswer),
                often(0.04, Fault::DelayAnswer(Delay { rounds: 4, nanos: 0 })),
                often(0.04, Fault::Duplicate),
                Rule { kind: Some(MessageKind::Request), ..often(0.02, Fault::TrapMessage) },
                often(0.02, Fault::Upgrade { canister, stop: true }),
                often(0.02, Fault::Upgrade { canister, stop: false }),
                often(0.01, Fault::LowCycles { canister, left: CyclesLeft::Frozen, rounds: 5 }),
                often(0.01, Fault::LowCycles { canister, left: CyclesLeft::OneMessage, rounds: 5 }),
                often(0.02, Fault::AdvanceTime { nanos: 150_000_000_000 }),
            ],
        })
        .collect()
}
