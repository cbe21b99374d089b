//! What the owner asks for, checked: each command gives the events that do it, or says why not.

use shared_types::coordinator::plan::MAX_KEY_BYTES;
use shared_types::coordinator::role::MAX_ROLES;
use shared_types::coordinator::{
    AddTasksArgs, CoordinatorConfig, CoordinatorError, CreatePlanArgs, EventKind, LimitKind, Party,
    ProjectId, ProjectState, RateTaskArgs, RevisePlanArgs, RoleTemplate, SendMessageArgs, TaskKey, TaskState,
    message,
};
use shared_types::receipt::hash_of;
use shared_types::{FieldError, ModelId};

use crate::decide::Next;
use crate::graph::{self, Flatten, too_many};
use crate::meaning::Nearness;
use crate::planner::{ChosenModel, Planner};
use crate::proposal::Proposal;
use crate::retry;
use crate::workspace::{ProjectEntry, Workspace};

/// Most events of a workspace: about a hundred thousand tasks.
pub const MAX_EVENTS: u64 = 1_000_000;

/// What other canisters have said before a command is decided.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Which model agents of a role run, given the one that the request names.
    pub model_of: &'a dyn Fn(&RoleTemplate, Option<ModelId>) -> ChosenModel,
    /// Roles that the instruction is near to.
    pub near: &'a [Nearness],
    /// What a language model proposes.
    pub proposal: Option<&'a Proposal>,
}

/// A project of the workspace.
///
/// # Errors
/// [`CoordinatorError::UnknownProject`].
pub fn project(workspace: &Workspace, project: ProjectId) -> Result<&ProjectEntry, CoordinatorError> {
    workspace.projects.get(&project).ok_or(CoordinatorError::UnknownProject { project })
}

fn require(entry: &ProjectEntry, allowed: impl Fn(&ProjectState) -> bool) -> Result<(), CoordinatorError> {
    let state = &entry.record.state;
    if allowed(state) {
        return Ok(());
    }
    Err(CoordinatorError::WrongProjectState { project: entry.record.id, state: state.clone() })
}

fn planner<'a>(
    workspace: &'a Workspace,
    config: &'a CoordinatorConfig,
    known: Known<'a>,
    project: ProjectId,
) -> Planner<'a> {
    Planner { project, own: &workspace.roles, agents: &workspace.agents, known, config }
}

/// Plans a new project, or finds the one that the same key made before; the events are none then.
///
/// # Errors
/// [`CoordinatorError::KeyReused`], [`CoordinatorError::TooMany`], and what [`Planner::plan`] refuses.
pub fn create_plan(
    workspace: &Workspace,
    config: &CoordinatorConfig,
    known: Known,
    args: CreatePlanArgs,
) -> Result<(ProjectId, Vec<Next>), CoordinatorError> {
    if let Some(key) = &args.key {
        FieldError::check_text("key", key, MAX_KEY_BYTES).map_err(CoordinatorError::InvalidField)?;
        let known = workspace.projects.values().find(|it| it.record.key.as_ref() == Some(key));
        if let Some(entry) = known {
            return if entry.record.request == args.request {
                Ok((entry.record.id, Vec::new()))
            } else {
                Err(CoordinatorError::KeyReused { key: key.clone(), project: entry.record.id })
            };
        }
    }
    let kept = workspace.last_sequence - workspace.erased_through;
    if kept >= MAX_EVENTS {
        return Err(CoordinatorError::TooMany { what: LimitKind::Events, asked: kept, most: MAX_EVENTS });
    }
    let mut events: Vec<Next> = Vec::new();
    let kept = workspace.projects.len() as u32;
    if kept >= config.max_projects {
        let done = workspace.projects.values().find(|it| it.is_settled() && it.calls.is_empty());
        let Some(done) = done else {
            return Err(too_many(LimitKind::Projects, kept + 1, config.max_projects));
        };
        events.push((Some(done.record.id), EventKind::ProjectRemoved));
    }
    let id = workspace.last_project + 1;
    let (analysis, plan) = planner(workspace, config, known, id).plan(&args.request)?;
    let seed = retry::chance(id, &args.request.instruction);
    let planned = EventKind::Planned { key: args.key, request: args.request, analysis, plan, seed };
    events.push((Some(id), planned));
    Ok((id, events))
}

/// Plans a project anew that is not approved.
///
/// # Errors
/// [`CoordinatorError::UnknownProject`], [`CoordinatorError::WrongProjectState`], and what [`Planner::plan`] refuses.
pub fn revise_plan(
    workspace: &Workspace,
    config: &CoordinatorConfig,
    known: Known,
    args: RevisePlanArgs,
) -> Result<Next, CoordinatorError> {
    let entry = project(workspace, args.project)?;
    require(entry, |state| matches!(state, ProjectState::Unclear | ProjectState::Planned))?;
    let (analysis, plan) = planner(workspace, config, known, args.project).plan(&args.request)?;
    Ok((Some(args.project), EventKind::Revised { request: args.request, analysis, plan }))
}

/// Approves a plan; `None` when it is approved already.
///
/// # Errors
/// [`CoordinatorError::UnknownProject`], [`CoordinatorError::WrongProjectState`], [`CoordinatorError::TooMany`] open projects,
/// [`CoordinatorError::UnknownAgent`] when an agent that the plan uses is gone.
pub fn approve_plan(
    workspace: &Workspace,
    config: &CoordinatorConfig,
    id: ProjectId,
) -> Result<Option<Next>, CoordinatorError> {
    let entry = project(workspace, id)?;
    if entry.record.state.is_open() || entry.record.state == ProjectState::Completed {
        return Ok(None);
    }
    require(entry, |state| *state == ProjectState::Planned)?;
    let open = workspace.projects.values().filter(|it| it.record.state.is_open()).count() as u32;
    if open >= config.max_open_projects {
        return Err(too_many(LimitKind::OpenProjects, open + 1, config.max_open_projects));
    }
    let new = entry.record.plan.cost.creations;
    let kept = workspace.agents.len() as u32;
    if new > 0 && kept.saturating_add(new) > config.max_kept_agents {
        return Err(too_many(LimitKind::Agents, kept.saturating_add(new), config.max_kept_agents));
    }
    let gone =
        entry.record.plan.agents.iter().find(|it| it.exists != workspace.agents.contains_key(&it.name));
    if let Some(agent) = gone {
        return Err(CoordinatorError::UnknownAgent { name: agent.name.clone() });
    }
    Ok(Some((Some(id), EventKind::Approved)))
}

/// Cancels a project; `None` when that was done already.
///
/// # Errors
/// [`CoordinatorError::UnknownProject`], [`CoordinatorError::WrongProjectState`] for one that has ended otherwise.
pub fn cancel_project(workspace: &Workspace, id: ProjectId) -> Result<Option<Next>, CoordinatorError> {
    let entry = project(workspace, id)?;
    if entry.cancel_requested {
        return Ok(None);
    }
    require(entry, |state| !state.is_terminal())?;
    Ok(Some((Some(id), EventKind::CancelRequested)))
}

/// Adds work to a running project, below a task whose artifact it takes.
///
/// # Errors
/// [`CoordinatorError::UnknownProject`], [`CoordinatorError::UnknownTask`], [`CoordinatorError::WrongProjectState`],
/// and what [`graph`] refuses; the tokens of all tasks must stay within what was reserved for the project.
pub fn add_tasks(
    workspace: &Workspace,
    config: &CoordinatorConfig,
    args: &AddTasksArgs,
) -> Result<Next, CoordinatorError> {
    let entry = project(workspace, args.project)?;
    require(entry, |state| *state == ProjectState::Running)?;
    let mut after = Vec::new();
    let mut depth = 0;
    if let Some(parent) = args.parent {
        let key = TaskKey { project: args.project, task: parent };
        let mut at = Some(entry.tasks.get(&parent).ok_or(CoordinatorError::UnknownTask { key })?);
        after.push(parent);
        while let Some(task) = at {
            depth += 1;
            at = task.plan.parent.and_then(|parent| entry.tasks.get(&parent));
        }
    }
    let first = entry.tasks.keys().next_back().map_or(1, |last| last + 1);
    let max_tokens = entry.record.request.max_tokens_per_task;
    let mut flatten = Flatten { own: &workspace.roles, config, first, max_tokens, tasks: Vec::new() };
    flatten.add(&args.work, &after, args.parent, depth)?;
    let mut all: Vec<_> = entry.tasks.values().map(|task| &task.plan).collect();
    all.extend(&flatten.tasks);
    graph::admit(&all, config)?;
    // What is reserved was for the plan: more must fit beside what is used already.
    let open: Vec<_> = entry.tasks.values().filter(|it| !it.state.is_terminal()).map(|it| &it.plan).collect();
    let open_and_new: Vec<_> = open.into_iter().chain(&flatten.tasks).collect();
    let asked = entry.record.tokens.saturating_add(graph::tokens(&open_and_new));
    let most = entry.record.plan.cost.tokens;
    if asked > most {
        return Err(CoordinatorError::TooMany { what: LimitKind::Tokens, asked, most });
    }
    Ok((Some(args.project), EventKind::TasksAdded { tasks: flatten.tasks }))
}

fn task_in(
    workspace: &Workspace,
    key: TaskKey,
    allowed: impl Fn(TaskState) -> bool,
) -> Result<&shared_types::coordinator::Task, CoordinatorError> {
    let entry = project(workspace, key.project)?;
    let task = entry.tasks.get(&key.task).ok_or(CoordinatorError::UnknownTask { key })?;
    if allowed(task.state) {
        Ok(task)
    } else {
        Err(CoordinatorError::WrongTaskState { key, state: task.state })
    }
}

/// Has a dead letter tried again.
///
/// # Errors
/// [`CoordinatorError::UnknownProject`], [`CoordinatorError::UnknownTask`], [`CoordinatorError::WrongTaskState`].
pub fn replay_task(workspace: &Workspace, key: TaskKey) -> Result<Next, CoordinatorError> {
    task_in(workspace, key, TaskState::is_dead_letter)?;
    Ok((Some(key.project), EventKind::TaskReplayed { task: key.task }))
}

/// Gives a dead letter up: its task has failed.
///
/// # Errors
/// As [`replay_task`].
pub fn discard_task(workspace: &Workspace, key: TaskKey) -> Result<Next, CoordinatorError> {
    let task = task_in(workspace, key, TaskState::is_dead_letter)?;
    let reason = format!("discarded by the owner: {}", task.reason.as_deref().unwrap_or("no reason"));
    let state = TaskState::Failed;
    Ok((Some(key.project), EventKind::TaskEnded { task: key.task, state, reason, verdict: None }))
}

/// Cancels a single task; what waits for it is cancelled with it.
///
/// # Errors
/// As [`replay_task`], for tasks that have ended.
pub fn cancel_task(workspace: &Workspace, key: TaskKey) -> Result<Next, CoordinatorError> {
    task_in(workspace, key, |state| !state.is_terminal())?;
    let reason = "cancelled by the owner".to_owned();
    let state = TaskState::Canceled;
    Ok((Some(key.project), EventKind::TaskEnded { task: key.task, state, reason, verdict: None }))
}

/// Rates a completed task, once.
///
/// # Errors
/// As [`replay_task`], for tasks that are not completed or are rated already; [`CoordinatorError::InvalidField`].
pub fn rate_task(workspace: &Workspace, args: &RateTaskArgs) -> Result<Next, CoordinatorError> {
    if !(1..=5).contains(&args.stars) {
        let reason = format!("is {}, not within 1..=5", args.stars);
        return Err(CoordinatorError::InvalidField(FieldError::new("stars", reason)));
    }
    let task = task_in(workspace, args.task, |state| state == TaskState::Completed)?;
    if task.stars.is_some() {
        return Err(CoordinatorError::WrongTaskState { key: args.task, state: task.state });
    }
    Ok((Some(args.task.project), EventKind::TaskRated { task: args.task.task, stars: args.stars }))
}

/// Sends a message; `None` when it was sent already.
///
/// # Errors
/// [`CoordinatorError::InvalidField`], [`CoordinatorError::UnknownProject`], [`CoordinatorError::UnknownTask`],
/// [`CoordinatorError::UnknownAgent`], [`CoordinatorError::IdReused`], [`CoordinatorError::TooMany`].
pub fn send_message(
    workspace: &Workspace,
    from: Party,
    args: SendMessageArgs,
) -> Result<Option<Next>, CoordinatorError> {
    args.validate().map_err(CoordinatorError::InvalidField)?;
    let entry = project(workspace, args.project)?;
    if let Some(known) = entry.messages.get(&args.id) {
        return if *known == hash_of(&(&from, &args)) {
            Ok(None)
        } else {
            Err(CoordinatorError::IdReused { id: args.id })
        };
    }
    if let Some(task) = args.task
        && !entry.tasks.contains_key(&task)
    {
        return Err(CoordinatorError::UnknownTask { key: TaskKey { project: args.project, task } });
    }
    for party in [&from, &args.to] {
        if let Party::Agent(name) = party
            && !workspace.agents.contains_key(name)
        {
            return Err(CoordinatorError::UnknownAgent { name: name.clone() });
        }
    }
    let sent = entry.messages.len();
    if sent >= message::MAX_SENT_MESSAGES {
        return Err(too_many(LimitKind::Messages, sent as u32 + 1, message::MAX_SENT_MESSAGES as u32));
    }
    Ok(Some((Some(args.project), EventKind::MessageSent { from, message: args })))
}

/// Defines a role, or another one in the place of one of its name.
///
/// # Errors
/// [`CoordinatorError::InvalidField`], [`CoordinatorError::TooMany`].
pub fn define_role(workspace: &Workspace, role: RoleTemplate) -> Result<Next, CoordinatorError> {
    role.validate().map_err(CoordinatorError::InvalidField)?;
    let roles = workspace.roles.len();
    if !workspace.roles.contains_key(&role.name) && roles >= MAX_ROLES {
        return Err(too_many(LimitKind::Roles, roles as u32 + 1, MAX_ROLES as u32));
    }
    Ok((None, EventKind::RoleDefined(role)))
}

/// Removes a role that the owner has defined.
///
/// # Errors
/// [`CoordinatorError::UnknownRole`].
pub fn remove_role(workspace: &Workspace, name: String) -> Result<Next, CoordinatorError> {
    if !workspace.roles.contains_key(&name) {
        return Err(CoordinatorError::UnknownRole { name });
    }
    Ok((None, EventKind::RoleRemoved { name }))
}

/// Erases all projects, conversations, messages and roles; `None` when there are none.
///
/// # Errors
/// [`CoordinatorError::ProjectNotOver`].
pub fn erase(workspace: &Workspace) -> Result<Option<Next>, CoordinatorError> {
    if let Some(project) = workspace.active_project() {
        return Err(CoordinatorError::ProjectNotOver { project });
    }
    let &Workspace { last_project, last_conversation, .. } = workspace;
    let erased = EventKind::Erased { last_project, last_conversation };
    Ok((!workspace.is_erased()).then_some((None, erased)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::ChosenModel;
    use shared_types::coordinator::{Event, MessageKind, PlanRequest, Preference, TaskSpec, Work};

    fn model(_: &RoleTemplate, _: Option<ModelId>) -> ChosenModel {
        ChosenModel { model_id: ModelId::ZERO, chats: false }
    }

    fn record(workspace: &mut Workspace, (project, kind): Next) {
        let sequence = workspace.last_sequence + 1;
        workspace
            .apply(&Event { sequence, time_ns: 1, project, kind })
            .unwrap_or_else(|error| panic!("{}", error.0));
    }

    fn plan(
        workspace: &mut Workspace,
        config: &CoordinatorConfig,
        key: Option<&str>,
        request: PlanRequest,
    ) -> Result<ProjectId, CoordinatorError> {
        let args = CreatePlanArgs { key: key.map(str::to_owned), request };
        let (id, events) =
            create_plan(workspace, config, Known { model_of: &model, near: &[], proposal: None }, args)?;
        for event in events {
            record(workspace, event);
        }
        Ok(id)
    }

    fn writers(tasks: usize, prompt: &str) -> PlanRequest {
        let spec = TaskSpec {
            title: None,
            role: "writer".to_owned(),
            prompt: prompt.to_owned(),
            capabilities: Vec::new(),
            max_tokens: Some(1),
            temperature_permille: None,
        };
        let work = Work::Parallel(vec![Work::Task(spec); tasks]);
        PlanRequest { work: Some(work), ..PlanRequest::of("Tales") }
    }

    /// What there is too much of.
    fn beyond<R: std::fmt::Debug>(result: Result<R, CoordinatorError>) -> LimitKind {
        match result {
            Err(CoordinatorError::TooMany { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_beyond_a_bound_is_refused() {
        let config = CoordinatorConfig {
            max_projects: 3,
            max_open_projects: 1,
            max_kept_agents: 2,
            max_prompt_bytes: 100,
            max_tasks: 20,
            max_agents: 3,
            ..CoordinatorConfig::default()
        };
        let mut workspace = Workspace::default();
        let long = "x".repeat(50);
        assert_eq!(beyond(plan(&mut workspace, &config, None, writers(3, &long))), LimitKind::PromptBytes);
        assert_eq!(beyond(plan(&mut workspace, &config, None, writers(21, "x"))), LimitKind::Tasks);
        let many = PlanRequest { work: None, ..PlanRequest::of("Create three writers") };
        let many = plan(&mut workspace, &config, None, many).unwrap();
        assert_eq!(beyond(approve_plan(&workspace, &config, many)), LimitKind::Agents);
        let first = plan(&mut workspace, &config, None, writers(2, "x")).unwrap();
        let second = plan(&mut workspace, &config, None, writers(2, "x")).unwrap();
        let approved = approve_plan(&workspace, &config, first).unwrap().unwrap();
        record(&mut workspace, approved);
        assert_eq!(beyond(approve_plan(&workspace, &config, second)), LimitKind::OpenProjects);
        assert_eq!(beyond(plan(&mut workspace, &config, None, writers(1, "x"))), LimitKind::Projects);

        for at in 0..message::MAX_SENT_MESSAGES {
            let sent = send(&workspace, first, &format!("m{at}"), Party::Owner, "b").unwrap().unwrap();
            record(&mut workspace, sent);
        }
        assert_eq!(beyond(send(&workspace, first, "more", Party::Owner, "b")), LimitKind::Messages);
        let role = |name: String| RoleTemplate {
            name,
            names: vec!["baker".to_owned()],
            signals: Vec::new(),
            capabilities: Vec::new(),
            follows: Vec::new(),
            instructions: "You bake.".to_owned(),
            max_tokens: 1,
        };
        for at in 0..MAX_ROLES {
            let defined = define_role(&workspace, role(format!("baker-{at}"))).unwrap();
            record(&mut workspace, defined);
        }
        assert_eq!(beyond(define_role(&workspace, role("more".to_owned()))), LimitKind::Roles);
        define_role(&workspace, role("baker-0".to_owned())).unwrap();
    }

    fn send(
        workspace: &Workspace,
        project: ProjectId,
        id: &str,
        from: Party,
        body: &str,
    ) -> Result<Option<Next>, CoordinatorError> {
        let args = SendMessageArgs {
            project,
            id: id.to_owned(),
            task: None,
            kind: MessageKind::NEGOTIATE,
            to: Party::Coordinator,
            body: body.to_owned(),
        };
        send_message(workspace, from, args)
    }

    #[test]
    fn the_same_id_is_the_same_message() {
        let (mut workspace, config) = (Workspace::default(), CoordinatorConfig::default());
        let project = plan(&mut workspace, &config, None, writers(1, "x")).unwrap();
        let sent = send(&workspace, project, "m", Party::Owner, "b").unwrap().unwrap();
        record(&mut workspace, sent);
        assert_eq!(send(&workspace, project, "m", Party::Owner, "b"), Ok(None));
        let reused = Err(CoordinatorError::IdReused { id: "m".to_owned() });
        assert_eq!(send(&workspace, project, "m", Party::Owner, "c"), reused);
        assert_eq!(send(&workspace, project, "m", Party::Coordinator, "b"), reused, "from somebody else");
        assert!(matches!(
            send(&workspace, project, "a/b", Party::Owner, "b"),
            Err(CoordinatorError::InvalidField(_))
        ));
    }

    #[test]
    fn the_same_key_is_the_same_project() {
        let (mut workspace, config) = (Workspace::default(), CoordinatorConfig::default());
        let first = plan(&mut workspace, &config, Some("k"), writers(1, "x")).unwrap();
        assert_eq!(plan(&mut workspace, &config, Some("k"), writers(1, "x")), Ok(first));
        let preferring = PlanRequest { preference: Some(Preference::Cost), ..writers(1, "x") };
        let reused = plan(&mut workspace, &config, Some("k"), preferring);
        assert_eq!(reused, Err(CoordinatorError::KeyReused { key: "k".to_owned(), project: first }));
    }
}
