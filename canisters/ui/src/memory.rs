//! Table of contents of stable memory. An id is never given to another structure, retired ones included.

use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};

/// A part of stable memory.
pub type Memory = VirtualMemory<DefaultMemoryImpl>;

const ROLES: MemoryId = MemoryId::new(0);
const CONFIG: MemoryId = MemoryId::new(1);
const BATCHES: MemoryId = MemoryId::new(2);
const PUBLISHED: MemoryId = MemoryId::new(3);
const PUBLICATION_INDEX: MemoryId = MemoryId::new(4);
const PUBLICATION_DATA: MemoryId = MemoryId::new(5);
const CONTENTS: MemoryId = MemoryId::new(6);
const EXTENTS: MemoryId = MemoryId::new(7);
/// Contents of files: last, since it grows most.
const BYTES: MemoryId = MemoryId::new(8);

/// The memories of the canister.
pub struct Memories {
    /// Roles.
    pub roles: Memory,
    /// What the pages get to know.
    pub config: Memory,
    /// Batches on their way.
    pub batches: Memory,
    /// The files that are published.
    pub published: Memory,
    /// Offsets of the publications.
    pub publication_index: Memory,
    /// The publications.
    pub publication_data: Memory,
    /// Contents by hash.
    pub contents: Memory,
    /// Free extents of `bytes`.
    pub extents: Memory,
    /// Contents of files.
    pub bytes: Memory,
}

impl Memories {
    /// Divides `memory`.
    pub fn of(memory: DefaultMemoryImpl) -> Self {
        let manager = MemoryManager::init(memory);
        Self {
            roles: manager.get(ROLES),
            config: manager.get(CONFIG),
            batches: manager.get(BATCHES),
            published: manager.get(PUBLISHED),
            publication_index: manager.get(PUBLICATION_INDEX),
            publication_data: manager.get(PUBLICATION_DATA),
            contents: manager.get(CONTENTS),
            extents: manager.get(EXTENTS),
            bytes: manager.get(BYTES),
        }
    }
}
