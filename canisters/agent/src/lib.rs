//! The agent canister: one language model, one owner, a queue of jobs.
//!
//! Endpoints only; `shared_types::agent` and `shared_types::receipt` document them, `agent.did` is the interface. The
//! rules are in [`jobs`], [`queue`], [`receipts`], [`store`], [`engine`], [`decoder`], [`heap`], [`kept`] and [`pace`], which know nothing
//! of `ic-cdk`; [`slices`] and [`loading`] are the messages that drive them.
//!
//! # What survives
//! Jobs, tokens, receipts, manifest and shards are in stable memory. The model in the heap and its key-value cache are caches: an
//! upgrade or a trap loses at most one slice of work, never a token, and the bits of what follows are the same.

#![allow(clippy::needless_pass_by_value, reason = "ic-cdk hands decoded arguments to an endpoint by value")]

pub mod cycles;
pub mod decoder;
pub mod engine;
pub mod guards;
pub mod heap;
pub mod jobs;
pub mod kept;
pub mod lifecycle;
pub mod loading;
pub mod memory;
pub mod pace;
pub mod queries;
pub mod queue;
pub mod receipts;
pub mod slices;
pub mod state;
pub mod store;
pub mod updates;

use candid::Principal;
use ic_cdk::{query, update};
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
