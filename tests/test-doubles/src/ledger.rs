//! What the ledger canister is installed with.

use candid::CandidType;
use icrc_ledger_types::icrc1::account::Account;
use serde::{Deserialize, Serialize};

/// What makes the token of a ledger.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug)]
pub struct LedgerInitArgs {
    /// Its name.
    pub name: String,
    /// Its symbol.
    pub symbol: String,
    /// Digits after the decimal point of an amount that people read.
    pub decimals: u8,
    /// What a transaction costs.
    pub fee: u64,
    /// The account that mints and burns.
    pub minting_account: Account,
}
