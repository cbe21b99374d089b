//! Uploads and their validation.

use shared_types::ModelId;
use shared_types::model::{
    MissingShardsArgs, MissingShardsPage, ModelError, UploaderUsage, ValidationReport,
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

/// What the caller has stored, and may.
pub fn uploader_usage() -> UploaderUsage {
    state::read(|repository| repository.usage_of(&CallContext::of_message()))
}

/// What validation has found.
///
/// # Errors
/// See [`crate::repository::Repository::validation_report`].
pub fn validation_report(model_id: &ModelId) -> Result<ValidationReport, ModelError> {
    state::read(|repository| repository.validation_report(&CallContext::of_message(), model_id))
}
