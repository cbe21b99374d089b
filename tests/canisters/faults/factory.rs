//! Creating and deleting agents: whatever happens, a client that repeats its request gets what it wants, and every canister
//! that was created is an agent's, a spare, or deleted.

use super::*;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Factory, Network, Repository, admin, owner};
use ohms_tests::wasm::Canister;
use shared_types::factory::rollout::{
    BeginRolloutArgs, Rollout, RolloutReport, RolloutReportArgs, RolloutState, UpgradeOutcome,
};
use shared_types::factory::{
    AgentPage, AgentRecord, AgentState, AgentStep, FactoryConfig, FactoryError, FactoryStatus, JournalArgs,
    JournalPage, ListAgentsArgs, StepPhase,
};

/// How often a client repeats a request.
const ATTEMPTS: usize = 40;

struct Scenario<'a> {
    network: &'a Network,
    factory: Factory<'a>,
    repository: Repository<'a>,
}

impl Scenario<'_> {
    /// Repeats a request until it succeeds or `done` says that its error is as good; between two attempts time passes.
    fn insist<R: candid::CandidType + serde::de::DeserializeOwned>(
        &self,
        method: &str,
        args: &(impl candid::utils::ArgumentEncoder + Clone),
        done: impl Fn(&FactoryError) -> bool,
    ) -> Option<R> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let answer: Result<Result<R, FactoryError>, _> =
                self.network.update_patiently(owner(), self.factory.id, method, args.clone());
            match answer {
                Ok(Ok(result)) => return Some(result),
                Ok(Err(error)) if done(&error) => return None,
                Ok(Err(error)) => last = error.to_string(),
                Err(reject) => last = reject.reject_message,
            }
            self.pass_time();
        }
        panic!("{method} does not succeed: {last}");
    }

    /// Half a minute, in which what is late arrives and deadlines pass.
    fn pass_time(&self) {
        for _ in 0..6 {
            self.network.pic.advance_time(std::time::Duration::from_secs(5));
            self.network.pic.tick();
        }
    }

    fn create(&self, key: &str) -> AgentRecord {
        let args = self.factory.agent_args(key, &self.repository, Artifact::small().id);
        self.insist("create_agent", &(args,), |_| false).expect("a record")
    }

    fn delete(&self, key: &str) {
        let _: Option<()> = self.insist("delete_agent", &(key.to_owned(),), |error| {
            matches!(error, FactoryError::UnknownAgent { .. })
        });
    }

    fn status(&self) -> FactoryStatus {
        self.network.query(owner(), self.factory.id, "status", ())
    }

    fn agents(&self) -> Vec<AgentRecord> {
        let args = ListAgentsArgs { after: None, limit: 100 };
        let page: AgentPage = self.network.query(owner(), self.factory.id, "list_agents", (args,));
        page.agents
    }

    /// The canisters that the factory controls, of the first `created` ids after its own.
    fn canisters(&self, created: u64) -> Vec<Principal> {
        let first =
            u64::from_be_bytes(self.factory.id.as_slice()[..8].try_into().expect("a canister id")) + 1;
        let ids = (first..first + created).map(|n| {
            let mut id = [1; 10];
            id[..8].copy_from_slice(&n.to_be_bytes());
            Principal::from_slice(&id)
        });
        let pic = &self.network.pic;
        ids.filter(|id| pic.canister_exists(*id) && pic.get_controllers(*id) == [self.factory.id]).collect()
    }

    /// Creations of which the journal says that their outcome is unknown.
    fn unknown_creations(&self) -> usize {
        let journal: Result<JournalPage, FactoryError> = self.network.query(
            admin(),
            self.factory.id,
            "journal",
            (JournalArgs { after: None, limit: shared_types::paging::MAX_PAGE },),
        );
        let entries = journal.expect("the admin may read").entries;
        let unknown = |phase: &StepPhase| *phase == StepPhase::Unknown;
        entries.iter().filter(|entry| entry.step == AgentStep::Create && unknown(&entry.phase)).count()
    }

    /// Cycles of the factory and of `canisters`.
    fn balances(&self, canisters: &[Principal]) -> u128 {
        let ids = canisters.iter().chain([&self.factory.id]);
        ids.map(|id| self.network.pic.cycle_balance(*id)).sum()
    }
}

/// Creates two agents and deletes one of them under `plan`; then everything must be in its place.
fn life(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let repository = network.repository();
    let factory = network.factory(FactoryConfig::default());
    factory.upload_template(&Canister::Agent.wasm());
    let scenario = Scenario { network: &network, factory, repository };
    let before = scenario.balances(&[]);

    faults.set(plan);
    let kept = scenario.create("kept");
    let removed = scenario.create("removed");
    scenario.delete("removed");
    let trace = faults.clear();
    scenario.pass_time();

    // The agents are those that were asked for, each in a canister of its own that runs.
    let agents = scenario.agents();
    let states: Vec<_> = agents.iter().map(|agent| (agent.key.as_str(), &agent.state)).collect();
    assert_eq!(states, [("kept", &AgentState::Running)], "{trace}");
    assert_eq!(scenario.create("kept"), kept, "the same key is the same agent: {trace}");
    assert_ne!(kept.canister, removed.canister, "{trace}");
    let agent = Agent::at(&network, kept.canister.expect("a running agent has a canister"));
    assert_eq!(agent.status().owner, owner(), "{trace}");

    // Every canister is an agent's or a spare, unless its creation lost its answer: then the journal says so, and the
    // admin who finds the canister can have it adopted.
    let creations = trace.awaits.iter().filter(|call| call.method == "create_canister").count() as u64;
    let canisters = scenario.canisters(creations);
    let status = scenario.status();
    let lost = canisters.len() as u64 - 1 - status.spares;
    assert!(lost <= scenario.unknown_creations() as u64, "{lost} canisters are forgotten: {trace}");
    for id in &canisters {
        let adopted: Result<(), FactoryError> = network.update(admin(), factory.id, "adopt_canister", (*id,));
        assert_eq!(adopted.is_ok(), Some(*id) != kept.canister, "{adopted:?}: {trace}");
    }
    assert_eq!(scenario.status().spares, canisters.len() as u64 - 1, "{trace}");
    assert_eq!(scenario.status().in_progress, 0, "{trace}");

    // Cycles went for what the trace shows, and for nothing else.
    let burnt = before.saturating_sub(scenario.balances(&canisters) + trace.lost_cycles);
    let explained = explained_cycles(&trace);
    assert!(burnt <= explained, "{burnt} cycles, the trace explains {explained}: {trace}");

    // A spare makes a full agent.
    if canisters.len() > 1 {
        let again = scenario.create("again");
        assert!(canisters.contains(&again.canister.expect("a canister")), "{trace}");
        let agent = Agent::at(&network, again.canister.expect("a canister"));
        assert_eq!(agent.status().owner, owner(), "{trace}");
    }
    Some(trace)
}

/// Most cycles that the calls and messages of a trace may have taken. Fees are those of 13 nodes ("Cycles" in the facts about the
/// Internet Computer).
fn explained_cycles(trace: &FaultTrace) -> u128 {
    const BILLION: u128 = 1_000_000_000;
    let of_call = |method: &str| match method {
        "create_canister" => 500 * BILLION,
        // 200 M instructions, and a chunk of 1 MiB at 1,000 cycles a byte.
        "upload_chunk" => 2 * BILLION,
        // What is left of an agent is burnt with it: what it needs to send the rest.
        "delete_canister" => 100 * BILLION,
        // The start of the agent's code.
        "install_code" | "install_chunked_code" => BILLION,
        _ => BILLION / 10,
    };
    let calls: u128 = trace.awaits.iter().map(|call| of_call(&call.method)).sum();
    // 5 M, the bytes of a call, and instructions: reading the template is most of them.
    let messages = u128::from(trace.message_count) * BILLION / 5;
    calls + messages
}

fn factory_of(trace: &FaultTrace) -> Principal {
    trace.awaits[0].caller
}

#[test]
fn no_canister_is_forgotten_whatever_happens_at_an_await() {
    explore(life, |trace| sample(at_each_await(trace, |_| true), 40));
}

#[test]
fn no_canister_is_forgotten_whatever_happens_between_two_messages() {
    explore(life, |trace| sample(at_every_message(trace, factory_of(trace)), 40));
}

#[test]
fn no_canister_is_forgotten_whatever_the_seed() {
    // Seed 30 loses the answer of an uninstallation, after which the canister has no wallet.
    explore(life, |trace| sample(at_random(0..60, factory_of(trace)), 20));
}

/// What `create_agent` says while `plan` is followed, and what happened.
fn create_once(
    scenario: &Scenario,
    faults: &Faults,
    plan: &FaultPlan,
) -> (Option<Result<AgentRecord, FactoryError>>, FaultTrace) {
    faults.set(plan);
    let args = scenario.factory.agent_args("tale", &scenario.repository, Artifact::small().id);
    let answer = scenario.network.update_patiently(owner(), scenario.factory.id, "create_agent", (args,));
    (answer.ok(), faults.clear())
}

#[test]
fn a_creation_whose_answer_is_lost_is_in_the_journal_and_its_canister_is_adopted() {
    let Some((network, faults)) = network() else { return };
    let (repository, factory) = (network.repository(), network.factory(FactoryConfig::default()));
    factory.upload_template(&Canister::Agent.wasm());
    let scenario = Scenario { network: &network, factory, repository };
    let adopt = |caller: Principal, canister: Principal| -> Result<(), FactoryError> {
        network.update(caller, factory.id, "adopt_canister", (canister,))
    };

    let lost =
        Rule { method: Some("create_canister".to_owned()), when: When::Nth(0), ..Rule::at(0, Fault::Trap) };
    let (answer, _) = create_once(&scenario, &faults, &single(lost));
    assert_eq!(answer, None, "the message that took the answer has trapped");
    let orphan = scenario.canisters(1)[0];
    assert_eq!((scenario.status().spares, scenario.status().in_progress), (0, 0));
    assert_eq!(network.pic.cycle_balance(orphan), 0, "no cycles are lost with it");
    let record = scenario.create("tale");
    assert_eq!(scenario.unknown_creations(), 1);
    assert_ne!(record.canister, Some(orphan));

    assert_eq!(adopt(owner(), orphan), Err(FactoryError::Unauthorized));
    let refused = |canister| matches!(adopt(admin(), canister), Err(FactoryError::NotAdoptable { .. }));
    assert!(refused(record.canister.expect("a canister")), "it is an agent's");
    assert!(refused(repository.id), "it is somebody else's");
    assert!(refused(Principal::from_slice(&[9; 10])), "it does not exist");
    assert_eq!([adopt(admin(), orphan), adopt(admin(), orphan)], [Ok(()), Ok(())]);
    assert_eq!(scenario.status().spares, 1);
    assert_eq!(scenario.create("next").canister, Some(orphan));
}

#[test]
fn the_factory_refuses_an_upgrade_without_a_stop_while_a_canister_is_created() {
    let Some((network, faults)) = network() else { return };
    let (repository, factory) = (network.repository(), network.factory(FactoryConfig::default()));
    factory.upload_template(&Canister::Agent.wasm());
    let scenario = Scenario { network: &network, factory, repository };
    for stop in [false, true] {
        // After the management canister has created the canister, before the factory hears of it.
        let upgrade = Fault::Upgrade { canister: Some(factory.id), stop };
        let created = Rule {
            method: Some("create_canister".to_owned()),
            kind: Some(MessageKind::Request),
            when: When::Nth(0),
            ..Rule::at(0, upgrade)
        };
        let (answer, trace) = create_once(&scenario, &faults, &single(created));
        let [injected] = &trace.injected[..] else { panic!("{trace}") };
        if stop {
            // The request ends first: a canister that is being stopped makes no calls, but it hears the answers.
            assert_eq!(injected.prevented, None);
            assert!(answer.is_some(), "{trace}");
        } else {
            let reason = injected.prevented.as_deref().unwrap_or_default();
            assert!(reason.contains("1 requests are under way"), "{reason}");
            assert!(matches!(answer, Some(Ok(_))), "{answer:?}");
        }
        assert_eq!((scenario.unknown_creations(), scenario.canisters(3).len()), (0, 1));
        scenario.create("tale");
        scenario.delete("tale");
    }
}

/// A rollout over two agents, and a pool, under `plan`: in the end all is as it was asked for.
fn rollout(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let repository = network.repository();
    let factory = network.factory(FactoryConfig::default());
    let wasm = Canister::Agent.wasm();
    factory.upload_template(&wasm);
    let scenario = Scenario { network: &network, factory, repository };
    for key in ["first", "second"] {
        scenario.create(key);
    }
    // Another module that does the same: a custom section more.
    let template = factory.upload_template(&[&wasm[..], &[0, 2, 1, b'x']].concat());
    let begin = BeginRolloutArgs { template, stages: vec![100], max_failures: 20 };
    let report = || -> RolloutReport {
        let args = RolloutReportArgs { after: None, limit: 10 };
        let report: Result<RolloutReport, FactoryError> =
            network.query(admin(), factory.id, "rollout_report", (args,));
        report.expect("the admin may read")
    };

    faults.set(plan);
    network.wait_patiently("the begin", || {
        let begun: Result<Result<Rollout, FactoryError>, _> =
            network.update_patiently(admin(), factory.id, "begin_rollout", (begin.clone(),));
        // Asked again, it has begun already.
        begun.ok().filter(|begun| matches!(begun, Ok(_) | Err(FactoryError::NoRollout { .. }))).map(drop)
    });
    let config = FactoryConfig { pool_target: Some(2), ..FactoryConfig::default() };
    network.wait_patiently("the pool's size", || {
        let set: Result<Result<(), FactoryError>, _> =
            network.update_patiently(admin(), factory.id, "set_config", (config.clone(),));
        set.ok().map(|set| set.expect("an admin may"))
    });
    (0..20).for_each(|_| scenario.pass_time());
    let trace = faults.clear();
    network.wait_patiently("the end", || {
        let status = scenario.status();
        let ended = report().rollout.is_some_and(|rollout| rollout.state == RolloutState::Done);
        (ended && status.spares >= 2 && status.in_progress == 0).then_some(())
    });
    for upgrade in report().upgrades {
        let record = scenario.agents().into_iter().find(|agent| agent.key == upgrade.key).expect("an agent");
        let upgraded = upgrade.outcome == UpgradeOutcome::Done;
        assert_eq!(record.template == template, upgraded, "{trace}");
    }
    for record in scenario.agents() {
        assert_eq!(record.state, AgentState::Running, "{trace}");
        let agent = Agent::at(&network, record.canister.expect("a canister"));
        assert_eq!(agent.status().owner, owner(), "{trace}");
    }
    // Every canister is an agent's or a spare, but for those whose creation lost its answer, of which the journal tells.
    let creations = trace.awaits.iter().filter(|call| call.method == "create_canister").count() as u64;
    let canisters = scenario.canisters(creations + 8).len() as u64;
    let lost = canisters - 2 - scenario.status().spares;
    assert!(lost <= scenario.unknown_creations() as u64, "{lost} canisters are forgotten: {trace}");
    Some(trace)
}

#[test]
fn a_rollout_and_the_pool_end_as_they_should_whatever_the_seed() {
    explore(rollout, |trace| at_random(0..6, factory_of(trace)));
}
