//! Wallets and escrows, for those whom they concern.

use candid::Principal;
use shared_types::econ::settlement::{
    Escrow, EscrowId, EscrowPage, ListEscrowsArgs, SettlementTotals, Wallet, WalletId, Withdrawal,
};
use shared_types::econ::{Account, EconError};

use crate::guards::signed_caller;
use crate::state;

/// A wallet, for its holder, its owner and admins.
///
/// # Errors
/// [`EconError::UnknownWallet`], [`EconError::Unauthorized`].
pub fn wallet(id: WalletId) -> Result<Wallet, EconError> {
    let caller = signed_caller()?;
    state::read(|economy| economy.settlement().readable_wallet(economy.actor(caller), id))
}

/// The account of a ledger to which tokens for a holder's wallet are sent.
pub fn deposit_account(holder: Principal) -> Account {
    state::read(|economy| economy.deposit_account(holder))
}

/// An escrow, for its parties and admins.
///
/// # Errors
/// [`EconError::UnknownEscrow`].
pub fn escrow(id: EscrowId) -> Result<Escrow, EconError> {
    let caller = signed_caller()?;
    state::read(|economy| economy.settlement().readable_escrow(economy.actor(caller), id))
}

/// A page of the escrows that a wallet pays.
///
/// # Errors
/// [`EconError::UnknownWallet`], [`EconError::Unauthorized`].
pub fn escrows(args: &ListEscrowsArgs) -> Result<EscrowPage, EconError> {
    let caller = signed_caller()?;
    state::read(|economy| economy.settlement().list_escrows(economy.actor(caller), args))
}

/// A withdrawal, for those who may read its wallet.
///
/// # Errors
/// [`EconError::UnknownWithdrawal`].
pub fn withdrawal(id: u64) -> Result<Withdrawal, EconError> {
    let caller = signed_caller()?;
    let unknown = EconError::UnknownWithdrawal { withdrawal: id };
    state::read(|economy| {
        let withdrawal = economy.settlement().withdrawal(id).ok_or(unknown.clone())?;
        let readable = economy.settlement().readable_wallet(economy.actor(caller), withdrawal.args.wallet);
        readable.map(|_| withdrawal).map_err(|_| unknown)
    })
}

/// Where all tokens of a ledger are that ever entered wallets.
pub fn settlement_totals(ledger: Principal) -> SettlementTotals {
    state::read(|economy| economy.settlement().totals(ledger))
}
