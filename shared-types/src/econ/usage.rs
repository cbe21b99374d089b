//! What runs consumed: one envelope per run, series over time, exports.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::quota::ReservationId;

/// Records of runs that an account keeps; beyond, the oldest is removed. The series go on without it.
pub const MAX_USAGE_RECORDS: u64 = 10_000;

/// Hours that an account's hourly series goes back; the daily series keeps [`MAX_DAYS`].
pub const MAX_HOURS: u64 = 31 * 24;

/// Days that an account's daily series goes back.
pub const MAX_DAYS: u64 = 400;

/// What a run was like, as its canister measured it.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageEnvelope {
    /// From the request to the last token.
    pub latency_ns: u64,
    /// Tokens of the prompt.
    pub tokens_in: u64,
    /// Tokens generated.
    pub tokens_out: u64,
    /// Instructions.
    pub instructions: u64,
    /// Cycles.
    pub cycles: u128,
}

/// A run in the usage history.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// Position in the account's history, from 1.
    pub sequence: u64,
    /// When it was settled.
    pub time_ns: u64,
    /// Number of the billing period that was charged.
    pub period: u32,
    /// The canister that reserved and settled.
    pub agent: Principal,
    /// The reservation.
    pub reservation: ReservationId,
    /// As measured.
    pub envelope: UsageEnvelope,
    /// Tokens that the period was charged.
    pub charged_tokens: u64,
    /// The run's share of the period's price, in millionths of a cent.
    pub cost_microcents: u64,
}

/// Sums over runs.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageTotals {
    /// Runs.
    pub runs: u64,
    /// Sum of latencies.
    pub latency_ns: u64,
    /// Tokens of prompts.
    pub tokens_in: u64,
    /// Tokens generated.
    pub tokens_out: u64,
    /// Instructions.
    pub instructions: u64,
    /// Cycles.
    pub cycles: u128,
    /// Tokens that periods were charged.
    pub charged_tokens: u64,
    /// Shares of prices, in millionths of a cent.
    pub cost_microcents: u64,
}

impl UsageTotals {
    /// Adds a run. Sums stop at the largest number; figures of one run are bounded by [`UsageEnvelope::validate`].
    pub fn add(&mut self, record: &UsageRecord) {
        self.merge(&Self {
            runs: 1,
            latency_ns: record.envelope.latency_ns,
            tokens_in: record.envelope.tokens_in,
            tokens_out: record.envelope.tokens_out,
            instructions: record.envelope.instructions,
            cycles: record.envelope.cycles,
            charged_tokens: record.charged_tokens,
            cost_microcents: record.cost_microcents,
        });
    }

    /// Adds other sums.
    pub fn merge(&mut self, other: &Self) {
        self.runs = self.runs.saturating_add(other.runs);
        self.latency_ns = self.latency_ns.saturating_add(other.latency_ns);
        self.tokens_in = self.tokens_in.saturating_add(other.tokens_in);
        self.tokens_out = self.tokens_out.saturating_add(other.tokens_out);
        self.instructions = self.instructions.saturating_add(other.instructions);
        self.cycles = self.cycles.saturating_add(other.cycles);
        self.charged_tokens = self.charged_tokens.saturating_add(other.charged_tokens);
        self.cost_microcents = self.cost_microcents.saturating_add(other.cost_microcents);
    }
}

impl UsageEnvelope {
    /// Tokens in and out.
    pub fn tokens(&self) -> u64 {
        self.tokens_in.saturating_add(self.tokens_out)
    }

    /// Checks that no figure is larger than any run could have.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<(), crate::FieldError> {
        let figures = [
            ("latency_ns", u128::from(self.latency_ns), u128::from(366 * super::DAY_NS)),
            ("tokens_in", u128::from(self.tokens_in), 1 << 32),
            ("tokens_out", u128::from(self.tokens_out), 1 << 32),
            ("instructions", u128::from(self.instructions), 1 << 56),
            ("cycles", self.cycles, 1 << 80),
        ];
        let wrong = figures.into_iter().find(|(_, value, most)| value > most);
        wrong.map_or(Ok(()), |(field, value, most)| {
            Err(crate::FieldError::new(
                format!("usage.{field}"),
                format!("is {value}, at most {most} is allowed"),
            ))
        })
    }
}

/// Page request of `usage`: the runs of an account, from the oldest that is kept.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageArgs {
    /// Whose; absent for the caller's. Others than the account and admins are refused.
    pub account: Option<Principal>,
    /// The last sequence number of the page before.
    pub after: Option<u64>,
    /// Most records to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `usage`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UsagePage {
    /// The runs.
    pub records: Vec<UsageRecord>,
    /// `after` of the next page.
    pub next: Option<u64>,
}

/// Step of a series.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeriesStep {
    /// Hours since 1970.
    Hour,
    /// Days since 1970.
    Day,
}

/// Page request of `series`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesArgs {
    /// Whose; absent for the caller's. Others than the account and admins are refused.
    pub account: Option<Principal>,
    /// Hours or days.
    pub step: SeriesStep,
    /// The last start of the page before, or the moment after which to begin.
    pub after_ns: Option<u64>,
    /// Most points to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Sums of an hour or a day; those without runs are left out.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesPoint {
    /// When it begins.
    pub start_ns: u64,
    /// The sums.
    pub totals: UsageTotals,
}

/// Page of `series`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SeriesPage {
    /// The points.
    pub points: Vec<SeriesPoint>,
    /// `after_ns` of the next page.
    pub next: Option<u64>,
}

/// Format of an export.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Comma-separated values (RFC 4180); the first page begins with the header.
    Csv,
    /// One JSON object per line.
    Json,
}

/// What is exported.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportSubject {
    /// The runs that are kept.
    Usage,
    /// The invoices.
    Invoices,
}

/// Page request of `export`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportArgs {
    /// Whose; absent for the caller's. Others than the account and admins are refused.
    pub account: Option<Principal>,
    /// What.
    pub subject: ExportSubject,
    /// How.
    pub format: ExportFormat,
    /// `next` of the page before.
    pub after: Option<u64>,
    /// Most lines to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `export`: the texts of all pages, one after the other, are the file.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExportPage {
    /// Whole lines.
    pub text: String,
    /// `after` of the next page.
    pub next: Option<u64>,
}
