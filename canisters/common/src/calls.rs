//! Calls whose outcome matters: what certainly did not happen is told apart from what may have.

use candid::{CandidType, Principal};
use ic_cdk::call::{Call, CallFailed, RejectCode};
use serde::de::DeserializeOwned;

/// Seconds that an answer may take; after that its outcome is unknown, and the caller can still be stopped and upgraded.
const ANSWER_SECONDS: u32 = 60;

/// Why a call brought no answer of its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// It was certainly not delivered.
    NotDelivered(String),
    /// It may have been executed.
    Unknown(String),
}

impl NoAnswer {
    /// The reason as the Internet Computer gave it.
    pub fn reason(self) -> String {
        match self {
            Self::NotDelivered(reason) | Self::Unknown(reason) => reason,
        }
    }
}

impl From<CallFailed> for NoAnswer {
    fn from(failed: CallFailed) -> Self {
        let reason = failed.to_string();
        match failed {
            CallFailed::InsufficientLiquidCycleBalance(_) | CallFailed::CallPerformFailed(_) => {
                Self::NotDelivered(reason)
            }
            // These say that the system did not deliver it. All others may come after the callee has changed something, a trap after
            // an await of its own included.
            CallFailed::CallRejected(rejected) => match rejected.reject_code() {
                Ok(RejectCode::SysFatal | RejectCode::SysTransient | RejectCode::DestinationInvalid) => {
                    Self::NotDelivered(reason)
                }
                _ => Self::Unknown(reason),
            },
        }
    }
}

/// Calls a method with `cycles`, and waits for its answer for a minute.
///
/// # Errors
/// [`NoAnswer`]; an answer of another type does not say what was done.
pub async fn ask<R: CandidType + DeserializeOwned>(
    canister: Principal,
    method: &str,
    argument: &(impl CandidType + ?Sized),
    cycles: u128,
) -> Result<R, NoAnswer> {
    let call = Call::bounded_wait(canister, method).with_arg(argument).with_cycles(cycles);
    let answer = call.change_timeout(ANSWER_SECONDS).await?;
    answer.candid().map_err(|error| NoAnswer::Unknown(error.to_string()))
}
