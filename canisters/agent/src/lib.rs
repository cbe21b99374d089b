//! The agent canister: one language model, one owner, a queue of jobs.
//!
//! Endpoints only; `shared_types::agent` and `shared_types::receipt` document them, `agent.did` is the interface. The
//! rules are in [`jobs`], [`queue`], [`receipts`], [`store`], [`engine`], [`decoder`], [`heap`], [`kept`], [`pace`], [`facts`],
//! [`conversations`] and [`mod@wallet`], which know nothing of `ic-cdk`; [`slices`], [`loading`], [`talk`] and [`payments`] drive them.
//!
//! # What survives
//! Jobs, tokens, receipts, manifest and shards are in stable memory. The model in the heap and its key-value cache are caches: an
//! upgrade or a trap loses at most one slice of work, never a token, and the bits of what follows are the same.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

pub mod address;
pub mod conversations;
pub mod cycles;
pub mod decoder;
pub mod engine;
pub mod export;
pub mod facts;
pub mod guards;
pub mod heap;
pub mod jobs;
pub mod kept;
pub mod lifecycle;
pub mod loading;
pub mod memory;
pub mod pace;
pub mod payments;
pub mod queries;
pub mod queue;
pub mod quota;
pub mod receipts;
pub mod reservations;
pub mod slices;
pub mod state;
pub mod store;
pub mod talk;
pub mod turns;
pub mod updates;
pub mod wallet;

use candid::Principal;
use ic_cdk::{query, update};
use shared_types::agent::memory::{
    ConversationPage, ConverseArgs, ExportMemoryArgs, ExportedMemory, Fact, FactId, FactPage, FoundFacts,
    GetConversationArgs, ListConversationsArgs, ListFactsArgs, RememberArgs, SearchFactsArgs, Turn, TurnPage,
};
use shared_types::agent::phase::AgentPhase;
use shared_types::agent::profile::AgentProfile;
use shared_types::agent::wallet::{
    ListPaymentsArgs, PayArgs, PaymentId, PaymentPage, PaymentRecord, SetLedgerArgs, Wallet, WalletAddress,
    WalletLedger, WithdrawArgs,
};
use shared_types::agent::{
    AgentError, AgentStatus, Draft, DraftArgs, EmbedArgs, Embeddings, JobId, JobPage, JobProgress,
    JobProgressArgs, JobPrompt, JobRecord, ListJobsArgs, LoadState, SubmitJobArgs,
};
use shared_types::receipt::{CertifiedReceipt, ListReceiptsArgs, ReceiptKey, ReceiptPage};

#[update]
fn submit_job(args: SubmitJobArgs) -> Result<JobRecord, AgentError> {
    updates::jobs::submit_job(args)
}

#[update]
fn cancel_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    updates::jobs::cancel_job(job_id)
}

#[update]
fn pause_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    updates::jobs::pause_job(job_id)
}

#[update]
fn resume_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    updates::jobs::resume_job(job_id)
}

#[update]
fn pause_queue() -> Result<(), AgentError> {
    updates::jobs::set_queue_paused(true)
}

#[update]
fn resume_queue() -> Result<(), AgentError> {
    updates::jobs::set_queue_paused(false)
}

#[update]
fn set_coordinator(coordinator: Option<Principal>) -> Result<(), AgentError> {
    updates::jobs::set_coordinator(coordinator)
}

#[update]
fn load_model() -> Result<LoadState, AgentError> {
    updates::model::load_model()
}

#[update]
fn embed(args: EmbedArgs) -> Result<Embeddings, AgentError> {
    updates::model::embed(&args)
}

#[update]
async fn return_cycles() -> Result<u128, AgentError> {
    updates::cycles::return_cycles().await
}

#[update]
fn configure(profile: AgentProfile) -> Result<(), AgentError> {
    updates::character::configure(profile)
}

#[update]
fn set_phase(phase: AgentPhase) -> Result<(), AgentError> {
    updates::character::set_phase(phase)
}

#[update]
fn converse(args: ConverseArgs) -> Result<Turn, AgentError> {
    updates::memory::converse(args)
}

#[update]
fn remember(args: RememberArgs) -> Result<Vec<Fact>, AgentError> {
    updates::memory::remember(args)
}

#[update]
fn forget_fact(id: FactId) -> Result<(), AgentError> {
    updates::memory::forget_fact(id)
}

#[update]
fn forget_conversation(name: String) -> Result<(), AgentError> {
    updates::memory::forget_conversation(&name)
}

#[update]
fn erase_memory() -> Result<(), AgentError> {
    updates::memory::erase_memory()
}

#[update]
async fn wallet_address() -> Result<WalletAddress, AgentError> {
    updates::wallet::wallet_address().await
}

#[update]
async fn set_ledger(args: SetLedgerArgs) -> Result<WalletLedger, AgentError> {
    updates::wallet::set_ledger(args).await
}

#[update]
fn remove_ledger(ledger: Principal) -> Result<(), AgentError> {
    updates::wallet::remove_ledger(ledger)
}

#[update]
async fn pay(args: PayArgs) -> Result<PaymentRecord, AgentError> {
    updates::wallet::pay(args).await
}

#[update]
async fn approve_payment(id: PaymentId) -> Result<PaymentRecord, AgentError> {
    updates::wallet::approve_payment(id).await
}

#[update]
fn reject_payment(id: PaymentId) -> Result<PaymentRecord, AgentError> {
    updates::wallet::reject_payment(id)
}

#[update]
async fn withdraw(args: WithdrawArgs) -> Result<PaymentRecord, AgentError> {
    updates::wallet::withdraw(args).await
}

#[update]
async fn return_funds() -> Result<u32, AgentError> {
    updates::wallet::return_funds().await
}

/// One slice of work. The canister calls it itself, so that a trap is contained and can be counted.
#[update(hidden = true)]
fn run_slice() -> Result<(), AgentError> {
    updates::model::run_slice()
}

#[query]
fn job_progress(args: JobProgressArgs) -> Result<JobProgress, AgentError> {
    queries::job_progress(&args)
}

#[query]
fn draft(args: DraftArgs) -> Result<Draft, AgentError> {
    queries::draft(&args)
}

#[query]
fn embed_draft(args: EmbedArgs) -> Result<Embeddings, AgentError> {
    queries::embed_draft(&args)
}

#[query]
fn get_profile() -> Result<AgentProfile, AgentError> {
    queries::get_profile()
}

#[query]
fn list_facts(args: ListFactsArgs) -> Result<FactPage, AgentError> {
    queries::list_facts(&args)
}

#[query]
fn search_facts(args: SearchFactsArgs) -> Result<FoundFacts, AgentError> {
    queries::search_facts(&args)
}

#[query]
fn list_conversations(args: ListConversationsArgs) -> Result<ConversationPage, AgentError> {
    queries::list_conversations(&args)
}

#[query]
fn get_conversation(args: GetConversationArgs) -> Result<TurnPage, AgentError> {
    queries::get_conversation(&args)
}

#[query]
fn export_memory(args: ExportMemoryArgs) -> Result<ExportedMemory, AgentError> {
    queries::export_memory(&args)
}

#[query]
fn wallet() -> Result<Wallet, AgentError> {
    queries::wallet()
}

#[query]
fn list_payments(args: ListPaymentsArgs) -> Result<PaymentPage, AgentError> {
    queries::list_payments(&args)
}

#[query]
fn get_payment(id: PaymentId) -> Result<PaymentRecord, AgentError> {
    queries::get_payment(id)
}

#[query]
fn get_prompt(job_id: JobId) -> Result<JobPrompt, AgentError> {
    queries::get_prompt(job_id)
}

#[query]
fn get_receipt(key: ReceiptKey) -> Result<CertifiedReceipt, AgentError> {
    queries::get_receipt(key)
}

#[query]
fn list_receipts(args: ListReceiptsArgs) -> Result<ReceiptPage, AgentError> {
    queries::list_receipts(&args)
}

#[query]
fn get_job(job_id: JobId) -> Result<JobRecord, AgentError> {
    queries::get_job(job_id)
}

#[query]
fn list_jobs(args: ListJobsArgs) -> Result<JobPage, AgentError> {
    queries::list_jobs(&args)
}

#[query]
fn status() -> Result<AgentStatus, AgentError> {
    queries::status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::agent::AgentInitArgs;

    candid::export_service!();

    #[test]
    fn candid_file_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/agent.did");
        canister_common::interface::assert_candid_file(path, &__export_service());
    }
}
