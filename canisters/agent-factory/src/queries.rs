//! Methods that only read.

use shared_types::factory::rollout::{RolloutReport, RolloutReportArgs};
use shared_types::factory::{
    AgentPage, AgentRecord, FactoryError, FactoryStatus, JournalArgs, JournalPage, ListAgentsArgs,
    ListTemplatesArgs, TemplatePage,
};

use crate::guards::require_admin;
use crate::lifecycle::VERSION;
use crate::state;

/// A page of the templates.
pub fn list_templates(args: &ListTemplatesArgs) -> TemplatePage {
    state::read(|state| state.templates.list(args))
}

/// A page of the caller's agents.
pub fn list_agents(args: &ListAgentsArgs) -> AgentPage {
    state::read(|state| state.agents.list(ic_cdk::api::msg_caller(), args))
}

/// An agent of the caller.
///
/// # Errors
/// [`FactoryError::UnknownAgent`].
pub fn get_agent(key: &str) -> Result<AgentRecord, FactoryError> {
    state::read(|state| state.agents.get(ic_cdk::api::msg_caller(), key))
}

/// A page of the journal.
///
/// # Errors
/// Callers that are no admins are refused.
pub fn journal(args: &JournalArgs) -> Result<JournalPage, FactoryError> {
    require_admin()?;
    Ok(state::read(|state| state.agents.journal(args)))
}

/// The latest rollout, and a page of its upgrades.
///
/// # Errors
/// Callers that are no admins are refused.
pub fn rollout_report(args: &RolloutReportArgs) -> Result<RolloutReport, FactoryError> {
    require_admin()?;
    Ok(state::read(|state| state.rollouts.report(args)))
}

/// Limits, counts, balance.
pub fn status() -> FactoryStatus {
    state::read(|state| FactoryStatus {
        version: VERSION.to_owned(),
        admins: state.settings().admins.clone(),
        coordinators: state.settings().coordinators.clone(),
        config: state.settings().config.clone(),
        template: state.default_template().ok(),
        agents: state.agents.len(),
        spares: state.agents.spares(),
        in_progress: state::in_progress(),
        cycles: ic_cdk::api::canister_cycle_balance(),
    })
}
