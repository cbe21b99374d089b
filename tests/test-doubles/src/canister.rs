//! The canister's part: its plan, and answers that follow it.

use crate::faults::{Fault, FaultPlan, Faults, Injected, Moment};
use candid::CandidType;
use ic_cdk::api::{is_controller, msg_caller, msg_reject, msg_reply, time};
use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    static FAULTS: RefCell<Faults> = RefCell::default();
}

/// Traps unless a controller calls: the guard of all methods that only tests need.
pub fn require_controller() {
    if !is_controller(&msg_caller()) {
        ic_cdk::trap("only controllers tell this canister what to do");
    }
}

/// Begins to follow a plan.
pub fn set_faults(plan: FaultPlan) {
    require_controller();
    FAULTS.with_borrow_mut(|faults| faults.set(plan));
}

/// Lets the calls go on that wait without end.
pub fn release() {
    require_controller();
    FAULTS.with_borrow_mut(Faults::release);
}

/// What went wrong since the plan was set.
pub fn injected() -> Vec<Injected> {
    FAULTS.with_borrow(|faults| faults.injected().to_vec())
}

/// Traps if the plan has this query method fail.
pub fn disturb_query(method: &str) {
    if FAULTS.with_borrow(|faults| faults.fails_queries(method)) {
        ic_cdk::trap(format!("{method} fails by plan"));
    }
}

/// Answers a call of `method`: with what `effect` returns, unless the plan says otherwise. For endpoints with manual reply.
pub async fn answer<R: CandidType>(
    method: &str,
    unavailable: R,
    effect: impl FnOnce() -> R,
) -> PhantomData<R> {
    let Some((moment, fault)) = FAULTS.with_borrow_mut(|faults| faults.next(method)) else {
        return reply(&effect());
    };
    let held = FAULTS.with_borrow(Faults::releases);
    let effect = match moment {
        Moment::BeforeEffect => Err(effect),
        Moment::AfterEffect => Ok(effect()),
    };
    match fault {
        Fault::Reject => {
            msg_reject(format!("{method} is rejected by plan"));
            return PhantomData;
        }
        Fault::Trap => {
            // What was done so far is committed.
            next_round().await;
            ic_cdk::trap(format!("{method} traps by plan"));
        }
        Fault::Unavailable => return reply(&unavailable),
        Fault::Late(nanos) => {
            let end = time().saturating_add(nanos);
            next_round().await;
            while time() < end {
                next_round().await;
            }
        }
        Fault::Never => {
            while FAULTS.with_borrow(Faults::releases) == held {
                next_round().await;
            }
            if moment == Moment::BeforeEffect {
                msg_reject(format!("{method} was never executed, by plan"));
                return PhantomData;
            }
        }
    }
    reply(&effect.unwrap_or_else(|effect| effect()))
}

fn reply<R: CandidType>(value: &R) -> PhantomData<R> {
    match candid::encode_one(value) {
        Ok(bytes) => msg_reply(bytes),
        Err(error) => ic_cdk::trap(format!("the answer has no Candid encoding: {error}")),
    }
    PhantomData
}

/// Goes on in the next round: the management canister draws random bytes once a round. Whether it answers doesn't matter.
async fn next_round() {
    let _ = ic_cdk_management_canister::raw_rand().await;
}
