//! Events: the only way in which state changes.
//!
//! [`crate::economy::Economy::record`] applies an event to the structures and appends it to the log, in the same message. The structures are what
//! answers calls, at a cost that does not grow with the number of events; the log is the audit trail, and the oracle of the tests: an
//! empty state that takes in the log's events ends up as the structures are.

use candid::Principal;
use serde::{Deserialize, Serialize};
use shared_types::econ::payment::InvoiceId;
use shared_types::econ::settlement::WalletId;
use shared_types::econ::{
    EconConfig, Invoice, LedgerInfo, PaymentMethod, Quote, Rate, RefundState, ReservationId, Resource,
    ServiceGrant, Settlement, SubscriptionInput, TierVersion, UsageEnvelope,
};

use crate::settlement::SettlementEvent;
use crate::transfers::{Answer, Order, Step};

/// Number of a transfer, from 1.
pub type TransferId = u64;

/// What a transfer is for.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Collecting an invoice.
    Charge(InvoiceId),
    /// Giving an invoice's payment back.
    Refund(InvoiceId),
    /// Taking in what was sent to a wallet.
    Deposit(WalletId),
    /// Sending what leaves a wallet.
    Withdrawal(u64),
}

/// A change of state.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time_ns: u64,
    /// What.
    pub kind: EventKind,
}

/// What changed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The canister was installed.
    Installed {
        /// Its id: it owns the accounts that payments go to.
        canister: Principal,
    },
    /// Governance is this.
    AdminsSet(Vec<Principal>),
    /// Times and limits are these.
    ConfigSet(EconConfig),
    /// Payments may use this ledger, or not any more.
    LedgerSet(LedgerInfo),
    /// A version of a tier was announced.
    TierAnnounced(TierVersion),
    /// A canister was authorised.
    ServiceGranted(ServiceGrant),
    /// A canister is not authorised any more.
    ServiceRevoked(Principal),
    /// Something was reserved; the reservation's number is this event's index.
    Reserved {
        /// Whose quota.
        account: Principal,
        /// By whom.
        caller: Principal,
        /// The caller's key.
        key: String,
        /// What.
        resource: Resource,
        /// From which period.
        period: u32,
        /// Until when.
        expires_ns: u64,
    },
    /// A reservation was spent.
    Settled {
        /// Which.
        reservation: ReservationId,
        /// What it came to.
        settlement: Settlement,
        /// Agents that live now.
        agents: Vec<Principal>,
        /// What the run was like.
        usage: Option<UsageEnvelope>,
    },
    /// A reservation was given back.
    Released(ReservationId),
    /// The time of a reservation was over.
    Expired(ReservationId),
    /// A reservation that ended long ago is not remembered any more.
    Forgotten(ReservationId),
    /// An agent does not live any more.
    AgentReturned {
        /// Whose it was.
        account: Principal,
        /// Its canister.
        agent: Principal,
    },
    /// A subscription took in something.
    Subscription {
        /// Whose.
        account: Principal,
        /// What.
        input: SubscriptionInput,
        /// When it happened: a due time may be reached late.
        at_ns: u64,
    },
    /// Who pays, from now on.
    MethodSet {
        /// For whom.
        account: Principal,
        /// Who.
        method: PaymentMethod,
    },
    /// An account was given credit.
    Credited {
        /// Which.
        account: Principal,
        /// How much.
        cents: u64,
    },
    /// Somebody was told a price.
    Quoted {
        /// Who.
        account: Principal,
        /// The price.
        quote: Quote,
    },
    /// An invoice was written; its credit is taken from the account.
    InvoiceIssued(Box<Invoice>),
    /// The amount of an invoice is known.
    InvoicePriced {
        /// Which.
        invoice: InvoiceId,
        /// Tokens.
        amount: u128,
        /// At this rate.
        rate: Option<Rate>,
    },
    /// Another account pays an invoice.
    InvoiceRedirected {
        /// Which.
        invoice: InvoiceId,
        /// Who pays.
        method: PaymentMethod,
    },
    /// An attempt to collect an invoice has certainly failed.
    InvoiceFailed {
        /// Which.
        invoice: InvoiceId,
        /// Why.
        reason: String,
        /// When the next attempt begins.
        next_attempt_ns: Option<u64>,
    },
    /// An invoice was paid.
    InvoicePaid {
        /// Which.
        invoice: InvoiceId,
        /// By the transfer in this block; absent when the credit covered all.
        block: Option<u64>,
        /// The period that it paid.
        period: Option<u32>,
    },
    /// An invoice will not be collected; its credit returns to the account.
    InvoiceVoided {
        /// Which.
        invoice: InvoiceId,
        /// Why.
        reason: String,
    },
    /// The refund of an invoice is so far.
    Refund {
        /// Which.
        invoice: InvoiceId,
        /// How far.
        state: RefundState,
    },
    /// An invoice that was closed long ago is not kept any more.
    InvoiceForgotten(InvoiceId),
    /// A transfer that ended long ago is not kept any more.
    TransferForgotten(TransferId),
    /// An account that never had anything is not kept any more.
    AccountForgotten(Principal),
    /// Something about wallets and escrows.
    Settlement(SettlementEvent),
    /// A transfer is to be made; its number follows the last one's.
    TransferPlanned {
        /// What for.
        purpose: Purpose,
        /// What.
        order: Order,
    },
    /// The journal's entry before a call.
    StepBegun {
        /// Of this transfer.
        transfer: TransferId,
        /// Which.
        step: Step,
    },
    /// The journal's entry after a call.
    StepAnswered {
        /// Of this transfer.
        transfer: TransferId,
        /// What came of it.
        answer: Answer,
    },
}
