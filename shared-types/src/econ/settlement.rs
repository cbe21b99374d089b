//! Settlement between agents: wallets, and escrows that hold a job's price until the job is done.
//!
//! # Wallets
//! A wallet holds tokens of one ledger for an agent, a person or this canister (which earns the fees). Tokens enter by an
//! ICRC-1 transfer to the wallet's subaccount of this canister ([`wallet_subaccount`]) and `deposit`, and leave by
//! `withdraw`. In between they move by escrows and transfers, which cost no ledger fee. The owner sets what the agent may
//! spend at a time and in a day.
//!
//! # Escrows
//! ```text
//! open ─┬─ released: by the payer, or governance ─────────────▶ payee gets amount − fee
//!       ├─ refunded: by the payee, governance, or the deadline ▶ payer gets amount
//!       └─ disputed (by the payee, before the deadline) ─┬─ released: by the payer, or governance
//!                                                        └─ refunded: by the payee, governance, or the dispute's end
//! ```
//! The fee is `amount` × `fee_bp` ÷ 10,000, rounded down: the rounding is the payee's gain, never the payer's loss. A
//! refund is free.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{DAY_NS, MAX_KEY_BYTES, SECOND_NS};
use crate::field::FieldError;

/// Number of an escrow, from 1.
pub type EscrowId = u64;

/// Highest fee, in hundredths of a percent.
pub const MAX_FEE_BP: u32 = 1_000;

/// Fee of escrows at first.
pub const DEFAULT_FEE_BP: u32 = 100;

/// Shortest time from opening to deadline.
pub const MIN_ESCROW_NS: u64 = 60 * SECOND_NS;

/// Longest time from opening to deadline.
pub const MAX_ESCROW_NS: u64 = 31 * DAY_NS;

/// Time after a dispute begins for the payer or governance to end it; then the payer gets the amount back.
pub const DISPUTE_NS: u64 = 14 * DAY_NS;

/// Time for which an escrow that has ended answers repeated calls.
pub const ESCROW_REMEMBERED_NS: u64 = 31 * DAY_NS;

/// Most escrows of a payer that are open at the same time.
pub const MAX_OPEN_ESCROWS: u32 = 1_000;

/// Most escrows that are kept.
pub const MAX_ESCROWS: u64 = 1_000_000;

/// Most wallets.
pub const MAX_WALLETS: u64 = 2_000_000;

/// The subaccount of this canister to which tokens for a wallet are sent: SHA-256 of the domain and the holder's bytes.
pub fn wallet_subaccount(holder: Principal) -> [u8; 32] {
    let mut hasher = Sha256::new();
    // The length of the domain before it, as usual for domain separators of the Internet Computer.
    hasher.update(b"\x0bohms-wallet");
    hasher.update(holder.as_slice());
    hasher.finalize().into()
}

/// The subaccount of this canister that has the tokens of all wallets and escrows.
pub fn settlement_subaccount() -> [u8; 32] {
    Sha256::digest(b"\x0fohms-settlement").into()
}

/// Whose wallet, and of which token.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalletId {
    /// The ledger.
    pub ledger: Principal,
    /// The agent's canister, or the person.
    pub holder: Principal,
}

/// What a wallet may spend by escrows and transfers. Withdrawals, which only the owner can make, are not limited.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpendingLimits {
    /// At a time; absent: all it has.
    pub per_transfer: Option<u128>,
    /// In a day of UTC; absent: all it has. What comes back counts as spent.
    pub per_day: Option<u128>,
}

/// A wallet.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// Whose, and of which token.
    pub id: WalletId,
    /// Who sets the limits and withdraws.
    pub owner: Principal,
    /// What it has, in the ledger's smallest unit.
    pub balance: u128,
    /// What may be spent.
    pub limits: SpendingLimits,
    /// The last day in which something was spent, counted from 1970.
    pub day: u64,
    /// What was spent in that day.
    pub spent_in_day: u128,
    /// Escrows that it pays and that have not ended.
    pub open_escrows: u32,
    /// How far the last deposit is; absent when it is in.
    pub deposit: Option<DepositState>,
}

/// How far a deposit is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum DepositState {
    /// The tokens go from the wallet's subaccount to where all wallets' tokens are.
    Pending,
    /// They are still on the subaccount; `deposit` tries again.
    Failed {
        /// As the ledger said.
        reason: String,
    },
}

/// Argument of `open_wallet`: the caller becomes the owner of the wallet of an agent of his, or of his own. Repeated, it
/// changes the limits.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenWalletArgs {
    /// Whose, and of which token.
    pub wallet: WalletId,
    /// What may be spent.
    pub limits: SpendingLimits,
}

/// What an escrow is for.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum EscrowPurpose {
    /// A job: the amount waits until it is done.
    Job {
        /// The payer's name for it, 1 to [`super::MAX_KEY_BYTES`] bytes.
        job: String,
        /// When the amount goes back unless it was released or disputed.
        deadline_ns: u64,
    },
    /// A transfer: released at once, without a fee.
    Transfer,
}

/// Argument of `open_escrow`, for the payer: the holder of the wallet or its owner.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct OpenEscrowArgs {
    /// The wallet that pays.
    pub payer: WalletId,
    /// Who is to get it: the holder of a wallet of the same token.
    pub payee: Principal,
    /// How much, fee included.
    pub amount: u128,
    /// What for.
    pub purpose: EscrowPurpose,
    /// Chosen by the caller, 1 to [`super::MAX_KEY_BYTES`] bytes: the same payer and key are the same escrow.
    pub key: String,
}

impl OpenEscrowArgs {
    /// Checks what does not depend on the state.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self, now_ns: u64) -> Result<(), FieldError> {
        FieldError::check_text("key", &self.key, MAX_KEY_BYTES)?;
        if self.amount == 0 {
            return Err(FieldError::new("amount", "must not be 0"));
        }
        if self.payee == self.payer.holder {
            return Err(FieldError::new("payee", "is the payer"));
        }
        if let EscrowPurpose::Job { job, deadline_ns } = &self.purpose {
            FieldError::check_text("purpose.job", job, MAX_KEY_BYTES)?;
            let ahead = deadline_ns.saturating_sub(now_ns);
            if !(MIN_ESCROW_NS..=MAX_ESCROW_NS).contains(&ahead) {
                let reason = format!("is {ahead} ns ahead, must be {MIN_ESCROW_NS} to {MAX_ESCROW_NS}");
                return Err(FieldError::new("purpose.deadline_ns", reason));
            }
        }
        Ok(())
    }
}

/// Where an escrow stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum EscrowState {
    /// It holds the amount.
    Open,
    /// It holds the amount; the payee says that the job is done.
    Disputed {
        /// What the payee says.
        reason: String,
        /// When the amount goes back unless somebody ends the dispute.
        ends_ns: u64,
    },
    /// The payee has the amount, less the fee.
    Released {
        /// When.
        time_ns: u64,
    },
    /// The payer has the amount back.
    Refunded {
        /// When.
        time_ns: u64,
        /// Why.
        reason: RefundReason,
    },
}

impl EscrowState {
    /// Whether it has ended.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Released { .. } | Self::Refunded { .. })
    }
}

/// Why an escrow went back.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefundReason {
    /// The payee could not do the job.
    Failure,
    /// Nobody released it in time.
    Timeout,
    /// Governance decided so.
    Governance,
}

/// Money that waits for a job, or a transfer that was made.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Escrow {
    /// Its number.
    pub id: EscrowId,
    /// As asked for.
    pub args: OpenEscrowArgs,
    /// When it was opened.
    pub opened_ns: u64,
    /// What a release costs, kept from the opening on.
    pub fee: u128,
    /// Where it stands.
    pub state: EscrowState,
}

/// `amount` × `fee_bp` ÷ 10,000, rounded down.
pub fn escrow_fee(amount: u128, fee_bp: u32) -> u128 {
    // In two parts, so that nothing overflows: the quotient and the remainder by 10,000.
    let (whole, rest) = (amount / 10_000, amount % 10_000);
    whole * u128::from(fee_bp) + rest * u128::from(fee_bp) / 10_000
}

/// Argument of `dispute_escrow`, for the payee.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct DisputeArgs {
    /// The escrow.
    pub escrow: EscrowId,
    /// What speaks for a release: 1 to 200 bytes.
    pub reason: String,
}

/// Argument of `withdraw`, for the owner of a wallet.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WithdrawArgs {
    /// The wallet.
    pub wallet: WalletId,
    /// The account that gets the tokens.
    pub to: super::Account,
    /// How much arrives; the wallet pays the ledger's fee besides.
    pub amount: u128,
    /// Chosen by the caller, 1 to [`super::MAX_KEY_BYTES`] bytes: the same wallet and key are the same withdrawal.
    pub key: String,
}

/// How far a withdrawal is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum WithdrawalState {
    /// The tokens are on their way.
    Pending,
    /// They are out.
    Done {
        /// The ledger's block.
        block: u64,
    },
    /// The ledger refused it: the wallet has them back.
    Failed {
        /// As the ledger said.
        reason: String,
    },
}

/// Tokens that leave a wallet for an account of the ledger.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// Its number, of the same series as those of escrows.
    pub id: u64,
    /// As asked for.
    pub args: WithdrawArgs,
    /// The ledger's fee, which the wallet has paid.
    pub fee: u128,
    /// When it began.
    pub begun_ns: u64,
    /// How far it is.
    pub state: WithdrawalState,
}

/// Where all tokens of a ledger are that ever entered wallets.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettlementTotals {
    /// What entered.
    pub deposited: u128,
    /// What left, ledger fees included.
    pub withdrawn: u128,
    /// What is on its way out.
    pub withdrawing: u128,
    /// What wallets have, that of this canister with the fees included.
    pub in_wallets: u128,
    /// What escrows hold.
    pub in_escrows: u128,
}

impl SettlementTotals {
    /// INV-E21: what entered is where it should be.
    pub fn is_balanced(&self) -> bool {
        let parts = [self.withdrawn, self.withdrawing, self.in_wallets, self.in_escrows];
        parts.iter().try_fold(0u128, |sum, part| sum.checked_add(*part)) == Some(self.deposited)
    }
}

/// Page request of `escrows`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListEscrowsArgs {
    /// The wallet that pays; its holder and owner may read, and admins.
    pub payer: WalletId,
    /// The last number of the page before.
    pub after: Option<EscrowId>,
    /// Most escrows to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `escrows`, in order.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct EscrowPage {
    /// The escrows.
    pub escrows: Vec<Escrow>,
    /// `after` of the next page.
    pub next: Option<EscrowId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_fee_is_the_share_rounded_down(amount in 0..u128::MAX / 10_000, fee_bp in 0..=MAX_FEE_BP) {
            prop_assert_eq!(escrow_fee(amount, fee_bp), amount * u128::from(fee_bp) / 10_000);
        }
    }

    #[test]
    fn the_fee_of_everything_is_no_overflow() {
        assert_eq!(escrow_fee(u128::MAX, 10_000), u128::MAX);
        assert_eq!(escrow_fee(99, 100), 0);
        assert_eq!(escrow_fee(100, 100), 1);
    }
}
