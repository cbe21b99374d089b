//! The calls to ledgers, and the timer that has payments submitted.
//!
//! A payment's submission is journalled before the await; its outcome is the first thing that is written after it. One that was begun and
//! not heard of is submitted again, unchanged, when nobody waits for its answer any more.
//!
//! Invariant: while a payment is to be submitted, a repeated timer is armed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use candid::{Nat, Principal};
use canister_common::calls::{NoAnswer, ask};
use ic_cdk::api::{CanisterStatusCode, canister_status, time};
use ic_cdk_timers::TimerId;
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc1::transfer::{Memo, TransferArg, TransferError};
use shared_types::agent::AgentError;
use shared_types::agent::wallet::{PaymentId, PaymentRecord, SpendingLimits, WalletLedger};

use crate::state;
use crate::turns::{Turn, UnderWay};
use crate::wallet::Answer;

/// While a payment is to be submitted, it is looked at this often.
const WATCH: Duration = Duration::from_secs(30);

thread_local! {
    static TIMER: Cell<Option<TimerId>> = const { Cell::new(None) };
    static IN_FLIGHT: UnderWay<PaymentId> = const { RefCell::new(BTreeSet::new()) };
}

/// Has payments submitted from now on, as long as there are any.
pub fn schedule() {
    if !state::read(|state| state.wallet.is_busy()) {
        return;
    }
    ic_cdk_timers::set_timer(Duration::ZERO, async { look() });
    if TIMER.get().is_none() {
        TIMER.set(Some(ic_cdk_timers::set_timer_interval(WATCH, || async { look() })));
    }
}

fn look() {
    // A canister that is being stopped makes no calls.
    if canister_status() != CanisterStatusCode::Running {
        return;
    }
    if !state::read(|state| state.wallet.is_busy()) {
        if let Some(timer) = TIMER.take() {
            ic_cdk_timers::clear_timer(timer);
        }
        return;
    }
    let flying = |id: PaymentId| IN_FLIGHT.with_borrow(|flying| flying.contains(&id));
    for id in state::read(|state| state.wallet.next(flying, time())) {
        ic_cdk::futures::spawn(async move {
            let _ = submit(id).await;
        });
    }
}

/// Submits a payment, unless it is under way or must not be submitted any more; how far it is then.
///
/// # Errors
/// [`AgentError::UnknownPayment`].
pub async fn submit(id: PaymentId) -> Result<PaymentRecord, AgentError> {
    let Some(turn) = Turn::take(&IN_FLIGHT, id) else { return state::read(|state| state.wallet.get(id)) };
    let Some(payment) = state::mutate(|state| state.wallet.begun(id, time()))? else {
        return state::read(|state| state.wallet.get(id));
    };
    let answer = transfer(&payment).await;
    let record = state::mutate(|state| state.wallet.answered(id, answer, time()));
    drop(turn);
    record
}

async fn transfer(payment: &PaymentRecord) -> Answer {
    let args = TransferArg {
        from_subaccount: None,
        to: payment.to,
        fee: Some(Nat::from(payment.fee)),
        created_at_time: payment.created_at_ns,
        memo: payment.memo.clone().map(Memo),
        amount: Nat::from(payment.amount),
    };
    let answer: Result<Result<Nat, TransferError>, NoAnswer> =
        ask(payment.ledger, "icrc1_transfer", &args, 0).await;
    let block = |block: &Nat| match u64::try_from(&block.0) {
        Ok(block) => Answer::Done(block),
        Err(_) => Answer::Lost("the block's number is too large".to_owned()),
    };
    match answer {
        Ok(Ok(index) | Err(TransferError::Duplicate { duplicate_of: index })) => block(&index),
        Ok(Err(error)) => match &error {
            TransferError::BadFee { expected_fee } => match u128::try_from(&expected_fee.0) {
                Ok(fee) => Answer::BadFee(fee),
                Err(_) => Answer::Refused(error.to_string()),
            },
            TransferError::TemporarilyUnavailable | TransferError::CreatedInFuture { .. } => {
                Answer::NotNow(error.to_string())
            }
            _ => Answer::Refused(error.to_string()),
        },
        Err(NoAnswer::NotDelivered(reason)) => Answer::NotSent(reason),
        Err(NoAnswer::Unknown(reason)) => Answer::Lost(reason),
    }
}

/// Asks a ledger for its symbol, decimals and fee.
///
/// # Errors
/// [`AgentError::LedgerUnavailable`].
pub async fn describe(ledger: Principal, limits: SpendingLimits) -> Result<WalletLedger, AgentError> {
    let unavailable = |failure: NoAnswer| AgentError::LedgerUnavailable { ledger, reason: failure.reason() };
    let symbol: String = ask(ledger, "icrc1_symbol", &(), 0).await.map_err(unavailable)?;
    let decimals: u8 = ask(ledger, "icrc1_decimals", &(), 0).await.map_err(unavailable)?;
    let fee: Nat = ask(ledger, "icrc1_fee", &(), 0).await.map_err(unavailable)?;
    let too_large = |_| AgentError::LedgerUnavailable { ledger, reason: "its fee is too large".to_owned() };
    let fee = u128::try_from(&fee.0).map_err(too_large)?;
    let symbol = symbol.chars().take(MAX_SYMBOL_CHARS).collect();
    Ok(WalletLedger { ledger, symbol, decimals, fee, limits, day: 0, spent: 0 })
}

/// Longest symbol that is kept.
const MAX_SYMBOL_CHARS: usize = 32;

/// Asks a ledger what an account has.
///
/// # Errors
/// [`AgentError::LedgerUnavailable`].
pub async fn balance_of(ledger: Principal, account: Account) -> Result<u128, AgentError> {
    let unavailable = |reason: String| AgentError::LedgerUnavailable { ledger, reason };
    let balance: Result<Nat, NoAnswer> = ask(ledger, "icrc1_balance_of", &account, 0).await;
    let balance = balance.map_err(|failure| unavailable(failure.reason()))?;
    u128::try_from(&balance.0).map_err(|_| unavailable("the balance is too large".to_owned()))
}
