//! A canister's state between messages.

use crate::{
    costs::Fees,
    execution::Instance,
    limits,
    memory::{self, Memory},
    module::CompiledModule,
    network::{Origin, SubnetIndex},
    reject::{ErrorCode, Reject},
    system_api::Environment,
};
use candid::Principal;
use ic_management_canister_types::{CanisterStatusType, LogVisibility};
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
pub enum Status {
    /// It does.
    Running,
    /// It finishes its open calls; these requests wait for that.
    Stopping(Vec<Origin>),
    /// It does not.
    Stopped,
}

/// What `update_settings` can change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may manage the canister.
    pub controllers: Arc<[Principal]>,
    /// Guaranteed share of the subnet in percent; recorded, without effect.
    pub compute_allocation: u64,
    /// Reserved bytes; recorded, and charged for when larger than the use.
    pub memory_allocation: u64,
    /// Seconds for which the balance must pay for storage.
    pub freezing_threshold: u64,
    /// Recorded, without effect.
    pub reserved_cycles_limit: u128,
    /// Who may read the log.
    pub log_visibility: LogVisibility,
    /// Bytes of the heap after which an update traps; 0 for no limit.
    pub wasm_memory_limit: u64,
    /// Recorded, without effect.
    pub wasm_memory_threshold: u64,
    /// Names and values the canister can read.
    pub variables: Arc<[(String, String)]>,
}

/// One line of a canister's log.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Position since the canister was created.
    pub index: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The line's bytes.
    pub content: Vec<u8>,
}

/// A canister's log: the newest records, together at most [`limits::LOG_BYTES`].
#[derive(Debug, Default)]
pub struct Log {
    records: VecDeque<LogRecord>,
    bytes: usize,
    next_index: u64,
}

impl Log {
    /// Appends a record; the oldest ones go when there is no room.
    pub fn push(&mut self, time: u64, mut content: Vec<u8>) {
        content.truncate(limits::LOG_BYTES);
        self.bytes += content.len();
        self.records.push_back(LogRecord { index: self.next_index, time, content });
        self.next_index += 1;
        while self.bytes > limits::LOG_BYTES {
            match self.records.pop_front() {
                Some(oldest) => self.bytes -= oldest.content.len(),
                None => break,
            }
        }
    }

    /// The records, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &LogRecord> {
        self.records.iter()
    }
}

/// A canister.
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
    pub code: Option<Code>,
    /// Its heap; empty without code.
    pub heap: Arc<Memory>,
    /// Its stable memory.
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
    /// Changes of code and controllers since creation.
    pub total_changes: u64,
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
                log_visibility: LogVisibility::Controllers,
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
            total_changes: 1,
            storage_paid_until: time,
        })
    }

    /// Bytes the canister pays for.
    pub fn memory_usage(&self) -> u64 {
        let module = self.code.as_ref().map_or(0, |c| c.module.bytes);
        let chunks: usize = self.chunks.values().map(Vec::len).sum();
        (self.heap.len() + self.stable.len() + chunks) as u64 + module
    }

    /// Cycles below which the canister is frozen.
    pub fn freezing_limit(&self) -> u128 {
        let bytes = self.memory_usage().max(self.settings.memory_allocation);
        self.fees.storage(bytes, self.settings.freezing_threshold)
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

    /// Whether `principal` is a controller.
    pub fn is_controlled_by(&self, principal: Principal) -> bool {
        self.settings.controllers.contains(&principal)
    }

    /// Whether it takes messages.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running)
    }

    /// The status as the management canister reports it.
    pub fn status_type(&self) -> CanisterStatusType {
        match self.status {
            Status::Running => CanisterStatusType::Running,
            Status::Stopping(_) => CanisterStatusType::Stopping,
            Status::Stopped => CanisterStatusType::Stopped,
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
