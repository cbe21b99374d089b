//! Plans: made, revised, approved, cancelled; and the conversation that leads there.

use std::time::Duration;

use candid::Principal;
use ic_cdk::api::time;
use shared_types::coordinator::{
    ConverseArgs, ConverseReply, CoordinatorError, CreatePlanArgs, EventKind, MAX_INSTRUCTION_BYTES, Project,
    ProjectId, RevisePlanArgs, RoleTemplate,
};
use shared_types::model::ModelRecord;
use shared_types::{FieldError, ModelId};

use super::{admit, command, project};
use crate::commands::{self, Known};
use crate::guards::signed_caller;
use crate::meaning::{self, Nearness};
use crate::planner::ChosenModel;
use crate::proposal::{self, Proposal};
use crate::{concierge, driver, planner, platform, state};

/// When somebody who was refused for want of room may try again.
const RETRY_AFTER_NS: u64 = 30_000_000_000;

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

fn model_of(
    catalogue: &[ModelRecord],
    default: ModelId,
) -> impl Fn(&RoleTemplate, Option<ModelId>) -> ChosenModel {
    move |role, wanted| planner::choose_model(catalogue, role, wanted, default)
}

/// Makes a plan of an instruction.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::create_plan`].
pub async fn create_plan(args: CreatePlanArgs) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    args.request.validate().map_err(CoordinatorError::InvalidField)?;
    refresh_catalogue().await;
    let near = meaning::of(owner, &args.request.instruction).await;
    let id = with_models(owner, &near, None, |workspace, config, known, _| {
        commands::create_plan(workspace, config, known, args)
    })?;
    proposal::ask(owner, id);
    project(owner, id)
}

/// Makes another plan in the place of one that is not approved.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::revise_plan`].
pub async fn revise_plan(args: RevisePlanArgs) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    args.request.validate().map_err(CoordinatorError::InvalidField)?;
    refresh_catalogue().await;
    let near = meaning::of(owner, &args.request.instruction).await;
    let id = args.project;
    with_models(owner, &near, None, |workspace, config, known, _| {
        commands::revise_plan(workspace, config, known, args).map(|event| ((), vec![event]))
    })?;
    proposal::ask(owner, id);
    project(owner, id)
}

/// Has a command that needs models decide, with what others on chain say about the instruction, and records what it comes to.
pub(crate) fn with_models<R>(
    owner: Principal,
    near: &[Nearness],
    proposal: Option<&Proposal>,
    decide: impl FnOnce(
        &crate::workspace::Workspace,
        &shared_types::coordinator::CoordinatorConfig,
        Known,
        concierge::TextOf,
    ) -> Result<(R, Vec<crate::decide::Next>), CoordinatorError>,
) -> Result<R, CoordinatorError> {
    let result = state::mutate(|state| {
        admit(state, owner)?;
        let (config, default) = (state.settings().config.clone(), state.settings().default_model);
        let catalogue = state.catalogue.0.clone();
        state.store.load(owner);
        let store = &state.store;
        let text_of = |event| store.artifact(owner, event);
        let (result, events) = store.read(owner, |workspace| {
            let model_of = model_of(&catalogue, default);
            decide(workspace, &config, Known { model_of: &model_of, near, proposal }, &text_of)
        })?;
        for event in events {
            state.store.record(owner, event, time());
        }
        Ok(result)
    })?;
    driver::wake(owner, Duration::ZERO);
    Ok(result)
}

/// Refuses another active workspace while there are as many as the coordinator works on: back-pressure.
fn refuse_if_busy(owner: Principal) -> Result<(), CoordinatorError> {
    state::read(|state| {
        let most = state.settings().config.max_active_workspaces;
        let busy = state.store.active() >= most && !state.store.is_active(owner);
        if busy { Err(CoordinatorError::Busy { retry_after_ns: RETRY_AFTER_NS }) } else { Ok(()) }
    })
}

/// Begins to do what a plan says.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::approve_plan`].
pub fn approve_plan(id: ProjectId) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    refuse_if_busy(owner)?;
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

/// Erases all projects, conversations, messages and roles of the caller; how many of their events are left for the next call.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::erase`].
pub fn erase_projects() -> Result<u64, CoordinatorError> {
    let owner = signed_caller()?;
    state::mutate(|state| {
        if !state.store.has(owner) {
            return Ok(0);
        }
        if let Some(event) = commands::erase(state.store.load(owner))? {
            state.store.record(owner, event, time());
        }
        Ok(state.store.remove_erased(owner))
    })
}

/// A turn of a conversation with the concierge.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`concierge::converse`].
pub async fn converse(args: ConverseArgs) -> Result<ConverseReply, CoordinatorError> {
    let owner = signed_caller()?;
    FieldError::check_text("text", &args.text, MAX_INSTRUCTION_BYTES)
        .map_err(CoordinatorError::InvalidField)?;
    refresh_catalogue().await;
    // What comes first is a wish; later turns answer, and are short.
    let near = match args.conversation {
        None => meaning::of(owner, &args.text).await,
        Some(_) => Vec::new(),
    };
    let reply = with_models(owner, &near, None, |workspace, config, known, text_of| {
        let outcome = concierge::converse(workspace, config, known, text_of, args.conversation, &args.text)?;
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
    })?;
    if let Some(project) = reply.project {
        proposal::ask(owner, project);
    }
    Ok(reply)
}
