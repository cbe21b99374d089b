//! The calls to other canisters.
//!
//! All wait for an answer for a bounded time, so that nobody who does not answer can keep the coordinator from being stopped; and each
//! can be repeated, since it carries a key or changes nothing.

use candid::{CandidType, Principal};
use ic_cdk::call::{Call, CallFailed, RejectCode};
use serde::de::DeserializeOwned;
use shared_types::agent::{
    AgentError, EmbedArgs, Embeddings, JobId, JobProgress, JobProgressArgs, JobRecord, JobState,
    SubmitJobArgs,
};
use shared_types::econ::{EconError, Reservation, ReservationId, ReserveArgs, SettleArgs, Settlement};
use shared_types::factory::{AgentRecord, CreateAgentArgs, FactoryError};
use shared_types::model::{ListModelsArgs, ModelPage, ModelRecord};
use shared_types::{lifecycle::ModelStatus, paging};

/// Seconds that an agent, `econ` or the repository has for an answer.
const ANSWER_SECONDS: u32 = 60;

/// Seconds that the factory has: it creates a canister and installs code.
const CREATION_SECONDS: u32 = 240;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// The reason as the Internet Computer gave it.
    pub reason: String,
    /// Whether there is no such canister.
    pub is_gone: bool,
}

impl NoAnswer {
    /// For a reason that may pass.
    pub fn of(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), is_gone: false }
    }
}

impl From<CallFailed> for NoAnswer {
    fn from(failed: CallFailed) -> Self {
        let is_gone = matches!(&failed, CallFailed::CallRejected(rejected)
            if rejected.raw_reject_code() == RejectCode::DestinationInvalid as u32);
        Self { reason: failed.to_string(), is_gone }
    }
}

async fn call<R: CandidType + DeserializeOwned>(
    canister: Principal,
    method: &str,
    argument: impl CandidType,
    seconds: u32,
) -> Result<R, NoAnswer> {
    let call = Call::bounded_wait(canister, method).with_arg(argument).change_timeout(seconds);
    call.await?.candid().map_err(NoAnswer::of)
}

/// Has the factory create an agent.
///
/// # Errors
/// [`NoAnswer`].
pub async fn create_agent(
    factory: Principal,
    args: CreateAgentArgs,
) -> Result<Result<AgentRecord, FactoryError>, NoAnswer> {
    call(factory, "create_agent", args, CREATION_SECONDS).await
}

/// Submits a job.
///
/// # Errors
/// [`NoAnswer`].
pub async fn submit_job(
    agent: Principal,
    args: SubmitJobArgs,
) -> Result<Result<JobRecord, AgentError>, NoAnswer> {
    call(agent, "submit_job", args, ANSWER_SECONDS).await
}

/// A job with all of its text once it has ended; while it works, a look at its state.
///
/// # Errors
/// [`NoAnswer`].
pub async fn job_progress(
    agent: Principal,
    job_id: JobId,
) -> Result<Result<JobProgress, AgentError>, NoAnswer> {
    let args = |after_token| JobProgressArgs { job_id, after_token };
    // From the last token on there is no text, which is long.
    let look: Result<JobProgress, AgentError> =
        call(agent, "job_progress", args(u32::MAX), ANSWER_SECONDS).await?;
    let Ok(mut progress) = look else { return Ok(look) };
    if !matches!(progress.job.state, JobState::Done { .. }) {
        return Ok(Ok(progress));
    }
    let mut after = 0;
    while after < progress.job.counts.generated_tokens {
        let part: Result<JobProgress, AgentError> =
            call(agent, "job_progress", args(after), ANSWER_SECONDS).await?;
        let part = match part {
            Ok(part) => part,
            Err(error) => return Ok(Err(error)),
        };
        if part.next_token <= after {
            return Err(NoAnswer::of("the agent's job has fewer tokens than it says"));
        }
        after = part.next_token;
        progress.text.push_str(&part.text);
        progress.tokens.extend(part.tokens);
    }
    Ok(Ok(progress))
}

/// Cancels a job.
///
/// # Errors
/// [`NoAnswer`].
pub async fn cancel_job(agent: Principal, job_id: JobId) -> Result<Result<JobRecord, AgentError>, NoAnswer> {
    call(agent, "cancel_job", job_id, ANSWER_SECONDS).await
}

/// The embeddings of the first of `texts`.
///
/// # Errors
/// [`NoAnswer`].
pub async fn embed(encoder: Principal, texts: &[String]) -> Result<Result<Embeddings, AgentError>, NoAnswer> {
    call(encoder, "embed", EmbedArgs { texts: texts.to_vec() }, ANSWER_SECONDS).await
}

/// Reserves quota.
///
/// # Errors
/// [`NoAnswer`].
pub async fn reserve(econ: Principal, args: ReserveArgs) -> Result<Result<Reservation, EconError>, NoAnswer> {
    call(econ, "reserve", args, ANSWER_SECONDS).await
}

/// Settles a reservation with what was used.
///
/// # Errors
/// [`NoAnswer`].
pub async fn settle(econ: Principal, args: SettleArgs) -> Result<Result<Settlement, EconError>, NoAnswer> {
    call(econ, "settle", args, ANSWER_SECONDS).await
}

/// Gives a reservation back.
///
/// # Errors
/// [`NoAnswer`].
pub async fn release(econ: Principal, id: ReservationId) -> Result<Result<(), EconError>, NoAnswer> {
    call(econ, "release", id, ANSWER_SECONDS).await
}

/// The first page of the repository's Active models.
///
/// # Errors
/// [`NoAnswer`].
pub async fn list_models(repository: Principal) -> Result<Vec<ModelRecord>, NoAnswer> {
    let args = ListModelsArgs {
        status: Some(ModelStatus::Active),
        filter: None,
        after: None,
        limit: paging::MAX_PAGE,
    };
    let page: ModelPage = call(repository, "list_models", args, ANSWER_SECONDS).await?;
    Ok(page.models)
}
