//! The coordinator: from a sentence to agents that exist, work one after the other, and hand their texts on.

use std::collections::BTreeSet;

use candid::Principal;
use ohms_coordinator::workspace::Workspace;
use ohms_tests::artifact::Artifact;
use ohms_tests::coordinator::Coordinator;
use ohms_tests::network::{Agent, Factory, Network, admin, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::agent::{
    AgentConfig, AgentError, FinishReason, GenerationParams, JobPrompt, JobRecord, JobState, LoadState,
    SubmitJobArgs,
};
use shared_types::coordinator::{
    AttemptFailure, AttemptStage, BreakerState, ConverseArgs, ConverseReply, CoordinatorConfig,
    CoordinatorError, CreatePlanArgs, DeadLetterPage, DeadLettersArgs, EventKind, Message, MessageKind,
    MessagePage, MessagesArgs, NoQuorum, Party, PlanRequest, Project, ProjectId, ProjectState,
    RevisePlanArgs, SendMessageArgs, Stage, TaskKey, TaskSpec, TaskState, VoteOutcome, VoteRule, Work,
};
use shared_types::econ::usage::{UsageArgs, UsagePage};
use shared_types::econ::{EconConfig, ServiceGrant, ServiceRole};
use shared_types::factory::{AgentRecord, CreateAgentArgs, FactoryConfig, FactoryError, FactoryStatus};
use shared_types::receipt::{ListReceiptsArgs, ReceiptPage};

use crate::econ::Shop;

const SECOND: u64 = 1_000_000_000;

/// Times that a test can wait for.
fn impatient() -> CoordinatorConfig {
    CoordinatorConfig {
        lease_ns: 6 * SECOND,
        backoff_ns: SECOND,
        max_backoff_ns: 2 * SECOND,
        breaker_failures: 1,
        breaker_ns: 300 * SECOND,
        max_attempts: 2,
        ..CoordinatorConfig::default()
    }
}

fn spec(role: &str, prompt: &str, max_tokens: u32) -> TaskSpec {
    TaskSpec {
        title: None,
        role: role.to_owned(),
        prompt: prompt.to_owned(),
        capabilities: Vec::new(),
        max_tokens: Some(max_tokens),
        temperature_permille: None,
    }
}

fn task(role: &str, prompt: &str) -> Work {
    Work::Task(spec(role, prompt, 4))
}

fn request(work: Work) -> PlanRequest {
    PlanRequest { work: Some(work), ..PlanRequest::of("A test") }
}

/// An econ canister that the owner has a subscription at, and that knows the coordinator and its factory.
fn subscribe<'a>(network: &'a Network, artifact: &Artifact) -> (Shop<'a>, Coordinator<'a>) {
    let shop = Shop::open(network, EconConfig::default());
    shop.subscribe("Basic", "first");
    let coordinator = Coordinator::install(network, artifact, Some(shop.id), CoordinatorConfig::default());
    for (service, role) in
        [(coordinator.id, ServiceRole::Coordinator), (coordinator.factory.id, ServiceRole::Factory)]
    {
        shop.update::<()>(admin(), "grant_service", (ServiceGrant { service, role },)).unwrap();
    }
    (shop, coordinator)
}

fn agents_at(network: &Network, factory: Factory) -> u64 {
    let status: FactoryStatus = network.query(owner(), factory.id, "status", ());
    status.agents
}

#[test]
fn from_a_sentence_to_texts_within_a_subscription() {
    let network = Network::new();
    let artifact = Artifact::long_context();
    let (shop, coordinator) = subscribe(&network, &artifact);

    let request = PlanRequest {
        max_tokens_per_task: Some(12),
        ..PlanRequest::of("Create three agents that write a tale, review it and title it")
    };
    let args = CreatePlanArgs { key: Some("tale".to_owned()), request };
    let create = || -> Project { coordinator.update("create_plan", (args.clone(),)).unwrap() };
    let planned = create();
    assert_eq!(planned.state, ProjectState::Planned, "{:?}", planned.analysis);
    assert_eq!((planned.plan.agents.len(), planned.plan.tasks.len()), (3, 3), "{:?}", planned.plan);
    assert_eq!(planned.plan.cost.creations, 3);
    assert_eq!(create(), planned, "the same key is the same project");
    // Nothing happens before the owner says so.
    assert_eq!((shop.account().open_reservations, agents_at(&network, coordinator.factory)), (0, 0));

    let project = planned.id;
    coordinator.approve(project);
    network.wait_for("the agents", || {
        (coordinator.project(project).state == ProjectState::Running).then_some(())
    });
    assert_eq!(shop.account().tokens.reserved, planned.plan.cost.tokens);
    // The log survives an upgrade in the middle of the work.
    network.upgrade(coordinator.id, Canister::Coordinator);
    let ended = coordinator.wait(project);
    assert_eq!(ended.state, ProjectState::Completed, "{:?}", ended.counts);
    assert!(ended.tokens > 0 && ended.tokens <= ended.plan.cost.tokens, "{} tokens", ended.tokens);

    // Each text is what the native engine makes of the prompt that the agent was given, and has a receipt.
    let mut before = String::new();
    for task in coordinator.tasks(project) {
        let text = coordinator.text(project, task.plan.id);
        let attempt = task.attempts.last().unwrap();
        let canister = coordinator.canister_of(&attempt.agent);
        let prompt: Result<JobPrompt, AgentError> =
            network.query(owner(), canister, "get_prompt", (attempt.job.unwrap(),));
        let job: Result<JobRecord, AgentError> =
            network.query(owner(), canister, "get_job", (attempt.job.unwrap(),));
        let (prompt, job) = (prompt.unwrap().prompt, job.unwrap());
        assert_eq!(job.caller, coordinator.id);
        assert!(prompt.contains(&before), "the text of the task before is in the prompt");
        assert_eq!(text, artifact.generate(&prompt, &job.params).1);
        before = text;
        let args = ListReceiptsArgs { after: None, limit: 10 };
        let page: Result<ReceiptPage, AgentError> =
            network.query(owner(), canister, "list_receipts", (args,));
        let receipts = page.unwrap().receipts;
        let receipt = receipts.iter().find(|it| it.job_id == job.job_id).expect("a receipt");
        assert_eq!(Some(receipt.sequence), task.artifact.unwrap().receipt);
    }

    // What was used is what was charged, and can be read.
    let account = shop.account();
    assert_eq!((account.creations.used, account.agents, account.open_reservations), (3, 3, 0));
    assert_eq!((account.tokens.used, account.tokens.reserved), (ended.tokens, 0));
    let args = UsageArgs { account: None, after: None, limit: 10 };
    let usage: UsagePage = shop.query(owner(), "usage", (args,)).unwrap();
    let [run] = &usage.records[..] else { panic!("{usage:?}") };
    assert_eq!((run.agent, run.charged_tokens), (coordinator.id, ended.tokens));
    assert_eq!(run.envelope.tokens_out, ended.generated_tokens);
    assert!(run.envelope.instructions > 0 && run.envelope.latency_ns > 0, "{run:?}");

    // Two more make five; the sixth is one too many for Basic.
    let two = coordinator.run(PlanRequest::of("Create two developers"));
    assert_eq!((two.state, shop.account().agents), (ProjectState::Completed, 5));
    let sixth = coordinator.run(PlanRequest::of("Create a tester"));
    let ProjectState::Failed { reason } = &sixth.state else { panic!("{:?}", sixth.state) };
    assert!(reason.contains("agents") && reason.contains('0'), "{reason}");
    let account = shop.account();
    assert_eq!((account.agents, account.agents_reserved, account.creations.used), (5, 0, 5));
    assert_eq!(agents_at(&network, coordinator.factory), 5, "no canister was created for it");

    let others: Result<Project, CoordinatorError> =
        network.query(stranger(), coordinator.id, "get_project", (project,));
    assert_eq!(others, Err(CoordinatorError::UnknownProject { project }));

    // The log is the state (INV-C2), also natively.
    let replayed = Workspace::replay(&coordinator.events()).unwrap_or_else(|error| panic!("{}", error.0));
    for id in [project, two.id, sixth.id] {
        assert_eq!(replayed.projects[&id].view(), coordinator.project(id));
    }
    network.upgrade(coordinator.id, Canister::Coordinator);
    assert_eq!(coordinator.project(project), ended);
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
    let register = |coordinators: Vec<Principal>| -> Result<(), FactoryError> {
        network.update(admin(), factory.id, "set_coordinators", (coordinators,))
    };
    let refused = create().unwrap_err();
    assert!(matches!(&refused, FactoryError::InvalidField(error) if error.field == "owner"), "{refused}");
    let anonymous = register(vec![Principal::anonymous()]);
    assert!(matches!(anonymous, Err(FactoryError::InvalidField(_))), "{anonymous:?}");

    register(vec![coordinator]).unwrap();
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
    let others = Agent::at(&network, canister).submit("An owl", &GenerationParams::default());
    assert_eq!(read(others), Err(AgentError::Unauthorized), "the owner's jobs stay the owner's");
    let paused: Result<(), AgentError> = network.update(coordinator, canister, "pause_queue", ());
    assert_eq!(paused, Err(AgentError::Unauthorized));

    set_coordinator(&network, canister, None);
    assert_eq!(submit(), Err(AgentError::Unauthorized));
    assert_eq!(read(own), Err(AgentError::Unauthorized));
}

fn set_coordinator(network: &Network, agent: Principal, coordinator: Option<Principal>) {
    let set: Result<(), AgentError> = network.update(owner(), agent, "set_coordinator", (coordinator,));
    set.unwrap();
}

fn dead_letters(coordinator: &Coordinator) -> Vec<(TaskKey, TaskState)> {
    let args = DeadLettersArgs { after: None, limit: 10 };
    let page: DeadLetterPage = coordinator.query("dead_letters", (args,)).unwrap();
    page.letters.iter().map(|letter| (letter.key, letter.state)).collect()
}

fn state_of(coordinator: &Coordinator, project: ProjectId, task: u32) -> TaskState {
    coordinator.tasks(project)[task as usize - 1].state
}

/// Dead letters wait for their owner, who replays or discards them; what waits for a discarded one is cancelled with it.
#[test]
fn a_dead_letter_waits_for_its_owner() {
    let network = Network::new();
    let coordinator =
        Coordinator::install(&network, &Artifact::long_context(), None, CoordinatorConfig::default());
    let first = coordinator.run(request(task("writer", "A tale")));
    assert_eq!(first.state, ProjectState::Completed);
    let agent = coordinator.canister_of("p1-writer-1");
    set_coordinator(&network, agent, None);

    let work = Work::Sequence(vec![task("writer", "One"), task("writer", "Two"), task("writer", "Three")]);
    let args = PlanRequest { reuse_agents: true, ..request(work) };
    let project = coordinator.plan(args).unwrap();
    assert_eq!(project.plan.cost.creations, 0, "the agent is there");
    let project = project.id;
    coordinator.approve(project);
    let letters = network.wait_for("a dead letter", || {
        let letters = dead_letters(&coordinator);
        (!letters.is_empty()).then_some(letters)
    });
    let key = |task| TaskKey { project, task };
    assert_eq!(letters, [(key(1), TaskState::AuthRequired)]);

    // Tried again in vain, then with leave.
    coordinator.update::<()>("replay_task", (key(1),)).unwrap();
    network.wait_for("the letter again", || (!dead_letters(&coordinator).is_empty()).then_some(()));
    set_coordinator(&network, agent, Some(coordinator.id));
    coordinator.update::<()>("replay_task", (key(1),)).unwrap();
    set_coordinator(&network, agent, Some(coordinator.id));
    network.wait_for("the first text", || {
        (state_of(&coordinator, project, 1) == TaskState::Completed).then_some(())
    });
    set_coordinator(&network, agent, None);
    // Whatever the second one had got to by then, it ends as a letter or with its text.
    network.wait_for("the second task", || {
        let state = state_of(&coordinator, project, 2);
        (state.is_dead_letter() || state.is_terminal()).then_some(())
    });
    let letter = network.wait_for("another letter", || dead_letters(&coordinator).first().copied());
    assert_eq!(letter.1, TaskState::AuthRequired);
    coordinator.update::<()>("discard_task", (letter.0,)).unwrap();
    let ended = coordinator.wait(project);
    assert!(matches!(ended.state, ProjectState::Failed { .. }), "{:?}", ended.state);
    let tasks = coordinator.tasks(project);
    assert_eq!(tasks[letter.0.task as usize - 1].state, TaskState::Failed);
    assert!(tasks[letter.0.task as usize..].iter().all(|it| it.state == TaskState::Canceled), "{tasks:?}");
    let again: Result<(), CoordinatorError> = coordinator.update("replay_task", (letter.0,));
    assert!(matches!(again, Err(CoordinatorError::WrongTaskState { .. })), "{again:?}");
}

/// A cancellation reaches the jobs at their agents; what they had brought is charged and not applied.
#[test]
fn a_cancellation_reaches_the_agents() {
    let network = Network::new();
    let coordinator =
        Coordinator::install(&network, &Artifact::long_context(), None, CoordinatorConfig::default());
    let long = Work::Task(spec("writer", "A long tale", 1_500));
    let project =
        coordinator.plan(request(Work::Sequence(vec![long, task("writer", "Its end")]))).unwrap().id;
    coordinator.approve(project);
    network.wait_for("the job", || {
        let running = |stage: &AttemptStage| matches!(stage, AttemptStage::Running(_));
        coordinator.tasks(project).first()?.attempts.iter().any(|it| running(&it.stage)).then_some(())
    });
    let cancelled: Result<Project, CoordinatorError> = coordinator.update("cancel_project", (project,));
    cancelled.unwrap();
    let ended = coordinator.wait(project);
    assert_eq!(ended.state, ProjectState::Canceled);
    let tasks = coordinator.tasks(project);
    assert!(tasks.iter().all(|task| task.state == TaskState::Canceled && task.artifact.is_none()));
    let agent = coordinator.canister_of(&tasks[0].attempts[0].agent);
    let job: Result<JobRecord, AgentError> =
        network.query(owner(), agent, "get_job", (tasks[0].attempts[0].job.unwrap(),));
    let job = job.unwrap();
    let over = matches!(job.state, JobState::Cancelled | JobState::Done { reason: FinishReason::MaxTokens });
    assert!(over, "{:?}", job.state);
    let closed = coordinator.events().into_iter().find_map(|event| match event.kind {
        EventKind::JobClosed { used, .. } => Some(used),
        _ => None,
    });
    assert_eq!(closed.map(|used| used.tokens()), Some(ended.tokens), "what it took is known");
}

/// An owner erases what projects have recorded, once they are over; numbers go on, upgrades or not.
#[test]
fn an_owner_erases_what_projects_recorded() {
    let network = Network::new();
    let coordinator = Coordinator::install(&network, Artifact::shared(), None, CoordinatorConfig::default());
    let project = coordinator.plan(request(task("writer", "A secret tale"))).unwrap().id;
    coordinator.approve(project);
    let refused: Result<u64, CoordinatorError> = coordinator.update("erase_projects", ());
    assert_eq!(refused, Err(CoordinatorError::ProjectNotOver { project }));
    let ended = coordinator.wait(project);
    assert_eq!(ended.state, ProjectState::Completed);
    let left = network.wait_for("its quota to be settled", || {
        let left: Result<u64, CoordinatorError> = coordinator.update("erase_projects", ());
        left.ok()
    });
    assert_eq!(left, 0, "all events are removed");
    for upgraded in [false, true] {
        if upgraded {
            network.upgrade(coordinator.id, Canister::Coordinator);
        }
        let kinds: Vec<_> = coordinator.events().into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Erased { last_project: project, last_conversation: 0 }]);
        let gone: Result<String, CoordinatorError> =
            network.query(owner(), coordinator.id, "artifact", (TaskKey { project, task: 1 },));
        assert_eq!(gone, Err(CoordinatorError::UnknownProject { project }));
    }
    let again: Result<u64, CoordinatorError> = coordinator.update("erase_projects", ());
    assert_eq!((again, coordinator.events().len()), (Ok(0), 1), "nothing is left to erase");
    let next = coordinator.plan(request(task("writer", "Another tale"))).unwrap().id;
    assert_eq!(next, project + 1);
}

/// Where no word names a role, an encoder on chain puts the nearest roles first; without its answer the question stays as it is.
#[test]
fn an_encoder_says_which_roles_are_near() {
    let network = Network::new();
    let coordinator = Coordinator::install(&network, Artifact::shared(), None, CoordinatorConfig::default());
    let artifact = Artifact::encoder();
    coordinator.repository.publish(&artifact);
    let encoder = network.agent(coordinator.repository.id, artifact.id, AgentConfig::default());
    let ask = || coordinator.plan(PlanRequest::of("Something with the thing")).unwrap().analysis;
    let by_rules = ask();
    assert_eq!(by_rules.questions.len(), 1);

    let config = CoordinatorConfig { encoder: Some(encoder.id), ..CoordinatorConfig::default() };
    let set: Result<(), CoordinatorError> = network.update(admin(), coordinator.id, "set_config", (config,));
    set.unwrap();
    assert_eq!(ask(), by_rules, "the encoder does not know the coordinator");
    set_coordinator(&network, encoder.id, Some(coordinator.id));
    assert_eq!(ask(), by_rules, "its model is not loaded");
    network.wait_for("the load", || (encoder.status().load == LoadState::Loaded).then_some(()));
    let near = ask();
    let sorted = |options: &[String]| options.iter().cloned().collect::<BTreeSet<_>>();
    let [by_rules, near] = [by_rules, near].map(|it| (it.questions[0].options.clone(), it.roles));
    assert_eq!(sorted(&near.0), sorted(&by_rules.0));
    let reasons: Vec<_> = near.1.iter().filter(|it| it.reasons[0].starts_with("near in meaning")).collect();
    assert_eq!(reasons.iter().map(|it| &it.role).collect::<Vec<_>>(), near.0[..3].iter().collect::<Vec<_>>());
    assert!(reasons.iter().all(|it| !it.taken));
    // What the rules find needs nobody.
    network.pic.stop_canister(encoder.id, Some(admin())).expect("stopped");
    assert_eq!(coordinator.plan(PlanRequest::of("Create a writer")).unwrap().plan.agents.len(), 1);
    assert_eq!(ask().questions[0].options, by_rules.0);
}

/// Where no word names a role, a language model on chain proposes steps, of which a plan is made; without its answer there is a question.
#[test]
fn a_language_model_proposes_a_plan() {
    let network = Network::new();
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";
    let artifact = Artifact::with_template(template, 4_096);
    let coordinator = Coordinator::install(&network, &artifact, None, CoordinatorConfig::default());
    let model = network.agent(coordinator.repository.id, artifact.id, AgentConfig::default());
    let ask = || coordinator.plan(PlanRequest::of("Something with the thing")).unwrap();
    let by_rules = ask().analysis;
    assert_eq!(by_rules.questions.len(), 1);

    let config = CoordinatorConfig { planner: Some(model.id), ..CoordinatorConfig::default() };
    let set: Result<(), CoordinatorError> = network.update(admin(), coordinator.id, "set_config", (config,));
    set.unwrap();
    assert_eq!(ask().analysis, by_rules, "the agent does not know the coordinator");
    set_coordinator(&network, model.id, Some(coordinator.id));
    let unclear = ask();
    assert_eq!(
        (&unclear.analysis, &unclear.state),
        (&by_rules, &ProjectState::Unclear),
        "the answer comes later"
    );
    let planned = |id| {
        network.wait_for("a proposal", || {
            let project = coordinator.project(id);
            (project.state != ProjectState::Unclear).then_some(project)
        })
    };
    let proposed = planned(unclear.id);
    let jobs = model.status().jobs;
    // Weights are random, so that any role may come of it; the schema alone sees to it that it is a plan.
    assert_eq!(proposed.analysis.questions, []);
    assert!(!proposed.analysis.clauses.is_empty());
    let taken: BTreeSet<_> = proposed.analysis.clauses.iter().map(|clause| &clause.role).collect();
    for score in proposed.analysis.roles.iter().filter(|score| score.taken) {
        assert!(taken.contains(&score.role));
        assert!(score.reasons.contains(&"proposed by the language model".to_owned()), "{score:?}");
    }
    assert!(proposed.plan.agents.iter().all(|agent| taken.contains(&agent.role)));
    assert_eq!(proposed.state, ProjectState::Planned, "nothing happens before it is approved");

    // The same question is not computed again, a conversation takes the plan up, and what the rules find needs nobody.
    let say = |conversation, text: &str| -> ConverseReply {
        coordinator.update("converse", (ConverseArgs { conversation, text: text.to_owned() },)).unwrap()
    };
    let said = say(None, "Something with the thing");
    assert_eq!(said.stage, Stage::Clarifying);
    assert_eq!(planned(said.project.unwrap()).analysis, proposed.analysis);
    let answer = say(Some(said.conversation), "How far is it?");
    assert_eq!(answer.stage, Stage::Planned);
    assert_eq!(coordinator.plan(PlanRequest::of("Create a writer")).unwrap().plan.agents.len(), 1);
    assert_eq!(model.status().jobs, jobs);
    // Another answer in the meantime is the one that counts.
    let project = ask().id;
    let args = RevisePlanArgs { project, request: PlanRequest::of("Create a tester") };
    let revised: Result<Project, CoordinatorError> = coordinator.update("revise_plan", (args,));
    let revised = revised.unwrap();
    let later = ask().id;
    planned(later);
    assert_eq!(coordinator.project(project), revised);
    network.pic.stop_canister(model.id, Some(admin())).expect("stopped");
    assert_eq!(ask().analysis, by_rules);
}

/// An agent that does not answer loses its task to another one, and gets no other until its breaker closes, upgrades or not.
#[test]
fn a_silent_agent_is_left_out() {
    let network = Network::new();
    let coordinator = Coordinator::install(&network, &Artifact::long_context(), None, impatient());
    let both = || Work::Parallel(vec![task("writer", "One"), task("writer", "Two")]);
    let first = coordinator.run(PlanRequest { work: Some(both()), ..PlanRequest::of("Two writers") });
    assert_eq!((first.state, first.plan.agents.len()), (ProjectState::Completed, 2));
    let [silent, other] = ["p1-writer-1", "p1-writer-2"];
    let canister = coordinator.canister_of(silent);
    network.pic.stop_canister(canister, Some(coordinator.factory.id)).expect("stopped");

    let again = PlanRequest { work: Some(both()), reuse_agents: true, ..PlanRequest::of("Two writers") };
    let second = coordinator.run(again);
    assert_eq!((second.state, second.plan.cost.creations), (ProjectState::Completed, 0));
    let tasks = coordinator.tasks(second.id);
    let made_by = |task: &shared_types::coordinator::Task| task.attempts.last().unwrap().agent.clone();
    assert!(tasks.iter().all(|task| made_by(task) == other), "{tasks:?}");
    let lost = tasks.iter().flat_map(|task| &task.attempts).filter(|it| it.agent == silent);
    assert!(lost.clone().count() > 0);
    for attempt in lost {
        assert_eq!(attempt.stage, AttemptStage::Failed(AttemptFailure::LeaseEnded), "{attempt:?}");
    }
    let breaker = || coordinator.agents().into_iter().find(|it| it.name == silent).unwrap().breaker;
    let open = breaker();
    assert!(matches!(open.state, BreakerState::Open(_)), "{open:?}");
    network.upgrade(coordinator.id, Canister::Coordinator);
    assert_eq!(breaker(), open);

    // When its time is over one task decides.
    network.pic.start_canister(canister, Some(coordinator.factory.id)).expect("started");
    network.pic.advance_time(std::time::Duration::from_secs(400));
    let third = PlanRequest { work: Some(both()), reuse_agents: true, ..PlanRequest::of("Two writers") };
    let plan = coordinator.plan(third).unwrap();
    assert_eq!(plan.state, ProjectState::Planned);
    coordinator.approve(plan.id);
    assert_eq!(coordinator.wait(plan.id).state, ProjectState::Completed);
    let closed = breaker();
    assert_eq!(
        (closed.state, closed.failures),
        (BreakerState::Closed, 0),
        "{:?}",
        coordinator.tasks(plan.id)
    );
}

fn messages(coordinator: &Coordinator, project: ProjectId) -> Vec<Message> {
    let args = MessagesArgs { project, after: None, limit: 100 };
    let page: MessagePage = coordinator.query("messages", (args,)).unwrap();
    page.messages
}

/// A vote, the messages around it, and the work that a running project gets.
#[test]
fn agents_vote_and_send_messages() {
    let network = Network::new();
    let artifact = Artifact::long_context();
    let coordinator = Coordinator::install(&network, &artifact, None, CoordinatorConfig::default());
    let rule = VoteRule { quorum: 2, timeout_ns: None, no_quorum: NoQuorum::Fail };
    let vote = Work::Vote { task: spec("reviewer", "Is it good?", 4), voters: 3, rule };
    let slow = Work::Task(spec("writer", "A tale", 400));
    let plan = coordinator.plan(request(Work::Parallel(vec![vote, slow]))).unwrap();
    assert_eq!((plan.plan.agents.len(), plan.plan.tasks.len()), (4, 5), "{:?}", plan.plan);
    let project = plan.id;
    coordinator.approve(project);
    network
        .wait_for("the run", || (coordinator.project(project).state == ProjectState::Running).then_some(()));

    let send = |caller: Principal, id: &str, body: &str| -> Result<(), CoordinatorError> {
        let args = SendMessageArgs {
            project,
            id: id.to_owned(),
            task: Some(1),
            kind: MessageKind::NEGOTIATE,
            to: Party::Agent("p1-writer-1".to_owned()),
            body: body.to_owned(),
        };
        network.update(caller, coordinator.id, "send_message", (args,))
    };
    send(owner(), "m1", "Make it short").unwrap();
    send(owner(), "m1", "Make it short").unwrap();
    let another = send(owner(), "m1", "Make it long");
    assert_eq!(another, Err(CoordinatorError::IdReused { id: "m1".to_owned() }));
    assert_eq!(send(stranger(), "m2", "Hello"), Err(CoordinatorError::UnknownProject { project }));

    let ended = coordinator.wait(project);
    assert_eq!(ended.state, ProjectState::Completed, "{:?}", coordinator.tasks(project));
    // An agent speaks in its owner's workspace, as itself.
    let reviewer = coordinator.canister_of("p1-reviewer-1");
    send(reviewer, "m3", "Agreed").unwrap();
    let all = messages(&coordinator, project);
    assert!(all.windows(2).all(|pair| pair[0].sequence < pair[1].sequence), "in order");
    let mut ids: Vec<&str> = all.iter().map(|message| message.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all.len(), "each id once");
    let sent: Vec<&Message> = all.iter().filter(|message| message.id.starts_with('m')).collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[1].from, Party::Agent("p1-reviewer-1".to_owned()));
    let of = |kind| all.iter().filter(|message| message.kind == kind).count();
    assert!(of(MessageKind::TASK_REQUEST) >= 3 && of(MessageKind::TASK_RESPONSE) >= 3, "{all:?}");

    // The same task, the same model, the likeliest tokens: the answers are equal, and two of them decide.
    let tasks = coordinator.tasks(project);
    let decided = tasks.iter().find(|task| task.plan.after.len() == 3).expect("the vote");
    let verdict = decided.artifact.as_ref().unwrap().verdict.as_ref().unwrap();
    assert_eq!((verdict.outcome, verdict.timed_out), (VoteOutcome::Quorum, false));
    assert!(verdict.votes >= 2 && verdict.ballots.len() >= 2, "{verdict:?}");
    let winner = verdict.winner.unwrap();
    assert_eq!(coordinator.text(project, decided.plan.id), coordinator.text(project, winner));
    let voters: std::collections::BTreeSet<&str> =
        tasks[..3].iter().filter_map(|task| Some(task.attempts.last()?.agent.as_str())).collect();
    assert!(voters.len() >= 2, "each ballot is another agent's: {voters:?}");
}

/// From a wish over questions to a plan, a run and its result.
#[test]
fn a_conversation_leads_to_a_result() {
    let network = Network::new();
    let coordinator =
        Coordinator::install(&network, &Artifact::long_context(), None, CoordinatorConfig::default());
    let mut conversation = None;
    let mut say = |text: &str| -> ConverseReply {
        let args = ConverseArgs { conversation, text: text.to_owned() };
        let reply: ConverseReply = coordinator.update("converse", (args,)).unwrap();
        conversation = Some(reply.conversation);
        reply
    };
    let asked = say("I need some agents");
    assert_eq!(asked.stage, Stage::Clarifying);
    assert!(!asked.questions.is_empty());
    let planned = say("one that writes a short tale");
    assert_eq!(planned.stage, Stage::Planned, "{planned:?}");
    assert!(planned.text.contains("Shall I begin?"), "{}", planned.text);
    assert_eq!(agents_at(&network, coordinator.factory), 0);
    let begun = say("yes");
    assert_eq!(begun.stage, Stage::Running, "{begun:?}");
    let project = begun.project.unwrap();
    let ended = coordinator.wait(project);
    assert_eq!(ended.state, ProjectState::Completed, "{:?}", coordinator.tasks(project));
    let reported = say("is it done?");
    let last = ended.plan.tasks.last().expect("a task");
    let text = coordinator.text(project, last.id);
    let beginning: String = text.trim().chars().take(20).collect();
    assert!(reported.text.contains("finished") && reported.text.contains(&beginning), "{}", reported.text);
}

/// The design asks for 1,000 tasks an hour; `cargo xtask bench coordinator` measures 200 of them by the number of agents.
#[test]
fn more_than_a_thousand_tasks_an_hour() {
    let network = Network::new();
    let coordinator =
        Coordinator::install(&network, &Artifact::long_context(), None, CoordinatorConfig::default());
    let work = Work::Parallel((0..40).map(|number| task("writer", &format!("Tale {number}"))).collect());
    let ended = coordinator.run(PlanRequest { work: Some(work), ..PlanRequest::of("Create four writers") });
    assert_eq!((ended.state, ended.counts.completed), (ProjectState::Completed, 40));
    assert_eq!(ended.plan.agents.len(), 4);
    let busy = coordinator.agents().iter().filter(|agent| agent.measures.completed > 0).count();
    assert_eq!(busy, 4, "the load is shared");
    // The network's time, with the creation of the agents.
    let seconds = (ended.ended_at_ns.unwrap() - ended.started_at_ns.unwrap()) as f64 / 1e9;
    assert!(40.0 * 3_600.0 / seconds > 1_000.0, "40 tasks in {seconds:.0} s");
}
