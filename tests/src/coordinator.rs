//! A coordinator on a network, with what it needs, and typed calls to it.

use candid::utils::ArgumentEncoder;
use candid::{CandidType, Principal};
use serde::de::DeserializeOwned;
use shared_types::coordinator::{
    AgentPage, AgentState, AgentsArgs, CoordinatorConfig, CoordinatorError, CoordinatorInitArgs,
    CreatePlanArgs, Event, EventPage, EventsArgs, PlanRequest, Project, ProjectId, RegisteredAgent, Task,
    TaskId, TaskKey, TaskPage, TasksArgs,
};
use shared_types::factory::{FactoryConfig, FactoryError};

use crate::artifact::Artifact;
use crate::network::{Factory, Network, Repository, admin, owner};
use crate::wasm::Canister;

/// A coordinator, called by the owner.
pub struct Coordinator<'a> {
    /// The network.
    pub network: &'a Network,
    /// Its canister.
    pub id: Principal,
    /// The factory that creates its agents.
    pub factory: Factory<'a>,
    /// The repository that they load from.
    pub repository: Repository<'a>,
}

impl<'a> Coordinator<'a> {
    /// Installs a repository with `artifact`, a factory with the agents' template, and a coordinator that is registered with it.
    ///
    /// # Panics
    /// When a canister refuses a step.
    pub fn install(
        network: &'a Network,
        artifact: &Artifact,
        econ: Option<Principal>,
        config: CoordinatorConfig,
    ) -> Self {
        let repository = network.repository();
        repository.publish(artifact);
        let limits =
            FactoryConfig { max_agents_per_owner: 100, max_concurrent: 20, ..FactoryConfig::default() };
        let factory = network.factory(limits);
        factory.upload_template(&Canister::Agent.wasm());
        let settings = CoordinatorInitArgs {
            admins: vec![admin()],
            factory: factory.id,
            econ,
            model_canister: repository.id,
            default_model: artifact.id,
            config,
        };
        let id = network.install(Canister::Coordinator, settings);
        let set: Result<(), FactoryError> =
            network.update(admin(), factory.id, "set_coordinators", (vec![id],));
        set.expect("registered");
        Self { network, id, factory, repository }
    }

    /// Calls an update method as the owner.
    ///
    /// # Errors
    /// As the canister says.
    pub fn update<R: CandidType + DeserializeOwned>(
        &self,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> Result<R, CoordinatorError> {
        self.network.update(owner(), self.id, method, args)
    }

    /// Calls a query method as the owner.
    ///
    /// # Errors
    /// As the canister says.
    pub fn query<R: CandidType + DeserializeOwned>(
        &self,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> Result<R, CoordinatorError> {
        self.network.query(owner(), self.id, method, args)
    }

    /// Makes a plan.
    ///
    /// # Errors
    /// As the canister says.
    pub fn plan(&self, request: PlanRequest) -> Result<Project, CoordinatorError> {
        self.update("create_plan", (CreatePlanArgs { key: None, request },))
    }

    /// A project as it is now.
    ///
    /// # Panics
    /// When there is none.
    pub fn project(&self, id: ProjectId) -> Project {
        self.query("get_project", (id,)).expect("a project")
    }

    /// Approves a plan.
    ///
    /// # Panics
    /// When the canister refuses.
    pub fn approve(&self, id: ProjectId) {
        let approved: Result<Project, CoordinatorError> = self.update("approve_plan", (id,));
        approved.expect("approved");
    }

    /// Waits until a project has ended and its quota is settled.
    pub fn wait(&self, id: ProjectId) -> Project {
        self.network.wait_for("the end of the project", || {
            let project = self.project(id);
            project.settled.then_some(project)
        })
    }

    /// Makes a plan, approves it and waits for its end.
    ///
    /// # Panics
    /// When the canister refuses.
    pub fn run(&self, request: PlanRequest) -> Project {
        let id = self.plan(request).expect("a plan").id;
        self.approve(id);
        self.wait(id)
    }

    /// The tasks of a project.
    ///
    /// # Panics
    /// When there is no such project.
    pub fn tasks(&self, project: ProjectId) -> Vec<Task> {
        let (mut tasks, mut after) = (Vec::new(), None);
        loop {
            let args = TasksArgs { project, after, limit: 100 };
            let page: TaskPage = self.query("tasks", (args,)).expect("a page");
            tasks.extend(page.tasks);
            after = page.next;
            if after.is_none() {
                return tasks;
            }
        }
    }

    /// The text that a task has made.
    ///
    /// # Panics
    /// When it has made none.
    pub fn text(&self, project: ProjectId, task: TaskId) -> String {
        self.query("artifact", (TaskKey { project, task },)).expect("an artifact")
    }

    /// The log of the owner's workspace.
    ///
    /// # Panics
    /// When the canister refuses.
    pub fn events(&self) -> Vec<Event> {
        let (mut events, mut after) = (Vec::new(), None);
        loop {
            let args = EventsArgs { project: None, after, limit: 100 };
            let page: EventPage = self.query("events", (args,)).expect("a page");
            events.extend(page.events);
            after = page.next;
            if after.is_none() {
                return events;
            }
        }
    }

    /// The owner's agents.
    ///
    /// # Panics
    /// When the canister refuses.
    pub fn agents(&self) -> Vec<RegisteredAgent> {
        let page: AgentPage =
            self.query("agents", (AgentsArgs { after: None, limit: 100 },)).expect("a page");
        page.agents
    }

    /// The canister of an agent.
    ///
    /// # Panics
    /// When it is not there.
    pub fn canister_of(&self, agent: &str) -> Principal {
        let agent = self.agents().into_iter().find(|it| it.name == agent).expect("an agent");
        match agent.state {
            AgentState::Ready(canister) => canister,
            state => panic!("{state:?}"),
        }
    }
}
