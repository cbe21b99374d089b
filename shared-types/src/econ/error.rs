//! Why the canister refused a call.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::payment::InvoiceId;
use super::quota::ReservationId;
use super::settlement::EscrowId;
use super::subscription::{SubscriptionRefusal, SubscriptionStatus};
use crate::field::FieldError;

/// Why the `econ` canister refused a call.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EconError {
    /// The anonymous principal may not change anything.
    #[error("the anonymous identity may not call this method: sign in with an identity")]
    Anonymous,
    /// The caller lacks the right.
    #[error("you may not call this method")]
    Unauthorized,
    /// An argument breaks a rule.
    #[error("{0}")]
    InvalidField(FieldError),
    /// The account has no subscription that can be used.
    #[error("{account} has no usable subscription: it is {status:?}")]
    NotSubscribed {
        /// The account.
        account: Principal,
        /// Where its subscription stands.
        status: SubscriptionStatus,
    },
    /// The subscription does not allow it now.
    #[error("{0}")]
    Subscription(SubscriptionRefusal),
    /// The period's quota does not suffice.
    #[error("{requested} {resource} asked for, {available} left until {resets_ns}")]
    QuotaExceeded {
        /// `tokens`, `creations`, or `agents` for those that live.
        resource: String,
        /// Asked for.
        requested: u64,
        /// Left.
        available: u64,
        /// When the next period begins.
        resets_ns: u64,
    },
    /// The account has too many open reservations.
    #[error("{open} reservations are open, the most allowed: settle or release some")]
    TooManyReservations {
        /// Open ones.
        open: u32,
    },
    /// No such reservation, or it is forgotten.
    #[error("reservation {reservation} is not known")]
    UnknownReservation {
        /// The number.
        reservation: ReservationId,
    },
    /// The reservation has ended in another way.
    #[error("reservation {reservation} is {state}")]
    ReservationEnded {
        /// The number.
        reservation: ReservationId,
        /// How it ended.
        state: String,
    },
    /// The key belongs to a request with other arguments.
    #[error("the key `{key}` belongs to a request with another {field}")]
    KeyReused {
        /// The key.
        key: String,
        /// The argument that differs.
        field: String,
    },
    /// No tier of this name is in force.
    #[error("there is no tier `{tier}`")]
    UnknownTier {
        /// The name.
        tier: String,
    },
    /// Payments can't use this ledger.
    #[error("payments can't use the ledger {ledger}")]
    UnknownLedger {
        /// The ledger.
        ledger: Principal,
    },
    /// No such invoice of the account.
    #[error("there is no such invoice")]
    UnknownInvoice,
    /// Another invoice of the account is open.
    #[error("invoice {invoice} is open: it must be paid or void first")]
    InvoiceOpen {
        /// Its number.
        invoice: InvoiceId,
    },
    /// The invoice is in no state for this.
    #[error("invoice {invoice}: {reason}")]
    WrongInvoiceState {
        /// Its number.
        invoice: InvoiceId,
        /// What speaks against it.
        reason: String,
    },
    /// The price in this token needs a quote that has not expired: call `quote`.
    #[error("there is no quote for this payment, or it has expired: call `quote`")]
    QuoteNeeded,
    /// The exchange rate can't be had, is too old, or its sources differ too much.
    #[error("no usable exchange rate: {reason}")]
    RateUnavailable {
        /// Why.
        reason: String,
    },
    /// A ledger could not be asked.
    #[error("the ledger {ledger} did not answer as expected: {reason}")]
    LedgerUnavailable {
        /// The ledger.
        ledger: Principal,
        /// What came instead.
        reason: String,
    },
    /// Too many payments are under way.
    #[error("{in_progress} payments are under way: try again in a moment")]
    Busy {
        /// How many.
        in_progress: u32,
    },
    /// The caller has used its rate.
    #[error("too many calls: try again after {retry_after_ns} ns")]
    RateLimited {
        /// Nanoseconds to wait.
        retry_after_ns: u64,
    },
    /// Nobody has opened a wallet for this holder and token.
    #[error("{holder} has no wallet of this token")]
    UnknownWallet {
        /// Whose.
        holder: Principal,
    },
    /// No such escrow of the caller, or it is forgotten.
    #[error("there is no escrow {escrow}")]
    UnknownEscrow {
        /// The number.
        escrow: EscrowId,
    },
    /// The escrow is in no state for this.
    #[error("escrow {escrow} is {state}")]
    EscrowEnded {
        /// The number.
        escrow: EscrowId,
        /// Where it stands.
        state: String,
    },
    /// No such withdrawal of the caller, or it is forgotten.
    #[error("there is no withdrawal {withdrawal}")]
    UnknownWithdrawal {
        /// The number.
        withdrawal: u64,
    },
    /// The owner of the wallet does not allow it.
    #[error("{requested} is more than the limit `{limit}` leaves: {available}")]
    SpendingLimit {
        /// `per_transfer` or `per_day`.
        limit: String,
        /// Asked for.
        requested: u128,
        /// Left.
        available: u128,
    },
    /// The wallet has less.
    #[error("the wallet has {balance}, {required} are needed")]
    InsufficientBalance {
        /// What it has.
        balance: u128,
        /// What it would pay.
        required: u128,
    },
    /// Something that has a bound has reached it.
    #[error("no more than {most} {what} are kept")]
    LimitReached {
        /// What.
        what: String,
        /// The bound.
        most: u64,
    },
}

impl From<FieldError> for EconError {
    fn from(error: FieldError) -> Self {
        Self::InvalidField(error)
    }
}

impl From<SubscriptionRefusal> for EconError {
    fn from(refusal: SubscriptionRefusal) -> Self {
        Self::Subscription(refusal)
    }
}
