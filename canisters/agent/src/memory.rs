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
const CHARACTER: MemoryId = MemoryId::new(17);
const FACTS: MemoryId = MemoryId::new(18);
const FACT_PLACES: MemoryId = MemoryId::new(19);
/// Vectors of facts, one after the other.
const FACT_VECTORS: MemoryId = MemoryId::new(20);
const FACT_POSTINGS: MemoryId = MemoryId::new(21);
const FACT_TOTALS: MemoryId = MemoryId::new(22);
const CONVERSATIONS: MemoryId = MemoryId::new(23);
const TURNS: MemoryId = MemoryId::new(24);
const TURN_KEYS: MemoryId = MemoryId::new(25);
const AWAITED: MemoryId = MemoryId::new(26);
const LEDGERS: MemoryId = MemoryId::new(27);
const PAYMENTS: MemoryId = MemoryId::new(28);
const OPEN_PAYMENTS: MemoryId = MemoryId::new(29);
const PAYMENT_KEYS: MemoryId = MemoryId::new(30);
const WALLET: MemoryId = MemoryId::new(31);
const QUOTA: MemoryId = MemoryId::new(32);

/// Wasm pages that a memory grows by: 1 MiB, so that the many small ones take little, which an agent pays for and has to set aside for
/// its freezing threshold. 32,768 buckets make 32 GiB. An agent that was installed with another size keeps it.
const BUCKET_PAGES: u16 = 16;

/// The memories of the canister.
pub struct Memories {
    /// Owner, model and limits.
    pub settings: Memory,
    /// Jobs, their queue and their receipts.
    pub jobs: JobMemories,
    /// Profile and phase.
    pub character: Memory,
    /// Facts.
    pub facts: FactMemories,
    /// Conversations.
    pub conversations: ConversationMemories,
    /// Ledgers and payments.
    pub wallet: WalletMemories,
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
    /// Reservations by job.
    pub quota: Memory,
    /// The receipts.
    pub receipts: ReceiptMemories,
}

/// The memories of the facts.
pub struct FactMemories {
    /// Facts by number.
    pub facts: Memory,
    /// Facts by the places of their vectors.
    pub places: Memory,
    /// Vectors.
    pub vectors: Memory,
    /// Words and the facts that they are in.
    pub postings: Memory,
    /// Sums over all facts.
    pub totals: Memory,
}

/// The memories of the conversations.
pub struct ConversationMemories {
    /// Conversations by name.
    pub conversations: Memory,
    /// Turns by conversation and position.
    pub turns: Memory,
    /// Turns by conversation and key.
    pub keys: Memory,
    /// Conversations by the jobs that they wait for.
    pub awaited: Memory,
}

/// The memories of the wallet.
pub struct WalletMemories {
    /// Ledgers.
    pub ledgers: Memory,
    /// Payments by number.
    pub payments: Memory,
    /// Payments that have not ended.
    pub open_payments: Memory,
    /// Payments by caller and key.
    pub payment_keys: Memory,
    /// The number given last, and the key.
    pub wallet: Memory,
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
        let manager = MemoryManager::init_with_bucket_size(memory, BUCKET_PAGES);
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
                quota: manager.get(QUOTA),
                receipts: ReceiptMemories {
                    receipts: manager.get(RECEIPTS),
                    head: manager.get(RECEIPT_HEAD),
                },
            },
            character: manager.get(CHARACTER),
            facts: FactMemories {
                facts: manager.get(FACTS),
                places: manager.get(FACT_PLACES),
                vectors: manager.get(FACT_VECTORS),
                postings: manager.get(FACT_POSTINGS),
                totals: manager.get(FACT_TOTALS),
            },
            conversations: ConversationMemories {
                conversations: manager.get(CONVERSATIONS),
                turns: manager.get(TURNS),
                keys: manager.get(TURN_KEYS),
                awaited: manager.get(AWAITED),
            },
            wallet: WalletMemories {
                ledgers: manager.get(LEDGERS),
                payments: manager.get(PAYMENTS),
                open_payments: manager.get(OPEN_PAYMENTS),
                payment_keys: manager.get(PAYMENT_KEYS),
                wallet: manager.get(WALLET),
            },
            load: manager.get(LOAD),
            stored_shards: manager.get(STORED_SHARDS),
            manifest: manager.get(MANIFEST),
            shards: manager.get(SHARDS),
        }
    }
}
