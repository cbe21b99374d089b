//! The state of the canister, and what all of its rules share. The rules are in [`crate::uploads`], [`crate::validation`],
//! [`crate::governance`] and [`crate::catalogue`].
//!
//! A model occupies one extent of the byte region: its manifest, then its shards in order. The extent is reserved
//! when the upload begins and freed only by dropping a Pending model, so the bytes of an Active model have no path
//! that writes them.

use candid::Principal;
use canister_common::cbor::{Cbor, Extensible};
use canister_common::extents::Extents;
use canister_common::region::Region;
use ic_stable_structures::StableBTreeMap;
use serde::{Deserialize, Serialize};
use shared_types::lifecycle::{ModelOperation, ModelStatus};
use shared_types::model::{
    AuditEvent, ModelCanisterStatus, ModelError, ModelRecord, Policy, Role, RoleGrant, ValidationReport,
};
use shared_types::{Digest, FieldError, ModelId};

use crate::audit::AuditLog;
use crate::catalogue::CertifiedTree;
use crate::governance::Proposals;
use crate::guards::CallContext;
use crate::index::Index;
use crate::memory::{Memories, Memory};
use crate::roles::{Keys, Roles};
use crate::settings::Settings;
use crate::validation::Job;

/// A model id as a key.
pub(crate) type IdKey = [u8; 32];

/// Bytes of stable memory that may hold manifests and shards: what the Internet Computer allows a canister (500 GiB,
/// facts of November 2026), less a tenth for the tables.
pub const CAPACITY_BYTES: u64 = 450 << 30;

/// A model in the catalogue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ModelEntry {
    pub(crate) record: ModelRecord,
    /// Start of the model's extent: its manifest. The shards follow.
    pub(crate) offset: u64,
}

impl ModelEntry {
    pub(crate) fn extent_bytes(&self) -> u64 {
        self.record.manifest_bytes + self.record.bytes
    }
}

/// A shard of a model.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ShardEntry {
    /// Where the shard file starts in the region.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: Digest,
    pub(crate) stored: bool,
}

/// The state of the canister.
pub struct Repository {
    pub(crate) settings: Settings<Memory>,
    pub(crate) models: StableBTreeMap<IdKey, Extensible<ModelEntry>, Memory>,
    pub(crate) shards: StableBTreeMap<(IdKey, u32), Cbor<ShardEntry>, Memory>,
    /// Bytes that each uploader has reserved.
    pub(crate) usage: StableBTreeMap<Principal, u64, Memory>,
    /// Quotas of uploaders that have one of their own.
    pub(crate) quotas: StableBTreeMap<Principal, u64, Memory>,
    /// Pending models, with the time of the last work on each and its uploader.
    pub(crate) pending: StableBTreeMap<IdKey, (u64, Principal), Memory>,
    /// Models that were ever Active, by the hash of their name and their order, which is that of their versions.
    pub(crate) versions: StableBTreeMap<(IdKey, u32), IdKey, Memory>,
    /// Validations under way.
    pub(crate) validations: StableBTreeMap<IdKey, Cbor<Job>, Memory>,
    /// Reports of validations that have ended.
    pub(crate) reports: StableBTreeMap<IdKey, Cbor<ValidationReport>, Memory>,
    pub(crate) extents: Extents<Memory>,
    pub(crate) region: Region<Memory>,
    pub(crate) roles: Roles<Memory>,
    pub(crate) keys: Keys<Memory>,
    pub(crate) proposals: Proposals<Memory>,
    pub(crate) index: Index<Memory>,
    pub(crate) audit: AuditLog<Memory>,
    /// What is certified: a cache of the above.
    pub(crate) tree: CertifiedTree,
}

impl Repository {
    /// Opens what the memories hold.
    pub fn open(memories: Memories) -> Self {
        let mut repository = Self {
            settings: Settings::init(memories.settings),
            models: StableBTreeMap::init(memories.models),
            shards: StableBTreeMap::init(memories.shards),
            usage: StableBTreeMap::init(memories.usage),
            quotas: StableBTreeMap::init(memories.quotas),
            pending: StableBTreeMap::init(memories.pending),
            versions: StableBTreeMap::init(memories.versions),
            validations: StableBTreeMap::init(memories.validations),
            reports: StableBTreeMap::init(memories.reports),
            extents: Extents::init(memories.extents),
            region: Region::new(memories.bytes),
            roles: Roles::init(memories.roles),
            keys: Keys::init(memories.keys),
            proposals: Proposals::init(memories.proposals),
            index: Index::init(memories.repositories, memories.index),
            audit: AuditLog::init(memories.audit_index, memories.audit_data),
            tree: CertifiedTree::default(),
        };
        repository.certify_all();
        repository
    }

    /// Sets up a new repository.
    pub fn install(
        &mut self,
        context: &CallContext,
        admins: Vec<Principal>,
        owners: Vec<Principal>,
        policy: Policy,
    ) {
        self.settings.set_current_layout();
        self.settings.set_policy(policy);
        self.record(context, AuditEvent::Installed { admins: admins.clone() });
        for principal in admins {
            self.roles.grant(RoleGrant { principal, role: Role::Admin });
        }
        for principal in owners {
            let grant = RoleGrant { principal, role: Role::Owner };
            self.roles.grant(grant);
            self.record(context, AuditEvent::RoleGranted(grant));
        }
        if policy != Policy::default() {
            self.record(context, AuditEvent::PolicySet(policy));
        }
    }

    /// Appends to the audit log.
    pub fn record(&mut self, context: &CallContext, event: AuditEvent) {
        self.audit.record(context.now_ns, context.caller, event);
        self.tree.set_audit(self.audit.head());
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog<Memory> {
        &self.audit
    }

    /// The roles.
    pub fn roles(&self) -> &Roles<Memory> {
        &self.roles
    }

    /// The rules.
    pub fn policy(&self) -> Policy {
        self.settings.policy()
    }

    /// The index.
    pub fn index(&self) -> &Index<Memory> {
        &self.index
    }

    /// The repository for `bytes` more: the one with the most room, `this` being this one.
    ///
    /// # Errors
    /// [`ModelError::OutOfStorage`].
    pub fn place(&self, this: Principal, bytes: u64, now_ns: u64) -> Result<Principal, ModelError> {
        self.index.place((this, self.status().free_bytes), bytes, now_ns)
    }

    /// The repository that has a model, `this` being this one.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`].
    pub fn locate(&self, this: Principal, model_id: &ModelId) -> Result<Principal, ModelError> {
        if self.models.contains_key(model_id.as_bytes()) {
            return Ok(this);
        }
        self.index.locate(model_id).ok_or(ModelError::UnknownModel { model_id: *model_id })
    }

    /// Models of any status.
    pub fn models(&self) -> u64 {
        self.models.len()
    }

    /// Bytes reserved for manifests and shards.
    pub fn reserved_bytes(&self) -> u64 {
        self.usage.values().sum()
    }

    /// Counts and sizes; what the system knows (`stable_bytes`, `heap_bytes`, `cycles`) is left at 0.
    pub fn status(&self) -> ModelCanisterStatus {
        let (head, reserved_bytes) = (self.audit.head(), self.reserved_bytes());
        ModelCanisterStatus {
            version: crate::lifecycle::VERSION.to_owned(),
            layout: self.settings.layout(),
            models: self.models(),
            pending: self.pending.len(),
            validations: self.validations.len(),
            reserved_bytes,
            free_bytes: CAPACITY_BYTES.saturating_sub(reserved_bytes),
            stable_bytes: 0,
            heap_bytes: 0,
            open_proposals: self.proposals.open(),
            audit_entries: head.entries,
            audit_head: head.hash,
            cycles: 0,
        }
    }

    pub(crate) fn entry(&self, model_id: &ModelId) -> Result<Extensible<ModelEntry>, ModelError> {
        self.models.get(model_id.as_bytes()).ok_or(ModelError::UnknownModel { model_id: *model_id })
    }

    /// Stores a changed entry, and certifies it once the model is public.
    pub(crate) fn put_entry(&mut self, entry: Extensible<ModelEntry>) {
        if entry.record.status != ModelStatus::Pending {
            self.tree.set_model(&entry.record);
        }
        self.models.insert(*entry.record.model_id.as_bytes(), entry);
    }

    /// The model, if the caller may work on its upload.
    pub(crate) fn upload_of(
        &self,
        context: &CallContext,
        model_id: &ModelId,
    ) -> Result<Extensible<ModelEntry>, ModelError> {
        self.roles.require(context.caller, Role::Uploader)?;
        let entry = self.entry(model_id)?;
        self.require_uploader_of(context, &entry.record)?;
        Ok(entry)
    }

    pub(crate) fn require_uploader_of(
        &self,
        context: &CallContext,
        record: &ModelRecord,
    ) -> Result<(), ModelError> {
        if record.uploader == context.caller {
            Ok(())
        } else {
            self.roles.require(context.caller, Role::Admin)
        }
    }

    pub(crate) fn shard(
        &self,
        record: &ModelRecord,
        index: u32,
    ) -> Result<((IdKey, u32), ShardEntry), ModelError> {
        let key = (*record.model_id.as_bytes(), index);
        let shard =
            self.shards.get(&key).ok_or(ModelError::ShardOutOfRange { index, shards: record.shards })?;
        Ok((key, shard.0))
    }

    pub(crate) fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.region.read(offset, &mut bytes).expect("a stored manifest or shard lies inside the region");
        bytes
    }
}

pub(crate) fn require_status(
    record: &ModelRecord,
    operation: ModelOperation,
) -> Result<ModelStatus, ModelError> {
    record.status.after(operation).ok_or(ModelError::WrongStatus { status: record.status, operation })
}

/// The 32 bytes of a key, or the name of the argument that has another number of them.
pub(crate) fn key_bytes<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], ModelError> {
    bytes.try_into().map_err(|_| {
        ModelError::InvalidField(FieldError::new(field, format!("has {} bytes, not {N}", bytes.len())))
    })
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
