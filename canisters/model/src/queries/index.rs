//! The index of repositories.

use candid::Principal;
use ic_cdk::api::{canister_self, time};
use shared_types::ModelId;
use shared_types::model::{IndexPage, KnownRepository, ListIndexArgs, ModelError};

use crate::state;

/// The repositories that this one knows.
pub fn list_repositories() -> Vec<KnownRepository> {
    state::read(|repository| repository.index().repositories())
}

/// A page of their models.
pub fn list_index(args: &ListIndexArgs) -> IndexPage {
    state::read(|repository| repository.index().list(args))
}

/// The repository for a model of so many bytes.
///
/// # Errors
/// See [`crate::repository::Repository::place`].
pub fn placement(bytes: u64) -> Result<Principal, ModelError> {
    state::read(|repository| repository.place(canister_self(), bytes, time()))
}

/// The repository that has a model.
///
/// # Errors
/// See [`crate::repository::Repository::locate`].
pub fn locate(model_id: &ModelId) -> Result<Principal, ModelError> {
    state::read(|repository| repository.locate(canister_self(), model_id))
}
