//! From a tier to the place in an agent's queue.

use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, admin, owner};
use ohms_tests::wasm::Canister;
use shared_types::agent::{AgentError, JobRecord, Priority};
use shared_types::coordinator::{
    AgentPage, AgentState, AgentsArgs, CoordinatorConfig, CoordinatorError, CoordinatorInitArgs,
    CreatePlanArgs, PlanRequest, Project, ProjectState, TaskPage, TasksArgs,
};
use shared_types::econ::{EconConfig, ServiceGrant, ServiceRole};
use shared_types::factory::{FactoryConfig, FactoryError};

use crate::econ::Shop;

#[test]
fn jobs_have_the_place_of_their_owners_tier() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Enterprise", "first");
    let repository = network.repository();
    let artifact = Artifact::long_context();
    repository.publish(&artifact);
    let factory = network.factory(FactoryConfig::default());
    factory.upload_template(&Canister::Agent.wasm());
    let settings = CoordinatorInitArgs {
        admins: vec![admin()],
        factory: factory.id,
        econ: Some(shop.id),
        model_canister: repository.id,
        default_model: artifact.id,
        config: CoordinatorConfig::default(),
    };
    let coordinator = network.install(Canister::Coordinator, settings);
    let set: Result<(), FactoryError> =
        network.update(admin(), factory.id, "set_coordinators", (vec![coordinator],));
    set.unwrap();
    let grant = ServiceGrant { service: coordinator, role: ServiceRole::Coordinator };
    shop.update::<()>(admin(), "grant_service", (grant,)).unwrap();

    let request = PlanRequest {
        max_tokens_per_task: Some(4),
        ..PlanRequest::of("Create one agent that writes a tale")
    };
    let args = CreatePlanArgs { key: Some("tale".to_owned()), request };
    let project: Result<Project, CoordinatorError> =
        network.update(owner(), coordinator, "create_plan", (args,));
    let project = project.unwrap().id;
    let approved: Result<Project, CoordinatorError> =
        network.update(owner(), coordinator, "approve_plan", (project,));
    approved.unwrap();
    let ended = network.wait_for("the end of the project", || {
        let read: Result<Project, CoordinatorError> =
            network.query(owner(), coordinator, "get_project", (project,));
        read.ok().filter(|project| project.state.is_terminal())
    });
    assert_eq!(ended.state, ProjectState::Completed, "{:?}", ended.counts);

    let page: Result<AgentPage, CoordinatorError> =
        network.query(owner(), coordinator, "agents", (AgentsArgs { after: None, limit: 1 },));
    let AgentState::Ready(agent) = page.unwrap().agents[0].state else { panic!("the agent is ready") };
    let tasks: Result<TaskPage, CoordinatorError> =
        network.query(owner(), coordinator, "tasks", (TasksArgs { project, after: None, limit: 1 },));
    let job = tasks.unwrap().tasks[0].attempts[0].job.unwrap();
    let job: Result<JobRecord, AgentError> = network.query(owner(), agent, "get_job", (job,));
    assert_eq!(job.unwrap().priority, Priority::RealTime, "Enterprise is of class Premium");
    assert_eq!(shop.account().tokens.used, ended.tokens, "what was used is settled");
}
