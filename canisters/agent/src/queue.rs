//! Whose turn it is.
//!
//! A job has a level, from 0: that of its class, less one for each [`AGEING_TURNS`] turns that began while it waited. The
//! lowest level comes first. Within a level callers take turns: the one comes first who has waited longest since its last
//! turn, or since its oldest job came if that is later, so that a new caller does not overtake those who wait. A caller's
//! jobs of one level run in the order of their numbers. A job that has begun keeps its turn until it ends, is paused, or
//! a job comes whose class alone is above the level at which it began.
//!
//! Everything that decides is in stable memory and counts turns, not time: the order is a function of what happened.

use std::collections::BTreeMap;

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::agent::{CyclesShortage, JobFailure, JobId, Priority};

use crate::memory::{Memory, QueueMemories};

/// Turns after which a job that waits rises by a level.
pub const AGEING_TURNS: u64 = 8;

/// What the queue knows of a job that waits or runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who submitted it.
    pub caller: Principal,
    /// Its class.
    pub priority: Priority,
    /// When it ends at the latest.
    pub deadline_ns: Option<u64>,
    /// Turns that had begun when it came.
    pub since: u64,
    /// Whether it waits for `resume_job`.
    pub paused: bool,
    /// Whether it waits for its owner's quota.
    #[serde(default)]
    pub unfunded: bool,
}

impl Waiting {
    fn is_ready(&self) -> bool {
        !self.paused && !self.unfunded
    }
}

/// The turn under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Turn {
    job_id: JobId,
    /// The job's level when its turn began.
    level: u64,
}

/// What is not about a single job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct QueueState {
    /// Turns that have begun.
    turns: u64,
    turn: Option<Turn>,
    /// The number of each caller's last turn, of callers with open jobs.
    served: BTreeMap<Principal, u64>,
    paused: bool,
    /// The balance did not cover a slice of this job.
    shortage: Option<(JobId, CyclesShortage)>,
    /// The jobs up to this number fail: more than one message ends.
    #[serde(default)]
    failing: Option<(JobId, JobFailure)>,
}

/// The jobs that wait or run.
pub struct Queue {
    waiting: StableBTreeMap<JobId, Cbor<Waiting>, Memory>,
    state: StableCell<Cbor<QueueState>, Memory>,
}

/// Level of a class, before ageing.
fn class(priority: Priority) -> u64 {
    match priority {
        Priority::RealTime => 0,
        Priority::Standard => 1,
        Priority::Batch => 2,
    }
}

impl Queue {
    /// Opens what the memories hold. Jobs that an earlier version left open come in as standard jobs of one caller.
    pub fn open(memories: QueueMemories) -> Self {
        let mut queue = Self {
            waiting: StableBTreeMap::init(memories.waiting),
            state: StableCell::init(memories.state, Cbor::default()),
        };
        let mut open: StableBTreeMap<JobId, (), Memory> = StableBTreeMap::init(memories.open_jobs);
        while let Some((job_id, ())) = open.pop_first() {
            queue.insert(job_id, Principal::anonymous(), Priority::Standard, None);
        }
        queue
    }

    fn update(&mut self, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.state.get().0.clone();
        change(&mut state);
        self.state.set(Cbor(state));
    }

    /// Jobs that wait or run.
    pub fn len(&self) -> u64 {
        self.waiting.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Jobs of `caller` that wait or run.
    pub fn len_of(&self, caller: Principal) -> u64 {
        self.waiting.values().filter(|waiting| waiting.0.caller == caller).count() as u64
    }

    /// Puts a job in.
    pub fn insert(&mut self, job_id: JobId, caller: Principal, priority: Priority, deadline_ns: Option<u64>) {
        let since = self.state.get().0.turns;
        let waiting = Waiting { caller, priority, deadline_ns, since, paused: false, unfunded: false };
        self.waiting.insert(job_id, Cbor(waiting));
    }

    /// Takes a job out that has ended.
    pub fn remove(&mut self, job_id: JobId) {
        let Some(Cbor(gone)) = self.waiting.remove(&job_id) else { return };
        let last_of_caller = self.len_of(gone.caller) == 0;
        self.update(|state| {
            state.turn.take_if(|turn| turn.job_id == job_id);
            state.shortage.take_if(|(job, _)| *job == job_id);
            if last_of_caller {
                state.served.remove(&gone.caller);
            }
        });
    }

    /// The job whose turn it is.
    pub fn head(&self) -> Option<JobId> {
        let state = &self.state.get().0;
        if state.paused {
            return None;
        }
        let ready: Vec<(JobId, Waiting)> = self
            .waiting
            .iter()
            .map(|entry| (*entry.key(), entry.value().0))
            .filter(|(_, it)| it.is_ready())
            .collect();
        if let Some(turn) = state.turn
            && ready.iter().any(|(job_id, _)| *job_id == turn.job_id)
            && !ready.iter().any(|(_, job)| class(job.priority) < turn.level)
        {
            return Some(turn.job_id);
        }
        // When each caller began to wait, by level.
        let mut waits: BTreeMap<(u64, Principal), u64> = BTreeMap::new();
        for (_, job) in &ready {
            let since = waits.entry((state.level(job), job.caller)).or_insert(u64::MAX);
            *since = job.since.min(*since);
        }
        let order = |(job_id, job): &(JobId, Waiting)| {
            let level = state.level(job);
            let since = waits.get(&(level, job.caller)).copied().unwrap_or(job.since);
            let served = state.served.get(&job.caller).copied().unwrap_or(0);
            (level, since.max(served), *job_id)
        };
        ready.iter().min_by_key(|job| order(job)).map(|(job_id, _)| *job_id)
    }

    /// The job whose turn has begun, unless it was paused since.
    pub fn in_service(&self) -> Option<JobId> {
        let state = &self.state.get().0;
        let turn = state.turn.filter(|_| !state.paused)?;
        self.waiting.get(&turn.job_id).filter(|waiting| waiting.0.is_ready()).map(|_| turn.job_id)
    }

    /// Journals that the turn of `job_id` begins, or goes on.
    pub fn begin_turn(&mut self, job_id: JobId) {
        let Some(Cbor(job)) = self.waiting.get(&job_id) else { return };
        self.update(|state| {
            if state.turn.is_none_or(|turn| turn.job_id != job_id) {
                let level = state.level(&job);
                state.turns += 1;
                state.turn = Some(Turn { job_id, level });
                state.served.insert(job.caller, state.turns);
            }
        });
    }

    /// Jobs that may run, in the order of their numbers.
    pub fn ready(&self) -> Vec<JobId> {
        self.ready_if(|_| true)
    }

    /// Jobs of a class that may run, in the order of their numbers.
    pub fn ready_of(&self, priority: Priority) -> Vec<JobId> {
        self.ready_if(|waiting| waiting.priority == priority)
    }

    fn ready_if(&self, wanted: impl Fn(&Waiting) -> bool) -> Vec<JobId> {
        if self.is_paused() {
            return Vec::new();
        }
        let waiting = self.waiting.iter().map(|entry| (*entry.key(), entry.value().0));
        waiting.filter(|(_, it)| it.is_ready() && wanted(it)).map(|(job_id, _)| job_id).collect()
    }

    /// The jobs up to this number that may run fail for this reason, as far as they have not yet.
    pub fn failing(&self) -> Option<(JobId, JobFailure)> {
        self.state.get().0.failing.clone()
    }

    /// Journals that the jobs up to a number fail, or that all of them have.
    pub fn set_failing(&mut self, failing: Option<(JobId, JobFailure)>) {
        self.update(|state| state.failing = failing);
    }

    /// Jobs whose deadline has passed.
    pub fn overdue(&self, now_ns: u64) -> Vec<JobId> {
        let overdue = |waiting: &Waiting| waiting.deadline_ns.is_some_and(|deadline| deadline <= now_ns);
        self.waiting.iter().filter(|entry| overdue(&entry.value().0)).map(|entry| *entry.key()).collect()
    }

    /// Pauses a job or lets it go on; returns whether that changed anything.
    pub fn set_job_paused(&mut self, job_id: JobId, paused: bool) -> bool {
        let Some(Cbor(mut job)) = self.waiting.get(&job_id) else { return false };
        if job.paused == paused {
            return false;
        }
        job.paused = paused;
        self.waiting.insert(job_id, Cbor(job));
        true
    }

    /// Has a job wait until [`Self::fund`].
    pub fn await_quota(&mut self, job_id: JobId) {
        if let Some(Cbor(job)) = self.waiting.get(&job_id) {
            self.waiting.insert(job_id, Cbor(Waiting { unfunded: true, ..job }));
        }
    }

    /// A job has its quota until a time: it may run, and ends by then.
    pub fn fund(&mut self, job_id: JobId, until_ns: u64) {
        if let Some(Cbor(job)) = self.waiting.get(&job_id) {
            let deadline_ns = Some(job.deadline_ns.map_or(until_ns, |deadline| deadline.min(until_ns)));
            self.waiting.insert(job_id, Cbor(Waiting { unfunded: false, deadline_ns, ..job }));
        }
    }

    /// Whether all jobs wait for `resume_queue`.
    pub fn is_paused(&self) -> bool {
        self.state.get().0.paused
    }

    /// Pauses all jobs, or lets them go on.
    pub fn set_paused(&mut self, paused: bool) {
        self.update(|state| state.paused = paused);
    }

    /// The job that waits for cycles, and how many there were and are needed.
    pub fn shortage(&self) -> Option<(JobId, CyclesShortage)> {
        self.state.get().0.shortage
    }

    /// Journals that a job waits for cycles, or does so no more.
    pub fn set_shortage(&mut self, shortage: Option<(JobId, CyclesShortage)>) {
        self.update(|state| state.shortage = shortage);
    }
}

impl QueueState {
    fn level(&self, job: &Waiting) -> u64 {
        class(job.priority).saturating_sub((self.turns - job.since.min(self.turns)) / AGEING_TURNS)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
