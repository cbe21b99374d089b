//! Table of contents of stable memory. An id is never given to another structure, retired ones included.

use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};

/// A part of stable memory.
pub type Memory = VirtualMemory<DefaultMemoryImpl>;

const SETTINGS: MemoryId = MemoryId::new(0);
const JOBS: MemoryId = MemoryId::new(1);
const OPEN_JOBS: MemoryId = MemoryId::new(2);
const PROMPTS: MemoryId = MemoryId::new(3);
const TOKENS: MemoryId = MemoryId::new(4);
const KEYS: MemoryId = MemoryId::new(5);
const LAST_JOB: MemoryId = MemoryId::new(6);
const LOAD: MemoryId = MemoryId::new(7);
const STORED_SHARDS: MemoryId = MemoryId::new(8);
const MANIFEST: MemoryId = MemoryId::new(9);
/// Shard files: last, since it grows most.
const SHARDS: MemoryId = MemoryId::new(10);
const MESSAGES: MemoryId = MemoryId::new(11);

/// The memories of the canister.
pub struct Memories {
    /// Owner, model and limits.
    pub settings: Memory,
    /// Jobs by number.
    pub jobs: Memory,
    /// Numbers of the jobs that wait or run.
    pub open_jobs: Memory,
    /// Prompts by job.
    pub prompts: Memory,
    /// Conversations by job, of jobs that have one in place of a prompt.
    pub messages: Memory,
    /// Tokens by job and position.
    pub tokens: Memory,
    /// Jobs by idempotency key.
    pub keys: Memory,
    /// The number given last.
    pub last_job: Memory,
    /// How far the model is loaded.
    pub load: Memory,
    /// Shards that are in `shards`, checked.
    pub stored_shards: Memory,
    /// The model's manifest.
    pub manifest: Memory,
    /// The model's shard files, one after the other.
    pub shards: Memory,
}

impl Memories {
    /// Divides `memory`.
    pub fn of(memory: DefaultMemoryImpl) -> Self {
        let manager = MemoryManager::init(memory);
        Self {
            settings: manager.get(SETTINGS),
            jobs: manager.get(JOBS),
            open_jobs: manager.get(OPEN_JOBS),
            prompts: manager.get(PROMPTS),
            messages: manager.get(MESSAGES),
            tokens: manager.get(TOKENS),
            keys: manager.get(KEYS),
            last_job: manager.get(LAST_JOB),
            load: manager.get(LOAD),
            stored_shards: manager.get(STORED_SHARDS),
            manifest: manager.get(MANIFEST),
            shards: manager.get(SHARDS),
        }
    }
}
