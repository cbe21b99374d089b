//! The factory: agents by key, failures that leave no orphan, deletion that returns cycles.

use std::io::Write as _;

use crate::econ::Shop;
use icrc_ledger_types::icrc1::account::Account;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, CYCLES_LEDGER, Network, admin, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::Digest;
use shared_types::agent::GenerationParams;
use shared_types::econ::{EconConfig, ServiceGrant, ServiceRole};
use shared_types::factory::rollout::{
    BeginRolloutArgs, Rollout, RolloutReport, RolloutReportArgs, RolloutState, UpgradeOutcome,
};
use shared_types::factory::{
    AgentPage, AgentQuota, AgentRecord, AgentState, AgentStep, CreateAgentArgs, FactoryConfig, FactoryError,
    FactoryStatus, JournalArgs, JournalPage, ListAgentsArgs, StepPhase, TopUpAgentArgs,
};

fn create(
    network: &Network,
    factory: candid::Principal,
    args: &CreateAgentArgs,
) -> Result<AgentRecord, FactoryError> {
    network.update(owner(), factory, "create_agent", (args.clone(),))
}

fn status(network: &Network, factory: candid::Principal) -> FactoryStatus {
    network.query(owner(), factory, "status", ())
}

#[test]
fn from_upload_to_text_and_back_to_nothing() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    repository.publish(artifact);
    let factory = network.factory(FactoryConfig::default());
    let args = factory.agent_args("tale", &repository, artifact.id);
    assert_eq!(create(&network, factory.id, &args), Err(FactoryError::NoTemplate));
    let template = factory.upload_template(&Canister::Agent.wasm());

    let record = create(&network, factory.id, &args).unwrap();
    assert_eq!((&record.state, record.owner, record.template), (&AgentState::Running, owner(), template));
    assert_eq!(create(&network, factory.id, &args).unwrap(), record, "the same key is the same agent");
    let canister = record.canister.unwrap();
    assert_eq!(network.pic.get_controllers(canister), [factory.id]);

    let params = GenerationParams { max_tokens: 5, ..GenerationParams::default() };
    let agent = Agent::at(&network, canister);
    let done = agent.wait(agent.submit("A fox", &params));
    assert_eq!((done.tokens, done.text), artifact.generate("A fox", &params));

    // Agents, template and journal survive an upgrade of the factory.
    network.upgrade(factory.id, Canister::AgentFactory);
    let page: AgentPage =
        network.query(owner(), factory.id, "list_agents", (ListAgentsArgs { after: None, limit: 10 },));
    assert_eq!(page.agents, [record]);
    let page: AgentPage =
        network.query(stranger(), factory.id, "list_agents", (ListAgentsArgs { after: None, limit: 10 },));
    assert!(page.agents.is_empty());

    let before = status(&network, factory.id).cycles;
    let held = network.pic.cycle_balance(canister);
    let deleted: Result<(), FactoryError> = network.update(stranger(), factory.id, "delete_agent", ("tale",));
    assert_eq!(deleted, Err(FactoryError::UnknownAgent { key: "tale".to_owned() }));
    let deleted: Result<(), FactoryError> = network.update(owner(), factory.id, "delete_agent", ("tale",));
    deleted.unwrap();
    assert!(!network.pic.canister_exists(canister));
    let returned = status(&network, factory.id).cycles - before;
    assert!(returned > held / 2, "{returned} of {held} cycles came back");
    assert_eq!(status(&network, factory.id).agents, 0);
}

#[test]
fn a_failed_installation_leaves_no_orphan() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    let factory = network.factory(FactoryConfig { max_agents_per_owner: 1, ..FactoryConfig::default() });
    factory.upload_template(b"\0asm, but not a module");
    let args = factory.agent_args("tale", &repository, artifact.id);
    let failed = create(&network, factory.id, &args);
    assert!(matches!(failed, Err(FactoryError::StepFailed { step: AgentStep::Install, .. })), "{failed:?}");
    let after = status(&network, factory.id);
    assert_eq!((after.spares, after.agents, after.in_progress), (1, 1, 0));

    // The repetition takes the spare, with a template that works by now.
    factory.upload_template(&Canister::Agent.wasm());
    let record = create(&network, factory.id, &args).unwrap();
    assert_eq!(record.state, AgentState::Running);
    assert_eq!(status(&network, factory.id).spares, 0);
    let args = factory.agent_args("second", &repository, artifact.id);
    assert_eq!(create(&network, factory.id, &args), Err(FactoryError::TooManyAgents { agents: 1 }));

    let journal: Result<JournalPage, FactoryError> =
        network.query(admin(), factory.id, "journal", (JournalArgs { after: None, limit: 100 },));
    let entries = journal.unwrap().entries;
    let created = |phase: &StepPhase| {
        let steps = entries.iter().filter(|entry| entry.step == AgentStep::Create && entry.phase == *phase);
        steps.filter_map(|entry| entry.canister).collect::<Vec<_>>()
    };
    let canister = record.canister.unwrap();
    assert_eq!(created(&StepPhase::Done), [canister; 3], "one canister, created once and prepared twice");
}

#[test]
fn without_cycles_nothing_is_created() {
    let network = Network::new();
    let repository = network.repository();
    let config = FactoryConfig { agent_cycles: u128::from(u64::MAX), ..FactoryConfig::default() };
    let factory = network.factory(config);
    factory.upload_template(&Canister::Agent.wasm());
    let args = factory.agent_args("tale", &repository, Artifact::shared().id);
    let refused = create(&network, factory.id, &args);
    assert!(matches!(refused, Err(FactoryError::OutOfCycles { .. })), "{refused:?}");
    let record: Result<AgentRecord, FactoryError> =
        network.query(owner(), factory.id, "get_agent", ("tale",));
    let record = record.unwrap();
    assert!(
        record.canister.is_none()
            && matches!(record.state, AgentState::Failed { step: AgentStep::Create, .. })
    );
}

/// What the factory says of an agent.
fn record(network: &Network, factory: candid::Principal, key: &str) -> AgentRecord {
    let record: Result<AgentRecord, FactoryError> = network.query(owner(), factory, "get_agent", (key,));
    record.unwrap()
}

/// Canisters that exist beside `of`: those that the factory has created and not deleted. Ids are given one after the other.
fn created(network: &Network, of: candid::Principal) -> Vec<candid::Principal> {
    let first = u64::from_be_bytes(of.as_slice()[..8].try_into().unwrap()) + 1;
    let ids = (first..first + 2_000).map(|n| {
        let mut id = [1; 10];
        id[..8].copy_from_slice(&n.to_be_bytes());
        candid::Principal::from_slice(&id)
    });
    ids.take_while(|id| network.pic.canister_exists(*id)).collect()
}

#[test]
fn the_pool_is_filled_and_used() {
    let network = Network::new();
    let repository = network.repository();
    let factory = network.factory(FactoryConfig { pool_target: Some(3), ..FactoryConfig::default() });
    factory.upload_template(&Canister::Agent.wasm());
    let full = || (status(&network, factory.id).spares == 3).then_some(());
    network.wait_for("the pool", full);
    let pool = created(&network, factory.id);
    assert_eq!(pool.len(), 3);
    let args = factory.agent_args("tale", &repository, Artifact::shared().id);
    let record = create(&network, factory.id, &args).unwrap();
    assert!(pool.contains(&record.canister.unwrap()), "it was ready");
    network.wait_for("the pool", full);
    assert_eq!(created(&network, factory.id).len(), 4, "one more than there were");

    // The pool outlives an upgrade, and a smaller one is not filled.
    network.upgrade(factory.id, Canister::AgentFactory);
    let config = FactoryConfig { pool_target: Some(1), ..FactoryConfig::default() };
    let set: Result<(), FactoryError> = network.update(admin(), factory.id, "set_config", (config,));
    set.unwrap();
    for key in ["second", "third"] {
        create(&network, factory.id, &factory.agent_args(key, &repository, Artifact::shared().id)).unwrap();
    }
    (0..5).for_each(|_| network.pic.tick());
    assert_eq!((status(&network, factory.id).spares, created(&network, factory.id).len()), (1, 4));
}

/// A module that is another template than `wasm` and does the same: with a custom section (WebAssembly 2.0, 5.5.3).
fn variant(wasm: &[u8], name: &str) -> Vec<u8> {
    let mut wasm = wasm.to_vec();
    let length = name.len() as u8;
    wasm.extend([0, length + 1, length]);
    wasm.extend(name.as_bytes());
    wasm
}

#[test]
fn a_rollout_goes_stage_by_stage_and_back() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::small();
    repository.publish(artifact);
    let factory = network.factory(FactoryConfig { max_concurrent: 4, ..FactoryConfig::default() });
    let wasm = Canister::Agent.wasm();
    let old = factory.upload_template(&wasm);
    let keys = ["a", "b", "c", "d", "e", "f"];
    for key in keys {
        create(&network, factory.id, &factory.agent_args(key, &repository, artifact.id)).unwrap();
    }
    let stopped: Result<AgentRecord, FactoryError> =
        network.update(owner(), factory.id, "stop_agent", ("f",));
    assert_eq!(stopped.unwrap().state, AgentState::Stopped);
    let params = GenerationParams { max_tokens: 2, ..GenerationParams::default() };
    let first = Agent::at(&network, record(&network, factory.id, "a").canister.unwrap());
    let job = first.wait(first.submit("A fox", &params)).job.job_id;

    let new = factory.upload_template(&variant(&wasm, "next"));
    assert_eq!(status(&network, factory.id).template, Some(old), "agents have the other one");
    let report = || -> RolloutReport {
        let args = RolloutReportArgs { after: None, limit: 100 };
        let report: Result<RolloutReport, FactoryError> =
            network.query(admin(), factory.id, "rollout_report", (args,));
        report.unwrap()
    };
    let with = |template: Digest| {
        keys.iter().filter(|key| record(&network, factory.id, key).template == template).count()
    };
    let reach = |state: RolloutState| {
        network.wait_for("the rollout", || (report().rollout.unwrap().state == state).then_some(()));
    };
    let ask =
        |method: &str| -> Result<Rollout, FactoryError> { network.update(admin(), factory.id, method, ()) };
    let args = BeginRolloutArgs { template: new, stages: vec![50, 100], max_failures: 0 };
    let begun: Result<Rollout, FactoryError> =
        network.update(admin(), factory.id, "begin_rollout", (args.clone(),));
    begun.unwrap();
    reach(RolloutState::StageDone);
    let stage = report().rollout.unwrap();
    let included =
        keys.iter().filter(|key| stage.includes(record(&network, factory.id, key).canister.unwrap()));
    assert_eq!((with(new), stage.upgraded as usize), (included.clone().count(), included.count()));
    assert_eq!(status(&network, factory.id).template, Some(old), "new agents wait for the end");
    let again: Result<Rollout, FactoryError> = network.update(admin(), factory.id, "begin_rollout", (args,));
    assert!(matches!(again, Err(FactoryError::NoRollout { .. })), "{again:?}");
    ask("advance_rollout").unwrap();
    reach(RolloutState::Done);
    let done = report();
    assert_eq!((with(new), done.upgrades.len()), (keys.len(), keys.len()));
    assert!(done.upgrades.iter().all(|upgrade| upgrade.outcome == UpgradeOutcome::Done));
    assert_eq!(status(&network, factory.id).template, Some(new));

    // The agents have kept what they had: state, jobs, and who was stopped.
    assert_eq!(record(&network, factory.id, "f").state, AgentState::Stopped);
    assert_eq!(first.progress(job, 0).tokens.len(), 2);
    assert_eq!(record(&network, factory.id, "a").state, AgentState::Running);

    // Back again; then a template that no agent can be upgraded to: its code can't start, and all stay as they are.
    ask("roll_back").unwrap();
    reach(RolloutState::RolledBack);
    assert_eq!((with(old), status(&network, factory.id).template), (keys.len(), Some(old)));
    let broken = factory.upload_template(b"\0asm, but not a module");
    let args = BeginRolloutArgs { template: broken, stages: vec![100], max_failures: 1 };
    let begun: Result<Rollout, FactoryError> = network.update(admin(), factory.id, "begin_rollout", (args,));
    begun.unwrap();
    reach(RolloutState::Halted);
    network
        .wait_for("the upgrades under way", || (status(&network, factory.id).in_progress == 0).then_some(()));
    assert_eq!(with(old), keys.len());
    let failed =
        report().upgrades.into_iter().filter(|it| matches!(it.outcome, UpgradeOutcome::Failed { .. }));
    assert!((2..=4).contains(&failed.count()), "no more were tried than were under way");
    assert_eq!(first.progress(job, 0).tokens.len(), 2, "it runs");
    ask("roll_back").unwrap();
    reach(RolloutState::RolledBack);
}

#[test]
fn an_owner_has_an_agent_topped_up_and_gets_back_what_was_paid_in() {
    let network = Network::with_cycles_ledger();
    let repository = network.repository();
    let config = FactoryConfig { cycles_ledger: Some(CYCLES_LEDGER), ..FactoryConfig::default() };
    let factory = network.factory(config.clone());
    factory.upload_template(&Canister::Agent.wasm());
    let args = factory.agent_args("tale", &repository, Artifact::shared().id);
    let canister = create(&network, factory.id, &args).unwrap().canister.unwrap();
    let top_up = |caller, cycles| -> Result<AgentRecord, FactoryError> {
        let args = TopUpAgentArgs { owner: Some(owner()), key: "tale".to_owned(), cycles };
        network.update(caller, factory.id, "top_up_agent", (args,))
    };
    assert_eq!(top_up(owner(), Some(1)), Err(FactoryError::Unauthorized));
    let granted = top_up(owner(), None).unwrap().granted_cycles;
    assert!(granted > config.agent_cycles && network.pic.cycle_balance(canister) >= config.agent_cycles);
    assert!(matches!(top_up(owner(), None), Err(FactoryError::ToppedUp { .. })));
    assert_eq!(top_up(admin(), Some(1_000_000)).unwrap().granted_cycles, granted + 1_000_000);

    // Three trillion of the owner's are in the agent when it is deleted.
    network.pic.add_cycles(canister, 3_000_000_000_000);
    let deleted: Result<(), FactoryError> = network.update(owner(), factory.id, "delete_agent", ("tale",));
    deleted.unwrap();
    let balance: candid::Nat =
        network.query(owner(), CYCLES_LEDGER, "icrc1_balance_of", (Account::from(owner()),));
    let returned = u128::try_from(balance.0).unwrap();
    assert!((2_800_000_000_000..3_000_000_000_000).contains(&returned), "{returned} came back");
}

#[test]
fn creations_keep_to_the_quota() {
    let network = Network::new();
    let repository = network.repository();
    let shop = Shop::open(&network, EconConfig::default());
    let factory = network.factory(FactoryConfig { econ: Some(shop.id), ..FactoryConfig::default() });
    let grant = ServiceGrant { service: factory.id, role: ServiceRole::Factory };
    shop.update::<()>(admin(), "grant_service", (grant,)).unwrap();
    factory.upload_template(&Canister::Agent.wasm());
    let create = |key: &str| {
        create(&network, factory.id, &factory.agent_args(key, &repository, Artifact::shared().id))
    };
    let refusal = |refused: Result<AgentRecord, FactoryError>| match refused {
        Err(FactoryError::StepFailed { step: AgentStep::Reserve, reason }) => reason,
        other => panic!("{other:?}"),
    };
    let reason = refusal(create("early"));
    assert!(reason.contains("subscri"), "{reason}");
    assert!(created(&network, factory.id).is_empty(), "nothing is created without quota");

    shop.subscribe("Basic", "first");
    let first = create("0").unwrap();
    assert!(matches!(first.quota, Some(AgentQuota::Charged(canister)) if Some(canister) == first.canister));
    assert_eq!(create("0").unwrap(), first);
    for key in ["1", "2", "3", "4"] {
        create(key).unwrap();
    }
    let account = shop.account();
    assert_eq!((account.creations.used, account.creations.reserved, account.agents), (5, 0, 5));
    let reason = refusal(create("5"));
    assert!(reason.contains("agents"), "{reason}");
    assert_eq!(created(&network, factory.id).len(), 5);

    // What is deleted makes room for another; what fails takes nothing.
    let deleted: Result<(), FactoryError> = network.update(owner(), factory.id, "delete_agent", ("0",));
    deleted.unwrap();
    assert_eq!(shop.account().agents, 4);
    let broken = factory.upload_template(b"\0asm, but not a module");
    let args = CreateAgentArgs {
        template: Some(broken),
        ..factory.agent_args("6", &repository, Artifact::shared().id)
    };
    let failed: Result<AgentRecord, FactoryError> =
        network.update(owner(), factory.id, "create_agent", (args,));
    assert!(matches!(failed, Err(FactoryError::StepFailed { step: AgentStep::Install, .. })), "{failed:?}");
    let account = shop.account();
    assert_eq!((account.creations.used, account.creations.reserved, account.open_reservations), (5, 0, 0));
    create("5").unwrap();
    assert_eq!(shop.account().creations.used, 6);

    // A coordinator has reserved for its plan itself.
    let set: Result<(), FactoryError> =
        network.update(admin(), factory.id, "set_coordinators", (vec![stranger()],));
    set.unwrap();
    let args = CreateAgentArgs {
        owner: Some(owner()),
        ..factory.agent_args("planned", &repository, Artifact::shared().id)
    };
    let planned: Result<AgentRecord, FactoryError> =
        network.update(stranger(), factory.id, "create_agent", (args,));
    assert_eq!(planned.unwrap().state, AgentState::Running);
    assert_eq!(shop.account().creations.used, 6);
}

/// As many agents as `FACTORY_AGENTS` says, or 50: each is created from the pool or anew, upgraded, and deleted, and the canisters are
/// counted.
#[test]
fn many_agents_are_created_upgraded_and_deleted() {
    let agents: usize = std::env::var("FACTORY_AGENTS").map_or(50, |agents| agents.parse().unwrap());
    let network = Network::new();
    let repository = network.repository();
    let config = FactoryConfig {
        max_agents_per_owner: agents as u32,
        max_concurrent: 20,
        pool_target: Some(10),
        ..FactoryConfig::default()
    };
    let factory = network.factory(config);
    network.pic.add_cycles(factory.id, agents as u128 * 4_000_000_000_000);
    let wasm = Canister::Agent.wasm();
    factory.upload_template(&wasm);
    let keys: Vec<String> = (0..agents).map(|n| format!("agent {n}")).collect();
    let each = |method: &str, argument: &dyn Fn(&str) -> Vec<u8>| {
        let mut waiting: Vec<&String> = keys.iter().rev().collect();
        let mut under_way = Vec::new();
        while !waiting.is_empty() || !under_way.is_empty() {
            while under_way.len() < 8
                && let Some(key) = waiting.pop()
            {
                let call = network.pic.submit_call(factory.id, owner(), method, argument(key));
                under_way.push((key, call.unwrap()));
            }
            network.pic.tick();
            under_way.retain(|(key, call)| match network.pic.ingress_status(call.clone()) {
                None => true,
                Some(reply) => {
                    let reply = reply.unwrap();
                    let answer: Result<candid::Reserved, FactoryError> = candid::decode_one(&reply).unwrap();
                    match answer {
                        // The pool's creations count too.
                        Err(FactoryError::Busy { .. }) => waiting.push(key),
                        other => drop(other.unwrap()),
                    }
                    false
                }
            });
        }
    };
    let start = std::time::Instant::now();
    each("create_agent", &|key| {
        candid::encode_one(factory.agent_args(key, &repository, Artifact::shared().id)).unwrap()
    });
    let created_in = start.elapsed();
    let after = status(&network, factory.id);
    assert_eq!((after.agents as usize, after.in_progress), (agents, 0));

    let template = factory.upload_template(&variant(&wasm, "next"));
    let args = BeginRolloutArgs { template, stages: vec![10, 100], max_failures: 0 };
    let begun: Result<Rollout, FactoryError> = network.update(admin(), factory.id, "begin_rollout", (args,));
    begun.unwrap();
    let start = std::time::Instant::now();
    network.wait_for("the rollout", || {
        let args = RolloutReportArgs { after: None, limit: 1 };
        let report: Result<RolloutReport, FactoryError> =
            network.query(admin(), factory.id, "rollout_report", (args,));
        let rollout = report.unwrap().rollout.unwrap();
        if rollout.state == RolloutState::StageDone {
            let next: Result<Rollout, FactoryError> =
                network.update(admin(), factory.id, "advance_rollout", ());
            next.unwrap();
        }
        (rollout.state == RolloutState::Done).then(|| assert_eq!(rollout.upgraded as usize, agents))
    });
    let upgraded_in = start.elapsed();

    let start = std::time::Instant::now();
    each("delete_agent", &|key| candid::encode_one(key).unwrap());
    let deleted_in = start.elapsed();
    network.wait_for("the pool", || (status(&network, factory.id).spares >= 10).then_some(()));
    let left = status(&network, factory.id);
    assert_eq!(left.agents, 0);
    let first = u64::from_be_bytes(factory.id.as_slice()[..8].try_into().unwrap()) + 1;
    let alive = (first..first + 2 * agents as u64 + 50).filter(|n| {
        let mut id = [1; 10];
        id[..8].copy_from_slice(&n.to_be_bytes());
        network.pic.canister_exists(candid::Principal::from_slice(&id))
    });
    assert_eq!(alive.count() as u64, left.spares, "every canister that is left is a spare");
    let _ = writeln!(
        std::io::stderr(),
        "{agents} agents: created in {created_in:.1?}, upgraded in {upgraded_in:.1?}, deleted in {deleted_in:.1?}"
    );
}
