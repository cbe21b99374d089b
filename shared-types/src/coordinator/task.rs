//! Tasks: states of the A2A protocol, attempts, artifacts, dead letters.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::plan::{PlannedTask, Work};
use super::project::ProjectId;
use super::vote::{Verdict, VoteRule};
use crate::agent::{JobCounts, JobId};
use crate::digest::Digest;

/// Number of a task in its project, from 1.
pub type TaskId = u32;

/// Which task of which project.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskKey {
    /// The project.
    pub project: ProjectId,
    /// The task.
    pub task: TaskId,
}

/// Where a task stands: `TaskState` of the A2A protocol (specification 0.3, section 6.3).
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Waits for the tasks before it, or for an agent.
    Submitted,
    /// An agent works on it, or will again after a failure.
    Working,
    /// Its attempts are used up: it waits for its owner, who replays or discards it.
    InputRequired,
    /// The agent does not obey the coordinator any more: it waits for its owner.
    AuthRequired,
    /// Done; it has an artifact.
    Completed,
    /// Gave up.
    Failed,
    /// By the owner, or because a task before it ended without an artifact.
    Canceled,
    /// No agent can do it as it is.
    Rejected,
}

impl TaskState {
    /// Whether the task will change no more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled | Self::Rejected)
    }

    /// Whether it waits for its owner.
    pub fn is_dead_letter(self) -> bool {
        matches!(self, Self::InputRequired | Self::AuthRequired)
    }

    /// Whether a task may go from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Submitted | Self::Working => next != Self::Submitted,
            Self::InputRequired | Self::AuthRequired => {
                next == Self::Submitted || next.is_terminal() && next != Self::Completed
            }
            Self::Completed | Self::Failed | Self::Canceled | Self::Rejected => false,
        }
    }
}

/// What makes a task's artifact.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// An agent.
    Work,
    /// A vote over the artifacts that it takes; those of tasks that ended without one are missing votes.
    Vote(VoteRule),
}

/// What a task has made. Its text is in the event that completed the task.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Sequence number of that event.
    pub event: u64,
    /// Bytes of the text.
    pub bytes: u32,
    /// SHA-256 of the text.
    pub sha256: Digest,
    /// SHA-256 of the text in its canonical form, by which votes are compared.
    pub canonical_sha256: Digest,
    /// The agent's receipt for it.
    pub receipt: Option<u64>,
    /// How it was voted, for a vote.
    pub verdict: Option<Verdict>,
}

/// What runs took, as their agents counted it.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Instructions.
    pub instructions: u64,
}

impl RunCounts {
    /// Tokens of prompts and answers.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.generated_tokens)
    }
}

impl From<JobCounts> for RunCounts {
    fn from(counts: JobCounts) -> Self {
        Self {
            prompt_tokens: counts.prompt_tokens.into(),
            generated_tokens: counts.generated_tokens.into(),
            instructions: counts.instructions,
        }
    }
}

/// Why an attempt did not bring an artifact.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttemptFailure {
    /// The agent's queue is full. It costs no attempt.
    #[error("the agent's queue is full")]
    Busy,
    /// The agent did not answer.
    #[error("the agent did not answer: {0}")]
    NoAnswer(String),
    /// The agent was not heard of until the lease ended.
    #[error("the agent was not heard of until the lease ended")]
    LeaseEnded,
    /// It took too long.
    #[error("it took longer than an attempt may")]
    TimedOut,
    /// The job failed in the agent.
    #[error("the job failed: {0}")]
    Job(String),
    /// The prompt does not fit the model's context; it is tried again with less of the artifacts.
    #[error("the prompt has {tokens} tokens, the context holds {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: u32,
        /// Tokens of the context.
        context: u32,
    },
    /// The agent does not obey the coordinator.
    #[error("the agent's owner does not let the coordinator use it")]
    Unauthorized,
    /// The agent's canister does not exist any more.
    #[error("the agent's canister does not exist any more")]
    Gone,
    /// The agent refused the job as it is.
    #[error("the agent refused the job: {0}")]
    Refused(String),
    /// Somebody cancelled the job at the agent.
    #[error("the job was cancelled at the agent")]
    CancelledThere,
}

/// What follows from a failed attempt.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Another attempt, not before this time in nanoseconds since 1970.
    Retry(u64),
    /// It becomes a dead letter: [`TaskState::InputRequired`].
    Park,
    /// It waits until the owner has allowed it: [`TaskState::AuthRequired`].
    Authorize,
    /// [`TaskState::Rejected`].
    Reject,
}

/// How far an attempt is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum AttemptStage {
    /// The job is being submitted.
    Submitting,
    /// The agent has the job.
    Running(JobId),
    /// It brought the artifact.
    Completed(JobId),
    /// It failed. Where the agent may still be working, its job is being cancelled.
    Failed(AttemptFailure),
    /// The task ended while it was under way. Its job is being cancelled.
    Abandoned,
}

impl AttemptStage {
    /// Whether the attempt may still bring the artifact.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Submitting | Self::Running(_))
    }
}

/// An attempt to do a task.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Name of the agent.
    pub agent: String,
    /// When it began, in nanoseconds since 1970.
    pub began_at_ns: u64,
    /// Until when the agent has to be heard of.
    pub lease_until_ns: u64,
    /// The agent's number of the job, once it is known.
    pub job: Option<JobId>,
    /// How far it is.
    pub stage: AttemptStage,
    /// Whether the job is to be cancelled at the agent, and it has not answered yet.
    pub closing: bool,
    /// Bytes that the artifacts in its prompt may have.
    pub input_bytes: u32,
}

/// A task.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// As it was planned.
    pub plan: PlannedTask,
    /// Where it stands.
    pub state: TaskState,
    /// Why, for a state other than `Submitted`, `Working` and `Completed`.
    pub reason: Option<String>,
    /// Its attempts, oldest first; after many, the oldest are left out.
    pub attempts: Vec<Attempt>,
    /// Attempts since it was submitted or replayed last, those that found a full queue not counted.
    pub counted_attempts: u32,
    /// Attempts that found a full queue, since then.
    pub busy_attempts: u32,
    /// When the next attempt may begin, in nanoseconds since 1970.
    pub retry_at_ns: u64,
    /// What it has made.
    pub artifact: Option<Artifact>,
    /// Tokens that its attempts took, prompts included.
    pub tokens: u64,
    /// When it entered its state, in nanoseconds since 1970.
    pub changed_at_ns: u64,
    /// The owner's rating, 1 to 5.
    pub stars: Option<u8>,
}

/// Page request of `tasks`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TasksArgs {
    /// The project.
    pub project: ProjectId,
    /// The last task of the page before.
    pub after: Option<TaskId>,
    /// Most tasks to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `tasks`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// `after` of the next page.
    pub next: Option<TaskId>,
}

/// Argument of `add_tasks`: work below a task, within the same admission checks as a plan.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AddTasksArgs {
    /// The project, which must be running.
    pub project: ProjectId,
    /// The task that it is a part of, whose artifact it takes.
    pub parent: Option<TaskId>,
    /// The work.
    pub work: Work,
}

/// Argument of `rate_task`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RateTaskArgs {
    /// The task, which must be completed.
    pub task: TaskKey,
    /// From 1, useless, to 5, excellent.
    pub stars: u8,
}

/// A task that waits for its owner.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The task.
    pub key: TaskKey,
    /// [`TaskState::InputRequired`] or [`TaskState::AuthRequired`].
    pub state: TaskState,
    /// Why.
    pub reason: String,
    /// Its attempts.
    pub attempts: Vec<Attempt>,
    /// Since when, in nanoseconds since 1970.
    pub since_ns: u64,
    /// When it is discarded, in nanoseconds since 1970.
    pub discarded_at_ns: u64,
}

/// Page request of `dead_letters`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DeadLettersArgs {
    /// The last one of the page before.
    pub after: Option<TaskKey>,
    /// Most to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `dead_letters`, in the order of their keys.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterPage {
    /// The dead letters.
    pub letters: Vec<DeadLetter>,
    /// `after` of the next page.
    pub next: Option<TaskKey>,
}
