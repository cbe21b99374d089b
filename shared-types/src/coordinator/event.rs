//! What happens in a workspace, as its log keeps it. The log is the truth; everything else follows from it.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::concierge::{ConversationId, Turn};
use super::message::Party;
use super::message::SendMessageArgs;
use super::plan::{Analysis, Plan, PlanRequest, PlannedTask};
use super::project::{ProjectId, ProjectState};
use super::role::RoleTemplate;
use super::task::{AfterFailure, AttemptFailure, RunCounts, TaskId, TaskState};
use super::vote::Verdict;
use crate::agent::JobId;

/// What is reserved at `econ`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaKind {
    /// Agents to create.
    Creations,
    /// Tokens, those of prompts included.
    Tokens,
}

/// A call to another canister that changes something there. Each can be repeated: it carries a key.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// Quota for the project is reserved.
    Reserve(QuotaKind),
    /// The factory creates the agent of this name.
    CreateAgent(String),
    /// The attempt's job is submitted to its agent.
    Submit {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
    },
    /// The attempt's job is cancelled at its agent.
    Close {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
    },
    /// Quota of the project is settled.
    Settle(QuotaKind),
}

/// What happened.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The owner defined a role.
    RoleDefined(RoleTemplate),
    /// The owner removed a role.
    RoleRemoved {
        /// Its name.
        name: String,
    },
    /// A new project was planned, or is not clear.
    Planned {
        /// The caller's key.
        key: Option<String>,
        /// What was asked for.
        request: PlanRequest,
        /// What the rules found.
        analysis: Analysis,
        /// The plan.
        plan: Plan,
        /// Seed of all chance in the project.
        seed: u64,
    },
    /// A project that is not approved was planned anew.
    Revised {
        /// What was asked for.
        request: PlanRequest,
        /// What the rules found.
        analysis: Analysis,
        /// The plan.
        plan: Plan,
    },
    /// The owner approved the plan.
    Approved,
    /// A call is about to be made.
    CallBegun {
        /// The call.
        call: CallKind,
    },
    /// A call brought no answer, or a refusal that may pass.
    CallFailed {
        /// The call.
        call: CallKind,
        /// The reason as the Internet Computer or the canister gave it.
        reason: String,
        /// When it is repeated, in nanoseconds since 1970.
        retry_at_ns: u64,
    },
    /// Quota is reserved.
    Reserved {
        /// Which one.
        quota: QuotaKind,
        /// Number of the reservation; absent where there is no `econ`.
        reservation: Option<u64>,
    },
    /// Quota is refused.
    Refused {
        /// Which one.
        quota: QuotaKind,
        /// Why.
        reason: String,
    },
    /// All quota is reserved; the project runs.
    Started,
    /// The factory has created an agent.
    AgentCreated {
        /// Its name.
        agent: String,
        /// Its canister.
        canister: Principal,
    },
    /// The factory can't create an agent.
    AgentFailed {
        /// Its name.
        agent: String,
        /// Why.
        reason: String,
    },
    /// An agent failed so often that it gets nothing to do for a while.
    BreakerOpened {
        /// Its name.
        agent: String,
        /// Until when, in nanoseconds since 1970.
        until_ns: u64,
    },
    /// Work was added to a running project.
    TasksAdded {
        /// The tasks.
        tasks: Vec<PlannedTask>,
    },
    /// A task was given to an agent.
    AttemptBegun {
        /// The task.
        task: TaskId,
        /// The attempt, from 1.
        attempt: u32,
        /// Name of the agent.
        agent: String,
        /// Until when the agent has to be heard of.
        lease_until_ns: u64,
        /// Bytes that the artifacts in its prompt may have.
        input_bytes: u32,
    },
    /// The agent has the job.
    JobAccepted {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// The agent's number of it.
        job: JobId,
    },
    /// The agent was heard of: it works or waits.
    LeaseRenewed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// Until when the agent has to be heard of next.
        lease_until_ns: u64,
        /// Tokens generated so far.
        tokens: u32,
    },
    /// An attempt brought nothing.
    AttemptFailed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// Why.
        failure: AttemptFailure,
        /// What follows.
        then: AfterFailure,
        /// What it took, as far as that is known.
        used: RunCounts,
    },
    /// A task has its artifact.
    TaskCompleted {
        /// The task.
        task: TaskId,
        /// The attempt that brought it; absent for a vote.
        attempt: Option<u32>,
        /// The artifact; empty for a vote, which takes that of its winner.
        text: String,
        /// Nanoseconds that the attempt took.
        elapsed_ns: u64,
        /// What the attempt took.
        used: RunCounts,
        /// The agent's receipt.
        receipt: Option<u64>,
        /// How it was voted.
        verdict: Option<Verdict>,
    },
    /// A task ended without an artifact.
    TaskEnded {
        /// The task.
        task: TaskId,
        /// `Failed`, `Canceled` or `Rejected`.
        state: TaskState,
        /// Why.
        reason: String,
        /// How it was voted.
        verdict: Option<Verdict>,
    },
    /// The owner had a dead letter tried again.
    TaskReplayed {
        /// The task.
        task: TaskId,
    },
    /// The job of an attempt that counts no more was cancelled, or had ended.
    JobClosed {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// The result that it had brought by then, which is not applied.
        late_result: Option<String>,
        /// What it took.
        used: RunCounts,
    },
    /// The owner cancelled the project.
    CancelRequested,
    /// The project has ended.
    ProjectEnded {
        /// How.
        state: ProjectState,
    },
    /// Quota is settled.
    Settled {
        /// Which one.
        quota: QuotaKind,
        /// What was used: agents created, or tokens.
        amount: u64,
    },
    /// A project that had ended made room.
    ProjectRemoved,
    /// A message was sent.
    MessageSent {
        /// Who sent it.
        from: Party,
        /// The message.
        message: SendMessageArgs,
    },
    /// The owner rated a completed task.
    TaskRated {
        /// The task.
        task: TaskId,
        /// 1 to 5.
        stars: u8,
    },
    /// A turn of a conversation with the concierge.
    Conversed {
        /// The conversation.
        conversation: ConversationId,
        /// The turn.
        turn: Turn,
    },
    /// The owner erased everything: the log begins with this event. Numbers go on, so that no agent takes a new task for an old one.
    Erased {
        /// Number of the last project.
        last_project: ProjectId,
        /// Number of the last conversation.
        last_conversation: ConversationId,
    },
}

/// An event.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Position in the workspace's log, from 1.
    pub sequence: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The project that it belongs to; absent for what concerns the workspace.
    pub project: Option<ProjectId>,
    /// What happened.
    pub kind: EventKind,
}

/// Page request of `events`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EventsArgs {
    /// Only those of this project.
    pub project: Option<ProjectId>,
    /// Only those after this sequence number.
    pub after: Option<u64>,
    /// Most events to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `events`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// The events; there may be none although more follow.
    pub events: Vec<Event>,
    /// `after` of the next page, when more follow.
    pub next: Option<u64>,
    /// Sequence number of the last event that there is: `after` of a later call.
    pub last: u64,
}
