//! Quotas: what is reserved before it is spent, and settled with what it really was.
//!
//! A quota belongs to a billing period. A reservation takes from the period that is current when it is made and is settled in
//! that period, also when the next one has begun meanwhile; so a reset is a new key, and nothing is ever set back.
//!
//! # What a settlement charges
//! The real amount, as far as the room goes: the reserved amount, what is left of the quota, and the declared overdraft. What is beyond
//! is reported as `excess` and charged to nobody, so that no quota is ever exceeded by more than the overdraft.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::payment::{InvoiceId, PaymentMethod};
use super::subscription::Subscription;
use super::tiers::RateClass;
use super::usage::{UsageEnvelope, UsageTotals};

/// Number of a reservation.
pub type ReservationId = u64;

/// Longest life of a reservation: a day. It is far below a period, so at most two periods of an account have any.
pub const MAX_RESERVATION_NS: u64 = super::DAY_NS;

/// Time for which a reservation that has ended answers repeated calls.
pub const REMEMBERED_NS: u64 = super::DAY_NS;

/// Time for which an account is kept that never had a subscription, after its last request and its last invoice.
pub const IDLE_REMEMBERED_NS: u64 = 31 * super::DAY_NS;

/// Most reservations of an account that are open at the same time.
pub const MAX_OPEN_RESERVATIONS: u32 = 1_000;

/// What is reserved.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Agents to create: each counts for the period and lives until it is returned.
    Creation(u32),
    /// Tokens, of prompts and answers together.
    Tokens(u64),
}

/// Argument of `reserve`, for authorised canisters.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ReserveArgs {
    /// Whose quota.
    pub account: Principal,
    /// What, and how much at most.
    pub resource: Resource,
    /// Chosen by the caller, 1 to [`super::MAX_KEY_BYTES`] bytes: the same caller, account and key are the same reservation.
    pub key: String,
    /// When it ends by itself; at most [`MAX_RESERVATION_NS`] ahead.
    pub expires_ns: u64,
}

/// A reservation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its number.
    pub id: ReservationId,
    /// Whose quota.
    pub account: Principal,
    /// Who reserved, and may settle.
    pub caller: Principal,
    /// The key of `reserve`.
    pub key: String,
    /// What was reserved.
    pub resource: Resource,
    /// Number of the billing period that it takes from.
    pub period: u32,
    /// When it ends by itself.
    pub expires_ns: u64,
    /// The account's class when it was made: what is reserved for has [`RateClass::priority_for`] its place in agents' queues.
    pub rate_class: RateClass,
    /// Where it stands.
    pub state: ReservationState,
}

/// Where a reservation stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ReservationState {
    /// It holds its amount.
    Open,
    /// Spent.
    Settled(Settlement),
    /// Given back by its caller.
    Released,
    /// Given back because its time was over.
    Expired,
}

/// What a settlement came to.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The real amount.
    pub amount: u64,
    /// What of it the period was charged.
    pub charged: u64,
    /// What found no room: `amount` − `charged`.
    pub excess: u64,
}

/// Argument of `settle`, for the caller of `reserve`. Repeated, it answers as at first. An expired reservation is settled with what
/// room there is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SettleArgs {
    /// The reservation.
    pub reservation: ReservationId,
    /// The real amount: agents created, or tokens in and out.
    pub amount: u64,
    /// The canisters of the agents that live now, for [`Resource::Creation`]: `amount` of them. They are authorised to
    /// reserve for this account until they are returned.
    pub agents: Vec<Principal>,
    /// What the run was like, for [`Resource::Tokens`]; its tokens add up to `amount`.
    pub usage: Option<UsageEnvelope>,
}

/// Argument of `return_agent`: the agent does not live any more. Repeated, it changes nothing.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnAgentArgs {
    /// Whose agent it was.
    pub account: Principal,
    /// Its canister.
    pub agent: Principal,
}

/// What was taken from a quota in a period.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Charged.
    pub used: u64,
    /// Held by open reservations.
    pub reserved: u64,
}

impl Meter {
    /// What of `amount` can be charged to a quota of `limit` with an overdraft of `overdraft`, when `held` of the reserved amount is
    /// given back for it.
    pub fn chargeable(self, amount: u64, held: u64, limit: u64, overdraft: u64) -> u64 {
        let others = self.reserved.saturating_sub(held);
        let taken = self.used.saturating_add(others);
        amount.min(limit.saturating_add(overdraft).saturating_sub(taken))
    }

    /// What can still be reserved.
    pub fn free(self, limit: u64) -> u64 {
        limit.saturating_sub(self.used.saturating_add(self.reserved))
    }
}

/// Result of `account`: what somebody's subscription is, and what is left of it.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct AccountSummary {
    /// Whose.
    pub account: Principal,
    /// Tier, period, status.
    pub subscription: Subscription,
    /// Credit, which the next invoices take first.
    pub credit_cents: u64,
    /// Who pays renewals.
    pub method: Option<PaymentMethod>,
    /// Invoices that are open.
    pub open_invoices: Vec<InvoiceId>,
    /// Sums over all runs: those of `earlier_totals` and of all days of the daily series.
    pub totals: UsageTotals,
    /// Sums over the runs of days that the series does not keep any more.
    pub earlier_totals: UsageTotals,
    /// Tokens of the current period.
    pub tokens: Meter,
    /// Creations of the current period.
    pub creations: Meter,
    /// Agents that live.
    pub agents: u32,
    /// Agents whose creation is reserved.
    pub agents_reserved: u32,
    /// Reservations that are open.
    pub open_reservations: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// INV-E3 in one step: whatever is settled, use and reservations stay within quota and overdraft.
        #[test]
        fn a_charge_never_exceeds_quota_and_overdraft(
            limit in 0u64..1_000, overdraft in 0u64..100, shares in prop::array::uniform3(0u64..=1_000),
            amount in any::<u64>(),
        ) {
            let taken = (limit + overdraft) * shares[0] / 1_000;
            let reserved = taken * shares[1] / 1_000;
            let (used, held) = (taken - reserved, reserved * shares[2] / 1_000);
            let before = Meter { used, reserved };
            let charged = before.chargeable(amount, held, limit, overdraft);
            prop_assert!(charged <= amount);
            prop_assert!(used + charged + (reserved - held) <= limit + overdraft);
            // What was reserved is always there.
            prop_assert!(charged >= amount.min(held));
        }
    }
}
