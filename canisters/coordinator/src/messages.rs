//! The messages of a project: those that were sent, and those that its events are.

use shared_types::coordinator::{
    AttemptFailure, Event, EventKind, Message, MessageKind, Party, ProjectId, TaskId,
};

use crate::workspace::{ProjectEntry, Workspace};

/// The message that an event is, if it is one. An event is one message at most, so that the sequence of events is the order of the
/// conversation, and its id is one in the project, however often it is read.
pub fn of_event(workspace: &Workspace, event: &Event) -> Option<Message> {
    let project = event.project?;
    let entry = workspace.projects.get(&project)?;
    let agent_of = |task: TaskId, attempt: u32| {
        entry.attempt(task, attempt).map_or(Party::Coordinator, |it| Party::Agent(it.agent.clone()))
    };
    let id = |what: &str, task: TaskId, number: u64| format!("{what}/{task}/{number}");
    let message = |kind, id: String, task, from, to, body: String| {
        let (sequence, time_ns) = (event.sequence, event.time_ns);
        Message { sequence, id, time_ns, project, task: Some(task), kind, from, to, body }
    };
    Some(match &event.kind {
        EventKind::AttemptBegun { task, attempt, agent, .. } => {
            let body = entry.tasks.get(task).map(|it| it.plan.prompt.clone()).unwrap_or_default();
            let to = Party::Agent(agent.clone());
            message(
                MessageKind::TASK_REQUEST,
                id("request", *task, u64::from(*attempt)),
                *task,
                asks(entry, *task),
                to,
                body,
            )
        }
        EventKind::TaskCompleted { task, attempt: Some(attempt), text, .. } => message(
            MessageKind::TASK_RESPONSE,
            id("response", *task, u64::from(*attempt)),
            *task,
            agent_of(*task, *attempt),
            asks(entry, *task),
            text.clone(),
        ),
        EventKind::TaskCompleted { task, attempt: None, verdict, .. } => {
            let verdict = verdict.as_ref()?;
            let body =
                format!("{:?}: {} votes for task {:?}", verdict.outcome, verdict.votes, verdict.winner);
            message(
                MessageKind::STATUS_UPDATE,
                id("status", *task, event.sequence),
                *task,
                Party::Coordinator,
                Party::Owner,
                body,
            )
        }
        EventKind::AttemptFailed { task, attempt, failure, .. } => {
            let (kind, what) = match failure {
                AttemptFailure::Busy => (MessageKind::NEGOTIATE, "negotiate"),
                _ => (MessageKind::ERROR, "error"),
            };
            let from = agent_of(*task, *attempt);
            message(
                kind,
                id(what, *task, u64::from(*attempt)),
                *task,
                from,
                Party::Coordinator,
                failure.to_string(),
            )
        }
        EventKind::JobAccepted { task, attempt, job } => message(
            MessageKind::STATUS_UPDATE,
            id("status", *task, event.sequence),
            *task,
            agent_of(*task, *attempt),
            Party::Coordinator,
            format!("working as job {job}"),
        ),
        EventKind::TaskEnded { task, state, reason, .. } => message(
            MessageKind::STATUS_UPDATE,
            id("status", *task, event.sequence),
            *task,
            Party::Coordinator,
            Party::Owner,
            format!("{state:?}: {reason}"),
        ),
        EventKind::TaskReplayed { task } => message(
            MessageKind::STATUS_UPDATE,
            id("status", *task, event.sequence),
            *task,
            Party::Owner,
            Party::Coordinator,
            "replayed".to_owned(),
        ),
        EventKind::MessageSent { from, message: sent } => Message {
            sequence: event.sequence,
            id: sent.id.clone(),
            time_ns: event.time_ns,
            project,
            task: sent.task,
            kind: sent.kind,
            from: from.clone(),
            to: sent.to.clone(),
            body: sent.body.clone(),
        },
        _ => return None,
    })
}

/// Who asks for a task: the agent whose artifact it goes on from, of several the last; else the coordinator.
fn asks(entry: &ProjectEntry, task: TaskId) -> Party {
    let before = entry.tasks.get(&task).and_then(|it| it.plan.after.last());
    let made = before.and_then(|before| entry.tasks.get(before));
    let attempt = made.and_then(|it| it.attempts.iter().find(|attempt| is_completed(&attempt.stage)));
    attempt.map_or(Party::Coordinator, |attempt| Party::Agent(attempt.agent.clone()))
}

fn is_completed(stage: &shared_types::coordinator::AttemptStage) -> bool {
    matches!(stage, shared_types::coordinator::AttemptStage::Completed(_))
}

/// Whether an event belongs to a page of a project's events; all do where none is named.
pub fn is_of(event: &Event, project: Option<ProjectId>) -> bool {
    project.is_none() || event.project == project
}
