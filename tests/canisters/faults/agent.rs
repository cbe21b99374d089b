//! A job and the load before it: whatever happens, the job ends with the tokens of an undisturbed run.

use std::sync::OnceLock;

use super::*;
use crate::econ::Shop;
use crate::quota;
use ohms_tests::artifact::Artifact;
use ohms_tests::ledger::Ledger;
use ohms_tests::network::{Agent, Network, owner, stranger};
use shared_types::agent::wallet::{
    ListPaymentsArgs, PayArgs, PaymentPage, PaymentRecord, PaymentState, SetLedgerArgs, SpendingLimits,
    WalletLedger,
};
use shared_types::agent::{
    AgentConfig, AgentError, FinishReason, GenerationParams, JobFailure, JobId, JobProgress, JobRecord,
    JobState, LoadState, SubmitJobArgs,
};
use shared_types::econ::EconConfig;
use shared_types::receipt::{ListReceiptsArgs, ReceiptPage, hash_tokens};

const PROMPT: &str = "Once upon a fox";

fn params(max_tokens: u32) -> GenerationParams {
    GenerationParams {
        max_tokens,
        temperature: 0.9,
        top_k: Some(50),
        top_p: Some(0.95),
        seed: 7,
        ..GenerationParams::default()
    }
}

/// Tokens and text of the scenario's job, as the engine gives them natively.
fn expected() -> &'static (Vec<u32>, String) {
    static EXPECTED: OnceLock<(Vec<u32>, String)> = OnceLock::new();
    EXPECTED.get_or_init(|| Artifact::small().generate(PROMPT, &params(6)))
}

/// Submits the job under its key until the agent has accepted it, as a client does that gets no answer.
fn submit(network: &Network, agent: &Agent) -> JobRecord {
    let args = SubmitJobArgs {
        prompt: PROMPT.to_owned(),
        params: params(6),
        key: Some("tale".to_owned()),
        ..SubmitJobArgs::default()
    };
    network.wait_for("the job's acceptance", || {
        let answer = network.try_update(owner(), agent.id, "submit_job", (args.clone(),));
        let record: Result<JobRecord, AgentError> = answer.ok()?;
        Some(record.expect("a job that fits"))
    })
}

/// Waits until the job has ended.
fn wait(network: &Network, agent: &Agent, job: JobId) -> JobProgress {
    // A canister that is being stopped or has no cycles answers no query.
    let ended = |progress: &JobProgress| progress.job.state.is_final();
    network.wait_patiently("the end of the job", || agent.try_progress(job, 0).filter(ended))
}

/// A new agent loads its model and does a job under `plan`; then it does another one undisturbed.
fn job(plan: &FaultPlan, may_fail: bool) -> Option<(FaultTrace, Principal)> {
    let (network, faults) = network()?;
    let artifact = Artifact::small();
    let repository = network.repository();
    repository.publish(artifact);
    let config = AgentConfig { slice_instructions: 60_000_000, load_window: 2, ..AgentConfig::default() };
    let agent = network.agent(repository.id, artifact.id, config);
    let before = network.pic.cycle_balance(agent.id);

    faults.set(plan);
    let record = submit(&network, &agent);
    let done = wait(&network, &agent, record.job_id);
    let trace = faults.clear();
    match &done.job.state {
        JobState::Done { reason: FinishReason::MaxTokens } => {
            assert_eq!((&done.tokens, &done.text), (&expected().0, &expected().1), "{trace}");
        }
        JobState::Failed { reason: JobFailure::Load(_) | JobFailure::SliceTrapped { .. } } if may_fail => {
            assert!(expected().0.starts_with(&done.tokens), "{trace}");
        }
        state => panic!("the job ended as {state:?}: {trace}"),
    }

    // Answers to calls may be under way, so only a stopped agent is upgraded.
    for injected in trace.injected.iter().filter(|injected| is_upgrade_without_stop(&injected.fault)) {
        let refused = injected.prevented.as_ref().is_some_and(|reason| reason.contains("stop the canister"));
        assert!(refused, "{injected}");
    }

    // The same key is the same job, and the agent is as good as new.
    assert_eq!(submit(&network, &agent).job_id, record.job_id, "{trace}");
    let next = wait(&network, &agent, agent.submit("A crow", &params(2)));
    assert_eq!(next.tokens, artifact.generate("A crow", &params(2)).0, "{trace}");
    let status = agent.status();
    assert_eq!((status.jobs, status.open_jobs, &status.load), (2, 0, &LoadState::Loaded), "{trace}");
    // Each job that ended has one receipt, whatever was repeated.
    let args = ListReceiptsArgs { after: None, limit: 10 };
    let page: Result<ReceiptPage, AgentError> = network.query(owner(), agent.id, "list_receipts", (args,));
    let page = page.expect("the owner may read");
    let of_jobs: Vec<JobId> = page.receipts.iter().map(|receipt| receipt.job_id).collect();
    assert_eq!(of_jobs, [record.job_id, next.job.job_id], "{trace}");
    assert_eq!(page.receipts[0].tokens_sha256, hash_tokens(done.tokens.clone()), "{trace}");
    assert_eq!(page.receipts[1].previous, page.receipts[0].hash(), "{trace}");
    // Cycles went for work only: a few trillionths of what an agent has.
    let spent = before - network.pic.cycle_balance(agent.id);
    assert!(spent < 60_000_000_000, "{spent} cycles: {trace}");
    Some((trace, agent.id))
}

fn is_upgrade_without_stop(fault: &Fault) -> bool {
    matches!(fault, Fault::Upgrade { stop: false, .. })
}

/// The agent's id, which is the same in each run.
fn agent_of(trace: &FaultTrace) -> Principal {
    trace.awaits[0].caller
}

#[test]
fn a_job_survives_every_fault_at_every_await() {
    let scenario = |plan: &FaultPlan| job(plan, false).map(|(trace, _)| trace);
    explore(scenario, |trace| at_each_await(trace, |_| true));
}

#[test]
fn a_job_survives_everything_between_two_messages() {
    let scenario = |plan: &FaultPlan| job(plan, false).map(|(trace, _)| trace);
    explore(scenario, |trace| sample(at_every_message(trace, agent_of(trace)), 60));
}

#[test]
fn a_job_ends_with_its_tokens_or_a_reason_whatever_the_seed() {
    let scenario = |plan: &FaultPlan| job(plan, true).map(|(trace, _)| trace);
    explore(scenario, |trace| at_random(0..20, agent_of(trace)));
}

/// Pays under `plan`, asking again until the payment has an outcome; what is said of it must be so.
fn payment(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let repository = network.repository();
    let agent = network.agent(repository.id, Artifact::small().id, AgentConfig::default());
    let ledger = Ledger::install(&network);
    ledger.mint(agent.id, 1_000_000);
    let limits = SpendingLimits { per_payment: 500_000, per_day: 600_000, approval_above: 0 };
    let set: Result<WalletLedger, AgentError> =
        network.update(owner(), agent.id, "set_ledger", (SetLedgerArgs { ledger: ledger.id, limits },));
    set.expect("registered");
    let args = PayArgs {
        ledger: ledger.id,
        to: stranger().into(),
        amount: 400_000,
        key: "once".to_owned(),
        memo: None,
        purpose: String::new(),
    };

    faults.set(plan);
    let record = network.wait_patiently("the payment", || {
        let paid: Result<Result<PaymentRecord, AgentError>, _> =
            network.update_patiently(owner(), agent.id, "pay", (args.clone(),));
        paid.ok().map(|paid| paid.expect("within the limits")).filter(|payment| payment.state.is_final())
    });
    let trace = faults.clear();
    network.pic.advance_time(std::time::Duration::from_mins(2));
    (0..10).for_each(|_| network.pic.tick());
    let received = ledger.balance(stranger());
    match record.state {
        PaymentState::Done { .. } => assert_eq!(received, 400_000, "{trace}"),
        PaymentState::Failed { .. } => assert_eq!(received, 0, "{trace}"),
        state => panic!("the payment is {state:?}: {trace}"),
    }
    let args = ListPaymentsArgs { after: None, limit: 10 };
    let page: Result<PaymentPage, AgentError> = network.query(owner(), agent.id, "list_payments", (args,));
    assert_eq!(page.expect("the owner may read").payments.len(), 1, "{trace}");
    ledger.validate();
    Some(trace)
}

#[test]
fn a_payment_is_made_once_whatever_happens_at_its_await() {
    explore(payment, |trace| at_each_await(trace, |call| call.method == "icrc1_transfer"));
}

#[test]
fn a_payment_is_made_once_whatever_the_seed() {
    explore(payment, |trace| at_random(0..6, agent_of(trace)));
}

/// A metered job under `plan`: it ends with its tokens, and is charged for them once.
fn metered_job(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Basic", "first");
    let agent = quota::metered(&network, Artifact::small(), shop.id);
    quota::introduce(&shop, &agent);

    faults.set(plan);
    let record = submit(&network, &agent);
    let done = wait(&network, &agent, record.job_id);
    network.wait_patiently("the settlement", || (shop.account().open_reservations == 0).then_some(()));
    let trace = faults.clear();
    network.pic.advance_time(std::time::Duration::from_mins(4));
    (0..10).for_each(|_| network.pic.tick());
    assert_eq!(done.tokens, expected().0, "{trace}");
    let counts = done.job.counts;
    let taken = u64::from(counts.prompt_tokens) + u64::from(counts.generated_tokens);
    let account = shop.account();
    assert_eq!((account.tokens.used, account.tokens.reserved), (taken, 0), "{trace}");
    assert_eq!(account.totals.runs, 1, "{trace}");
    Some(trace)
}

#[test]
fn a_metered_job_is_charged_once_whatever_happens_at_its_awaits() {
    explore(metered_job, |trace| {
        sample(at_each_await(trace, |call| ["reserve", "settle"].contains(&call.method.as_str())), 24)
    });
}
