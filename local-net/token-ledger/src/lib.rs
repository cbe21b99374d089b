//! The rules of a token ledger: accounts, allowances, deduplication (ICRC-1, ICRC-2) and the blocks that record them (ICRC-3).
//!
//! [`ledger`] has the transactions, [`icrc`] what the standards' methods make of their arguments, [`icrc3`] the blocks as
//! clients read them. Where the standards leave something open, it is as in the ledgers of dfinity/ic (`rs/ledger_suite/icrc1`,
//! which run ckUSDC, ckUSDT and others), in the order of their checks, too.
//!
//! Architecture Invariant: no I/O, no clock; the caller says what time it is. It runs natively and in a canister.

pub mod icrc;
pub mod icrc3;
pub mod ledger;
#[cfg(test)]
mod tests;

pub use ledger::{Allowance, Block, Ledger, LedgerAccount, LedgerError, Operation, Transaction};
