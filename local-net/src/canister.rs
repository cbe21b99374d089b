//! A canister's state between messages.

use crate::{
    costs::Fees,
    execution::Instance,
    limits,
    memory::{self, Memory},
    module::CompiledModule,
    network::{Origin, SubnetIndex},
    reject::{ErrorCode, Reject},
    snapshot::Snapshot,
    state_dir,
    system_api::Environment,
};
use candid::Principal;
use ic_management_canister_types as types;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Installed code and its instance.
pub struct Code {
    /// The module.
    pub module: Arc<CompiledModule>,
    /// The running instance.
    pub instance: Instance,
}

/// Whether a canister takes messages.
#[derive(Serialize, Deserialize)]
pub enum Status {
    /// It does.
    Running,
    /// It finishes its open calls; these requests wait for that until the time beside them, in nanoseconds since 1970.
    Stopping(Vec<(Origin, u64)>),
    /// It does not.
    Stopped,
}

/// Who may read something of a canister, besides its controllers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visibility {
    /// Nobody.
    Controllers,
    /// Everybody.
    Public,
    /// These principals.
    Viewers(Vec<Principal>),
}

/// What `update_settings` can change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Who may manage the canister.
    #[serde(with = "state_dir::shared_slice")]
    pub controllers: Arc<[Principal]>,
    /// Guaranteed share of the subnet in percent; charged for, without effect on the order of messages.
    pub compute_allocation: u64,
    /// Reserved bytes; charged for when larger than the use.
    pub memory_allocation: u64,
    /// Seconds for which the balance must pay for storage.
    pub freezing_threshold: u64,
    /// Recorded, without effect: only full subnets reserve cycles.
    pub reserved_cycles_limit: u128,
    /// Cycles that a call of another canister must carry.
    pub minimum_incoming_canister_call_cycles: u128,
    /// Who may read the log, and see backtraces.
    pub log_visibility: Visibility,
    /// Bytes of the log; 0 for no log.
    pub log_memory_limit: u64,
    /// Who may list and read snapshots.
    pub snapshot_visibility: Visibility,
    /// Who may ask for the status.
    pub status_visibility: Visibility,
    /// Bytes of the heap after which an update traps; 0 for no limit.
    pub wasm_memory_limit: u64,
    /// Bytes of the heap that must be left so that `canister_on_low_wasm_memory` does not run.
    pub wasm_memory_threshold: u64,
    /// Names and values the canister can read, in the order of the names.
    #[serde(with = "state_dir::shared_slice")]
    pub variables: Arc<[(String, String)]>,
}

/// Whether `canister_on_low_wasm_memory` is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LowMemoryHook {
    /// Enough of the heap is left.
    #[default]
    NotSatisfied,
    /// It runs before the canister's next message.
    Ready,
    /// It ran since the memory became low; it runs again when enough was left in between.
    Executed,
}

impl LowMemoryHook {
    /// The state after memory, limit or threshold have changed.
    fn after(self, is_low: bool) -> Self {
        match (self, is_low) {
            (_, false) => Self::NotSatisfied,
            (Self::NotSatisfied, true) => Self::Ready,
            (state, true) => state,
        }
    }
}

/// What happened to a canister: the number of changes, and the newest [`limits::HISTORY`] of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    total: u64,
    changes: VecDeque<types::Change>,
}

impl History {
    /// Appends a change.
    fn push(&mut self, change: types::Change) {
        self.total += 1;
        self.changes.push_back(change);
        if self.changes.len() > limits::HISTORY {
            self.changes.pop_front();
        }
    }

    /// Drops all changes; their number stays.
    pub(crate) fn forget(&mut self) {
        self.changes.clear();
    }

    /// Number of changes since the canister was created.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The newest `count` changes, oldest first.
    pub fn newest(&self, count: u64) -> impl Iterator<Item = &types::Change> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.changes.iter().skip(self.changes.len().saturating_sub(count))
    }

    /// Bytes: the size of the records and of the principals in them.
    fn bytes(&self) -> usize {
        let principals = self.changes.iter().map(|change| match &change.details {
            Some(
                types::ChangeDetails::Creation(types::CreationRecord { controllers, .. })
                | types::ChangeDetails::ControllersChange(types::ControllersChangeRecord { controllers }),
            ) => controllers.len(),
            _ => 0,
        });
        self.changes.len() * size_of::<types::Change>() + principals.sum::<usize>() * size_of::<Principal>()
    }
}

/// Queries that a canister has executed (`query_stats`).
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct QueryStats {
    /// Number of queries.
    pub calls: u64,
    /// Instructions of all queries.
    pub instructions: u64,
    /// Bytes of all arguments.
    pub request_bytes: u64,
    /// Bytes of all replies and reject messages.
    pub response_bytes: u64,
}

/// Bytes that a canister uses, by purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryUsage {
    /// The heap.
    pub heap: u64,
    /// Stable memory.
    pub stable: u64,
    /// Globals that are mutable or exported.
    pub globals: u64,
    /// The module as it was installed.
    pub module: u64,
    /// The module's public and private metadata.
    pub metadata: u64,
    /// The history.
    pub history: u64,
    /// The chunk store; a chunk counts for [`limits::CHUNK_BYTES`].
    pub chunks: u64,
    /// All snapshots.
    pub snapshots: u64,
    /// The log.
    pub log: u64,
}

impl MemoryUsage {
    /// The sum.
    pub fn total(&self) -> u64 {
        let Self { heap, stable, globals, module, metadata, history, chunks, snapshots, log } = self;
        heap + stable + globals + module + metadata + history + chunks + snapshots + log
    }
}

/// One line of a canister's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRecord {
    /// Position since the canister was created.
    pub index: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The line's bytes.
    pub content: Vec<u8>,
}

/// Bytes that a record of the log counts for besides its content (`size_of` of the replica's record).
pub const RECORD_BYTES: usize = 40;

/// A canister's log: the newest records, together at most as many bytes as the setting `log_memory_limit` says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Log {
    records: VecDeque<LogRecord>,
    bytes: usize,
    next_index: u64,
}

impl Log {
    /// Appends a record; the oldest ones go when there are more than `limit` bytes. A limit of zero means no log.
    fn push(&mut self, time: u64, mut content: Vec<u8>, limit: usize) {
        let Some(room) = limit.checked_sub(RECORD_BYTES) else { return };
        content.truncate(room);
        self.bytes += RECORD_BYTES + content.len();
        self.records.push_back(LogRecord { index: self.next_index, time, content });
        self.next_index += 1;
        self.shrink(limit);
    }

    /// Drops the oldest records until there are at most `limit` bytes.
    pub(crate) fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            match self.records.pop_front() {
                Some(oldest) => self.bytes -= RECORD_BYTES + oldest.content.len(),
                None => break,
            }
        }
    }

    /// Bytes of all records, [`RECORD_BYTES`] for each included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops all records; the next one gets the next index.
    pub(crate) fn clear(&mut self) {
        self.shrink(0);
    }

    /// The records, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &LogRecord> {
        self.records.iter()
    }
}

/// A canister.
#[derive(Serialize, Deserialize)]
pub struct Canister {
    /// Its id.
    pub id: Principal,
    /// The number of its subnet.
    pub subnet: SubnetIndex,
    /// What its subnet charges.
    pub fees: Fees,
    /// Its settings.
    pub settings: Settings,
    /// Its code, if any.
    #[serde(skip)]
    pub code: Option<Code>,
    /// Its heap; empty without code.
    #[serde(with = "state_dir::memory_file")]
    pub heap: Arc<Memory>,
    /// Its stable memory.
    #[serde(with = "state_dir::memory_file")]
    pub stable: Arc<Memory>,
    /// Its certified data.
    pub certified_data: Vec<u8>,
    /// When the global timer fires, in nanoseconds since 1970; 0 for never.
    pub timer: u64,
    /// Its cycles.
    pub balance: u128,
    /// Counts changes of code, settings and status, and messages.
    pub version: u64,
    /// Whether it takes messages.
    pub status: Status,
    /// Its log.
    pub log: Log,
    /// Its chunk store, by SHA-256.
    pub chunks: BTreeMap<[u8; 32], Vec<u8>>,
    /// Calls that wait for a response, by callee.
    pub open_calls: BTreeMap<Principal, usize>,
    /// Calls to this canister that it has not finished.
    pub open_contexts: usize,
    /// Its history.
    pub history: History,
    /// Its snapshots, by the number in their ids.
    pub snapshots: BTreeMap<u64, Snapshot>,
    /// The number of the next snapshot.
    pub next_snapshot: u64,
    /// Whether the hook for low memory is due.
    pub low_memory_hook: LowMemoryHook,
    /// The queries it has executed.
    pub query_stats: QueryStats,
    /// Until when storage is paid, in nanoseconds since 1970.
    pub storage_paid_until: u64,
}

impl Canister {
    /// A new canister without code.
    ///
    /// # Errors
    /// When the system has no address space for its memories.
    pub fn new(
        id: Principal,
        (subnet, fees): (SubnetIndex, Fees),
        controllers: Vec<Principal>,
        balance: u128,
        time: u64,
    ) -> std::io::Result<Self> {
        Ok(Self {
            id,
            subnet,
            fees,
            settings: Settings {
                controllers: controllers.into(),
                compute_allocation: 0,
                memory_allocation: 0,
                freezing_threshold: limits::DEFAULT_FREEZING_THRESHOLD,
                reserved_cycles_limit: 5_000_000_000_000,
                minimum_incoming_canister_call_cycles: 0,
                log_visibility: Visibility::Controllers,
                log_memory_limit: limits::LOG_BYTES,
                snapshot_visibility: Visibility::Controllers,
                status_visibility: Visibility::Controllers,
                wasm_memory_limit: limits::DEFAULT_WASM_MEMORY_LIMIT,
                wasm_memory_threshold: 0,
                variables: Arc::new([]),
            },
            code: None,
            heap: memory::new_heap()?,
            stable: memory::new_stable()?,
            certified_data: Vec::new(),
            timer: 0,
            balance,
            version: 0,
            status: Status::Running,
            log: Log::default(),
            chunks: BTreeMap::new(),
            open_calls: BTreeMap::new(),
            open_contexts: 0,
            history: History::default(),
            snapshots: BTreeMap::new(),
            next_snapshot: 0,
            low_memory_hook: LowMemoryHook::default(),
            query_stats: QueryStats::default(),
            storage_paid_until: time,
        })
    }

    /// Bytes the canister uses, by purpose.
    pub fn memory(&self) -> MemoryUsage {
        let code = self.code.as_ref();
        MemoryUsage {
            heap: self.heap.len() as u64,
            stable: self.stable.len() as u64,
            globals: code.map_or(0, |c| size_of_val(c.instance.globals()) as u64),
            module: code.map_or(0, |c| c.module.wasm.len() as u64),
            metadata: code.map_or(0, |c| c.module.metadata_bytes()),
            history: self.history.bytes() as u64,
            chunks: (self.chunks.len() * limits::CHUNK_BYTES) as u64,
            snapshots: self.snapshots.values().map(Snapshot::bytes).sum(),
            log: self.log.bytes() as u64,
        }
    }

    /// Bytes the canister uses.
    pub fn memory_usage(&self) -> u64 {
        self.memory().total()
    }

    /// Appends a line to the log.
    pub fn write_log(&mut self, time: u64, line: Vec<u8>) {
        self.log.push(time, line, self.settings.log_memory_limit as usize);
    }

    /// Records a change in the history.
    pub fn record(&mut self, time: u64, origin: types::ChangeOrigin, details: types::ChangeDetails) {
        self.history.push(types::Change {
            timestamp_nanos: time,
            canister_version: self.version,
            origin,
            details: Some(details),
        });
    }

    /// Whether less of the heap is left than the setting `wasm_memory_threshold`.
    pub fn memory_is_low(&self) -> bool {
        let limit = match self.settings.wasm_memory_limit {
            0 => limits::HEAP_BYTES,
            limit => limit,
        };
        limit < (self.heap.len() as u64).saturating_add(self.settings.wasm_memory_threshold)
    }

    /// Notices that the heap, its limit or the threshold may have changed.
    pub fn update_low_memory_hook(&mut self) {
        self.low_memory_hook = self.low_memory_hook.after(self.memory_is_low());
    }

    /// Cycles that the canister's memory and compute allocation cost in `seconds`.
    pub fn idle_cycles(&self, seconds: u64) -> u128 {
        let bytes = self.memory_usage().max(self.settings.memory_allocation);
        self.fees.storage(bytes, seconds)
            + self.fees.compute_allocation(self.settings.compute_allocation, seconds)
    }

    /// Cycles below which the canister is frozen.
    pub fn freezing_limit(&self) -> u128 {
        self.idle_cycles(self.settings.freezing_threshold)
    }

    /// Checks that the balance covers `needed` cycles besides the freezing limit.
    ///
    /// # Errors
    /// `IC0207` when it does not.
    pub fn check_cycles(&self, needed: u128) -> Result<(), Reject> {
        let needed = needed + self.freezing_limit();
        if self.balance >= needed {
            return Ok(());
        }
        Err(Reject::new(
            ErrorCode::CanisterOutOfCycles,
            format!(
                "Canister {} is out of cycles: please top up the canister with at least {} additional cycles",
                self.id,
                needed - self.balance
            ),
        ))
    }

    /// Checks that the balance covers the freezing limit with `more` bytes added and `fewer` removed.
    ///
    /// # Errors
    /// `IC0532` when it does not, but only if the canister uses more memory then.
    pub fn check_memory(&self, more: u64, fewer: u64) -> Result<(), Reject> {
        let Some(bytes) = more.checked_sub(fewer).filter(|bytes| *bytes > 0) else { return Ok(()) };
        let growth = self.fees.storage(bytes, self.settings.freezing_threshold);
        let missing = (self.freezing_limit() + growth).saturating_sub(self.balance);
        if missing == 0 {
            return Ok(());
        }
        Err(Reject::new(
            ErrorCode::InsufficientCyclesInMemoryGrow,
            format!(
                "Canister cannot grow memory by {bytes} bytes due to insufficient cycles. At least {missing} additional \
                 cycles are required."
            ),
        ))
    }

    /// Whether `principal` is a controller.
    pub fn is_controlled_by(&self, principal: Principal) -> bool {
        self.settings.controllers.contains(&principal)
    }

    /// Whether `principal` may read what has this visibility.
    pub fn lets_read(&self, visibility: &Visibility, principal: Principal) -> bool {
        match visibility {
            Visibility::Public => true,
            Visibility::Viewers(viewers) if viewers.contains(&principal) => true,
            Visibility::Controllers | Visibility::Viewers(_) => self.is_controlled_by(principal),
        }
    }

    /// Whether it takes messages.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running)
    }

    /// The status as the management canister reports it.
    pub fn status_type(&self) -> types::CanisterStatusType {
        match self.status {
            Status::Running => types::CanisterStatusType::Running,
            Status::Stopping(_) => types::CanisterStatusType::Stopping,
            Status::Stopped => types::CanisterStatusType::Stopped,
        }
    }

    /// Checks that the canister takes messages.
    ///
    /// # Errors
    /// `IC0508` or `IC0509` when it does not.
    pub fn check_running(&self) -> Result<(), Reject> {
        match self.status {
            Status::Running => Ok(()),
            Status::Stopping(_) => {
                Err(Reject::new(ErrorCode::CanisterStopping, format!("Canister {} is stopping", self.id)))
            }
            Status::Stopped => {
                Err(Reject::new(ErrorCode::CanisterStopped, format!("Canister {} is stopped", self.id)))
            }
        }
    }

    /// What the canister sees of itself and the network.
    pub fn environment(&self, subnet: Principal, root_key: Arc<[u8]>, time: u64) -> Environment {
        Environment {
            canister: self.id,
            subnet,
            fees: self.fees,
            root_key,
            time,
            version: self.version,
            status: match self.status {
                Status::Running => 1,
                Status::Stopping(_) => 2,
                Status::Stopped => 3,
            },
            controllers: self.settings.controllers.clone(),
            variables: self.settings.variables.clone(),
            freezing_limit: self.freezing_limit(),
            open_calls: self.open_calls.clone(),
        }
    }
}
