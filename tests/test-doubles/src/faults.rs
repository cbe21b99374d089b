//! Faults that a test canister makes when it is told to: it fails, traps, answers late or not at all, before or after the
//! effect of a call.
//!
//! `local-net` can disturb any message from outside. What this adds: faults by the callee's own doing, after its effect is
//! committed, on any network. [`Faults`] decides, [`crate::canister`] does.

use candid::CandidType;
use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call is rejected by the canister's own word (`CanisterReject`).
    Reject,
    /// The canister traps (`CanisterError`), after a message that it has committed.
    Trap,
    /// The answer is the interface's error for "not now".
    Unavailable,
    /// The call goes on when so many nanoseconds have passed, and at least one round.
    Late(u64),
    /// The call goes on when the plan ends or the test releases it. Before the effect there will be none.
    Never,
}

/// When in a call.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing has happened yet.
    BeforeEffect,
    /// What was asked for is done and stays so; only the answer suffers.
    AfterEffect,
}

/// Which calls of a method.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The one after so many others; 0 is the next.
    Nth(u64),
    /// Each.
    Always,
    /// So many of a million, chosen by the plan's seed.
    Chance(u32),
}

/// A fault and the calls that suffer it.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// The method; none: every update method of the interface.
    pub method: Option<String>,
    /// Which of its calls.
    pub when: When,
    /// When in the call.
    pub moment: Moment,
    /// What goes wrong.
    pub fault: Fault,
}

/// What is to go wrong. Of several rules that match a call, the first one counts.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Decides about [`When::Chance`].
    pub seed: u64,
    /// The rules.
    pub rules: Vec<FaultRule>,
}

/// What went wrong.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The method.
    pub method: String,
    /// When in the call.
    pub moment: Moment,
    /// What.
    pub fault: Fault,
}

/// Faults that a canister remembers at most.
const MAX_INJECTED: usize = 10_000;

/// A plan that is followed.
#[derive(Debug, Default)]
pub struct Faults {
    plan: FaultPlan,
    /// For each rule the calls that it has seen.
    seen: Vec<u64>,
    injected: Vec<Injected>,
    /// Calls that wait without end go on when this changes.
    releases: u64,
}

impl Faults {
    /// Begins to follow `plan`; calls that an earlier one holds go on.
    pub fn set(&mut self, plan: FaultPlan) {
        self.seen = vec![0; plan.rules.len()];
        self.injected.clear();
        self.plan = plan;
        self.release();
    }

    /// Lets the calls that are held go on.
    pub fn release(&mut self) {
        self.releases += 1;
    }

    /// How often calls were let go on.
    pub fn releases(&self) -> u64 {
        self.releases
    }

    /// What went wrong since the plan was set.
    pub fn injected(&self) -> &[Injected] {
        &self.injected
    }

    /// What is to happen to a call of `method`, which is counted.
    pub fn next(&mut self, method: &str) -> Option<(Moment, Fault)> {
        let mut chosen = None;
        for (n, (rule, seen)) in self.plan.rules.iter().zip(&mut self.seen).enumerate() {
            if rule.method.as_ref().is_some_and(|name| name != method) {
                continue;
            }
            let call = *seen;
            *seen += 1;
            let happens = match rule.when {
                When::Nth(nth) => call == nth,
                When::Always => true,
                When::Chance(millionths) => {
                    let drawn = split_mix(self.plan.seed ^ split_mix(call ^ ((n as u64) << 48)));
                    drawn % 1_000_000 < u64::from(millionths)
                }
            };
            if happens && chosen.is_none() {
                chosen = Some((rule.moment, rule.fault));
            }
        }
        let (moment, fault) = chosen?;
        if self.injected.len() < MAX_INJECTED {
            self.injected.push(Injected { method: method.to_owned(), moment, fault });
        }
        Some((moment, fault))
    }

    /// Whether a query method is to fail. Queries leave no trace, so that only [`When::Always`] makes sense for them, and
    /// they must be named.
    pub fn fails_queries(&self, method: &str) -> bool {
        let mut rules = self.plan.rules.iter();
        rules.any(|rule| rule.method.as_deref() == Some(method) && rule.when == When::Always)
    }
}

/// The output function of `SplitMix64` (Steele, Lea and Flood 2014).
fn split_mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(method: Option<&str>, when: When, fault: Fault) -> FaultRule {
        FaultRule { method: method.map(str::to_owned), when, moment: Moment::AfterEffect, fault }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_all_count() {
        let mut faults = Faults::default();
        assert_eq!(faults.next("a"), None);
        let rules = vec![
            rule(Some("a"), When::Nth(1), Fault::Trap),
            rule(None, When::Nth(2), Fault::Reject),
            rule(Some("b"), When::Always, Fault::Never),
        ];
        faults.set(FaultPlan { seed: 0, rules });
        let drawn: Vec<_> = ["a", "b", "a", "a"].map(|method| faults.next(method).map(|(_, f)| f)).into();
        assert_eq!(drawn, [None, Some(Fault::Never), Some(Fault::Trap), None], "the third call is taken");
        assert_eq!(faults.injected().len(), 2);
        assert!(faults.fails_queries("b") && !faults.fails_queries("a"));
    }

    #[test]
    fn chance_is_the_seeds() {
        let drawn = |seed| {
            let mut faults = Faults::default();
            faults.set(FaultPlan { seed, rules: vec![rule(None, When::Chance(250_000), Fault::Trap)] });
            (0..10_000).map(|_| faults.next("a").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let hits = drawn(3).iter().filter(|hit| **hit).count();
        assert!((2_300..2_700).contains(&hits), "{hits} of 10,000");
    }
}
