//! The catalogue.

use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::model::{CertifiedModel, ListModelsArgs, ModelError, ModelPage, ModelRecord};

use super::proof;
use crate::guards::CallContext;
use crate::state;

/// A page of the catalogue.
pub fn list_models(args: &ListModelsArgs) -> ModelPage {
    state::read(|repository| {
        let mut page = repository.list_models(&CallContext::of_message(), args);
        page.proof = proof(|| repository.tree().page_witness(args, &page));
        page
    })
}

/// A model's record.
///
/// # Errors
/// See [`crate::repository::Repository::get_model`].
pub fn get_model(model_id: &ModelId) -> Result<ModelRecord, ModelError> {
    state::read(|repository| repository.get_model(&CallContext::of_message(), model_id))
}

/// A model's record with what proves it.
///
/// # Errors
/// See [`crate::repository::Repository::get_model`].
pub fn get_certified_model(model_id: &ModelId) -> Result<CertifiedModel, ModelError> {
    state::read(|repository| {
        let record = repository.get_model(&CallContext::of_message(), model_id)?;
        Ok(CertifiedModel { record, proof: proof(|| repository.tree().model_witness(model_id)) })
    })
}

/// The greatest version of a name that is Active, with what proves that.
///
/// # Errors
/// See [`crate::repository::Repository::latest_of`].
pub fn latest(name: &str) -> Result<CertifiedModel, ModelError> {
    state::read(|repository| {
        let record = repository.latest_of(name)?;
        let proof = proof(|| repository.tree().latest_witness(name, &record.model_id));
        Ok(CertifiedModel { record, proof })
    })
}

/// The bytes of a model's `manifest.json`.
///
/// # Errors
/// See [`crate::repository::Repository::get_manifest`].
pub fn get_manifest(model_id: &ModelId) -> Result<ByteBuf, ModelError> {
    state::read(|repository| repository.get_manifest(&CallContext::of_message(), model_id)).map(ByteBuf::from)
}
