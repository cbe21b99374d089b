//! The catalogue: who may see which model, what `latest` means, and the hash tree that makes a query trustworthy.

use ic_certification::{
    AsHashTree, HashTree, RbTree, fork, fork_hash, labeled, labeled_hash, leaf, leaf_hash, merge_hash_trees,
    pruned,
};
use semver::Version;
use shared_types::lifecycle::{ModelOperation, ModelStatus};
use shared_types::model::{
    AuditHead, GetShardChunkArgs, ListModelsArgs, ModelError, ModelPage, ModelRecord, Role, labels,
};
use shared_types::{Digest, FieldError, ModelId, paging};

use canister_common::cbor::Extensible;

use crate::guards::CallContext;
use crate::http;
use crate::repository::{IdKey, ModelEntry, Repository, ShardEntry, require_status};

/// Records that one page looks at, however few of them it shows.
const PAGE_SCAN: usize = 2_000;

/// The certified hash tree; `shared_types::model` says how it looks.
pub struct CertifiedTree {
    audit: AuditHead,
    models: RbTree<IdKey, IdKey>,
    latest: RbTree<String, IdKey>,
    /// Whether the root has changed since it was certified.
    changed: bool,
}

impl Default for CertifiedTree {
    fn default() -> Self {
        let audit = AuditHead { entries: 0, hash: Digest::ZERO };
        Self { audit, models: RbTree::new(), latest: RbTree::new(), changed: true }
    }
}

/// What a witness shows of a subtree.
enum Part {
    /// Nothing.
    Hidden,
    /// A tree that is pruned already.
    Shown(HashTree),
}

impl CertifiedTree {
    pub(crate) fn set_audit(&mut self, head: AuditHead) {
        self.audit = head;
        self.changed = true;
    }

    pub(crate) fn set_model(&mut self, record: &ModelRecord) {
        self.models.insert(*record.model_id.as_bytes(), *record.hash().as_bytes());
        self.changed = true;
    }

    fn set_latest(&mut self, name: &str, model_id: Option<ModelId>) {
        match model_id {
            Some(model_id) => self.latest.insert(name.to_owned(), *model_id.as_bytes()),
            None => self.latest.delete(name.as_bytes()),
        }
        self.changed = true;
    }

    /// The root to certify, if it has changed since it was asked for last.
    pub fn take_changed_root(&mut self) -> Option<[u8; 32]> {
        std::mem::take(&mut self.changed).then(|| self.root())
    }

    fn hashes(&self) -> [[u8; 32]; 4] {
        let audit = labeled_hash(labels::AUDIT.as_bytes(), &leaf_hash(&self.audit.to_bytes()));
        let latest = labeled_hash(labels::LATEST.as_bytes(), &self.latest.root_hash());
        let models = labeled_hash(labels::MODEL.as_bytes(), &self.models.root_hash());
        [audit, http::expressions().root_hash(), latest, models]
    }

    /// The root of the tree.
    pub fn root(&self) -> [u8; 32] {
        let [audit, http, latest, models] = self.hashes();
        fork_hash(&fork_hash(&audit, &http), &fork_hash(&latest, &models))
    }

    /// The tree, pruned to `audit`, `http`, `latest` and `models`.
    fn pruned_to(&self, parts: [Part; 4]) -> HashTree {
        let mut hashes = self.hashes().into_iter();
        let [audit, http, latest, models] =
            parts.map(|part| match (part, hashes.next().unwrap_or_default()) {
                (Part::Hidden, hash) => pruned(hash),
                (Part::Shown(tree), _) => tree,
            });
        fork(fork(audit, http), fork(latest, models))
    }

    /// The tree, pruned to the head of the audit log.
    pub fn audit_witness(&self) -> HashTree {
        let audit = labeled(labels::AUDIT, leaf(self.audit.to_bytes()));
        self.pruned_to([Part::Shown(audit), Part::Hidden, Part::Hidden, Part::Hidden])
    }

    /// The tree, pruned to what HTTP gateways look for.
    pub fn http_witness(&self) -> HashTree {
        let http = http::expressions().as_hash_tree();
        self.pruned_to([Part::Hidden, Part::Shown(http), Part::Hidden, Part::Hidden])
    }

    /// The tree, pruned to a model.
    pub fn model_witness(&self, model_id: &ModelId) -> HashTree {
        let models = labeled(labels::MODEL, self.models.witness(model_id.as_bytes()));
        self.pruned_to([Part::Hidden, Part::Hidden, Part::Hidden, Part::Shown(models)])
    }

    /// The tree, pruned to what `latest` means for a name (or that it means nothing) and to that model.
    pub fn latest_witness(&self, name: &str, model_id: &ModelId) -> HashTree {
        let latest = labeled(labels::LATEST, self.latest.witness(name.as_bytes()));
        let models = labeled(labels::MODEL, self.models.witness(model_id.as_bytes()));
        self.pruned_to([Part::Hidden, Part::Hidden, Part::Shown(latest), Part::Shown(models)])
    }

    /// The tree, pruned to the models of a page: all between the first and the last where the page left none out.
    pub fn page_witness(&self, args: &ListModelsArgs, page: &ModelPage) -> HashTree {
        let ids: Vec<&ModelId> = page
            .models
            .iter()
            .filter(|record| record.status != ModelStatus::Pending)
            .map(|record| &record.model_id)
            .collect();
        let models = match (&ids[..], args.filter.is_none() && args.status.is_none()) {
            ([], _) => self.models.witness(&[]),
            ([first, .., last], true) => self.models.value_range(first.as_bytes(), last.as_bytes()),
            (ids, _) => ids
                .iter()
                .map(|id| self.models.witness(id.as_bytes()))
                .reduce(merge_hash_trees)
                .unwrap_or_else(|| self.models.witness(&[])),
        };
        let models = labeled(labels::MODEL, models);
        self.pruned_to([Part::Hidden, Part::Hidden, Part::Hidden, Part::Shown(models)])
    }
}

/// Key of the versions of a name.
fn name_key(name: &str) -> IdKey {
    *Digest::of(name.as_bytes()).as_bytes()
}

impl Repository {
    /// The certified tree.
    pub fn tree(&self) -> &CertifiedTree {
        &self.tree
    }

    /// The root to certify, if it has changed since it was asked for last.
    pub fn take_changed_root(&mut self) -> Option<[u8; 32]> {
        self.tree.take_changed_root()
    }

    /// Builds the certified tree from what is stored.
    pub(crate) fn certify_all(&mut self) {
        let mut tree = CertifiedTree::default();
        tree.set_audit(self.audit.head());
        let mut names = Vec::new();
        for entry in self.models.iter() {
            let record = &entry.value().record;
            match record.status {
                ModelStatus::Pending => continue,
                ModelStatus::Active => names.push(record.name.clone()),
                ModelStatus::Deprecated => {}
            }
            tree.set_model(record);
        }
        self.tree = tree;
        for name in names {
            self.certify_latest(&name);
        }
    }

    /// Certifies what `latest` means for `name`.
    pub(crate) fn certify_latest(&mut self, name: &str) {
        let latest = self.latest_of(name).ok();
        self.tree.set_latest(name, latest.map(|record| record.model_id));
    }

    /// Adds a model that has become Active to the versions of its name.
    pub(crate) fn add_version(&mut self, record: &ModelRecord) {
        let key = name_key(&record.name);
        let last = self.versions.range((key, 0)..=(key, u32::MAX)).next_back();
        let next = last.map_or(0, |entry| entry.key().1 + 1);
        self.versions.insert((key, next), *record.model_id.as_bytes());
        self.tree.set_latest(&record.name, Some(record.model_id));
    }

    /// Records of the versions of a name that were ever Active, the greatest first.
    fn versions_of(&self, name: &str) -> impl Iterator<Item = ModelRecord> {
        let key = name_key(name);
        let ids = self.versions.range((key, 0)..=(key, u32::MAX)).rev();
        ids.filter_map(|entry| self.models.get(&entry.value())).map(|entry| entry.into_inner().record)
    }

    /// The greatest version of a name that was ever Active.
    pub(crate) fn greatest_version(&self, name: &str) -> Option<String> {
        self.versions_of(name).next().map(|record| record.version)
    }

    /// The greatest version of a name that is Active.
    ///
    /// # Errors
    /// [`ModelError::UnknownName`].
    pub fn latest_of(&self, name: &str) -> Result<ModelRecord, ModelError> {
        let active = self.versions_of(name).find(|record| record.status == ModelStatus::Active);
        active.ok_or_else(|| ModelError::UnknownName { name: name.to_owned() })
    }

    /// Orders the versions of models that were activated before versions were kept.
    pub(crate) fn rebuild_versions(&mut self) {
        let mut records: Vec<ModelRecord> = self
            .models
            .values()
            .map(|entry| entry.into_inner().record)
            .filter(|record| record.status != ModelStatus::Pending)
            .collect();
        let parsed = |record: &ModelRecord| Version::parse(&record.version).ok();
        records.sort_by_cached_key(|record| (record.name.clone(), parsed(record), record.activated_at_ns));
        for record in records {
            self.add_version(&record);
        }
    }

    /// A page of the models that the caller may see, without proof.
    pub fn list_models(&self, context: &CallContext, args: &ListModelsArgs) -> ModelPage {
        let after = args.after.map(|id| *id.as_bytes());
        let from = after.unwrap_or_default();
        let size = paging::page_size(args.limit);
        let mut rest = self.models.range(from..).filter(|entry| Some(*entry.key()) != after).peekable();
        let (mut models, mut seen, mut last) = (Vec::new(), 0, None);
        while models.len() < size && seen < PAGE_SCAN {
            let Some(entry) = rest.next() else { break };
            (seen, last) = (seen + 1, Some(ModelId::new(*entry.key())));
            let record = entry.value().into_inner().record;
            let wanted = args.status.is_none_or(|status| status == record.status)
                && args.filter.as_ref().is_none_or(|filter| filter.matches(&record))
                && self.may_see(context, &record);
            if wanted {
                models.push(record);
            }
        }
        let next = if rest.peek().is_some() { last } else { None };
        ModelPage { models, next, proof: None }
    }

    /// A model's record.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`]; [`ModelError::WrongStatus`] for a Pending model of somebody else.
    pub fn get_model(&self, context: &CallContext, model_id: &ModelId) -> Result<ModelRecord, ModelError> {
        self.visible(context, model_id).map(|entry| entry.into_inner().record)
    }

    /// The bytes of a model's manifest, of Deprecated models too.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`]; [`ModelError::WrongStatus`] for a Pending model of somebody else.
    pub fn get_manifest(&self, context: &CallContext, model_id: &ModelId) -> Result<Vec<u8>, ModelError> {
        let entry = self.visible(context, model_id)?;
        Ok(self.bytes(entry.offset, entry.record.manifest_bytes))
    }

    /// Where a shard file is. Active models serve everybody, Pending ones those who may see them, Deprecated ones nobody: an
    /// agent that holds all shards keeps its model, one that is still loading is told the reason.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`], [`ModelError::WrongStatus`], [`ModelError::ShardOutOfRange`],
    /// [`ModelError::ShardMissing`].
    pub fn shard_range(
        &self,
        context: &CallContext,
        model_id: &ModelId,
        index: u32,
    ) -> Result<StoredRange, ModelError> {
        let shard = self.served_shard(context, model_id, index)?;
        Ok(StoredRange { offset: shard.offset, length: shard.bytes })
    }

    /// Where a part of a shard file is, under the conditions of [`Self::shard_range`].
    ///
    /// # Errors
    /// As [`Self::shard_range`], and [`ModelError::InvalidField`] for a range that is not inside the shard.
    pub fn chunk_range(
        &self,
        context: &CallContext,
        args: &GetShardChunkArgs,
    ) -> Result<StoredRange, ModelError> {
        let shard = self.served_shard(context, &args.model_id, args.index)?;
        let inside = args.offset.checked_add(args.length).is_some_and(|end| end <= shard.bytes);
        if !inside {
            let reason =
                format!("bytes {}..+{} are not inside the shard's {}", args.offset, args.length, shard.bytes);
            return Err(ModelError::InvalidField(FieldError::new("offset", reason)));
        }
        Ok(StoredRange { offset: shard.offset + args.offset, length: args.length })
    }

    /// Fills `buffer` from `range`, `at` bytes after its beginning.
    ///
    /// # Panics
    /// If that is not inside what is stored.
    pub fn read_range(&self, range: StoredRange, at: u64, buffer: &mut [u8]) {
        let read = self.region.read(range.offset + at, buffer);
        read.expect("a stored shard lies inside the region");
    }

    fn served_shard(
        &self,
        context: &CallContext,
        model_id: &ModelId,
        index: u32,
    ) -> Result<ShardEntry, ModelError> {
        let entry = self.visible(context, model_id)?;
        if entry.record.status != ModelStatus::Pending {
            require_status(&entry.record, ModelOperation::Serve)?;
        }
        let (_, shard) = self.shard(&entry.record, index)?;
        if shard.stored { Ok(shard) } else { Err(ModelError::ShardMissing { index }) }
    }

    fn may_see(&self, context: &CallContext, record: &ModelRecord) -> bool {
        record.status != ModelStatus::Pending
            || record.uploader == context.caller
            || self.roles.has(context.caller, Role::Auditor)
    }

    pub(crate) fn visible(
        &self,
        context: &CallContext,
        model_id: &ModelId,
    ) -> Result<Extensible<ModelEntry>, ModelError> {
        let entry = self.entry(model_id)?;
        if self.may_see(context, &entry.record) {
            Ok(entry)
        } else {
            Err(ModelError::WrongStatus { status: entry.record.status, operation: ModelOperation::Serve })
        }
    }
}

/// Bytes in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRange {
    offset: u64,
    /// How many.
    pub length: u64,
}
