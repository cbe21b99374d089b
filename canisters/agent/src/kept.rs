//! Caches of keys and values that are kept after their job has ended or was interrupted: for the job that goes on, and for
//! another one of the same caller that begins with the same tokens.
//!
//! Only a caller's own jobs are looked at: neither counts nor time tell one caller what another has asked. They tell how busy
//! the agent is, since what was kept first leaves first. An upgrade loses all of them, and with them only time.

use std::collections::VecDeque;

use candid::Principal;
use novaq_engine::text::TextGeneration;
use shared_types::agent::JobId;

/// Most caches that are kept.
pub const MAX_KEPT: usize = 16;

/// A text with its cache.
struct Entry {
    caller: Principal,
    job_id: JobId,
    text: TextGeneration,
}

/// What is kept, oldest first.
#[derive(Default)]
pub struct Kept(VecDeque<Entry>);

impl Kept {
    /// Caches that are kept.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|entry| entry.text.generation().cache_bytes() as u64).sum()
    }

    /// Keeps the text of a job of `caller`, in place of those of the same caller whose caches it holds as well.
    pub fn keep(&mut self, caller: Principal, job_id: JobId, text: TextGeneration) {
        let new = text.generation();
        if new.cached() == 0 {
            return;
        }
        self.0.retain(|entry| {
            let old = entry.text.generation();
            let covered = old.cached() <= new.cached() && new.shared_with(old) >= old.cached();
            entry.caller != caller || !covered
        });
        self.0.push_back(Entry { caller, job_id, text });
        if self.0.len() > MAX_KEPT {
            self.drop_oldest();
        }
    }

    /// Gives up the oldest; returns whether there was one.
    pub fn drop_oldest(&mut self) -> bool {
        self.0.pop_front().is_some()
    }

    /// Takes the text of a job, to go on with it.
    pub fn take(&mut self, job_id: JobId) -> Option<TextGeneration> {
        let at = self.0.iter().position(|entry| entry.job_id == job_id)?;
        self.0.remove(at).map(|entry| entry.text)
    }

    /// The text of a job of `caller` with which `text` has most in common.
    pub fn most_like(&self, caller: Principal, text: &TextGeneration) -> Option<&TextGeneration> {
        let own = self.0.iter().filter(|entry| entry.caller == caller).map(|entry| &entry.text);
        own.max_by_key(|other| text.generation().shared_with(other.generation()))
    }
}
