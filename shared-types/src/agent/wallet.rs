//! The agent's wallet: an account at ICRC-1 ledgers, and payments from it within the owner's limits.
//!
//! The account is that of the agent's canister without a subaccount. The owner registers ledgers with limits. A payment that the
//! coordinator asks for and that is larger than `approval_above` waits until the owner approves it. A payment is executed at most
//! once, whatever is lost: it is submitted with one `created_at_time`, by which the ledger tells repetitions, and not any more once the
//! ledger would have forgotten it.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use icrc_ledger_types::icrc1::account::Account;

use crate::field::FieldError;

/// Most ledgers that an agent may know.
pub const MAX_LEDGERS: u64 = 16;

/// Most payments that have not ended.
pub const MAX_OPEN_PAYMENTS: u64 = 64;

/// Most payments kept; the oldest that has ended makes room for a new one.
pub const MAX_STORED_PAYMENTS: u64 = 1_000;

/// Longest memo in bytes (ICRC-1: ledgers take 32 at least).
pub const MAX_MEMO_BYTES: usize = 32;

/// Longest reason that a payment gives, in bytes.
pub const MAX_PURPOSE_BYTES: usize = 256;

/// What an agent may spend of a token, in its smallest unit, the ledger's fees included.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpendingLimits {
    /// With one payment.
    pub per_payment: u128,
    /// In a day of UTC.
    pub per_day: u128,
    /// What the coordinator asks for beyond this waits for the owner's approval.
    pub approval_above: u128,
}

/// Argument of `set_ledger`: registers a ledger, or changes its limits.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetLedgerArgs {
    /// The ledger's canister.
    pub ledger: Principal,
    /// What may be spent.
    pub limits: SpendingLimits,
}

/// A ledger that the agent knows.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WalletLedger {
    /// The ledger's canister.
    pub ledger: Principal,
    /// `icrc1_symbol`.
    pub symbol: String,
    /// `icrc1_decimals`.
    pub decimals: u8,
    /// `icrc1_fee`, as the agent knows it.
    pub fee: u128,
    /// What may be spent.
    pub limits: SpendingLimits,
    /// The day of UTC, since 1970, that `spent` is of.
    pub day: u64,
    /// What was spent on that day, and what is on its way.
    pub spent: u128,
}

/// Result of `wallet`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// The agent's account at every ledger.
    pub account: Account,
    /// The threshold-ECDSA key, once `wallet_address` has asked for it.
    pub address: Option<WalletAddress>,
    /// The ledgers.
    pub ledgers: Vec<WalletLedger>,
    /// Payments that have not ended.
    pub open_payments: u64,
}

/// The agent's key at the Internet Computer's threshold-ECDSA signer.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WalletAddress {
    /// Name of the signer's master key on secp256k1.
    pub key_name: String,
    /// The agent's public key: a point in the compressed form of SEC 1, 33 bytes.
    pub public_key: ByteBuf,
    /// The Ethereum address of that key, with the checksum of EIP-55.
    pub ethereum: String,
}

/// Number of a payment, from 1.
pub type PaymentId = u64;

/// Argument of `pay`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PayArgs {
    /// The ledger.
    pub ledger: Principal,
    /// Whom.
    pub to: Account,
    /// Tokens in the smallest unit, from 1; the agent pays the ledger's fee on top.
    pub amount: u128,
    /// Chosen by the caller, 1 to [`super::MAX_KEY_BYTES`] bytes: the same caller and key are the same payment.
    pub key: String,
    /// What the ledger's block is to say, at most [`MAX_MEMO_BYTES`] bytes.
    pub memo: Option<ByteBuf>,
    /// What it is for, in words, at most [`MAX_PURPOSE_BYTES`] bytes.
    pub purpose: String,
}

impl PayArgs {
    /// Checks the arguments that need no ledger.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::check_text("key", &self.key, super::MAX_KEY_BYTES)?;
        if self.amount == 0 {
            return Err(FieldError::new("amount", "is 0, the least is 1"));
        }
        let memo = self.memo.as_ref().map_or(0, |memo| memo.len());
        if memo > MAX_MEMO_BYTES {
            let reason = format!("has {memo} bytes, at most {MAX_MEMO_BYTES} are allowed");
            return Err(FieldError::new("memo", reason));
        }
        if self.purpose.len() > MAX_PURPOSE_BYTES {
            let bytes = self.purpose.len();
            let reason = format!("has {bytes} bytes, at most {MAX_PURPOSE_BYTES} are allowed");
            return Err(FieldError::new("purpose", reason));
        }
        Ok(())
    }
}

/// Argument of `withdraw`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WithdrawArgs {
    /// The ledger.
    pub ledger: Principal,
    /// Tokens in the smallest unit, the fee on top; absent: all there are.
    pub amount: Option<u128>,
    /// Chosen by the owner, 1 to [`super::MAX_KEY_BYTES`] bytes: the same key is the same withdrawal.
    pub key: String,
    /// The owner's subaccount to send them to.
    pub subaccount: Option<[u8; 32]>,
}

/// What a payment is.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentKind {
    /// To somebody, within the limits.
    Payment,
    /// To the owner, who has no limits.
    Withdrawal,
}

/// A payment.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PaymentRecord {
    /// Its number.
    pub id: PaymentId,
    /// What it is.
    pub kind: PaymentKind,
    /// Who asked for it.
    pub caller: Principal,
    /// The caller's key.
    pub key: String,
    /// The ledger.
    pub ledger: Principal,
    /// Whom.
    pub to: Account,
    /// Tokens in the smallest unit.
    pub amount: u128,
    /// The ledger's fee on top.
    pub fee: u128,
    /// What the ledger's block says.
    pub memo: Option<ByteBuf>,
    /// What it is for.
    pub purpose: String,
    /// Where it stands.
    pub state: PaymentState,
    /// Submissions to the ledger.
    pub attempts: u32,
    /// When it was asked for, in nanoseconds since 1970.
    pub requested_at_ns: u64,
    /// The time by which the ledger tells repetitions: that of the first submission.
    pub created_at_ns: Option<u64>,
    /// When it ended.
    pub ended_at_ns: Option<u64>,
}

/// Where a payment stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum PaymentState {
    /// The owner decides.
    AwaitingApproval,
    /// To be submitted.
    Ready,
    /// Submitted: the answer is to come, or lost.
    Submitted,
    /// The ledger executed it.
    Done {
        /// In this block.
        block: u64,
    },
    /// The ledger refused it, and did not execute it.
    Failed {
        /// Why.
        reason: String,
    },
    /// The owner did not approve it.
    Rejected,
    /// Answers were lost for as long as the ledger tells repetitions: whether it was executed is in the ledger's blocks. It counts as
    /// spent and is not submitted any more.
    Unknown {
        /// What was heard last.
        reason: String,
    },
}

impl PaymentState {
    /// Whether the payment will change no more.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::AwaitingApproval | Self::Ready | Self::Submitted)
    }
}

/// Page request of `list_payments`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPaymentsArgs {
    /// The last payment of the page before.
    pub after: Option<PaymentId>,
    /// Most payments to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_payments`, oldest first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PaymentPage {
    /// The payments.
    pub payments: Vec<PaymentRecord>,
    /// `after` of the next page.
    pub next: Option<PaymentId>,
}
