//! Interface of the `ui` canister: the web app's files, certified.
//!
//! # Publishing
//! Two roles work together, and one principal can't do both for the same batch:
//! 1. With the role Prepare: `begin_batch(files)` declares the whole site, file by file with its hashes. Content that the canister
//!    has already, from the published site or another batch, need not be sent again; `missing_chunks` says what has to be.
//! 2. `put_chunk` in any order and again; a file is checked against its hash when its last chunk is there.
//! 3. `propose` declares the batch complete.
//! 4. With the role Commit: `commit(batch, hash)` publishes it, all files at once, if the hash is that of the files that the
//!    committer has built. What the batch does not list is gone.
//!
//! The hash of a site is [`hash_of`] of its files ordered by path.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::digest::Digest;
use crate::field::FieldError;
use crate::receipt::hash_of;

/// Bytes of a chunk, fewer in the last: a 2 MiB message with room for its envelope.
pub const CHUNK_BYTES: u64 = 1_900_000;
/// Most files of a site.
pub const MAX_FILES: usize = 1_000;
/// Longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 200;
/// Longest content type, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 100;
/// Largest variant of a file, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most bytes of a site, all variants together: publishing hashes them all in one message.
pub const MAX_SITE_BYTES: u64 = 64 << 20;
/// Most batches at the same time.
pub const MAX_BATCHES: u64 = 8;
/// A batch that is not committed within this time makes room for another: one week, in nanoseconds.
pub const BATCH_LIFETIME_NS: u64 = 7 * 24 * 60 * 60 * 1_000_000_000;
/// Most variables of the `ic_env` cookie that `configure` sets.
pub const MAX_VARIABLES: usize = 32;
/// Longest name or value of a variable, in bytes: together they have to fit a browser's 4 KiB for a cookie.
pub const MAX_VARIABLE_BYTES: usize = 120;
/// Most origins that pages may connect to.
pub const MAX_ORIGINS: usize = 8;
/// The page that answers at every path without a file.
pub const INDEX_PATH: &str = "/index.html";
/// If there is such a file, it answers with status 404 below [`ASSETS_PATH`], where a page would be taken for a script.
pub const NOT_FOUND_PATH: &str = "/404.html";
/// Folder of the files that a page loads.
pub const ASSETS_PATH: &str = "/assets";

/// Argument of the canister's installation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UiInitArgs {
    /// Who has which role at first. At least one admin; nobody anonymous.
    pub roles: Vec<UiRoleGrant>,
    /// What the pages get to know.
    pub config: SiteConfig,
}

/// What a principal may do.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UiRole {
    /// Grants and revokes roles, sets the configuration, discards batches. May neither prepare nor commit by that alone.
    Admin,
    /// Begins batches, sends their files and proposes them.
    Prepare,
    /// Publishes batches that another principal has proposed.
    Commit,
}

/// A role and who has it.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UiRoleGrant {
    /// Who has the role.
    pub principal: Principal,
    /// The role.
    pub role: UiRole,
}

/// What the pages get to know of the network they are on.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteConfig {
    /// Variables of the `ic_env` cookie, beside the root key and the canister's own environment variables whose names begin with
    /// `PUBLIC_`; these here go before those.
    pub variables: Vec<SiteVariable>,
    /// Origins that pages may call besides their own, which serves the Internet Computer's interface as well.
    pub connect_origins: Vec<String>,
}

/// A variable of the `ic_env` cookie.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SiteVariable {
    /// Its name, which begins with `PUBLIC_`, as in `PUBLIC_CANISTER_ID:model`.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// How the bytes of a variant are coded; the order is the order of variants in a file.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentEncoding {
    /// As they are; every file has this variant.
    Identity,
    /// gzip (RFC 1952).
    Gzip,
    /// Brotli (RFC 7932).
    Brotli,
}

/// A variant of a file.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FileVariant {
    /// How its bytes are coded.
    pub encoding: ContentEncoding,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// How many they are.
    pub bytes: u64,
}

/// A file of the site.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct SiteFile {
    /// Where it is, from `/`.
    pub path: String,
    /// Its media type.
    pub content_type: String,
    /// Whether browsers may keep it for good, because its name changes with its content.
    pub immutable: bool,
    /// Its variants, ordered by encoding, the first one [`ContentEncoding::Identity`].
    pub variants: Vec<FileVariant>,
}

/// Hash of a site: of its files ordered by path.
pub fn site_hash(files: &[SiteFile]) -> Digest {
    let mut files: Vec<&SiteFile> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    hash_of(&files)
}

/// Argument of `begin_batch`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BeginBatchArgs {
    /// All files of the site.
    pub files: Vec<SiteFile>,
}

/// A batch: a site on its way.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BatchState {
    /// Its number.
    pub batch_id: u64,
    /// Who prepares it.
    pub preparer: Principal,
    /// When it was begun, in nanoseconds since 1970.
    pub created_at_ns: u64,
    /// When it was proposed.
    pub proposed_at_ns: Option<u64>,
    /// [`site_hash`] of its files.
    pub hash: Digest,
    /// How many files it has.
    pub files: u32,
    /// Their bytes, all variants.
    pub bytes: u64,
    /// Chunks that have not arrived.
    pub missing_chunks: u32,
}

/// A chunk of a file.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkKey {
    /// SHA-256 of the whole variant.
    pub sha256: Digest,
    /// Position of the chunk, which holds the bytes from `index` × [`CHUNK_BYTES`].
    pub index: u32,
}

/// Argument of `put_chunk`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PutChunkArgs {
    /// The batch.
    pub batch_id: u64,
    /// Which chunk.
    pub chunk: ChunkKey,
    /// Its bytes: [`CHUNK_BYTES`], fewer in the last chunk.
    pub bytes: ByteBuf,
}

/// Page request of `missing_chunks`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MissingChunksArgs {
    /// The batch.
    pub batch_id: u64,
    /// The last chunk of the page before.
    pub after: Option<ChunkKey>,
    /// Most chunks to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `missing_chunks`, ordered by hash and index.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MissingChunksPage {
    /// The chunks.
    pub chunks: Vec<ChunkKey>,
    /// `after` of the next page.
    pub next: Option<ChunkKey>,
}

/// Argument of `commit`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CommitBatchArgs {
    /// The batch.
    pub batch_id: u64,
    /// [`site_hash`] of the files that the committer means to publish.
    pub hash: Digest,
}

/// A publication.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its number, from 1.
    pub number: u64,
    /// [`site_hash`] of its files.
    pub hash: Digest,
    /// Who prepared it.
    pub preparer: Principal,
    /// Who committed it.
    pub committer: Principal,
    /// When, in nanoseconds since 1970.
    pub committed_at_ns: u64,
    /// How many files it has.
    pub files: u32,
    /// Their bytes, all variants.
    pub bytes: u64,
}

/// Page request of `list_files`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListFilesArgs {
    /// The batch; absent for what is published.
    pub batch_id: Option<u64>,
    /// The last path of the page before.
    pub after: Option<String>,
    /// Most files to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_files`, ordered by path.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FilePage {
    /// The files.
    pub files: Vec<SiteFile>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// Page request of `list_publications`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListPublicationsArgs {
    /// The last number of the page before.
    pub after: Option<u64>,
    /// Most publications to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_publications`, oldest first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PublicationPage {
    /// The publications.
    pub publications: Vec<Publication>,
    /// `after` of the next page.
    pub next: Option<u64>,
}

/// Page request of `list_roles`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListUiRolesArgs {
    /// The last grant of the page before.
    pub after: Option<UiRoleGrant>,
    /// Most grants to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_roles`, ordered by principal and role.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UiRolePage {
    /// The grants.
    pub grants: Vec<UiRoleGrant>,
    /// `after` of the next page.
    pub next: Option<UiRoleGrant>,
}

/// Result of `status`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UiStatus {
    /// Version of the canister's code.
    pub version: String,
    /// Cycles balance.
    pub cycles: u128,
    /// What is published; absent before the first time.
    pub published: Option<Publication>,
    /// Batches on their way, ordered by number: at most [`MAX_BATCHES`].
    pub batches: Vec<BatchState>,
    /// What the pages get to know.
    pub config: SiteConfig,
    /// Bytes of files kept, those of batches included.
    pub stored_bytes: u64,
}

/// Why the `ui` canister refused a call.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UiError {
    /// The anonymous principal may not change anything.
    #[error("the anonymous identity may not call this method: sign in with an identity")]
    Anonymous,
    /// The caller lacks the role.
    #[error("the caller lacks the role {required:?}")]
    Unauthorized {
        /// The role that is needed.
        required: UiRole,
    },
    /// The last admin can't be revoked.
    #[error("the last admin can't be revoked: grant the role to another principal first")]
    LastAdmin,
    /// An argument breaks a rule.
    #[error("{0}")]
    InvalidField(FieldError),
    /// No such batch: never begun, committed, discarded, or too old.
    #[error("there is no batch {batch_id}: begin a new one")]
    UnknownBatch {
        /// The batch asked for.
        batch_id: u64,
    },
    /// There are as many batches as there may be.
    #[error("{batches} batches are on their way: commit or discard one first")]
    TooManyBatches {
        /// Batches.
        batches: u64,
    },
    /// The caller has not begun the batch.
    #[error("batch {batch_id} is prepared by another principal")]
    NotPreparer {
        /// The batch.
        batch_id: u64,
    },
    /// Who prepared a batch can't commit it.
    #[error("batch {batch_id} has to be committed by another principal than the one who prepared it")]
    SamePrincipal {
        /// The batch.
        batch_id: u64,
    },
    /// No variant of the batch has this chunk.
    #[error("batch {batch_id} has no chunk {} of the file {}", chunk.index, chunk.sha256)]
    UnknownChunk {
        /// The batch.
        batch_id: u64,
        /// The chunk.
        chunk: ChunkKey,
    },
    /// The chunk's length is wrong.
    #[error("chunk {} of the file {} has {actual} bytes instead of {expected}", chunk.index, chunk.sha256)]
    WrongChunkLength {
        /// The chunk.
        chunk: ChunkKey,
        /// Bytes that it has to have.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// The chunks of a file don't have its hash. They were dropped and are missing again.
    #[error("the chunks of a file have SHA-256 {actual} instead of {expected}: send them again")]
    WrongFileHash {
        /// The hash declared.
        expected: Digest,
        /// The hash of the bytes received.
        actual: Digest,
    },
    /// The batch has gaps.
    #[error("{missing_chunks} chunks of batch {batch_id} have not arrived")]
    Incomplete {
        /// The batch.
        batch_id: u64,
        /// Chunks that have not arrived.
        missing_chunks: u32,
    },
    /// The batch was not proposed yet.
    #[error("batch {batch_id} was not proposed yet")]
    NotProposed {
        /// The batch.
        batch_id: u64,
    },
    /// The batch is not the site that the committer means.
    #[error(
        "batch {batch_id} has the hash {actual}, not {expected}: what was prepared is not what you built"
    )]
    WrongBatchHash {
        /// The batch.
        batch_id: u64,
        /// The hash that the committer gave.
        expected: Digest,
        /// The hash of the batch.
        actual: Digest,
    },
    /// Stable memory can't grow.
    #[error("stable memory can't grow by {requested} bytes")]
    OutOfStorage {
        /// Bytes requested.
        requested: u64,
    },
}

impl From<FieldError> for UiError {
    fn from(error: FieldError) -> Self {
        Self::InvalidField(error)
    }
}

/// A request of the HTTP gateway.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct HttpGatewayRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: ByteBuf,
    /// The newest version of response certification that the gateway knows.
    pub certificate_version: Option<u16>,
}

/// A response to the HTTP gateway.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct HttpGatewayResponse {
    /// The status.
    pub status_code: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: ByteBuf,
}
