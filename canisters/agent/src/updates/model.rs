//! Loading the model, and working with it.

use std::time::Duration;

use ic_cdk::api::{performance_counter, time};
use shared_types::agent::phase::AgentOperation;
use shared_types::agent::{AgentError, EmbedArgs, Embedding, Embeddings, LoadState, MAX_SLICE_INSTRUCTIONS};

use crate::guards::{require, require_owner, require_self};
use crate::{slices, state};

/// Begins to load the model, or begins again after a failure, without waiting for a job.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn load_model() -> Result<LoadState, AgentError> {
    require_owner(AgentOperation::Load)?;
    Ok(begin_to_load())
}

/// Begins to load the model, or begins again after a failure.
pub fn begin_to_load() -> LoadState {
    let load = state::mutate(|state| {
        state.store.begin(time());
        state.store.state().clone()
    });
    slices::schedule(Duration::ZERO);
    load
}

/// Embeds texts. A model that is not loaded yet begins to load; one that is not in the heap is built first.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::InvalidField`], [`AgentError::NotLoaded`], and see
/// [`crate::engine::Engine::embed`].
pub fn embed(args: &EmbedArgs) -> Result<Embeddings, AgentError> {
    require(AgentOperation::Submit)?;
    args.validate()?;
    require_loaded()?;
    let (embeddings, instructions) = embed_texts(&args.texts)?;
    let model_id = state::read(|state| state.settings().model_id);
    Ok(Embeddings { model_id, embeddings, instructions })
}

/// Says that the model is not loaded yet, and has it loaded.
///
/// # Errors
/// [`AgentError::NotLoaded`]; a failure is told once.
pub fn require_loaded() -> Result<(), AgentError> {
    let before = state::read(|state| state.store.state().clone());
    if state::read(|state| state.store.loaded().is_none()) {
        let now = begin_to_load();
        // A failure is told once; the next attempt has begun.
        let load = if matches!(before, LoadState::Failed { .. }) { before } else { now };
        if state::read(|state| state.store.loaded().is_none()) {
            return Err(AgentError::NotLoaded { load });
        }
    }
    Ok(())
}

/// The embeddings of the first of `texts`, as many as a message allows, and the instructions that it took. The model is loaded.
///
/// # Errors
/// See [`crate::engine::Engine::embed`].
pub fn embed_texts(texts: &[String]) -> Result<(Vec<Embedding>, u64), AgentError> {
    let meter = || performance_counter(0);
    state::mutate(|state| {
        let limits = state.limits();
        let embedded = state::with_engine(|engine| {
            engine.embed(&mut state.store, texts, limits, MAX_SLICE_INSTRUCTIONS, &meter)
        });
        if let Err(AgentError::NotLoaded { load: LoadState::Failed { reason } }) = &embedded {
            state.store.fail(reason.clone());
        }
        embedded.map(|embeddings| (embeddings, meter()))
    })
}

/// Works on the job whose turn it is, within the slice's budget.
///
/// # Errors
/// [`AgentError::Unauthorized`] unless the canister calls itself.
pub fn run_slice() -> Result<(), AgentError> {
    require_self()?;
    let worked = state::mutate(|state| {
        let Some(job_id) = state.jobs.queue().in_service() else { return Ok(()) };
        // Each further attempt of a slice that trapped has half the budget: if the instruction limit was the reason, it
        // is not met again.
        let halvings = state.jobs.attempt(job_id).saturating_sub(1);
        let budget = state.settings().config.slice_instructions >> halvings.min(32);
        let limits = state.limits();
        let meter = || performance_counter(0);
        let worked = state::with_engine(|engine| {
            engine.slice(&mut state.jobs, &mut state.store, job_id, limits, budget, &meter, time())
        });
        worked.inspect_err(|reason| state.store.fail(reason.clone()))
    });
    if worked.is_err() {
        slices::fail_open_jobs();
    }
    Ok(())
}
