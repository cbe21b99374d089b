//! Interface of the `econ` canister: tiers, subscriptions, quotas, payments, usage.
//!
//! # Who calls
//! People subscribe, pay and read what is theirs. Authorised canisters (the coordinator, the factory, agents) reserve
//! before they spend: [`ReserveArgs`] before, [`SettleArgs`] with the real amount after, `release` when nothing was spent.
//! Governance changes tiers, ledgers and authorisations.
//!
//! # Units
//! Dollars are whole cents (`_cents`), costs of single runs millionths of a cent (`_microcents`). Tokens of ledgers are in
//! their smallest unit. Times are nanoseconds since 1970 (`_ns`).

pub mod admin;
pub mod error;
pub mod payment;
pub mod quota;
pub mod rate_limit;
pub mod settlement;
pub mod subscription;
pub mod tiers;
pub mod usage;

pub use admin::{
    AnnounceTierArgs, EconConfig, EconEvent, EconInitArgs, EconStatus, EventsArgs, EventsPage,
    ListServicesArgs, ServiceGrant, ServicePage, ServiceRole,
};
pub use error::EconError;
pub use payment::{
    Account, BlockLog, ChangeTierArgs, ChangeTime, Currency, Invoice, InvoiceArgs, InvoiceKind, InvoicePage,
    InvoiceState, LedgerArgs, LedgerInfo, ListInvoicesArgs, PayArgs, PaymentMethod, Quote, QuoteArgs, Rate,
    RefundArgs, RefundState, SubscribeArgs, payment_subaccount,
};
pub use quota::{
    AccountSummary, Meter, Reservation, ReservationId, ReservationState, ReserveArgs, Resource,
    ReturnAgentArgs, SettleArgs, Settlement,
};
pub use subscription::{Period, Subscription, SubscriptionInput, SubscriptionRefusal, SubscriptionStatus};
pub use tiers::{RateClass, Terms, TierVersion};
pub use usage::{
    ExportArgs, ExportFormat, ExportPage, ExportSubject, SeriesArgs, SeriesPage, SeriesPoint, SeriesStep,
    UsageArgs, UsageEnvelope, UsagePage, UsageRecord, UsageTotals,
};

/// Longest idempotency key in bytes.
pub const MAX_KEY_BYTES: usize = 64;

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds of an hour.
pub const HOUR_NS: u64 = 3_600 * SECOND_NS;

/// Nanoseconds of a day.
pub const DAY_NS: u64 = 24 * HOUR_NS;

/// `amount` × `part` ÷ `whole`, rounded down; `None` when `whole` is 0 or the result leaves 64 bits.
pub fn share(amount: u64, part: u64, whole: u64) -> Option<u64> {
    let product = u128::from(amount) * u128::from(part);
    u64::try_from(product.checked_div(u128::from(whole))?).ok()
}
