//! Messages between agents, by way of the coordinator.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::project::ProjectId;
use super::task::TaskId;
use crate::field::FieldError;

/// Longest body of a message in bytes.
pub const MAX_BODY_BYTES: usize = 16_384;

/// Longest id of a message in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// Most messages that can be sent into one project.
pub const MAX_SENT_MESSAGES: usize = 1_000;

/// What a message is.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names of the messages in the design")]
pub enum MessageKind {
    /// A task is given to an agent.
    TASK_REQUEST,
    /// An agent has completed a task.
    TASK_RESPONSE,
    /// A task has another state.
    STATUS_UPDATE,
    /// An attempt failed.
    ERROR,
    /// An agent can't take the task now, or somebody proposes something else.
    NEGOTIATE,
}

/// Who sends or gets a message.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// The owner of the workspace.
    Owner,
    /// The coordinator.
    Coordinator,
    /// The agent of this name.
    Agent(String),
}

/// A message.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Sequence number of its event: the order of the conversation.
    pub sequence: u64,
    /// Its id, one in its project.
    pub id: String,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The project, whose conversation it belongs to.
    pub project: ProjectId,
    /// The task that it is about.
    pub task: Option<TaskId>,
    /// What it is.
    pub kind: MessageKind,
    /// Who sends it.
    pub from: Party,
    /// Who gets it.
    pub to: Party,
    /// What it says.
    pub body: String,
}

/// Argument of `send_message`. The owner may call it, and an agent's canister; an agent speaks for itself only.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SendMessageArgs {
    /// The project.
    pub project: ProjectId,
    /// Chosen by the sender, 1 to [`MAX_ID_BYTES`] bytes without a `/`: sent again, it is the same message.
    pub id: String,
    /// The task that it is about.
    pub task: Option<TaskId>,
    /// What it is.
    pub kind: MessageKind,
    /// Who gets it.
    pub to: Party,
    /// What it says, 1 to [`MAX_BODY_BYTES`] bytes.
    pub body: String,
}

impl SendMessageArgs {
    /// Checks the texts.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::check_text("id", &self.id, MAX_ID_BYTES)?;
        if self.id.contains('/') {
            return Err(FieldError::new("id", "has a `/`, as only the coordinator's ids do"));
        }
        FieldError::check_text("body", &self.body, MAX_BODY_BYTES)
    }
}

/// Page request of `messages`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MessagesArgs {
    /// The project.
    pub project: ProjectId,
    /// Only those after this sequence number.
    pub after: Option<u64>,
    /// Most messages to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `messages`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MessagePage {
    /// The messages; there may be none although more follow.
    pub messages: Vec<Message>,
    /// `after` of the next page.
    pub next: Option<u64>,
}
