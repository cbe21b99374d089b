//! How a conversation becomes a job, and its answer a turn.

use ic_cdk::api::time;
use novaq_engine::artifact::Manifest;
use shared_types::agent::memory::{ConverseArgs, FoundFact, Turn};
use shared_types::agent::profile::MemoryPolicy;
use shared_types::agent::{AgentError, GenerationParams, JobId, JobState, Priority, SubmitJobArgs};

use crate::conversations::{Prompt, prompt, summary_prompt};
use crate::state::State;

/// Bytes of a prompt for each token of the context window: English has about four in a token, other languages fewer, and the answer needs
/// its place.
const BYTES_PER_TOKEN: usize = 2;

/// Adds a message to a conversation and submits the job that answers it; `facts` are those that fit the message, best first.
///
/// # Errors
/// [`AgentError::InvalidField`], [`AgentError::TooManyConversations`], and see [`crate::jobs::Jobs::submit`].
pub fn converse(
    state: &mut State,
    args: ConverseArgs,
    facts: &[FoundFact],
    manifest: &Manifest,
) -> Result<Turn, AgentError> {
    state.conversations.check_room(&args.conversation)?;
    let profile = state.character().profile.clone();
    let policy = profile.memory.unwrap_or_default();
    let bytes = context_bytes(policy, manifest);
    let context = state.conversations.context(&profile, &args.conversation, &args.message, facts, bytes);
    let prompt = prompt(&context, &args.message, manifest.chat_template.is_some());
    let params = profile.params.unwrap_or_default();
    let priority = args.priority.unwrap_or(Priority::RealTime);
    let job_id = submit(state, prompt, params, priority)?;
    let turn = state.conversations.said(args, job_id, &context, time());
    // Names and keys were checked: they fit.
    turn.ok_or(AgentError::UnknownJob { job_id })
}

/// Submits a prompt as the owner's job.
fn submit(
    state: &mut State,
    prompt: Prompt,
    mut params: GenerationParams,
    priority: Priority,
) -> Result<JobId, AgentError> {
    let mut args = SubmitJobArgs { priority: Some(priority), ..SubmitJobArgs::default() };
    match prompt {
        Prompt::Messages(messages) => args.messages = Some(messages),
        Prompt::Text(text, stop) => {
            args.prompt = text;
            params.stop = Some(params.stop.into_iter().flatten().chain(stop).collect());
        }
    }
    args.params = params;
    let owner = state.settings().owner;
    Ok(state.submit(args, owner, 0, time())?.job_id)
}

/// Bytes of a prompt.
fn context_bytes(policy: MemoryPolicy, manifest: &Manifest) -> usize {
    let of_model =
        || manifest.config.as_ref().map_or(0, |config| config.max_position_embeddings * BYTES_PER_TOKEN);
    policy.context_bytes.map_or_else(of_model, |bytes| bytes as usize)
}

/// Takes in what a job has come to, and has a summary written where a conversation needs one.
pub fn job_ended(state: &mut State, job_id: JobId) {
    if !state.conversations.awaits(job_id) {
        return;
    }
    let done = state.jobs.get(job_id).is_ok_and(|record| matches!(record.state, JobState::Done { .. }));
    let text = done.then(|| state.jobs.text(job_id));
    let Some(name) = state.conversations.job_ended(job_id, text) else { return };
    let policy = state.character().profile.memory.unwrap_or_default();
    let Some(manifest) = state.store.loaded() else { return };
    let bytes = context_bytes(policy, &manifest);
    let Some((until, text)) = state.conversations.summary_due(&name, policy, bytes) else { return };
    let (prompt, params) = summary_prompt(&text, manifest.chat_template.is_some());
    // Without room in the queue the next answer asks again.
    if let Ok(job_id) = submit(state, prompt, params, Priority::Standard) {
        state.conversations.summary_begun(&name, job_id, until);
    }
}
