//! Methods that only read. Everybody reads what is theirs.

use shared_types::FieldError;
use shared_types::coordinator::{
    AgentPage, AgentsArgs, Analysis, CoordinatorError, CoordinatorStatus, DeadLetter, DeadLetterPage,
    DeadLettersArgs, EventPage, EventsArgs, MAX_INSTRUCTION_BYTES, MessagePage, MessagesArgs, Project,
    ProjectId, ProjectPage, ProjectsArgs, RegisteredAgent, RolesPage, TaskKey, TaskPage, TasksArgs,
};
use shared_types::paging;

use crate::guards::signed_caller;
use crate::lifecycle::VERSION;
use crate::messages::{is_of, of_event};
use crate::workspace::{ProjectEntry, Workspace};
use crate::{analysis, commands, decide, driver, registry, roles, state};

/// Most projects of a page, and bytes of those that it has, but for one: a plan can be long, a reply holds 2 MiB.
const MAX_PROJECTS: u32 = 20;
const MAX_PROJECTS_BYTES: usize = 1_000_000;

fn mine<R>(read: impl FnOnce(&Workspace) -> R) -> Result<R, CoordinatorError> {
    let caller = signed_caller()?;
    Ok(state::read(|state| state.store.read(caller, read)))
}

/// What the rules find in an instruction.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], [`CoordinatorError::InvalidField`].
pub fn analyse(instruction: &str) -> Result<Analysis, CoordinatorError> {
    FieldError::check_text("instruction", instruction, MAX_INSTRUCTION_BYTES)
        .map_err(CoordinatorError::InvalidField)?;
    let most = state::read(|state| state.settings().config.max_agents);
    mine(|workspace| analysis::analyse(instruction, &workspace.roles, most))
}

/// A project of the caller.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], [`CoordinatorError::UnknownProject`].
pub fn get_project(id: ProjectId) -> Result<Project, CoordinatorError> {
    mine(|workspace| commands::project(workspace, id).map(ProjectEntry::view))?
}

/// A page of the caller's projects.
///
/// # Errors
/// [`CoordinatorError::Anonymous`].
pub fn projects(args: &ProjectsArgs) -> Result<ProjectPage, CoordinatorError> {
    mine(|workspace| {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = workspace.projects.range(first..).map(|(_, entry)| entry.view());
        let (mut projects, mut next) =
            paging::page(rest, args.limit.min(MAX_PROJECTS), |project: &Project| project.id);
        let mut bytes = 0;
        let fit = projects.iter().take_while(|project| {
            bytes += candid::encode_one(project).map_or(0, |encoded| encoded.len());
            bytes <= MAX_PROJECTS_BYTES
        });
        let fit = fit.count().max(1);
        if fit < projects.len() {
            projects.truncate(fit);
            next = projects.last().map(|project| project.id);
        }
        ProjectPage { projects, next }
    })
}

/// A page of a project's tasks.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], [`CoordinatorError::UnknownProject`].
pub fn tasks(args: &TasksArgs) -> Result<TaskPage, CoordinatorError> {
    mine(|workspace| {
        let entry = commands::project(workspace, args.project)?;
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = entry.tasks.range(first..).map(|(_, task)| task.clone());
        let (tasks, next) = paging::page(rest, args.limit, |task| task.plan.id);
        Ok(TaskPage { tasks, next })
    })?
}

/// The text of a task's artifact.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], [`CoordinatorError::UnknownProject`], [`CoordinatorError::UnknownTask`],
/// [`CoordinatorError::WrongTaskState`] when there is none.
pub fn artifact(key: TaskKey) -> Result<String, CoordinatorError> {
    let caller = signed_caller()?;
    let event = mine(|workspace| {
        let entry = commands::project(workspace, key.project)?;
        let task = entry.tasks.get(&key.task).ok_or(CoordinatorError::UnknownTask { key })?;
        let artifact = task.artifact.as_ref();
        Ok(artifact.ok_or(CoordinatorError::WrongTaskState { key, state: task.state })?.event)
    })??;
    Ok(state::read(|state| state.store.artifact(caller, event)).unwrap_or_default())
}

/// A page of what happened in the caller's workspace.
///
/// # Errors
/// [`CoordinatorError::Anonymous`].
pub fn events(args: &EventsArgs) -> Result<EventPage, CoordinatorError> {
    let caller = signed_caller()?;
    Ok(state::read(|state| state.store.page(caller, args.project, args.after, args.limit)))
}

/// A page of a project's messages.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], [`CoordinatorError::UnknownProject`].
pub fn messages(args: &MessagesArgs) -> Result<MessagePage, CoordinatorError> {
    let caller = signed_caller()?;
    state::read(|state| {
        state.store.read(caller, |workspace| {
            commands::project(workspace, args.project)?;
            let wanted = |event: shared_types::coordinator::Event| {
                if !is_of(&event, Some(args.project)) {
                    return None;
                }
                let message = of_event(workspace, &event)?;
                let bytes = message.body.len() + 200;
                Some((message, bytes))
            };
            let (messages, next) = state.store.scan(caller, args.after, args.limit, wanted);
            Ok(MessagePage { messages, next })
        })
    })
}

/// A page of the caller's agents.
///
/// # Errors
/// [`CoordinatorError::Anonymous`].
pub fn agents(args: &AgentsArgs) -> Result<AgentPage, CoordinatorError> {
    mine(|workspace| {
        let rest = workspace
            .agents
            .values()
            .filter(|agent| args.after.as_ref().is_none_or(|after| agent.name > *after));
        let view =
            |agent: &RegisteredAgent| RegisteredAgent { health: registry::health(agent), ..agent.clone() };
        let (agents, next) = paging::page(rest.map(view), args.limit, |agent| agent.name.clone());
        AgentPage { agents, next }
    })
}

/// A page of the caller's dead letters.
///
/// # Errors
/// [`CoordinatorError::Anonymous`].
pub fn dead_letters(args: &DeadLettersArgs) -> Result<DeadLetterPage, CoordinatorError> {
    let config = state::read(|state| state.settings().config.clone());
    let config = &config;
    mine(|workspace| {
        let all = workspace.projects.iter().flat_map(|(project, entry)| {
            let letters = entry.tasks.values().filter(|task| task.state.is_dead_letter());
            letters.map(move |task| DeadLetter {
                key: TaskKey { project: *project, task: task.plan.id },
                state: task.state,
                reason: task.reason.clone().unwrap_or_default(),
                attempts: task.attempts.clone(),
                since_ns: task.changed_at_ns,
                discarded_at_ns: decide::discarded_at_ns(entry, task, config),
            })
        });
        let rest = all.filter(|letter| args.after.is_none_or(|after| letter.key > after));
        let (letters, next) = paging::page(rest, args.limit, |letter| letter.key);
        DeadLetterPage { letters, next }
    })
}

/// The roles that the caller can ask for.
///
/// # Errors
/// [`CoordinatorError::Anonymous`].
pub fn list_roles() -> Result<RolesPage, CoordinatorError> {
    mine(|workspace| RolesPage {
        own: workspace.roles.values().cloned().collect(),
        built_in: roles::built_in().to_vec(),
    })
}

/// Settings, counts, balance.
pub fn status() -> CoordinatorStatus {
    state::read(|state| CoordinatorStatus {
        version: VERSION.to_owned(),
        settings: state.settings().clone(),
        active_workspaces: state.store.active(),
        cached_workspaces: state.store.cached(),
        calls: driver::calls(),
        cycles: ic_cdk::api::canister_cycle_balance(),
    })
}
