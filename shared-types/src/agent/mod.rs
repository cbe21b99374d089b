//! Interface of the `agent` canister: one language model, one owner, a queue of jobs.
//!
//! # A job
//! `submit_job` puts a prompt into the queue. The agent loads its model if it has not yet, then generates in slices:
//! messages that work until an instruction budget is used and schedule the next one. `job_progress` (a query; called
//! as an update its reply is certified) returns the tokens since the last one seen. Nobody needs to keep calling.
//! `draft` computes the next tokens at once, without consensus.
//!
//! A job that has ended has a receipt ([`crate::receipt`]), by which anybody who has the model can compute it again.

pub mod memory;
pub mod phase;
pub mod profile;
pub mod wallet;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use self::memory::MemoryUse;
use self::phase::{AgentOperation, AgentPhase};
use self::profile::AgentProfile;
use crate::digest::ModelId;
use crate::field::FieldError;
use crate::lifecycle::ModelStatus;

/// Longest prompt in bytes.
pub const MAX_PROMPT_BYTES: usize = 65_536;

/// Longest idempotency key in bytes.
pub const MAX_KEY_BYTES: usize = 64;

/// Most messages of a conversation.
pub const MAX_MESSAGES: usize = 256;

/// Most tokens that one job may generate.
pub const MAX_TOKENS: u32 = 32_768;

/// Highest temperature.
pub const MAX_TEMPERATURE: f32 = 10.0;

/// Smallest and largest repetition penalty.
pub const REPETITION_PENALTIES: RangeInclusive<f32> = 0.01..=100.0;

/// Most tokens whose logits one job may change.
pub const MAX_LOGIT_BIASES: usize = 1_024;

/// What may be added to a logit at most, up or down.
pub const MAX_LOGIT_BIAS: f32 = 1_000.0;

/// Most stop strings of one job.
pub const MAX_STOP_STRINGS: usize = 16;

/// Longest stop string in bytes.
pub const MAX_STOP_STRING_BYTES: usize = 256;

/// Longest JSON schema in bytes.
pub const MAX_JSON_SCHEMA_BYTES: usize = 16 * 1024;

/// Most jobs that wait or run at the same time.
pub const MAX_OPEN_JOBS: u64 = 64;

/// Most of them that one caller may have.
pub const MAX_OPEN_JOBS_PER_CALLER: u64 = 32;

/// Longest that the answer of a job may be given again to the same request: 30 days.
pub const MAX_CACHE_SECONDS: u64 = 30 * 24 * 60 * 60;

/// Instructions that a draft may use: a query may use 5 B, the rest is a margin as of
/// [`MAX_SLICE_INSTRUCTIONS`].
pub const DRAFT_INSTRUCTIONS: u64 = 4_500_000_000;

/// Bytes of the heap that an agent uses for weights and caches if its configuration does not say: of the 4 GiB that a heap has
/// and the 3 GiB that a canister may use unless its settings say otherwise, the rest is for what a message works with.
pub const DEFAULT_HEAP_BYTES: u64 = 2 << 30;

/// Fewest bytes of the heap that an agent may be given for weights and caches. The embedding, the head and one layer are in
/// the heap in any case.
pub const MIN_HEAP_BYTES: u64 = 1 << 20;

/// Jobs that share a pass over the weights if the configuration does not say.
pub const DEFAULT_BATCH_WIDTH: u32 = 8;

/// Most jobs that may share a pass over the weights.
pub const MAX_BATCH_WIDTH: u32 = 16;

/// Most texts that one call of `embed` may bring.
pub const MAX_EMBED_TEXTS: usize = 64;

/// Longest text to embed in bytes. What is beyond the encoder's longest text in tokens is not read.
pub const MAX_EMBED_BYTES: usize = 16_384;

/// Most jobs kept; the oldest finished one makes room for a new one.
pub const MAX_STORED_JOBS: u64 = 256;

/// Most tokens of one `job_progress` reply.
pub const MAX_PROGRESS_TOKENS: u32 = 4_096;

/// Smallest slice: below it the fixed cost of a message outweighs the work.
pub const MIN_SLICE_INSTRUCTIONS: u64 = 50_000_000;

/// Largest slice: the Internet Computer stops a message at 40 B instructions; the rest is a margin for what the
/// engine does between two looks at the counter.
pub const MAX_SLICE_INSTRUCTIONS: u64 = 38_000_000_000;

/// Argument of the canister's installation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct AgentInitArgs {
    /// Whom the agent obeys.
    pub owner: Principal,
    /// The repository to load the model from.
    pub model_canister: Principal,
    /// The model to run.
    pub model_id: ModelId,
    /// Limits.
    pub config: AgentConfig,
    /// Who may submit jobs beside the owner, and read and cancel those; see `set_coordinator`.
    #[serde(default)]
    pub coordinator: Option<Principal>,
    /// What the agent is for; absent: nothing is said.
    #[serde(default)]
    pub profile: Option<AgentProfile>,
    /// The phase that the agent begins in; absent: [`AgentPhase::Active`].
    #[serde(default)]
    pub phase: Option<AgentPhase>,
    /// Where tokens are reserved and settled; absent: nothing is.
    #[serde(default)]
    pub quota: Option<AgentQuota>,
}

/// Where an agent reserves what its jobs take from its owner's quota.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AgentQuota {
    /// The `econ` canister, which has to know the agent.
    pub econ: Principal,
    /// Who has reserved what its own jobs take: coordinators.
    pub prepaid: Vec<Principal>,
}

/// Limits of an agent.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Instructions that a slice may use, from [`MIN_SLICE_INSTRUCTIONS`] to [`MAX_SLICE_INSTRUCTIONS`]. A round of
    /// the Internet Computer executes 2 B: with that many, tokens appear every round; more is cheaper.
    pub slice_instructions: u64,
    /// Shards requested from the repository at the same time, 1 to 16.
    pub load_window: u32,
    /// How long the answer of a job is given again to the same request of the same caller (model, prompt and
    /// parameters, seed included, are the same, so the tokens are too), at most [`MAX_CACHE_SECONDS`]. Absent or 0:
    /// every request is computed.
    #[serde(default)]
    pub cache_seconds: Option<u64>,
    /// Bytes of the heap for the model's weights and the jobs' caches, at least [`MIN_HEAP_BYTES`]; absent:
    /// [`DEFAULT_HEAP_BYTES`]. Layers for which there is no room come from stable memory each time. The agent lowers it by
    /// itself when memory gets short.
    #[serde(default)]
    pub heap_bytes: Option<u64>,
    /// Jobs of class [`Priority::Batch`] that share a pass over the weights, 1 to [`MAX_BATCH_WIDTH`]; absent:
    /// [`DEFAULT_BATCH_WIDTH`].
    #[serde(default)]
    pub batch_width: Option<u32>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            slice_instructions: 2_000_000_000,
            load_window: 4,
            cache_seconds: None,
            heap_bytes: None,
            batch_width: None,
        }
    }
}

impl AgentConfig {
    /// Checks the limits.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        let Self { slice_instructions, load_window, cache_seconds, heap_bytes, batch_width } = *self;
        if !(MIN_SLICE_INSTRUCTIONS..=MAX_SLICE_INSTRUCTIONS).contains(&slice_instructions) {
            return Err(FieldError::new(
                "slice_instructions",
                format!(
                    "is {slice_instructions}, not within {MIN_SLICE_INSTRUCTIONS}..={MAX_SLICE_INSTRUCTIONS}"
                ),
            ));
        }
        if !(1..=16).contains(&load_window) {
            return Err(FieldError::new("load_window", format!("is {load_window}, not within 1..=16")));
        }
        if let Some(seconds) = cache_seconds.filter(|seconds| *seconds > MAX_CACHE_SECONDS) {
            return Err(FieldError::new(
                "cache_seconds",
                format!("is {seconds}, at most {MAX_CACHE_SECONDS} are allowed"),
            ));
        }
        if let Some(bytes) = heap_bytes.filter(|bytes| *bytes < MIN_HEAP_BYTES) {
            return Err(FieldError::new("heap_bytes", format!("is {bytes}, the least is {MIN_HEAP_BYTES}")));
        }
        if let Some(width) = batch_width.filter(|width| !(1..=MAX_BATCH_WIDTH).contains(width)) {
            let reason = format!("is {width}, not within 1..={MAX_BATCH_WIDTH}");
            return Err(FieldError::new("batch_width", reason));
        }
        Ok(())
    }
}

/// What happens when the context window is full.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContextPolicy {
    /// The job ends with [`FinishReason::ContextFull`].
    #[default]
    Stop,
    /// The first `keep` tokens stay, the older half of the others (rounded up) leaves the context, and what is left moves
    /// up and is computed again. Which tokens are in the context follows from their number alone, so that a
    /// replay has the same. Repetition penalties look at all tokens.
    Shift {
        /// Tokens that stay, prompt first; at least two places less than the context window has.
        keep: u32,
    },
}

/// How to choose tokens.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct GenerationParams {
    /// Most tokens to generate, 1 to [`MAX_TOKENS`].
    pub max_tokens: u32,
    /// 0 takes the likeliest token; at most [`MAX_TEMPERATURE`].
    pub temperature: f32,
    /// Only the `k` likeliest tokens, from 1.
    pub top_k: Option<u32>,
    /// Only the likeliest tokens that together have this probability, above 0 and at most 1.
    pub top_p: Option<f32>,
    /// Seed of the sampler. The same job with the same seed gives the same tokens.
    pub seed: u64,
    /// Only tokens at least this probable relative to the likeliest one, 0 to 1.
    pub min_p: Option<f32>,
    /// Divides the positive logits of tokens that are in the text already and multiplies the negative ones: above 1
    /// makes them less likely. Within [`REPETITION_PENALTIES`].
    pub repetition_penalty: Option<f32>,
    /// The penalty looks at this many tokens at the end of the text only, prompt included; from 1.
    pub repetition_window: Option<u32>,
    /// Added to the logits of single tokens, at most [`MAX_LOGIT_BIASES`], each token once.
    pub logit_bias: Option<Vec<LogitBias>>,
    /// The text ends before the first of these strings, at most [`MAX_STOP_STRINGS`] of 1 to
    /// [`MAX_STOP_STRING_BYTES`] bytes. The tokens that spell it stay in the record.
    pub stop: Option<Vec<String>>,
    /// What happens when the context window is full; absent: [`ContextPolicy::Stop`]. The prompt must fit in any case.
    #[serde(default)]
    pub when_full: Option<ContextPolicy>,
    /// The text is JSON of this schema, and ends where that is complete (which `max_tokens` may forestall). Objects have all their
    /// properties, in the order of `required`; at most [`MAX_JSON_SCHEMA_BYTES`]. The model is not told: say in the prompt what is wanted.
    #[serde(default)]
    pub json_schema: Option<String>,
}

/// A change to the logit of one token.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct LogitBias {
    /// Id of the token.
    pub token: u32,
    /// What is added to its logit, from -[`MAX_LOGIT_BIAS`] to [`MAX_LOGIT_BIAS`].
    pub bias: f32,
}

impl Default for GenerationParams {
    fn default() -> Self {
        Self {
            max_tokens: 128,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
            min_p: None,
            repetition_penalty: None,
            repetition_window: None,
            logit_bias: None,
            stop: None,
            when_full: None,
            json_schema: None,
        }
    }
}

impl GenerationParams {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        let Self {
            max_tokens,
            temperature,
            top_k,
            top_p,
            seed: _,
            min_p,
            repetition_penalty,
            repetition_window,
            ref logit_bias,
            ref stop,
            when_full: _,
            ref json_schema,
        } = *self;
        if !(1..=MAX_TOKENS).contains(&max_tokens) {
            return Err(FieldError::new(
                "params.max_tokens",
                format!("is {max_tokens}, not within 1..={MAX_TOKENS}"),
            ));
        }
        if !(0.0..=MAX_TEMPERATURE).contains(&temperature) {
            return Err(FieldError::new(
                "params.temperature",
                format!("is {temperature}, not within 0..={MAX_TEMPERATURE}"),
            ));
        }
        if top_k == Some(0) {
            return Err(FieldError::new("params.top_k", "is 0, the least is 1"));
        }
        if top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
            return Err(FieldError::new("params.top_p", format!("is {top_p:?}, not above 0 and at most 1")));
        }
        if let Some(p) = min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return Err(FieldError::new("params.min_p", format!("is {p}, not within 0..=1")));
        }
        if let Some(penalty) = repetition_penalty.filter(|penalty| !REPETITION_PENALTIES.contains(penalty)) {
            let (least, most) = (REPETITION_PENALTIES.start(), REPETITION_PENALTIES.end());
            return Err(FieldError::new(
                "params.repetition_penalty",
                format!("is {penalty}, not within {least}..={most}"),
            ));
        }
        if repetition_window == Some(0) {
            return Err(FieldError::new("params.repetition_window", "is 0, the least is 1"));
        }
        if let Some(biases) = logit_bias {
            validate_logit_bias(biases).map_err(|reason| FieldError::new("params.logit_bias", reason))?;
        }
        if let Some(stop) = stop {
            if stop.len() > MAX_STOP_STRINGS {
                return Err(FieldError::new(
                    "params.stop",
                    format!("has {} strings, at most {MAX_STOP_STRINGS} are allowed", stop.len()),
                ));
            }
            for text in stop {
                FieldError::check_text("params.stop", text, MAX_STOP_STRING_BYTES)?;
            }
        }
        if let Some(schema) = json_schema {
            FieldError::check_text("params.json_schema", schema, MAX_JSON_SCHEMA_BYTES)?;
        }
        Ok(())
    }
}

fn validate_logit_bias(biases: &[LogitBias]) -> Result<(), String> {
    if biases.len() > MAX_LOGIT_BIASES {
        return Err(format!("has {} tokens, at most {MAX_LOGIT_BIASES} are allowed", biases.len()));
    }
    let mut seen = BTreeSet::new();
    for LogitBias { token, bias } in biases {
        if !(-MAX_LOGIT_BIAS..=MAX_LOGIT_BIAS).contains(bias) {
            return Err(format!(
                "adds {bias} to token {token}, not within -{MAX_LOGIT_BIAS}..={MAX_LOGIT_BIAS}"
            ));
        }
        if !seen.insert(token) {
            return Err(format!("names token {token} twice"));
        }
    }
    Ok(())
}

/// Who says a message.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatRole {
    /// Tells the model how to answer; the first message, if at all.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool that the model called.
    Tool,
}

/// A message of a conversation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who says it.
    pub role: ChatRole,
    /// What is said. Text in it that looks like a special token stays text.
    pub content: String,
}

/// Which jobs come first. Within a class callers take turns; a job that waits rises to the next class after a number of
/// turns, so that each one's turn comes.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for each token: interrupts a job of another class after its slice.
    RealTime,
    /// The usual.
    #[default]
    Standard,
    /// Whenever nothing else waits.
    Batch,
}

/// Argument of `submit_job`: a text to continue, or a conversation to answer.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct SubmitJobArgs {
    /// The text to continue, 1 to [`MAX_PROMPT_BYTES`] bytes; empty where there are `messages`.
    pub prompt: String,
    /// The conversation to answer, 1 to [`MAX_MESSAGES`] messages of together at most [`MAX_PROMPT_BYTES`] bytes. The
    /// model's chat template makes the prompt of them.
    pub messages: Option<Vec<ChatMessage>>,
    /// How to choose tokens.
    pub params: GenerationParams,
    /// Chosen by the caller, 1 to [`MAX_KEY_BYTES`] bytes: submitting the same key again returns the same job for as
    /// long as the job is kept.
    pub key: Option<String>,
    /// Absent: [`Priority::Standard`].
    pub priority: Option<Priority>,
    /// Instructions that the job may use, from 1; it ends before the step that would not fit.
    pub max_instructions: Option<u64>,
    /// When the job ends at the latest, in nanoseconds since 1970; looked at between slices.
    pub deadline_ns: Option<u64>,
}

impl SubmitJobArgs {
    /// Checks every argument.
    ///
    /// # Errors
    /// Names the first that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        match &self.messages {
            None => FieldError::check_text("prompt", &self.prompt, MAX_PROMPT_BYTES)?,
            Some(_) if !self.prompt.is_empty() => {
                return Err(FieldError::new("prompt", "must be empty where there are `messages`"));
            }
            Some(messages) => {
                if !(1..=MAX_MESSAGES).contains(&messages.len()) {
                    let reason = format!("are {}, not within 1..={MAX_MESSAGES}", messages.len());
                    return Err(FieldError::new("messages", reason));
                }
                let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
                if bytes > MAX_PROMPT_BYTES {
                    let reason = format!("have {bytes} bytes, at most {MAX_PROMPT_BYTES} are allowed");
                    return Err(FieldError::new("messages", reason));
                }
            }
        }
        self.params.validate()?;
        if self.max_instructions == Some(0) {
            return Err(FieldError::new("max_instructions", "is 0, the least is 1"));
        }
        match &self.key {
            Some(key) => FieldError::check_text("key", key, MAX_KEY_BYTES),
            None => Ok(()),
        }
    }
}

/// Number of a job, from 1.
pub type JobId = u64;

/// Where a job stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits for the jobs before it.
    Queued,
    /// Waits for the model to be loaded.
    Loading,
    /// Generates.
    Running,
    /// Waits for `resume_job`.
    Paused,
    /// Waits for cycles; goes on by itself after a top-up.
    OutOfCycles(CyclesShortage),
    /// Finished.
    Done {
        /// Why generation ended.
        reason: FinishReason,
    },
    /// Gave up.
    Failed {
        /// Why.
        reason: JobFailure,
    },
    /// Cancelled by the owner. The tokens so far stay readable.
    Cancelled,
}

impl JobState {
    /// Whether the job will change no more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Failed { .. } | Self::Cancelled)
    }
}

/// Why generation ended.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced an end-of-text token.
    EndOfText,
    /// `max_tokens` were generated.
    MaxTokens,
    /// The context window is full.
    ContextFull,
    /// One of `stop` was generated; the text ends before it.
    StopString,
    /// The next step would have used more than the job's `max_instructions`.
    MaxInstructions,
    /// The job's `deadline_ns` has passed.
    Deadline,
}

impl FinishReason {
    /// Whether the model and the request alone decide that generation ends here.
    pub fn is_deterministic(self) -> bool {
        matches!(self, Self::EndOfText | Self::MaxTokens | Self::ContextFull | Self::StopString)
    }
}

/// The balance does not cover another slice.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct CyclesShortage {
    /// Cycles there were.
    pub balance: u128,
    /// Cycles that a slice needs: what the Internet Computer sets aside for it, and the freezing threshold.
    pub needed: u128,
}

/// Why a job failed.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobFailure {
    /// The model could not be loaded.
    #[error("the model could not be loaded: {0}")]
    Load(LoadError),
    /// A slice trapped as often as is tolerated.
    #[error("a slice trapped {attempts} times in a row: {message}")]
    SliceTrapped {
        /// Attempts of the same slice.
        attempts: u32,
        /// What the Internet Computer said about the last one.
        message: String,
    },
    /// The prompt has more tokens than the context window holds.
    #[error("the prompt has {tokens} tokens, the context window holds {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: u32,
        /// Tokens of the context window.
        context: u32,
    },
    /// The model's chat template makes no prompt of the messages.
    #[error("the messages make no prompt: {reason}")]
    ChatTemplate {
        /// Why.
        reason: String,
    },
    /// The agent's model is an encoder, which embeds texts and does not go on with them.
    #[error("the agent's model is an encoder: it embeds texts and does not go on with them")]
    NoDecoder,
    /// The owner's quota does not have the tokens, or `econ` can't be asked.
    #[error("no quota: {reason}")]
    Quota {
        /// Why.
        reason: String,
    },
    /// The engine refused the job.
    #[error("the engine refused the job: {reason}")]
    Engine {
        /// Why.
        reason: String,
    },
}

/// Why the model could not be loaded.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The repository does not serve the model: Deprecated, or not Active yet.
    #[error("the repository does not serve the model: it is {status:?}")]
    NotServed {
        /// The model's status.
        status: ModelStatus,
    },
    /// The repository does not know the model.
    #[error("the repository does not know the model")]
    UnknownModel,
    /// The repository's answer is not the model asked for.
    #[error("the repository's answer is not the model asked for: {reason}")]
    WrongContent {
        /// What differs.
        reason: String,
    },
    /// The repository did not answer as often as is tolerated.
    #[error("the repository did not answer {attempts} times in a row: {message}")]
    NoAnswer {
        /// Attempts.
        attempts: u32,
        /// What the Internet Computer said about the last one.
        message: String,
    },
    /// The engine can't run the model.
    #[error("the engine can't run the model: {reason}")]
    Unsupported {
        /// Why.
        reason: String,
    },
    /// The heap has no room even for embedding, head and a single layer.
    #[error("no room in the heap: {reason}")]
    OutOfHeap {
        /// What there was no memory for.
        reason: String,
    },
    /// Stable memory can't grow.
    #[error("no room for the model's {bytes} bytes")]
    OutOfStorage {
        /// Bytes of the manifest and all shards.
        bytes: u64,
    },
}

/// What a job took.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub generated_tokens: u32,
    /// Instructions of all slices of the job, those that built the model in the heap not included; of slices that it shared
    /// with other jobs its share, by the positions that were worked on.
    pub instructions: u64,
    /// Slices: messages that worked on the job.
    pub messages: u32,
    /// Slices that trapped and were repeated.
    pub trapped_slices: u32,
    /// Tokens that were not computed because an earlier job of the same caller began with them, of all times that the job was
    /// taken up.
    #[serde(default)]
    pub reused_tokens: Option<u32>,
}

/// A job without its tokens.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct JobRecord {
    /// The job's number.
    pub job_id: JobId,
    /// Who submitted it; the anonymous principal for a job of a version that did not keep it.
    #[serde(default = "Principal::anonymous")]
    pub caller: Principal,
    /// The caller's key.
    pub key: Option<String>,
    /// Which jobs it goes before.
    #[serde(default)]
    pub priority: Priority,
    /// Instructions that it may use.
    #[serde(default)]
    pub max_instructions: Option<u64>,
    /// When it ends at the latest, in nanoseconds since 1970.
    #[serde(default)]
    pub deadline_ns: Option<u64>,
    /// How tokens are chosen.
    pub params: GenerationParams,
    /// Where the job stands.
    pub state: JobState,
    /// What it took so far.
    pub counts: JobCounts,
    /// When it was submitted, in nanoseconds since 1970.
    pub submitted_at_ns: u64,
    /// When its first slice began.
    pub started_at_ns: Option<u64>,
    /// When it reached its final state.
    pub finished_at_ns: Option<u64>,
    /// Sequence number of its receipt, once it has ended.
    #[serde(default)]
    pub receipt: Option<u64>,
    /// Sequence number of the receipt of the job whose answer was given again; see [`AgentConfig::cache_seconds`].
    #[serde(default)]
    pub repeats: Option<u64>,
}

/// Argument of `job_progress`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JobProgressArgs {
    /// The job.
    pub job_id: JobId,
    /// Tokens seen already: the reply starts with the token at this position.
    pub after_token: u32,
}

/// Result of `job_progress`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct JobProgress {
    /// The job.
    pub job: JobRecord,
    /// Ids of the tokens from `after_token`, at most [`MAX_PROGRESS_TOKENS`].
    pub tokens: Vec<u32>,
    /// The text that these tokens completed. Bytes of a character that is not complete yet come with the token that
    /// completes it, so the texts of consecutive replies concatenate to the whole.
    pub text: String,
    /// `after_token` of the next call.
    pub next_token: u32,
}

/// Result of `get_prompt`: what a job goes on from.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JobPrompt {
    /// The job.
    pub job_id: JobId,
    /// The text to continue; empty where there are `messages`.
    pub prompt: String,
    /// The conversation to answer.
    pub messages: Option<Vec<ChatMessage>>,
}

/// Argument of `draft`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DraftArgs {
    /// The job.
    pub job_id: JobId,
    /// Most tokens to return, from 1; absent: as many as [`DRAFT_INSTRUCTIONS`] allow.
    pub max_tokens: Option<u32>,
}

/// Result of `draft`: the next tokens of an open job, computed by one replica without consensus. The certified run gives
/// the same ones, unless it ends before by cancellation or by one of the job's budgets.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The job.
    pub job_id: JobId,
    /// Position of the first of `tokens`: how many the job had when the draft was computed. When `job_progress` has
    /// more by now, the state has moved on and the draft's beginning is certified already.
    pub first_token: u32,
    /// Slices that the job had had: `counts.messages` of the record at that time.
    pub slices: u32,
    /// Ids of the tokens.
    pub tokens: Vec<u32>,
    /// The text that these tokens completed, as in [`JobProgress`].
    pub text: String,
    /// Why generation ends with the last of them, if it does.
    pub finished: Option<FinishReason>,
    /// Instructions used.
    pub instructions: u64,
}

/// Argument of `embed` and `embed_draft`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EmbedArgs {
    /// 1 to [`MAX_EMBED_TEXTS`] texts of 1 to [`MAX_EMBED_BYTES`] bytes.
    pub texts: Vec<String>,
}

impl EmbedArgs {
    /// Checks the texts.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        let texts = self.texts.len();
        if !(1..=MAX_EMBED_TEXTS).contains(&texts) {
            return Err(FieldError::new("texts", format!("are {texts}, not within 1..={MAX_EMBED_TEXTS}")));
        }
        let mut texts = self.texts.iter().enumerate();
        texts.try_for_each(|(i, text)| FieldError::check_text(&format!("texts[{i}]"), text, MAX_EMBED_BYTES))
    }
}

/// Result of `embed` and `embed_draft`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// The model.
    pub model_id: ModelId,
    /// Those of the first texts, in their order: as many as fit a message, at least one.
    pub embeddings: Vec<Embedding>,
    /// Instructions used, those that built the model in the heap not included.
    pub instructions: u64,
}

/// The embedding of a text.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Embedding {
    /// A vector of length one, if the model normalises.
    pub vector: Vec<f32>,
    /// Tokens that were read; those of a text that is too long end early.
    pub tokens: u32,
}

/// Page request of `list_jobs`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListJobsArgs {
    /// The last job of the page before.
    pub after: Option<JobId>,
    /// Most jobs to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_jobs`, oldest first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobRecord>,
    /// `after` of the next page.
    pub next: Option<JobId>,
}

/// How far the model is loaded.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum LoadState {
    /// Nothing asked for the model yet.
    NotLoaded,
    /// Shards are on their way.
    Loading,
    /// Every shard is in stable memory and checked.
    Loaded,
    /// Loading failed; `load_model` or the next job tries again.
    Failed {
        /// Why.
        reason: LoadError,
    },
}

/// What loading the model took.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadCounts {
    /// Shards in the manifest; 0 until the manifest is there.
    pub shards: u32,
    /// Shards in stable memory.
    pub shards_loaded: u32,
    /// Bytes of the manifest and of the shards in stable memory.
    pub bytes: u64,
    /// Instructions of the messages that received, checked and stored shards.
    pub instructions: u64,
    /// Those messages.
    pub messages: u32,
    /// When loading began, in nanoseconds since 1970.
    pub started_at_ns: Option<u64>,
    /// When the last shard was stored.
    pub finished_at_ns: Option<u64>,
    /// Instructions of the slices that built the model in the heap, last time.
    pub build_instructions: u64,
    /// Those slices.
    pub build_messages: u32,
}

/// What the heap is used for.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapUse {
    /// Bytes that weights and caches may take now: [`AgentConfig::heap_bytes`], or less after memory was short.
    pub budget_bytes: u64,
    /// How often memory was short.
    pub shortages: u32,
    /// Layers of the model.
    pub layers: u32,
    /// Layers in the heap.
    pub layers_in_heap: u32,
    /// Bytes of the weights in the heap.
    pub weight_bytes: u64,
    /// Layers brought from stable memory since the model was built.
    pub layers_brought: u64,
    /// Bytes of the caches of the jobs under way.
    pub cache_bytes: u64,
    /// Caches that are kept for the time when their job goes on, or another of the same caller begins alike.
    pub kept_caches: u32,
    /// Their bytes.
    pub kept_bytes: u64,
}

/// Result of `status`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AgentStatus {
    /// Version of the canister's code.
    pub version: String,
    /// Whom the agent obeys.
    pub owner: Principal,
    /// The repository.
    pub model_canister: Principal,
    /// The model.
    pub model_id: ModelId,
    /// Limits.
    pub config: AgentConfig,
    /// Who may submit jobs beside the owner.
    pub coordinator: Option<Principal>,
    /// Where the agent is in its life.
    pub phase: AgentPhase,
    /// Its role in a team.
    pub role: String,
    /// What it remembers.
    pub memory: MemoryUse,
    /// How far the model is loaded.
    pub load: LoadState,
    /// What loading took.
    pub load_counts: LoadCounts,
    /// Whether the model is built in the heap, ready for the next slice.
    pub in_heap: bool,
    /// Jobs kept.
    pub jobs: u64,
    /// Jobs that wait or run.
    pub open_jobs: u64,
    /// Whether the queue was paused.
    pub paused: bool,
    /// Why no slice runs, when the balance does not cover one.
    pub out_of_cycles: Option<CyclesShortage>,
    /// Bytes of the heap.
    pub heap_bytes: u64,
    /// What it is used for.
    pub heap: Option<HeapUse>,
    /// Bytes of stable memory.
    pub stable_bytes: u64,
    /// Cycles balance.
    pub cycles: u128,
}

/// Why the agent refused a call.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The caller is not whom the agent obeys.
    #[error("only the agent's owner may call this method")]
    Unauthorized,
    /// An argument breaks a rule.
    #[error("{0}")]
    InvalidField(#[from] FieldError),
    /// The caller may do this, but not in this phase of the agent's life.
    #[error("{operation:?} is not possible while the agent is {phase:?}")]
    WrongPhase {
        /// Where the agent is.
        phase: AgentPhase,
        /// What was to be done.
        operation: AgentOperation,
    },
    /// The agent's life does not go there from here.
    #[error("the agent is {phase:?} and can't become {next:?}")]
    NoSuchStep {
        /// Where the agent is.
        phase: AgentPhase,
        /// Where it was to go.
        next: AgentPhase,
    },
    /// Jobs wait or run, and the agent can't be archived before they have ended.
    #[error("{jobs} jobs wait or run")]
    OpenJobs {
        /// Jobs that wait or run.
        jobs: u64,
    },
    /// There is no room for more facts.
    #[error("the agent remembers {facts} facts and has no room for more")]
    MemoryFull {
        /// Facts.
        facts: u64,
    },
    /// No such conversation.
    #[error("there is no conversation `{name}`")]
    UnknownConversation {
        /// The name asked for.
        name: String,
    },
    /// There are as many conversations as there may be.
    #[error("there are {conversations} conversations, the most allowed")]
    TooManyConversations {
        /// Conversations.
        conversations: u64,
    },
    /// The ledger was not registered.
    #[error("the ledger {ledger} is not registered")]
    UnknownLedger {
        /// The ledger.
        ledger: Principal,
    },
    /// There are as many ledgers as there may be.
    #[error("{ledgers} ledgers are registered, the most allowed")]
    TooManyLedgers {
        /// Ledgers.
        ledgers: u64,
    },
    /// The ledger does not answer as one.
    #[error("the ledger {ledger} does not answer: {reason}")]
    LedgerUnavailable {
        /// The ledger.
        ledger: Principal,
        /// Why.
        reason: String,
    },
    /// No such payment, or it was removed to make room.
    #[error("there is no payment {payment}")]
    UnknownPayment {
        /// The payment asked for.
        payment: u64,
    },
    /// There are as many open payments as there may be.
    #[error("{payments} payments have not ended, the most allowed")]
    TooManyPayments {
        /// Payments that have not ended.
        payments: u64,
    },
    /// Payments at the ledger have not ended.
    #[error("{payments} payments at the ledger have not ended")]
    OpenPayments {
        /// Those payments.
        payments: u64,
    },
    /// More than the owner allows.
    #[error("{requested} would be spent with the fee, {available} are allowed ({limit})")]
    LimitExceeded {
        /// The limit: `per_payment` or `per_day`.
        limit: String,
        /// Tokens with the fee.
        requested: u128,
        /// What is left of the limit.
        available: u128,
    },
    /// Tokens could not be sent to the owner; deletion waits for it.
    #[error("tokens at {ledger} could not be returned: {reason}")]
    FundsRemain {
        /// The ledger.
        ledger: Principal,
        /// Why.
        reason: String,
    },
    /// The signer gave no public key.
    #[error("the threshold-ECDSA signer gave no key: {reason}")]
    NoAddress {
        /// Why.
        reason: String,
    },
    /// No such job, or it was removed to make room.
    #[error("there is no job {job_id}")]
    UnknownJob {
        /// The job asked for.
        job_id: JobId,
    },
    /// The key belongs to a job with another prompt or other parameters.
    #[error("the key `{key}` belongs to job {job_id}, which has another {field}")]
    KeyReused {
        /// The key.
        key: String,
        /// The job.
        job_id: JobId,
        /// The argument that differs.
        field: String,
    },
    /// Too many jobs wait.
    #[error("{open_jobs} jobs wait or run, the most allowed")]
    QueueFull {
        /// Jobs that wait or run.
        open_jobs: u64,
    },
    /// Too many jobs of the caller wait.
    #[error("{open_jobs} jobs of the caller wait or run, the most that one may have")]
    CallerQueueFull {
        /// The caller's jobs that wait or run.
        open_jobs: u64,
    },
    /// The job has ended already.
    #[error("job {job_id} has ended already")]
    JobEnded {
        /// The job.
        job_id: JobId,
    },
    /// The job has not ended yet, so it has no receipt.
    #[error("job {job_id} has not ended yet")]
    JobOpen {
        /// The job.
        job_id: JobId,
    },
    /// No such receipt, or it was removed to make room.
    #[error("there is no receipt {sequence}")]
    UnknownReceipt {
        /// The receipt asked for.
        sequence: u64,
    },
    /// The job ended before this canister gave receipts.
    #[error("job {job_id} has no receipt")]
    NoReceipt {
        /// The job.
        job_id: JobId,
    },
    /// A draft needs the model in the heap, and it is not built there yet.
    #[error("the model is not built in the heap yet: a slice has to run first")]
    NotInHeap,
    /// The agent's model is no encoder.
    #[error("the agent's model is no encoder: it can't embed")]
    NoEncoder,
    /// The model is not there yet; it is being loaded, so that the call succeeds when it is repeated a while later.
    #[error("the model is not loaded yet")]
    NotLoaded {
        /// How far it is.
        load: LoadState,
    },
    /// A text does not fit a message. Those before it do: send them alone.
    #[error("text {index} of {tokens} tokens takes more instructions than a message has")]
    TextTooLong {
        /// Its number, from 0.
        index: u32,
        /// Its tokens.
        tokens: u32,
    },
    /// The job can't be drafted: its next slice will fail with this reason.
    #[error("{0}")]
    Draft(JobFailure),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn params_in_range_pass_and_others_name_their_field(
            max_tokens in any::<u32>(),
            temperature in any::<f32>(),
            top_k in any::<Option<u32>>(),
            top_p in any::<Option<f32>>(),
            min_p in prop::option::of(-0.5..1.5f32),
            repetition_penalty in prop::option::of(prop_oneof![Just(0.0), Just(f32::NAN), 0.005..120.0f32]),
            repetition_window in prop::option::of(0..3u32),
            biases in prop::option::of(prop::collection::vec((0..40u32, -1_100.0..1_100.0f32), 0..8)),
            stop in prop::option::of(prop::collection::vec("[a-z]{0,2}", 0..18)),
            schema_bytes in prop::option::of(0..2 * MAX_JSON_SCHEMA_BYTES),
        ) {
            let logit_bias: Option<Vec<LogitBias>> = biases
                .map(|biases| biases.into_iter().map(|(token, bias)| LogitBias { token, bias }).collect());
            let distinct = |biases: &[LogitBias]| {
                biases.iter().map(|bias| bias.token).collect::<BTreeSet<_>>().len() == biases.len()
            };
            let params = GenerationParams {
                max_tokens,
                temperature,
                top_k,
                top_p,
                seed: 1,
                min_p,
                repetition_penalty,
                repetition_window,
                logit_bias: logit_bias.clone(),
                stop: stop.clone(),
                when_full: None,
                json_schema: schema_bytes.map(|bytes| "x".repeat(bytes)),
            };
            let ok = [
                ("params.max_tokens", max_tokens > 0 && max_tokens <= MAX_TOKENS),
                ("params.temperature", (0.0..=MAX_TEMPERATURE).contains(&temperature)),
                ("params.top_k", top_k != Some(0)),
                ("params.top_p", top_p.is_none_or(|p| p > 0.0 && p <= 1.0)),
                ("params.min_p", min_p.is_none_or(|p| (0.0..=1.0).contains(&p))),
                ("params.repetition_penalty", repetition_penalty.is_none_or(|p| (0.01..=100.0).contains(&p))),
                ("params.repetition_window", repetition_window != Some(0)),
                (
                    "params.logit_bias",
                    logit_bias.is_none_or(|b| distinct(&b) && b.iter().all(|b| b.bias.abs() <= 1_000.0)),
                ),
                ("params.stop", stop.is_none_or(|s| s.len() <= 16 && s.iter().all(|s| !s.is_empty()))),
                ("params.json_schema", schema_bytes.is_none_or(|bytes| (1..=16_384).contains(&bytes))),
            ];
            match params.validate() {
                Ok(()) => prop_assert!(ok.iter().all(|(_, ok)| *ok)),
                Err(error) => {
                    let first = ok.iter().find(|(_, ok)| !ok).map(|(field, _)| *field);
                    prop_assert_eq!(first, Some(error.field.as_str()));
                }
            }
        }
    }

    #[test]
    fn config_limits_are_inclusive() {
        let config = |slice_instructions, load_window| AgentConfig {
            slice_instructions,
            load_window,
            ..AgentConfig::default()
        };
        assert_eq!(AgentConfig::default().validate(), Ok(()));
        assert_eq!(config(MIN_SLICE_INSTRUCTIONS, 1).validate(), Ok(()));
        assert_eq!(config(MAX_SLICE_INSTRUCTIONS, 16).validate(), Ok(()));
        assert!(config(MIN_SLICE_INSTRUCTIONS - 1, 1).validate().is_err());
        assert!(config(MAX_SLICE_INSTRUCTIONS + 1, 1).validate().is_err());
        assert!(config(MIN_SLICE_INSTRUCTIONS, 0).validate().is_err());
        assert!(config(MIN_SLICE_INSTRUCTIONS, 17).validate().is_err());
        let cache = |seconds| AgentConfig { cache_seconds: Some(seconds), ..AgentConfig::default() };
        assert_eq!(cache(MAX_CACHE_SECONDS).validate(), Ok(()));
        assert_eq!(cache(MAX_CACHE_SECONDS + 1).validate().unwrap_err().field, "cache_seconds");
    }

    #[test]
    fn a_job_has_a_prompt_or_messages() {
        let field = |args: SubmitJobArgs| args.validate().map_err(|error| error.field);
        let message = |content: &str| ChatMessage { role: ChatRole::User, content: content.to_owned() };
        let text = SubmitJobArgs { prompt: "p".to_owned(), ..SubmitJobArgs::default() };
        let messages = |messages| SubmitJobArgs { messages: Some(messages), ..SubmitJobArgs::default() };
        assert_eq!(field(text.clone()), Ok(()));
        assert_eq!(field(messages(vec![message("")])), Ok(()));
        assert_eq!(field(SubmitJobArgs::default()), Err("prompt".to_owned()));
        let both = SubmitJobArgs { messages: Some(vec![message("m")]), ..text };
        assert_eq!(field(both), Err("prompt".to_owned()));
        assert_eq!(field(messages(Vec::new())), Err("messages".to_owned()));
        assert_eq!(field(messages(vec![message("m"); MAX_MESSAGES + 1])), Err("messages".to_owned()));
        let long = "m".repeat(MAX_PROMPT_BYTES / 2 + 1);
        assert_eq!(field(messages(vec![message(&long), message(&long)])), Err("messages".to_owned()));
    }

    #[test]
    fn parameters_of_an_older_interface_are_read() {
        #[derive(CandidType)]
        struct Older {
            max_tokens: u32,
            temperature: f32,
            top_k: Option<u32>,
            top_p: Option<f32>,
            seed: u64,
        }
        let older = Older { max_tokens: 7, temperature: 0.5, top_k: Some(3), top_p: None, seed: 9 };
        let bytes = candid::encode_one(older).unwrap();
        let params = GenerationParams {
            max_tokens: 7,
            temperature: 0.5,
            top_k: Some(3),
            seed: 9,
            ..GenerationParams::default()
        };
        assert_eq!(candid::decode_one::<GenerationParams>(&bytes).unwrap(), params);
    }
}
