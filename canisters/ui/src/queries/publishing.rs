//! Batches, publications, roles, status.

use shared_types::ui::{
    FilePage, ListFilesArgs, ListPublicationsArgs, ListUiRolesArgs, MissingChunksArgs, MissingChunksPage,
    PublicationPage, UiError, UiRolePage, UiStatus,
};

use crate::guards::CallContext;
use crate::lifecycle::VERSION;
use crate::state;

/// A page of the chunks that have not arrived.
///
/// # Errors
/// See [`crate::site::Site::missing_chunks`].
pub fn missing_chunks(args: &MissingChunksArgs) -> Result<MissingChunksPage, UiError> {
    state::read(|site| site.missing_chunks(&CallContext::of_message(), args))
}

/// A page of files.
///
/// # Errors
/// See [`crate::site::Site::list_files`].
pub fn list_files(args: &ListFilesArgs) -> Result<FilePage, UiError> {
    state::read(|site| site.list_files(&CallContext::of_message(), args))
}

/// A page of the publications.
pub fn list_publications(args: &ListPublicationsArgs) -> PublicationPage {
    state::read(|site| site.list_publications(args))
}

/// A page of the roles.
pub fn list_roles(args: &ListUiRolesArgs) -> UiRolePage {
    state::read(|site| site.roles().list(args))
}

/// Version, what is published, batches, balance.
pub fn status() -> UiStatus {
    state::read(|site| UiStatus {
        version: VERSION.to_owned(),
        cycles: ic_cdk::api::canister_cycle_balance(),
        published: site.publication().cloned(),
        batches: site.batches(),
        config: site.config().clone(),
        stored_bytes: site.stored_bytes(),
    })
}
