//! The life of a subscription, as a machine that hears of payments and of time.
//!
//! | from \ input | Started | `PeriodEnded` | Renewed | `GraceEnded` | `RetentionEnded` | Cancelled | Resumed | Upgraded, Downgraded, `TierChosen` | Refunded |
//! |---|---|---|---|---|---|---|---|---|---|
//! | None | Active | – | – | – | – | – | – | – | – |
//! | Active | – | `PastDue` | – | – | – | Cancelled | – | Active | Expired |
//! | `PastDue` | – | – | Active | Suspended | – | Expired | – | – | – |
//! | Suspended | Active | – | – | – | Expired | Expired | – | – | – |
//! | Cancelled | – | Expired | – | – | – | – | Active | – | Expired |
//! | Expired | Active | – | – | – | – | – | – | – | – |
//!
//! `–` is refused and changes nothing. What follows from the table:
//! - a period begins where the one before ended, unless there was none or it was not paid in time; so no day is paid twice;
//! - numbers of periods only grow, and a number is one stretch of time with one set of terms;
//! - in the grace after an unpaid period's beginning, the share of its quota that the grace is of it can be used;
//! - `Renewed`, and `Started`, come from a payment, each from one: [`crate::econ::Invoice`].
//!
//! # Proration
//! With `left` the rest of the current period, a tier's rest is worth price × left ÷ length, rounded down to cents. An upgrade costs
//! the difference of the rests, a downgrade credits it, and the quota grows or shrinks likewise. What was used already
//! can't be given back: the credit is only for the share of the tokens that it takes away.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::share;
use super::tiers::Terms;

/// Where a subscription stands.
#[derive(
    CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum SubscriptionStatus {
    /// There never was one.
    #[default]
    None,
    /// Paid.
    Active,
    /// A new period has begun and is not paid; until the grace ends, a share of it can be used.
    PastDue,
    /// The grace has ended without payment. Nothing can be reserved.
    Suspended,
    /// Paid until the period ends, not renewed then.
    Cancelled,
    /// Over.
    Expired,
}

/// A billing period.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its number, from 1; never used again.
    pub number: u32,
    /// When it began.
    pub start_ns: u64,
    /// When it ends.
    pub end_ns: u64,
    /// Its terms: announced changes don't touch it.
    pub terms: Terms,
    /// Tokens that it gives: those of the terms, but for changes of the tier within it and for the grace.
    pub tokens: u64,
    /// Creations that it gives.
    pub creations: u64,
}

/// A subscription.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Where it stands.
    pub status: SubscriptionStatus,
    /// The current period, or the last one.
    pub period: Option<Period>,
    /// The tier to renew with, when it is to be another.
    pub next_tier: Option<String>,
    /// When time changes the status next; absent when only a payment can.
    pub due_ns: Option<u64>,
}

/// What happens to a subscription.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionInput {
    /// A first period was paid.
    Started {
        /// Its terms.
        terms: Terms,
    },
    /// The time of the current period is over.
    PeriodEnded {
        /// Terms of the next one.
        terms: Terms,
        /// How long the payment may take.
        grace_ns: u64,
    },
    /// The period that is past due was paid.
    Renewed,
    /// The grace is over.
    GraceEnded {
        /// How long the account stays as it is.
        retention_ns: u64,
    },
    /// The suspension is over.
    RetentionEnded,
    /// No renewal is wanted.
    Cancelled,
    /// Renewal is wanted again.
    Resumed,
    /// A tier to renew with was chosen; absent for the current one.
    TierChosen {
        /// Its name.
        tier: Option<String>,
    },
    /// The rest of the period was paid at a higher tier.
    Upgraded {
        /// Terms from now on.
        terms: Terms,
    },
    /// The rest of the period is to be at a lower tier.
    Downgraded {
        /// Terms from now on.
        terms: Terms,
        /// Tokens that are used or reserved: the quota does not sink below them.
        tokens_taken: u64,
        /// Creations that are used or reserved.
        creations_taken: u64,
    },
    /// The payment of the current period was given back.
    Refunded,
}

/// The input does not apply.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionRefusal {
    /// Not in this status.
    #[error("a subscription that is {status:?} does not allow it")]
    WrongStatus {
        /// The status.
        status: SubscriptionStatus,
    },
    /// The moment has not come.
    #[error("it is due at {due_ns}, not at {now_ns}")]
    NotDue {
        /// When it is due.
        due_ns: u64,
        /// When it was tried.
        now_ns: u64,
    },
    /// An upgrade needs a higher price, a downgrade a lower one.
    #[error("the tier `{tier}` is not {wanted} than the current one")]
    WrongDirection {
        /// The tier asked for.
        tier: String,
        /// Dearer or cheaper.
        wanted: String,
    },
}

/// What a change of the tier within a period means.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proration {
    /// Cents to pay (upgrade) or to credit (downgrade).
    pub cents: u64,
    /// The period's tokens after it.
    pub tokens: u64,
    /// The period's creations after it.
    pub creations: u64,
}

impl Period {
    fn new(number: u32, start_ns: u64, terms: Terms) -> Self {
        let end_ns = start_ns.saturating_add(terms.period_ns());
        let (tokens, creations) = (terms.tokens, u64::from(terms.creations));
        Self { number, start_ns, end_ns, terms, tokens, creations }
    }

    /// Worth of the rest of the period at `terms`: cents, tokens, creations, each rounded down.
    fn rest(&self, terms: &Terms, now_ns: u64) -> [u64; 3] {
        let left = self.end_ns.saturating_sub(now_ns.max(self.start_ns));
        let whole = terms.period_ns();
        [terms.price_cents, terms.tokens, u64::from(terms.creations)]
            .map(|figure| share(figure, left, whole).unwrap_or(figure))
    }

    /// What an upgrade to `terms` costs and gives at `now_ns`; see the module.
    pub fn upgrade(&self, terms: &Terms, now_ns: u64) -> Proration {
        let (old, new) = (self.rest(&self.terms, now_ns), self.rest(terms, now_ns));
        Proration {
            cents: new[0].saturating_sub(old[0]),
            tokens: self.tokens.saturating_add(new[1].saturating_sub(old[1])),
            creations: self.creations.saturating_add(new[2].saturating_sub(old[2])),
        }
    }

    /// What a downgrade to `terms` credits and takes away at `now_ns`, when so much is used or reserved; see the module.
    pub fn downgrade(
        &self,
        terms: &Terms,
        now_ns: u64,
        tokens_taken: u64,
        creations_taken: u64,
    ) -> Proration {
        let (old, new) = (self.rest(&self.terms, now_ns), self.rest(terms, now_ns));
        let less = old[1].saturating_sub(new[1]);
        // What is taken stays within the quota and the overdraft, which shrinks with the tier.
        let taken = tokens_taken.min(self.tokens).max(tokens_taken.saturating_sub(terms.overdraft_tokens));
        let tokens = self.tokens.saturating_sub(less).max(taken);
        let creations = self.creations.saturating_sub(old[2].saturating_sub(new[2]));
        let cents = old[0].saturating_sub(new[0]);
        // With no tokens to give back, all of the credit is for time.
        let credit = share(cents, self.tokens.saturating_sub(tokens), less).unwrap_or(cents);
        Proration { cents: credit, tokens, creations: creations.max(creations_taken.min(self.creations)) }
    }
}

impl Subscription {
    /// Whether quotas can be reserved.
    pub fn is_usable(&self) -> bool {
        use SubscriptionStatus as S;
        matches!(self.status, S::Active | S::PastDue | S::Cancelled)
    }

    /// Takes in `input`, which happens at `now_ns`.
    ///
    /// # Errors
    /// A [`SubscriptionRefusal`]; nothing has changed then.
    pub fn take(&mut self, input: &SubscriptionInput, now_ns: u64) -> Result<(), SubscriptionRefusal> {
        use SubscriptionInput as I;
        use SubscriptionStatus as S;
        let wrong_status = SubscriptionRefusal::WrongStatus { status: self.status };
        let due = || match self.due_ns {
            Some(due_ns) if due_ns > now_ns => Err(SubscriptionRefusal::NotDue { due_ns, now_ns }),
            _ => Ok(()),
        };
        match (self.status, input, &mut self.period) {
            (S::None | S::Suspended | S::Expired, I::Started { terms }, period) => {
                let number = period.as_ref().map_or(0, |period| period.number).saturating_add(1);
                *period = Some(Period::new(number, now_ns, terms.clone()));
                self.next_tier = None;
                self.activate();
            }
            (S::Active, I::PeriodEnded { terms, grace_ns }, Some(period)) => {
                due()?;
                let mut next = Period::new(period.number.saturating_add(1), period.end_ns, terms.clone());
                let [tokens, creations] = [next.tokens, next.creations].map(|figure| {
                    share(figure, *grace_ns, terms.period_ns()).map_or(figure, |part| part.min(figure))
                });
                (next.tokens, next.creations) = (tokens, creations);
                self.due_ns = Some(next.start_ns.saturating_add(*grace_ns));
                self.status = S::PastDue;
                self.next_tier = None;
                *period = next;
            }
            (S::PastDue, I::Renewed, Some(period)) => {
                (period.tokens, period.creations) = (period.terms.tokens, u64::from(period.terms.creations));
                self.activate();
            }
            (S::PastDue, I::GraceEnded { retention_ns }, _) => {
                due()?;
                self.due_ns = self.due_ns.map(|due| due.saturating_add(*retention_ns));
                self.status = S::Suspended;
            }
            (S::Suspended, I::RetentionEnded, _) | (S::Cancelled, I::PeriodEnded { .. }, _) => {
                due()?;
                self.end();
            }
            (S::PastDue | S::Suspended, I::Cancelled, _) | (S::Active | S::Cancelled, I::Refunded, _) => {
                self.end();
            }
            (S::Active, I::Cancelled, _) => {
                self.status = S::Cancelled;
                self.next_tier = None;
            }
            (S::Cancelled, I::Resumed, _) => self.status = S::Active,
            (S::Active, I::TierChosen { tier }, Some(period)) => {
                self.next_tier = tier.clone().filter(|tier| *tier != period.terms.tier);
            }
            (S::Active, I::Upgraded { terms }, Some(period)) => {
                if terms.price_cents <= period.terms.price_cents {
                    return Err(wrong_direction(terms, "dearer"));
                }
                period.turn_to(terms, period.upgrade(terms, now_ns));
                self.next_tier = None;
            }
            (S::Active, I::Downgraded { terms, tokens_taken, creations_taken }, Some(period)) => {
                if terms.price_cents >= period.terms.price_cents {
                    return Err(wrong_direction(terms, "cheaper"));
                }
                period.turn_to(terms, period.downgrade(terms, now_ns, *tokens_taken, *creations_taken));
                self.next_tier = None;
            }
            _ => return Err(wrong_status),
        }
        Ok(())
    }

    fn activate(&mut self) {
        self.status = SubscriptionStatus::Active;
        self.due_ns = self.period.as_ref().map(|period| period.end_ns);
    }

    fn end(&mut self) {
        self.status = SubscriptionStatus::Expired;
        self.due_ns = None;
        self.next_tier = None;
    }
}

fn wrong_direction(terms: &Terms, wanted: &str) -> SubscriptionRefusal {
    SubscriptionRefusal::WrongDirection { tier: terms.tier.clone(), wanted: wanted.to_owned() }
}

impl Period {
    fn turn_to(&mut self, terms: &Terms, proration: Proration) {
        // The period keeps its length; only the figures change.
        self.terms = terms.clone();
        (self.tokens, self.creations) = (proration.tokens, proration.creations);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DAY_NS, tiers};
    use super::*;
    use proptest::prelude::*;

    const GRACE: u64 = 5 * DAY_NS;
    const RETENTION: u64 = 30 * DAY_NS;

    fn tier(which: usize) -> Terms {
        tiers::initial().swap_remove(which)
    }

    /// What a person would note in a calendar: until when is paid, and whether it was called off.
    #[derive(Debug, Clone, Default)]
    struct Calendar {
        paid_until: Option<u64>,
        cancelled: bool,
        over: bool,
    }

    impl Calendar {
        fn status(&self, now: u64) -> SubscriptionStatus {
            use SubscriptionStatus as S;
            match self.paid_until {
                None => S::None,
                _ if self.over => S::Expired,
                Some(end) if now < end => {
                    if self.cancelled {
                        S::Cancelled
                    } else {
                        S::Active
                    }
                }
                _ if self.cancelled => S::Expired,
                Some(end) if now < end + GRACE => S::PastDue,
                Some(end) if now < end + GRACE + RETENTION => S::Suspended,
                _ => S::Expired,
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Pay(usize),
        Cancel,
        Resume,
        Refund,
        Change(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u64..40).prop_map(Step::Wait),
            4 => (0usize..3).prop_map(Step::Pay),
            1 => Just(Step::Cancel),
            1 => Just(Step::Resume),
            1 => Just(Step::Refund),
            2 => (0usize..3).prop_map(Step::Change),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// Lets time pass as the canister does.
    fn advance(subscription: &mut Subscription, now: u64) {
        while let Some(due) = subscription.due_ns.filter(|due| *due <= now) {
            let input = match subscription.status {
                SubscriptionStatus::Active | SubscriptionStatus::Cancelled => {
                    let terms = subscription.period.as_ref().unwrap().terms.clone();
                    SubscriptionInput::PeriodEnded { terms, grace_ns: GRACE }
                }
                SubscriptionStatus::PastDue => SubscriptionInput::GraceEnded { retention_ns: RETENTION },
                _ => SubscriptionInput::RetentionEnded,
            };
            subscription.take(&input, due).unwrap();
        }
    }

    proptest! {
        #[test]
        fn it_is_what_the_calendar_says(steps in steps()) {
            use SubscriptionStatus as S;
            let (mut subscription, mut calendar) = (Subscription::default(), Calendar::default());
            let mut now = 0;
            let mut last: Option<Period> = None;
            for step in steps {
                let before = subscription.clone();
                let accepted = match step {
                    Step::Wait(days) => {
                        now += days * DAY_NS;
                        advance(&mut subscription, now);
                        true
                    }
                    Step::Pay(which) => match calendar.status(now) {
                        S::PastDue => {
                            calendar.paid_until = calendar.paid_until.map(|end| end + 30 * DAY_NS);
                            subscription.take(&SubscriptionInput::Renewed, now).is_ok()
                        }
                        status => {
                            let free = matches!(status, S::None | S::Suspended | S::Expired);
                            if free {
                                calendar = Calendar { paid_until: Some(now + 30 * DAY_NS), ..Calendar::default() };
                            }
                            let started = SubscriptionInput::Started { terms: tier(which) };
                            subscription.take(&started, now).is_ok() == free
                        }
                    },
                    Step::Cancel => {
                        let status = calendar.status(now);
                        let possible = matches!(status, S::Active | S::PastDue | S::Suspended);
                        calendar.cancelled |= possible;
                        subscription.take(&SubscriptionInput::Cancelled, now).is_ok() == possible
                    }
                    Step::Resume => {
                        let possible = calendar.status(now) == S::Cancelled;
                        calendar.cancelled &= !possible;
                        subscription.take(&SubscriptionInput::Resumed, now).is_ok() == possible
                    }
                    Step::Refund => {
                        let possible = matches!(calendar.status(now), S::Active | S::Cancelled);
                        calendar.over |= possible;
                        subscription.take(&SubscriptionInput::Refunded, now).is_ok() == possible
                    }
                    Step::Change(which) => {
                        let terms = tier(which);
                        let old = subscription.period.as_ref().map(|period| period.terms.price_cents);
                        let active = calendar.status(now) == S::Active;
                        let input = if old.is_some_and(|old| old < terms.price_cents) {
                            SubscriptionInput::Upgraded { terms: terms.clone() }
                        } else {
                            SubscriptionInput::Downgraded { terms: terms.clone(), tokens_taken: 0, creations_taken: 0 }
                        };
                        let possible = active && old != Some(terms.price_cents);
                        subscription.take(&input, now).is_ok() == possible
                    }
                };
                prop_assert!(accepted, "{:?} then {:?}", before, subscription);
                prop_assert_eq!(subscription.status, calendar.status(now));
                if let Some(period) = &subscription.period {
                    if let Some(last) = last.filter(|last| last.number != period.number) {
                        prop_assert_eq!(period.number, last.number + 1, "no number is skipped");
                        // A period that was given back, or not paid in time, may end in the middle.
                        let ended = matches!(before.status, S::Expired | S::Suspended);
                        prop_assert!(period.start_ns >= last.end_ns || ended, "no day is paid twice");
                    }
                    prop_assert!(period.tokens <= tier(2).tokens);
                    last = Some(period.clone());
                }
            }
        }

        #[test]
        fn going_up_and_down_again_never_pays(day in 0u64..30, from in 0usize..2, to in 1usize..3, used in 0u64..2_000_000) {
            prop_assume!(from < to);
            let (low, high) = (tier(from), tier(to));
            let now = day * DAY_NS + 12_345;
            let start = Period::new(1, 0, low.clone());
            let up = start.upgrade(&high, now);
            let mut period = start.clone();
            period.turn_to(&high, up);
            prop_assert!(up.tokens <= high.tokens && up.cents <= high.price_cents - low.price_cents);
            let used = used.min(period.tokens);
            let down = period.downgrade(&low, now, used, 0);
            prop_assert!(down.cents <= up.cents, "the credit is at most what was paid");
            prop_assert!(down.tokens >= used);
            if used == period.tokens {
                prop_assert_eq!(down.cents, 0, "what was used is not given back");
            }
        }
    }

    #[test]
    fn a_change_in_the_middle_costs_half() {
        let mut subscription = Subscription::default();
        subscription.take(&SubscriptionInput::Started { terms: tier(0) }, 0).unwrap();
        let middle = 15 * DAY_NS;
        let period = subscription.period.as_ref().unwrap();
        assert_eq!(
            period.upgrade(&tier(1), middle),
            Proration { cents: 3_500, tokens: 300_000, creations: 30 }
        );
        let same = SubscriptionInput::Upgraded { terms: tier(0) };
        assert!(matches!(subscription.take(&same, middle), Err(SubscriptionRefusal::WrongDirection { .. })));
        let early = SubscriptionInput::PeriodEnded { terms: tier(0), grace_ns: GRACE };
        assert!(matches!(subscription.take(&early, middle), Err(SubscriptionRefusal::NotDue { .. })));
    }

    #[test]
    fn the_grace_gives_its_share() {
        let mut subscription = Subscription::default();
        subscription.take(&SubscriptionInput::Started { terms: tier(0) }, 0).unwrap();
        advance(&mut subscription, 30 * DAY_NS);
        let period = subscription.period.clone().unwrap();
        assert_eq!((period.number, period.tokens, period.creations), (2, 16_666, 1));
        subscription.take(&SubscriptionInput::Renewed, 31 * DAY_NS).unwrap();
        let period = subscription.period.unwrap();
        assert_eq!((period.tokens, period.creations, period.end_ns), (100_000, 10, 60 * DAY_NS));
    }
}
