//! An exchange rate canister for tests: `get_exchange_rate` with the types, the charges and the errors of the Internet
//! Computer's, and methods by which its controllers set rates (old, wrong or uncertain ones, too), errors and faults.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

use candid::Principal;
use ic_cdk::api::{msg_caller, msg_cycles_accept, msg_cycles_available, msg_cycles_refunded, time};
use ic_cdk::call::Call;
use ic_cdk::{query, update};
use ic_xrc_types::{ExchangeRateError, GetExchangeRateRequest, GetExchangeRateResult};
use std::cell::RefCell;
use std::marker::PhantomData;
use test_doubles::canister::{self, answer, require_controller};
use test_doubles::exchange_rate::{Quotation, Rates};
use test_doubles::faults::{FaultPlan, Injected};

thread_local! {
    static RATES: RefCell<Rates> = RefCell::default();
}

#[update(manual_reply = true)]
async fn get_exchange_rate(request: GetExchangeRateRequest) -> PhantomData<GetExchangeRateResult> {
    let anonymous = msg_caller() == Principal::anonymous();
    answer("get_exchange_rate", Err(ExchangeRateError::Pending), || {
        let now = time() / 1_000_000_000;
        let cycles = msg_cycles_available();
        let (answer, charge) = RATES.with_borrow_mut(|rates| rates.get(&request, anonymous, cycles, now));
        msg_cycles_accept(charge);
        answer
    })
    .await
}

/// Asks another exchange rate canister with so many cycles attached; its answer and the cycles that came back. For
/// controllers, who cannot attach cycles themselves.
#[update]
async fn ask(
    callee: Principal,
    request: GetExchangeRateRequest,
    cycles: u128,
) -> (GetExchangeRateResult, u128) {
    require_controller();
    let call = Call::bounded_wait(callee, "get_exchange_rate").with_arg(&request).with_cycles(cycles);
    let response = call.await.unwrap_or_else(|error| ic_cdk::trap(error.to_string()));
    let refunded = msg_cycles_refunded();
    let answer = response.candid().unwrap_or_else(|error| ic_cdk::trap(error.to_string()));
    (answer, refunded)
}

/// Sets a rate. For controllers.
#[update]
fn set_rate(quotation: Quotation) {
    require_controller();
    RATES.with_borrow_mut(|rates| rates.set(quotation));
}

/// Answers everything by an error from now on, or by rates again. For controllers.
#[update]
fn set_error(error: Option<ExchangeRateError>) {
    require_controller();
    RATES.with_borrow_mut(|rates| rates.set_error(error));
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
