//! What jobs take from their owner's quota at `econ`: reserved before a job may run, settled with what it took when it has ended.
//!
//! An entry stands for the reservation of a job. It is made with the job, and goes when nothing is held at `econ` any more. Calls can be
//! repeated: the same key is the same reservation, and a settlement answers again as at first. So an answer that is lost costs time and
//! nothing else.
//!
//! Invariant: a job that needs quota runs only while its reservation holds.

use canister_common::cbor::Cbor;
use ic_stable_structures::StableBTreeMap;
use serde::{Deserialize, Serialize};
use shared_types::agent::{JobId, JobRecord};
use shared_types::econ::quota::REMEMBERED_NS;
use shared_types::econ::{ReservationId, UsageEnvelope};

use crate::memory::Memory;

const SECOND: u64 = 1_000_000_000;

/// How long a reservation holds, and with it how long a job has to end; `econ` lets it hold for a day.
const RESERVATION_NS: u64 = 23 * 3_600 * SECOND;

/// Longest wait between two attempts of a call.
const MAX_BACKOFF_NS: u64 = 120 * SECOND;

/// Attempts to reserve before the job fails: with waits that double, about ten minutes.
const MAX_RESERVE_ATTEMPTS: u32 = 12;

/// Calls that are begun at the same time.
const AT_ONCE: usize = 8;

/// Tokens that a chat template puts around a message, and around the whole: those of the bundled and the published ones have fewer.
const TEMPLATE_TOKENS: u64 = 16;

/// The reservation of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Most tokens that the job takes.
    tokens: u64,
    /// When the reservation ends by itself.
    expires_ns: u64,
    /// Whether a call to reserve was begun: from then on something may be held.
    begun: bool,
    /// The reservation, once it is known.
    reservation: Option<ReservationId>,
    /// What the job took, once it has ended.
    usage: Option<UsageEnvelope>,
    /// Attempts of the next call that failed.
    failed: u32,
    /// When the next call is made.
    due_ns: u64,
}

/// A call that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Reserves tokens until a time, or finds out what was reserved.
    Reserve {
        /// Most tokens that the job takes.
        tokens: u64,
        /// When the reservation ends by itself.
        expires_ns: u64,
    },
    /// Settles a reservation.
    Settle(ReservationId, UsageEnvelope),
}

/// What becomes of a job when `econ` has answered, or has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Nothing,
    /// It may run until this time.
    Funded(u64),
    /// It can't have its tokens.
    Refused(String),
}

/// Most tokens that a job can take: a token has a byte of the prompt at least, and what templates add.
pub fn most_tokens(prompt_bytes: usize, messages: usize, context: Option<usize>, max_tokens: u32) -> u64 {
    let template = TEMPLATE_TOKENS.saturating_mul(messages as u64 + 1);
    let prompt = template.saturating_add(prompt_bytes as u64);
    prompt.min(context.map_or(u64::MAX, |context| context as u64)).saturating_add(max_tokens.into())
}

fn usage_of(job: &JobRecord) -> UsageEnvelope {
    let counts = &job.counts;
    UsageEnvelope {
        latency_ns: job.finished_at_ns.unwrap_or(job.submitted_at_ns).saturating_sub(job.submitted_at_ns),
        tokens_in: u64::from(counts.prompt_tokens),
        tokens_out: u64::from(counts.generated_tokens),
        instructions: counts.instructions,
        cycles: 0,
    }
}

/// The reservations of jobs, ended ones among them that are not settled.
pub struct Quota {
    entries: StableBTreeMap<JobId, Cbor<Entry>, Memory>,
    /// Whether a call has become due that was not asked for yet.
    has_new: bool,
}

impl Quota {
    /// Opens what the memory holds.
    pub fn open(memory: Memory) -> Self {
        Self { entries: StableBTreeMap::init(memory), has_new: false }
    }

    /// Reservations that are wanted or held.
    pub fn len(&self) -> u64 {
        self.entries.len()
    }

    /// Whether nothing is held or wanted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Jobs with an entry.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.entries.keys()
    }

    /// Has `tokens` reserved for a new job.
    pub fn want(&mut self, job_id: JobId, tokens: u64, now_ns: u64) {
        let entry = Entry {
            tokens,
            expires_ns: now_ns.saturating_add(RESERVATION_NS),
            begun: false,
            reservation: None,
            usage: None,
            failed: 0,
            due_ns: now_ns,
        };
        self.entries.insert(job_id, Cbor(entry));
        self.has_new = true;
    }

    /// The job has ended: what it took is to be settled, if anything may be held.
    pub fn job_ended(&mut self, job: &JobRecord, now_ns: u64) {
        let Some(Cbor(mut entry)) = self.entries.get(&job.job_id) else { return };
        if !entry.begun {
            self.entries.remove(&job.job_id);
            return;
        }
        entry.usage = Some(usage_of(job));
        (entry.failed, entry.due_ns) = (0, now_ns);
        self.entries.insert(job.job_id, Cbor(entry));
        self.has_new = true;
    }

    /// Whether a call has become due since this was asked last.
    pub fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.has_new)
    }

    /// Whether a call is due now or later.
    pub fn is_busy(&self) -> bool {
        self.entries.values().any(|entry| entry.0.call().is_some())
    }

    /// Jobs for which a call is due and none is under way, some of them.
    pub fn due(&self, is_under_way: impl Fn(JobId) -> bool, now_ns: u64) -> Vec<JobId> {
        let due = self.entries.iter().map(|entry| (*entry.key(), entry.value().0));
        due.filter(|(_, entry)| entry.due_ns <= now_ns && entry.call().is_some())
            .map(|(job_id, _)| job_id)
            .filter(|job_id| !is_under_way(*job_id))
            .take(AT_ONCE)
            .collect()
    }

    /// Journals that a job's call is about to be made.
    pub fn begin(&mut self, job_id: JobId) -> Option<Due> {
        let Cbor(mut entry) = self.entries.get(&job_id)?;
        let due = entry.call()?;
        if !entry.begun {
            entry.begun = true;
            self.entries.insert(job_id, Cbor(entry));
        }
        Some(due)
    }

    /// A reservation was made, or found.
    pub fn reserved(&mut self, job_id: JobId, reservation: ReservationId, now_ns: u64) -> Verdict {
        let Some(Cbor(mut entry)) = self.entries.get(&job_id) else { return Verdict::Nothing };
        entry.reservation = Some(reservation);
        (entry.failed, entry.due_ns) = (0, now_ns);
        let verdict =
            if entry.usage.is_none() { Verdict::Funded(entry.expires_ns) } else { Verdict::Nothing };
        self.entries.insert(job_id, Cbor(entry));
        verdict
    }

    /// `econ` reserves nothing, or there is nothing left to settle.
    pub fn over(&mut self, job_id: JobId, reason: String) -> Verdict {
        match self.entries.remove(&job_id) {
            Some(Cbor(entry)) if entry.usage.is_none() && entry.reservation.is_none() => {
                Verdict::Refused(reason)
            }
            _ => Verdict::Nothing,
        }
    }

    /// A call brought no answer, or a refusal that may pass. A reservation is tried for some minutes, a settlement as long as `econ` knows
    /// the reservation.
    pub fn failed(&mut self, job_id: JobId, reason: String, now_ns: u64) -> Verdict {
        let Some(Cbor(mut entry)) = self.entries.get(&job_id) else { return Verdict::Nothing };
        entry.failed = entry.failed.saturating_add(1);
        let backoff = SECOND.saturating_mul(1 << entry.failed.min(20));
        entry.due_ns = now_ns.saturating_add(backoff.min(MAX_BACKOFF_NS));
        if entry.usage.is_some() {
            if now_ns > entry.expires_ns.saturating_add(REMEMBERED_NS) {
                self.entries.remove(&job_id);
            } else {
                self.entries.insert(job_id, Cbor(entry));
            }
            return Verdict::Nothing;
        }
        let gives_up = entry.failed >= MAX_RESERVE_ATTEMPTS;
        self.entries.insert(job_id, Cbor(entry));
        if gives_up { Verdict::Refused(reason) } else { Verdict::Nothing }
    }
}

impl Entry {
    /// The next call; none while the job runs.
    fn call(&self) -> Option<Due> {
        match (self.reservation, self.usage) {
            (None, _) => Some(Due::Reserve { tokens: self.tokens, expires_ns: self.expires_ns }),
            (Some(reservation), Some(usage)) => Some(Due::Settle(reservation, usage)),
            (Some(_), None) => None,
        }
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
