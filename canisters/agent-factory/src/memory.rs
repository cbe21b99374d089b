//! Table of contents of stable memory. An id is never given to another structure, retired ones included.

use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};

/// A part of stable memory.
pub type Memory = VirtualMemory<DefaultMemoryImpl>;

const SETTINGS: MemoryId = MemoryId::new(0);
const TEMPLATES: MemoryId = MemoryId::new(1);
const EXTENTS: MemoryId = MemoryId::new(2);
const AGENTS: MemoryId = MemoryId::new(3);
const SPARES: MemoryId = MemoryId::new(4);
const JOURNAL_INDEX: MemoryId = MemoryId::new(5);
const JOURNAL_DATA: MemoryId = MemoryId::new(6);
/// Wasm modules.
const BYTES: MemoryId = MemoryId::new(7);

/// The memories of the canister.
pub struct Memories {
    /// Admins and limits.
    pub settings: Memory,
    /// Templates.
    pub templates: Memory,
    /// Free extents of `bytes`.
    pub extents: Memory,
    /// Agents of all owners.
    pub agents: Memory,
    /// Canisters without code.
    pub spares: Memory,
    /// Offsets of the journal's entries.
    pub journal_index: Memory,
    /// The journal's entries.
    pub journal_data: Memory,
    /// Wasm modules.
    pub bytes: Memory,
}

impl Memories {
    /// Divides `memory`.
    pub fn of(memory: DefaultMemoryImpl) -> Self {
        let manager = MemoryManager::init(memory);
        Self {
            settings: manager.get(SETTINGS),
            templates: manager.get(TEMPLATES),
            extents: manager.get(EXTENTS),
            agents: manager.get(AGENTS),
            spares: manager.get(SPARES),
            journal_index: manager.get(JOURNAL_INDEX),
            journal_data: manager.get(JOURNAL_DATA),
            bytes: manager.get(BYTES),
        }
    }
}
