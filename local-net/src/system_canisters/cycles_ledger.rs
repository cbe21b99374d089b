//! What the cycles ledger has besides ICRC-1 and ICRC-2: cycles come from canisters and go to canisters.

use super::{CYCLES_MINTING, Call, Ledger, SystemCanisters, account::AccountIdentifier, mint, reply};
use crate::{
    network::{Network, SubnetIndex},
    reject::Response,
};
use candid::{CandidType, Nat, Principal};
use ic_management_canister_types::CanisterSettings;
use icrc_ledger_types::icrc1::account::{Account, Subaccount};
use serde::Deserialize;
use std::borrow::Cow;
use token_ledger::{
    LedgerError, Operation, Transaction,
    icrc::{GENERIC_ERROR, Token, saturate},
};

/// Cycles; people read trillions of them.
pub const TOKEN: Token = Token {
    name: Cow::Borrowed("Trillion Cycles"),
    symbol: Cow::Borrowed("TCYCLES"),
    decimals: 12,
    fee: 100_000_000,
    max_supply: u128::MAX,
    minting_account: None,
};

#[derive(CandidType, Deserialize)]
struct DepositArgs {
    to: Account,
}

#[derive(CandidType)]
struct DepositResult {
    balance: Nat,
    block_index: Nat,
}

#[derive(CandidType, Deserialize)]
struct WithdrawArgs {
    from_subaccount: Option<Subaccount>,
    to: Principal,
    created_at_time: Option<u64>,
    amount: Nat,
}

#[derive(CandidType)]
enum RejectionCode {
    DestinationInvalid,
}

#[derive(CandidType)]
enum WithdrawError {
    GenericError { error_code: Nat, message: String },
    TemporarilyUnavailable,
    FailedToWithdraw { fee_block: Option<Nat>, rejection_code: RejectionCode, rejection_reason: String },
    Duplicate { duplicate_of: Nat },
    InvalidReceiver { receiver: Principal },
    CreatedInFuture { ledger_time: u64 },
    TooOld,
    InsufficientFunds { balance: Nat },
}

#[derive(CandidType, Deserialize)]
enum SubnetSelection {
    Subnet { subnet: Principal },
    Filter { subnet_type: Option<String> },
}

#[derive(CandidType, Deserialize)]
struct CreationArgs {
    settings: Option<CanisterSettings>,
    subnet_selection: Option<SubnetSelection>,
}

#[derive(CandidType, Deserialize)]
struct CreateCanisterArgs {
    from_subaccount: Option<Subaccount>,
    created_at_time: Option<u64>,
    amount: Nat,
    creation_args: Option<CreationArgs>,
}

#[derive(CandidType)]
struct CreateCanisterSuccess {
    block_id: Nat,
    canister_id: Principal,
}

#[derive(CandidType)]
enum CreateCanisterError {
    InsufficientFunds { balance: Nat },
    TooOld,
    CreatedInFuture { ledger_time: u64 },
    TemporarilyUnavailable,
    Duplicate { duplicate_of: Nat, canister_id: Option<Principal> },
    FailedToCreate { fee_block: Option<Nat>, refund_block: Option<Nat>, error: String },
    GenericError { error_code: Nat, message: String },
}

/// Puts cycles into an account, less the fee; block and new balance, or `None` when the cycles do not cover the fee.
pub(super) fn credit(ledger: &mut Ledger, to: AccountIdentifier, cycles: u128) -> Option<(u64, u128)> {
    let amount = cycles.checked_sub(TOKEN.fee).filter(|amount| *amount > 0)?;
    let block = mint(ledger, to, amount).ok()?;
    Some((block, ledger.balance(&to)))
}

pub(super) fn deposit(_: &mut Network, system: &mut SystemCanisters, call: &mut Call) -> Response {
    let args: DepositArgs = call.decode()?;
    let Some((block, balance)) = credit(&mut system.cycles, args.to.into(), call.cycles) else {
        return Err(call.trap("deposit amount is insufficient"));
    };
    call.cycles = 0;
    reply(DepositResult { balance: balance.into(), block_index: block.into() })
}

/// Takes `amount` and the fee out of the caller's account.
fn debit(
    system: &mut SystemCanisters,
    call: &Call,
    subaccount: Option<Subaccount>,
    amount: &Nat,
    created_at_time: Option<u64>,
    memo: &[u8],
) -> Result<u64, LedgerError> {
    let from = AccountIdentifier::of(call.caller, subaccount);
    let operation = Operation::Burn { from, spender: None, amount: saturate(amount) };
    let transaction = Transaction { operation, memo: Some(memo.to_vec()), created_at_time };
    system.cycles.execute(call.now, transaction, TOKEN.fee)
}

pub(super) fn withdraw(network: &mut Network, system: &mut SystemCanisters, call: &mut Call) -> Response {
    let args: WithdrawArgs = call.decode()?;
    reply(withdraw_cycles(network, system, call, &args))
}

fn withdraw_cycles(
    network: &mut Network,
    system: &mut SystemCanisters,
    call: &Call,
    args: &WithdrawArgs,
) -> Result<Nat, WithdrawError> {
    // Users have no canister balance; their ids are public keys' hashes, which end in 2 (interface specification, "Principals").
    if args.to.as_slice().len() == 29 && args.to.as_slice().ends_with(&[2]) {
        return Err(WithdrawError::InvalidReceiver { receiver: args.to });
    }
    let take = |system: &mut SystemCanisters, amount: &Nat, created_at_time| {
        let taken = debit(system, call, args.from_subaccount, amount, created_at_time, args.to.as_slice());
        taken.map_err(|error| match error {
            LedgerError::InsufficientFunds(balance) => {
                WithdrawError::InsufficientFunds { balance: balance.into() }
            }
            LedgerError::TooOld => WithdrawError::TooOld,
            LedgerError::CreatedInFuture => WithdrawError::CreatedInFuture { ledger_time: call.now },
            LedgerError::Duplicate(block) => WithdrawError::Duplicate { duplicate_of: block.into() },
            LedgerError::TemporarilyUnavailable => WithdrawError::TemporarilyUnavailable,
            error => {
                WithdrawError::GenericError { error_code: GENERIC_ERROR.into(), message: error.to_string() }
            }
        })
    };
    if let Err(reject) = network.canister(args.to) {
        // The attempt costs the fee.
        let block = take(system, &Nat::default(), None)?;
        return Err(WithdrawError::FailedToWithdraw {
            fee_block: Some(block.into()),
            rejection_code: RejectionCode::DestinationInvalid,
            rejection_reason: reject.message,
        });
    }
    let block = take(system, &args.amount, args.created_at_time)?;
    network.add_cycles(args.to, saturate(&args.amount)).expect("the canister exists");
    Ok(block.into())
}

pub(super) fn create_canister(
    network: &mut Network,
    system: &mut SystemCanisters,
    call: &mut Call,
) -> Response {
    let args: CreateCanisterArgs = call.decode()?;
    reply(create(network, system, call, args))
}

fn create(
    network: &mut Network,
    system: &mut SystemCanisters,
    call: &Call,
    args: CreateCanisterArgs,
) -> Result<CreateCanisterSuccess, CreateCanisterError> {
    let memo = b"create_canister";
    let paid = debit(system, call, args.from_subaccount, &args.amount, args.created_at_time, memo);
    let block = paid.map_err(|error| match error {
        LedgerError::InsufficientFunds(balance) => {
            CreateCanisterError::InsufficientFunds { balance: balance.into() }
        }
        LedgerError::TooOld => CreateCanisterError::TooOld,
        LedgerError::CreatedInFuture => CreateCanisterError::CreatedInFuture { ledger_time: call.now },
        LedgerError::Duplicate(block) => CreateCanisterError::Duplicate {
            duplicate_of: block.into(),
            canister_id: system.created.get(&block).copied(),
        },
        LedgerError::TemporarilyUnavailable => CreateCanisterError::TemporarilyUnavailable,
        error => {
            CreateCanisterError::GenericError { error_code: GENERIC_ERROR.into(), message: error.to_string() }
        }
    })?;
    let CreationArgs { settings, subnet_selection } =
        args.creation_args.unwrap_or(CreationArgs { settings: None, subnet_selection: None });
    let mut settings = settings.unwrap_or_default();
    settings.controllers.get_or_insert_with(|| vec![call.caller]);
    let cycles = saturate(&args.amount);
    let created = select_subnet(network, subnet_selection).and_then(|subnet| {
        let created = network.create_canister_on(subnet, CYCLES_MINTING, Some(settings), cycles);
        created.map_err(|reject| reject.message)
    });
    match created {
        Ok(canister_id) => {
            system.created = system.created.split_off(&system.cycles.first_block());
            system.created.insert(block, canister_id);
            Ok(CreateCanisterSuccess { block_id: block.into(), canister_id })
        }
        Err(error) => {
            let payer = AccountIdentifier::of(call.caller, args.from_subaccount);
            let refund = credit(&mut system.cycles, payer, cycles);
            Err(CreateCanisterError::FailedToCreate {
                fee_block: Some(block.into()),
                refund_block: refund.map(|(block, _)| block.into()),
                error,
            })
        }
    }
}

/// The subnet that the caller asks for.
fn select_subnet(network: &Network, selection: Option<SubnetSelection>) -> Result<SubnetIndex, String> {
    match selection {
        Some(SubnetSelection::Subnet { subnet }) => network
            .subnets()
            .iter()
            .position(|s| s.id == subnet)
            .ok_or_else(|| format!("Subnet {subnet} does not exist")),
        None | Some(SubnetSelection::Filter { subnet_type: None }) => Ok(network.default_subnet()),
        Some(SubnetSelection::Filter { subnet_type: Some(name) }) => {
            Err(format!("Provided subnet type {name} does not exist"))
        }
    }
}
