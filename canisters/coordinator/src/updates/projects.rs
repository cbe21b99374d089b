//! Plans: made, revised, approved, cancelled; and the conversation that leads there.

use std::time::Duration;

use candid::Principal;
use ic_cdk::api::time;
use shared_types::ModelId;
use shared_types::coordinator::{
    ConverseArgs, ConverseReply, CoordinatorError, CreatePlanArgs, EventKind, Project, ProjectId,
    RevisePlanArgs, RoleTemplate,
};
use shared_types::model::ModelRecord;

use super::{command, project};
use crate::guards::signed_caller;
use crate::{commands, concierge, driver, planner, platform, state};

/// For so long the repository is not asked again which models it serves.
const CATALOGUE_NS: u64 = 60_000_000_000;

/// Asks the repository which models it serves, unless that was asked a moment ago. Without an answer the last one counts, and before the
/// first one the default model; so nothing is lost with this call.
async fn refresh_catalogue() {
    let (asked_at, repository) = state::read(|state| (state.catalogue.1, state.settings().model_canister));
    if asked_at > 0 && asked_at.saturating_add(CATALOGUE_NS) > time() {
        return;
    }
    if let Ok(models) = platform::list_models(repository).await {
        state::mutate(|state| state.catalogue = (models, time()));
    }
}

fn model_of(catalogue: &[ModelRecord], default: ModelId) -> impl Fn(&RoleTemplate) -> ModelId {
    move |role| planner::choose_model(catalogue, role, default)
}

/// Makes a plan of an instruction.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::create_plan`].
pub async fn create_plan(args: CreatePlanArgs) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    args.request.validate().map_err(CoordinatorError::InvalidField)?;
    refresh_catalogue().await;
    let id =
        with_models(owner, |workspace, config, model| commands::create_plan(workspace, config, model, args))?;
    project(owner, id)
}

/// Makes another plan in the place of one that is not approved.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::revise_plan`].
pub async fn revise_plan(args: RevisePlanArgs) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    refresh_catalogue().await;
    let id = args.project;
    with_models(owner, |workspace, config, model| {
        commands::revise_plan(workspace, config, model, args).map(|event| ((), vec![event]))
    })?;
    project(owner, id)
}

/// Has a command that needs models decide, and records what it comes to.
fn with_models<R>(
    owner: Principal,
    decide: impl FnOnce(
        &crate::workspace::Workspace,
        &shared_types::coordinator::CoordinatorConfig,
        commands::ModelOf,
    ) -> Result<(R, Vec<crate::decide::Next>), CoordinatorError>,
) -> Result<R, CoordinatorError> {
    let result = state::mutate(|state| {
        let (config, default) = (state.settings().config.clone(), state.settings().default_model);
        let catalogue = state.catalogue.0.clone();
        let (result, events) = decide(state.store.load(owner), &config, &model_of(&catalogue, default))?;
        for event in events {
            state.store.record(owner, event, time());
        }
        Ok(result)
    })?;
    driver::schedule(Duration::ZERO);
    Ok(result)
}

/// Begins to do what a plan says.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::approve_plan`].
pub fn approve_plan(id: ProjectId) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    command(owner, |workspace, config| commands::approve_plan(workspace, config, id))?;
    project(owner, id)
}

/// Cancels a project with all of its tasks.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::cancel_project`].
pub fn cancel_project(id: ProjectId) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    command(owner, |workspace, _| commands::cancel_project(workspace, id))?;
    project(owner, id)
}

/// A turn of a conversation with the concierge.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`concierge::converse`].
pub async fn converse(args: ConverseArgs) -> Result<ConverseReply, CoordinatorError> {
    let owner = signed_caller()?;
    refresh_catalogue().await;
    with_models(owner, |workspace, config, model| {
        let outcome = concierge::converse(workspace, config, model, args.conversation, &args.text)?;
        let conversation = args.conversation.unwrap_or(workspace.last_conversation + 1);
        let reply = ConverseReply {
            conversation,
            text: outcome.turn.answer.clone(),
            stage: outcome.turn.stage,
            project: outcome.turn.project,
            questions: outcome.questions,
        };
        let mut events = outcome.events;
        events.push((None, EventKind::Conversed { conversation, turn: outcome.turn }));
        Ok((reply, events))
    })
}
