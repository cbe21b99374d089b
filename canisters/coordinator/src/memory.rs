//! Table of contents of stable memory. An id is never given to another structure, retired ones included.

use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};

/// A part of stable memory.
pub type Memory = VirtualMemory<DefaultMemoryImpl>;

const SETTINGS: MemoryId = MemoryId::new(0);
const EVENTS: MemoryId = MemoryId::new(1);
const SNAPSHOTS: MemoryId = MemoryId::new(2);
const ACTIVE: MemoryId = MemoryId::new(3);
const CANISTERS: MemoryId = MemoryId::new(4);
const OWNERS: MemoryId = MemoryId::new(5);

/// The memories of the canister.
pub struct Memories {
    /// What the canister was installed with.
    pub settings: Memory,
    /// The workspaces.
    pub store: StoreMemories,
}

/// The memories of the workspaces.
pub struct StoreMemories {
    /// Events by owner and sequence number: the truth.
    pub events: Memory,
    /// Workspaces as they were at some event.
    pub snapshots: Memory,
    /// Owners whose workspaces have something to do.
    pub active: Memory,
    /// Owners of workspaces.
    pub owners: Memory,
    /// Whose agent a canister is.
    pub canisters: Memory,
}

impl Memories {
    /// Divides `memory`.
    pub fn of(memory: DefaultMemoryImpl) -> Self {
        let manager = MemoryManager::init(memory);
        Self {
            settings: manager.get(SETTINGS),
            store: StoreMemories {
                events: manager.get(EVENTS),
                snapshots: manager.get(SNAPSHOTS),
                active: manager.get(ACTIVE),
                owners: manager.get(OWNERS),
                canisters: manager.get(CANISTERS),
            },
        }
    }
}
