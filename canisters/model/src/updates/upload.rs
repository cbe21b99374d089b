//! Uploading a model.

use shared_types::ModelId;
use shared_types::model::{
    BeginUploadArgs, ModelError, ModelRecord, PutShardArgs, PutShardResult, UploadState,
};

use crate::guards::update_context;
use crate::{state, timers};

/// Begins an upload, or finds it again.
///
/// # Errors
/// See [`crate::repository::Repository::begin_upload`].
pub fn begin_upload(args: &BeginUploadArgs) -> Result<UploadState, ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.begin_upload(&context, &args.manifest))
}

/// Checks and stores a shard.
///
/// # Errors
/// See [`crate::repository::Repository::put_shard`].
pub fn put_shard(args: &PutShardArgs) -> Result<PutShardResult, ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.put_shard(&context, &args.model_id, args.index, &args.bytes))
}

/// Takes an upload for finished and validates it: a small model at once, a large one in the messages that follow.
///
/// # Errors
/// See [`crate::repository::Repository::finish_upload`].
pub fn finish_upload(model_id: &ModelId) -> Result<ModelRecord, ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.finish_upload(&context, model_id))?;
    timers::validate_on();
    state::read(|repository| repository.get_model(&context, model_id))
}

/// Drops an upload.
///
/// # Errors
/// See [`crate::repository::Repository::discard_upload`].
pub fn discard_upload(model_id: &ModelId) -> Result<(), ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.discard_upload(&context, model_id))
}

/// Has a model validated again.
///
/// # Errors
/// See [`crate::repository::Repository::revalidate`].
pub fn revalidate(model_id: &ModelId) -> Result<(), ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.revalidate(&context, model_id))?;
    timers::validate_on();
    Ok(())
}
