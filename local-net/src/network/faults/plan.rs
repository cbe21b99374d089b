//! What a test asks for.

use super::trace::MessageKind;
use candid::Principal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Rules of a plan.
pub const MAX_RULES: usize = 1_000;
/// Rounds for which a fault may last.
pub const MAX_ROUNDS: u64 = 1_000_000;

/// Which faults happen where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    /// Decides everything that the rules leave to chance.
    #[serde(default)]
    pub seed: u64,
    /// Whether waiting messages are executed in an order that the seed chooses. Requests of one canister to another keep
    /// theirs, as on the Internet Computer.
    #[serde(default)]
    pub reorder: bool,
    /// The rules. At each point the first one that applies decides.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// A fault and where it happens. The fields `caller`, `callee` and `method` narrow the points down; see [`Await`] and
/// [`ExecutedMessage`] for what they are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only calls of this canister or user; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Principal>,
    /// Only calls to this canister; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callee: Option<Principal>,
    /// Only calls of this method; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only messages of this kind; absent for all. Awaits have no kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<MessageKind>,
    /// At which of these points.
    pub when: When,
    /// What happens.
    pub fault: Fault,
}

impl Rule {
    /// `fault` at the point with this number, whatever it is.
    pub fn at(point: u64, fault: Fault) -> Self {
        Self { caller: None, callee: None, method: None, kind: None, when: When::At(point), fault }
    }

    pub(super) fn admits(
        &self,
        kind: Option<MessageKind>,
        caller: Option<Principal>,
        callee: Principal,
        method: &str,
    ) -> bool {
        self.fault.is_at_await() == kind.is_none()
            && (self.kind.is_none() || self.kind == kind)
            && self.caller.is_none_or(|wanted| Some(wanted) == caller)
            && self.callee.is_none_or(|wanted| wanted == callee)
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
    }
}

/// At which of the points that a rule admits its fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At the point with this number, counted over all awaits or all messages.
    At(u64),
    /// At one of the admitted points, counted from 0 among these.
    Nth(u64),
    /// At each with this probability, 0 to 1, as the seed decides.
    Chance(f64),
    /// At each.
    Every,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// At an await: the callee does its work and answers, then the caller's callback traps. Its cleanup callback runs.
    Trap,
    /// At an await: the call is rejected with `SYS_TRANSIENT`; the callee never sees it.
    Reject,
    /// At a bounded-wait await: the callee does its work, but the caller gets `SYS_UNKNOWN` instead of the answer.
    RejectUnknown,
    /// At a bounded-wait await: the call never arrives; the caller gets `SYS_UNKNOWN` at the deadline.
    DropRequest,
    /// At a bounded-wait await: the answer never arrives; the caller gets `SYS_UNKNOWN` at the deadline.
    DropAnswer,
    /// At an await: the call arrives later. Later calls between the same canisters wait behind it.
    DelayRequest(Delay),
    /// At an await: the answer arrives later.
    DelayAnswer(Delay),
    /// At an await: the callee executes the call twice, as if the caller had repeated it (the second time without cycles). The
    /// caller sees the first answer.
    Duplicate,
    /// At a message: it traps at its end.
    TrapMessage,
    /// After a message: a canister is upgraded to its own module with empty Candid arguments.
    Upgrade {
        /// The canister; absent for the one that executed the message.
        #[serde(default)]
        canister: Option<Principal>,
        /// Whether it is stopped before and started after, as operators do.
        stop: bool,
    },
    /// After a message: the clock jumps forward.
    AdvanceTime {
        /// By so many nanoseconds.
        nanos: u64,
    },
    /// After a message: a canister loses cycles; what it lost comes back later.
    LowCycles {
        /// The canister; absent for the one that executed the message.
        #[serde(default)]
        canister: Option<Principal>,
        /// How many are left.
        left: CyclesLeft,
        /// Rounds until they come back.
        rounds: u64,
    },
}

impl Fault {
    /// Whether its points are awaits; otherwise they are messages.
    pub fn is_at_await(&self) -> bool {
        !matches!(
            self,
            Self::TrapMessage | Self::Upgrade { .. } | Self::AdvanceTime { .. } | Self::LowCycles { .. }
        )
    }

    /// Whether only bounded-wait calls can suffer it.
    pub fn is_bounded_only(&self) -> bool {
        matches!(self, Self::RejectUnknown | Self::DropRequest | Self::DropAnswer)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |canister: &Option<Principal>| canister.map_or_else(String::new, |id| format!(" of {id}"));
        match self {
            Self::Trap => f.write_str("the callback traps"),
            Self::Reject => f.write_str("rejected before it runs"),
            Self::RejectUnknown => f.write_str("SYS_UNKNOWN after it ran"),
            Self::DropRequest => f.write_str("the request is lost"),
            Self::DropAnswer => f.write_str("the answer is lost"),
            Self::DelayRequest(delay) => write!(f, "the request comes {delay}"),
            Self::DelayAnswer(delay) => write!(f, "the answer comes {delay}"),
            Self::Duplicate => f.write_str("executed twice"),
            Self::TrapMessage => f.write_str("the message traps"),
            Self::Upgrade { canister, stop: false } => write!(f, "upgrade{}", of(canister)),
            Self::Upgrade { canister, stop: true } => write!(f, "stop, upgrade, start{}", of(canister)),
            Self::AdvanceTime { nanos } => write!(f, "the clock jumps by {nanos} ns"),
            Self::LowCycles { canister, left, rounds } => {
                let left = match left {
                    CyclesLeft::Frozen => "too few cycles for a message",
                    CyclesLeft::OneMessage => "cycles for a message but no call",
                };
                write!(f, "{left}{} for {rounds} rounds", of(canister))
            }
        }
    }
}

/// How much later something arrives: when both have passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Rounds.
    #[serde(default)]
    pub rounds: u64,
    /// Nanoseconds of the network's clock.
    #[serde(default)]
    pub nanos: u64,
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rounds and {} ns later", self.rounds, self.nanos)
    }
}

/// Cycles that [`Fault::LowCycles`] leaves to a canister.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CyclesLeft {
    /// One cycle less than a message needs: requests are rejected, timers wait, answers are executed.
    Frozen,
    /// Exactly what a message needs: it is executed, but cannot make a call.
    OneMessage,
}

/// A plan that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct PlanError {
    /// The field, as a path from the plan.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FaultPlan {
    /// Checks numbers and sizes.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), PlanError> {
        let error = |field: String, reason: String| Err(PlanError { field, reason });
        if self.rules.len() > MAX_RULES {
            return error(
                "rules".into(),
                format!("{} rules, at most {MAX_RULES} are allowed", self.rules.len()),
            );
        }
        for (i, rule) in self.rules.iter().enumerate() {
            if let When::Chance(chance) = rule.when
                && !(0.0..=1.0).contains(&chance)
            {
                return error(format!("rules[{i}].when.chance"), format!("{chance} is not between 0 and 1"));
            }
            let rounds = match &rule.fault {
                Fault::DelayRequest(delay) | Fault::DelayAnswer(delay) => delay.rounds,
                Fault::LowCycles { rounds, .. } => *rounds,
                _ => 0,
            };
            if rounds > MAX_ROUNDS {
                return error(
                    format!("rules[{i}].fault.rounds"),
                    format!("{rounds} rounds, at most {MAX_ROUNDS} are allowed"),
                );
            }
        }
        Ok(())
    }

    /// Whether rule `rule` applies to the point `point`, the `nth` that it admits.
    pub(super) fn applies(&self, rule: usize, nth: u64, point: u64) -> bool {
        match self.rules[rule].when {
            When::At(wanted) => wanted == point,
            When::Nth(wanted) => wanted == nth,
            // 53 bits: as many as the mantissa of the probability has.
            When::Chance(chance) => {
                ((self.draw(rule as u64, point) >> 11) as f64) / ((1u64 << 53) as f64) < chance
            }
            When::Every => true,
        }
    }

    /// A number that depends on the seed, `stream` and `point` only (`SplitMix64` over the three).
    pub(super) fn draw(&self, stream: u64, point: u64) -> u64 {
        [stream, point].iter().fold(split_mix(self.seed), |state, word| split_mix(state ^ split_mix(*word)))
    }
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014), one step.
fn split_mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
