//! Conversations and facts.

use std::time::Duration;

use ic_cdk::api::time;
use shared_types::agent::AgentError;
use shared_types::agent::memory::{ConverseArgs, Fact, FactId, FoundFact, RememberArgs, Turn};
use shared_types::agent::phase::AgentOperation;

use super::model::{embed_texts, require_loaded};
use crate::guards::require_owner;
use crate::{slices, state, talk};

/// Says something in a conversation; the job that answers is in the turn.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], [`AgentError::InvalidField`]; [`AgentError::NotLoaded`] until the
/// model is there, which says how much fits a prompt; and see [`talk::converse`].
pub fn converse(args: ConverseArgs) -> Result<Turn, AgentError> {
    require_owner(AgentOperation::Submit)?;
    args.validate()?;
    if let Some(turn) = state::read(|state| state.conversations.known(&args))? {
        return Ok(turn);
    }
    require_loaded()?;
    let facts = recall(&args.message);
    let turn = state::mutate(|state| {
        let load = state.store.state().clone();
        let manifest = state.store.loaded().ok_or(AgentError::NotLoaded { load })?;
        talk::converse(state, args, &facts, &manifest)
    })?;
    slices::schedule(Duration::ZERO);
    Ok(turn)
}

/// The facts that fit a message, as many as the memory policy looks up; by words, since an agent that talks has no encoder.
fn recall(message: &str) -> Vec<FoundFact> {
    state::read(|state| {
        let most = state.character().profile.memory.unwrap_or_default().recalled_facts;
        if most == 0 { Vec::new() } else { state.facts.with_words(message, most).0 }
    })
}

/// Remembers facts. An agent whose model is an encoder makes the vectors that are missing; it has to be loaded.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], [`AgentError::InvalidField`], [`AgentError::MemoryFull`];
/// [`AgentError::NotLoaded`], [`AgentError::TextTooLong`] of an encoder that is to make vectors.
pub fn remember(mut args: RememberArgs) -> Result<Vec<Fact>, AgentError> {
    require_owner(AgentOperation::Remember)?;
    let encodes =
        state::read(|state| state.store.loaded().is_some_and(|manifest| manifest.encoder.is_some()));
    let missing: Vec<usize> = (0..args.facts.len()).filter(|at| args.facts[*at].vector.is_none()).collect();
    if encodes && !missing.is_empty() {
        let model_id = state::read(|state| state.settings().model_id);
        if *args.encoder.get_or_insert(model_id) == model_id {
            let texts: Vec<String> = missing.iter().map(|at| args.facts[*at].text.clone()).collect();
            let (embeddings, _) = embed_texts(&texts)?;
            if let Some(left) = texts.get(embeddings.len()) {
                // All of them, or none: the caller sends fewer at a time.
                let tokens = left.len() as u32;
                return Err(AgentError::TextTooLong { index: missing[embeddings.len()] as u32, tokens });
            }
            for (at, embedding) in missing.into_iter().zip(embeddings) {
                args.facts[at].vector = Some(embedding.vector);
            }
        }
    }
    state::mutate(|state| state.facts.remember(args.facts, args.encoder, time()))
}

/// Forgets a fact; one that is not there stays away.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn forget_fact(id: FactId) -> Result<(), AgentError> {
    require_owner(AgentOperation::Erase)?;
    state::mutate(|state| state.facts.forget(id));
    Ok(())
}

/// Forgets a conversation.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownConversation`].
pub fn forget_conversation(name: &str) -> Result<(), AgentError> {
    require_owner(AgentOperation::Erase)?;
    state::mutate(|state| state.conversations.remove(name))
}

/// Forgets all facts and all conversations. Jobs and receipts stay.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn erase_memory() -> Result<(), AgentError> {
    require_owner(AgentOperation::Erase)?;
    state::mutate(|state| {
        state.facts.clear();
        state.conversations.clear();
    });
    Ok(())
}
