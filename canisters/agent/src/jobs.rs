//! Jobs: a queue in order of submission, what each has produced, and what it took.

use canister_common::cbor::Cbor;
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::agent::{
    AgentError, ChatMessage, JobCounts, JobFailure, JobId, JobPage, JobProgress, JobProgressArgs, JobRecord,
    JobState, ListJobsArgs, MAX_OPEN_JOBS, MAX_PROGRESS_TOKENS, MAX_STORED_JOBS, SubmitJobArgs,
};
use shared_types::paging;

use crate::memory::Memory;

/// Attempts of one slice before the job fails.
pub const MAX_ATTEMPTS: u32 = 3;

/// A job and what its next slice needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct JobEntry {
    record: JobRecord,
    /// Attempts of the slice under way: written before it begins, so that a trap can't undo it.
    attempts: u32,
}

/// What a job goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobInput {
    /// A text to continue.
    Text(String),
    /// A conversation to answer.
    Messages(Vec<ChatMessage>),
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TokenEntry {
    id: u32,
    /// The text that it completed.
    text: String,
}

/// All jobs.
pub struct Jobs {
    entries: StableBTreeMap<JobId, Cbor<JobEntry>, Memory>,
    open: StableBTreeMap<JobId, (), Memory>,
    prompts: StableBTreeMap<JobId, String, Memory>,
    messages: StableBTreeMap<JobId, Cbor<Vec<ChatMessage>>, Memory>,
    tokens: StableBTreeMap<(JobId, u32), Cbor<TokenEntry>, Memory>,
    keys: StableBTreeMap<String, JobId, Memory>,
    last: StableCell<JobId, Memory>,
}

impl Jobs {
    /// Opens what the memories hold.
    pub fn open(
        jobs: Memory,
        open: Memory,
        prompts: Memory,
        messages: Memory,
        tokens: Memory,
        keys: Memory,
        last: Memory,
    ) -> Self {
        Self {
            entries: StableBTreeMap::init(jobs),
            open: StableBTreeMap::init(open),
            prompts: StableBTreeMap::init(prompts),
            messages: StableBTreeMap::init(messages),
            tokens: StableBTreeMap::init(tokens),
            keys: StableBTreeMap::init(keys),
            last: StableCell::init(last, 0),
        }
    }

    /// Jobs kept.
    pub fn len(&self) -> u64 {
        self.entries.len()
    }

    /// Whether no job is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Jobs that wait or run.
    pub fn open_jobs(&self) -> u64 {
        self.open.len()
    }

    /// The job whose turn it is.
    pub fn head(&self) -> Option<JobId> {
        self.open.first_key_value().map(|(job_id, ())| job_id)
    }

    /// Puts a job into the queue, or finds the one that the same key made before.
    ///
    /// # Errors
    /// [`AgentError::InvalidField`], [`AgentError::KeyReused`], [`AgentError::QueueFull`].
    pub fn submit(&mut self, args: SubmitJobArgs, now_ns: u64) -> Result<JobRecord, AgentError> {
        args.validate().map_err(AgentError::InvalidField)?;
        if let Some(key) = &args.key
            && let Some(job_id) = self.keys.get(key)
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
        let open_jobs = self.open_jobs();
        if open_jobs >= MAX_OPEN_JOBS {
            return Err(AgentError::QueueFull { open_jobs });
        }
        while self.len() >= MAX_STORED_JOBS {
            self.remove_oldest_ended();
        }
        let job_id = self.last.get() + 1;
        self.last.set(job_id);
        let record = JobRecord {
            job_id,
            key: args.key,
            params: args.params,
            state: JobState::Queued,
            counts: JobCounts::default(),
            submitted_at_ns: now_ns,
            started_at_ns: None,
            finished_at_ns: None,
        };
        if let Some(key) = &record.key {
            self.keys.insert(key.clone(), job_id);
        }
        self.prompts.insert(job_id, args.prompt);
        if let Some(messages) = args.messages {
            self.messages.insert(job_id, Cbor(messages));
        }
        self.open.insert(job_id, ());
        self.entries.insert(job_id, Cbor(JobEntry { record: record.clone(), attempts: 0 }));
        Ok(record)
    }

    /// More jobs are kept than may be open, so one of them has ended.
    fn remove_oldest_ended(&mut self) {
        let ended = self.entries.values().map(|entry| entry.0.record).find(|record| record.state.is_final());
        let Some(record) = ended else { return };
        self.entries.remove(&record.job_id);
        self.prompts.remove(&record.job_id);
        self.messages.remove(&record.job_id);
        for position in 0..record.counts.generated_tokens {
            self.tokens.remove(&(record.job_id, position));
        }
        if let Some(key) = record.key {
            self.keys.remove(&key);
        }
    }

    /// A job.
    ///
    /// # Errors
    /// [`AgentError::UnknownJob`].
    pub fn get(&self, job_id: JobId) -> Result<JobRecord, AgentError> {
        self.entries.get(&job_id).map(|entry| entry.0.record).ok_or(AgentError::UnknownJob { job_id })
    }

    /// What a job goes on from.
    pub fn input(&self, job_id: JobId) -> JobInput {
        match self.messages.get(&job_id) {
            Some(Cbor(messages)) => JobInput::Messages(messages),
            None => JobInput::Text(self.prompts.get(&job_id).unwrap_or_default()),
        }
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
        if self.get(job_id)?.state.is_final() {
            return Err(AgentError::JobEnded { job_id });
        }
        self.set_state(job_id, &JobState::Cancelled, now_ns);
        self.get(job_id)
    }

    /// Moves an open job on; a job that has ended stays as it is.
    pub fn set_state(&mut self, job_id: JobId, state: &JobState, now_ns: u64) {
        self.change(job_id, |entry| {
            if *state == JobState::Running {
                entry.record.started_at_ns.get_or_insert(now_ns);
            }
            if state.is_final() {
                entry.record.finished_at_ns = Some(now_ns);
            }
            entry.record.state = state.clone();
        });
    }

    /// Fails every open job.
    pub fn fail_all(&mut self, reason: &JobFailure, now_ns: u64) {
        while let Some(job_id) = self.head() {
            self.set_state(job_id, &JobState::Failed { reason: reason.clone() }, now_ns);
        }
    }

    /// Journals that a slice of the job is about to begin; returns which attempt of this slice it is, from 1.
    pub fn begin_attempt(&mut self, job_id: JobId) -> u32 {
        let mut attempts = 0;
        self.change(job_id, |entry| {
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
        self.change(job_id, |entry| entry.attempts = 0);
    }

    /// Journals that the slice trapped. After [`MAX_ATTEMPTS`] the job fails.
    pub fn trapped(&mut self, job_id: JobId, message: &str, now_ns: u64) {
        let mut attempts = 0;
        self.change(job_id, |entry| {
            entry.record.counts.trapped_slices += 1;
            attempts = entry.attempts;
        });
        if attempts >= MAX_ATTEMPTS {
            let reason = JobFailure::SliceTrapped { attempts, message: message.to_owned() };
            self.set_state(job_id, &JobState::Failed { reason }, now_ns);
        }
    }

    /// Stores what a slice has produced and used.
    pub fn slice_done(
        &mut self,
        job_id: JobId,
        prompt_tokens: u32,
        tokens: Vec<(u32, String)>,
        instructions: u64,
    ) {
        let Some(Cbor(mut entry)) = self.entries.get(&job_id) else { return };
        let counts = &mut entry.record.counts;
        for (id, text) in tokens {
            self.tokens.insert((job_id, counts.generated_tokens), Cbor(TokenEntry { id, text }));
            counts.generated_tokens += 1;
        }
        counts.prompt_tokens = prompt_tokens;
        counts.instructions += instructions;
        counts.messages += 1;
        entry.attempts = 0;
        self.entries.insert(job_id, Cbor(entry));
    }

    fn change(&mut self, job_id: JobId, change: impl FnOnce(&mut JobEntry)) {
        let Some(Cbor(mut entry)) = self.entries.get(&job_id) else { return };
        if entry.record.state.is_final() {
            return;
        }
        change(&mut entry);
        if entry.record.state.is_final() {
            self.open.remove(&job_id);
        }
        self.entries.insert(job_id, Cbor(entry));
    }
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
