//! Batches, from their beginning to their publication.

use shared_types::ui::{BatchState, BeginBatchArgs, CommitBatchArgs, Publication, PutChunkArgs, UiError};

use crate::guards::update_context;
use crate::state;

/// Begins a batch.
///
/// # Errors
/// See [`crate::site::Site::begin_batch`].
pub fn begin_batch(args: BeginBatchArgs) -> Result<BatchState, UiError> {
    let context = update_context()?;
    state::mutate(|site| site.begin_batch(&context, args.files))
}

/// Stores a chunk.
///
/// # Errors
/// See [`crate::site::Site::put_chunk`].
pub fn put_chunk(args: &PutChunkArgs) -> Result<BatchState, UiError> {
    let context = update_context()?;
    state::mutate(|site| site.put_chunk(&context, args))
}

/// Declares a batch complete.
///
/// # Errors
/// See [`crate::site::Site::propose`].
pub fn propose(batch_id: u64) -> Result<BatchState, UiError> {
    let context = update_context()?;
    state::mutate(|site| site.propose(&context, batch_id))
}

/// Publishes a batch.
///
/// # Errors
/// See [`crate::site::Site::commit`].
pub fn commit(args: &CommitBatchArgs) -> Result<Publication, UiError> {
    let context = update_context()?;
    let publication = state::mutate(|site| site.commit(&context, args))?;
    state::certify();
    Ok(publication)
}

/// Drops a batch.
///
/// # Errors
/// See [`crate::site::Site::discard_batch`].
pub fn discard_batch(batch_id: u64) -> Result<(), UiError> {
    let context = update_context()?;
    state::mutate(|site| site.discard_batch(&context, batch_id))
}
