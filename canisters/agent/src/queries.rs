//! Methods that only read.

use ic_cdk::api::{data_certificate, performance_counter};
use serde_bytes::ByteBuf;
use shared_types::FieldError;
use shared_types::agent::{
    AgentError, AgentStatus, DRAFT_INSTRUCTIONS, Draft, DraftArgs, EmbedArgs, Embeddings, JobId, JobPage,
    JobProgress, JobProgressArgs, JobPrompt, JobRecord, ListJobsArgs,
};
use shared_types::receipt::{CertifiedReceipt, ListReceiptsArgs, ReceiptKey, ReceiptPage};

use crate::guards::{require_controller, require_job_client, require_owner};
use crate::lifecycle::VERSION;
use crate::state;

/// A job and its tokens from a position on.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownJob`].
pub fn job_progress(args: &JobProgressArgs) -> Result<JobProgress, AgentError> {
    require_job_client(args.job_id)?;
    state::read(|state| state.jobs.progress(args))
}

/// A job.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownJob`].
pub fn get_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    require_job_client(job_id)?;
    state::read(|state| state.jobs.get(job_id))
}

/// A page of the jobs.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn list_jobs(args: &ListJobsArgs) -> Result<JobPage, AgentError> {
    require_owner()?;
    Ok(state::read(|state| state.jobs.list(args)))
}

/// The next tokens of an open job, without consensus.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::InvalidField`], and see [`crate::engine::Engine::draft`].
pub fn draft(args: &DraftArgs) -> Result<Draft, AgentError> {
    require_owner()?;
    if args.max_tokens == Some(0) {
        return Err(AgentError::InvalidField(FieldError::new("max_tokens", "is 0, the least is 1")));
    }
    let max_tokens = args.max_tokens.map_or(usize::MAX, |most| most as usize);
    let meter = || performance_counter(0);
    state::read(|state| {
        state::with_engine(|engine| {
            let limits = state.limits();
            engine.draft(
                &state.jobs,
                &state.store,
                args.job_id,
                max_tokens,
                limits,
                DRAFT_INSTRUCTIONS,
                &meter,
            )
        })
    })
}

/// The embeddings of texts, without consensus, if the encoder is in the heap.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::InvalidField`], and see [`crate::engine::Engine::embed_now`].
pub fn embed_draft(args: &EmbedArgs) -> Result<Embeddings, AgentError> {
    require_owner()?;
    args.validate().map_err(AgentError::InvalidField)?;
    let meter = || performance_counter(0);
    let embeddings = state::with_engine(|engine| engine.embed_now(&args.texts, DRAFT_INSTRUCTIONS, &meter))?;
    let model_id = state::read(|state| state.settings().model_id);
    Ok(Embeddings { model_id, embeddings, instructions: meter() })
}

/// What a job goes on from.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownJob`].
pub fn get_prompt(job_id: JobId) -> Result<JobPrompt, AgentError> {
    require_owner()?;
    state::read(|state| state.jobs.prompt(job_id))
}

/// A receipt and the proof that it is certified.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownReceipt`], and see [`crate::jobs::Jobs::receipt_of`].
pub fn get_receipt(key: ReceiptKey) -> Result<CertifiedReceipt, AgentError> {
    require_owner()?;
    state::read(|state| {
        let sequence = match key {
            ReceiptKey::Sequence(sequence) => sequence,
            ReceiptKey::Job(job_id) => state.jobs.receipt_of(job_id)?,
        };
        let receipts = state.jobs.receipts();
        let (receipt, hash) = receipts.get(sequence)?;
        let mut witness = Vec::new();
        ciborium::into_writer(&receipts.witness(sequence), &mut witness)
            .expect("a hash tree is always encodable");
        let certificate = data_certificate().map(ByteBuf::from);
        Ok(CertifiedReceipt { receipt, hash, certificate, witness: ByteBuf::from(witness) })
    })
}

/// A page of the receipts, with the head of their chain.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn list_receipts(args: &ListReceiptsArgs) -> Result<ReceiptPage, AgentError> {
    require_owner()?;
    Ok(state::read(|state| state.jobs.receipts().list(args)))
}

/// Version, model, loading, sizes, balance: for the owner and for controllers.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn status() -> Result<AgentStatus, AgentError> {
    require_owner().or_else(|_| require_controller())?;
    Ok(state::read(|state| {
        let settings = state.settings();
        let (in_heap, heap) =
            state::with_engine(|engine| (engine.is_ready(), engine.heap_use(state.limits().heap_bytes)));
        AgentStatus {
            version: VERSION.to_owned(),
            owner: settings.owner,
            model_canister: settings.model_canister,
            model_id: settings.model_id,
            config: settings.config.clone(),
            coordinator: settings.coordinator,
            load: state.store.state().clone(),
            load_counts: state.store.counts(),
            in_heap,
            jobs: state.jobs.len(),
            open_jobs: state.jobs.queue().len(),
            paused: state.jobs.queue().is_paused(),
            out_of_cycles: state.jobs.queue().shortage().map(|(_, shortage)| shortage),
            heap_bytes: heap_bytes(),
            heap: Some(heap),
            stable_bytes: ic_cdk::api::stable_size() * WASM_PAGE_BYTES,
            cycles: ic_cdk::api::canister_cycle_balance(),
        }
    }))
}

const WASM_PAGE_BYTES: u64 = 65_536;

#[cfg(target_family = "wasm")]
fn heap_bytes() -> u64 {
    core::arch::wasm32::memory_size(0) as u64 * WASM_PAGE_BYTES
}

/// Natively there is no Wasm heap to measure.
#[cfg(not(target_family = "wasm"))]
fn heap_bytes() -> u64 {
    0
}
