//! The concierge: a conversation that leads from a wish to a plan to a run.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::plan::{PlanRequest, Question};
use super::project::ProjectId;

/// Number of a conversation in its workspace, from 1.
pub type ConversationId = u64;

/// Most conversations kept for one owner; the oldest makes room.
pub const MAX_CONVERSATIONS: usize = 16;

/// Most turns of one conversation.
pub const MAX_TURNS: u32 = 200;

/// Where a conversation stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The concierge waits for a wish.
    #[default]
    Wish,
    /// It has asked back.
    Clarifying,
    /// It has shown a plan and waits for a yes.
    Planned,
    /// The project runs, or has ended.
    Running,
}

/// What was said, and what follows from it.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What the owner said.
    pub said: String,
    /// What the concierge answers.
    pub answer: String,
    /// Where the conversation stands now.
    pub stage: Stage,
    /// What is wanted, as far as it is known.
    pub wish: Option<PlanRequest>,
    /// The project that it is about.
    pub project: Option<ProjectId>,
}

/// Argument of `converse`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ConverseArgs {
    /// The conversation; absent: a new one.
    pub conversation: Option<ConversationId>,
    /// What the owner says, 1 to [`super::MAX_INSTRUCTION_BYTES`] bytes.
    pub text: String,
}

/// Result of `converse`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ConverseReply {
    /// The conversation.
    pub conversation: ConversationId,
    /// What the concierge answers.
    pub text: String,
    /// Where the conversation stands.
    pub stage: Stage,
    /// The project that it is about.
    pub project: Option<ProjectId>,
    /// What it asks back.
    pub questions: Vec<Question>,
}
