//! Finding a transfer among a ledger's blocks.

use candid::Nat;
use icrc_ledger_types::icrc::generic_value::ICRC3Value;
use icrc_ledger_types::icrc1::account::Account;
use std::collections::BTreeMap;

use crate::transfers::{Order, Source};

/// What a reading of blocks brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// How many blocks there are.
    pub log_length: u64,
    /// The first block that was not looked at.
    pub next: u64,
    /// The block that is the transfer.
    pub found: Option<u64>,
}

/// What matters of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    from: Account,
    to: Account,
    amount: u128,
    memo: Vec<u8>,
}

impl Order {
    /// The account that pays.
    fn from(&self, own: Account) -> Account {
        match self.source {
            Source::Allowance { from, .. } => from,
            Source::Own { subaccount } => Account { owner: own.owner, subaccount },
        }
    }
}

/// Looks for `order` among blocks of ICRC-3. Only blocks that follow `from` without a gap count as looked at.
///
/// A transfer is told by its memo, which no other purpose has, and by accounts and amount. Whose the source of an
/// [`Source::Own`] order is, the block itself says: its memo is the hash of something that only this canister pays.
pub fn reading(order: &Order, from: u64, log_length: u64, blocks: &[(u64, ICRC3Value)]) -> Reading {
    let moved: BTreeMap<u64, Option<Moved>> =
        blocks.iter().map(|(index, block)| (*index, moved(block))).collect();
    read(from, log_length, &moved, |moved| {
        moved.memo == order.memo.as_bytes()
            && moved.from == order.from(moved.from)
            && moved.to == order.to
            && moved.amount == order.amount
    })
}

fn read<T>(
    from: u64,
    log_length: u64,
    blocks: &BTreeMap<u64, Option<T>>,
    is_it: impl Fn(&T) -> bool,
) -> Reading {
    let mut next = from.min(log_length);
    let mut found = None;
    while let Some(block) = blocks.get(&next) {
        if block.as_ref().is_some_and(&is_it) {
            found = found.or(Some(next));
        }
        next += 1;
    }
    Reading { log_length, next, found }
}

fn map(value: &ICRC3Value) -> Option<&BTreeMap<String, ICRC3Value>> {
    match value {
        ICRC3Value::Map(map) => Some(map),
        _ => None,
    }
}

fn blob(value: &ICRC3Value) -> Option<&[u8]> {
    match value {
        ICRC3Value::Blob(bytes) => Some(bytes),
        _ => None,
    }
}

fn nat(value: &ICRC3Value) -> Option<u128> {
    match value {
        ICRC3Value::Nat(Nat(number)) => u128::try_from(number).ok(),
        _ => None,
    }
}

/// An account of ICRC-3: the owner's bytes, and the subaccount's if it has one.
fn account(value: &ICRC3Value) -> Option<Account> {
    let ICRC3Value::Array(parts) = value else { return None };
    let owner = candid::Principal::try_from_slice(blob(parts.first()?)?).ok()?;
    let subaccount = match parts.get(1) {
        Some(part) => Some(blob(part)?.try_into().ok()?),
        None => None,
    };
    Some(Account { owner, subaccount })
}

/// Tokens that a block moved: `xfer` of the first blocks' schema, `1xfer` and `2xfer` of ICRC-3.
fn moved(block: &ICRC3Value) -> Option<Moved> {
    let block = map(block)?;
    let transaction = map(block.get("tx")?)?;
    let kind = block.get("btype").or_else(|| transaction.get("op"))?;
    let is_transfer =
        matches!(kind, ICRC3Value::Text(kind) if ["xfer", "1xfer", "2xfer"].contains(&kind.as_str()));
    if !is_transfer {
        return None;
    }
    Some(Moved {
        from: account(transaction.get("from")?)?,
        to: account(transaction.get("to")?)?,
        amount: nat(transaction.get("amt")?)?,
        memo: blob(transaction.get("memo")?)?.to_vec(),
    })
}

/// Blocks of the ICP ledger, which has an interface of its own for them (`ledger.did` of the ICP ledger).
pub mod icp {
    use candid::{CandidType, Principal};
    use icrc_ledger_types::icrc3::archive::QueryArchiveFn;
    use serde::Deserialize;
    use serde_bytes::ByteBuf;
    use sha2::{Digest, Sha224};

    use super::{Account, BTreeMap, Order, Reading, Source, read};

    /// Argument of `query_blocks`.
    #[derive(CandidType, Deserialize, Clone, Copy, Debug)]
    pub struct GetBlocksArgs {
        /// The first block.
        pub start: u64,
        /// How many.
        pub length: u64,
    }

    /// Amount of tokens.
    #[derive(CandidType, Deserialize, Clone, Copy, Debug)]
    pub struct Tokens {
        /// Hundred-millionths.
        pub e8s: u64,
    }

    /// What a transaction did; other operations decode as `None` of the optional field.
    #[derive(CandidType, Deserialize, Clone, Debug)]
    pub enum Operation {
        /// Tokens moved.
        Transfer {
            /// From this account identifier.
            from: ByteBuf,
            /// To this account identifier.
            to: ByteBuf,
            /// So many.
            amount: Tokens,
        },
    }

    /// A transaction.
    #[derive(CandidType, Deserialize, Clone, Debug)]
    pub struct Transaction {
        /// The memo of ICRC-1.
        pub icrc1_memo: Option<ByteBuf>,
        /// What it did.
        pub operation: Option<Operation>,
    }

    /// A block.
    #[derive(CandidType, Deserialize, Clone, Debug)]
    pub struct Block {
        /// Its transaction.
        pub transaction: Transaction,
    }

    /// Blocks of an archive.
    #[derive(CandidType, Deserialize, Clone, Debug)]
    pub struct BlockRange {
        /// In order.
        pub blocks: Vec<Block>,
    }

    /// Where archived blocks are.
    #[derive(CandidType, Deserialize, Debug)]
    pub struct ArchivedBlocksRange {
        /// The first block.
        pub start: u64,
        /// How many.
        pub length: u64,
        /// Who has them.
        pub callback: QueryArchiveFn<GetBlocksArgs, Result<BlockRange, candid::Reserved>>,
    }

    /// Result of `query_blocks`.
    #[derive(CandidType, Deserialize, Debug)]
    pub struct QueryBlocksResponse {
        /// How many blocks there are.
        pub chain_length: u64,
        /// The first of `blocks`.
        pub first_block_index: u64,
        /// Blocks that the ledger holds itself.
        pub blocks: Vec<Block>,
        /// The others of those asked for.
        pub archived_blocks: Vec<ArchivedBlocksRange>,
    }

    /// The account identifier of an account: SHA-224 of the domain, the owner and the subaccount, after its CRC-32.
    pub fn account_identifier(owner: Principal, subaccount: Option<[u8; 32]>) -> [u8; 32] {
        let mut hasher = Sha224::new();
        hasher.update(b"\x0aaccount-id");
        hasher.update(owner.as_slice());
        hasher.update(subaccount.unwrap_or([0; 32]));
        let hash = hasher.finalize();
        let mut identifier = [0; 32];
        identifier[4..].copy_from_slice(&hash);
        identifier[..4].copy_from_slice(&crc32fast::hash(&hash).to_be_bytes());
        identifier
    }

    /// Looks for `order` among blocks of the ICP ledger.
    pub fn reading(order: &Order, from: u64, log_length: u64, blocks: &[(u64, Block)]) -> Reading {
        let blocks: BTreeMap<u64, Option<Transaction>> =
            blocks.iter().map(|(index, block)| (*index, Some(block.transaction.clone()))).collect();
        let to = account_identifier(order.to.owner, order.to.subaccount);
        let source = match order.source {
            Source::Allowance { from: Account { owner, subaccount }, .. } => {
                Some(account_identifier(owner, subaccount))
            }
            // The memo is of something that only this canister pays.
            Source::Own { .. } => None,
        };
        read(from, log_length, &blocks, |transaction| {
            let Some(Operation::Transfer { from, to: to_account, amount }) = &transaction.operation else {
                return false;
            };
            transaction.icrc1_memo.as_ref().is_some_and(|memo| memo.as_slice() == order.memo.as_bytes())
                && source.is_none_or(|source| from.as_slice() == source)
                && to_account.as_slice() == to
                && u128::from(amount.e8s) == order.amount
        })
    }
}
