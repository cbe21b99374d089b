//! Moving a model along its life.

use shared_types::ModelId;
use shared_types::model::{DeprecateArgs, ModelError, ModelRecord};

use crate::guards::update_context;
use crate::state;

/// Makes a model available to agents.
///
/// # Errors
/// See [`crate::repository::Repository::activate`].
pub fn activate(model_id: &ModelId) -> Result<ModelRecord, ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.activate(&context, model_id))
}

/// Withdraws a model.
///
/// # Errors
/// See [`crate::repository::Repository::deprecate`].
pub fn deprecate(args: DeprecateArgs) -> Result<ModelRecord, ModelError> {
    let context = update_context()?;
    state::mutate(|repository| repository.deprecate(&context, &args.model_id, args.reason))
}
