//! The cycles minting canister: it turns ICP into cycles at a fixed rate.

use super::{
    AccountIdentifier, CYCLES_MINTING, Call, SystemCanisters, account::subaccount_of, cycles_ledger, reply,
};
use crate::{
    network::{Network, SubnetKind},
    reject::Response,
};
use candid::{CandidType, Nat, Principal};
use icrc_ledger_types::icrc1::account::Subaccount;
use serde::Deserialize;
use token_ledger::Operation;

/// 10,000ths of an XDR that an ICP costs, PocketIC's rate. 1 XDR buys 10^12 cycles, so it is also the cycles of an e8.
const XDR_PERMYRIAD_PER_ICP: u64 = 35_200;
/// Memo of a payment that is to become cycles on the cycles ledger, `MINT` in ASCII.
const MEMO_MINT: u64 = 0x544e_494d;
/// Memo of a payment that is to become cycles of a canister, `TPUP` in ASCII.
const MEMO_TOP_UP: u64 = 0x5055_5054;

#[derive(CandidType)]
struct Rate {
    timestamp_seconds: u64,
    xdr_permyriad_per_icp: u64,
}

#[derive(CandidType)]
struct RateResponse {
    data: Rate,
    hash_tree: Vec<u8>,
    certificate: Vec<u8>,
}

#[derive(CandidType)]
struct SubnetTypes {
    data: Vec<(String, Vec<Principal>)>,
}

#[derive(CandidType, Deserialize)]
struct NotifyMintArgs {
    block_index: u64,
    to_subaccount: Option<Subaccount>,
}

#[derive(CandidType)]
struct NotifyMintSuccess {
    block_index: Nat,
    minted: Nat,
    balance: Nat,
}

#[derive(CandidType, Deserialize)]
struct NotifyTopUpArgs {
    block_index: u64,
    canister_id: Principal,
}

#[derive(CandidType)]
enum NotifyError {
    Refunded { reason: String, block_index: Option<u64> },
    TransactionTooOld(u64),
    InvalidTransaction(String),
}

/// Subnets on which anybody may create canisters.
pub(super) fn get_default_subnets(network: &Network, _: &SystemCanisters, _: &Call) -> Response {
    let subnets = network.subnets().iter().filter(|s| s.kind == SubnetKind::Application).map(|s| s.id);
    let mut subnets: Vec<Principal> = subnets.collect();
    if subnets.is_empty() {
        subnets.push(network.subnets()[network.default_subnet()].id);
    }
    reply(subnets)
}

/// No subnet has a type by which it can be chosen.
pub(super) fn get_subnet_types_to_subnets(_: &Network, _: &SystemCanisters, _: &Call) -> Response {
    reply(SubnetTypes { data: Vec::new() })
}

/// The rate; it is not certified.
pub(super) fn get_icp_xdr_conversion_rate(_: &Network, _: &SystemCanisters, call: &Call) -> Response {
    let data =
        Rate { timestamp_seconds: call.now / 1_000_000_000, xdr_permyriad_per_icp: XDR_PERMYRIAD_PER_ICP };
    reply(RateResponse { data, hash_tree: Vec::new(), certificate: Vec::new() })
}

pub(super) fn notify_mint_cycles(_: &mut Network, system: &mut SystemCanisters, call: &mut Call) -> Response {
    let args: NotifyMintArgs = call.decode()?;
    let beneficiary = AccountIdentifier::of(call.caller, args.to_subaccount);
    process(system, "notify_mint_cycles", args.block_index, call.caller, MEMO_MINT, |system, cycles| {
        let credited = cycles_ledger::credit(&mut system.cycles, beneficiary, cycles);
        let (block, balance) = credited.ok_or("the amount is less than the fee of a deposit")?;
        Ok(NotifyMintSuccess { block_index: block.into(), minted: cycles.into(), balance: balance.into() })
    })
}

pub(super) fn notify_top_up(
    network: &mut Network,
    system: &mut SystemCanisters,
    call: &mut Call,
) -> Response {
    let args: NotifyTopUpArgs = call.decode()?;
    let canister = args.canister_id;
    process(system, "notify_top_up", args.block_index, canister, MEMO_TOP_UP, |_, cycles| {
        network.add_cycles(canister, cycles).map_err(|reject| reject.message)?;
        Ok(Nat::from(cycles))
    })
}

/// Turns the payment of an ICP block into cycles: it must have gone to the subaccount of `beneficiary` with the given memo. A
/// second notification gets the reply of the first.
fn process<T: CandidType>(
    system: &mut SystemCanisters,
    method: &str,
    block_index: u64,
    beneficiary: Principal,
    memo: u64,
    spend: impl FnOnce(&mut SystemCanisters, u128) -> Result<T, String>,
) -> Response {
    if let Some((processed_by, earlier)) = system.processed.get(&block_index) {
        if processed_by == method {
            return Ok(earlier.clone());
        }
        let reason = format!("block {block_index} was already processed by {processed_by}");
        return reply(Err::<T, _>(NotifyError::InvalidTransaction(reason)));
    }
    let payment = match payment(system, block_index, beneficiary, memo) {
        Ok(payment) => payment,
        Err(error) => return reply(Err::<T, _>(error)),
    };
    let result = spend(system, payment.amount * u128::from(XDR_PERMYRIAD_PER_ICP));
    // The payment is burned, or sent back if that is possible.
    let Payment { payer, account, amount } = payment;
    let mut settle = |operation: Operation<AccountIdentifier>| system.icp.execute(0, operation.into(), 0);
    let refund = if result.is_ok() {
        None
    } else {
        settle(Operation::Transfer { from: account, to: payer, spender: None, amount, fee: None }).ok()
    };
    if refund.is_none() {
        settle(Operation::Burn { from: account, spender: None, amount })
            .expect("the payment is on the account of this canister");
    }
    let reply = reply(result.map_err(|reason| NotifyError::Refunded { reason, block_index: refund }))?;
    system.processed = system.processed.split_off(&system.icp.first_block());
    system.processed.insert(block_index, (method.to_owned(), reply.clone()));
    Ok(reply)
}

fn no_payment(block_index: u64) -> NotifyError {
    NotifyError::InvalidTransaction(format!("block {block_index} is no payment to this canister"))
}

/// What somebody paid for cycles.
struct Payment {
    payer: AccountIdentifier,
    /// The account that has it.
    account: AccountIdentifier,
    amount: u128,
}

/// The transfer in a block of the ICP ledger, if it pays for `beneficiary`.
fn payment(
    system: &SystemCanisters,
    block_index: u64,
    beneficiary: Principal,
    memo: u64,
) -> Result<Payment, NotifyError> {
    let oldest = system.icp.first_block();
    if block_index < oldest {
        return Err(NotifyError::TransactionTooOld(oldest));
    }
    let block = system.icp.block(block_index).ok_or_else(|| no_payment(block_index))?;
    let account = AccountIdentifier::of(CYCLES_MINTING, Some(subaccount_of(beneficiary)));
    let Operation::Transfer { from: payer, to, amount, .. } = block.transaction.operation else {
        return Err(no_payment(block_index));
    };
    if to != account {
        return Err(no_payment(block_index));
    }
    if block.transaction.memo.as_deref() != Some(&memo.to_le_bytes()[..]) {
        return Err(NotifyError::InvalidTransaction(format!(
            "the memo of block {block_index} is not {memo:#x}, which this method needs"
        )));
    }
    Ok(Payment { payer, account, amount })
}
