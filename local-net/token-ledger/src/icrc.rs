//! The methods of ICRC-1 and ICRC-2: what they make of their arguments, and their answers.

use crate::ledger::{Allowance, Ledger, LedgerAccount, LedgerError, Operation, Transaction};
use candid::{CandidType, Nat, Principal};
use icrc_ledger_types::icrc::generic_metadata_value::MetadataValue;
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc1::transfer::{Memo, TransferArg, TransferError};
use icrc_ledger_types::icrc2::allowance::{Allowance as AllowanceReply, AllowanceArgs};
use icrc_ledger_types::icrc2::approve::{ApproveArgs, ApproveError};
use icrc_ledger_types::icrc2::transfer_from::{TransferFromArgs, TransferFromError};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Bytes of a memo.
pub const MEMO_BYTES: usize = 32;
/// `error_code` of generic errors: a bound of this ledger.
pub const GENERIC_ERROR: u64 = 1;

/// What makes a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its symbol.
    pub symbol: Cow<'static, str>,
    /// Digits after the decimal point of an amount that people read.
    pub decimals: u8,
    /// What a transaction costs.
    pub fee: u128,
    /// What all balances together can be.
    pub max_supply: u128,
    /// The account that mints and burns.
    pub minting_account: Option<Account>,
}

/// A standard that a ledger supports (ICRC-10).
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Standard {
    /// `ICRC-1` and so on.
    pub name: String,
    /// Where it is written down.
    pub url: String,
}

impl Standard {
    /// The standard with this number.
    pub fn icrc(number: u8) -> Self {
        let url = match number {
            1..=3 => format!("https://github.com/dfinity/ICRC-1/tree/main/standards/ICRC-{number}"),
            _ => format!("https://github.com/dfinity/ICRC/blob/main/ICRCs/ICRC-{number}/ICRC-{number}.md"),
        };
        Self { name: format!("ICRC-{number}"), url }
    }
}

/// Why a method traps instead of answering.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trap(pub String);

impl Token {
    /// Whether `account` mints and burns.
    pub fn is_minter<A: LedgerAccount>(&self, account: A) -> bool {
        self.minting_account.is_some_and(|minter| A::from(minter) == account)
    }

    /// What `icrc1_metadata` answers.
    pub fn metadata(&self) -> Vec<(String, MetadataValue)> {
        let entries = [
            ("icrc1:name", MetadataValue::from(&*self.name)),
            ("icrc1:symbol", MetadataValue::from(&*self.symbol)),
            ("icrc1:decimals", MetadataValue::from(u64::from(self.decimals))),
            ("icrc1:fee", MetadataValue::Nat(self.fee.into())),
            ("icrc1:max_memo_length", MetadataValue::from(MEMO_BYTES as u64)),
        ];
        entries.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

/// What `icrc2_allowance` answers.
pub fn allowance<A: LedgerAccount>(ledger: &Ledger<A>, now: u64, args: &AllowanceArgs) -> AllowanceReply {
    let Allowance { amount, expires_at } = ledger.allowance(args.account.into(), args.spender.into(), now);
    AllowanceReply { allowance: amount.into(), expires_at }
}

/// `icrc1_transfer` by `caller`.
///
/// # Errors
/// A [`Trap`] where the method answers nothing; the inner error is the method's.
pub fn transfer<A: LedgerAccount>(
    ledger: &mut Ledger<A>,
    token: &Token,
    caller: Principal,
    now: u64,
    args: TransferArg,
) -> Result<Result<Nat, TransferError>, Trap> {
    let args = TransferFromArgs {
        spender_subaccount: None,
        from: Account { owner: caller, subaccount: args.from_subaccount },
        to: args.to,
        amount: args.amount,
        fee: args.fee,
        memo: args.memo,
        created_at_time: args.created_at_time,
    };
    let result = move_tokens(ledger, token, None, now, args)?;
    Ok(result.map_err(|error| match error {
        TransferFromError::BadFee { expected_fee } => TransferError::BadFee { expected_fee },
        TransferFromError::BadBurn { min_burn_amount } => TransferError::BadBurn { min_burn_amount },
        TransferFromError::InsufficientFunds { balance } => TransferError::InsufficientFunds { balance },
        TransferFromError::TooOld => TransferError::TooOld,
        TransferFromError::CreatedInFuture { ledger_time } => TransferError::CreatedInFuture { ledger_time },
        TransferFromError::Duplicate { duplicate_of } => TransferError::Duplicate { duplicate_of },
        TransferFromError::TemporarilyUnavailable => TransferError::TemporarilyUnavailable,
        TransferFromError::GenericError { error_code, message } => {
            TransferError::GenericError { error_code, message }
        }
        error @ TransferFromError::InsufficientAllowance { .. } => {
            TransferError::GenericError { error_code: GENERIC_ERROR.into(), message: error.to_string() }
        }
    }))
}

/// `icrc2_transfer_from` by `caller`.
///
/// # Errors
/// A [`Trap`] where the method answers nothing; the inner error is the method's.
pub fn transfer_from<A: LedgerAccount>(
    ledger: &mut Ledger<A>,
    token: &Token,
    caller: Principal,
    now: u64,
    args: TransferFromArgs,
) -> Result<Result<Nat, TransferFromError>, Trap> {
    let spender = A::from(Account { owner: caller, subaccount: args.spender_subaccount });
    move_tokens(ledger, token, Some(spender), now, args)
}

fn move_tokens<A: LedgerAccount>(
    ledger: &mut Ledger<A>,
    token: &Token,
    spender: Option<A>,
    now: u64,
    args: TransferFromArgs,
) -> Result<Result<Nat, TransferFromError>, Trap> {
    let memo = memo(args.memo)?;
    let (from, to) = (A::from(args.from), A::from(args.to));
    let balance = ledger.balance(&from);
    let insufficient = Ok(Err(TransferFromError::InsufficientFunds { balance: balance.into() }));
    // Nobody has as many tokens as do not fit.
    let Ok(amount) = u128::try_from(&args.amount.0) else { return insufficient };
    let burns = token.is_minter(to);
    let mints = token.is_minter(from) && !burns;
    if mints && spender.is_some() {
        return Err(Trap("the minting account cannot delegate mints".to_owned()));
    }
    let fee = if burns || mints { 0 } else { token.fee };
    if args.fee.as_ref().is_some_and(|stated| *stated != fee) {
        return Ok(Err(TransferFromError::BadFee { expected_fee: fee.into() }));
    }
    if burns {
        let least = token.fee.min(balance);
        if amount < least || amount == 0 {
            let min_burn_amount = if amount == 0 { token.fee } else { least };
            return Ok(Err(TransferFromError::BadBurn { min_burn_amount: min_burn_amount.into() }));
        }
    }
    let operation = if burns {
        Operation::Burn { from, spender, amount }
    } else if mints {
        Operation::Mint { to, amount }
    } else {
        Operation::Transfer { from, to, spender, amount, fee: args.fee.map(|_| fee) }
    };
    let transaction = Transaction { operation, memo, created_at_time: args.created_at_time };
    let result = ledger.execute(now, transaction, fee);
    Ok(result.map(Nat::from).map_err(|error| match error {
        LedgerError::InsufficientFunds(balance) => {
            TransferFromError::InsufficientFunds { balance: balance.into() }
        }
        LedgerError::InsufficientAllowance(allowance) => {
            TransferFromError::InsufficientAllowance { allowance: allowance.into() }
        }
        LedgerError::TooOld => TransferFromError::TooOld,
        LedgerError::CreatedInFuture => TransferFromError::CreatedInFuture { ledger_time: now },
        LedgerError::Duplicate(block) => TransferFromError::Duplicate { duplicate_of: block.into() },
        LedgerError::TemporarilyUnavailable => TransferFromError::TemporarilyUnavailable,
        error @ (LedgerError::AllowanceChanged(_) | LedgerError::Expired | LedgerError::Full(_)) => {
            TransferFromError::GenericError { error_code: GENERIC_ERROR.into(), message: error.to_string() }
        }
    }))
}

/// `icrc2_approve` by `caller`.
///
/// # Errors
/// A [`Trap`] where the method answers nothing; the inner error is the method's.
pub fn approve<A: LedgerAccount>(
    ledger: &mut Ledger<A>,
    token: &Token,
    caller: Principal,
    now: u64,
    args: ApproveArgs,
) -> Result<Result<Nat, ApproveError>, Trap> {
    if args.spender.owner == caller {
        return Err(Trap("self approval is not allowed".to_owned()));
    }
    let from = A::from(Account { owner: caller, subaccount: args.from_subaccount });
    if token.is_minter(from) {
        return Err(Trap("the minting account cannot delegate mints".to_owned()));
    }
    let memo = memo(args.memo)?;
    let spender = A::from(args.spender);
    // No allowance is as large as what does not fit.
    let expected_allowance = match args.expected_allowance.map(|expected| u128::try_from(&expected.0)) {
        Some(Err(_)) => {
            let current_allowance = ledger.allowance(from, spender, now).amount.into();
            return Ok(Err(ApproveError::AllowanceChanged { current_allowance }));
        }
        expected => expected.and_then(Result::ok),
    };
    if args.fee.as_ref().is_some_and(|stated| *stated != token.fee) {
        return Ok(Err(ApproveError::BadFee { expected_fee: token.fee.into() }));
    }
    let amount = saturate(&args.amount).min(token.max_supply);
    let operation = Operation::Approve {
        from,
        spender,
        allowance: Allowance { amount, expires_at: args.expires_at },
        expected_allowance,
        fee: args.fee.map(|_| token.fee),
    };
    let transaction = Transaction { operation, memo, created_at_time: args.created_at_time };
    let result = ledger.execute(now, transaction, token.fee);
    Ok(result.map(Nat::from).map_err(|error| match error {
        LedgerError::InsufficientFunds(balance) => {
            ApproveError::InsufficientFunds { balance: balance.into() }
        }
        LedgerError::AllowanceChanged(allowance) => {
            ApproveError::AllowanceChanged { current_allowance: allowance.into() }
        }
        LedgerError::Expired => ApproveError::Expired { ledger_time: now },
        LedgerError::TooOld => ApproveError::TooOld,
        LedgerError::CreatedInFuture => ApproveError::CreatedInFuture { ledger_time: now },
        LedgerError::Duplicate(block) => ApproveError::Duplicate { duplicate_of: block.into() },
        LedgerError::TemporarilyUnavailable => ApproveError::TemporarilyUnavailable,
        error @ (LedgerError::InsufficientAllowance(_) | LedgerError::Full(_)) => {
            ApproveError::GenericError { error_code: GENERIC_ERROR.into(), message: error.to_string() }
        }
    }))
}

/// The number, or the largest there is; nobody has as much.
pub fn saturate(amount: &Nat) -> u128 {
    u128::try_from(&amount.0).unwrap_or(u128::MAX)
}

fn memo(memo: Option<Memo>) -> Result<Option<Vec<u8>>, Trap> {
    let memo = memo.map(|memo| memo.0.into_vec());
    match memo.as_ref().map_or(0, Vec::len) {
        0..=MEMO_BYTES => Ok(memo),
        n => Err(Trap(format!("the memo of {n} bytes exceeds {MEMO_BYTES} bytes"))),
    }
}
