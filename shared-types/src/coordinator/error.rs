//! Why the coordinator refused a call.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::project::{ProjectId, ProjectState};
use super::task::{TaskKey, TaskState};
use crate::field::FieldError;

/// What there is too much of.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Agents of a plan.
    Agents,
    /// Tasks of a project.
    Tasks,
    /// Levels of tasks below tasks.
    Depth,
    /// Parts of one composition.
    FanOut,
    /// Tokens of a project.
    Tokens,
    /// Projects that are approved and have not ended.
    OpenProjects,
    /// Projects that are kept and have not ended.
    Projects,
    /// Roles that the owner has defined.
    Roles,
    /// Messages sent into a project.
    Messages,
    /// Turns of a conversation.
    Turns,
    /// Bytes of all prompts of a project.
    PromptBytes,
    /// Owners of workspaces.
    Workspaces,
    /// Events of a workspace.
    Events,
}

/// Why the coordinator refused a call.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// The anonymous principal may not call.
    #[error("the anonymous identity may not call this method: sign in with an identity")]
    Anonymous,
    /// The caller is no admin.
    #[error("only admins may call this method")]
    Unauthorized,
    /// An argument breaks a rule.
    #[error("{0}")]
    InvalidField(FieldError),
    /// The caller has no such project.
    #[error("you have no project {project}")]
    UnknownProject {
        /// The project asked for.
        project: ProjectId,
    },
    /// The project has no such task.
    #[error("project {} has no task {}", key.project, key.task)]
    UnknownTask {
        /// The task asked for.
        key: TaskKey,
    },
    /// There is no such role.
    #[error("there is no role `{name}`")]
    UnknownRole {
        /// The name asked for.
        name: String,
    },
    /// There is no such agent in the workspace.
    #[error("you have no agent `{name}`")]
    UnknownAgent {
        /// The name asked for.
        name: String,
    },
    /// There is no such conversation.
    #[error("you have no conversation {conversation}")]
    UnknownConversation {
        /// The conversation asked for.
        conversation: u64,
    },
    /// The key belongs to a project with another request.
    #[error("the key `{key}` belongs to project {project}, which has another request")]
    KeyReused {
        /// The key.
        key: String,
        /// The project.
        project: ProjectId,
    },
    /// The message's id belongs to another message.
    #[error("the id `{id}` belongs to another message")]
    IdReused {
        /// The id.
        id: String,
    },
    /// The project is not in a state for it.
    #[error("project {project} is {state:?}")]
    WrongProjectState {
        /// The project.
        project: ProjectId,
        /// Its state.
        state: ProjectState,
    },
    /// The project runs, or what was reserved for it is not settled yet.
    #[error("project {project} is not over yet: cancel it, or wait until its quota is settled")]
    ProjectNotOver {
        /// The project.
        project: ProjectId,
    },
    /// The task is not in a state for it.
    #[error("task {} of project {} is {state:?}", key.task, key.project)]
    WrongTaskState {
        /// The task.
        key: TaskKey,
        /// Its state.
        state: TaskState,
    },
    /// There would be too much of something.
    #[error("{asked} {what:?}, at most {most} are allowed")]
    TooMany {
        /// Of what.
        what: LimitKind,
        /// How many there would be.
        asked: u64,
        /// How many there may be.
        most: u64,
    },
    /// The coordinator has as much to do as it can: back-pressure.
    #[error("the coordinator is busy: try again after {} s", retry_after_ns / 1_000_000_000)]
    Busy {
        /// When to try again, in nanoseconds from now.
        retry_after_ns: u64,
    },
}
