//! Interface of the `agent-factory` canister: agent templates and the agents installed from them.
//!
//! # Whose canister
//! The only controller of an agent is the factory, so that templates, quotas and the return of cycles can't be
//! bypassed. The agent obeys its owner: every method of an agent checks for the owner, never for the factory.
//!
//! # Idempotent creation
//! `create_agent` carries a key chosen by the caller. The factory journals each step before and after it awaits; a
//! call with the same key continues or repeats a creation that failed and returns the same agent once it exists. A
//! canister whose installation failed goes to the spares, from which the next creation takes: none is lost.
//!
//! One message decides whether a new canister is known: the one that takes the answer of its creation. It does nothing but
//! journal it. Should it trap all the same, the journal says so ([`StepPhase::Unknown`]), and `adopt_canister` makes the
//! canister a spare.

pub mod rollout;

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::agent::AgentConfig;
use crate::agent::profile::AgentProfile;
use crate::digest::{Digest, ModelId};
use crate::field::FieldError;

/// Bytes of a template chunk; the last one may be shorter. The management canister's chunk store takes 1 MiB.
pub const TEMPLATE_CHUNK_BYTES: u64 = 1 << 20;

/// Largest template in bytes.
pub const MAX_TEMPLATE_BYTES: u64 = 64 << 20;

/// Longest idempotency key in bytes.
pub const MAX_KEY_BYTES: usize = 64;

/// Most coordinators that may be registered.
pub const MAX_COORDINATORS: usize = 16;

/// Most requests and upgrades that may be under way at the same time: the queue of calls to the management canister holds 500.
pub const MAX_CONCURRENT: u32 = 100;

/// Most canisters that may be kept ready.
pub const MAX_POOL: u32 = 1_000;

/// An owner may have an agent topped up this often: once a day, in nanoseconds.
pub const TOP_UP_INTERVAL_NS: u64 = 24 * 3_600 * 1_000_000_000;

/// Longest version of a template in bytes.
pub const MAX_VERSION_BYTES: usize = 64;

/// Argument of the canister's installation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FactoryInitArgs {
    /// Who may upload templates. At least one; none of them anonymous.
    pub admins: Vec<Principal>,
    /// Limits and amounts.
    pub config: FactoryConfig,
}

/// Limits and amounts.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FactoryConfig {
    /// Cycles that a new agent starts with.
    pub agent_cycles: u128,
    /// Most agents of one owner.
    pub max_agents_per_owner: u32,
    /// Most requests and upgrades under way at the same time, each on one agent.
    pub max_concurrent: u32,
    /// Canisters without code that are kept ready for the next creations, at most [`MAX_POOL`]; absent: none.
    #[serde(default)]
    pub pool_target: Option<u32>,
    /// The canister that meters creations; absent: they are not metered.
    #[serde(default)]
    pub econ: Option<Principal>,
    /// The cycles ledger, through which owners get back what they paid in; absent: it stays with the factory.
    #[serde(default)]
    pub cycles_ledger: Option<Principal>,
}

impl Default for FactoryConfig {
    fn default() -> Self {
        Self {
            agent_cycles: 2_000_000_000_000,
            max_agents_per_owner: 20,
            max_concurrent: 10,
            pool_target: None,
            econ: None,
            cycles_ledger: None,
        }
    }
}

impl FactoryConfig {
    /// Checks the limits.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        if !(1..=MAX_CONCURRENT).contains(&self.max_concurrent) {
            let reason = format!("is {}, not within 1..={MAX_CONCURRENT}", self.max_concurrent);
            return Err(FieldError::new("max_concurrent", reason));
        }
        if self.max_agents_per_owner == 0 {
            return Err(FieldError::new("max_agents_per_owner", "is 0, the least is 1"));
        }
        if let Some(target) = self.pool_target.filter(|target| *target > MAX_POOL) {
            return Err(FieldError::new("pool_target", format!("is {target}, the most is {MAX_POOL}")));
        }
        Ok(())
    }
}

/// Argument of `begin_template`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BeginTemplateArgs {
    /// SHA-256 of the Wasm module, which may be gzipped.
    pub sha256: Digest,
    /// Bytes of the module.
    pub bytes: u64,
    /// The version that the module calls itself.
    pub version: String,
}

/// Argument of `put_template_chunk`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PutTemplateChunkArgs {
    /// The template.
    pub sha256: Digest,
    /// Position of the chunk; it holds the bytes from `index` × [`TEMPLATE_CHUNK_BYTES`].
    pub index: u32,
    /// The bytes: [`TEMPLATE_CHUNK_BYTES`], fewer in the last chunk.
    pub bytes: ByteBuf,
}

/// An agent template.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// SHA-256 of the Wasm module.
    pub sha256: Digest,
    /// Bytes of the module.
    pub bytes: u64,
    /// The version that the module calls itself.
    pub version: String,
    /// Indices of the chunks that have not arrived.
    pub missing_chunks: Vec<u32>,
    /// When it was committed, in nanoseconds since 1970: absent during the upload.
    pub committed_at_ns: Option<u64>,
}

/// Page request of `list_templates`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListTemplatesArgs {
    /// The last hash of the page before.
    pub after: Option<Digest>,
    /// Most templates to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_templates`, ordered by hash.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TemplatePage {
    /// The templates.
    pub templates: Vec<Template>,
    /// `after` of the next page.
    pub next: Option<Digest>,
}

/// Argument of `create_agent`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CreateAgentArgs {
    /// Chosen by the caller: 1 to [`MAX_KEY_BYTES`] bytes. The same key means the same agent.
    pub key: String,
    /// The repository that the agent loads its model from.
    pub model_canister: Principal,
    /// The model that the agent runs.
    pub model_id: ModelId,
    /// The agent's limits; absent for the default.
    pub config: Option<AgentConfig>,
    /// The template; absent for the default, see [`FactoryStatus::template`].
    pub template: Option<Digest>,
    /// Whom the agent obeys; absent for the caller. Only a registered coordinator names another: the agent is that owner's, under its key,
    /// and takes jobs from the coordinator as well, until the owner ends that.
    #[serde(default)]
    pub owner: Option<Principal>,
    /// What the agent is for; its owner can change it.
    #[serde(default)]
    pub profile: Option<AgentProfile>,
}

/// How far the creation or deletion of an agent is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// Under way: no canister yet, or its id not known yet.
    Creating,
    /// Under way: the canister exists and gets its code.
    Installing,
    /// The agent runs.
    Running,
    /// Being stopped; `stop_agent` may be repeated.
    Stopping,
    /// The agent is stopped: it keeps all it has and answers nobody.
    Stopped,
    /// Being started; `start_agent` may be repeated.
    Starting,
    /// A rollout brings the agent to another template.
    Upgrading {
        /// The template.
        template: Digest,
        /// Whether it runs afterwards.
        restart: bool,
    },
    /// Creation failed; a call with the same key tries again.
    Failed {
        /// What failed.
        step: AgentStep,
        /// The reason as the Internet Computer gave it.
        reason: String,
    },
    /// Being deleted; `delete_agent` may be repeated.
    Deleting,
}

/// A step that awaits another canister.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentStep {
    /// Creating the canister; then, as for a spare one, starting it and adding cycles.
    Create,
    /// Installing the template.
    Install,
    /// Having the agent send its cycles back.
    ReturnCycles,
    /// Stopping the canister.
    Stop,
    /// Taking the code off a canister, so that it becomes a spare.
    Uninstall,
    /// Deleting the canister.
    Delete,
    /// Reserving the creation at `econ`.
    Reserve,
    /// Charging it there.
    Settle,
    /// Giving the reservation back, after a failure.
    Release,
    /// Having the agent send its tokens to its owner.
    ReturnFunds,
    /// Sending the owner the cycles beyond those that the factory gave.
    Refund,
    /// Telling `econ` that the agent does not live any more.
    ReturnQuota,
    /// Starting the canister.
    Start,
    /// Exchanging the code for another template; memory stays.
    Upgrade,
    /// Adding cycles.
    TopUp,
}

/// What an agent's creation takes from its owner's quota.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentQuota {
    /// To be reserved.
    Needed,
    /// Reserved by the coordinator that had it created.
    ByCoordinator,
    /// Asked for under this number; whether `econ` reserved it is not known.
    Asked(u64),
    /// Reserved under this number at `econ`.
    Reserved(u64),
    /// Charged for this canister.
    Charged(Principal),
}

/// An agent of a caller.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// The owner's key from `create_agent`.
    pub key: String,
    /// Whom the agent obeys.
    pub owner: Principal,
    /// The coordinator that had it created, whom it takes jobs from as well.
    #[serde(default)]
    pub coordinator: Option<Principal>,
    /// The agent's canister, once it exists.
    pub canister: Option<Principal>,
    /// How far it is.
    pub state: AgentState,
    /// The template it was installed from.
    pub template: Digest,
    /// The repository it loads from.
    pub model_canister: Principal,
    /// The model it runs.
    pub model_id: ModelId,
    /// Nanoseconds since 1970.
    pub created_at_ns: u64,
    /// What its creation takes from the owner's quota; absent where nothing is metered.
    #[serde(default)]
    pub quota: Option<AgentQuota>,
    /// Cycles that the factory gave it. On deletion the factory takes back at most these; what is beyond is the owner's.
    #[serde(default = "all_cycles")]
    pub granted_cycles: u128,
    /// Cycles that are to be sent to the owner.
    #[serde(default)]
    pub refund_cycles: u128,
    /// When its owner had it topped up last, in nanoseconds since 1970.
    #[serde(default)]
    pub topped_up_at_ns: Option<u64>,
}

/// Of an agent of a version that did not count what it gave.
fn all_cycles() -> u128 {
    u128::MAX
}

/// Argument of `top_up_agent`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TopUpAgentArgs {
    /// Whose agent; absent: the caller's.
    pub owner: Option<Principal>,
    /// Its key.
    pub key: String,
    /// Cycles that the factory adds, for admins; absent: as many as bring the agent to what a new one has, for its owner at most once
    /// in [`TOP_UP_INTERVAL_NS`].
    pub cycles: Option<u128>,
}

/// Page request of `list_agents`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListAgentsArgs {
    /// The last key of the page before.
    pub after: Option<String>,
    /// Most agents to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_agents`: the caller's agents, ordered by key.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AgentPage {
    /// The agents.
    pub agents: Vec<AgentRecord>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// An entry of the journal: written before a step awaits and after it.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Position in the journal, from 0.
    pub index: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The agent's owner; the factory itself for canisters of the pool.
    pub owner: Principal,
    /// The agent's key; `pool` for canisters of the pool.
    pub key: String,
    /// The canister, where it is known.
    pub canister: Option<Principal>,
    /// The step.
    pub step: AgentStep,
    /// Before or after the step.
    pub phase: StepPhase,
}

/// Where in a step a journal entry was written.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum StepPhase {
    /// The call is about to be made.
    Begun,
    /// The call succeeded.
    Done,
    /// The call failed.
    Failed {
        /// The reason as the Internet Computer gave it.
        reason: String,
    },
    /// What came of the call is not known: the message that took the answer trapped, or the factory was upgraded without being
    /// stopped. After [`AgentStep::Create`] there may be a canister that nobody knows: an admin who finds it among the
    /// canisters that the factory controls gives it back with `adopt_canister`.
    Unknown,
}

/// Page request of `journal`, for admins.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JournalArgs {
    /// The last index of the page before.
    pub after: Option<u64>,
    /// Most entries to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `journal`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JournalPage {
    /// The entries.
    pub entries: Vec<JournalEntry>,
    /// `after` of the next page.
    pub next: Option<u64>,
}

/// Result of `status`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FactoryStatus {
    /// Version of the canister's code.
    pub version: String,
    /// Who may upload templates.
    pub admins: Vec<Principal>,
    /// Who may have agents created for others.
    pub coordinators: Vec<Principal>,
    /// Limits and amounts.
    pub config: FactoryConfig,
    /// The template that new agents get: the one of the last rollout that was done; before, the first one committed, or a later one that
    /// was committed while no agent ran.
    pub template: Option<Digest>,
    /// Agents of all owners, failed creations included.
    pub agents: u64,
    /// Canisters without code that wait for the next creation.
    pub spares: u64,
    /// Creations and deletions under way.
    pub in_progress: u32,
    /// Cycles balance.
    pub cycles: u128,
}

/// Why the factory refused a call.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactoryError {
    /// The anonymous principal may not change anything.
    #[error("the anonymous identity may not call this method: sign in with an identity")]
    Anonymous,
    /// The caller is no admin.
    #[error("only admins may call this method")]
    Unauthorized,
    /// An argument breaks a rule.
    #[error("{0}")]
    InvalidField(FieldError),
    /// No such template.
    #[error("template {sha256} was not uploaded")]
    UnknownTemplate {
        /// The hash asked for.
        sha256: Digest,
    },
    /// No template was committed yet.
    #[error("no agent template is committed yet")]
    NoTemplate,
    /// The template's upload has gaps.
    #[error("template {sha256} lacks {missing} chunks")]
    TemplateIncomplete {
        /// The template.
        sha256: Digest,
        /// Chunks that have not arrived.
        missing: u32,
    },
    /// The chunks together don't have the hash announced. The upload was dropped.
    #[error("the template's chunks have SHA-256 {actual}, {expected} was announced")]
    WrongTemplateHash {
        /// The hash announced.
        expected: Digest,
        /// The hash of the chunks.
        actual: Digest,
    },
    /// The caller has no agent of this key.
    #[error("you have no agent with the key `{key}`")]
    UnknownAgent {
        /// The key.
        key: String,
    },
    /// The key belongs to an agent that was asked for with other arguments.
    #[error("the key `{key}` belongs to an agent with another {field}")]
    KeyReused {
        /// The key.
        key: String,
        /// The argument that differs.
        field: String,
    },
    /// A creation or deletion of this agent is under way.
    #[error("agent `{key}` is being created or deleted: ask again in a moment")]
    InProgress {
        /// The key.
        key: String,
    },
    /// The owner has as many agents as it may.
    #[error("you have {agents} agents, the most allowed")]
    TooManyAgents {
        /// Agents of the caller.
        agents: u32,
    },
    /// Too many creations and deletions are under way.
    #[error("the factory is busy with {in_progress} other requests: try again")]
    Busy {
        /// Creations and deletions under way.
        in_progress: u32,
    },
    /// The factory's balance does not suffice.
    #[error("the factory has {available} cycles, {required} are needed: top it up")]
    OutOfCycles {
        /// Liquid cycles.
        available: u128,
        /// Cycles needed.
        required: u128,
    },
    /// The agent's state does not allow it.
    #[error("agent `{key}` is {state:?}")]
    WrongState {
        /// The key.
        key: String,
        /// Its state.
        state: AgentState,
    },
    /// The owner had the agent topped up less than a day ago.
    #[error("agent `{key}` was topped up already: again after {after_ns} (nanoseconds since 1970)")]
    ToppedUp {
        /// The key.
        key: String,
        /// When it may be topped up again.
        after_ns: u64,
    },
    /// A rollout is not where the call needs it to be.
    #[error("no rollout is in such a state: {reason}")]
    NoRollout {
        /// What is missing.
        reason: String,
    },
    /// The canister can't become a spare.
    #[error("canister {canister} can't be adopted: {reason}")]
    NotAdoptable {
        /// The canister.
        canister: Principal,
        /// What speaks against it.
        reason: String,
    },
    /// A step failed; the same call may be repeated.
    #[error("{step:?} failed: {reason}")]
    StepFailed {
        /// The step.
        step: AgentStep,
        /// The reason as the Internet Computer gave it.
        reason: String,
    },
}
