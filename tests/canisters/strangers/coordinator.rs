//! Strangers at the coordinator.

use candid::Principal;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, admin, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::coordinator::{
    AddTasksArgs, AgentsArgs, ConverseArgs, CoordinatorConfig, CoordinatorError, CoordinatorInitArgs,
    CreatePlanArgs, DeadLettersArgs, EventsArgs, MessageKind, MessagesArgs, Party, PlanRequest, Project,
    ProjectsArgs, RateTaskArgs, RevisePlanArgs, RoleTemplate, SendMessageArgs, TaskKey, TasksArgs, Work,
};
use shared_types::factory::FactoryConfig;

use super::{Answer, Case, case, check};

/// Every method, for a caller who gets `others` where a project of the owner is asked for, `own` where only the caller's things are, and
/// `admin` where only admins are let in.
fn coordinator_cases(others: Answer, own: Answer, no_role: Answer, admin: Answer) -> Vec<Case> {
    let (project, task) = (1, TaskKey { project: 1, task: 1 });
    let request = PlanRequest::of("Create two writers");
    let role = RoleTemplate {
        name: "baker".to_owned(),
        names: vec!["baker".to_owned()],
        signals: Vec::new(),
        capabilities: Vec::new(),
        follows: Vec::new(),
        instructions: "You bake.".to_owned(),
        max_tokens: 10,
    };
    let message = SendMessageArgs {
        project,
        id: "m".to_owned(),
        task: None,
        kind: MessageKind::NEGOTIATE,
        to: Party::Coordinator,
        body: "b".to_owned(),
    };
    let work = Work::Sequence(Vec::new());
    vec![
        case("approve_plan", (1u64,), others),
        case("cancel_project", (1u64,), others),
        case("revise_plan", (RevisePlanArgs { project, request: request.clone() },), others),
        case("add_tasks", (AddTasksArgs { project, parent: None, work },), others),
        case("cancel_task", (task,), others),
        case("replay_task", (task,), others),
        case("discard_task", (task,), others),
        case("rate_task", (RateTaskArgs { task, stars: 1 },), others),
        case("send_message", (message,), others),
        case("remove_role", ("baker",), no_role),
        case("define_role", (role,), own),
        case("erase_projects", (), own),
        case("set_config", (CoordinatorConfig::default(),), admin),
        case("analyse", ("Create two writers",), own),
        case("get_project", (1u64,), others),
        case("tasks", (TasksArgs { project, after: None, limit: 1 },), others),
        case("artifact", (task,), others),
        case("messages", (MessagesArgs { project, after: None, limit: 1 },), others),
        case("projects", (ProjectsArgs { after: None, limit: 1 },), own),
        case("events", (EventsArgs { project: None, after: None, limit: 1 },), own),
        case("agents", (AgentsArgs { after: None, limit: 1 },), own),
        case("dead_letters", (DeadLettersArgs { after: None, limit: 1 },), own),
        case("list_roles", (), own),
        case("status", (), Answer::Public),
        // Last, since it makes a project 1 of the caller's own.
        case("converse", (ConverseArgs { conversation: None, text: "Create two writers".to_owned() },), own),
        case("create_plan", (CreatePlanArgs { key: None, request },), own),
    ]
}

#[test]
fn strangers_are_refused_by_the_coordinator() {
    let network = Network::new();
    let repository = network.repository();
    let factory = network.factory(FactoryConfig::default());
    let settings = CoordinatorInitArgs {
        admins: vec![admin()],
        factory: factory.id,
        econ: None,
        model_canister: repository.id,
        default_model: Artifact::shared().id,
        config: CoordinatorConfig::default(),
    };
    let id = network.install(Canister::Coordinator, settings);
    let args = CreatePlanArgs { key: None, request: PlanRequest::of("Create two writers") };
    let planned: Result<Project, CoordinatorError> = network.update(owner(), id, "create_plan", (args,));
    assert_eq!(planned.unwrap().id, 1);
    let (unknown, no_role) = (Answer::Refused("UnknownProject"), Answer::Refused("UnknownRole"));
    let cases = coordinator_cases(unknown, Answer::Public, no_role, Answer::Refused("Unauthorized"));
    check::<CoordinatorError>(&network, id, Canister::Coordinator, stranger(), &cases);
    let anonymous = Answer::Refused("Anonymous");
    let cases = coordinator_cases(anonymous, anonymous, anonymous, anonymous);
    check::<CoordinatorError>(&network, id, Canister::Coordinator, Principal::anonymous(), &cases);
}
