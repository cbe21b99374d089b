//! Payments: ledgers, quotes, invoices.
//!
//! # How somebody pays
//! The wallet approves (ICRC-2) an allowance, capped and with an expiry, to the spender `{owner: this canister; subaccount:
//! payment_subaccount(user)}`. Then the user, signed in with whatever principal that is, calls `subscribe` and names the wallet's account.
//! Only calls of this user draw on the allowance, because only they use this subaccount.
//!
//! # What is promised
//! Every transfer has a journal entry before and after each call. Its `created_at_time` is chosen once and its memo is the invoice's
//! hash, so that the ledger refuses a repetition as a duplicate, which counts as success. When an answer is lost, the
//! ledger's blocks are read from where they ended before the first attempt; only when the ledger can't execute the transfer any more (its
//! deduplication window has passed) and no block has it, it is known not to have happened.

use candid::{CandidType, Principal};
pub use icrc_ledger_types::icrc1::account::Account;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::DAY_NS;
use super::tiers::Terms;
use crate::digest::Digest;
use crate::receipt::hash_of;

/// Number of an invoice, from 1.
pub type InvoiceId = u64;

/// Most invoices of an account that are kept: beyond, no new one is written but those of renewals.
pub const MAX_INVOICES: u32 = 1_000;

/// Most void invoices of an account that are kept: who lets so many payments fail waits until the oldest one is forgotten.
pub const MAX_VOID_INVOICES: u32 = 20;

/// Time for which a paid invoice is kept: ten years.
pub const PAID_REMEMBERED_NS: u64 = 3_653 * DAY_NS;

/// Time for which a void invoice is kept, and its key with it.
pub const VOID_REMEMBERED_NS: u64 = 31 * DAY_NS;

/// The subaccount of this canister that spends for `user`: SHA-256 of the domain and the principal's bytes.
pub fn payment_subaccount(user: Principal) -> [u8; 32] {
    let mut hasher = Sha256::new();
    // The length of the domain before it, as usual for domain separators of the Internet Computer.
    hasher.update(b"\x0cohms-payment");
    hasher.update(user.as_slice());
    hasher.finalize().into()
}

/// What a ledger's token is worth.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Currency {
    /// A dollar, by definition of the token.
    Dollar,
    /// What the exchange-rate canister says of this symbol.
    Asset {
        /// The symbol, such as `ICP`.
        symbol: String,
    },
}

/// How the ledger's blocks are read.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockLog {
    /// `icrc3_get_blocks` of ICRC-3.
    Icrc3,
    /// `query_blocks` of the ICP ledger.
    IcpLedger,
}

/// Argument of `set_ledger`, for admins.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LedgerArgs {
    /// The ledger's canister.
    pub canister: Principal,
    /// What its token is worth.
    pub currency: Currency,
    /// How its blocks are read.
    pub block_log: BlockLog,
    /// Whether new payments may use it.
    pub enabled: bool,
}

/// A ledger that payments use.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LedgerInfo {
    /// As configured.
    pub args: LedgerArgs,
    /// The token's symbol, as the ledger says.
    pub symbol: String,
    /// Decimals of a token, as the ledger says.
    pub decimals: u8,
    /// Fee of a transfer, as the ledger says.
    pub fee: u128,
}

/// How somebody pays.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaymentMethod {
    /// The ledger.
    pub ledger: Principal,
    /// The wallet's account, which has approved an allowance.
    pub from: Account,
}

/// An exchange rate.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Dollars for a token, times 10^`decimals`.
    pub rate: u64,
    /// See `rate`.
    pub decimals: u32,
    /// When it was so.
    pub time_ns: u64,
}

/// Argument of `quote`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct QuoteArgs {
    /// The ledger.
    pub ledger: Principal,
    /// The tier to subscribe or change to.
    pub tier: String,
}

/// What a tier costs now, in tokens of a ledger, for a while.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The tier.
    pub tier: String,
    /// The ledger.
    pub ledger: Principal,
    /// Dollars: the price, or the difference within the current period, less the account's credit.
    pub cents: u64,
    /// Tokens, without the ledger's fee.
    pub amount: u128,
    /// The ledger's fee, which the payer pays as well: the allowance must cover both.
    pub fee: u128,
    /// The rate, unless the token is a dollar.
    pub rate: Option<Rate>,
    /// Until when a payment may use it.
    pub expires_ns: u64,
}

/// Argument of `subscribe`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SubscribeArgs {
    /// The tier.
    pub tier: String,
    /// Who pays; also for renewals.
    pub method: PaymentMethod,
    /// Chosen by the caller, 1 to [`super::MAX_KEY_BYTES`] bytes: the same key is the same invoice.
    pub key: String,
}

/// When a change of the tier takes place.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeTime {
    /// At once, for the rest of the period in proportion.
    Now,
    /// With the next period.
    Renewal,
}

/// Argument of `change_tier`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ChangeTierArgs {
    /// The tier wanted.
    pub tier: String,
    /// When.
    pub time: ChangeTime,
    /// As in [`SubscribeArgs`]; an upgrade at once makes an invoice.
    pub key: String,
}

/// What an invoice is for.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoiceKind {
    /// A first period, which begins when it is paid.
    Subscription,
    /// A period that has begun when the one before ended.
    Renewal,
    /// A higher tier for the rest of a period.
    Upgrade,
}

/// Where an invoice stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum InvoiceState {
    /// To be paid, or being paid.
    Open,
    /// Paid.
    Paid {
        /// The ledger's block; absent when the credit covered all.
        block: Option<u64>,
        /// When.
        time_ns: u64,
    },
    /// Certainly not paid, and not to be.
    Void {
        /// Why.
        reason: String,
    },
}

/// Argument of `pay`: collects an open invoice now.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayArgs {
    /// The invoice.
    pub invoice: InvoiceId,
    /// Who pays, also from now on; absent for the one of the invoice.
    pub method: Option<PaymentMethod>,
}

/// How far the refund of a paid invoice is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum RefundState {
    /// Under way.
    Pending,
    /// The payer has it back.
    Done {
        /// The ledger's block.
        block: u64,
    },
    /// The ledger refused it; an admin may try again.
    Failed {
        /// As the ledger said.
        reason: String,
    },
}

/// An invoice.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// Its number.
    pub id: InvoiceId,
    /// Whose subscription.
    pub account: Principal,
    /// The key of the request; empty for renewals.
    pub key: String,
    /// What for.
    pub kind: InvoiceKind,
    /// Number of the period that it pays for; of a first period, known when it is paid.
    pub period: Option<u32>,
    /// Terms that it pays for.
    pub terms: Terms,
    /// What it costs.
    pub subtotal_cents: u64,
    /// What the account's credit covers.
    pub credit_cents: u64,
    /// What is to be paid.
    pub total_cents: u64,
    /// Who pays.
    pub method: PaymentMethod,
    /// Tokens to be paid, without the ledger's fee; absent until the rate is known.
    pub amount: Option<u128>,
    /// The rate, unless the token is a dollar.
    pub rate: Option<Rate>,
    /// When it was written.
    pub issued_ns: u64,
    /// Where it stands.
    pub state: InvoiceState,
    /// Attempts to collect it that have certainly failed.
    pub failed_attempts: u32,
    /// Why the last attempt failed.
    pub last_failure: Option<String>,
    /// When the next attempt begins, while it is open and none is under way.
    pub next_attempt_ns: Option<u64>,
    /// The refund, if there is one.
    pub refund: Option<RefundState>,
}

/// What the hash of an invoice covers.
#[derive(Serialize)]
struct InvoiceIdentity<'a> {
    id: InvoiceId,
    account: Principal,
    kind: InvoiceKind,
    terms: &'a Terms,
    total_cents: u64,
    ledger: Principal,
    issued_ns: u64,
}

impl Invoice {
    /// The memo of its transfers: the representation-independent hash of what never changes ([`crate::receipt::hash_of`]).
    pub fn hash(&self) -> Digest {
        hash_of(&InvoiceIdentity {
            id: self.id,
            account: self.account,
            kind: self.kind,
            terms: &self.terms,
            total_cents: self.total_cents,
            ledger: self.method.ledger,
            issued_ns: self.issued_ns,
        })
    }

    /// The memo of its refund.
    pub fn refund_hash(&self) -> Digest {
        let mut bytes = b"refund".to_vec();
        bytes.extend_from_slice(self.hash().as_bytes());
        Digest::of(&bytes)
    }

    /// Whether nothing can happen to it any more but a refund.
    pub fn is_closed(&self) -> bool {
        self.state != InvoiceState::Open
    }
}

/// Argument of `invoice`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum InvoiceArgs {
    /// By number.
    Id(InvoiceId),
    /// By the caller's key.
    Key(String),
}

/// Page request of `invoices`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListInvoicesArgs {
    /// Whose; absent for the caller's. Others than the account and admins are refused.
    pub account: Option<Principal>,
    /// The last number of the page before.
    pub after: Option<InvoiceId>,
    /// Most invoices to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `invoices`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct InvoicePage {
    /// The invoices.
    pub invoices: Vec<Invoice>,
    /// `after` of the next page.
    pub next: Option<InvoiceId>,
}

/// Argument of `refund`, for admins: gives an invoice's payment back to the payer and ends the period that it paid.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RefundArgs {
    /// The invoice.
    pub invoice: InvoiceId,
    /// Why, for the record: 1 to 200 bytes.
    pub reason: String,
}

/// Tokens that `cents` are: at a dollar each, or at `rate`; rounded up to the smallest unit. `None` when they leave 128 bits or the
/// rate is 0.
pub fn tokens_of(cents: u64, decimals: u8, rate: Option<Rate>) -> Option<u128> {
    let unit = 10u128.checked_pow(u32::from(decimals))?;
    let units = u128::from(cents).checked_mul(unit)?;
    match rate {
        None => Some(units.div_ceil(100)),
        Some(Rate { rate, decimals, .. }) => {
            let numerator = units.checked_mul(10u128.checked_pow(decimals)?)?;
            let denominator = u128::from(rate).checked_mul(100)?;
            if denominator == 0 { None } else { Some(numerator.div_ceil(denominator)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_become_tokens() {
        assert_eq!(tokens_of(2_900, 6, None), Some(29_000_000));
        // $29 at $4.35 a token of 8 decimals: 6.66666667 tokens, rounded up.
        let rate = Rate { rate: 4_350_000_000, decimals: 9, time_ns: 0 };
        assert_eq!(tokens_of(2_900, 8, Some(rate)), Some(666_666_667));
        assert_eq!(tokens_of(2_900, 8, Some(Rate { rate: 0, ..rate })), None);
        assert_eq!(tokens_of(u64::MAX, 38, Some(rate)), None);
        assert_eq!(tokens_of(1, 0, None), Some(1), "the smallest token is more than a cent");
    }

    #[test]
    fn users_have_subaccounts_of_their_own() {
        let (one, two) = (Principal::from_slice(&[1]), Principal::from_slice(&[2]));
        assert_ne!(payment_subaccount(one), payment_subaccount(two));
        assert_eq!(payment_subaccount(one), payment_subaccount(one));
    }
}
