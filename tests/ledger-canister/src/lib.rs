//! A token ledger for tests: the methods of ICRC-1, ICRC-2, ICRC-3 and ICRC-10 with the rules of `token-ledger`, and methods
//! by which its controllers mint, change the fee and make it fail.
//!
//! It has no tip certificate, and its archive is itself: [`set_archived`] says which blocks clients must fetch through the
//! callback that `icrc3_get_blocks` names.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

use candid::{Nat, Principal};
use ic_cdk::api::{canister_self, msg_caller, time};
use ic_cdk::{init, post_upgrade, pre_upgrade, query, update};
use icrc_ledger_types::icrc::generic_metadata_value::MetadataValue;
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc1::transfer::{TransferArg, TransferError};
use icrc_ledger_types::icrc2::allowance::{Allowance, AllowanceArgs};
use icrc_ledger_types::icrc2::approve::{ApproveArgs, ApproveError};
use icrc_ledger_types::icrc2::transfer_from::{TransferFromArgs, TransferFromError};
use icrc_ledger_types::icrc3::archive::QueryArchiveFn;
use icrc_ledger_types::icrc3::blocks::{
    ArchivedBlocks, GetBlocksRequest, GetBlocksResult, SupportedBlockType,
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::RefCell;
use std::marker::PhantomData;
use test_doubles::canister::{self, answer, disturb_query, require_controller};
use test_doubles::faults::{FaultPlan, Injected};
use test_doubles::ledger::LedgerInitArgs;
use token_ledger::icrc::{self, Standard, Token, Trap};
use token_ledger::icrc3::{self, to_u64};
use token_ledger::{Ledger, Operation};

/// Blocks that an answer names as archived at most, in ranges.
const MAX_RANGES: usize = 100;

#[derive(Serialize, Deserialize)]
struct State {
    token: Token,
    ledger: Ledger<Account>,
    /// Blocks below this number are archived.
    archived: u64,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

fn read<R>(f: impl FnOnce(&State) -> R) -> R {
    STATE.with_borrow(|state| f(state.as_ref().unwrap_or_else(|| ic_cdk::trap("no ledger was installed"))))
}

fn mutate<R>(f: impl FnOnce(&mut State) -> R) -> R {
    STATE
        .with_borrow_mut(|state| f(state.as_mut().unwrap_or_else(|| ic_cdk::trap("no ledger was installed"))))
}

#[init]
fn init(args: LedgerInitArgs) {
    let token = Token {
        name: Cow::Owned(args.name),
        symbol: Cow::Owned(args.symbol),
        decimals: args.decimals,
        fee: args.fee.into(),
        max_supply: u128::MAX,
        minting_account: Some(args.minting_account),
    };
    let state = State { ledger: Ledger::new(token.max_supply), token, archived: 0 };
    STATE.set(Some(state));
}

#[pre_upgrade]
fn pre_upgrade() {
    let mut bytes = Vec::new();
    read(|state| ciborium::into_writer(state, &mut bytes))
        .unwrap_or_else(|error| ic_cdk::trap(error.to_string()));
    ic_cdk::storage::stable_save((bytes,)).unwrap_or_else(|error| ic_cdk::trap(error.to_string()));
}

#[post_upgrade]
fn post_upgrade() {
    let (bytes,): (Vec<u8>,) = ic_cdk::storage::stable_restore().unwrap_or_else(|error| ic_cdk::trap(error));
    let state = ciborium::from_reader(&bytes[..]).unwrap_or_else(|error| ic_cdk::trap(error.to_string()));
    STATE.set(Some(state));
}

#[query]
fn icrc1_name() -> String {
    read(|state| state.token.name.to_string())
}

#[query]
fn icrc1_symbol() -> String {
    read(|state| state.token.symbol.to_string())
}

#[query]
fn icrc1_decimals() -> u8 {
    read(|state| state.token.decimals)
}

#[query]
fn icrc1_fee() -> Nat {
    disturb_query("icrc1_fee");
    read(|state| state.token.fee.into())
}

#[query]
fn icrc1_metadata() -> Vec<(String, MetadataValue)> {
    read(|state| state.token.metadata())
}

#[query]
fn icrc1_minting_account() -> Option<Account> {
    read(|state| state.token.minting_account)
}

#[query]
fn icrc1_total_supply() -> Nat {
    read(|state| state.ledger.total_supply().into())
}

#[query]
fn icrc1_balance_of(account: Account) -> Nat {
    disturb_query("icrc1_balance_of");
    read(|state| state.ledger.balance(&account).into())
}

#[query]
fn icrc1_supported_standards() -> Vec<Standard> {
    [1, 2, 3, 10].map(Standard::icrc).into()
}

#[query]
fn icrc10_supported_standards() -> Vec<Standard> {
    icrc1_supported_standards()
}

#[query]
fn icrc2_allowance(args: AllowanceArgs) -> Allowance {
    disturb_query("icrc2_allowance");
    read(|state| icrc::allowance(&state.ledger, time(), &args))
}

/// Applies one of the standards' rules in the name of `caller`.
fn apply<Args, Answer>(
    caller: Principal,
    args: Args,
    rule: impl FnOnce(&mut Ledger<Account>, &Token, Principal, u64, Args) -> Result<Answer, Trap>,
) -> Answer {
    let answer = mutate(|state| rule(&mut state.ledger, &state.token, caller, time(), args));
    answer.unwrap_or_else(|Trap(reason)| ic_cdk::trap(reason))
}

#[update(manual_reply = true)]
async fn icrc1_transfer(args: TransferArg) -> PhantomData<Result<Nat, TransferError>> {
    let caller = msg_caller();
    let unavailable = Err(TransferError::TemporarilyUnavailable);
    answer("icrc1_transfer", unavailable, || apply(caller, args, icrc::transfer)).await
}

#[update(manual_reply = true)]
async fn icrc2_approve(args: ApproveArgs) -> PhantomData<Result<Nat, ApproveError>> {
    let caller = msg_caller();
    let unavailable = Err(ApproveError::TemporarilyUnavailable);
    answer("icrc2_approve", unavailable, || apply(caller, args, icrc::approve)).await
}

#[update(manual_reply = true)]
async fn icrc2_transfer_from(args: TransferFromArgs) -> PhantomData<Result<Nat, TransferFromError>> {
    let caller = msg_caller();
    let unavailable = Err(TransferFromError::TemporarilyUnavailable);
    answer("icrc2_transfer_from", unavailable, || apply(caller, args, icrc::transfer_from)).await
}

#[query]
fn icrc3_get_blocks(ranges: Vec<GetBlocksRequest>) -> GetBlocksResult {
    disturb_query("icrc3_get_blocks");
    read(|state| {
        let split = state.archived;
        let (mut archived, mut kept) = (Vec::new(), Vec::new());
        for range in ranges.iter().take(MAX_RANGES) {
            let start = to_u64(&range.start);
            let end = start.saturating_add(to_u64(&range.length)).min(state.ledger.block_count());
            if start < end.min(split) {
                archived.push(request(start, end.min(split)));
            }
            if start.max(split) < end {
                kept.push(request(start.max(split), end));
            }
        }
        let callback = QueryArchiveFn::new(canister_self(), "get_archived_blocks");
        let archived = (!archived.is_empty()).then_some(ArchivedBlocks { args: archived, callback });
        GetBlocksResult {
            log_length: state.ledger.block_count().into(),
            blocks: icrc3::blocks(&state.ledger, &kept),
            archived_blocks: archived.into_iter().collect(),
        }
    })
}

fn request(start: u64, end: u64) -> GetBlocksRequest {
    GetBlocksRequest { start: start.into(), length: (end - start).into() }
}

/// The callback of archived blocks.
#[query]
fn get_archived_blocks(ranges: Vec<GetBlocksRequest>) -> GetBlocksResult {
    disturb_query("get_archived_blocks");
    read(|state| GetBlocksResult {
        log_length: state.archived.into(),
        blocks: icrc3::blocks(&state.ledger, &ranges),
        archived_blocks: Vec::new(),
    })
}

#[query]
fn icrc3_supported_block_types() -> Vec<SupportedBlockType> {
    icrc3::supported_block_types()
}

/// Puts new tokens into an account; the block. For controllers.
#[update]
fn mint(to: Account, amount: u64) -> u64 {
    require_controller();
    let mint = Operation::Mint { to, amount: amount.into() };
    let block = mutate(|state| state.ledger.execute(time(), mint.into(), 0));
    block.unwrap_or_else(|error| ic_cdk::trap(error.to_string()))
}

/// Changes what a transaction costs. For controllers.
#[update]
fn set_fee(fee: u64) {
    require_controller();
    mutate(|state| state.token.fee = fee.into());
}

/// Has the blocks below number `end` in the archive. For controllers.
#[update]
fn set_archived(end: u64) {
    require_controller();
    mutate(|state| state.archived = end);
}

/// Begins to follow a plan of faults. For controllers.
#[update]
fn set_faults(plan: FaultPlan) {
    canister::set_faults(plan);
}

/// Lets the calls go on that wait without end. For controllers.
#[update]
fn release() {
    canister::release();
}

/// What went wrong since the plan was set.
#[query]
fn injected() -> Vec<Injected> {
    canister::injected()
}

/// Checks the ledger against its own blocks.
#[query]
fn validate_invariants() -> Result<(), String> {
    read(|state| state.ledger.validate_invariants())
}
