//! The calls that bring the model's parts from the repository, several at a time.
//!
//! Calls are bounded-wait, so that a repository that never answers can't keep the agent from being stopped; asking twice
//! for the same part does no harm.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use candid::Principal;
use ic_cdk::api::{CanisterStatusCode, canister_status, performance_counter, time};
use ic_cdk::call::{Call, CallFailed, CandidDecodeFailed, Response};
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::agent::{LoadError, LoadState};
use shared_types::model::{GetShardArgs, ModelError};

use crate::store::{Part, refusal};
use crate::{cycles, slices, state};

/// Seconds that the repository has for an answer.
const ANSWER_SECONDS: u32 = 120;

thread_local! {
    static IN_FLIGHT: RefCell<BTreeSet<Part>> = const { RefCell::new(BTreeSet::new()) };
}

/// A part that is on its way; taken off the list on drop, also when the message that receives it traps.
struct InFlight(Part);

impl InFlight {
    fn new(part: Part) -> Self {
        IN_FLIGHT.with_borrow_mut(|parts| parts.insert(part));
        Self(part)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        IN_FLIGHT.with_borrow_mut(|parts| parts.remove(&self.0));
    }
}

/// Asks for as many parts as the window allows beside those on their way. A canister that is being stopped asks for none:
/// it stops when the answers under way have come, and the timer goes on after it was started again. A canister asks for no
/// more than its balance covers; the timer looks again.
pub fn ask_for_parts() {
    if canister_status() != CanisterStatusCode::Running {
        return;
    }
    let parts = state::mutate(|state| {
        let window = state.settings().config.load_window;
        let mut parts = IN_FLIGHT.with_borrow(|in_flight| state.store.wanted(in_flight, window, time()));
        while !parts.is_empty() && cycles::shortage(parts.len() as u32).is_some() {
            parts.pop();
        }
        for part in &parts {
            state.store.asked(*part);
        }
        parts
    });
    for part in parts {
        ic_cdk::futures::spawn(fetch(InFlight::new(part)));
    }
}

async fn fetch(in_flight: InFlight) {
    let part = in_flight.0;
    let (repository, model_id) =
        state::read(|state| (state.settings().model_canister, state.settings().model_id));
    let answer = ask(repository, model_id, part).await;
    drop(in_flight);
    let taken = state::mutate(|state| {
        let taken = match answer {
            Ok(Ok(bytes)) => match part {
                Part::Manifest => state.store.manifest_arrived(&model_id, &bytes, time()),
                Part::Shard(index) => state.store.shard_arrived(index, &bytes, time()),
            },
            Ok(Err(error)) => Err(refusal(error)),
            Err(NoAnswer(message)) => state.store.unanswered(part, &message, time()),
        };
        // An answer that comes after loading has ended changes nothing more.
        if *state.store.state() == LoadState::Loading
            && let Err(reason) = &taken
        {
            state.store.fail(reason.clone());
        }
        state.store.used(performance_counter(0));
        taken
    });
    go_on(taken);
}

fn go_on(taken: Result<(), LoadError>) {
    if taken.is_err() {
        slices::fail_open_jobs();
        return;
    }
    match state::read(|state| (state.store.state().clone(), state.store.pause_ns(time()))) {
        (LoadState::Loaded, _) => slices::schedule(Duration::ZERO),
        (LoadState::Loading, 0) => ask_for_parts(),
        (LoadState::Loading, pause) => slices::schedule(Duration::from_nanos(pause)),
        (LoadState::NotLoaded | LoadState::Failed { .. }, _) => {}
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
    repository: Principal,
    model_id: ModelId,
    part: Part,
) -> Result<Result<ByteBuf, ModelError>, NoAnswer> {
    let response: Response = match part {
        Part::Manifest => {
            Call::bounded_wait(repository, "get_manifest")
                .change_timeout(ANSWER_SECONDS)
                .with_arg(model_id)
                .await?
        }
        Part::Shard(index) => {
            let args = GetShardArgs { model_id, index };
            Call::bounded_wait(repository, "get_shard").change_timeout(ANSWER_SECONDS).with_arg(args).await?
        }
    };
    Ok(response.candid()?)
}
