//! The repository's rules: uploads, the catalogue, and who may read what.
//!
//! A model occupies one extent of the byte region: its manifest, then its shards in order. The extent is reserved
//! when the upload begins and freed only by discarding a Pending model, so the bytes of an Active model have no path
//! that writes them.

use candid::Principal;
use canister_common::cbor::Cbor;
use canister_common::extents::Extents;
use canister_common::region::Region;
use ic_stable_structures::StableBTreeMap;
use serde::{Deserialize, Serialize};
use shared_types::lifecycle::{ModelOperation, ModelStatus};
use shared_types::model::{
    AuditEvent, Deprecation, GetShardChunkArgs, ListModelsArgs, MAX_MANIFEST_BYTES, MAX_REASON_BYTES,
    MAX_SHARD_BYTES, MAX_SHARDS, MissingShardsArgs, MissingShardsPage, ModelError, ModelPage, ModelRecord,
    PutShardResult, Role, RoleGrant, UPLOADER_QUOTA_BYTES, UploadState,
};
use shared_types::{Digest, FieldError, ModelId, paging};

use crate::audit::AuditLog;
use crate::guards::CallContext;
use crate::manifest::{self, ManifestFacts};
use crate::memory::{Memories, Memory};
use crate::roles::Roles;

/// A model id as a key.
type IdKey = [u8; 32];

/// A model in the catalogue.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ModelEntry {
    record: ModelRecord,
    /// Start of the model's extent: its manifest. The shards follow.
    offset: u64,
}

impl ModelEntry {
    fn extent_bytes(&self) -> u64 {
        self.record.manifest_bytes + self.record.bytes
    }
}

/// A shard of a model.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ShardEntry {
    /// Where the shard file starts in the region.
    offset: u64,
    bytes: u64,
    sha256: Digest,
    stored: bool,
}

/// The state of the canister.
pub struct Repository {
    models: StableBTreeMap<IdKey, Cbor<ModelEntry>, Memory>,
    shards: StableBTreeMap<(IdKey, u32), Cbor<ShardEntry>, Memory>,
    /// Bytes that each uploader has reserved.
    usage: StableBTreeMap<Principal, u64, Memory>,
    extents: Extents<Memory>,
    region: Region<Memory>,
    roles: Roles<Memory>,
    audit: AuditLog<Memory>,
}

impl Repository {
    /// Opens what the memories hold.
    pub fn open(memories: Memories) -> Self {
        Self {
            models: StableBTreeMap::init(memories.models),
            shards: StableBTreeMap::init(memories.shards),
            usage: StableBTreeMap::init(memories.usage),
            extents: Extents::init(memories.extents),
            region: Region::new(memories.bytes),
            roles: Roles::init(memories.roles),
            audit: AuditLog::init(memories.audit_index, memories.audit_data),
        }
    }

    /// Sets up a new repository.
    pub fn install(&mut self, context: &CallContext, admins: Vec<Principal>) {
        for &principal in &admins {
            self.roles.grant(RoleGrant { principal, role: Role::Admin });
        }
        self.record(context, AuditEvent::Installed { admins });
    }

    /// Appends to the audit log.
    pub fn record(&mut self, context: &CallContext, event: AuditEvent) {
        self.audit.record(context.now_ns, context.caller, event);
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog<Memory> {
        &self.audit
    }

    /// The roles.
    pub fn roles(&self) -> &Roles<Memory> {
        &self.roles
    }

    /// Models of any status.
    pub fn models(&self) -> u64 {
        self.models.len()
    }

    /// Bytes reserved for manifests and shards.
    pub fn reserved_bytes(&self) -> u64 {
        self.usage.values().sum()
    }

    /// Grants a role; granting it again changes nothing.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an admin; [`ModelError::InvalidField`] for the anonymous principal.
    pub fn grant_role(&mut self, context: &CallContext, grant: RoleGrant) -> Result<(), ModelError> {
        self.roles.require(context.caller, Role::Admin)?;
        if grant.principal == Principal::anonymous() {
            let reason = "the anonymous principal can't have a role";
            return Err(ModelError::InvalidField(FieldError::new("principal", reason)));
        }
        if self.roles.grant(grant) {
            self.record(context, AuditEvent::RoleGranted(grant));
        }
        Ok(())
    }

    /// Revokes a role; revoking what was not granted changes nothing.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an admin; [`ModelError::LastAdmin`].
    pub fn revoke_role(&mut self, context: &CallContext, grant: RoleGrant) -> Result<(), ModelError> {
        self.roles.require(context.caller, Role::Admin)?;
        if self.roles.revoke(grant)? {
            self.record(context, AuditEvent::RoleRevoked(grant));
        }
        Ok(())
    }

    /// Reserves space for the model that `manifest_bytes` describe, or finds the upload that did.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an uploader, and the same one as before for an upload that is
    /// Pending; [`ModelError::InvalidManifest`]; [`ModelError::QuotaExceeded`]; [`ModelError::OutOfStorage`].
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

    fn begin_checked_upload(
        &mut self,
        context: &CallContext,
        manifest_bytes: &[u8],
        facts: &ManifestFacts,
    ) -> Result<UploadState, ModelError> {
        if let Some(Cbor(entry)) = self.models.get(facts.model_id.as_bytes()) {
            if entry.record.status == ModelStatus::Pending {
                self.require_uploader_of(context, &entry.record)?;
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
        let used = self.usage.get(&context.caller).unwrap_or(0);
        if used + requested > UPLOADER_QUOTA_BYTES {
            return Err(ModelError::QuotaExceeded { used, requested, quota: UPLOADER_QUOTA_BYTES });
        }
        let out_of_storage = ModelError::OutOfStorage { requested };
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
            validated_at_ns: None,
            activated_at_ns: None,
            deprecation: None,
        };
        let state = upload_state(&record);
        self.models.insert(*facts.model_id.as_bytes(), Cbor(ModelEntry { record, offset }));
        self.record(context, AuditEvent::UploadBegun { model_id: facts.model_id });
        Ok(state)
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
        self.models.insert(*model_id.as_bytes(), Cbor(entry));
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
        let record = self.upload_of(context, &args.model_id)?.record;
        let key = *args.model_id.as_bytes();
        let first = args.after.map_or(0, |after| after.saturating_add(1)).min(record.shards);
        let missing = self
            .shards
            .range((key, first)..(key, record.shards))
            .filter(|entry| !entry.value().0.stored)
            .map(|entry| entry.key().1);
        let (indices, next) = paging::page(missing, args.limit, |index| *index);
        Ok(MissingShardsPage { indices, next })
    }

    /// Validates a complete upload. Every shard was checked when it was stored, and the manifest when the upload
    /// began; what is left to know is that none is missing.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`], [`ModelError::UnknownModel`], [`ModelError::Incomplete`],
    /// [`ModelError::WrongStatus`].
    pub fn finish_upload(
        &mut self,
        context: &CallContext,
        model_id: &ModelId,
    ) -> Result<ModelRecord, ModelError> {
        let mut entry = self.upload_of(context, model_id)?;
        if entry.record.validated_at_ns.is_some() {
            return Ok(entry.record);
        }
        require_status(&entry.record, ModelOperation::FinishUpload)?;
        if entry.record.missing > 0 {
            return Err(ModelError::Incomplete { missing: entry.record.missing });
        }
        entry.record.validated_at_ns = Some(context.now_ns);
        let record = entry.record.clone();
        self.models.insert(*model_id.as_bytes(), Cbor(entry));
        self.record(context, AuditEvent::UploadFinished { model_id: *model_id });
        Ok(record)
    }

    /// Drops a Pending model and frees its space and its uploader's quota.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`], [`ModelError::UnknownModel`], [`ModelError::WrongStatus`].
    pub fn discard_upload(&mut self, context: &CallContext, model_id: &ModelId) -> Result<(), ModelError> {
        let entry = self.upload_of(context, model_id)?;
        require_status(&entry.record, ModelOperation::DiscardUpload)?;
        for index in 0..entry.record.shards {
            self.shards.remove(&(*model_id.as_bytes(), index));
        }
        self.models.remove(model_id.as_bytes());
        self.extents.release(entry.offset, entry.extent_bytes());
        let used = self.usage.get(&entry.record.uploader).unwrap_or(0);
        self.usage.insert(entry.record.uploader, used.saturating_sub(entry.extent_bytes()));
        self.record(context, AuditEvent::UploadDiscarded { model_id: *model_id });
        Ok(())
    }

    /// Makes a validated model available to agents. From here on its bytes can't change.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an admin; [`ModelError::UnknownModel`],
    /// [`ModelError::WrongStatus`], [`ModelError::NotValidated`].
    pub fn activate(&mut self, context: &CallContext, model_id: &ModelId) -> Result<ModelRecord, ModelError> {
        self.roles.require(context.caller, Role::Admin)?;
        let mut entry = self.entry(model_id)?;
        entry.record.status = require_status(&entry.record, ModelOperation::Activate)?;
        if entry.record.validated_at_ns.is_none() {
            return Err(ModelError::NotValidated);
        }
        entry.record.activated_at_ns = Some(context.now_ns);
        let record = entry.record.clone();
        self.models.insert(*model_id.as_bytes(), Cbor(entry));
        self.record(context, AuditEvent::Activated { model_id: *model_id });
        Ok(record)
    }

    /// Withdraws an Active model.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an admin; [`ModelError::UnknownModel`],
    /// [`ModelError::WrongStatus`], [`ModelError::InvalidField`] for the reason.
    pub fn deprecate(
        &mut self,
        context: &CallContext,
        model_id: &ModelId,
        reason: String,
    ) -> Result<ModelRecord, ModelError> {
        self.roles.require(context.caller, Role::Admin)?;
        FieldError::check_text("reason", &reason, MAX_REASON_BYTES).map_err(ModelError::InvalidField)?;
        let mut entry = self.entry(model_id)?;
        entry.record.status = require_status(&entry.record, ModelOperation::Deprecate)?;
        entry.record.deprecation = Some(Deprecation { at_ns: context.now_ns, reason: reason.clone() });
        let record = entry.record.clone();
        self.models.insert(*model_id.as_bytes(), Cbor(entry));
        self.record(context, AuditEvent::Deprecated { model_id: *model_id, reason });
        Ok(record)
    }

    /// A page of the models that the caller may see.
    pub fn list_models(&self, context: &CallContext, args: &ListModelsArgs) -> ModelPage {
        let after = args.after.map(|id| *id.as_bytes());
        let from = after.unwrap_or_default();
        let records = self
            .models
            .range(from..)
            .filter(|entry| Some(*entry.key()) != after)
            .map(|entry| entry.value().0.record)
            .filter(|record| args.status.is_none_or(|status| status == record.status))
            .filter(|record| self.may_see(context, record));
        let (models, next) = paging::page(records, args.limit, |record| record.model_id);
        ModelPage { models, next }
    }

    /// A model's record.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`]; [`ModelError::WrongStatus`] for a Pending model of somebody else.
    pub fn get_model(&self, context: &CallContext, model_id: &ModelId) -> Result<ModelRecord, ModelError> {
        self.visible(context, model_id).map(|entry| entry.record)
    }

    /// The bytes of a model's manifest, of Deprecated models too.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`]; [`ModelError::WrongStatus`] for a Pending model of somebody else.
    pub fn get_manifest(&self, context: &CallContext, model_id: &ModelId) -> Result<Vec<u8>, ModelError> {
        let entry = self.visible(context, model_id)?;
        Ok(self.bytes(entry.offset, entry.record.manifest_bytes))
    }

    /// A shard file. Active models serve everybody, Pending ones their uploader and admins, Deprecated ones nobody: an
    /// agent that holds all shards keeps its model, one that is still loading is told the reason.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`], [`ModelError::WrongStatus`], [`ModelError::ShardOutOfRange`],
    /// [`ModelError::ShardMissing`].
    pub fn get_shard(
        &self,
        context: &CallContext,
        model_id: &ModelId,
        index: u32,
    ) -> Result<Vec<u8>, ModelError> {
        let shard = self.served_shard(context, model_id, index)?;
        Ok(self.bytes(shard.offset, shard.bytes))
    }

    /// A part of a shard file, under the conditions of [`Self::get_shard`].
    ///
    /// # Errors
    /// As [`Self::get_shard`], and [`ModelError::InvalidField`] for a range that is not inside the shard.
    pub fn get_shard_chunk(
        &self,
        context: &CallContext,
        args: &GetShardChunkArgs,
    ) -> Result<Vec<u8>, ModelError> {
        let shard = self.served_shard(context, &args.model_id, args.index)?;
        let inside = args.offset.checked_add(args.length).is_some_and(|end| end <= shard.bytes);
        if !inside {
            let reason =
                format!("bytes {}..+{} are not inside the shard's {}", args.offset, args.length, shard.bytes);
            return Err(ModelError::InvalidField(FieldError::new("offset", reason)));
        }
        Ok(self.bytes(shard.offset + args.offset, args.length))
    }

    fn served_shard(
        &self,
        context: &CallContext,
        model_id: &ModelId,
        index: u32,
    ) -> Result<ShardEntry, ModelError> {
        let record = self.visible(context, model_id)?.record;
        if record.status != ModelStatus::Pending {
            require_status(&record, ModelOperation::Serve)?;
        }
        let (_, shard) = self.shard(&record, index)?;
        if shard.stored { Ok(shard) } else { Err(ModelError::ShardMissing { index }) }
    }

    fn entry(&self, model_id: &ModelId) -> Result<ModelEntry, ModelError> {
        let entry = self.models.get(model_id.as_bytes());
        entry.map(|entry| entry.0).ok_or(ModelError::UnknownModel { model_id: *model_id })
    }

    /// The model, if the caller may work on its upload.
    fn upload_of(&self, context: &CallContext, model_id: &ModelId) -> Result<ModelEntry, ModelError> {
        self.roles.require(context.caller, Role::Uploader)?;
        let entry = self.entry(model_id)?;
        self.require_uploader_of(context, &entry.record)?;
        Ok(entry)
    }

    fn require_uploader_of(&self, context: &CallContext, record: &ModelRecord) -> Result<(), ModelError> {
        if record.uploader == context.caller {
            Ok(())
        } else {
            self.roles.require(context.caller, Role::Admin)
        }
    }

    fn may_see(&self, context: &CallContext, record: &ModelRecord) -> bool {
        record.status != ModelStatus::Pending || self.require_uploader_of(context, record).is_ok()
    }

    fn visible(&self, context: &CallContext, model_id: &ModelId) -> Result<ModelEntry, ModelError> {
        let entry = self.entry(model_id)?;
        if self.may_see(context, &entry.record) {
            Ok(entry)
        } else {
            Err(ModelError::WrongStatus { status: entry.record.status, operation: ModelOperation::Serve })
        }
    }

    fn shard(&self, record: &ModelRecord, index: u32) -> Result<((IdKey, u32), ShardEntry), ModelError> {
        let key = (*record.model_id.as_bytes(), index);
        let shard =
            self.shards.get(&key).ok_or(ModelError::ShardOutOfRange { index, shards: record.shards })?;
        Ok((key, shard.0))
    }

    fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.region.read(offset, &mut bytes).expect("a stored manifest or shard lies inside the region");
        bytes
    }
}

fn require_status(record: &ModelRecord, operation: ModelOperation) -> Result<ModelStatus, ModelError> {
    record.status.after(operation).ok_or(ModelError::WrongStatus { status: record.status, operation })
}

fn upload_state(record: &ModelRecord) -> UploadState {
    UploadState {
        model_id: record.model_id,
        status: record.status,
        shards: record.shards,
        missing: record.missing,
        validated: record.validated_at_ns.is_some(),
    }
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
