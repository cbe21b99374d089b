//! Several repositories behind one: a repository that knows others tells where there is room and where a model is.
//!
//! What an index says is a hint and needs no trust: the repository that it names certifies its own catalogue.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use crate::digest::ModelId;
use crate::lifecycle::ModelStatus;

/// Most repositories that one knows.
pub const MAX_REPOSITORIES: u64 = 64;

/// Seconds after which what a repository has answered is too old to place a model by.
pub const ANSWER_VALID_SECONDS: u64 = 86_400;

/// A repository that this one knows.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct KnownRepository {
    /// Its canister.
    pub canister: Principal,
    /// Its models that are public, as far as they were read.
    pub models: u64,
    /// Bytes that it had left.
    pub free_bytes: u64,
    /// When it was last asked, in nanoseconds since 1970; 0 for never.
    pub asked_at_ns: u64,
    /// When it last answered.
    pub answered_at_ns: Option<u64>,
    /// Why it did not answer, if it did not.
    pub failure: Option<String>,
}

/// Where a model is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct IndexedModel {
    /// The model.
    pub model_id: ModelId,
    /// The repository that has it.
    pub repository: Principal,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it stood when the repository was asked.
    pub status: ModelStatus,
    /// Bytes of its shards.
    pub bytes: u64,
}

/// Page request of `list_index`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListIndexArgs {
    /// Only models of this name.
    pub name: Option<String>,
    /// The last id of the page before.
    pub after: Option<ModelId>,
    /// Most models to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_index`, ordered by id: the public models of the repositories that this one knows. Its own are in `list_models`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct IndexPage {
    /// The models.
    pub models: Vec<IndexedModel>,
    /// `after` of the next page; a page may have few models or none and still have a next one.
    pub next: Option<ModelId>,
}
