//! Taking, loading, listing, deleting, downloading and uploading snapshots.

use super::{Sender, decode, empty_reply, encode};
use crate::{
    canister::{Canister, Code},
    costs::WASM_PAGE,
    execution::{GlobalValue, Instance},
    limits, module,
    network::Network,
    reject::{ErrorCode, Reject, Response},
    snapshot::{self, Snapshot, Source},
    system_api::{EntryPoint, Message},
};
use candid::{Nat, Principal, Reserved};
use ic_management_canister_types as types;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, io};

/// Instructions of taking or loading a snapshot besides one per byte (`subnet_config.rs` of the replica).
const BASELINE_INSTRUCTIONS: u64 = 2_000_000_000;
/// Instructions of reading or writing a part of a snapshot besides one per byte.
const DATA_BASELINE_INSTRUCTIONS: u64 = 5_000_000;

impl From<GlobalValue> for types::SnapshotMetadataGlobal {
    fn from(value: GlobalValue) -> Self {
        match value {
            GlobalValue::I32(value) => Self::I32(value),
            GlobalValue::I64(value) => Self::I64(value),
            GlobalValue::F32(bits) => Self::F32(f32::from_bits(bits)),
            GlobalValue::F64(bits) => Self::F64(f64::from_bits(bits)),
            GlobalValue::V128(value) => Self::V128(Nat::from(value)),
        }
    }
}

fn global_value(value: types::SnapshotMetadataGlobal) -> Result<GlobalValue, Reject> {
    Ok(match value {
        types::SnapshotMetadataGlobal::I32(value) => GlobalValue::I32(value),
        types::SnapshotMetadataGlobal::I64(value) => GlobalValue::I64(value),
        types::SnapshotMetadataGlobal::F32(value) => GlobalValue::F32(value.to_bits()),
        types::SnapshotMetadataGlobal::F64(value) => GlobalValue::F64(value.to_bits()),
        types::SnapshotMetadataGlobal::V128(value) => GlobalValue::V128(
            u128::try_from(&value.0).map_err(|_| Reject::bad_payload("globals: a v128 exceeds 128 bits"))?,
        ),
    })
}

fn candid_source(source: Source) -> types::SnapshotSource {
    match source {
        Source::Canister => types::SnapshotSource::TakenFromCanister(Reserved),
        Source::Upload => types::SnapshotSource::MetadataUpload(Reserved),
    }
}

fn not_found(canister: Principal, id: &[u8]) -> Reject {
    Reject::new(
        ErrorCode::CanisterSnapshotNotFound,
        format!("Could not find the snapshot ID {} for canister {canister}.", hex::encode(id)),
    )
}

fn rejected(text: String) -> Reject {
    Reject::new(ErrorCode::CanisterRejectedMessage, text)
}

fn out_of_memory(error: &io::Error) -> Reject {
    Reject::new(ErrorCode::CanisterOutOfMemory, error.to_string())
}

/// `bytes[offset..offset + size]`, if it is inside.
fn slice(bytes: Option<&[u8]>, offset: u64, size: u64) -> Result<Vec<u8>, Reject> {
    if size > limits::SNAPSHOT_SLICE_BYTES {
        return Err(Reject::bad_payload(format!(
            "Requested slice too large: {size} > {}",
            limits::SNAPSHOT_SLICE_BYTES
        )));
    }
    let range = offset.checked_add(size).map(|end| offset as usize..end as usize);
    let part = bytes.zip(range).and_then(|(bytes, range)| bytes.get(range));
    part.map(<[u8]>::to_vec).ok_or_else(|| invalid_slice(offset, size))
}

fn invalid_slice(offset: u64, size: u64) -> Reject {
    Reject::bad_payload(format!(
        "Invalid subslice into wasm module / main memory / stable memory: offset: {offset}, size: {size}"
    ))
}

impl Canister {
    /// The number of its snapshot with this id.
    fn snapshot_number(&self, id: &[u8]) -> Result<u64, Reject> {
        match snapshot::parse_id(id) {
            Some((owner, number)) if owner == self.id && self.snapshots.contains_key(&number) => Ok(number),
            Some((owner, _)) if owner != self.id => Err(rejected(format!(
                "The snapshot {} does not belong to canister {}.",
                hex::encode(id),
                self.id
            ))),
            _ => Err(not_found(self.id, id)),
        }
    }

    /// Its snapshot with this id.
    fn snapshot(&self, id: &[u8]) -> Result<&Snapshot, Reject> {
        let number = self.snapshot_number(id)?;
        self.snapshots.get(&number).ok_or_else(|| not_found(self.id, id))
    }

    /// Checks that there is room for a snapshot of `bytes` that replaces another one; the other one's number.
    fn check_snapshot(&self, bytes: u64, replaced: Option<&[u8]>, freed: u64) -> Result<Option<u64>, Reject> {
        let replaced = replaced.map(|id| self.snapshot_number(id)).transpose()?;
        if replaced.is_none() && self.snapshots.len() >= limits::SNAPSHOTS {
            return Err(rejected(format!(
                "Canister {} has reached the maximum number of snapshots allowed: {}.",
                self.id,
                limits::SNAPSHOTS
            )));
        }
        let old = replaced.and_then(|number| self.snapshots.get(&number)).map_or(0, Snapshot::bytes);
        self.check_memory(bytes, old + freed)?;
        Ok(replaced)
    }

    /// Adds a snapshot in place of `replaced`; its number.
    fn add_snapshot(&mut self, snapshot: Snapshot, replaced: Option<u64>) -> u64 {
        if let Some(replaced) = replaced {
            self.snapshots.remove(&replaced);
        }
        let number = self.next_snapshot;
        self.next_snapshot += 1;
        self.snapshots.insert(number, snapshot);
        number
    }

    fn check_snapshot_reader(&self, caller: Principal) -> Result<(), Reject> {
        if self.lets_read(&self.settings.snapshot_visibility, caller) {
            return Ok(());
        }
        Err(Reject::new(
            ErrorCode::CanisterInvalidController,
            format!("Caller {caller} is not allowed to access the snapshots of canister {}", self.id),
        ))
    }

    /// A snapshot of the present state.
    fn take_snapshot(&self, time: u64) -> Result<Snapshot, Reject> {
        let code = self
            .code
            .as_ref()
            .ok_or_else(|| rejected(format!("Failed to create snapshot for empty canister {}", self.id)))?;
        Ok(Snapshot {
            source: Source::Canister,
            taken_at: time,
            canister_version: self.version,
            module: code.module.wasm.clone(),
            globals: code.instance.globals().to_vec(),
            heap: snapshot::copy(&self.heap).map_err(|e| out_of_memory(&e))?,
            stable: snapshot::copy(&self.stable).map_err(|e| out_of_memory(&e))?,
            chunks: self.chunks.clone(),
            certified_data: self.certified_data.clone(),
            timer: Some(self.timer),
            low_memory_hook: Some(self.low_memory_hook),
        })
    }
}

fn describe(canister: Principal, number: u64, snapshot: &Snapshot) -> types::Snapshot {
    types::Snapshot {
        id: snapshot::id(canister, number),
        taken_at_timestamp: snapshot.taken_at,
        total_size: snapshot.bytes(),
    }
}

impl Network {
    pub(super) fn take_canister_snapshot(&mut self, sender: Sender, argument: &[u8]) -> Response {
        let args: types::TakeCanisterSnapshotArgs = decode(argument)?;
        let (id, time) = (args.canister_id, self.time());
        let canister = self.controlled(id, sender.id, "take_canister_snapshot")?;
        let uninstalls = args.uninstall_code == Some(true);
        let memory = canister.memory();
        let bytes = memory.heap
            + memory.stable
            + memory.globals
            + memory.module
            + memory.chunks
            + canister.certified_data.len() as u64;
        let freed = if uninstalls { memory.total() - memory.history - memory.snapshots } else { 0 };
        let replaced = canister.check_snapshot(bytes, args.replace_snapshot.as_deref(), freed)?;
        let snapshot = canister.take_snapshot(time)?;
        canister.pay_instructions(BASELINE_INSTRUCTIONS + bytes)?;
        let number = canister.add_snapshot(snapshot, replaced);
        let reply = encode(describe(id, number, &canister.snapshots[&number]))?;
        if uninstalls {
            self.uninstall_for(id, sender.origin(args.sender_canister_version));
        }
        Ok(reply)
    }

    pub(super) fn load_canister_snapshot(&mut self, sender: Sender, argument: &[u8]) -> Response {
        let args: types::LoadCanisterSnapshotArgs = decode(argument)?;
        let (id, time) = (args.canister_id, self.time());
        let subnet = self.controlled(id, sender.id, "load_canister_snapshot")?.subnet;
        let missing = || not_found(id, &args.snapshot_id);
        let (owner, number) = snapshot::parse_id(&args.snapshot_id).ok_or_else(missing)?;
        let source = self.canisters.get(&owner).filter(|c| c.subnet == subnet).ok_or_else(missing)?;
        let snapshot = source.snapshots.get(&number).ok_or_else(missing)?.clone();
        if !source.is_controlled_by(sender.id) {
            return Err(rejected(format!(
                "Only a controller of the canister that snapshot {} belongs to can load it on canister {id}. Sender: {}.",
                hex::encode(&args.snapshot_id),
                sender.id
            )));
        }
        let environment = self.environment(id).ok_or_else(|| Reject::canister_not_found(id))?;
        let canister = self.canister_mut(id)?;
        let memory = canister.memory();
        let before = memory.total() - memory.history - memory.snapshots - memory.log;
        canister.check_memory(snapshot.bytes(), before)?;
        canister.check_cycles(canister.fees.execution(BASELINE_INSTRUCTIONS + snapshot.bytes()))?;
        let module = module::compile(&snapshot.module)?;
        let (heap, stable) = snapshot::restore(&snapshot).map_err(|e| out_of_memory(&e))?;
        let message = Message::new(EntryPoint::Start, sender.id);
        let mut instance = Instance::resume(&module, heap.clone(), stable.clone(), environment, message)
            .map_err(|stop| stop.into_reject(id, ""))?;
        instance.set_globals(&snapshot.globals).map_err(|reason| {
            Reject::bad_payload(format!("The globals of module and snapshot do not match: {reason}"))
        })?;
        canister.pay_instructions(BASELINE_INSTRUCTIONS + snapshot.bytes())?;
        canister.code = Some(Code { module, instance });
        canister.heap = heap;
        canister.stable = stable;
        canister.chunks = snapshot.chunks;
        canister.certified_data = snapshot.certified_data;
        if snapshot.source == Source::Upload {
            canister.timer = snapshot.timer.unwrap_or(canister.timer);
            canister.low_memory_hook = snapshot.low_memory_hook.unwrap_or(canister.low_memory_hook);
        }
        canister.update_low_memory_hook();
        canister.version += 1;
        let details = types::ChangeDetails::LoadSnapshot(types::LoadSnapshotRecord {
            from_canister_id: (owner != id).then_some(owner),
            snapshot_id: args.snapshot_id,
            canister_version: snapshot.canister_version,
            taken_at_timestamp: snapshot.taken_at,
            source: candid_source(snapshot.source),
        });
        canister.record(time, sender.origin(args.sender_canister_version), details);
        self.run_low_memory_hook(id);
        Ok(empty_reply())
    }

    pub(super) fn list_canister_snapshots(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        canister.check_snapshot_reader(caller)?;
        let list = canister.snapshots.iter().map(|(number, s)| describe(canister.id, *number, s));
        encode(list.collect::<Vec<_>>())
    }

    pub(super) fn delete_canister_snapshot(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::DeleteCanisterSnapshotArgs = decode(argument)?;
        let canister = self.controlled(args.canister_id, caller, "delete_canister_snapshot")?;
        let number = canister.snapshot_number(&args.snapshot_id)?;
        canister.snapshots.remove(&number);
        Ok(empty_reply())
    }

    pub(super) fn read_canister_snapshot_metadata(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::ReadCanisterSnapshotMetadataArgs = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        canister.check_snapshot_reader(caller)?;
        let snapshot = canister.snapshot(&args.snapshot_id)?;
        encode(types::ReadCanisterSnapshotMetadataResult {
            source: Some(candid_source(snapshot.source)),
            taken_at_timestamp: snapshot.taken_at,
            wasm_module_size: snapshot.module.len() as u64,
            globals: snapshot.globals.iter().map(|g| Some((*g).into())).collect(),
            wasm_memory_size: snapshot.heap.len() as u64,
            stable_memory_size: snapshot.stable.len() as u64,
            wasm_chunk_store: snapshot
                .chunks
                .keys()
                .map(|hash| types::ChunkHash { hash: hash.to_vec() })
                .collect(),
            canister_version: snapshot.canister_version,
            certified_data: snapshot.certified_data.clone(),
            global_timer: snapshot.timer.map(|timer| match timer {
                0 => types::CanisterTimer::Inactive,
                time => types::CanisterTimer::Active(time),
            }),
            on_low_wasm_memory_hook_status: snapshot.low_memory_hook.map(Into::into),
        })
    }

    pub(super) fn read_canister_snapshot_data(&mut self, caller: Principal, argument: &[u8]) -> Response {
        use types::SnapshotDataKind as Kind;
        let args: types::ReadCanisterSnapshotDataArgs = decode(argument)?;
        let canister = self.canister_mut(args.canister_id)?;
        canister.check_snapshot_reader(caller)?;
        let snapshot = canister.snapshot(&args.snapshot_id)?;
        let chunk = match args.kind {
            Kind::WasmModule { offset, size } => slice(Some(&snapshot.module), offset, size)?,
            Kind::WasmMemory { offset, size } => {
                slice(snapshot.heap.get(0..snapshot.heap.len()), offset, size)?
            }
            Kind::StableMemory { offset, size } => {
                slice(snapshot.stable.get(0..snapshot.stable.len()), offset, size)?
            }
            Kind::WasmChunk { hash } => <[u8; 32]>::try_from(hash.as_slice())
                .ok()
                .and_then(|hash| snapshot.chunks.get(&hash))
                .cloned()
                .ok_or_else(|| Reject::bad_payload(format!("chunk {} is not in it", hex::encode(&hash))))?,
        };
        canister.pay_instructions(DATA_BASELINE_INSTRUCTIONS + chunk.len() as u64)?;
        encode(types::ReadCanisterSnapshotDataResult { chunk })
    }

    pub(super) fn upload_canister_snapshot_metadata(
        &mut self,
        caller: Principal,
        argument: &[u8],
    ) -> Response {
        let args: types::UploadCanisterSnapshotMetadataArgs = decode(argument)?;
        let (id, time) = (args.canister_id, self.time());
        let canister = self.controlled(id, caller, "upload_canister_snapshot_metadata")?;
        let number = |name: &str, value: u64, limit: u64| match usize::try_from(value) {
            Ok(value) if value as u64 <= limit => Ok(value),
            _ => Err(Reject::bad_payload(format!("{name} {value} exceeds the limit of {limit}"))),
        };
        let module = number("wasm_module_size", args.wasm_module_size, limits::MODULE_BYTES as u64)?;
        let heap = number("wasm_memory_size", args.wasm_memory_size, limits::HEAP_BYTES)?;
        let stable = number("stable_memory_size", args.stable_memory_size, limits::STABLE_BYTES)?;
        number("globals", args.globals.len() as u64, limits::GLOBALS as u64)?;
        number(
            "bytes of certified_data",
            args.certified_data.len() as u64,
            limits::CERTIFIED_DATA_BYTES as u64,
        )?;
        if !(heap.is_multiple_of(WASM_PAGE) && stable.is_multiple_of(WASM_PAGE)) {
            return Err(Reject::bad_payload("wasm_memory_size or stable_memory_size is no number of pages"));
        }
        let globals: Vec<GlobalValue> =
            args.globals.into_iter().map(global_value).collect::<Result<_, _>>()?;
        let bytes = (module + heap + stable + size_of_val(&globals[..]) + args.certified_data.len()) as u64;
        let replaced = canister.check_snapshot(bytes, args.replace_snapshot.as_deref(), 0)?;
        let snapshot = Snapshot {
            source: Source::Upload,
            taken_at: time,
            canister_version: canister.version,
            module: vec![0; module],
            globals,
            heap: snapshot::zeros(heap).map_err(|e| out_of_memory(&e))?,
            stable: snapshot::zeros(stable).map_err(|e| out_of_memory(&e))?,
            chunks: BTreeMap::new(),
            certified_data: args.certified_data,
            timer: args.global_timer.map(|timer| match timer {
                types::CanisterTimer::Inactive => 0,
                types::CanisterTimer::Active(time) => time,
            }),
            low_memory_hook: args.on_low_wasm_memory_hook_status.map(Into::into),
        };
        canister.pay_instructions(BASELINE_INSTRUCTIONS + bytes)?;
        let number = canister.add_snapshot(snapshot, replaced);
        encode(types::UploadCanisterSnapshotMetadataResult { snapshot_id: snapshot::id(id, number) })
    }

    pub(super) fn upload_canister_snapshot_data(&mut self, caller: Principal, argument: &[u8]) -> Response {
        use types::SnapshotDataOffset as Kind;
        let args: types::UploadCanisterSnapshotDataArgs = decode(argument)?;
        let canister = self.controlled(args.canister_id, caller, "upload_canister_snapshot_data")?;
        let number = canister.snapshot_number(&args.snapshot_id)?;
        let is_chunk = matches!(args.kind, Kind::WasmChunk);
        canister.check_memory(if is_chunk { limits::CHUNK_BYTES as u64 } else { 0 }, 0)?;
        let fee = canister.fees.execution(DATA_BASELINE_INSTRUCTIONS + args.chunk.len() as u64);
        canister.check_cycles(fee)?;
        let snapshot = canister
            .snapshots
            .get_mut(&number)
            .filter(|snapshot| snapshot.source == Source::Upload)
            .ok_or_else(|| {
                Reject::new(
                    ErrorCode::CanisterSnapshotImmutable,
                    "Only canister snapshots created by metadata upload can be mutated.",
                )
            })?;
        let chunk = &args.chunk[..];
        let write = |memory: &crate::memory::Memory, offset: u64| {
            usize::try_from(offset).is_ok_and(|at| memory.write(at, chunk))
                && memory.commit(&memory.scan()).is_ok()
        };
        let (offset, written) = match args.kind {
            Kind::WasmModule { offset } => {
                let end = offset.checked_add(chunk.len() as u64);
                let target = end.and_then(|end| snapshot.module.get_mut(offset as usize..end as usize));
                (offset, target.map(|target| target.copy_from_slice(chunk)).is_some())
            }
            Kind::WasmMemory { offset } => (offset, write(&snapshot.heap, offset)),
            Kind::StableMemory { offset } => (offset, write(&snapshot.stable, offset)),
            Kind::WasmChunk => {
                let hash: [u8; 32] = Sha256::digest(chunk).into();
                let fits = chunk.len() <= limits::CHUNK_BYTES
                    && (snapshot.chunks.len() < limits::CHUNKS || snapshot.chunks.contains_key(&hash));
                if fits {
                    snapshot.chunks.insert(hash, chunk.to_vec());
                }
                (0, fits)
            }
        };
        if !written {
            return Err(invalid_slice(offset, chunk.len() as u64));
        }
        canister.balance -= fee;
        Ok(empty_reply())
    }
}
