//! Wallets and escrows of agents: calls as often as the caller's class allows ([`EconError::RateLimited`]).

use ic_cdk::api::time;
use shared_types::econ::EconError;
use shared_types::econ::settlement::{
    DisputeArgs, Escrow, EscrowId, OpenEscrowArgs, OpenWalletArgs, Wallet, WalletId, WithdrawArgs, Withdrawal,
};

use crate::guards::limited_caller;
use crate::{driver, platform, state};

/// Opens a wallet, or changes its limits.
///
/// # Errors
/// As [`crate::economy::Economy::open_wallet`].
pub fn open_wallet(args: &OpenWalletArgs) -> Result<Wallet, EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| economy.open_wallet(caller, args, time()))
}

/// Takes the tokens in that were sent to a wallet's subaccount. A timer goes on with a deposit
/// whose end the call does not see.
///
/// # Errors
/// As [`crate::economy::Economy::begin_deposit`]; [`EconError::LedgerUnavailable`], [`EconError::Busy`].
pub async fn deposit(wallet: WalletId) -> Result<Wallet, EconError> {
    let caller = limited_caller()?;
    let account = state::read(|economy| {
        economy.settlement().readable_wallet(economy.actor(caller), wallet)?;
        Ok::<_, EconError>(economy.deposit_account(wallet.holder))
    })?;
    let balance = platform::balance_of(wallet.ledger, account).await?;
    let begun = state::mutate(|economy| economy.begin_deposit(caller, wallet, balance, time()))?;
    if let Some(transfer) = begun {
        driver::drive(transfer).await?;
    }
    state::read(|economy| economy.settlement().wallet(wallet))
}

/// Sends tokens from a wallet to an account of the ledger. A timer goes on with a
/// withdrawal whose end the call does not see.
///
/// # Errors
/// As [`crate::economy::Economy::begin_withdrawal`]; [`EconError::Busy`].
pub async fn withdraw(args: WithdrawArgs) -> Result<Withdrawal, EconError> {
    let caller = limited_caller()?;
    let (id, begun) = state::mutate(|economy| economy.begin_withdrawal(caller, &args, time()))?;
    if let Some(transfer) = begun {
        driver::drive(transfer).await?;
    }
    let withdrawal = state::read(|economy| economy.settlement().withdrawal(id));
    withdrawal.ok_or(EconError::UnknownWithdrawal { withdrawal: id })
}

/// Holds a job's price, or transfers at once.
///
/// # Errors
/// As [`crate::economy::Economy::open_escrow`].
pub fn open_escrow(args: &OpenEscrowArgs) -> Result<Escrow, EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| economy.open_escrow(caller, args, time()))
}

/// Pays the payee.
///
/// # Errors
/// As [`crate::economy::Economy::release_escrow`].
pub fn release_escrow(escrow: EscrowId) -> Result<Escrow, EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| economy.release_escrow(caller, escrow, time()))
}

/// Gives the amount back to the payer.
///
/// # Errors
/// As [`crate::economy::Economy::refund_escrow`].
pub fn refund_escrow(escrow: EscrowId) -> Result<Escrow, EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| economy.refund_escrow(caller, escrow, time()))
}

/// Keeps the deadline from giving the amount back.
///
/// # Errors
/// As [`crate::economy::Economy::dispute_escrow`].
pub fn dispute_escrow(args: &DisputeArgs) -> Result<Escrow, EconError> {
    let caller = limited_caller()?;
    state::mutate(|economy| economy.dispute_escrow(caller, args, time()))
}
