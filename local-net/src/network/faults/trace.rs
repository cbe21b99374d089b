//! What happened.

use super::plan::{Fault, FaultPlan};
use candid::Principal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Awaits, messages and injected faults that a trace lists, each; later ones are counted only.
pub const MAX_RECORDS: usize = 100_000;

/// A call that a canister made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Await {
    /// Its number.
    pub index: u64,
    /// The number of the message that made it.
    pub message: u64,
    /// The canister that waits.
    pub caller: Principal,
    /// The canister that was called.
    pub callee: Principal,
    /// The method.
    pub method: String,
    /// Whether it is a bounded-wait call, which may end in `SYS_UNKNOWN`.
    pub bounded: bool,
}

impl fmt::Display for Await {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, message, caller, callee, method, .. } = self;
        write!(f, "await {index} (message {message}): {caller} -> {callee} {method}")
    }
}

/// What a message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// A call, of a user or a canister.
    Request,
    /// The answer to a call.
    Answer,
    /// A heartbeat or the global timer.
    Task,
}

/// A message that was executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutedMessage {
    /// Its number.
    pub index: u64,
    /// What it was.
    pub kind: MessageKind,
    /// Who called; of an answer, who answered; none of a task.
    pub caller: Option<Principal>,
    /// The canister that executed it.
    pub callee: Principal,
    /// The method; of an answer, the one that was called.
    pub method: String,
}

impl fmt::Display for ExecutedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, kind, caller, callee, method } = self;
        let kind = match kind {
            MessageKind::Request => "request",
            MessageKind::Answer => "answer",
            MessageKind::Task => "task",
        };
        let caller = caller.map_or_else(|| "network".to_owned(), |caller| caller.to_text());
        write!(f, "message {index}: {kind} {caller} -> {callee} {method}")
    }
}

/// The point at which a fault was injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// At an await.
    Await(Await),
    /// At a message, or between it and the next.
    Message(ExecutedMessage),
}

/// A fault that a rule brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injected {
    /// The rule's position in the plan.
    pub rule: usize,
    /// Where.
    pub point: Point,
    /// What.
    pub fault: Fault,
    /// Why it had no effect, if it had none.
    pub prevented: Option<String>,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.point {
            Point::Await(point) => write!(f, "{point}: {}", self.fault)?,
            Point::Message(point) => write!(f, "{point}: {}", self.fault)?,
        }
        match &self.prevented {
            Some(reason) => write!(f, " (without effect: {reason})"),
            None => Ok(()),
        }
    }
}

/// What happened since a plan was set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultTrace {
    /// The plan.
    pub plan: FaultPlan,
    /// Calls that canisters made, in order.
    pub awaits: Vec<Await>,
    /// Messages, in the order in which they were executed.
    pub messages: Vec<ExecutedMessage>,
    /// Faults, in the order in which they were injected.
    pub injected: Vec<Injected>,
    /// Number of awaits, those beyond [`MAX_RECORDS`] included.
    pub await_count: u64,
    /// Number of messages, those beyond [`MAX_RECORDS`] included.
    pub message_count: u64,
    /// Cycles that were attached to calls whose request or refund was lost.
    pub lost_cycles: u128,
}

impl fmt::Display for FaultTrace {
    /// The injected faults, one per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (awaits, messages) = (self.await_count, self.message_count);
        write!(f, "seed {}: {awaits} awaits, {messages} messages", self.plan.seed)?;
        self.injected.iter().try_for_each(|injected| write!(f, "\n  {injected}"))
    }
}

/// Appends to a list of the trace while it has room.
pub(super) fn record<T>(list: &mut Vec<T>, entry: T) {
    if list.len() < MAX_RECORDS {
        list.push(entry);
    }
}
