//! Blocks as clients read them (ICRC-3): the generic values, their hashes, ranges of blocks.
//!
//! The schema is that of the ledgers of dfinity/ic: `tx.op` says what a block is, and there is no `btype`, which the standard
//! allows for the blocks of ICRC-1 and ICRC-2.

use crate::ledger::{Block, Ledger, LedgerAccount, Operation, Transaction};
use candid::Nat;
use icrc_ledger_types::icrc::generic_value::{ICRC3Map, ICRC3Value, Value};
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc3::blocks::{BlockWithId, GetBlocksRequest, SupportedBlockType};
use serde_bytes::ByteBuf;

impl LedgerAccount for Account {
    fn value(&self) -> ICRC3Value {
        // The default subaccount has two names; it must have one in a hash.
        let subaccount = self.subaccount.filter(|subaccount| subaccount != &[0; 32]);
        Value::from(Self { subaccount, ..*self }).into()
    }
}

/// Blocks that an answer has at most.
pub const MAX_BLOCKS_PER_RESPONSE: usize = 100;

/// Kinds of blocks that a ledger makes.
pub fn supported_block_types() -> Vec<SupportedBlockType> {
    let kinds = [("1burn", 1), ("1mint", 1), ("1xfer", 1), ("2approve", 2), ("2xfer", 2)];
    let kind = |(name, standard): (&str, u8)| SupportedBlockType {
        block_type: name.to_owned(),
        url: format!("https://github.com/dfinity/ICRC-1/tree/main/standards/ICRC-{standard}"),
    };
    kinds.map(kind).into()
}

fn nat(n: u128) -> ICRC3Value {
    ICRC3Value::Nat(n.into())
}

fn map<const N: usize>(entries: [(&str, Option<ICRC3Value>); N]) -> ICRC3Map {
    entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// The field `tx` of a block. Its hash identifies a transaction, so it has all that distinguishes two.
pub fn transaction_value<A: LedgerAccount>(transaction: &Transaction<A>) -> ICRC3Value {
    let account = |account: &A| account.value();
    let (name, spender, fee) = match &transaction.operation {
        Operation::Mint { .. } => ("mint", None, None),
        Operation::Burn { spender, .. } => ("burn", spender.as_ref(), None),
        Operation::Transfer { spender, fee, .. } => ("xfer", spender.as_ref(), *fee),
        Operation::Approve { spender, fee, .. } => ("approve", Some(spender), *fee),
    };
    let (amount, expires_at, expected) = match &transaction.operation {
        Operation::Approve { allowance, expected_allowance, .. } => {
            (allowance.amount, allowance.expires_at, *expected_allowance)
        }
        other => (other.amount(), None, None),
    };
    ICRC3Value::Map(map([
        ("op", Some(ICRC3Value::Text(name.to_owned()))),
        ("from", transaction.operation.from().as_ref().map(account)),
        ("to", transaction.operation.to().as_ref().map(account)),
        ("spender", spender.map(account)),
        ("amt", Some(nat(amount))),
        ("fee", fee.map(nat)),
        ("expected_allowance", expected.map(nat)),
        ("expires_at", expires_at.map(|time| nat(time.into()))),
        ("memo", transaction.memo.as_ref().map(|memo| ICRC3Value::Blob(ByteBuf::from(memo.clone())))),
        ("ts", transaction.created_at_time.map(|time| nat(time.into()))),
    ]))
}

/// A block.
pub fn block_value<A: LedgerAccount>(block: &Block<A>) -> ICRC3Value {
    // A fee that the sender did not state stands beside the transaction.
    let fee = match block.transaction.operation {
        Operation::Transfer { fee: None, .. } | Operation::Approve { fee: None, .. } => Some(block.fee),
        _ => None,
    };
    ICRC3Value::Map(map([
        ("tx", Some(transaction_value(&block.transaction))),
        ("ts", Some(nat(block.timestamp.into()))),
        ("fee", fee.map(nat)),
        ("phash", block.parent_hash.map(|hash| ICRC3Value::Blob(ByteBuf::from(hash)))),
    ]))
}

/// The blocks of the ranges that exist, [`MAX_BLOCKS_PER_RESPONSE`] in all.
pub fn blocks<A: LedgerAccount>(ledger: &Ledger<A>, ranges: &[GetBlocksRequest]) -> Vec<BlockWithId> {
    let ids = ranges.iter().flat_map(|range| {
        let start = to_u64(&range.start);
        start..start.saturating_add(to_u64(&range.length)).min(ledger.block_count())
    });
    let blocks = ids.filter_map(|id| {
        let block = block_value(ledger.block(id)?);
        Some(BlockWithId { id: id.into(), block })
    });
    blocks.take(MAX_BLOCKS_PER_RESPONSE).collect()
}

/// The number, or the largest there is; no ledger has so many blocks.
pub fn to_u64(n: &Nat) -> u64 {
    u64::try_from(&n.0).unwrap_or(u64::MAX)
}
