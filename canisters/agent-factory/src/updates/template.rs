//! Uploading the agent template.

use shared_types::Digest;
use shared_types::factory::{BeginTemplateArgs, FactoryError, PutTemplateChunkArgs, Template};

use crate::guards::require_admin;
use crate::state;

/// Announces a template.
///
/// # Errors
/// See [`crate::templates::Templates::begin`]; callers that are no admins are refused.
pub fn begin_template(args: BeginTemplateArgs) -> Result<Template, FactoryError> {
    require_admin()?;
    state::mutate(|state| state.templates.begin(args))
}

/// Stores a chunk.
///
/// # Errors
/// See [`crate::templates::Templates::put_chunk`]; callers that are no admins are refused.
pub fn put_template_chunk(args: &PutTemplateChunkArgs) -> Result<Template, FactoryError> {
    require_admin()?;
    state::mutate(|state| state.templates.put_chunk(args))
}

/// Checks the whole template; see [`crate::state::State::commit_template`] for who gets it.
///
/// # Errors
/// See [`crate::templates::Templates::commit`]; callers that are no admins are refused.
pub fn commit_template(sha256: &Digest) -> Result<Template, FactoryError> {
    require_admin()?;
    state::mutate(|state| state.commit_template(sha256, ic_cdk::api::time()))
}
