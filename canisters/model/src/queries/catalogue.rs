//! The catalogue.

use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::model::{
    ListModelsArgs, MissingShardsArgs, MissingShardsPage, ModelError, ModelPage, ModelRecord,
};

use crate::guards::CallContext;
use crate::state;

/// Shards that an upload still has to send.
///
/// # Errors
/// See [`crate::repository::Repository::missing_shards`].
pub fn missing_shards(args: &MissingShardsArgs) -> Result<MissingShardsPage, ModelError> {
    state::read(|repository| repository.missing_shards(&CallContext::of_message(), args))
}

/// A page of the catalogue.
pub fn list_models(args: &ListModelsArgs) -> ModelPage {
    state::read(|repository| repository.list_models(&CallContext::of_message(), args))
}

/// A model's record.
///
/// # Errors
/// See [`crate::repository::Repository::get_model`].
pub fn get_model(model_id: &ModelId) -> Result<ModelRecord, ModelError> {
    state::read(|repository| repository.get_model(&CallContext::of_message(), model_id))
}

/// The bytes of a model's `manifest.json`.
///
/// # Errors
/// See [`crate::repository::Repository::get_manifest`].
pub fn get_manifest(model_id: &ModelId) -> Result<ByteBuf, ModelError> {
    state::read(|repository| repository.get_manifest(&CallContext::of_message(), model_id)).map(ByteBuf::from)
}
