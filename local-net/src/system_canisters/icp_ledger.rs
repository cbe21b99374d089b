//! What the ICP ledger has besides ICRC-1 and ICRC-2.

use super::{Call, GOVERNANCE, SystemCanisters, account::AccountIdentifier, reply};
use crate::{network::Network, reject::Response};
use candid::CandidType;
use icrc_ledger_types::icrc1::account::{Account, Subaccount};
use serde::Deserialize;
use serde_bytes::{ByteBuf, Bytes};
use std::borrow::Cow;
use token_ledger::{LedgerError, Operation, Transaction, icrc::Token, ledger::TRANSACTION_WINDOW};

/// ICP, in e8s.
pub const TOKEN: Token = Token {
    name: Cow::Borrowed("Internet Computer"),
    symbol: Cow::Borrowed("ICP"),
    decimals: 8,
    fee: 10_000,
    max_supply: u64::MAX as u128,
    minting_account: Some(Account { owner: GOVERNANCE, subaccount: None }),
};

#[derive(CandidType, Deserialize)]
struct Tokens {
    e8s: u64,
}

impl Tokens {
    /// No amount of ICP exceeds 64 bits.
    fn of(amount: u128) -> Self {
        Self { e8s: u64::try_from(amount).unwrap_or(u64::MAX) }
    }
}

#[derive(CandidType, Deserialize)]
struct AccountBalanceArgs {
    account: ByteBuf,
}

#[derive(CandidType)]
struct TransferFee {
    transfer_fee: Tokens,
}

#[derive(CandidType, Deserialize)]
struct TimeStamp {
    timestamp_nanos: u64,
}

#[derive(CandidType, Deserialize)]
struct TransferArgs {
    memo: u64,
    amount: Tokens,
    fee: Tokens,
    from_subaccount: Option<Subaccount>,
    to: ByteBuf,
    created_at_time: Option<TimeStamp>,
}

#[derive(CandidType)]
enum TransferError {
    BadFee { expected_fee: Tokens },
    InsufficientFunds { balance: Tokens },
    TxTooOld { allowed_window_nanos: u64 },
    TxCreatedInFuture,
    TxDuplicate { duplicate_of: u64 },
}

pub(super) fn account_balance(_: &Network, system: &SystemCanisters, call: &Call) -> Response {
    let args: AccountBalanceArgs = call.decode()?;
    let account = AccountIdentifier::from_bytes(&args.account);
    reply(Tokens::of(account.map_or(0, |account| system.icp.balance(&account))))
}

pub(super) fn account_identifier(_: &Network, _: &SystemCanisters, call: &Call) -> Response {
    let account: Account = call.decode()?;
    reply(Bytes::new(AccountIdentifier::from(account).as_bytes()))
}

pub(super) fn transfer_fee(_: &Network, _: &SystemCanisters, _: &Call) -> Response {
    reply(TransferFee { transfer_fee: Tokens::of(TOKEN.fee) })
}

pub(super) fn transfer(_: &mut Network, system: &mut SystemCanisters, call: &mut Call) -> Response {
    let args: TransferArgs = call.decode()?;
    let from = AccountIdentifier::of(call.caller, args.from_subaccount);
    let to = AccountIdentifier::from_bytes(&args.to)
        .ok_or_else(|| call.trap("`to` is no account identifier: it needs 32 bytes with a checksum"))?;
    let (mints, burns) = (TOKEN.is_minter(from), TOKEN.is_minter(to));
    if mints && burns {
        return Err(call.trap("the minting account cannot transfer to itself"));
    }
    let fee = if mints || burns { 0 } else { TOKEN.fee };
    if u128::from(args.fee.e8s) != fee {
        return reply(Err::<u64, _>(TransferError::BadFee { expected_fee: Tokens::of(fee) }));
    }
    let amount = u128::from(args.amount.e8s);
    if burns && amount < TOKEN.fee {
        return Err(call.trap(format!("at least {} e8s can be burned", TOKEN.fee)));
    }
    let operation = match (mints, burns) {
        (true, _) => Operation::Mint { to, amount },
        (_, true) => Operation::Burn { from, spender: None, amount },
        _ => Operation::Transfer { from, to, spender: None, amount, fee: Some(fee) },
    };
    let transaction = Transaction {
        operation,
        memo: Some(args.memo.to_le_bytes().to_vec()),
        created_at_time: args.created_at_time.map(|time| time.timestamp_nanos),
    };
    let error = match system.icp.execute(call.now, transaction, fee) {
        Ok(block) => return reply(Ok::<_, TransferError>(block)),
        Err(error) => error,
    };
    reply(Err::<u64, _>(match error {
        LedgerError::InsufficientFunds(balance) => {
            TransferError::InsufficientFunds { balance: Tokens::of(balance) }
        }
        LedgerError::TooOld => TransferError::TxTooOld { allowed_window_nanos: TRANSACTION_WINDOW },
        LedgerError::CreatedInFuture => TransferError::TxCreatedInFuture,
        LedgerError::Duplicate(block) => TransferError::TxDuplicate { duplicate_of: block },
        error => return Err(call.trap(error.to_string())),
    }))
}
