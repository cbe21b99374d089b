//! The methods of the standards ICRC-1 and ICRC-2, which both ledgers have.

use super::{
    Call, ICP_LEDGER, Method, SystemCanisters,
    account::AccountIdentifier,
    cycles_ledger, icp_ledger,
    ledger::{Allowance, Approval, Ledger, LedgerError, Transfer},
    reply,
};
use crate::{
    network::Network,
    reject::{Reject, Response},
};
use candid::{CandidType, Nat, Principal};
use icrc_ledger_types::{
    icrc::generic_metadata_value::MetadataValue,
    icrc1::{
        account::Account,
        transfer::{Memo, TransferArg, TransferError},
    },
    icrc2::{
        allowance::{Allowance as AllowanceReply, AllowanceArgs},
        approve::{ApproveArgs, ApproveError},
        transfer_from::{TransferFromArgs, TransferFromError},
    },
};

/// Bytes of a memo.
const MEMO_BYTES: usize = 32;
/// `error_code` of generic errors: a transaction that makes no sense, or a bound of this ledger.
pub const GENERIC_ERROR: u64 = 1;

/// What makes a token.
pub struct Token {
    /// Its name.
    pub name: &'static str,
    /// Its symbol.
    pub symbol: &'static str,
    /// Digits after the decimal point of an amount that people read.
    pub decimals: u8,
    /// What a transaction costs.
    pub fee: u128,
    /// What all balances together can be.
    pub max_supply: u128,
    /// Whose default account mints and burns.
    pub minter: Option<Principal>,
}

impl Token {
    /// The account, or `None` for the one that mints and burns.
    pub fn holder(&self, account: AccountIdentifier) -> Option<AccountIdentifier> {
        let minter = self.minter.map(|owner| AccountIdentifier::of(owner, None));
        (minter != Some(account)).then_some(account)
    }

    /// What a transfer costs; minting and burning cost nothing.
    pub fn transfer_fee(&self, from: Option<AccountIdentifier>, to: Option<AccountIdentifier>) -> u128 {
        if from.is_some() && to.is_some() { self.fee } else { 0 }
    }
}

fn token(ledger: Principal) -> &'static Token {
    if ledger == ICP_LEDGER { &icp_ledger::TOKEN } else { &cycles_ledger::TOKEN }
}

/// The methods by name.
pub fn method(name: &str) -> Option<Method> {
    use Method::{Query, Update};
    Some(match name {
        "icrc1_name" => Query(|_, _, call| reply(token(call.callee).name)),
        "icrc1_symbol" => Query(|_, _, call| reply(token(call.callee).symbol)),
        "icrc1_decimals" => Query(|_, _, call| reply(token(call.callee).decimals)),
        "icrc1_fee" => Query(|_, _, call| reply(Nat::from(token(call.callee).fee))),
        "icrc1_minting_account" => Query(|_, _, call| reply(token(call.callee).minter.map(Account::from))),
        "icrc1_metadata" => Query(metadata),
        "icrc1_supported_standards" => Query(supported_standards),
        "icrc1_total_supply" => {
            Query(|_, system, call| reply(Nat::from(system.ledger(call.callee).total_supply())))
        }
        "icrc1_balance_of" => Query(balance_of),
        "icrc2_allowance" => Query(allowance),
        "icrc1_transfer" => Update(transfer),
        "icrc2_approve" => Update(approve),
        "icrc2_transfer_from" => Update(transfer_from),
        _ => return None,
    })
}

fn metadata(_: &Network, _: &SystemCanisters, call: &Call) -> Response {
    let token = token(call.callee);
    reply(vec![
        ("icrc1:name", MetadataValue::from(token.name)),
        ("icrc1:symbol", MetadataValue::from(token.symbol)),
        ("icrc1:decimals", MetadataValue::from(u64::from(token.decimals))),
        ("icrc1:fee", MetadataValue::Nat(token.fee.into())),
        ("icrc1:max_memo_length", MetadataValue::from(MEMO_BYTES as u64)),
    ])
}

fn supported_standards(_: &Network, _: &SystemCanisters, _: &Call) -> Response {
    #[derive(CandidType)]
    struct Standard {
        name: String,
        url: String,
    }
    let standards = ["ICRC-1", "ICRC-2"].map(|name| Standard {
        name: name.to_owned(),
        url: format!("https://github.com/dfinity/ICRC-1/tree/main/standards/{name}"),
    });
    reply(standards)
}

fn balance_of(_: &Network, system: &SystemCanisters, call: &Call) -> Response {
    let account: Account = call.decode()?;
    reply(Nat::from(system.ledger(call.callee).balance(&account.into())))
}

fn allowance(_: &Network, system: &SystemCanisters, call: &Call) -> Response {
    let args: AllowanceArgs = call.decode()?;
    let ledger = system.ledger(call.callee);
    let Allowance { amount, expires_at } =
        ledger.allowance(args.account.into(), args.spender.into(), call.now);
    reply(AllowanceReply { allowance: amount.into(), expires_at })
}

fn transfer(_: &mut Network, system: &mut SystemCanisters, call: &mut Call) -> Response {
    let args: TransferArg = call.decode()?;
    let args = TransferFromArgs {
        spender_subaccount: None,
        from: Account { owner: call.caller, subaccount: args.from_subaccount },
        to: args.to,
        amount: args.amount,
        fee: args.fee,
        memo: args.memo,
        created_at_time: args.created_at_time,
    };
    let result = move_tokens(system.ledger_mut(call.callee), call, None, args)?;
    reply(result.map_err(|error| match error {
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

fn transfer_from(_: &mut Network, system: &mut SystemCanisters, call: &mut Call) -> Response {
    let args: TransferFromArgs = call.decode()?;
    let spender = AccountIdentifier::of(call.caller, args.spender_subaccount);
    reply(move_tokens(system.ledger_mut(call.callee), call, Some(spender), args)?)
}

/// Executes a transfer. The outer error is a trap.
fn move_tokens(
    ledger: &mut Ledger,
    call: &Call,
    spender: Option<AccountIdentifier>,
    args: TransferFromArgs,
) -> Result<Result<Nat, TransferFromError>, Reject> {
    let token = token(call.callee);
    let (from, to) = (token.holder(args.from.into()), token.holder(args.to.into()));
    if from.is_none() && (to.is_none() || spender.is_some()) {
        return Err(call.trap("the minting account cannot transfer to itself, nor let others mint"));
    }
    let fee = token.transfer_fee(from, to);
    if args.fee.is_some_and(|expected| expected != fee) {
        return Ok(Err(TransferFromError::BadFee { expected_fee: fee.into() }));
    }
    if to.is_none() && args.amount < token.fee {
        return Ok(Err(TransferFromError::BadBurn { min_burn_amount: token.fee.into() }));
    }
    let transfer = Transfer {
        spender,
        from,
        to,
        amount: saturate(&args.amount),
        fee,
        memo: memo(call, args.memo)?,
        created_at_time: args.created_at_time,
    };
    let result = ledger.transfer(call.now, transfer);
    Ok(result.map(Nat::from).map_err(|error| match error {
        LedgerError::InsufficientFunds(balance) => {
            TransferFromError::InsufficientFunds { balance: balance.into() }
        }
        LedgerError::InsufficientAllowance(allowance) => {
            TransferFromError::InsufficientAllowance { allowance: allowance.into() }
        }
        LedgerError::TooOld => TransferFromError::TooOld,
        LedgerError::CreatedInFuture => TransferFromError::CreatedInFuture { ledger_time: call.now },
        LedgerError::Duplicate(block) => TransferFromError::Duplicate { duplicate_of: block.into() },
        LedgerError::TemporarilyUnavailable => TransferFromError::TemporarilyUnavailable,
        error @ (LedgerError::AllowanceChanged(_) | LedgerError::Expired | LedgerError::Full(_)) => {
            TransferFromError::GenericError { error_code: GENERIC_ERROR.into(), message: error.to_string() }
        }
    }))
}

fn approve(_: &mut Network, system: &mut SystemCanisters, call: &mut Call) -> Response {
    let args: ApproveArgs = call.decode()?;
    let token = token(call.callee);
    if args.spender.owner == call.caller {
        return Err(call.trap("self approval is not allowed"));
    }
    let Some(from) = token.holder(AccountIdentifier::of(call.caller, args.from_subaccount)) else {
        return Err(call.trap("the minting account cannot delegate mints"));
    };
    if args.fee.is_some_and(|expected| expected != token.fee) {
        return reply(Err::<Nat, _>(ApproveError::BadFee { expected_fee: token.fee.into() }));
    }
    let approval = Approval {
        from,
        spender: args.spender.into(),
        allowance: Allowance {
            amount: saturate(&args.amount).min(token.max_supply),
            expires_at: args.expires_at,
        },
        expected_allowance: args.expected_allowance.as_ref().map(saturate),
        fee: token.fee,
        memo: memo(call, args.memo)?,
        created_at_time: args.created_at_time,
    };
    let result = system.ledger_mut(call.callee).approve(call.now, &approval);
    reply(result.map(Nat::from).map_err(|error| match error {
        LedgerError::InsufficientFunds(balance) => {
            ApproveError::InsufficientFunds { balance: balance.into() }
        }
        LedgerError::AllowanceChanged(allowance) => {
            ApproveError::AllowanceChanged { current_allowance: allowance.into() }
        }
        LedgerError::Expired => ApproveError::Expired { ledger_time: call.now },
        LedgerError::TooOld => ApproveError::TooOld,
        LedgerError::CreatedInFuture => ApproveError::CreatedInFuture { ledger_time: call.now },
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

fn memo(call: &Call, memo: Option<Memo>) -> Result<Vec<u8>, Reject> {
    let memo = memo.map(|memo| memo.0.into_vec()).unwrap_or_default();
    if memo.len() > MEMO_BYTES {
        return Err(call.trap(format!("the memo of {} bytes exceeds {MEMO_BYTES} bytes", memo.len())));
    }
    Ok(memo)
}
