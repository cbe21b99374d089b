//! Uploads: begun, continued from anywhere, finished, dropped, or collected when nobody works on them any more.

use canister_common::cbor::{Cbor, Extensible};
use shared_types::lifecycle::{ModelOperation, ModelStatus};
use shared_types::model::{
    AuditEvent, MAX_MANIFEST_BYTES, MAX_OPEN_UPLOADS, MAX_SHARD_BYTES, MAX_SHARDS, MissingShardsArgs,
    MissingShardsPage, ModelError, ModelRecord, PutShardResult, Role, UploadState, UploaderUsage, Validation,
};
use shared_types::{Digest, FieldError, ModelId, paging};

use crate::guards::CallContext;
use crate::manifest::{self, ManifestFacts};
use crate::repository::{IdKey, ModelEntry, Repository, ShardEntry, require_status};

/// Pending models that one look for abandoned uploads goes through.
const COLLECTION_SCAN: usize = 500;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

impl Repository {
    /// Reserves space for the model that `manifest_bytes` describe, or finds the upload that did.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an uploader, and the same one as before for an upload that is
    /// Pending; [`ModelError::InvalidManifest`]; [`ModelError::QuotaExceeded`]; [`ModelError::TooMany`];
    /// [`ModelError::OutOfStorage`].
    pub fn begin_upload(
        &mut self,
        context: &CallContext,
        manifest_bytes: &[u8],
    ) -> Result<UploadState, ModelError> {
        self.roles.require(context.caller, Role::Uploader)?;
        if manifest_bytes.len() as u64 > MAX_MANIFEST_BYTES {
            let reason =
                format!("has {} bytes, at most {MAX_MANIFEST_BYTES} are allowed", manifest_bytes.len());
            return Err(ModelError::InvalidManifest(FieldError::new("manifest", reason)));
        }
        let facts = manifest::read(manifest_bytes).map_err(ModelError::InvalidManifest)?;
        self.begin_checked_upload(context, manifest_bytes, &facts)
    }

    pub(crate) fn begin_checked_upload(
        &mut self,
        context: &CallContext,
        manifest_bytes: &[u8],
        facts: &ManifestFacts,
    ) -> Result<UploadState, ModelError> {
        if let Some(entry) = self.models.get(facts.model_id.as_bytes()) {
            if entry.record.status == ModelStatus::Pending {
                self.require_uploader_of(context, &entry.record)?;
                self.touch(context.now_ns, &entry.record);
            }
            return Ok(upload_state(&entry.record));
        }
        let invalid =
            |field: &str, reason: String| ModelError::InvalidManifest(FieldError::new(field, reason));
        let shards = facts.shards.len();
        if shards == 0 || shards > MAX_SHARDS as usize {
            return Err(invalid("shards", format!("has {shards} entries, not within 1..={MAX_SHARDS}")));
        }
        if let Some(index) = facts.shards.iter().position(|shard| shard.bytes > MAX_SHARD_BYTES) {
            let bytes = facts.shards[index].bytes;
            return Err(invalid(
                &format!("shards[{index}].length"),
                format!("is {bytes}, at most {MAX_SHARD_BYTES} are allowed"),
            ));
        }

        let manifest_len = manifest_bytes.len() as u64;
        // At most MAX_SHARDS × MAX_SHARD_BYTES: no overflow.
        let bytes: u64 = facts.shards.iter().map(|shard| shard.bytes).sum();
        let requested = manifest_len + bytes;
        let UploaderUsage { used_bytes: used, quota_bytes: quota, open_uploads } = self.usage_of(context);
        if used.saturating_add(requested) > quota {
            return Err(ModelError::QuotaExceeded { used, requested, quota });
        }
        if open_uploads >= MAX_OPEN_UPLOADS {
            let limit = u64::from(MAX_OPEN_UPLOADS);
            return Err(ModelError::TooMany { what: "open uploads".to_owned(), limit });
        }
        let out_of_storage = ModelError::OutOfStorage { requested };
        if requested > self.status().free_bytes {
            return Err(out_of_storage);
        }
        let offset = self.extents.allocate(requested).map_err(|_| out_of_storage.clone())?;
        if self.region.write(offset, manifest_bytes).is_err() {
            self.extents.release(offset, requested);
            return Err(out_of_storage);
        }
        self.usage.insert(context.caller, used + requested);

        let mut shard_offset = offset + manifest_len;
        for (index, shard) in facts.shards.iter().enumerate() {
            let entry =
                ShardEntry { offset: shard_offset, bytes: shard.bytes, sha256: shard.sha256, stored: false };
            self.shards.insert((*facts.model_id.as_bytes(), index as u32), Cbor(entry));
            shard_offset += shard.bytes;
        }
        let record = ModelRecord {
            model_id: facts.model_id,
            name: facts.name.clone(),
            version: facts.version.clone(),
            license: facts.license.clone(),
            status: ModelStatus::Pending,
            uploader: context.caller,
            bytes,
            manifest_bytes: manifest_len,
            shards: shards as u32,
            missing: shards as u32,
            created_at_ns: context.now_ns,
            validation: Validation::NotStarted,
            activated_at_ns: None,
            deprecation: None,
            card: facts.card.clone(),
        };
        let state = upload_state(&record);
        self.touch(context.now_ns, &record);
        self.put_entry(Extensible::new(ModelEntry { record, offset }));
        self.record(context, AuditEvent::UploadBegun { model_id: facts.model_id });
        Ok(state)
    }

    /// What the caller has stored, and may.
    pub fn usage_of(&self, context: &CallContext) -> UploaderUsage {
        let caller = context.caller;
        let open = self.pending.values().filter(|(_, uploader)| *uploader == caller);
        UploaderUsage {
            used_bytes: self.usage.get(&caller).unwrap_or(0),
            quota_bytes: self.quotas.get(&caller).unwrap_or(self.policy().uploader_quota_bytes),
            open_uploads: open.count() as u32,
        }
    }

    /// Notes that somebody works on an upload.
    pub(crate) fn touch(&mut self, now_ns: u64, record: &ModelRecord) {
        self.pending.insert(*record.model_id.as_bytes(), (now_ns, record.uploader));
    }

    /// Checks a shard against the manifest and stores it. A shard that is stored already is only compared, so a repeated
    /// call is answered the same way even when the model is Active by now.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`], [`ModelError::UnknownModel`], [`ModelError::WrongStatus`], the errors of a wrong
    /// shard, [`ModelError::OutOfStorage`].
    pub fn put_shard(
        &mut self,
        context: &CallContext,
        model_id: &ModelId,
        index: u32,
        bytes: &[u8],
    ) -> Result<PutShardResult, ModelError> {
        let mut entry = self.upload_of(context, model_id)?;
        let (key, mut shard) = self.shard(&entry.record, index)?;
        if bytes.len() as u64 != shard.bytes {
            return Err(ModelError::WrongShardLength {
                index,
                expected: shard.bytes,
                actual: bytes.len() as u64,
            });
        }
        let actual = Digest::of(bytes);
        if actual != shard.sha256 {
            return Err(ModelError::WrongShardHash { index, expected: shard.sha256, actual });
        }
        if shard.stored {
            return Ok(PutShardResult { newly_stored: false, missing: entry.record.missing });
        }
        require_status(&entry.record, ModelOperation::PutShard)?;
        manifest::check_shard_header(index, bytes)
            .map_err(|reason| ModelError::WrongShardHeader { index, reason })?;

        self.region
            .write(shard.offset, bytes)
            .map_err(|_| ModelError::OutOfStorage { requested: shard.bytes })?;
        shard.stored = true;
        self.shards.insert(key, Cbor(shard));
        entry.record.missing -= 1;
        let missing = entry.record.missing;
        self.touch(context.now_ns, &entry.record);
        self.put_entry(entry);
        self.record(context, AuditEvent::ShardStored { model_id: *model_id, index });
        Ok(PutShardResult { newly_stored: true, missing })
    }

    /// Indices of shards that are not stored yet.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] and [`ModelError::UnknownModel`].
    pub fn missing_shards(
        &self,
        context: &CallContext,
        args: &MissingShardsArgs,
    ) -> Result<MissingShardsPage, ModelError> {
        let entry = self.upload_of(context, &args.model_id)?;
        let key = *args.model_id.as_bytes();
        let shards = entry.record.shards;
        let first = args.after.map_or(0, |after| after.saturating_add(1)).min(shards);
        let missing = self
            .shards
            .range((key, first)..(key, shards))
            .filter(|entry| !entry.value().0.stored)
            .map(|entry| entry.key().1);
        let (indices, next) = paging::page(missing, args.limit, |index| *index);
        Ok(MissingShardsPage { indices, next })
    }

    /// Takes a complete upload for finished: its validation begins. Finishing again changes nothing, unless validation has
    /// failed: then it begins again.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`], [`ModelError::UnknownModel`], [`ModelError::Incomplete`],
    /// [`ModelError::WrongStatus`].
    pub fn finish_upload(
        &mut self,
        context: &CallContext,
        model_id: &ModelId,
    ) -> Result<ModelRecord, ModelError> {
        let entry = self.upload_of(context, model_id)?;
        if matches!(entry.record.validation, Validation::Passed { .. } | Validation::Running { .. }) {
            return Ok(entry.into_inner().record);
        }
        require_status(&entry.record, ModelOperation::FinishUpload)?;
        if entry.record.missing > 0 {
            return Err(ModelError::Incomplete { missing: entry.record.missing });
        }
        self.touch(context.now_ns, &entry.record);
        self.record(context, AuditEvent::UploadFinished { model_id: *model_id });
        Ok(self.begin_validation(context, entry))
    }

    /// Drops a Pending model and frees its space and its uploader's quota.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`], [`ModelError::UnknownModel`], [`ModelError::WrongStatus`].
    pub fn discard_upload(&mut self, context: &CallContext, model_id: &ModelId) -> Result<(), ModelError> {
        let entry = self.upload_of(context, model_id)?;
        require_status(&entry.record, ModelOperation::DiscardUpload)?;
        self.drop_model(&entry);
        self.record(context, AuditEvent::UploadDiscarded { model_id: *model_id });
        Ok(())
    }

    /// Drops the first of the uploads that nobody has worked on for as long as the policy says; returns it. One whose
    /// activation is proposed stays. `after` is where to look from, and is moved on, to the beginning at the end.
    pub fn collect_abandoned(&mut self, context: &CallContext, after: &mut Option<IdKey>) -> Option<ModelId> {
        let patience = self.policy().abandoned_after_seconds.saturating_mul(SECOND_NS);
        let from = after.unwrap_or_default();
        let seen: Vec<(IdKey, u64)> = self
            .pending
            .range(from..)
            .filter(|entry| Some(*entry.key()) != *after)
            .take(COLLECTION_SCAN)
            .map(|entry| (*entry.key(), entry.value().0))
            .collect();
        let abandoned = seen.iter().find(|(id, touched)| {
            let idle = context.now_ns.saturating_sub(*touched) >= patience;
            idle && !self.proposals.concerns(&ModelId::new(*id)) && !self.validations.contains_key(id)
        });
        let Some(&(id, _)) = abandoned else {
            *after = if seen.len() == COLLECTION_SCAN { seen.last().map(|(id, _)| *id) } else { None };
            return None;
        };
        *after = Some(id);
        let model_id = ModelId::new(id);
        if let Ok(entry) = self.entry(&model_id) {
            self.drop_model(&entry);
            self.record(context, AuditEvent::UploadCollected { model_id });
        }
        Some(model_id)
    }

    fn drop_model(&mut self, entry: &ModelEntry) {
        let key = *entry.record.model_id.as_bytes();
        for index in 0..entry.record.shards {
            self.shards.remove(&(key, index));
        }
        self.models.remove(&key);
        self.pending.remove(&key);
        self.validations.remove(&key);
        self.reports.remove(&key);
        self.extents.release(entry.offset, entry.extent_bytes());
        let used = self.usage.get(&entry.record.uploader).unwrap_or(0);
        match used.saturating_sub(entry.extent_bytes()) {
            0 => self.usage.remove(&entry.record.uploader),
            left => self.usage.insert(entry.record.uploader, left),
        };
    }
}

fn upload_state(record: &ModelRecord) -> UploadState {
    UploadState {
        model_id: record.model_id,
        status: record.status,
        shards: record.shards,
        missing: record.missing,
        validation: record.validation,
    }
}
