//! Snapshots of canisters: everything that makes up a canister's state between messages, except cycles, settings and log.

use crate::{
    canister::LowMemoryHook,
    execution::GlobalValue,
    limits,
    memory::{self, Memory},
    state_dir,
};
use candid::Principal;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, sync::Arc};

/// Where a snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// `take_canister_snapshot`.
    Canister,
    /// `upload_canister_snapshot_metadata`.
    Upload,
}

/// A snapshot.
#[derive(Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it comes from.
    pub source: Source,
    /// When it was made, in nanoseconds since 1970.
    pub taken_at: u64,
    /// The canister's version then.
    pub canister_version: u64,
    /// The module as it was installed.
    #[serde(with = "serde_bytes")]
    pub module: Vec<u8>,
    /// The globals that are mutable or exported, by index.
    pub globals: Vec<GlobalValue>,
    /// The heap.
    #[serde(with = "state_dir::memory_file")]
    pub heap: Arc<Memory>,
    /// Stable memory.
    #[serde(with = "state_dir::memory_file")]
    pub stable: Arc<Memory>,
    /// The chunk store, by SHA-256.
    pub chunks: BTreeMap<[u8; 32], Vec<u8>>,
    /// The certified data.
    pub certified_data: Vec<u8>,
    /// The global timer, in nanoseconds since 1970 and 0 for none; nothing when the upload left it out.
    pub timer: Option<u64>,
    /// The hook for low memory; nothing when the upload left it out.
    pub low_memory_hook: Option<LowMemoryHook>,
}

impl Snapshot {
    /// Bytes the snapshot uses.
    pub fn bytes(&self) -> u64 {
        let parts = [
            self.module.len(),
            size_of_val(&self.globals[..]),
            self.heap.len(),
            self.stable.len(),
            self.chunks.len() * limits::CHUNK_BYTES,
            self.certified_data.len(),
        ];
        parts.into_iter().sum::<usize>() as u64
    }
}

/// A copy of `memory` that cannot grow.
///
/// # Errors
/// When the system has no memory left.
pub fn copy(memory: &Memory) -> io::Result<Arc<Memory>> {
    let copy = Memory::new(memory.len())?;
    copy.copy_from(memory)?;
    Ok(copy)
}

/// A heap and a stable memory with the content of a snapshot's.
///
/// # Errors
/// When the system has no memory left.
pub fn restore(snapshot: &Snapshot) -> io::Result<(Arc<Memory>, Arc<Memory>)> {
    let (heap, stable) = (memory::new_heap()?, memory::new_stable()?);
    heap.copy_from(&snapshot.heap)?;
    stable.copy_from(&snapshot.stable)?;
    Ok((heap, stable))
}

/// The id of the snapshot with this number: the number and the canister's id.
pub fn id(canister: Principal, number: u64) -> Vec<u8> {
    [&number.to_be_bytes()[..], canister.as_slice()].concat()
}

/// The canister and the number in a snapshot's id; `None` when it is no such id.
pub fn parse_id(id: &[u8]) -> Option<(Principal, u64)> {
    let (number, canister) = id.split_first_chunk()?;
    Some((Principal::try_from_slice(canister).ok()?, u64::from_be_bytes(*number)))
}

/// A memory of `bytes` zeros that cannot grow.
///
/// # Errors
/// When the system has no memory left.
pub fn zeros(bytes: usize) -> io::Result<Arc<Memory>> {
    let memory = Memory::new(bytes)?;
    if !memory.grow(bytes) {
        return Err(io::Error::from(io::ErrorKind::OutOfMemory));
    }
    memory.commit(&memory.scan())?;
    Ok(memory)
}
