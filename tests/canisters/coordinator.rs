//! The coordinator: from a sentence to agents that exist, work one after the other, and hand their texts on.

use candid::Principal;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Factory, Network, admin, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::agent::{AgentError, JobRecord, SubmitJobArgs};
use shared_types::coordinator::{
    AgentPage, AgentState, AgentsArgs, CoordinatorConfig, CoordinatorError, CoordinatorInitArgs,
    CreatePlanArgs, PlanRequest, Project, ProjectState, TaskKey, TaskPage, TasksArgs,
};
use shared_types::factory::{AgentRecord, CreateAgentArgs, FactoryConfig, FactoryError};

/// Registers the coordinators of a factory.
fn register(network: &Network, factory: Factory, coordinators: Vec<Principal>) {
    let set: Result<(), FactoryError> =
        network.update(admin(), factory.id, "set_coordinators", (coordinators,));
    set.unwrap();
}

#[test]
fn from_a_sentence_to_texts() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::long_context();
    repository.publish(&artifact);
    let factory = network.factory(FactoryConfig::default());
    factory.upload_template(&Canister::Agent.wasm());
    let settings = CoordinatorInitArgs {
        admins: vec![admin()],
        factory: factory.id,
        econ: None,
        model_canister: repository.id,
        default_model: artifact.id,
        config: CoordinatorConfig::default(),
    };
    let id = network.install(Canister::Coordinator, settings);
    register(&network, factory, vec![id]);

    let request = PlanRequest {
        max_tokens_per_task: Some(12),
        ..PlanRequest::of("Create two agents that write a tale, then review it")
    };
    let args = CreatePlanArgs { key: Some("tale".to_owned()), request };
    let create = || -> Result<Project, CoordinatorError> {
        network.update(owner(), id, "create_plan", (args.clone(),))
    };
    let planned = create().unwrap();
    assert_eq!(planned.state, ProjectState::Planned, "{:?}", planned.analysis);
    assert_eq!((planned.plan.agents.len(), planned.plan.tasks.len()), (2, 2), "{:?}", planned.plan);
    assert_eq!(create().unwrap(), planned, "the same key is the same project");

    let project = planned.id;
    let approved: Result<Project, CoordinatorError> = network.update(owner(), id, "approve_plan", (project,));
    approved.unwrap();
    let read = || -> Project {
        let read: Result<Project, CoordinatorError> = network.query(owner(), id, "get_project", (project,));
        read.unwrap()
    };
    network.wait_for("the agents", || (read().state == ProjectState::Running).then_some(()));
    // The log survives an upgrade in the middle of the work.
    network.upgrade(id, Canister::Coordinator);
    let ended = network.wait_for("the end of the project", || {
        let project = read();
        project.state.is_terminal().then_some(project)
    });
    assert_eq!(ended.state, ProjectState::Completed, "{:?}", ended.counts);
    assert!(ended.tokens > 0 && ended.tokens <= ended.plan.cost.tokens, "{} tokens", ended.tokens);

    // Each text is what the native engine makes of the prompt that the agent was given.
    let tasks: Result<TaskPage, CoordinatorError> =
        network.query(owner(), id, "tasks", (TasksArgs { project, after: None, limit: 10 },));
    let tasks = tasks.unwrap().tasks;
    let page: Result<AgentPage, CoordinatorError> =
        network.query(owner(), id, "agents", (AgentsArgs { after: None, limit: 10 },));
    let agents = page.unwrap().agents;
    let mut before = String::new();
    for task in &tasks {
        let key = TaskKey { project, task: task.plan.id };
        let text: Result<String, CoordinatorError> = network.query(owner(), id, "artifact", (key,));
        let text = text.unwrap();
        let attempt = task.attempts.last().unwrap();
        let agent = agents.iter().find(|agent| agent.name == attempt.agent).unwrap();
        let AgentState::Ready(canister) = agent.state else { panic!("{:?}", agent.state) };
        let prompt: Result<String, AgentError> =
            network.query(owner(), canister, "get_prompt", (attempt.job.unwrap(),));
        let job: Result<JobRecord, AgentError> =
            network.query(owner(), canister, "get_job", (attempt.job.unwrap(),));
        let (prompt, job) = (prompt.unwrap(), job.unwrap());
        assert_eq!(job.caller, id);
        assert!(prompt.contains(&before), "the text of the task before is in the prompt");
        assert_eq!(text, artifact.generate(&prompt, &job.params).1);
        before = text;
    }
    let others: Result<Project, CoordinatorError> = network.query(stranger(), id, "get_project", (project,));
    assert_eq!(others, Err(CoordinatorError::UnknownProject { project }));
}

#[test]
fn a_coordinator_works_within_what_the_owner_allows() {
    let network = Network::new();
    let repository = network.repository();
    let factory = network.factory(FactoryConfig::default());
    factory.upload_template(&Canister::Agent.wasm());
    let coordinator = stranger();
    let args = CreateAgentArgs {
        owner: Some(owner()),
        ..factory.agent_args("tale", &repository, Artifact::shared().id)
    };
    let create = || -> Result<AgentRecord, FactoryError> {
        network.update(coordinator, factory.id, "create_agent", (args.clone(),))
    };
    let refused = create().unwrap_err();
    assert!(matches!(&refused, FactoryError::InvalidField(error) if error.field == "owner"), "{refused}");
    let anonymous: Result<(), FactoryError> =
        network.update(admin(), factory.id, "set_coordinators", (vec![Principal::anonymous()],));
    assert!(matches!(anonymous, Err(FactoryError::InvalidField(_))), "{anonymous:?}");

    register(&network, factory, vec![coordinator]);
    let record = create().unwrap();
    assert_eq!((record.owner, record.coordinator), (owner(), Some(coordinator)));
    let mine: Result<AgentRecord, FactoryError> =
        network.query(coordinator, factory.id, "get_agent", ("tale",));
    assert_eq!(mine, Err(FactoryError::UnknownAgent { key: "tale".to_owned() }), "it is the owner's");

    let canister = record.canister.unwrap();
    let submit = || -> Result<JobRecord, AgentError> {
        let args = SubmitJobArgs { prompt: "A fox".to_owned(), ..SubmitJobArgs::default() };
        network.update(coordinator, canister, "submit_job", (args,))
    };
    let read = |job: u64| -> Result<JobRecord, AgentError> {
        network.query(coordinator, canister, "get_job", (job,))
    };
    let own = submit().unwrap().job_id;
    read(own).unwrap();
    let others =
        Agent::at(&network, canister).submit("An owl", &shared_types::agent::GenerationParams::default());
    assert_eq!(read(others), Err(AgentError::Unauthorized), "the owner's jobs stay the owner's");
    let paused: Result<(), AgentError> = network.update(coordinator, canister, "pause_queue", ());
    assert_eq!(paused, Err(AgentError::Unauthorized));

    let ended: Result<(), AgentError> =
        network.update(owner(), canister, "set_coordinator", (None::<Principal>,));
    ended.unwrap();
    assert_eq!(submit(), Err(AgentError::Unauthorized));
    assert_eq!(read(own), Err(AgentError::Unauthorized));
}
