//! A transfer on a ledger, as a machine that decides on steps and hears of their outcome.
//!
//! The machine makes no call. [`Transfer::next`] names the step; the caller journals it with [`Transfer::begun`], performs it, and
//! reports with [`Transfer::answered`]. Whatever fails or is repeated, a transfer ends as [`Phase::Done`] only with the ledger's
//! block, and as [`Phase::Failed`] only when it is certain that the ledger did not execute it and never will.
//!
//! # When an answer is lost
//! An ICRC-1 ledger executes a transaction of the same content and `created_at_time` at most once, and not at all once that time lies
//! more than [`WINDOW_NS`] and [`DRIFT_NS`] behind. So:
//! - within the window the ledger's blocks are read first, from where they ended before the first submission; if none is the transfer,
//!   it is submitted again, as it was: at worst the ledger calls it a duplicate, and names the block;
//! - when another refusal comes while a submission is in doubt, nothing is submitted any more: the window is waited for;
//! - after the window, a reading of the blocks to their end that begins then is conclusive.
//!
//! A new transfer for the same purpose is made only after that, with a new time.

use icrc_ledger_types::icrc1::account::Account;
use serde::{Deserialize, Serialize};
use shared_types::Digest;
use shared_types::econ::{DAY_NS, SECOND_NS};

use candid::Principal;

use crate::rules::{Rule, holds};

/// Time for which an ICRC-1 ledger remembers transactions (`TRANSACTION_WINDOW` of the standard: 24 hours).
pub const WINDOW_NS: u64 = DAY_NS;

/// Difference of clocks that ledgers allow (`PERMITTED_DRIFT` of the standard: 60 seconds), and as much for the distance
/// between two subnets' clocks, with a margin.
pub const DRIFT_NS: u64 = 5 * 60 * SECOND_NS;

/// Blocks that are asked for in one step.
pub const BLOCKS_PER_READ: u64 = 500;

/// Refusals that may pass, after which the transfer is given up.
pub const MAX_FAILURES: u32 = 10;

/// Submissions of a transfer; when all their answers were lost, the window is waited for.
pub const MAX_SUBMISSIONS: u32 = 8;

/// Longest pause before a step is repeated.
const MAX_PAUSE_NS: u64 = 3_600 * SECOND_NS;

/// When a step that was begun is looked at again, should its answer not come.
const ANSWER_WITHIN_NS: u64 = 2 * 60 * SECOND_NS;

/// Time for which a transfer that has ended is kept.
pub const REMEMBERED_NS: u64 = 31 * DAY_NS;

/// Where the tokens come from.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Somebody's account, by the allowance to this subaccount of the canister (`icrc2_transfer_from`).
    Allowance {
        /// The spender's subaccount.
        spender: [u8; 32],
        /// The account.
        from: Account,
    },
    /// An account of the canister (`icrc1_transfer`).
    Own {
        /// Its subaccount.
        subaccount: Option<[u8; 32]>,
    },
}

/// What a transfer is to do.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The ledger.
    pub ledger: Principal,
    /// From where.
    pub source: Source,
    /// To where.
    pub to: Account,
    /// Tokens, in the smallest unit.
    pub amount: u128,
    /// The ledger's fee, which the source pays on top.
    pub fee: u128,
    /// What it is for: different for each purpose.
    pub memo: Digest,
}

/// How far a transfer is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is not known where the ledger's blocks end.
    Planned,
    /// To be submitted.
    Ready,
    /// Submitted: the answer is to come, or lost.
    Submitted,
    /// An answer was lost: the ledger's blocks are read.
    Reconciling,
    /// The ledger executed it.
    Done {
        /// In this block.
        block: u64,
    },
    /// The ledger did not execute it and never will.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A transfer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What it is to do.
    pub order: Order,
    /// How far it is.
    pub phase: Phase,
    /// The time by which the ledger tells repetitions: chosen with the first submission.
    pub created_at_ns: Option<u64>,
    /// The first block that has not been looked at; the transfer is in none before.
    pub next_block: u64,
    /// Whether the answer of a submission was lost.
    pub doubtful: bool,
    /// Whether nothing may be submitted any more before the window has passed.
    pub hold: bool,
    /// Submissions.
    pub submissions: u32,
    /// Refusals and unanswered readings in a row.
    pub failures: u32,
    /// When the next step is due, or the transfer is forgotten.
    pub due_ns: u64,
}

/// A step that awaits the ledger.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask where the blocks end.
    ReadTip,
    /// Submit the transfer.
    Submit,
    /// Read blocks.
    ReadBlocks {
        /// From here.
        from: u64,
        /// When the reading begins: only what is asked for after the window is conclusive.
        asked_ns: u64,
    },
}

/// What a transfer needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This step.
    Step(Step),
    /// The answer of a submission was lost: report [`Answer::Lost`]. Only for who knows that no call is under way.
    NoteLoss,
    /// Nothing before this time.
    Wait(u64),
    /// It is executed, in this block.
    Done(u64),
    /// It is certainly not executed.
    Failed(String),
}

/// Why a ledger refused a transfer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The time lies too far back.
    TooOld,
    /// The time lies ahead of the ledger's clock.
    CreatedInFuture,
    /// The fee is another.
    BadFee {
        /// This one.
        expected: u128,
    },
    /// Not now.
    Unavailable(String),
    /// Not like this: funds, allowance, or another reason that repeating does not change.
    Final(String),
}

/// What came of a step.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Step::ReadTip`]: this many blocks.
    Tip(u64),
    /// Of [`Step::Submit`]: executed, now or by an earlier submission.
    Block(u64),
    /// Of [`Step::Submit`]: refused.
    Refused(Refusal),
    /// Of [`Step::Submit`]: the call was certainly not delivered.
    NotSent(String),
    /// Of [`Step::Submit`]: whether it was executed is not known.
    Lost(String),
    /// Of [`Step::ReadBlocks`].
    Blocks {
        /// When the reading began.
        asked_ns: u64,
        /// The first block that was not looked at.
        next: u64,
        /// How many there are.
        log_length: u64,
        /// The block that is the transfer.
        found: Option<u64>,
    },
    /// Of [`Step::ReadTip`] or [`Step::ReadBlocks`]: no usable answer.
    NotRead(String),
}

impl Transfer {
    /// A new transfer.
    pub fn new(order: Order, now_ns: u64) -> Self {
        Self {
            order,
            phase: Phase::Planned,
            created_at_ns: None,
            next_block: 0,
            doubtful: false,
            hold: false,
            submissions: 0,
            failures: 0,
            due_ns: now_ns,
        }
    }

    /// Whether its outcome is final.
    pub fn is_final(&self) -> bool {
        matches!(self.phase, Phase::Done { .. } | Phase::Failed { .. })
    }

    /// From when on the ledger can't execute it any more.
    fn closed_ns(&self) -> u64 {
        self.created_at_ns.unwrap_or(0).saturating_add(WINDOW_NS + DRIFT_NS)
    }

    /// Until when a repetition is surely known to the ledger as one.
    fn open_until_ns(&self) -> u64 {
        self.created_at_ns.unwrap_or(0).saturating_add(WINDOW_NS - DRIFT_NS)
    }

    /// What it needs at `now_ns`.
    pub fn next(&self, now_ns: u64) -> Next {
        match &self.phase {
            Phase::Done { block } => Next::Done(*block),
            Phase::Failed { reason } => Next::Failed(reason.clone()),
            Phase::Submitted if holds(Rule::LossIsNoted) => Next::NoteLoss,
            Phase::Submitted => Next::Wait(u64::MAX),
            _ if now_ns < self.due_ns => Next::Wait(self.due_ns),
            Phase::Planned => Next::Step(Step::ReadTip),
            // What is in doubt is submitted again only within the window.
            Phase::Ready if !self.doubtful || now_ns < self.open_until_ns() => Next::Step(Step::Submit),
            Phase::Ready | Phase::Reconciling => {
                Next::Step(Step::ReadBlocks { from: self.next_block, asked_ns: now_ns })
            }
        }
    }

    /// Takes note that a step is about to be performed.
    pub fn begun(&mut self, step: Step, now_ns: u64) {
        if step == Step::Submit {
            self.phase = Phase::Submitted;
            self.submissions = self.submissions.saturating_add(1);
            // As long as no submission is in doubt, none was executed: a fresh time keeps the whole window ahead.
            if !self.doubtful || !holds(Rule::TimeIsFrozen) {
                self.created_at_ns = Some(now_ns);
            }
        }
        self.due_ns = now_ns.saturating_add(ANSWER_WITHIN_NS);
    }

    /// Takes in what came of a step.
    pub fn answered(&mut self, answer: &Answer, now_ns: u64) {
        if self.is_final() {
            return;
        }
        self.take_in(answer, now_ns);
        if self.is_final() {
            self.due_ns = now_ns.saturating_add(REMEMBERED_NS);
        }
    }

    fn take_in(&mut self, answer: &Answer, now_ns: u64) {
        match answer {
            Answer::Tip(blocks) => {
                if self.phase == Phase::Planned {
                    self.next_block = *blocks;
                    self.go_on(Phase::Ready, now_ns);
                }
            }
            Answer::Block(block) => self.phase = Phase::Done { block: *block },
            Answer::Refused(refusal) => self.refused(refusal, now_ns),
            Answer::NotSent(reason) => self.postponed(reason, now_ns),
            Answer::Lost(reason) if !holds(Rule::LossIsDoubt) => self.fail(reason),
            Answer::Lost(_) => {
                self.doubtful = true;
                self.hold |= self.submissions >= MAX_SUBMISSIONS;
                self.go_on(Phase::Reconciling, now_ns);
            }
            Answer::Blocks { asked_ns, next, log_length, found } => {
                self.read(*asked_ns, *next, *log_length, *found, now_ns);
            }
            // Only who submits has a bound: what may have been executed is looked for until the ledger says.
            Answer::NotRead(reason) if self.phase == Phase::Planned && self.failures >= MAX_FAILURES => {
                self.fail(reason);
            }
            Answer::NotRead(_) => self.pause(now_ns),
        }
    }

    fn refused(&mut self, refusal: &Refusal, now_ns: u64) {
        if self.doubtful && holds(Rule::RefusalKeepsDoubt) && !matches!(refusal, Refusal::Unavailable(_)) {
            // This submission was refused; an earlier one may have been executed, and a ledger may look at balances before it looks
            // for duplicates.
            self.hold = true;
            self.go_on(Phase::Reconciling, now_ns);
            return;
        }
        match refusal {
            Refusal::BadFee { expected } => {
                self.order.fee = *expected;
                self.postponed("the fee keeps changing", now_ns);
                self.due_ns = now_ns;
            }
            Refusal::TooOld => self.postponed("the ledger's clock is ahead", now_ns),
            Refusal::CreatedInFuture => self.postponed("the ledger's clock is behind", now_ns),
            Refusal::Unavailable(reason) => self.postponed(reason, now_ns),
            Refusal::Final(reason) => self.fail(reason),
        }
    }

    /// This submission was not executed, a later one may be.
    fn postponed(&mut self, reason: &str, now_ns: u64) {
        if self.doubtful {
            self.phase = Phase::Reconciling;
            self.pause(now_ns);
        } else if self.failures >= MAX_FAILURES {
            self.fail(reason);
        } else {
            self.phase = Phase::Ready;
            self.pause(now_ns);
        }
    }

    fn read(&mut self, asked_ns: u64, next: u64, log_length: u64, found: Option<u64>, now_ns: u64) {
        if !matches!(self.phase, Phase::Reconciling | Phase::Ready) {
            return;
        }
        if let Some(block) = found {
            self.phase = Phase::Done { block };
            return;
        }
        let advanced = next > self.next_block;
        self.next_block = self.next_block.max(next);
        if self.next_block < log_length {
            // An archive that gives nothing is asked again later.
            if advanced { self.go_on(Phase::Reconciling, now_ns) } else { self.pause(now_ns) }
        } else if asked_ns >= self.closed_ns() || !holds(Rule::WindowIsWaitedFor) {
            self.fail("the ledger did not execute it");
        } else if self.hold || now_ns >= self.open_until_ns() {
            self.phase = Phase::Reconciling;
            self.due_ns = self.closed_ns();
        } else {
            self.phase = Phase::Ready;
            // The first repetition comes at once, further ones ever later.
            self.due_ns = now_ns.saturating_add(pause_ns(self.submissions.saturating_sub(1)));
        }
    }

    fn fail(&mut self, reason: &str) {
        self.phase = Phase::Failed { reason: reason.to_owned() };
    }

    fn go_on(&mut self, phase: Phase, now_ns: u64) {
        self.phase = phase;
        self.failures = 0;
        self.due_ns = now_ns;
    }

    fn pause(&mut self, now_ns: u64) {
        self.failures = self.failures.saturating_add(1);
        self.due_ns = now_ns.saturating_add(pause_ns(self.failures));
    }
}

/// Pause after so many failures: none, then from 2 seconds on twice as long each time, at most [`MAX_PAUSE_NS`].
fn pause_ns(failures: u32) -> u64 {
    match failures {
        0 => 0,
        _ => SECOND_NS.saturating_mul(1 << failures.min(20)).min(MAX_PAUSE_NS),
    }
}
