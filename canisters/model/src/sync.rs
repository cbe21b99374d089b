//! The calls that read other repositories, one at a time. They are bounded-wait, so that a repository that never answers can't keep
//! this one from being stopped.

use std::cell::Cell;

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_status, time};
use ic_cdk::call::{Call, CallFailed, CandidDecodeFailed};
use shared_types::ModelId;
use shared_types::model::{ListModelsArgs, ModelCanisterStatus, ModelPage};
use shared_types::paging::MAX_PAGE;

use crate::state;

/// Seconds that a repository has for an answer.
const ANSWER_SECONDS: u32 = 60;

thread_local! {
    static UNDER_WAY: Cell<bool> = const { Cell::new(false) };
}

/// The right to ask; given back on drop, also when a message after an await traps.
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        // Lazily: a turn that is not taken must not be given back.
        (!UNDER_WAY.replace(true)).then(|| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        UNDER_WAY.set(false);
    }
}

/// Reads every repository whose turn it is.
pub async fn read_repositories() {
    let Some(_turn) = Turn::take() else { return };
    while canister_status() == CanisterStatusCode::Running {
        let Some((canister, mut after)) = state::mutate(|repository| repository.index.ask(time())) else {
            return;
        };
        loop {
            match ask(canister, after).await {
                Ok((status, page)) => {
                    let next = state::mutate(|repository| {
                        repository.index.answered(canister, &status, page, time())
                    });
                    if next.is_none() {
                        break;
                    }
                    after = next;
                }
                Err(NoAnswer(reason)) => {
                    state::mutate(|repository| repository.index.failed(canister, reason));
                    break;
                }
            }
        }
    }
}

/// The call brought no answer that could be understood.
struct NoAnswer(String);

impl From<CallFailed> for NoAnswer {
    fn from(failed: CallFailed) -> Self {
        Self(failed.to_string())
    }
}

impl From<CandidDecodeFailed> for NoAnswer {
    fn from(failed: CandidDecodeFailed) -> Self {
        Self(failed.to_string())
    }
}

async fn ask(
    canister: Principal,
    after: Option<ModelId>,
) -> Result<(ModelCanisterStatus, ModelPage), NoAnswer> {
    let call = |method| Call::bounded_wait(canister, method).change_timeout(ANSWER_SECONDS);
    let status = call("status").await?.candid()?;
    let args = ListModelsArgs { status: None, filter: None, after, limit: MAX_PAGE };
    let page = call("list_models").with_arg(args).await?.candid()?;
    Ok((status, page))
}
