//! The two roles' calls to the canister.

use anyhow::Context;
use candid::{CandidType, Principal};
use ic_agent::Agent;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use shared_types::Digest;
use shared_types::paging::MAX_PAGE;
use shared_types::ui::{
    BatchState, BeginBatchArgs, CHUNK_BYTES, CommitBatchArgs, MissingChunksArgs, MissingChunksPage,
    Publication, PutChunkArgs, UiError,
};

use crate::Folder;

/// Sends what the canister lacks of a site, and proposes it; `agent` has the role Prepare.
///
/// # Errors
/// When the canister refuses a step or does not answer.
pub async fn prepare(agent: &Agent, canister: Principal, site: &Folder) -> anyhow::Result<BatchState> {
    let begin = BeginBatchArgs { files: site.files.clone() };
    let mut batch: BatchState = update(agent, canister, "begin_batch", begin).await?;
    let batch_id = batch.batch_id;
    let mut after = None;
    loop {
        let args = MissingChunksArgs { batch_id, after, limit: MAX_PAGE };
        let reply = agent.query(&canister, "missing_chunks").with_arg(candid::encode_one(args)?).await;
        let page: MissingChunksPage = decode(&reply.context("missing_chunks")?, "missing_chunks")?;
        for chunk in page.chunks {
            let content = site.contents.get(&chunk.sha256).context("the canister asks for another file")?;
            let bytes = content.chunks(CHUNK_BYTES as usize).nth(chunk.index as usize);
            let bytes = ByteBuf::from(bytes.context("the canister asks for a chunk beyond the file's end")?);
            batch = update(agent, canister, "put_chunk", PutChunkArgs { batch_id, chunk, bytes }).await?;
        }
        if page.next.is_none() {
            break;
        }
        after = page.next;
    }
    if batch.missing_chunks > 0 {
        anyhow::bail!("{} chunks are missing after all were sent", batch.missing_chunks);
    }
    update(agent, canister, "propose", batch_id).await
}

/// Publishes a batch if its hash is `hash`; `agent` has the role Commit.
///
/// # Errors
/// When the canister refuses it or does not answer.
pub async fn commit(
    agent: &Agent,
    canister: Principal,
    batch_id: u64,
    hash: Digest,
) -> anyhow::Result<Publication> {
    update(agent, canister, "commit", CommitBatchArgs { batch_id, hash }).await
}

async fn update<T>(
    agent: &Agent,
    canister: Principal,
    method: &str,
    args: impl CandidType,
) -> anyhow::Result<T>
where
    T: CandidType + DeserializeOwned,
{
    let reply = agent.update(&canister, method).with_arg(candid::encode_one(args)?).await;
    decode(&reply.with_context(|| method.to_owned())?, method)
}

fn decode<T>(reply: &[u8], method: &str) -> anyhow::Result<T>
where
    T: CandidType + DeserializeOwned,
{
    let (result,): (Result<T, UiError>,) = candid::decode_args(reply).with_context(|| method.to_owned())?;
    result.with_context(|| method.to_owned())
}
