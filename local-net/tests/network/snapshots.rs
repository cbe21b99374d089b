//! Snapshots of canisters: against a small model, carried to another canister, and refused where they must be.

use crate::common::{Net, code, decode, module, user};
use candid::{CandidType, Principal};
use ic_management_canister_types as types;
use local_net::{
    limits,
    network::Query,
    reject::{ErrorCode, Response},
};
use proptest::prelude::*;
use std::collections::BTreeSet;
use types::{CanisterInstallMode as Mode, SnapshotDataKind as Kind, SnapshotDataOffset as Offset};

/// `set` keeps the argument (8 bytes) in heap, stable memory, a global and the certified data; `get` answers with these and
/// with `version`.
fn keeper(version: u64) -> String {
    module(&format!(
        r#"
  (global $value (mut i64) (i64.const 0))
  (global $constant (export "constant") f64 (f64.const 1.5))
  (data (i32.const 64) "segment")
  (func (export "canister_init") (drop (call $stable_grow (i64.const 1))))
  (func (export "canister_update set")
    (call $take_arg)
    (drop (memory.grow (i32.const 1)))
    (i64.store (i32.const 0) (i64.load (i32.const 1000)))
    (i64.store8 (i32.const 64) (i64.load (i32.const 1000)))
    (global.set $value (i64.load (i32.const 1000)))
    (call $stable_write (i64.const 16) (i64.const 0) (i64.const 8))
    (call $certify (i32.const 0) (i32.const 8))
    (drop (call $timer_set (i64.const 9000000000000000000)))
    (call $reply))
  (func (export "canister_query get")
    (i64.store (i32.const 8) (global.get $value))
    (call $stable_read (i64.const 16) (i64.const 16) (i64.const 8))
    (i64.store (i32.const 24) (i64.extend_i32_u (memory.size)))
    (i64.store (i32.const 32) (i64.const {version}))
    (i64.store (i32.const 40) (i64.load8_u (i32.const 64)))
    (call $append (i32.const 0) (i32.const 48))
    (call $reply))"#
    ))
}

/// What `get` answers, as numbers.
fn get(net: &mut Net, id: Principal) -> Vec<u64> {
    let reply = net.query(id, "get", []).unwrap();
    reply.chunks(8).map(|n| u64::from_le_bytes(n.try_into().unwrap())).collect()
}

fn record(canister_id: Principal) -> impl CandidType {
    types::CanisterIdRecord { canister_id }
}

fn take(net: &mut Net, id: Principal, replace: Option<Vec<u8>>) -> Response {
    take_with(net, id, replace, None)
}

fn take_with(
    net: &mut Net,
    id: Principal,
    replace: Option<Vec<u8>>,
    uninstall_code: Option<bool>,
) -> Response {
    let args = types::TakeCanisterSnapshotArgs {
        canister_id: id,
        replace_snapshot: replace,
        uninstall_code,
        sender_canister_version: None,
    };
    net.manage("take_canister_snapshot", args)
}

fn load(net: &mut Net, id: Principal, snapshot_id: Vec<u8>) -> Response {
    let args =
        types::LoadCanisterSnapshotArgs { canister_id: id, snapshot_id, sender_canister_version: None };
    net.manage("load_canister_snapshot", args)
}

fn delete(net: &mut Net, id: Principal, snapshot_id: Vec<u8>) -> Response {
    net.manage("delete_canister_snapshot", types::DeleteCanisterSnapshotArgs { canister_id: id, snapshot_id })
}

fn list(net: &mut Net, id: Principal) -> Vec<types::Snapshot> {
    decode(&net.manage("list_canister_snapshots", record(id)))
}

fn upload_chunk(net: &mut Net, id: Principal, chunk: Vec<u8>) {
    net.manage("upload_chunk", types::UploadChunkArgs { canister_id: id, chunk }).unwrap();
}

fn chunk_count(net: &mut Net, id: Principal) -> usize {
    decode::<Vec<types::ChunkHash>>(&net.manage("stored_chunks", record(id))).len()
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64),
    Upgrade(u64),
    Chunk(u8),
    Take(Option<prop::sample::Index>),
    Load(prop::sample::Index),
    Delete(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..1_000_000u64).prop_map(Step::Set),
        1 => (1..4u64).prop_map(Step::Upgrade),
        1 => any::<u8>().prop_map(Step::Chunk),
        3 => prop::option::weighted(0.3, any::<prop::sample::Index>()).prop_map(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::Load),
        1 => any::<prop::sample::Index>().prop_map(Step::Delete),
    ]
}

/// What a snapshot contains.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    heap: u64,
    stable: u64,
    pages: u64,
    version: u64,
    segment: u64,
    certified: Vec<u8>,
    chunks: BTreeSet<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn snapshots_are_copies_of_the_state(steps in prop::collection::vec(step(), 1..40)) {
        let mut net = Net::new();
        let id = net.canister(&keeper(1));
        let fresh = |version, stable| State {
            pages: 1, version, segment: u64::from(b's'), stable, ..State::default()
        };
        let mut state = fresh(1, 0);
        let mut snapshots: Vec<(Vec<u8>, State)> = Vec::new();
        for step in steps {
            match step {
                Step::Set(value) => {
                    net.call(id, "set", value.to_le_bytes()).unwrap();
                    state = State {
                        heap: value,
                        stable: value,
                        pages: state.pages + 1,
                        segment: value & 0xff,
                        certified: value.to_le_bytes().to_vec(),
                        ..state
                    };
                }
                Step::Upgrade(version) => {
                    net.install(id, Mode::Upgrade(None), &keeper(version)).unwrap();
                    state = State {
                        certified: state.certified, chunks: state.chunks, ..fresh(version, state.stable)
                    };
                }
                Step::Chunk(byte) => {
                    upload_chunk(&mut net, id, vec![byte; 10]);
                    state.chunks.insert(byte);
                }
                Step::Take(replaced) => {
                    let replaced = replaced.filter(|_| !snapshots.is_empty()).map(|i| i.index(snapshots.len()));
                    let response = take(&mut net, id, replaced.map(|i| snapshots[i].0.clone()));
                    if replaced.is_none() && snapshots.len() == limits::SNAPSHOTS {
                        prop_assert_eq!(code(&response), ErrorCode::CanisterRejectedMessage);
                    } else {
                        let taken: types::Snapshot = decode(&response);
                        if let Some(i) = replaced {
                            snapshots.remove(i);
                        }
                        snapshots.push((taken.id, state.clone()));
                    }
                }
                Step::Load(i) if !snapshots.is_empty() => {
                    let (snapshot, then) = snapshots[i.index(snapshots.len())].clone();
                    load(&mut net, id, snapshot).unwrap();
                    state = then;
                }
                Step::Delete(i) if !snapshots.is_empty() => {
                    let (snapshot, _) = snapshots.remove(i.index(snapshots.len()));
                    delete(&mut net, id, snapshot.clone()).unwrap();
                    prop_assert_eq!(code(&load(&mut net, id, snapshot)), ErrorCode::CanisterSnapshotNotFound);
                }
                Step::Load(_) | Step::Delete(_) => {}
            }
            let expected =
                vec![state.heap, state.heap, state.stable, state.pages, state.version, state.segment];
            prop_assert_eq!(get(&mut net, id), expected);
            prop_assert_eq!(chunk_count(&mut net, id), state.chunks.len());
            prop_assert_eq!(&net.network.canister(id).unwrap().certified_data, &state.certified);
            let ids: Vec<Vec<u8>> = list(&mut net, id).into_iter().map(|s| s.id).collect();
            let expected: Vec<Vec<u8>> = snapshots.iter().map(|(id, _)| id.clone()).collect();
            prop_assert_eq!(ids, expected);
        }
    }
}

/// Bytes of a snapshot that are carried at once.
const PART: u64 = 50_000;

/// Reads a snapshot of `from` piece by piece and uploads it to `to`; the new snapshot's id.
fn carry(net: &mut Net, from: Principal, snapshot_id: &[u8], to: Principal) -> Vec<u8> {
    let args =
        types::ReadCanisterSnapshotMetadataArgs { canister_id: from, snapshot_id: snapshot_id.to_vec() };
    let metadata: types::ReadCanisterSnapshotMetadataResult =
        decode(&net.manage("read_canister_snapshot_metadata", args));
    let args = types::UploadCanisterSnapshotMetadataArgs {
        canister_id: to,
        replace_snapshot: None,
        wasm_module_size: metadata.wasm_module_size,
        globals: metadata.globals.into_iter().map(Option::unwrap).collect(),
        wasm_memory_size: metadata.wasm_memory_size,
        stable_memory_size: metadata.stable_memory_size,
        certified_data: metadata.certified_data,
        global_timer: metadata.global_timer,
        on_low_wasm_memory_hook_status: metadata.on_low_wasm_memory_hook_status,
    };
    let new: types::UploadCanisterSnapshotMetadataResult =
        decode(&net.manage("upload_canister_snapshot_metadata", args));
    let mut copy = |kind: Kind, target: Offset| {
        let args = types::ReadCanisterSnapshotDataArgs {
            canister_id: from,
            snapshot_id: snapshot_id.to_vec(),
            kind,
        };
        let data: types::ReadCanisterSnapshotDataResult =
            decode(&net.manage("read_canister_snapshot_data", args));
        let args = types::UploadCanisterSnapshotDataArgs {
            canister_id: to,
            snapshot_id: new.snapshot_id.clone(),
            kind: target,
            chunk: data.chunk,
        };
        net.manage("upload_canister_snapshot_data", args).unwrap();
    };
    for offset in (0..metadata.wasm_module_size).step_by(PART as usize) {
        let size = PART.min(metadata.wasm_module_size - offset);
        copy(Kind::WasmModule { offset, size }, Offset::WasmModule { offset });
    }
    for offset in (0..metadata.wasm_memory_size).step_by(PART as usize) {
        let size = PART.min(metadata.wasm_memory_size - offset);
        copy(Kind::WasmMemory { offset, size }, Offset::WasmMemory { offset });
    }
    for offset in (0..metadata.stable_memory_size).step_by(PART as usize) {
        let size = PART.min(metadata.stable_memory_size - offset);
        copy(Kind::StableMemory { offset, size }, Offset::StableMemory { offset });
    }
    for chunk in metadata.wasm_chunk_store {
        copy(Kind::WasmChunk { hash: chunk.hash }, Offset::WasmChunk);
    }
    new.snapshot_id
}

#[test]
fn a_snapshot_can_be_downloaded_and_uploaded() {
    let mut net = Net::new();
    let from = net.canister(&keeper(7));
    net.call(from, "set", 1234u64.to_le_bytes()).unwrap();
    upload_chunk(&mut net, from, b"chunk".to_vec());
    let taken: types::Snapshot = decode(&take(&mut net, from, None));
    let to = net.create_with(100_000_000_000_000, None);
    let uploaded = carry(&mut net, from, &taken.id, to);
    assert_eq!(list(&mut net, to)[0].total_size, taken.total_size);
    load(&mut net, to, uploaded.clone()).unwrap();
    assert_eq!(get(&mut net, to), get(&mut net, from));
    assert_eq!(chunk_count(&mut net, to), 1);
    let (original, copy) = (net.status(from), net.status(to));
    assert_eq!(copy.module_hash, original.module_hash);
    let canister = net.network.canister(to).unwrap();
    assert_eq!(canister.certified_data, 1234u64.to_le_bytes());
    assert_eq!(canister.timer, 9_000_000_000_000_000_000, "an uploaded snapshot brings its timer");

    // What was taken cannot be changed, and what was uploaded only inside its bounds.
    let write = |net: &mut Net, canister_id, snapshot_id: &[u8], kind, chunk: &[u8]| {
        let args = types::UploadCanisterSnapshotDataArgs {
            canister_id,
            snapshot_id: snapshot_id.to_vec(),
            kind,
            chunk: chunk.to_vec(),
        };
        code(&net.manage("upload_canister_snapshot_data", args))
    };
    let at = |offset| Offset::WasmModule { offset };
    let immutable = write(&mut net, from, &taken.id, at(0), b"x");
    assert_eq!(immutable, ErrorCode::CanisterSnapshotImmutable);
    for offset in [u64::MAX, 1 << 40] {
        assert_eq!(write(&mut net, to, &uploaded, at(offset), b"x"), ErrorCode::InvalidManagementPayload);
    }
    let heap = Offset::WasmMemory { offset: 2 * 65_536 - 1 };
    assert_eq!(write(&mut net, to, &uploaded, heap, b"xx"), ErrorCode::InvalidManagementPayload);
    let read = |net: &mut Net, offset, size| {
        let kind = Kind::StableMemory { offset, size };
        let args =
            types::ReadCanisterSnapshotDataArgs { canister_id: from, snapshot_id: taken.id.clone(), kind };
        net.manage("read_canister_snapshot_data", args)
    };
    assert_eq!(code(&read(&mut net, 65_536, 1)), ErrorCode::InvalidManagementPayload);
    assert_eq!(code(&read(&mut net, u64::MAX, 2)), ErrorCode::InvalidManagementPayload);
    assert_eq!(code(&read(&mut net, 0, 2_000_001)), ErrorCode::InvalidManagementPayload);

    // Globals that are not the module's, or no module at all.
    for globals in
        [vec![], vec![types::SnapshotMetadataGlobal::I32(1), types::SnapshotMetadataGlobal::I32(1)]]
    {
        let args = types::UploadCanisterSnapshotMetadataArgs {
            canister_id: to,
            replace_snapshot: None,
            wasm_module_size: wat::parse_str(keeper(7)).unwrap().len() as u64,
            globals,
            wasm_memory_size: 65_536,
            stable_memory_size: 0,
            certified_data: vec![],
            global_timer: None,
            on_low_wasm_memory_hook_status: None,
        };
        let new: types::UploadCanisterSnapshotMetadataResult =
            decode(&net.manage("upload_canister_snapshot_metadata", args));
        let empty = load(&mut net, to, new.snapshot_id.clone());
        assert_eq!(code(&empty), ErrorCode::CanisterInvalidWasm);
        let args = types::UploadCanisterSnapshotDataArgs {
            canister_id: to,
            snapshot_id: new.snapshot_id.clone(),
            kind: at(0),
            chunk: wat::parse_str(keeper(7)).unwrap(),
        };
        net.manage("upload_canister_snapshot_data", args).unwrap();
        let mismatch = load(&mut net, to, new.snapshot_id);
        assert_eq!(code(&mismatch), ErrorCode::InvalidManagementPayload);
        assert_eq!(get(&mut net, to)[0], 1234, "a snapshot that cannot be loaded changes nothing");
    }
}

#[test]
fn snapshots_cost_memory_and_need_the_right_caller() {
    let mut net = Net::new();
    let id = net.canister(&keeper(1));
    let before = net.status(id);
    let cycles = net.balance(id);
    let taken: types::Snapshot = decode(&take(&mut net, id, None));
    let after = net.status(id);
    assert_eq!(after.memory_metrics.snapshots_size, taken.total_size);
    assert!(after.idle_cycles_burned_per_day > before.idle_cycles_burned_per_day);
    assert!(cycles - net.balance(id) > 2_000_000_000, "taking one costs two billion instructions");

    let stranger = Principal::self_authenticating(b"stranger");
    let as_stranger = |net: &mut Net, method: &str| {
        let argument = candid::encode_one(record(id)).unwrap();
        net.call_as(Principal::management_canister(), stranger, method, argument)
    };
    assert_eq!(code(&as_stranger(&mut net, "list_canister_snapshots")), ErrorCode::CanisterInvalidController);
    let settings = types::CanisterSettings {
        snapshot_visibility: Some(types::SnapshotVisibility::AllowedViewers(vec![stranger])),
        ..Default::default()
    };
    let args = types::UpdateSettingsArgs { canister_id: id, settings, sender_canister_version: None };
    net.manage("update_settings", args).unwrap();
    as_stranger(&mut net, "list_canister_snapshots").unwrap();
    let queried = net.network.query(Query {
        canister: Principal::management_canister(),
        caller: stranger,
        method: "list_canister_snapshots".into(),
        argument: candid::encode_one(record(id)).unwrap(),
    });
    assert_eq!(decode::<Vec<types::Snapshot>>(&queried).len(), 1);

    // Another canister's snapshot can be loaded by who controls both.
    let other = net.create_with(100_000_000_000_000, None);
    net.call(id, "set", 5u64.to_le_bytes()).unwrap();
    load(&mut net, other, taken.id.clone()).unwrap();
    assert_eq!(get(&mut net, other)[0], 0, "the state is that of the snapshot");
    assert_eq!(code(&delete(&mut net, other, taken.id.clone())), ErrorCode::CanisterRejectedMessage);
    let settings = types::CanisterSettings { controllers: Some(vec![stranger]), ..Default::default() };
    let args = types::UpdateSettingsArgs { canister_id: id, settings, sender_canister_version: None };
    net.manage("update_settings", args).unwrap();
    assert_eq!(code(&load(&mut net, other, taken.id.clone())), ErrorCode::CanisterRejectedMessage);
    assert_eq!(code(&load(&mut net, other, vec![1, 2, 3])), ErrorCode::CanisterSnapshotNotFound);

    // Too few cycles for the memory of a snapshot.
    let poor = net.canister(&keeper(1));
    let limit = net.network.canister(poor).unwrap().freezing_limit();
    net.network.canister_mut(poor).unwrap().balance = limit + 50_000;
    assert_eq!(code(&take(&mut net, poor, None)), ErrorCode::InsufficientCyclesInMemoryGrow);
}

#[test]
fn taking_a_snapshot_can_uninstall_the_code() {
    let mut net = Net::new();
    let id = net.canister(&keeper(1));
    net.call(id, "set", 77u64.to_le_bytes()).unwrap();
    let taken: types::Snapshot = decode(&take_with(&mut net, id, None, Some(true)));
    assert_eq!(net.status(id).module_hash, None);
    assert_eq!(code(&take(&mut net, id, None)), ErrorCode::CanisterRejectedMessage, "there is no code");
    load(&mut net, id, taken.id.clone()).unwrap();
    assert_eq!(get(&mut net, id)[0], 77);
    let version = net.status(id).version;
    net.manage("uninstall_code", record(id)).unwrap();
    assert_eq!(list(&mut net, id).len(), 1, "snapshots outlive the code");
    net.manage("stop_canister", record(id)).unwrap();
    net.manage("delete_canister", record(id)).unwrap();
    assert!(net.network.canister(id).is_err());
    assert!(version > 0);
    let survivor = net.create_with(100_000_000_000_000, None);
    let gone = load(&mut net, survivor, taken.id);
    assert_eq!(code(&gone), ErrorCode::CanisterSnapshotNotFound, "snapshots go with their canister");
    assert_eq!(net.network.canister(survivor).unwrap().settings.controllers[..], [user()]);
}
