//! Jobs: what each was asked, what it has produced, what it took, and its receipt when it has ended.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{StableBTreeMap, StableCell};
use novaq_engine::constraint::{self, ConstraintError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_types::agent::{
    AgentError, ChatMessage, CyclesShortage, FinishReason, GenerationParams, JobCounts, JobFailure, JobId,
    JobPage, JobProgress, JobProgressArgs, JobPrompt, JobRecord, JobState, ListJobsArgs, MAX_OPEN_JOBS,
    MAX_OPEN_JOBS_PER_CALLER, MAX_PROGRESS_TOKENS, MAX_STORED_JOBS, Priority, SubmitJobArgs,
};
use shared_types::receipt::{Outcome, Receipt, hash_of, hash_prompt, hash_tokens};
use shared_types::{Digest, FieldError, ModelId, paging};

use crate::memory::{JobMemories, Memory};
use crate::queue::Queue;
use crate::quota::{self, Quota};
use crate::receipts::{Issuer, Receipts};

/// Attempts of one slice before the job fails.
pub const MAX_ATTEMPTS: u32 = 3;

/// Tokens of jobs that one message ends at most, unless a single job has more: a receipt reads all of its job's. With 11,000 instructions a
/// token and 13 M a job (`cargo xtask bench agent`) that stays below 2 B.
pub const ENDED_TOKENS: u64 = 65_536;

/// A job and what its next slice needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct JobEntry {
    record: JobRecord,
    /// Attempts of the slice under way: written before it begins, so that a trap can't undo it.
    attempts: u32,
    /// Hash of the prompt's tokens, once they are known.
    #[serde(default)]
    prompt_tokens_sha256: Option<Digest>,
    /// When the answer that was given again was computed.
    #[serde(default)]
    computed_at_ns: Option<u64>,
}

/// What a job goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobInput {
    /// A text to continue.
    Text(String),
    /// A conversation to answer.
    Messages(Vec<ChatMessage>),
}

impl JobInput {
    /// Its hash in receipts.
    fn hash(&self) -> Digest {
        match self {
            Self::Text(text) => hash_prompt(text, None),
            Self::Messages(messages) => hash_prompt("", Some(messages)),
        }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TokenEntry {
    id: u32,
    /// The text that it completed.
    text: String,
}

/// What an answer follows from, and whose it is: equal requests have equal answers.
#[derive(Serialize)]
struct Request<'a> {
    caller: Principal,
    model_id: ModelId,
    prompt_sha256: Digest,
    is_conversation: bool,
    params: &'a GenerationParams,
}

/// All jobs.
pub struct Jobs {
    entries: StableBTreeMap<JobId, Cbor<JobEntry>, Memory>,
    prompts: StableBTreeMap<JobId, String, Memory>,
    messages: StableBTreeMap<JobId, Cbor<Vec<ChatMessage>>, Memory>,
    tokens: StableBTreeMap<(JobId, u32), Cbor<TokenEntry>, Memory>,
    keys: StableBTreeMap<String, JobId, Memory>,
    last: StableCell<JobId, Memory>,
    /// The last job with each request that is done, computed or not; its tokens are the response cache. So an answer stays as
    /// long as it is asked for, within its time, and what is asked for no more leaves first.
    answers: StableBTreeMap<[u8; 32], JobId, Memory>,
    queue: Queue,
    quota: Quota,
    receipts: Receipts,
    issuer: Issuer,
    /// Jobs that have ended in this message and were not asked for yet.
    ended: Vec<JobId>,
}

impl Jobs {
    /// Opens what the memories hold; receipts are given by `issuer`.
    pub fn open(memories: JobMemories, issuer: Issuer) -> Self {
        Self {
            entries: StableBTreeMap::init(memories.jobs),
            prompts: StableBTreeMap::init(memories.prompts),
            messages: StableBTreeMap::init(memories.messages),
            tokens: StableBTreeMap::init(memories.tokens),
            keys: StableBTreeMap::init(memories.keys),
            last: StableCell::init(memories.last_job, 0),
            answers: StableBTreeMap::init(memories.answers),
            queue: Queue::open(memories.queue),
            quota: Quota::open(memories.quota),
            receipts: Receipts::open(memories.receipts),
            issuer,
            ended: Vec::new(),
        }
    }

    /// Names who gives the receipts; for the installation, which learns it after opening.
    pub fn set_issuer(&mut self, issuer: Issuer) {
        self.issuer = issuer;
    }

    /// Jobs kept.
    pub fn len(&self) -> u64 {
        self.entries.len()
    }

    /// Whether no job is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The jobs that wait or run.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// What jobs hold of their owner's quota.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Where what `econ` answers is entered.
    pub fn quota_mut(&mut self) -> &mut Quota {
        &mut self.quota
    }

    /// The number that was given last.
    pub fn last(&self) -> JobId {
        *self.last.get()
    }

    /// Has a new job wait until its owner's quota has what it takes at most, in a window of `context` tokens if that is known.
    pub fn meter(&mut self, job_id: JobId, context: Option<usize>, now_ns: u64) {
        let Ok(record) = self.get_open(job_id) else { return };
        let (bytes, messages) = match self.input(job_id) {
            JobInput::Text(prompt) => (prompt.len(), 0),
            JobInput::Messages(messages) => {
                (messages.iter().map(|message| message.content.len()).sum(), messages.len())
            }
        };
        let tokens = quota::most_tokens(bytes, messages, context, record.params.max_tokens);
        self.queue.await_quota(job_id);
        self.quota.want(job_id, tokens, now_ns);
    }

    /// Cancels jobs that wait for quota or have it, for an agent that is about to be deleted: as many as one message ends.
    pub fn cancel_metered(&mut self, now_ns: u64) {
        let metered: Vec<JobId> = self.quota.jobs().filter(|job_id| self.get_open(*job_id).is_ok()).collect();
        self.end_within(&metered, &JobState::Cancelled, &mut { ENDED_TOKENS }, now_ns);
    }

    /// See [`Queue::fund`].
    pub fn funded(&mut self, job_id: JobId, until_ns: u64) {
        self.queue.fund(job_id, until_ns);
    }

    /// The receipts.
    pub fn receipts(&self) -> &Receipts {
        &self.receipts
    }

    /// The root to certify, if it has changed since it was asked for last.
    pub fn take_changed_root(&mut self) -> Option<[u8; 32]> {
        self.receipts.take_changed_root()
    }

    /// The jobs that have ended since this was asked last.
    pub fn take_ended(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.ended)
    }

    /// The text of a job so far.
    pub fn text(&self, job_id: JobId) -> String {
        self.tokens.range((job_id, 0)..(job_id + 1, 0)).map(|entry| entry.value().0.text).collect()
    }

    /// The job whose turn it is.
    pub fn head(&self) -> Option<JobId> {
        self.queue.head()
    }

    /// Puts a job of `caller` into the queue, or finds the one that the same key made before. A job whose request was
    /// answered less than `cache_ns` ago ends at once with the same tokens.
    ///
    /// # Errors
    /// [`AgentError::InvalidField`], [`AgentError::KeyReused`], [`AgentError::QueueFull`],
    /// [`AgentError::CallerQueueFull`].
    pub fn submit(
        &mut self,
        args: SubmitJobArgs,
        caller: Principal,
        cache_ns: u64,
        now_ns: u64,
    ) -> Result<JobRecord, AgentError> {
        args.validate().map_err(AgentError::InvalidField)?;
        if let Some(schema) = &args.params.json_schema {
            let invalid = |error: ConstraintError| FieldError::new("params.json_schema", error.to_string());
            constraint::check(schema).map_err(|error| AgentError::InvalidField(invalid(error)))?;
        }
        if let Some(key) = &args.key
            && let Some(job_id) = self.job_of_key(caller, key)
        {
            let record = self.get(job_id)?;
            let differs = [
                ("prompt", self.prompts.get(&job_id).as_ref() != Some(&args.prompt)),
                ("messages", self.messages.get(&job_id).map(|messages| messages.0) != args.messages),
                ("params", record.params != args.params),
            ];
            return match differs.into_iter().find(|(_, differs)| *differs) {
                None => Ok(record),
                Some((field, _)) => {
                    Err(AgentError::KeyReused { key: key.clone(), job_id, field: field.to_owned() })
                }
            };
        }
        if let Some(deadline) = args.deadline_ns.filter(|deadline| *deadline <= now_ns) {
            let reason = format!("is {deadline}, which has passed");
            return Err(AgentError::InvalidField(FieldError::new("deadline_ns", reason)));
        }
        let input = match args.messages {
            Some(messages) => JobInput::Messages(messages),
            None => JobInput::Text(args.prompt),
        };
        let request = self.request(caller, &input, &args.params);
        let answer = self.answer(request, cache_ns, now_ns);
        if answer.is_none() {
            let (open_jobs, of_caller) = (self.queue.len(), self.queue.len_of(caller));
            if open_jobs >= MAX_OPEN_JOBS {
                return Err(AgentError::QueueFull { open_jobs });
            }
            if of_caller >= MAX_OPEN_JOBS_PER_CALLER {
                return Err(AgentError::CallerQueueFull { open_jobs: of_caller });
            }
        }
        let job_id = self.last.get() + 1;
        self.last.set(job_id);
        let record = JobRecord {
            job_id,
            caller,
            key: args.key,
            priority: args.priority.unwrap_or_default(),
            max_instructions: args.max_instructions,
            deadline_ns: args.deadline_ns,
            params: args.params,
            state: JobState::Queued,
            counts: JobCounts::default(),
            submitted_at_ns: now_ns,
            started_at_ns: None,
            finished_at_ns: None,
            receipt: None,
            repeats: None,
        };
        if let Some(key) = &record.key {
            self.keys.insert(stored_key(caller, key), job_id);
        }
        match input {
            JobInput::Text(prompt) => {
                self.prompts.insert(job_id, prompt);
            }
            JobInput::Messages(messages) => {
                self.prompts.insert(job_id, String::new());
                self.messages.insert(job_id, Cbor(messages));
            }
        }
        self.queue.insert(job_id, caller, record.priority, record.deadline_ns);
        let entry = JobEntry { record, attempts: 0, prompt_tokens_sha256: None, computed_at_ns: None };
        self.entries.insert(job_id, Cbor(entry));
        if let Some(source) = answer {
            self.repeat(job_id, &source, now_ns);
        }
        while self.len() > MAX_STORED_JOBS {
            self.remove_oldest_ended();
        }
        self.get(job_id)
    }

    fn job_of_key(&self, caller: Principal, key: &str) -> Option<JobId> {
        // An earlier version kept the keys of its one caller as they are, and did not name the caller.
        let unnamed = |job_id: &JobId| self.get(*job_id).is_ok_and(|it| it.caller == Principal::anonymous());
        self.keys.get(&stored_key(caller, key)).or_else(|| self.keys.get(&key.to_owned()).filter(unnamed))
    }

    fn request(&self, caller: Principal, input: &JobInput, params: &GenerationParams) -> [u8; 32] {
        let request = Request {
            caller,
            model_id: self.issuer.model_id,
            prompt_sha256: input.hash(),
            is_conversation: matches!(input, JobInput::Messages(_)),
            params,
        };
        *hash_of(&request).as_bytes()
    }

    /// The job whose answer may be given again.
    fn answer(&self, request: [u8; 32], cache_ns: u64, now_ns: u64) -> Option<JobEntry> {
        let Cbor(source) = self.entries.get(&self.answers.get(&request)?)?;
        let age_ns = now_ns.saturating_sub(source.computed_at_ns.or(source.record.finished_at_ns)?);
        (age_ns < cache_ns).then_some(source)
    }

    /// Ends a new job with the tokens of `source`.
    fn repeat(&mut self, job_id: JobId, source: &JobEntry, now_ns: u64) {
        for position in 0..source.record.counts.generated_tokens {
            if let Some(token) = self.tokens.get(&(source.record.job_id, position)) {
                self.tokens.insert((job_id, position), token);
            }
        }
        self.change(job_id, now_ns, |entry| {
            entry.prompt_tokens_sha256 = source.prompt_tokens_sha256;
            let record = &mut entry.record;
            record.counts.prompt_tokens = source.record.counts.prompt_tokens;
            record.counts.generated_tokens = source.record.counts.generated_tokens;
            record.repeats = source.record.repeats.or(source.record.receipt);
            record.state = source.record.state.clone();
            entry.computed_at_ns = source.computed_at_ns.or(source.record.finished_at_ns);
        });
    }

    /// More jobs are kept than may be open, so one of them has ended.
    fn remove_oldest_ended(&mut self) {
        let ended = self.entries.values().map(|entry| entry.0.record).find(|record| record.state.is_final());
        let Some(record) = ended else { return };
        let request = self.request(record.caller, &self.input(record.job_id), &record.params);
        if self.answers.get(&request) == Some(record.job_id) {
            self.answers.remove(&request);
        }
        self.entries.remove(&record.job_id);
        self.prompts.remove(&record.job_id);
        self.messages.remove(&record.job_id);
        for position in 0..record.counts.generated_tokens {
            self.tokens.remove(&(record.job_id, position));
        }
        if let Some(key) = record.key {
            for key in [stored_key(record.caller, &key), key] {
                if self.keys.get(&key) == Some(record.job_id) {
                    self.keys.remove(&key);
                }
            }
        }
    }

    /// A job.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`].
    pub fn get(&self, job_id: JobId) -> Result<JobRecord, AgentError> {
        self.entries.get(&job_id).map(|entry| entry.0.record).ok_or(AgentError::UnknownJob { job_id })
    }

    /// A job that has not ended.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`], [`AgentError::JobEnded`].
    pub fn get_open(&self, job_id: JobId) -> Result<JobRecord, AgentError> {
        let record = self.get(job_id)?;
        if record.state.is_final() { Err(AgentError::JobEnded { job_id }) } else { Ok(record) }
    }

    /// Number of a job's receipt.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`], [`AgentError::JobOpen`], [`AgentError::NoReceipt`].
    pub fn receipt_of(&self, job_id: JobId) -> Result<u64, AgentError> {
        let record = self.get(job_id)?;
        if !record.state.is_final() {
            return Err(AgentError::JobOpen { job_id });
        }
        record.receipt.ok_or(AgentError::NoReceipt { job_id })
    }

    /// What a job goes on from.
    pub fn input(&self, job_id: JobId) -> JobInput {
        match self.messages.get(&job_id) {
            Some(Cbor(messages)) => JobInput::Messages(messages),
            None => JobInput::Text(self.prompts.get(&job_id).unwrap_or_default()),
        }
    }

    /// What a job goes on from, as it was submitted.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`].
    pub fn prompt(&self, job_id: JobId) -> Result<JobPrompt, AgentError> {
        self.get(job_id)?;
        Ok(match self.input(job_id) {
            JobInput::Text(prompt) => JobPrompt { job_id, prompt, messages: None },
            JobInput::Messages(messages) => {
                JobPrompt { job_id, prompt: String::new(), messages: Some(messages) }
            }
        })
    }

    /// Ids of the tokens that a job has generated.
    pub fn tokens(&self, job_id: JobId) -> Vec<u32> {
        self.tokens.range((job_id, 0)..(job_id + 1, 0)).map(|entry| entry.value().0.id).collect()
    }

    /// A job and its tokens from a position on.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`].
    pub fn progress(&self, args: &JobProgressArgs) -> Result<JobProgress, AgentError> {
        let job = self.get(args.job_id)?;
        let end = args.after_token.saturating_add(MAX_PROGRESS_TOKENS).min(job.counts.generated_tokens);
        let start = args.after_token.min(end);
        let mut tokens = Vec::new();
        let mut text = String::new();
        for entry in self.tokens.range((args.job_id, start)..(args.job_id, end)) {
            let token = entry.value().0;
            tokens.push(token.id);
            text.push_str(&token.text);
        }
        Ok(JobProgress { job, tokens, text, next_token: end })
    }

    /// A page of the jobs.
    pub fn list(&self, args: &ListJobsArgs) -> JobPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = self.entries.range(first..).map(|entry| entry.value().0.record);
        let (jobs, next) = paging::page(rest, args.limit, |record| record.job_id);
        JobPage { jobs, next }
    }

    /// Cancels a job. Its tokens stay.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`], [`AgentError::JobEnded`].
    pub fn cancel(&mut self, job_id: JobId, now_ns: u64) -> Result<JobRecord, AgentError> {
        self.get_open(job_id)?;
        self.set_state(job_id, &JobState::Cancelled, now_ns);
        self.get(job_id)
    }

    /// Pauses a job until [`Self::resume`]; a paused one stays as it is.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`], [`AgentError::JobEnded`].
    pub fn pause(&mut self, job_id: JobId, now_ns: u64) -> Result<JobRecord, AgentError> {
        self.get_open(job_id)?;
        if self.queue.set_job_paused(job_id, true) {
            self.set_state(job_id, &JobState::Paused, now_ns);
        }
        self.get(job_id)
    }

    /// Lets a paused job go on; another one stays as it is.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`], [`AgentError::JobEnded`].
    pub fn resume(&mut self, job_id: JobId, now_ns: u64) -> Result<JobRecord, AgentError> {
        self.get_open(job_id)?;
        if self.queue.set_job_paused(job_id, false) {
            self.set_state(job_id, &JobState::Queued, now_ns);
        }
        self.get(job_id)
    }

    /// Pauses all jobs, or lets them go on. Jobs that are paused themselves stay so.
    pub fn set_queue_paused(&mut self, paused: bool) {
        self.queue.set_paused(paused);
    }

    /// Moves an open job on; a job that has ended stays as it is.
    pub fn set_state(&mut self, job_id: JobId, state: &JobState, now_ns: u64) {
        self.change(job_id, now_ns, |entry| {
            if *state == JobState::Running {
                entry.record.started_at_ns.get_or_insert(now_ns);
            }
            entry.record.state = state.clone();
        });
    }

    /// Fails every job that may run, as many now as one message ends; [`Self::end_due`] fails the others. A paused one meets its
    /// own fate when it goes on.
    pub fn fail_all(&mut self, reason: &JobFailure, now_ns: u64) {
        self.queue.set_failing(Some((*self.last.get(), reason.clone())));
        self.end_due(now_ns);
    }

    /// Ends the jobs that fail and those whose deadline has passed, as many as one message ends. Returns whether there are
    /// more.
    pub fn end_due(&mut self, now_ns: u64) -> bool {
        let mut left = ENDED_TOKENS;
        if let Some((last, reason)) = self.queue.failing() {
            let failing: Vec<JobId> =
                self.queue.ready().into_iter().filter(|job_id| *job_id <= last).collect();
            let state = JobState::Failed { reason };
            if !self.end_within(&failing, &state, &mut left, now_ns) {
                return true;
            }
            self.queue.set_failing(None);
        }
        let state = JobState::Done { reason: FinishReason::Deadline };
        !self.end_within(&self.queue.overdue(now_ns), &state, &mut left, now_ns)
    }

    /// Ends `jobs` until they have had `left` tokens; returns whether all have ended.
    fn end_within(&mut self, jobs: &[JobId], state: &JobState, left: &mut u64, now_ns: u64) -> bool {
        for &job_id in jobs {
            let tokens = self.get(job_id).map_or(0, |record| u64::from(record.counts.generated_tokens));
            if tokens > *left && *left < ENDED_TOKENS {
                return false;
            }
            *left = left.saturating_sub(tokens);
            self.set_state(job_id, state, now_ns);
        }
        true
    }

    /// The jobs that share passes with `job_id`, which comes first, at most `width` in all: those of class batch that may run
    /// and have no budget of instructions, which only a job alone keeps to the step. After a trap a job is alone, so that
    /// others don't fail it again.
    pub fn together(&self, job_id: JobId, width: usize) -> Vec<JobId> {
        let shares = |job_id: &JobId| {
            let entry = self.entries.get(job_id).map(|entry| entry.0);
            entry.is_some_and(|it| it.record.max_instructions.is_none() && it.attempts <= 1)
        };
        let batch = self.queue.ready_of(Priority::Batch);
        if !batch.contains(&job_id) || !shares(&job_id) {
            return vec![job_id];
        }
        let others = batch.into_iter().filter(|other| *other != job_id && shares(other));
        std::iter::once(job_id).chain(others.take(width.saturating_sub(1))).collect()
    }

    /// Journals that the balance does not cover a slice of the job, or (`None`) that there are cycles again.
    pub fn set_shortage(&mut self, shortage: Option<(JobId, CyclesShortage)>, now_ns: u64) {
        if let Some((earlier, _)) = self.queue.shortage()
            && shortage.is_none_or(|(job_id, _)| job_id != earlier)
            && self.get(earlier).is_ok_and(|record| matches!(record.state, JobState::OutOfCycles(_)))
        {
            self.set_state(earlier, &JobState::Queued, now_ns);
        }
        if let Some((job_id, shortage)) = shortage {
            self.set_state(job_id, &JobState::OutOfCycles(shortage), now_ns);
        }
        if self.queue.shortage() != shortage {
            self.queue.set_shortage(shortage);
        }
    }

    /// Journals that a slice of the job is about to begin; returns which attempt of this slice it is, from 1.
    pub fn begin_attempt(&mut self, job_id: JobId) -> u32 {
        self.queue.begin_turn(job_id);
        let mut attempts = 0;
        self.change(job_id, 0, |entry| {
            entry.attempts += 1;
            attempts = entry.attempts;
        });
        attempts
    }

    /// Which attempt of its slice the job is at.
    pub fn attempt(&self, job_id: JobId) -> u32 {
        self.entries.get(&job_id).map_or(0, |entry| entry.0.attempts)
    }

    /// Journals that the slice did not run, for a reason that is not its own.
    pub fn forget_attempts(&mut self, job_id: JobId) {
        self.change(job_id, 0, |entry| entry.attempts = 0);
    }

    /// Journals that the slice trapped. After [`MAX_ATTEMPTS`] the job fails; an attempt after which the next one has other
    /// conditions does not count.
    pub fn trapped(&mut self, job_id: JobId, message: &str, counts: bool, now_ns: u64) {
        let mut attempts = 0;
        self.change(job_id, now_ns, |entry| {
            entry.record.counts.trapped_slices += 1;
            if !counts {
                entry.attempts = 0;
            }
            attempts = entry.attempts;
        });
        if attempts >= MAX_ATTEMPTS {
            let reason = JobFailure::SliceTrapped { attempts, message: message.to_owned() };
            self.set_state(job_id, &JobState::Failed { reason }, now_ns);
        }
    }

    /// Stores which tokens the job's prompt has, and of how many tokens the cache was taken over.
    pub fn taken_up(&mut self, job_id: JobId, prompt: &[u32], reused: usize) {
        self.change(job_id, 0, |entry| {
            let counts = &mut entry.record.counts;
            counts.prompt_tokens = prompt.len() as u32;
            if reused > 0 {
                counts.reused_tokens = Some(counts.reused_tokens.unwrap_or(0) + reused as u32);
            }
            entry.prompt_tokens_sha256 = Some(hash_tokens(prompt.iter().copied()));
        });
    }

    /// Stores what a slice has produced and used.
    pub fn slice_done(&mut self, job_id: JobId, tokens: Vec<(u32, String)>, instructions: u64) {
        let Some(Cbor(mut entry)) = self.entries.get(&job_id) else { return };
        let counts = &mut entry.record.counts;
        for (id, text) in tokens {
            self.tokens.insert((job_id, counts.generated_tokens), Cbor(TokenEntry { id, text }));
            counts.generated_tokens += 1;
        }
        counts.instructions += instructions;
        counts.messages += 1;
        entry.attempts = 0;
        self.entries.insert(job_id, Cbor(entry));
    }

    fn change(&mut self, job_id: JobId, now_ns: u64, change: impl FnOnce(&mut JobEntry)) {
        let Some(Cbor(mut entry)) = self.entries.get(&job_id) else { return };
        if entry.record.state.is_final() {
            return;
        }
        change(&mut entry);
        if entry.record.state.is_final() {
            self.end(&mut entry, now_ns);
        }
        self.entries.insert(job_id, Cbor(entry));
    }

    /// What follows from the end of a job: it leaves the queue, gets its receipt, and its answer may be given again.
    fn end(&mut self, entry: &mut JobEntry, now_ns: u64) {
        entry.record.finished_at_ns = Some(now_ns);
        let job_id = entry.record.job_id;
        self.ended.push(job_id);
        self.queue.remove(job_id);
        self.quota.job_ended(&entry.record, now_ns);
        let input = self.input(job_id);
        entry.record.receipt = self.give_receipt(entry, input.hash(), now_ns);
        let lasting = matches!(&entry.record.state, JobState::Done { reason } if reason.is_deterministic());
        if lasting {
            let request = self.request(entry.record.caller, &input, &entry.record.params);
            self.answers.insert(request, job_id);
        }
    }

    fn give_receipt(&mut self, entry: &JobEntry, prompt_sha256: Digest, now_ns: u64) -> Option<u64> {
        let record = &entry.record;
        let outcome = match record.state.clone() {
            JobState::Done { reason } => Outcome::Done { reason },
            JobState::Failed { reason } => Outcome::Failed { reason },
            JobState::Cancelled => Outcome::Cancelled,
            _ => return None,
        };
        let (mut tokens, mut text) = (Vec::new(), Sha256::new());
        for token in self.tokens.range((record.job_id, 0)..(record.job_id + 1, 0)) {
            let token = token.value().0;
            tokens.push(token.id);
            text.update(token.text);
        }
        Some(self.receipts.append(Receipt {
            sequence: 0,
            previous: Digest::ZERO,
            agent: self.issuer.agent,
            job_id: record.job_id,
            caller: record.caller,
            model_id: self.issuer.model_id,
            engine_version: novaq_engine::VERSION.to_owned(),
            prompt_sha256,
            prompt_tokens_sha256: entry.prompt_tokens_sha256,
            prompt_tokens: record.counts.prompt_tokens,
            params: record.params.clone(),
            tokens: tokens.len() as u32,
            tokens_sha256: hash_tokens(tokens),
            text_sha256: Digest::new(text.finalize().into()),
            outcome,
            instructions: record.counts.instructions,
            repeats: record.repeats,
            submitted_at_ns: record.submitted_at_ns,
            started_at_ns: record.started_at_ns,
            finished_at_ns: now_ns,
        }))
    }
}

/// Keys belong to their callers: a principal's text has no space in it.
fn stored_key(caller: Principal, key: &str) -> String {
    format!("{caller} {key}")
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
