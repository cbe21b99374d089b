//! The rules: batches, what is published, and who may do which step.

use std::collections::{BTreeMap, BTreeSet};

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{StableBTreeMap, StableCell, StableLog};
use serde::{Deserialize, Serialize};
use shared_types::ui::{
    BATCH_LIFETIME_NS, BatchState, ChunkKey, CommitBatchArgs, FilePage, ListFilesArgs, ListPublicationsArgs,
    MAX_BATCHES, MissingChunksArgs, MissingChunksPage, Publication, PublicationPage, PutChunkArgs,
    SiteConfig, SiteFile, UiError, UiRole, UiRoleGrant, site_hash,
};
use shared_types::{Digest, FieldError, paging};

use crate::contents::Contents;
use crate::guards::CallContext;
use crate::memory::{Memories, Memory};
use crate::roles::Roles;
use crate::rules;

/// A site on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Batch {
    preparer: Principal,
    created_at_ns: u64,
    proposed_at_ns: Option<u64>,
    hash: Digest,
    /// Ordered by path.
    files: Vec<SiteFile>,
}

/// What is published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Published {
    publication: Option<Publication>,
    /// Ordered by path.
    files: Vec<SiteFile>,
    /// The number that the next batch gets.
    next_batch: u64,
}

/// The state of the canister.
pub struct Site {
    roles: Roles<Memory>,
    config: StableCell<Cbor<SiteConfig>, Memory>,
    batches: StableBTreeMap<u64, Cbor<Batch>, Memory>,
    published: StableCell<Cbor<Published>, Memory>,
    publications: StableLog<Cbor<Publication>, Memory, Memory>,
    contents: Contents,
}

fn digests(files: &[SiteFile]) -> impl Iterator<Item = Digest> {
    files.iter().flat_map(|file| &file.variants).map(|variant| variant.sha256)
}

fn bytes(files: &[SiteFile]) -> u64 {
    files.iter().flat_map(|file| &file.variants).map(|variant| variant.bytes).sum()
}

impl Site {
    /// Opens what the memories hold; files come in chunks of `chunk_bytes`.
    pub fn open(memories: Memories, chunk_bytes: u64) -> Self {
        Self {
            roles: Roles::init(memories.roles),
            config: StableCell::init(memories.config, Cbor::default()),
            batches: StableBTreeMap::init(memories.batches),
            published: StableCell::init(memories.published, Cbor::default()),
            publications: StableLog::init(memories.publication_index, memories.publication_data),
            contents: Contents::open(memories.contents, memories.extents, memories.bytes, chunk_bytes),
        }
    }

    /// Sets up a new site.
    ///
    /// # Errors
    /// [`UiError::InvalidField`].
    pub fn install(&mut self, roles: Vec<UiRoleGrant>, config: SiteConfig) -> Result<(), UiError> {
        if !roles.iter().any(|grant| grant.role == UiRole::Admin) {
            return Err(FieldError::new("roles", "there must be an admin").into());
        }
        for grant in roles {
            self.add_role(grant)?;
        }
        self.set_config(config)
    }

    fn add_role(&mut self, grant: UiRoleGrant) -> Result<(), UiError> {
        if grant.principal == Principal::anonymous() {
            return Err(FieldError::new("principal", "the anonymous principal can't have a role").into());
        }
        self.roles.grant(grant);
        Ok(())
    }

    fn set_config(&mut self, config: SiteConfig) -> Result<(), UiError> {
        rules::check_config(&config)?;
        self.config.set(Cbor(config));
        Ok(())
    }

    /// The roles.
    pub fn roles(&self) -> &Roles<Memory> {
        &self.roles
    }

    /// What the pages get to know.
    pub fn config(&self) -> &SiteConfig {
        &self.config.get().0
    }

    /// What is published.
    pub fn publication(&self) -> Option<&Publication> {
        self.published.get().0.publication.as_ref()
    }

    /// The published files, ordered by path.
    pub fn files(&self) -> &[SiteFile] {
        &self.published.get().0.files
    }

    /// The bytes of a content whose chunks have all arrived.
    pub fn content(&self, sha256: &Digest) -> Option<Vec<u8>> {
        self.contents.get(sha256)
    }

    /// Bytes of files kept.
    pub fn stored_bytes(&self) -> u64 {
        self.contents.bytes()
    }

    /// Grants a role; granting it again changes nothing.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`] unless the caller is an admin; [`UiError::InvalidField`] for the anonymous principal.
    pub fn grant_role(&mut self, context: &CallContext, grant: UiRoleGrant) -> Result<(), UiError> {
        self.roles.require(context.caller, UiRole::Admin)?;
        self.add_role(grant)
    }

    /// Revokes a role; revoking what was not granted changes nothing.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`] unless the caller is an admin; [`UiError::LastAdmin`].
    pub fn revoke_role(&mut self, context: &CallContext, grant: UiRoleGrant) -> Result<(), UiError> {
        self.roles.require(context.caller, UiRole::Admin)?;
        self.roles.revoke(grant)
    }

    /// Sets what the pages get to know.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`] unless the caller is an admin; [`UiError::InvalidField`].
    pub fn configure(&mut self, context: &CallContext, config: SiteConfig) -> Result<(), UiError> {
        self.roles.require(context.caller, UiRole::Admin)?;
        self.set_config(config)
    }

    /// Begins a batch. Batches that are too old make room.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`], [`UiError::InvalidField`], [`UiError::TooManyBatches`], [`UiError::OutOfStorage`].
    pub fn begin_batch(
        &mut self,
        context: &CallContext,
        mut files: Vec<SiteFile>,
    ) -> Result<BatchState, UiError> {
        self.roles.require(context.caller, UiRole::Prepare)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        rules::check_files(&files)?;
        for variant in files.iter().flat_map(|file| &file.variants) {
            let known = self.contents.length(&variant.sha256);
            if let Some(known) = known.filter(|known| *known != variant.bytes) {
                let reason =
                    format!("{} has {known} bytes where it is known, not {}", variant.sha256, variant.bytes);
                return Err(FieldError::new("files.variants.bytes", reason).into());
            }
        }
        self.drop_old_batches(context.now_ns);
        if self.batches.len() >= MAX_BATCHES {
            return Err(UiError::TooManyBatches { batches: self.batches.len() });
        }
        let reserved = files
            .iter()
            .flat_map(|file| &file.variants)
            .try_for_each(|variant| self.contents.reserve(&variant.sha256, variant.bytes));
        if let Err(error) = reserved {
            self.drop_unused();
            return Err(error);
        }
        let mut published = self.published.get().0.clone();
        let batch_id = published.next_batch;
        published.next_batch += 1;
        self.published.set(Cbor(published));
        let batch = Batch {
            preparer: context.caller,
            created_at_ns: context.now_ns,
            proposed_at_ns: None,
            hash: site_hash(&files),
            files,
        };
        let state = self.state_of(batch_id, &batch);
        self.batches.insert(batch_id, Cbor(batch));
        Ok(state)
    }

    fn drop_old_batches(&mut self, now_ns: u64) {
        let is_old = |batch: &Batch| now_ns.saturating_sub(batch.created_at_ns) > BATCH_LIFETIME_NS;
        let old: Vec<u64> =
            self.batches.iter().filter(|entry| is_old(&entry.value().0)).map(|entry| *entry.key()).collect();
        if !old.is_empty() {
            for batch_id in old {
                self.batches.remove(&batch_id);
            }
            self.drop_unused();
        }
    }

    /// Drops the contents that neither what is published nor a batch needs.
    fn drop_unused(&mut self) {
        let mut used: BTreeSet<Digest> = digests(self.files()).collect();
        for batch in self.batches.values() {
            used.extend(digests(&batch.0.files));
        }
        self.contents.retain(&used);
    }

    fn batch(&self, batch_id: u64) -> Result<Batch, UiError> {
        self.batches.get(&batch_id).map(|batch| batch.0).ok_or(UiError::UnknownBatch { batch_id })
    }

    /// The batch, if the caller prepares it.
    fn own_batch(&self, context: &CallContext, batch_id: u64) -> Result<Batch, UiError> {
        self.roles.require(context.caller, UiRole::Prepare)?;
        let batch = self.batch(batch_id)?;
        if batch.preparer == context.caller { Ok(batch) } else { Err(UiError::NotPreparer { batch_id }) }
    }

    fn state_of(&self, batch_id: u64, batch: &Batch) -> BatchState {
        BatchState {
            batch_id,
            preparer: batch.preparer,
            created_at_ns: batch.created_at_ns,
            proposed_at_ns: batch.proposed_at_ns,
            hash: batch.hash,
            files: batch.files.len() as u32,
            bytes: bytes(&batch.files),
            missing_chunks: self.missing(batch).count() as u32,
        }
    }

    /// Chunks that have not arrived, ordered.
    fn missing(&self, batch: &Batch) -> impl Iterator<Item = ChunkKey> {
        let contents: BTreeSet<Digest> = digests(&batch.files).collect();
        contents.into_iter().flat_map(|sha256| {
            self.contents.missing(&sha256).into_iter().map(move |index| ChunkKey { sha256, index })
        })
    }

    /// The batches, ordered by number.
    pub fn batches(&self) -> Vec<BatchState> {
        self.batches.iter().map(|entry| self.state_of(*entry.key(), &entry.value().0)).collect()
    }

    /// Stores a chunk; one that is there changes nothing.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`], [`UiError::NotPreparer`], [`UiError::UnknownBatch`], [`UiError::UnknownChunk`] and those of
    /// [`Contents::put`].
    pub fn put_chunk(&mut self, context: &CallContext, args: &PutChunkArgs) -> Result<BatchState, UiError> {
        let batch = self.own_batch(context, args.batch_id)?;
        let unknown = UiError::UnknownChunk { batch_id: args.batch_id, chunk: args.chunk };
        if !digests(&batch.files).any(|sha256| sha256 == args.chunk.sha256) {
            return Err(unknown);
        }
        self.contents.put(args.chunk, &args.bytes).ok_or(unknown)??;
        Ok(self.state_of(args.batch_id, &batch))
    }

    /// A page of the chunks that have not arrived.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`], [`UiError::NotPreparer`], [`UiError::UnknownBatch`].
    pub fn missing_chunks(
        &self,
        context: &CallContext,
        args: &MissingChunksArgs,
    ) -> Result<MissingChunksPage, UiError> {
        let batch = self.own_batch(context, args.batch_id)?;
        let rest = self.missing(&batch).filter(|chunk| args.after.is_none_or(|after| *chunk > after));
        let (chunks, next) = paging::page(rest, args.limit, |chunk| *chunk);
        Ok(MissingChunksPage { chunks, next })
    }

    /// Declares a batch complete; doing so again changes nothing.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`], [`UiError::NotPreparer`], [`UiError::UnknownBatch`], [`UiError::Incomplete`].
    pub fn propose(&mut self, context: &CallContext, batch_id: u64) -> Result<BatchState, UiError> {
        let mut batch = self.own_batch(context, batch_id)?;
        let missing_chunks = self.missing(&batch).count() as u32;
        if missing_chunks > 0 {
            return Err(UiError::Incomplete { batch_id, missing_chunks });
        }
        batch.proposed_at_ns.get_or_insert(context.now_ns);
        let state = self.state_of(batch_id, &batch);
        self.batches.insert(batch_id, Cbor(batch));
        Ok(state)
    }

    /// Publishes a batch.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`], [`UiError::UnknownBatch`], [`UiError::SamePrincipal`], [`UiError::NotProposed`],
    /// [`UiError::WrongBatchHash`].
    ///
    /// # Panics
    /// When stable memory can't grow: the message is then rolled back.
    pub fn commit(&mut self, context: &CallContext, args: &CommitBatchArgs) -> Result<Publication, UiError> {
        self.roles.require(context.caller, UiRole::Commit)?;
        let batch_id = args.batch_id;
        let batch = self.batch(batch_id)?;
        if batch.preparer == context.caller {
            return Err(UiError::SamePrincipal { batch_id });
        }
        if batch.proposed_at_ns.is_none() {
            return Err(UiError::NotProposed { batch_id });
        }
        if batch.hash != args.hash {
            return Err(UiError::WrongBatchHash { batch_id, expected: args.hash, actual: batch.hash });
        }
        let publication = Publication {
            number: self.publications.len() + 1,
            hash: batch.hash,
            preparer: batch.preparer,
            committer: context.caller,
            committed_at_ns: context.now_ns,
            files: batch.files.len() as u32,
            bytes: bytes(&batch.files),
        };
        let appended = self.publications.append(&Cbor(publication.clone()));
        appended.unwrap_or_else(|error| panic!("the publications can't grow: {error:?}"));
        let next_batch = self.published.get().0.next_batch;
        self.published.set(Cbor(Published {
            publication: Some(publication.clone()),
            files: batch.files,
            next_batch,
        }));
        self.batches.remove(&batch_id);
        self.drop_unused();
        Ok(publication)
    }

    /// Drops a batch.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`] unless the caller prepares it, commits, or is an admin; [`UiError::UnknownBatch`].
    pub fn discard_batch(&mut self, context: &CallContext, batch_id: u64) -> Result<(), UiError> {
        let has = |role| self.roles.has(context.caller, role);
        if !has(UiRole::Admin) && !has(UiRole::Commit) {
            self.own_batch(context, batch_id)?;
        }
        self.batches.remove(&batch_id).ok_or(UiError::UnknownBatch { batch_id })?;
        self.drop_unused();
        Ok(())
    }

    /// A page of the files of a batch, for those with a role, or of what is published, for everybody.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`], [`UiError::UnknownBatch`].
    pub fn list_files(&self, context: &CallContext, args: &ListFilesArgs) -> Result<FilePage, UiError> {
        let of_batch;
        let files = match args.batch_id {
            None => self.files(),
            Some(batch_id) => {
                let has = |role| self.roles.has(context.caller, role);
                if !has(UiRole::Admin) && !has(UiRole::Prepare) {
                    self.roles.require(context.caller, UiRole::Commit)?;
                }
                of_batch = self.batch(batch_id)?;
                &of_batch.files
            }
        };
        let rest = files.iter().filter(|file| args.after.as_ref().is_none_or(|after| file.path > *after));
        let (files, next) = paging::page(rest.cloned(), args.limit, |file| file.path.clone());
        Ok(FilePage { files, next })
    }

    /// A page of all publications, oldest first.
    pub fn list_publications(&self, args: &ListPublicationsArgs) -> PublicationPage {
        let first = args.after.unwrap_or(0);
        let rest = (first..self.publications.len()).filter_map(|index| self.publications.get(index));
        let (publications, next) = paging::page(rest.map(|p| p.0), args.limit, |p| p.number);
        PublicationPage { publications, next }
    }

    /// The contents of what is published, by hash.
    pub fn published_contents(&self) -> BTreeMap<Digest, Vec<u8>> {
        digests(self.files()).filter_map(|sha256| Some((sha256, self.content(&sha256)?))).collect()
    }
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
