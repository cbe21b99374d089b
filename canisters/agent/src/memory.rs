//! Table of contents of stable memory. An id is never given to another structure, retired ones included.

use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};

/// A part of stable memory.
pub type Memory = VirtualMemory<DefaultMemoryImpl>;

const SETTINGS: MemoryId = MemoryId::new(0);
const JOBS: MemoryId = MemoryId::new(1);
/// Retired: what it holds is moved to `WAITING` when it is opened.
const OPEN_JOBS: MemoryId = MemoryId::new(2);
const PROMPTS: MemoryId = MemoryId::new(3);
const TOKENS: MemoryId = MemoryId::new(4);
const KEYS: MemoryId = MemoryId::new(5);
const LAST_JOB: MemoryId = MemoryId::new(6);
const LOAD: MemoryId = MemoryId::new(7);
const STORED_SHARDS: MemoryId = MemoryId::new(8);
const MANIFEST: MemoryId = MemoryId::new(9);
/// Shard files: they grow most.
const SHARDS: MemoryId = MemoryId::new(10);
const MESSAGES: MemoryId = MemoryId::new(11);
const WAITING: MemoryId = MemoryId::new(12);
const QUEUE: MemoryId = MemoryId::new(13);
const ANSWERS: MemoryId = MemoryId::new(14);
const RECEIPTS: MemoryId = MemoryId::new(15);
const RECEIPT_HEAD: MemoryId = MemoryId::new(16);

/// The memories of the canister.
pub struct Memories {
    /// Owner, model and limits.
    pub settings: Memory,
    /// Jobs, their queue and their receipts.
    pub jobs: JobMemories,
    /// How far the model is loaded.
    pub load: Memory,
    /// Shards that are in `shards`, checked.
    pub stored_shards: Memory,
    /// The model's manifest.
    pub manifest: Memory,
    /// The model's shard files, one after the other.
    pub shards: Memory,
}

/// The memories of the jobs.
pub struct JobMemories {
    /// Jobs by number.
    pub jobs: Memory,
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
    /// Jobs by what was asked, of those whose answer may be given again.
    pub answers: Memory,
    /// The queue.
    pub queue: QueueMemories,
    /// The receipts.
    pub receipts: ReceiptMemories,
}

/// The memories of the queue.
pub struct QueueMemories {
    /// Numbers of the jobs that wait or run, as earlier versions kept them.
    pub open_jobs: Memory,
    /// The jobs that wait or run.
    pub waiting: Memory,
    /// Whose turn it is.
    pub state: Memory,
}

/// The memories of the receipts.
pub struct ReceiptMemories {
    /// Receipts by number.
    pub receipts: Memory,
    /// The head of the chain.
    pub head: Memory,
}

impl Memories {
    /// Divides `memory`.
    pub fn of(memory: DefaultMemoryImpl) -> Self {
        let manager = MemoryManager::init(memory);
        Self {
            settings: manager.get(SETTINGS),
            jobs: JobMemories {
                jobs: manager.get(JOBS),
                prompts: manager.get(PROMPTS),
                messages: manager.get(MESSAGES),
                tokens: manager.get(TOKENS),
                keys: manager.get(KEYS),
                last_job: manager.get(LAST_JOB),
                answers: manager.get(ANSWERS),
                queue: QueueMemories {
                    open_jobs: manager.get(OPEN_JOBS),
                    waiting: manager.get(WAITING),
                    state: manager.get(QUEUE),
                },
                receipts: ReceiptMemories {
                    receipts: manager.get(RECEIPTS),
                    head: manager.get(RECEIPT_HEAD),
                },
            },
            load: manager.get(LOAD),
            stored_shards: manager.get(STORED_SHARDS),
            manifest: manager.get(MANIFEST),
            shards: manager.get(SHARDS),
        }
    }
}
