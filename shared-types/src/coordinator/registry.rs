//! The agents of a workspace: health, load, and what runs have shown of them.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::project::ProjectId;
use crate::digest::ModelId;

/// What matters when a task is given to one of several agents.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// Load first, then success, speed and cost alike.
    #[default]
    Balanced,
    /// Fewest instructions per token.
    Cost,
    /// Fewest nanoseconds per token.
    Speed,
    /// Best ratings and fewest failures.
    Quality,
    /// Only agents that were created for this project.
    Privacy,
}

/// Whether an agent can be given work.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// The factory is creating it.
    Creating,
    /// It runs in this canister.
    Ready(Principal),
    /// The factory could not create it.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Whether an agent gets work: the circuit breaker's states.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// It does.
    Closed,
    /// It does not until this time, in nanoseconds since 1970.
    Open(u64),
    /// It has one task, which decides.
    HalfOpen,
}

/// A circuit breaker.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Where it stands.
    pub state: BreakerState,
    /// Failures in a row.
    pub failures: u32,
    /// How often it has opened since it was closed.
    pub opened: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: BreakerState::Closed, failures: 0, opened: 0 }
    }
}

/// What an agent's last answers say about it.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It has not been heard of yet.
    Unknown,
    /// It answers.
    Healthy,
    /// Its last attempt failed.
    Degraded,
    /// Its breaker is open.
    Unavailable,
}

/// What the runs of an agent have shown, each a moving average over about eight of them.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// Tasks completed.
    pub completed: u64,
    /// Attempts failed.
    pub failed: u64,
    /// Tokens, prompts included.
    pub tokens: u64,
    /// Nanoseconds per token from the submission of the job to its end; 0 until there is one.
    pub ns_per_token: u64,
    /// Instructions per token; 0 until there is one.
    pub instructions_per_token: u64,
    /// Successes and ratings in thousandths.
    pub quality_permille: u32,
}

/// An agent of a workspace.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RegisteredAgent {
    /// Its name, and its key at the factory.
    pub name: String,
    /// Its role.
    pub role: String,
    /// What it is good at, as tags.
    pub capabilities: Vec<String>,
    /// The model that it runs.
    pub model_id: ModelId,
    /// Whether the model answers conversations.
    pub chats: bool,
    /// The project that it was created for.
    pub project: ProjectId,
    /// Whether it can be given work.
    pub state: AgentState,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// Jobs that it has from here.
    pub load: u32,
    /// When it was last heard of, in nanoseconds since 1970: its heartbeat.
    pub heard_at_ns: Option<u64>,
    /// What its runs have shown.
    pub measures: Measures,
    /// What follows from breaker and measures.
    pub health: Health,
}

/// Page request of `agents`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AgentsArgs {
    /// The last name of the page before.
    pub after: Option<String>,
    /// Most agents to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `agents`, ordered by name.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AgentPage {
    /// The agents.
    pub agents: Vec<RegisteredAgent>,
    /// `after` of the next page.
    pub next: Option<String>,
}
