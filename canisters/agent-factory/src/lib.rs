//! The agent-factory canister: keeps the agent template, creates and deletes agents.
//!
//! Endpoints only; `shared_types::factory` documents them, `agent-factory.did` is the interface. The rules are in
//! [`templates`], [`agents`] and [`rollouts`], which know nothing of `ic-cdk`; [`platform`] makes the calls that they decide on,
//! [`upkeep`] does what nobody asks for.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

pub mod agents;
pub mod guards;
pub mod lifecycle;
pub mod memory;
pub mod platform;
pub mod queries;
pub mod quota;
pub mod rollouts;
pub mod state;
pub mod templates;
pub mod updates;
pub mod upkeep;

use candid::Principal;
use ic_cdk::{query, update};
use shared_types::Digest;
use shared_types::factory::rollout::{BeginRolloutArgs, Rollout, RolloutReport, RolloutReportArgs};
use shared_types::factory::{
    AgentPage, AgentRecord, BeginTemplateArgs, CreateAgentArgs, FactoryConfig, FactoryError, FactoryStatus,
    JournalArgs, JournalPage, ListAgentsArgs, ListTemplatesArgs, PutTemplateChunkArgs, Template,
    TemplatePage, TopUpAgentArgs,
};

#[update]
fn begin_template(args: BeginTemplateArgs) -> Result<Template, FactoryError> {
    updates::template::begin_template(args)
}

#[update]
fn put_template_chunk(args: PutTemplateChunkArgs) -> Result<Template, FactoryError> {
    updates::template::put_template_chunk(&args)
}

#[update]
fn commit_template(sha256: Digest) -> Result<Template, FactoryError> {
    updates::template::commit_template(&sha256)
}

#[update]
async fn create_agent(args: CreateAgentArgs) -> Result<AgentRecord, FactoryError> {
    updates::agent::create_agent(args).await
}

#[update]
async fn delete_agent(key: String) -> Result<(), FactoryError> {
    updates::agent::delete_agent(key).await
}

#[update]
async fn adopt_canister(canister: Principal) -> Result<(), FactoryError> {
    updates::agent::adopt_canister(canister).await
}

#[update]
fn set_coordinators(coordinators: Vec<Principal>) -> Result<(), FactoryError> {
    updates::settings::set_coordinators(coordinators)
}

#[update]
fn set_config(config: FactoryConfig) -> Result<(), FactoryError> {
    updates::settings::set_config(config)
}

#[update]
async fn top_up_agent(args: TopUpAgentArgs) -> Result<AgentRecord, FactoryError> {
    updates::agent::top_up_agent(args).await
}

#[update]
async fn stop_agent(key: String) -> Result<AgentRecord, FactoryError> {
    updates::agent::set_running(key, false).await
}

#[update]
async fn start_agent(key: String) -> Result<AgentRecord, FactoryError> {
    updates::agent::set_running(key, true).await
}

#[update]
fn begin_rollout(args: BeginRolloutArgs) -> Result<Rollout, FactoryError> {
    updates::rollout::begin_rollout(args)
}

#[update]
fn advance_rollout() -> Result<Rollout, FactoryError> {
    updates::rollout::advance_rollout()
}

#[update]
fn roll_back() -> Result<Rollout, FactoryError> {
    updates::rollout::roll_back()
}

#[query]
fn rollout_report(args: RolloutReportArgs) -> Result<RolloutReport, FactoryError> {
    queries::rollout_report(&args)
}

#[query]
fn list_templates(args: ListTemplatesArgs) -> TemplatePage {
    queries::list_templates(&args)
}

#[query]
fn list_agents(args: ListAgentsArgs) -> AgentPage {
    queries::list_agents(&args)
}

#[query]
fn get_agent(key: String) -> Result<AgentRecord, FactoryError> {
    queries::get_agent(&key)
}

#[query]
fn journal(args: JournalArgs) -> Result<JournalPage, FactoryError> {
    queries::journal(&args)
}

#[query]
fn status() -> FactoryStatus {
    queries::status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::factory::FactoryInitArgs;

    candid::export_service!();

    #[test]
    fn candid_file_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/agent-factory.did");
        canister_common::interface::assert_candid_file(path, &__export_service());
    }
}
