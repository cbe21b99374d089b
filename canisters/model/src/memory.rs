//! Table of contents of stable memory. An id is never given to another structure, retired ones included.

use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};

/// A part of stable memory.
pub type Memory = VirtualMemory<DefaultMemoryImpl>;

const MODELS: MemoryId = MemoryId::new(0);
const SHARDS: MemoryId = MemoryId::new(1);
const USAGE: MemoryId = MemoryId::new(2);
const EXTENTS: MemoryId = MemoryId::new(3);
const ROLES: MemoryId = MemoryId::new(4);
const AUDIT_INDEX: MemoryId = MemoryId::new(5);
const AUDIT_DATA: MemoryId = MemoryId::new(6);
/// Manifests and shards.
const BYTES: MemoryId = MemoryId::new(7);
// Since layout 2.
const SETTINGS: MemoryId = MemoryId::new(8);
const QUOTAS: MemoryId = MemoryId::new(9);
const PENDING: MemoryId = MemoryId::new(10);
const VERSIONS: MemoryId = MemoryId::new(11);
const VALIDATIONS: MemoryId = MemoryId::new(12);
const REPORTS: MemoryId = MemoryId::new(13);
const PROPOSALS: MemoryId = MemoryId::new(14);
const KEYS: MemoryId = MemoryId::new(15);
const REPOSITORIES: MemoryId = MemoryId::new(16);
const INDEX: MemoryId = MemoryId::new(17);

/// The memories of the canister.
pub struct Memories {
    /// Catalogue.
    pub models: Memory,
    /// Shards of all models.
    pub shards: Memory,
    /// Bytes reserved by each uploader.
    pub usage: Memory,
    /// Free extents of `bytes`.
    pub extents: Memory,
    /// Roles.
    pub roles: Memory,
    /// Offsets of the audit log's entries.
    pub audit_index: Memory,
    /// The audit log's entries.
    pub audit_data: Memory,
    /// Manifests and shards.
    pub bytes: Memory,
    /// Version of the layout, policy.
    pub settings: Memory,
    /// Quotas of uploaders that have one of their own.
    pub quotas: Memory,
    /// Pending models, with the time of the last work on each.
    pub pending: Memory,
    /// Versions of each name that were ever Active.
    pub versions: Memory,
    /// Validations under way.
    pub validations: Memory,
    /// Reports of validations that have ended.
    pub reports: Memory,
    /// Proposals.
    pub proposals: Memory,
    /// Signing keys.
    pub keys: Memory,
    /// Other repositories.
    pub repositories: Memory,
    /// Models of other repositories.
    pub index: Memory,
}

impl Memories {
    /// Divides `memory`.
    pub fn of(memory: DefaultMemoryImpl) -> Self {
        let manager = MemoryManager::init(memory);
        Self {
            models: manager.get(MODELS),
            shards: manager.get(SHARDS),
            usage: manager.get(USAGE),
            extents: manager.get(EXTENTS),
            roles: manager.get(ROLES),
            audit_index: manager.get(AUDIT_INDEX),
            audit_data: manager.get(AUDIT_DATA),
            bytes: manager.get(BYTES),
            settings: manager.get(SETTINGS),
            quotas: manager.get(QUOTAS),
            pending: manager.get(PENDING),
            versions: manager.get(VERSIONS),
            validations: manager.get(VALIDATIONS),
            reports: manager.get(REPORTS),
            proposals: manager.get(PROPOSALS),
            keys: manager.get(KEYS),
            repositories: manager.get(REPOSITORIES),
            index: manager.get(INDEX),
        }
    }
}
