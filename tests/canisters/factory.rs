//! The factory: agents by key, failures that leave no orphan, deletion that returns cycles.

use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, admin, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::agent::GenerationParams;
use shared_types::factory::{
    AgentPage, AgentRecord, AgentState, AgentStep, CreateAgentArgs, FactoryConfig, FactoryError,
    FactoryStatus, JournalArgs, JournalPage, ListAgentsArgs, StepPhase,
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
