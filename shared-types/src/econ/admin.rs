//! Installation, governance, and what can be read about the canister.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::tiers::TierVersion;
use super::{DAY_NS, HOUR_NS};
use crate::field::FieldError;

/// Most admins.
pub const MAX_ADMINS: usize = 32;

/// Most accounts: with some 500 bytes each they take 5 GB.
pub const MAX_ACCOUNTS: u64 = 10_000_000;

/// Argument of the canister's installation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EconInitArgs {
    /// Governance: at least one, none anonymous.
    pub admins: Vec<Principal>,
    /// Times and limits.
    pub config: EconConfig,
}

/// Times and limits.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EconConfig {
    /// How long before it takes effect a change of a tier must be announced.
    pub notice_ns: u64,
    /// How long a renewal may remain unpaid before the account is suspended.
    pub grace_ns: u64,
    /// How long a suspended account can go on with a payment.
    pub retention_ns: u64,
    /// Pause before each further attempt to collect a renewal; after the last one the invoice is void. Each is 1 minute to 31 days,
    /// at most 16.
    pub retry_pauses_ns: Vec<u64>,
    /// The exchange-rate canister; absent while only dollars are taken.
    pub exchange_rates: Option<Principal>,
    /// How old an exchange rate may be.
    pub max_rate_age_ns: u64,
    /// How far the sources of a rate may differ: standard deviation, in hundredths of a percent of the rate.
    pub max_rate_deviation_bp: u32,
    /// How long a quote holds.
    pub quote_ns: u64,
    /// Most accounts. Those that never had a subscription are forgotten after a month.
    pub max_accounts: u64,
    /// Most payments under way at the same time.
    pub max_concurrent: u32,
    /// What the release of an escrow costs the payee, in hundredths of a percent.
    pub escrow_fee_bp: u32,
}

impl Default for EconConfig {
    fn default() -> Self {
        Self {
            notice_ns: 30 * DAY_NS,
            grace_ns: 5 * DAY_NS,
            retention_ns: 30 * DAY_NS,
            retry_pauses_ns: vec![HOUR_NS, 12 * HOUR_NS, DAY_NS, DAY_NS, DAY_NS],
            exchange_rates: None,
            max_rate_age_ns: 10 * 60 * super::SECOND_NS,
            max_rate_deviation_bp: 200,
            quote_ns: 10 * 60 * super::SECOND_NS,
            max_accounts: MAX_ACCOUNTS,
            max_concurrent: 50,
            escrow_fee_bp: super::settlement::DEFAULT_FEE_BP,
        }
    }
}

impl EconConfig {
    /// Checks the rules for the figures.
    ///
    /// # Errors
    /// Names the first field that breaks one.
    pub fn validate(&self) -> Result<(), FieldError> {
        let minute = 60 * super::SECOND_NS;
        let times = [
            ("notice_ns", self.notice_ns, 0, 366 * DAY_NS),
            ("grace_ns", self.grace_ns, minute, 31 * DAY_NS),
            ("retention_ns", self.retention_ns, minute, 366 * DAY_NS),
            ("max_rate_age_ns", self.max_rate_age_ns, minute, DAY_NS),
            ("max_rate_deviation_bp", u64::from(self.max_rate_deviation_bp), 1, 10_000),
            ("quote_ns", self.quote_ns, minute, DAY_NS),
            ("max_accounts", self.max_accounts, 1, MAX_ACCOUNTS),
            ("max_concurrent", u64::from(self.max_concurrent), 1, 400),
            ("escrow_fee_bp", u64::from(self.escrow_fee_bp), 0, u64::from(super::settlement::MAX_FEE_BP)),
        ];
        let pauses =
            self.retry_pauses_ns.iter().map(|pause| ("retry_pauses_ns", *pause, minute, 31 * DAY_NS));
        for (field, value, least, most) in times.into_iter().chain(pauses) {
            if !(least..=most).contains(&value) {
                let reason = format!("is {value}, must be {least} to {most}");
                return Err(FieldError::new(format!("config.{field}"), reason));
            }
        }
        if self.retry_pauses_ns.len() > 16 {
            return Err(FieldError::new("config.retry_pauses_ns", "has more than 16 entries"));
        }
        Ok(())
    }
}

/// Argument of `announce_tier`, for admins.
pub type AnnounceTierArgs = TierVersion;

/// What an authorised canister is.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceRole {
    /// Reserves for every account.
    Coordinator,
    /// Reserves for every account; its creations register agents.
    Factory,
    /// Reserves for the account that it belongs to.
    Agent {
        /// The account.
        account: Principal,
    },
}

/// An authorised canister.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceGrant {
    /// The canister.
    pub service: Principal,
    /// What it is.
    pub role: ServiceRole,
}

/// Page request of `list_services`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListServicesArgs {
    /// The last service of the page before.
    pub after: Option<Principal>,
    /// Most services to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_services`, ordered by principal.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ServicePage {
    /// The services.
    pub services: Vec<ServiceGrant>,
    /// `after` of the next page.
    pub next: Option<Principal>,
}

/// An entry of the event log, for admins: every change of state is one.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EconEvent {
    /// Position in the log, from 0.
    pub index: u64,
    /// When.
    pub time_ns: u64,
    /// What, as JSON: the log outlives versions of the types.
    pub event: String,
}

/// Page request of `events`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsArgs {
    /// The last index of the page before.
    pub after: Option<u64>,
    /// Most events to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `events`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EventsPage {
    /// The events.
    pub events: Vec<EconEvent>,
    /// `after` of the next page.
    pub next: Option<u64>,
}

/// Result of `status`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EconStatus {
    /// Version of the canister's code.
    pub version: String,
    /// Governance.
    pub admins: Vec<Principal>,
    /// Times and limits.
    pub config: EconConfig,
    /// Accounts.
    pub accounts: u64,
    /// Invoices.
    pub invoices: u64,
    /// Payments that are being worked on.
    pub payments_in_progress: u64,
    /// Events in the log.
    pub events: u64,
    /// Cycles balance.
    pub cycles: u128,
}
