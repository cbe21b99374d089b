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
const UNFINISHED: MemoryId = MemoryId::new(8);
const POOL: MemoryId = MemoryId::new(9);
const ROLLOUT: MemoryId = MemoryId::new(10);
const UPGRADES: MemoryId = MemoryId::new(11);

/// The memories of the agents.
pub struct AgentMemories {
    /// Agents of all owners.
    pub agents: Memory,
    /// Canisters without code.
    pub spares: Memory,
    /// Agents that something is to be done for though nobody asks.
    pub unfinished: Memory,
    /// Creations for the pool that were begun and not heard of.
    pub pool: Memory,
    /// Offsets of the journal's entries.
    pub journal_index: Memory,
    /// The journal's entries.
    pub journal_data: Memory,
}

/// The memories of the canister.
pub struct Memories {
    /// Admins and limits.
    pub settings: Memory,
    /// Templates.
    pub templates: Memory,
    /// Free extents of `bytes`.
    pub extents: Memory,
    /// Agents, spare canisters and the journal.
    pub agents: AgentMemories,
    /// The latest rollout.
    pub rollout: Memory,
    /// Its upgrades by canister.
    pub upgrades: Memory,
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
            agents: AgentMemories {
                agents: manager.get(AGENTS),
                spares: manager.get(SPARES),
                unfinished: manager.get(UNFINISHED),
                pool: manager.get(POOL),
                journal_index: manager.get(JOURNAL_INDEX),
                journal_data: manager.get(JOURNAL_DATA),
            },
            rollout: manager.get(ROLLOUT),
            upgrades: manager.get(UPGRADES),
            bytes: manager.get(BYTES),
        }
    }
}
