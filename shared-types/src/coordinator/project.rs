//! Projects: an instruction, its plan, and how far it is.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::plan::{Analysis, Plan, PlanRequest};

/// Number of a project in its workspace, from 1.
pub type ProjectId = u64;

/// Where a project stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ProjectState {
    /// The instruction is not clear: `revise_plan` answers the questions.
    Unclear,
    /// The plan waits for `approve_plan`.
    Planned,
    /// Approved; the quota is being reserved.
    Reserving,
    /// The quota is reserved; agents are being created and tasks run.
    Running,
    /// Every task is completed.
    Completed,
    /// It ended with tasks that are not completed, or could not begin.
    Failed {
        /// Why.
        reason: String,
    },
    /// The owner cancelled it.
    Canceled,
}

impl ProjectState {
    /// Whether the project was approved and has not ended.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Reserving | Self::Running)
    }

    /// Whether it will change no more.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed { .. } | Self::Canceled)
    }
}

/// How many tasks stand where.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Of all states.
    pub total: u32,
    /// Waiting.
    pub submitted: u32,
    /// Worked on.
    pub working: u32,
    /// Waiting for the owner.
    pub dead_letters: u32,
    /// Done.
    pub completed: u32,
    /// Failed, canceled or rejected.
    pub unsuccessful: u32,
}

/// A project without its tasks.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its number.
    pub id: ProjectId,
    /// The caller's key.
    pub key: Option<String>,
    /// What was asked for.
    pub request: PlanRequest,
    /// What the rules found in the instruction.
    pub analysis: Analysis,
    /// The plan; empty while there are questions.
    pub plan: Plan,
    /// Where it stands.
    pub state: ProjectState,
    /// How many tasks stand where.
    pub counts: TaskCounts,
    /// Tokens used so far, prompts included.
    pub tokens: u64,
    /// Of them, those that were generated.
    pub generated_tokens: u64,
    /// Instructions used so far.
    pub instructions: u64,
    /// Whether the quota is settled.
    pub settled: bool,
    /// When the plan was made first, in nanoseconds since 1970.
    pub created_at_ns: u64,
    /// When it began to run.
    pub started_at_ns: Option<u64>,
    /// When it ended.
    pub ended_at_ns: Option<u64>,
}

/// Page request of `projects`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ProjectsArgs {
    /// The last project of the page before.
    pub after: Option<ProjectId>,
    /// Most projects to return, at most 20.
    pub limit: u32,
}

/// Page of `projects`, oldest first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ProjectPage {
    /// The projects.
    pub projects: Vec<Project>,
    /// `after` of the next page.
    pub next: Option<ProjectId>,
}
