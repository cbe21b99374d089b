//! The coordinator canister: from one sentence to agents that do the work.
//!
//! Endpoints only; `shared_types::coordinator` documents them, `coordinator.did` is the interface.
//!
//! # How it is cut
//! [`analysis`] and [`planner`] make a plan of an instruction, [`graph`] admits its tasks. [`workspace`] is the state of one owner and
//! the one function that changes it by events; [`commands`] and [`concierge`] say which events an owner's wish comes to, [`decide`] which
//! follow from state, time and the answers of others, with [`registry`], [`votes`] and [`retry`]. None of these knows `ic-cdk`. [`store`] keeps the
//! log of events, [`driver`] makes the calls that are due, [`platform`] is these calls.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

pub mod analysis;
pub mod commands;
pub mod concierge;
pub mod decide;
pub mod driver;
pub mod graph;
pub mod guards;
pub mod lifecycle;
pub mod meaning;
mod memory;
pub mod messages;
pub mod planner;
pub mod platform;
pub mod prompt;
pub mod proposal;
pub mod queries;
pub mod registry;
pub mod retry;
pub mod roles;
pub mod state;
pub mod store;
pub mod text;
pub mod updates;
pub mod votes;
pub mod workspace;

#[cfg(test)]
mod histories;

use ic_cdk::{query, update};
use shared_types::coordinator::{
    AddTasksArgs, AgentPage, AgentsArgs, Analysis, ConverseArgs, ConverseReply, CoordinatorConfig,
    CoordinatorError, CoordinatorStatus, CreatePlanArgs, DeadLetterPage, DeadLettersArgs, EventPage,
    EventsArgs, MessagePage, MessagesArgs, Project, ProjectId, ProjectPage, ProjectsArgs, RateTaskArgs,
    RevisePlanArgs, RoleTemplate, RolesPage, SendMessageArgs, TaskKey, TaskPage, TasksArgs,
};

#[update]
async fn create_plan(args: CreatePlanArgs) -> Result<Project, CoordinatorError> {
    updates::projects::create_plan(args).await
}

#[update]
async fn revise_plan(args: RevisePlanArgs) -> Result<Project, CoordinatorError> {
    updates::projects::revise_plan(args).await
}

#[update]
fn approve_plan(project: ProjectId) -> Result<Project, CoordinatorError> {
    updates::projects::approve_plan(project)
}

#[update]
fn cancel_project(project: ProjectId) -> Result<Project, CoordinatorError> {
    updates::projects::cancel_project(project)
}

#[update]
fn erase_projects() -> Result<u64, CoordinatorError> {
    updates::projects::erase_projects()
}

#[update]
async fn converse(args: ConverseArgs) -> Result<ConverseReply, CoordinatorError> {
    updates::projects::converse(args).await
}

#[update]
fn add_tasks(args: AddTasksArgs) -> Result<Project, CoordinatorError> {
    updates::tasks::add_tasks(&args)
}

#[update]
fn cancel_task(key: TaskKey) -> Result<(), CoordinatorError> {
    updates::tasks::cancel_task(key)
}

#[update]
fn replay_task(key: TaskKey) -> Result<(), CoordinatorError> {
    updates::tasks::replay_task(key)
}

#[update]
fn discard_task(key: TaskKey) -> Result<(), CoordinatorError> {
    updates::tasks::discard_task(key)
}

#[update]
fn rate_task(args: RateTaskArgs) -> Result<(), CoordinatorError> {
    updates::tasks::rate_task(&args)
}

#[update]
fn send_message(args: SendMessageArgs) -> Result<(), CoordinatorError> {
    updates::messages::send_message(args)
}

#[update]
fn define_role(role: RoleTemplate) -> Result<(), CoordinatorError> {
    updates::roles::define_role(role)
}

#[update]
fn remove_role(name: String) -> Result<(), CoordinatorError> {
    updates::roles::remove_role(name)
}

#[update]
fn set_config(config: CoordinatorConfig) -> Result<(), CoordinatorError> {
    updates::settings::set_config(config)
}

#[query]
fn analyse(instruction: String) -> Result<Analysis, CoordinatorError> {
    queries::analyse(&instruction)
}

#[query]
fn get_project(project: ProjectId) -> Result<Project, CoordinatorError> {
    queries::get_project(project)
}

#[query]
fn projects(args: ProjectsArgs) -> Result<ProjectPage, CoordinatorError> {
    queries::projects(&args)
}

#[query]
fn tasks(args: TasksArgs) -> Result<TaskPage, CoordinatorError> {
    queries::tasks(&args)
}

#[query]
fn artifact(key: TaskKey) -> Result<String, CoordinatorError> {
    queries::artifact(key)
}

#[query]
fn events(args: EventsArgs) -> Result<EventPage, CoordinatorError> {
    queries::events(&args)
}

#[query]
fn messages(args: MessagesArgs) -> Result<MessagePage, CoordinatorError> {
    queries::messages(&args)
}

#[query]
fn agents(args: AgentsArgs) -> Result<AgentPage, CoordinatorError> {
    queries::agents(&args)
}

#[query]
fn dead_letters(args: DeadLettersArgs) -> Result<DeadLetterPage, CoordinatorError> {
    queries::dead_letters(&args)
}

#[query]
fn list_roles() -> Result<RolesPage, CoordinatorError> {
    queries::list_roles()
}

#[query]
fn status() -> CoordinatorStatus {
    queries::status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::coordinator::CoordinatorInitArgs;

    candid::export_service!();

    #[test]
    fn candid_file_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/coordinator.did");
        canister_common::interface::assert_candid_file(path, &__export_service());
    }
}
