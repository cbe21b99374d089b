//! Methods that only read.

use ic_cdk::api::{canister_self, data_certificate, msg_caller, performance_counter};
use serde_bytes::ByteBuf;
use shared_types::FieldError;
use shared_types::agent::memory::{
    ConversationPage, ExportMemoryArgs, ExportedMemory, FactPage, FoundFacts, GetConversationArgs,
    ListConversationsArgs, ListFactsArgs, MAX_FACT_BYTES, MemoryUse, SearchFactsArgs, SearchMethod, TurnPage,
};
use shared_types::agent::phase::{AgentOperation, AgentRole};
use shared_types::agent::profile::AgentProfile;
use shared_types::agent::wallet::{ListPaymentsArgs, PaymentId, PaymentPage, PaymentRecord, Wallet};
use shared_types::agent::{
    AgentError, AgentStatus, DRAFT_INSTRUCTIONS, Draft, DraftArgs, EmbedArgs, Embeddings, JobId, JobPage,
    JobProgress, JobProgressArgs, JobPrompt, JobRecord, ListJobsArgs,
};
use shared_types::receipt::{CertifiedReceipt, ListReceiptsArgs, ReceiptKey, ReceiptPage};

use crate::guards::{require, require_job_client, require_owner};
use crate::lifecycle::VERSION;
use crate::{export, state};

/// A job and its tokens from a position on.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownJob`].
pub fn job_progress(args: &JobProgressArgs) -> Result<JobProgress, AgentError> {
    require_job_client(AgentOperation::Read, args.job_id)?;
    state::read(|state| state.jobs.progress(args))
}

/// A job.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownJob`].
pub fn get_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    require_job_client(AgentOperation::Read, job_id)?;
    state::read(|state| state.jobs.get(job_id))
}

/// A page of the jobs.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn list_jobs(args: &ListJobsArgs) -> Result<JobPage, AgentError> {
    require_owner(AgentOperation::Read)?;
    Ok(state::read(|state| state.jobs.list(args)))
}

/// The next tokens of an open job, without consensus.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::InvalidField`], and see [`crate::engine::Engine::draft`].
pub fn draft(args: &DraftArgs) -> Result<Draft, AgentError> {
    require_owner(AgentOperation::Read)?;
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
    require_owner(AgentOperation::Submit)?;
    args.validate()?;
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
    require_owner(AgentOperation::Read)?;
    state::read(|state| state.jobs.prompt(job_id))
}

/// A receipt and the proof that it is certified.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownReceipt`], and see [`crate::jobs::Jobs::receipt_of`].
pub fn get_receipt(key: ReceiptKey) -> Result<CertifiedReceipt, AgentError> {
    require_owner(AgentOperation::Read)?;
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
    require_owner(AgentOperation::Read)?;
    Ok(state::read(|state| state.jobs.receipts().list(args)))
}

/// Version, model, loading, sizes, balance: for the owner and for controllers.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn status() -> Result<AgentStatus, AgentError> {
    require(AgentOperation::Inspect)?;
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
            phase: state.character().phase,
            role: state.character().profile.role.clone(),
            memory: memory_use(state),
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

/// What the agent remembers, in numbers.
fn memory_use(state: &state::State) -> MemoryUse {
    let totals = state.facts.totals();
    MemoryUse {
        facts: state.facts.len(),
        vectors: u64::from(totals.vectors),
        dimensions: totals.dimensions,
        encoder: totals.encoder,
        conversations: state.conversations.len(),
    }
}

/// What the agent is for.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn get_profile() -> Result<AgentProfile, AgentError> {
    require_owner(AgentOperation::Read)?;
    Ok(state::read(|state| state.character().profile.clone()))
}

/// A page of the facts.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn list_facts(args: &ListFactsArgs) -> Result<FactPage, AgentError> {
    require_owner(AgentOperation::Read)?;
    Ok(state::read(|state| state.facts.list(args)))
}

/// The facts that fit a text or a vector best.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::InvalidField`], [`AgentError::TextTooLong`].
pub fn search_facts(args: &SearchFactsArgs) -> Result<FoundFacts, AgentError> {
    require_owner(AgentOperation::Read)?;
    if args.vector.is_none() {
        FieldError::check_text("text", &args.text, MAX_FACT_BYTES)?;
    }
    let meter = || performance_counter(0);
    let (mut vector, mut encoder) = (args.vector.clone(), args.encoder);
    if vector.is_none() && state::read(|state| state.facts.totals().vectors > 0) {
        let texts = [args.text.clone()];
        // Without an encoder in the heap words are compared.
        if let Ok(embedded) =
            state::with_engine(|engine| engine.embed_now(&texts, DRAFT_INSTRUCTIONS, &meter))
        {
            vector = embedded.into_iter().next().map(|embedding| embedding.vector);
            encoder = Some(state::read(|state| state.settings().model_id));
        }
    }
    let (method, (facts, compared)) = match vector {
        Some(vector) => {
            let found = state::read(|state| state.facts.nearest(&vector, encoder, args.limit))?;
            (SearchMethod::InnerProduct, found)
        }
        None => (SearchMethod::Lexical, state::read(|state| state.facts.with_words(&args.text, args.limit))),
    };
    Ok(FoundFacts { method, facts, compared, instructions: meter() })
}

/// A page of the conversations.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn list_conversations(args: &ListConversationsArgs) -> Result<ConversationPage, AgentError> {
    require_owner(AgentOperation::Read)?;
    Ok(state::read(|state| state.conversations.list(args)))
}

/// A page of a conversation's turns.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownConversation`].
pub fn get_conversation(args: &GetConversationArgs) -> Result<TurnPage, AgentError> {
    require_owner(AgentOperation::Read)?;
    state::read(|state| state.conversations.turns(args))
}

/// A page of everything that the agent remembers.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn export_memory(args: &ExportMemoryArgs) -> Result<ExportedMemory, AgentError> {
    require_owner(AgentOperation::Read)?;
    state::read(|state| export::page(state, args))
}

/// Account, key and ledgers.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn wallet() -> Result<Wallet, AgentError> {
    require_owner(AgentOperation::Read)?;
    Ok(state::read(|state| Wallet {
        account: canister_self().into(),
        address: state.wallet.address(),
        ledgers: state.wallet.ledgers(),
        open_payments: state.wallet.open_payments(),
    }))
}

/// A page of the payments.
///
/// # Errors
/// [`AgentError::Unauthorized`].
pub fn list_payments(args: &ListPaymentsArgs) -> Result<PaymentPage, AgentError> {
    require_owner(AgentOperation::Read)?;
    Ok(state::read(|state| state.wallet.list(args)))
}

/// A payment: for the owner, and for the coordinator that asked for it.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownPayment`].
pub fn get_payment(id: PaymentId) -> Result<PaymentRecord, AgentError> {
    let role = require(AgentOperation::Read)?;
    let record = state::read(|state| state.wallet.get(id));
    if role == AgentRole::Owner || record.as_ref().is_ok_and(|it| it.caller == msg_caller()) {
        record
    } else {
        Err(AgentError::Unauthorized)
    }
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
