//! What happens next in a workspace: events that follow from the state and the time, calls that are due, and what their answers mean.
//!
//! Everything here is a function of its arguments. [`next_event`] is asked again until it has nothing more to say; [`due`] names the calls
//! to make then. A call's answer becomes an event by the functions of [`answers`].

use std::collections::BTreeSet;

use shared_types::agent::FinishReason;
use shared_types::coordinator::{
    AfterFailure, AgentState, AttemptFailure, AttemptStage, CallKind, CoordinatorConfig, EventKind,
    Preference, ProjectId, ProjectState, QuotaKind, RegisteredAgent, RunCounts, Task, TaskId, TaskKind,
    TaskState, VoteOutcome,
};

use crate::workspace::{ProjectEntry, Quota, Workspace};
use crate::{registry, retry, votes};

/// Calls of a kind that are made before it is given up: an answer that is lost each time is no answer.
const MAX_CALLS: u32 = 12;

/// Times that a task finds all queues full before it becomes a dead letter.
const MAX_BUSY: u32 = 40;

/// Bytes of artifacts in a prompt at first; it is halved each time that a prompt is too long.
const INPUT_BYTES: u32 = 16_384;

/// Below so many bytes of artifacts a prompt that is too long is not tried again.
const MIN_INPUT_BYTES: u32 = 64;

/// Calls under way, which live no longer than the heap.
pub type InFlight = BTreeSet<(ProjectId, CallKind)>;

/// An event, and the project that it belongs to.
pub type Next = (Option<ProjectId>, EventKind);

/// A call that is due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// To be journalled, then made.
    Call(ProjectId, CallKind),
    /// A look at a running job.
    Poll(ProjectId, TaskId, u32),
}

/// The event that follows from the state and the time, if one does.
pub fn next_event(
    workspace: &Workspace,
    config: &CoordinatorConfig,
    in_flight: &InFlight,
    now_ns: u64,
) -> Option<Next> {
    for agent in workspace.agents.values() {
        if let Some(until_ns) = registry::opens_until(agent, config, now_ns) {
            return Some((None, EventKind::BreakerOpened { agent: agent.name.clone(), until_ns }));
        }
    }
    workspace.projects.iter().find_map(|(id, project)| {
        let event = given_up(workspace, project, in_flight, now_ns)
            .or_else(|| timed_out(project, config, now_ns))
            .or_else(|| ended(workspace, project))
            .or_else(|| tasks(workspace, project, config, now_ns));
        event.map(|event| (Some(*id), event))
    })
}

/// Calls that were made as often as is sensible.
fn given_up(
    workspace: &Workspace,
    project: &ProjectEntry,
    in_flight: &InFlight,
    now_ns: u64,
) -> Option<EventKind> {
    let id = project.record.id;
    project.calls.iter().find_map(|(call, pending)| {
        // An agent whose creation is known to have failed is not tried again for a project that has ended.
        let pointless =
            matches!(call, CallKind::CreateAgent(_)) && project.record.state.is_terminal() && !pending.open;
        let tried = pending.begun >= MAX_CALLS && pending.retry_at_ns <= now_ns;
        let over = (tried || pointless) && !in_flight.contains(&(id, call.clone()));
        if !over {
            return None;
        }
        let reason = pending.reason.clone().unwrap_or_else(|| "no answer came".to_owned());
        match call {
            CallKind::Reserve(_) if project.record.state == ProjectState::Reserving => {
                let state =
                    ProjectState::Failed { reason: format!("the quota could not be reserved: {reason}") };
                Some(EventKind::ProjectEnded { state })
            }
            CallKind::CreateAgent(agent) => {
                let creating = workspace.agents.get(agent).is_some_and(|it| it.state == AgentState::Creating);
                creating.then(|| EventKind::AgentFailed { agent: agent.clone(), reason })
            }
            CallKind::Close { task, attempt } => Some(EventKind::JobClosed {
                task: *task,
                attempt: *attempt,
                late_result: None,
                used: RunCounts::default(),
            }),
            // A submission that is not answered ends with its lease; a settlement is never given up.
            CallKind::Reserve(_) | CallKind::Submit { .. } | CallKind::Settle(_) => None,
        }
    })
}

/// The end of a task of a project that has run for as long as it may.
fn timed_out(project: &ProjectEntry, config: &CoordinatorConfig, now_ns: u64) -> Option<EventKind> {
    let started = project.record.started_at_ns.filter(|_| project.record.state == ProjectState::Running)?;
    if started.saturating_add(config.project_timeout_ns) > now_ns {
        return None;
    }
    let open = project.tasks.values().find(|task| !task.state.is_terminal())?;
    Some(end(open, TaskState::Failed, "the project ran for as long as it may"))
}

/// When a dead letter is discarded, in nanoseconds since 1970.
pub fn discarded_at_ns(project: &ProjectEntry, task: &Task, config: &CoordinatorConfig) -> u64 {
    let started = project.record.started_at_ns.unwrap_or(task.changed_at_ns);
    let of_project = started.saturating_add(config.project_timeout_ns);
    task.changed_at_ns.saturating_add(config.dead_letter_ns).min(of_project)
}

/// The end of a project whose tasks have ended.
fn ended(workspace: &Workspace, project: &ProjectEntry) -> Option<EventKind> {
    let state = &project.record.state;
    if state.is_terminal() {
        return None;
    }
    if project.cancel_requested {
        let open = project.tasks.values().find(|task| !task.state.is_terminal());
        return Some(match open {
            Some(task) => end(task, TaskState::Canceled, "the owner cancelled the project"),
            None => EventKind::ProjectEnded { state: ProjectState::Canceled },
        });
    }
    if *state == ProjectState::Reserving {
        if let Some(reason) = &project.refusal {
            return Some(EventKind::ProjectEnded { state: ProjectState::Failed { reason: reason.clone() } });
        }
        let held = |kind| matches!(project.quotas.get(&kind), Some(Quota::Held(_)));
        return project.needed_quotas().all(held).then_some(EventKind::Started);
    }
    if *state != ProjectState::Running || project.tasks.values().any(|task| !task.state.is_terminal()) {
        return None;
    }
    let planned = || project.record.plan.agents.iter().filter_map(|it| workspace.agents.get(&it.name));
    if planned().any(|agent| agent.state == AgentState::Creating) {
        return None;
    }
    // A vote that is decided needs no further voter.
    let decided = |id: TaskId| {
        let mut votes = project.tasks.values().filter(|it| matches!(it.plan.kind, TaskKind::Vote(_)));
        votes.any(|vote| vote.state == TaskState::Completed && vote.plan.after.contains(&id))
    };
    let missing =
        project.tasks.values().filter(|it| it.state != TaskState::Completed && !decided(it.plan.id)).count();
    let failed_agents = planned().filter(|agent| matches!(agent.state, AgentState::Failed { .. })).count();
    let total = project.tasks.len();
    let reason = if missing > 0 {
        Some(format!("{missing} of {total} tasks are not completed"))
    } else if total == 0 && failed_agents > 0 {
        Some(format!("{failed_agents} agents could not be created"))
    } else {
        None
    };
    let state = reason.map_or(ProjectState::Completed, |reason| ProjectState::Failed { reason });
    Some(EventKind::ProjectEnded { state })
}

fn end(task: &Task, state: TaskState, reason: &str) -> EventKind {
    EventKind::TaskEnded { task: task.plan.id, state, reason: reason.to_owned(), verdict: None }
}

fn tasks(
    workspace: &Workspace,
    project: &ProjectEntry,
    config: &CoordinatorConfig,
    now_ns: u64,
) -> Option<EventKind> {
    if project.record.state != ProjectState::Running {
        return None;
    }
    project.tasks.values().filter(|task| !task.state.is_terminal()).find_map(|task| match &task.plan.kind {
        TaskKind::Vote(_) => vote(project, task, now_ns),
        TaskKind::Work => work(workspace, project, task, config, now_ns),
    })
}

fn vote(project: &ProjectEntry, task: &Task, now_ns: u64) -> Option<EventKind> {
    let TaskKind::Vote(rule) = &task.plan.kind else { return None };
    let voters = || task.plan.after.iter().filter_map(|id| project.tasks.get(id));
    let ballots: Vec<_> = voters()
        .filter_map(|voter| voter.artifact.as_ref().map(|it| (voter.plan.id, it.canonical_sha256)))
        .collect();
    let waiting = voters().filter(|voter| !voter.state.is_terminal()).count() as u32;
    let began = project.record.started_at_ns.unwrap_or(now_ns);
    let timed_out = rule.timeout_ns.is_some_and(|timeout| began.saturating_add(timeout) <= now_ns);
    let verdict = votes::decide(rule, &ballots, waiting, timed_out)?;
    let id = task.plan.id;
    if verdict.winner.is_some() {
        return Some(EventKind::TaskCompleted {
            task: id,
            attempt: None,
            text: String::new(),
            elapsed_ns: 0,
            used: RunCounts::default(),
            receipt: None,
            verdict: Some(verdict),
        });
    }
    let reason = match verdict.outcome {
        VoteOutcome::NoBallot => "nobody answered".to_owned(),
        _ => format!("no answer has {} votes, the most have {}", rule.quorum, verdict.votes),
    };
    let state = TaskState::Failed;
    Some(EventKind::TaskEnded { task: id, state, reason, verdict: Some(verdict) })
}

fn work(
    workspace: &Workspace,
    project: &ProjectEntry,
    task: &Task,
    config: &CoordinatorConfig,
    now_ns: u64,
) -> Option<EventKind> {
    // The vote that it is for may be decided without it.
    let decided = project.tasks.values().find(|vote| {
        matches!(vote.plan.kind, TaskKind::Vote(_))
            && vote.state.is_terminal()
            && vote.plan.after.contains(&task.plan.id)
    });
    if decided.is_some() {
        return Some(end(task, TaskState::Canceled, "the vote was decided without it"));
    }
    if task.state.is_dead_letter() {
        let over = task.changed_at_ns.saturating_add(config.dead_letter_ns) <= now_ns;
        return over.then(|| {
            let reason = task.reason.as_deref().unwrap_or("it waited for its owner too long");
            end(task, TaskState::Failed, reason)
        });
    }
    if let Some(attempt) = task.attempts.iter().find(|it| it.stage.is_open()) {
        let failure = if attempt.began_at_ns.saturating_add(config.attempt_timeout_ns) <= now_ns {
            AttemptFailure::TimedOut
        } else if attempt.lease_until_ns <= now_ns {
            AttemptFailure::LeaseEnded
        } else {
            return None;
        };
        let used = RunCounts::default();
        return Some(answers::failed(project, config, (task.plan.id, attempt.number), failure, used, now_ns));
    }
    let before = || task.plan.after.iter().filter_map(|id| project.tasks.get(id));
    if let Some(lost) = before().find(|it| it.state.is_terminal() && it.state != TaskState::Completed) {
        let reason = format!("task {} before it is {:?}", lost.plan.id, lost.state);
        return Some(end(task, TaskState::Canceled, &reason));
    }
    if task.retry_at_ns > now_ns || before().any(|it| it.state != TaskState::Completed) {
        return None;
    }
    match route(workspace, project, task, config, now_ns) {
        Route::To(agent) => {
            let number = task.attempts.last().map_or(0, |it| it.number) + 1;
            Some(EventKind::AttemptBegun {
                task: task.plan.id,
                attempt: number,
                agent: agent.name.clone(),
                lease_until_ns: now_ns.saturating_add(config.lease_ns),
                input_bytes: input_bytes(task),
            })
        }
        Route::Later => None,
        Route::Nobody => Some(end(task, TaskState::Failed, "there is no agent that could do it")),
    }
}

/// Bytes that the artifacts in the next prompt may have.
fn input_bytes(task: &Task) -> u32 {
    let Some(last) = task.attempts.last() else { return INPUT_BYTES };
    match &last.stage {
        AttemptStage::Failed(AttemptFailure::TooLong { .. }) => last.input_bytes / 2,
        _ => last.input_bytes,
    }
}

/// Where a task goes.
enum Route<'a> {
    To(&'a RegisteredAgent),
    Later,
    Nobody,
}

fn route<'a>(
    workspace: &'a Workspace,
    project: &ProjectEntry,
    task: &Task,
    config: &CoordinatorConfig,
    now_ns: u64,
) -> Route<'a> {
    let preference = project.record.request.preference.unwrap_or_default();
    let is_planned =
        |agent: &RegisteredAgent| project.record.plan.agents.iter().any(|it| it.name == agent.name);
    let alive = |agent: &RegisteredAgent| !matches!(agent.state, AgentState::Failed { .. });
    let all = || workspace.agents.values().filter(|agent| alive(agent));
    // Other voters' agents have their vote already.
    let rivals: BTreeSet<TaskId> = project
        .tasks
        .values()
        .filter(|vote| matches!(vote.plan.kind, TaskKind::Vote(_)) && vote.plan.after.contains(&task.plan.id))
        .flat_map(|vote| vote.plan.after.iter().copied())
        .filter(|id| *id != task.plan.id)
        .collect();
    let taken: BTreeSet<&str> = rivals
        .iter()
        .filter_map(|id| project.tasks.get(id)?.attempts.last())
        .filter(|attempt| attempt.stage.is_open() || matches!(attempt.stage, AttemptStage::Completed(_)))
        .map(|attempt| attempt.agent.as_str())
        .collect();
    let free = |agent: &&RegisteredAgent| !taken.contains(agent.name.as_str());
    let avoid = task.attempts.last().filter(|it| matches!(it.stage, AttemptStage::Failed(_)));
    let avoid = avoid.map(|attempt| attempt.agent.as_str());
    let groups: [&dyn Fn(&RegisteredAgent) -> bool; 3] = [
        &|agent| is_planned(agent) && agent.role == task.plan.role,
        // Failover: somebody of the project with another role, or of the role from another project.
        &|agent| is_planned(agent),
        &|agent| preference != Preference::Privacy && agent.role == task.plan.role,
    ];
    for group in groups {
        let members = || all().filter(|agent| group(agent)).filter(free);
        if members().next().is_none() {
            continue;
        }
        let available = members().filter(|agent| registry::is_available(agent, config, now_ns));
        return match registry::choose(available, &task.plan.capabilities, avoid, preference) {
            Some(agent) => Route::To(agent),
            None => Route::Later,
        };
    }
    if taken.is_empty() { Route::Nobody } else { Route::Later }
}

/// The calls that are due, those that others wait for first.
pub fn due(workspace: &Workspace, in_flight: &InFlight, now_ns: u64) -> Vec<Due> {
    let mut due = Vec::new();
    for (id, project) in &workspace.projects {
        let mut call = |kind: CallKind| {
            let retry_at_ns = project.calls.get(&kind).map_or(0, |pending| pending.retry_at_ns);
            if retry_at_ns <= now_ns && !in_flight.contains(&(*id, kind.clone())) {
                due.push(Due::Call(*id, kind));
            }
        };
        let state = &project.record.state;
        if *state == ProjectState::Reserving && !project.cancel_requested {
            for kind in project.needed_quotas() {
                if !matches!(project.quotas.get(&kind), Some(Quota::Held(_) | Quota::Settled)) {
                    call(CallKind::Reserve(kind));
                }
            }
        }
        for planned in &project.record.plan.agents {
            let agent = workspace.agents.get(&planned.name);
            let kind = CallKind::CreateAgent(planned.name.clone());
            let wanted = project.record.state == ProjectState::Running || project.calls.contains_key(&kind);
            if wanted && !planned.exists && agent.is_some_and(|agent| agent.state == AgentState::Creating) {
                call(kind);
            }
        }
        let mut polls = Vec::new();
        for task in project.tasks.values() {
            for attempt in &task.attempts {
                let (task, number) = (task.plan.id, attempt.number);
                match attempt.stage {
                    AttemptStage::Submitting => call(CallKind::Submit { task, attempt: number }),
                    AttemptStage::Running(_) => polls.push(Due::Poll(*id, task, number)),
                    // Whether a submission under way arrived is known when it is answered.
                    _ if attempt.closing
                        && !in_flight.contains(&(*id, CallKind::Submit { task, attempt: number })) =>
                    {
                        call(CallKind::Close { task, attempt: number });
                    }
                    _ => {}
                }
            }
        }
        // What is settled is known for good: nothing may be under way that could still take from it.
        let asking = |kind| in_flight.contains(&(*id, CallKind::Reserve(kind)));
        let creating = state.is_open() && *state != ProjectState::Running
            || project.calls.keys().any(|it| matches!(it, CallKind::CreateAgent(_)))
            || *state == ProjectState::Running && creating_agents(workspace, project);
        let submits =
            |(of, call): &(ProjectId, CallKind)| of == id && matches!(call, CallKind::Submit { .. });
        let working = !state.is_terminal()
            || in_flight.iter().any(submits)
            || project.tasks.values().any(|task| task.attempts.iter().any(|attempt| attempt.closing));
        for (kind, quota) in &project.quotas {
            let busy = match kind {
                QuotaKind::Creations => creating,
                QuotaKind::Tokens => working,
            };
            if *quota != Quota::Settled && !busy && !asking(*kind) {
                call(CallKind::Settle(*kind));
            }
        }
        due.extend(polls);
    }
    due
}

fn creating_agents(workspace: &Workspace, project: &ProjectEntry) -> bool {
    let mut planned = project.record.plan.agents.iter().filter_map(|it| workspace.agents.get(&it.name));
    planned.any(|agent| agent.state == AgentState::Creating)
}

/// The canisters of the agents that were created for a project.
pub fn created_agents(workspace: &Workspace, project: &ProjectEntry) -> Vec<candid::Principal> {
    let new = project.record.plan.agents.iter().filter(|agent| !agent.exists);
    let canister = |state: &AgentState| match state {
        AgentState::Ready(canister) => Some(*canister),
        _ => None,
    };
    new.filter_map(|agent| workspace.agents.get(&agent.name)).filter_map(|it| canister(&it.state)).collect()
}

/// When the workspace is to be looked at again although no answer came; `None` when nothing waits for a time. Times that have passed
/// have had their events and calls; what they still wait for is an answer, which wakes by itself.
pub fn wakes_at(workspace: &Workspace, config: &CoordinatorConfig, now_ns: u64) -> Option<u64> {
    let mut times: Vec<u64> = Vec::new();
    for project in workspace.projects.values() {
        times.extend(project.calls.values().map(|pending| pending.retry_at_ns));
        if project.record.state != ProjectState::Running {
            continue;
        }
        let started = project.record.started_at_ns.unwrap_or(0);
        times.push(started.saturating_add(config.project_timeout_ns));
        for task in project.tasks.values().filter(|task| !task.state.is_terminal()) {
            times.push(task.retry_at_ns);
            if task.state.is_dead_letter() {
                times.push(task.changed_at_ns.saturating_add(config.dead_letter_ns));
            }
            if let TaskKind::Vote(rule) = &task.plan.kind {
                times.extend(rule.timeout_ns.map(|timeout| started.saturating_add(timeout)));
            }
            for attempt in task.attempts.iter().filter(|it| it.stage.is_open()) {
                times.push(attempt.lease_until_ns);
                times.push(attempt.began_at_ns.saturating_add(config.attempt_timeout_ns));
            }
        }
    }
    times.extend(workspace.agents.values().filter_map(|agent| match agent.breaker.state {
        shared_types::coordinator::BreakerState::Open(until_ns) => Some(until_ns),
        _ => None,
    }));
    times.into_iter().filter(|time| *time > now_ns).min()
}

/// What the answers of calls mean.
pub mod answers {
    use super::{
        AfterFailure, AttemptFailure, CallKind, CoordinatorConfig, EventKind, FinishReason, MAX_BUSY,
        MIN_INPUT_BYTES, ProjectEntry, Quota, QuotaKind, RunCounts, TaskId, retry,
    };
    use shared_types::agent::{JobFailure, JobId, JobProgress, JobState};

    /// An attempt that failed, and what follows from it.
    pub fn failed(
        project: &ProjectEntry,
        config: &CoordinatorConfig,
        (task, attempt): (TaskId, u32),
        failure: AttemptFailure,
        used: RunCounts,
        now_ns: u64,
    ) -> EventKind {
        let then = project.tasks.get(&task).map_or(AfterFailure::Park, |it| {
            let wait = |failures| {
                let what = format!("task {task}");
                let at_ns = now_ns.saturating_add(retry::backoff_ns(config, project.seed, &what, failures));
                AfterFailure::Retry(at_ns)
            };
            let input_bytes = project.attempt(task, attempt).map_or(0, |attempt| attempt.input_bytes);
            match &failure {
                AttemptFailure::Unauthorized => AfterFailure::Authorize,
                AttemptFailure::Refused(_) => AfterFailure::Reject,
                AttemptFailure::TooLong { .. }
                    if it.plan.after.is_empty() || input_bytes < MIN_INPUT_BYTES =>
                {
                    AfterFailure::Reject
                }
                // Each halves the artifacts, so that it ends.
                AttemptFailure::TooLong { .. } => AfterFailure::Retry(now_ns),
                AttemptFailure::Busy if it.busy_attempts >= MAX_BUSY => AfterFailure::Park,
                AttemptFailure::Busy => wait(it.busy_attempts + 1),
                _ if it.counted_attempts >= config.max_attempts => AfterFailure::Park,
                _ => wait(it.counted_attempts),
            }
        });
        EventKind::AttemptFailed { task, attempt, failure, then, used }
    }

    /// A call that brought nothing, and when it is repeated; `None` when nobody waits for it any more.
    pub fn unanswered(
        project: &ProjectEntry,
        config: &CoordinatorConfig,
        call: CallKind,
        reason: String,
        now_ns: u64,
    ) -> Option<EventKind> {
        let begun = project.calls.get(&call)?.begun;
        let wait = retry::backoff_ns(config, project.seed, &format!("{call:?}"), begun);
        Some(EventKind::CallFailed { call, reason, retry_at_ns: now_ns.saturating_add(wait) })
    }

    /// What a look at a job means; `None` when it means nothing new.
    pub fn progress(
        project: &ProjectEntry,
        config: &CoordinatorConfig,
        (task, number): (TaskId, u32),
        progress: JobProgress,
        now_ns: u64,
    ) -> Option<EventKind> {
        let attempt = project.attempt(task, number).filter(|attempt| attempt.stage.is_open())?;
        let counts = progress.job.counts;
        let used = RunCounts::from(counts);
        let fail = |failure| Some(failed(project, config, (task, number), failure, used, now_ns));
        match progress.job.state {
            JobState::Done { reason: FinishReason::Deadline } => fail(AttemptFailure::TimedOut),
            JobState::Done { .. } => Some(EventKind::TaskCompleted {
                task,
                attempt: Some(number),
                text: progress.text,
                elapsed_ns: now_ns.saturating_sub(attempt.began_at_ns),
                used,
                receipt: progress.job.receipt,
                verdict: None,
            }),
            JobState::Cancelled => fail(AttemptFailure::CancelledThere),
            JobState::Failed { reason: JobFailure::PromptTooLong { tokens, context } } => {
                fail(AttemptFailure::TooLong { tokens, context })
            }
            JobState::Failed { reason } => fail(AttemptFailure::Job(reason.to_string())),
            _ => {
                // The agent is heard of; that is written down when half of the lease is over.
                let half = config.lease_ns / 2;
                (attempt.lease_until_ns.saturating_sub(half) <= now_ns).then(|| EventKind::LeaseRenewed {
                    task,
                    attempt: number,
                    lease_until_ns: now_ns.saturating_add(config.lease_ns),
                    tokens: counts.generated_tokens,
                })
            }
        }
    }

    /// A job that the agent has taken; `None` when that is known already.
    pub fn accepted(project: &ProjectEntry, (task, attempt): (TaskId, u32), job: JobId) -> Option<EventKind> {
        let unknown = project.attempt(task, attempt)?.job.is_none();
        unknown.then_some(EventKind::JobAccepted { task, attempt, job })
    }

    /// A quota that is reserved; `None` when the project does not ask for it any more.
    pub fn reserved(project: &ProjectEntry, quota: QuotaKind, reservation: Option<u64>) -> Option<EventKind> {
        let asked = project.quotas.get(&quota) == Some(&Quota::Asked);
        asked.then_some(EventKind::Reserved { quota, reservation })
    }

    /// A quota that is refused; `None` when the project does not ask for it any more.
    pub fn refused(project: &ProjectEntry, quota: QuotaKind, reason: String) -> Option<EventKind> {
        let asked = project.quotas.get(&quota) == Some(&Quota::Asked);
        asked.then_some(EventKind::Refused { quota, reason })
    }

    /// A quota that is settled; `None` when it was before.
    pub fn settled(project: &ProjectEntry, quota: QuotaKind, amount: u64) -> Option<EventKind> {
        let open = !matches!(project.quotas.get(&quota), None | Some(Quota::Settled));
        open.then_some(EventKind::Settled { quota, amount })
    }

    /// What a job that is not wanted any more had become; `None` when it was closed before.
    pub fn closed(
        project: &ProjectEntry,
        (task, attempt): (TaskId, u32),
        progress: Option<JobProgress>,
    ) -> Option<EventKind> {
        if !project.attempt(task, attempt)?.closing {
            return None;
        }
        let (late_result, used) = progress.map_or((None, RunCounts::default()), |progress| {
            let done = matches!(progress.job.state, JobState::Done { .. });
            (done.then_some(progress.text), progress.job.counts.into())
        });
        Some(EventKind::JobClosed { task, attempt, late_result, used })
    }
}
