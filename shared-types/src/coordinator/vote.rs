//! Consensus: several agents answer, the answer that enough of them give is taken.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::task::TaskId;
use crate::digest::Digest;

/// What happens when no answer has a quorum.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoQuorum {
    /// The task fails.
    Fail,
    /// The answer with most votes is taken; of several, the one whose first voter comes first.
    Plurality,
}

/// How a vote is decided.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteRule {
    /// Equal answers that decide, at least 1 and at most as many as there are voters.
    pub quorum: u32,
    /// Nanoseconds after the project began to run at which the answers that are there decide; absent: all voters are waited for.
    pub timeout_ns: Option<u64>,
    /// What happens when no answer has a quorum.
    pub no_quorum: NoQuorum,
}

/// The answer of one voter.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// The task that made it.
    pub task: TaskId,
    /// SHA-256 of the answer in its canonical form: equal answers are equal here.
    pub canonical_sha256: Digest,
}

/// How a vote ended.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOutcome {
    /// An answer has a quorum.
    Quorum,
    /// None has, and the one with most votes was taken.
    Plurality,
    /// None has, and the task failed.
    NoQuorum,
    /// There was no answer.
    NoBallot,
}

/// The evidence of a vote.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it ended.
    pub outcome: VoteOutcome,
    /// Whether it ended by its timeout.
    pub timed_out: bool,
    /// The answers that counted, by task.
    pub ballots: Vec<Ballot>,
    /// Votes for the answer that was taken, or would have been.
    pub votes: u32,
    /// The task whose answer was taken.
    pub winner: Option<TaskId>,
}
