//! Interface of the `coordinator` canister: from one sentence to agents that do the work.
//!
//! # A project
//! `create_plan` analyses an instruction by rules ([`plan`]) and answers with a [`Project`]: the agents and tasks that it would
//! take and what they cost in quota, or questions where the instruction is not clear. Nothing happens before `approve_plan`.
//! Then the coordinator reserves the quota at `econ`, has the factory create the agents, gives each task whose
//! dependencies are done to an agent ([`task`], [`registry`]), hands the artifacts of finished tasks on, and settles the quota when the
//! last task has ended. `events` (a query) returns what happened after a sequence number.
//!
//! # Whose
//! Everything belongs to the caller's workspace; nobody sees or changes another's. The agents obey the caller, and the
//! coordinator within what the caller allows (`set_coordinator` of the agent).
//!
//! # Truth
//! A workspace is what its events ([`event`]) make of an empty one, one after the other.

pub mod concierge;
pub mod error;
pub mod event;
pub mod message;
pub mod plan;
pub mod project;
pub mod registry;
pub mod role;
pub mod task;
pub mod vote;

pub use concierge::{ConversationId, ConverseArgs, ConverseReply, Stage, Turn};
pub use error::{CoordinatorError, LimitKind};
pub use event::{CallKind, Event, EventKind, EventPage, EventsArgs, QuotaKind};
pub use message::{Message, MessageKind, MessagePage, MessagesArgs, Party, SendMessageArgs};
pub use plan::{
    Analysis, Clause, CreatePlanArgs, Intent, Plan, PlanCost, PlanRequest, PlannedAgent, PlannedTask,
    Question, QuestionTopic, RevisePlanArgs, RoleScore, TaskSpec, Work,
};
pub use project::{Project, ProjectId, ProjectPage, ProjectState, ProjectsArgs};
pub use registry::{
    AgentPage, AgentState, AgentsArgs, Breaker, BreakerState, Health, Measures, Preference, RegisteredAgent,
};
pub use role::{RoleTemplate, RolesPage, Signal};
pub use task::{
    AddTasksArgs, AfterFailure, Artifact, Attempt, AttemptFailure, AttemptStage, DeadLetter, DeadLetterPage,
    DeadLettersArgs, RateTaskArgs, RunCounts, Task, TaskId, TaskKey, TaskKind, TaskPage, TaskState,
    TasksArgs,
};
pub use vote::{Ballot, NoQuorum, Verdict, VoteOutcome, VoteRule};

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use crate::digest::ModelId;
use crate::field::FieldError;

/// Longest instruction in bytes.
pub const MAX_INSTRUCTION_BYTES: usize = 4_096;

/// Longest name of an agent in bytes: it is the agent's key at the factory.
pub const MAX_AGENT_NAME_BYTES: usize = 64;

/// Longest that a project may run: `econ` holds a reservation for a day, and what a project used is settled within it.
pub const MAX_PROJECT_NS: u64 = 22 * 3_600 * 1_000_000_000;

/// Argument of the canister's installation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorInitArgs {
    /// Who may change the limits. At least one; none of them anonymous.
    pub admins: Vec<Principal>,
    /// The factory that creates agents; this canister must be registered with it.
    pub factory: Principal,
    /// Where quota is reserved and settled. Absent: nothing is, which suits a network of one's own only.
    pub econ: Option<Principal>,
    /// The repository that agents load their models from.
    pub model_canister: Principal,
    /// The model of agents for which neither the request nor the catalogue names one.
    pub default_model: ModelId,
    /// Limits and times.
    pub config: CoordinatorConfig,
}

/// Limits and times.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorConfig {
    /// An agent with an encoder's model that this canister is the coordinator of: it says which roles an instruction is near to where
    /// no word names one. Absent: the rules alone say what is found.
    pub encoder: Option<Principal>,
    /// An agent with a model that converses and that this canister is the coordinator of: what it proposes where no word names a role becomes
    /// the plan, which its owner approves or not. For models that were measured to be good enough; its jobs are the agent's owner's cost,
    /// and few. Absent: a question is asked instead.
    pub planner: Option<Principal>,
    /// Most agents of one plan.
    pub max_agents: u32,
    /// Most tasks of one project.
    pub max_tasks: u32,
    /// Most levels of tasks below tasks.
    pub max_depth: u32,
    /// Most tasks that wait for the same one, or parts of the same composition.
    pub max_fan_out: u32,
    /// Most tokens that one project may be planned with.
    pub max_tokens: u64,
    /// Most bytes of all prompts of one project, the artifacts that they take not counted.
    pub max_prompt_bytes: u32,
    /// Most agents kept for one owner.
    pub max_kept_agents: u32,
    /// Most owners of workspaces.
    pub max_workspaces: u64,
    /// Most workspaces with approved projects that have not ended; beyond, approvals are refused for a while.
    pub max_active_workspaces: u64,
    /// Most projects of one owner that are approved and have not ended.
    pub max_open_projects: u32,
    /// Most projects kept for one owner; the oldest one that has ended makes room.
    pub max_projects: u32,
    /// Most jobs that one agent has from here at the same time.
    pub max_jobs_per_agent: u32,
    /// Most calls to other canisters under way at the same time.
    pub max_concurrent: u32,
    /// Most attempts of one task.
    pub max_attempts: u32,
    /// An agent that was not heard of for so long has lost its attempt, in nanoseconds.
    pub lease_ns: u64,
    /// Longest that one attempt may take, in nanoseconds.
    pub attempt_timeout_ns: u64,
    /// Wait before the second attempt, in nanoseconds; it doubles with each further one.
    pub backoff_ns: u64,
    /// Longest wait between two attempts, in nanoseconds.
    pub max_backoff_ns: u64,
    /// Time between two looks at a job, in nanoseconds.
    pub poll_ns: u64,
    /// How long a dead letter waits for its owner before it is discarded, in nanoseconds.
    pub dead_letter_ns: u64,
    /// Longest that a project runs, in nanoseconds, at most [`MAX_PROJECT_NS`]: what has not ended by then fails.
    pub project_timeout_ns: u64,
    /// Failures in a row after which an agent gets nothing to do for a while.
    pub breaker_failures: u32,
    /// That while, in nanoseconds; it doubles while the agent keeps failing.
    pub breaker_ns: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            encoder: None,
            planner: None,
            max_agents: 100,
            max_tasks: 256,
            max_depth: 4,
            max_fan_out: 256,
            max_tokens: 2_000_000,
            max_prompt_bytes: 256 * 1_024,
            max_kept_agents: 1_000,
            max_workspaces: 100_000,
            max_active_workspaces: 1_000,
            max_open_projects: 8,
            max_projects: 64,
            max_jobs_per_agent: 2,
            max_concurrent: 40,
            max_attempts: 4,
            lease_ns: 120 * SECOND,
            attempt_timeout_ns: 3_600 * SECOND,
            backoff_ns: 2 * SECOND,
            max_backoff_ns: 120 * SECOND,
            poll_ns: SECOND,
            dead_letter_ns: 12 * 3_600 * SECOND,
            project_timeout_ns: 20 * 3_600 * SECOND,
            breaker_failures: 3,
            breaker_ns: 60 * SECOND,
        }
    }
}

impl CoordinatorConfig {
    /// Checks that no limit and no time is zero, and that the wait between attempts is not longer than its bound.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<(), FieldError> {
        let fields = [
            ("max_agents", u64::from(self.max_agents)),
            ("max_tasks", u64::from(self.max_tasks)),
            ("max_depth", u64::from(self.max_depth)),
            ("max_fan_out", u64::from(self.max_fan_out)),
            ("max_tokens", self.max_tokens),
            ("max_prompt_bytes", self.max_prompt_bytes.into()),
            ("max_kept_agents", self.max_kept_agents.into()),
            ("max_workspaces", self.max_workspaces),
            ("max_active_workspaces", self.max_active_workspaces),
            ("max_open_projects", u64::from(self.max_open_projects)),
            ("max_projects", u64::from(self.max_projects)),
            ("max_jobs_per_agent", u64::from(self.max_jobs_per_agent)),
            ("max_concurrent", u64::from(self.max_concurrent)),
            ("max_attempts", u64::from(self.max_attempts)),
            ("lease_ns", self.lease_ns),
            ("attempt_timeout_ns", self.attempt_timeout_ns),
            ("backoff_ns", self.backoff_ns),
            ("max_backoff_ns", self.max_backoff_ns),
            ("poll_ns", self.poll_ns),
            ("dead_letter_ns", self.dead_letter_ns),
            ("project_timeout_ns", self.project_timeout_ns),
            ("breaker_failures", u64::from(self.breaker_failures)),
            ("breaker_ns", self.breaker_ns),
        ];
        if let Some((field, _)) = fields.iter().find(|(_, value)| *value == 0) {
            return Err(FieldError::new(*field, "is 0, the least is 1"));
        }
        if self.backoff_ns > self.max_backoff_ns {
            let reason = format!("is {}, above max_backoff_ns {}", self.backoff_ns, self.max_backoff_ns);
            return Err(FieldError::new("backoff_ns", reason));
        }
        if self.project_timeout_ns > MAX_PROJECT_NS {
            let reason = format!("is {}, at most {MAX_PROJECT_NS} is allowed", self.project_timeout_ns);
            return Err(FieldError::new("project_timeout_ns", reason));
        }
        if self.max_projects <= self.max_open_projects {
            let reason = format!("is {}, must be above max_open_projects", self.max_projects);
            return Err(FieldError::new("max_projects", reason));
        }
        Ok(())
    }
}

/// Result of `status`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorStatus {
    /// Version of the canister's code.
    pub version: String,
    /// What it was installed with.
    pub settings: CoordinatorInitArgs,
    /// Workspaces that have an approved project which has not ended.
    pub active_workspaces: u64,
    /// Workspaces whose state is in the heap.
    pub cached_workspaces: u64,
    /// Calls to other canisters under way.
    pub calls: u32,
    /// Cycles balance.
    pub cycles: u128,
}
