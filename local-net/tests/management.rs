//! The management canister: installation in all its forms, settings, cycles and randomness.

mod common;

use candid::{CandidType, Principal};
use common::{Net, code, decode, module, number, user};
use flate2::{Compression, write::GzEncoder};
use ic_management_canister_types as types;
use local_net::{
    costs::CANISTER_CREATION_FEE,
    network::IngressState,
    reject::{ErrorCode, Response},
};
use sha2::{Digest, Sha256};
use std::io::Write;
use types::CanisterInstallMode as Mode;

/// Answers `version` with `n`; the hooks of an upgrade count in stable memory.
fn versioned(n: u64, extra: &str) -> String {
    module(&format!(
        r#"
  (func $bump (param $by i64)
    (if (i64.eqz (call $stable_size)) (then (drop (call $stable_grow (i64.const 1)))))
    (call $stable_read (i64.const 0) (i64.const 0) (i64.const 8))
    (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (local.get $by)))
    (call $stable_write (i64.const 0) (i64.const 0) (i64.const 8)))
  (func (export "canister_query version") (call $reply_i64 (i64.const {n})))
  (func (export "canister_query count")
    (call $stable_read (i64.const 0) (i64.const 0) (i64.const 8))
    (call $reply_i64 (i64.load (i32.const 0))))
  (func (export "canister_query heap") (call $reply_i64 (i64.load (i32.const 8))))
  (func (export "canister_update set_heap") (i64.store (i32.const 8) (i64.const 55)) (call $reply))
  (func (export "canister_pre_upgrade") (drop (memory.grow (i32.const 1))) (call $bump (i64.const 1)))
  {extra}"#
    ))
}

const POST_UPGRADE: &str = r#"(func (export "canister_post_upgrade") (call $bump (i64.const 10)))"#;
const BROKEN_POST_UPGRADE: &str =
    r#"(func (export "canister_post_upgrade") (call $bump (i64.const 10)) unreachable)"#;

/// Forwards a call to the management canister. Argument: length of the method's name, name, cycles (8 bytes), payload.
fn relay() -> String {
    module(
        r#"
  (import "ic0" "msg_reject_msg_size" (func $reject_size (result i32)))
  (import "ic0" "msg_reject_msg_copy" (func $reject_copy (param i32 i32 i32)))
  (elem (i32.const 1) func $replied $rejected)
  (func (export "canister_update relay") (local $n i32) (local $payload i32)
    (call $take_arg)
    (local.set $n (i32.load8_u (i32.const 1000)))
    (call $call_new (i32.const 0) (i32.const 0) (i32.const 1001) (local.get $n)
      (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 0))
    (call $call_cycles (i64.load (i32.add (i32.const 1001) (local.get $n))))
    (local.set $payload (i32.add (i32.const 1009) (local.get $n)))
    (call $call_append (local.get $payload)
      (i32.sub (i32.add (i32.const 1000) (call $arg_size)) (local.get $payload)))
    (drop (call $perform)))
  (func $replied (param i32)
    (call $arg_copy (i32.const 4096) (i32.const 0) (call $arg_size))
    (call $append (i32.const 4096) (call $arg_size))
    (call $reply))
  (func $rejected (param i32)
    (call $reject_copy (i32.const 4096) (i32.const 0) (call $reject_size))
    (call $reject (i32.const 4096) (call $reject_size)))"#,
    )
}

fn through(net: &mut Net, relay: Principal, method: &str, cycles: u64, payload: &[u8]) -> Response {
    let mut argument = vec![method.len() as u8];
    argument.extend(method.as_bytes());
    argument.extend(cycles.to_le_bytes());
    argument.extend(payload);
    net.call(relay, "relay", argument)
}

fn record(canister_id: Principal) -> impl CandidType {
    types::CanisterIdRecord { canister_id }
}

#[test]
fn an_upgrade_keeps_stable_memory_or_nothing_changes() {
    let mut net = Net::new();
    let id = net.canister(&versioned(1, ""));
    net.call(id, "set_heap", []).unwrap();
    net.install(id, Mode::Upgrade(None), &versioned(2, POST_UPGRADE)).unwrap();
    assert_eq!(number(&net.query(id, "version", [])), 2);
    assert_eq!(number(&net.query(id, "count", [])), 11, "both hooks have run");
    assert_eq!(number(&net.query(id, "heap", [])), 0, "the heap is new");

    net.call(id, "set_heap", []).unwrap();
    let broken = net.install(id, Mode::Upgrade(None), &versioned(3, BROKEN_POST_UPGRADE));
    assert_eq!(code(&broken), ErrorCode::CanisterTrapped);
    assert_eq!(number(&net.query(id, "version", [])), 2, "the old code runs on");
    assert_eq!(number(&net.query(id, "count", [])), 11, "the hooks are undone");
    assert_eq!(number(&net.query(id, "heap", [])), 55, "the old heap is there");
    assert_eq!(net.network.canister(id).unwrap().heap.len(), 1 << 16);

    let flags = types::UpgradeFlags { skip_pre_upgrade: Some(true), wasm_memory_persistence: None };
    net.install(id, Mode::Upgrade(Some(flags)), &versioned(4, POST_UPGRADE)).unwrap();
    assert_eq!(number(&net.query(id, "count", [])), 21, "pre_upgrade was skipped");
    net.call(id, "set_heap", []).unwrap();
    let flags = types::UpgradeFlags {
        skip_pre_upgrade: None,
        wasm_memory_persistence: Some(types::WasmMemoryPersistence::Keep),
    };
    net.install(id, Mode::Upgrade(Some(flags)), &versioned(5, "")).unwrap();
    assert_eq!(number(&net.query(id, "heap", [])), 55, "the heap was kept");

    net.install(id, Mode::Reinstall, &versioned(6, "")).unwrap();
    assert_eq!(number(&net.query(id, "version", [])), 6);
    assert_eq!(net.network.canister(id).unwrap().stable.len(), 0);
}

#[test]
fn installation_is_refused_where_it_must_be() {
    let mut net = Net::new();
    let id = net.canister(&versioned(1, ""));
    let again = net.install(id, Mode::Install, &versioned(2, ""));
    assert_eq!(code(&again), ErrorCode::CanisterNonEmpty);
    for bad in [
        r#"(module (import "env" "f" (func)))"#,
        r#"(module (import "ic0" "no_such_function" (func)))"#,
        r"(module (memory i64 1))",
        r"(module (func (result v128) (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0))))",
    ] {
        let refused = net.install(id, Mode::Reinstall, bad);
        assert!(refused.is_err(), "{bad}");
    }
    assert_eq!(number(&net.query(id, "version", [])), 1, "the old code runs on");
    let args = types::InstallCodeArgs {
        mode: Mode::Reinstall,
        canister_id: id,
        wasm_module: b"\0asm garbage".to_vec(),
        arg: vec![],
        sender_canister_version: None,
    };
    assert_eq!(code(&net.manage("install_code", args.clone())), ErrorCode::CanisterInvalidWasm);
    let argument = candid::encode_one(args).unwrap();
    let stranger = net.call_as(
        Principal::management_canister(),
        Principal::self_authenticating(b"stranger"),
        "install_code",
        argument,
    );
    assert_eq!(code(&stranger), ErrorCode::CanisterInvalidController);
}

#[test]
fn code_can_be_installed_in_compressed_chunks() {
    let mut net = Net::new();
    let id = net.create_with(100_000_000_000_000, None);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&wat::parse_str(versioned(7, "")).unwrap()).unwrap();
    let module = gzip.finish().unwrap();
    let chunk_hashes_list: Vec<types::ChunkHash> = module
        .chunks(100)
        .map(|chunk| {
            let args = types::UploadChunkArgs { canister_id: id, chunk: chunk.to_vec() };
            decode(&net.manage("upload_chunk", args))
        })
        .collect();
    let stored: Vec<types::ChunkHash> = decode(&net.manage("stored_chunks", record(id)));
    assert_eq!(stored.len(), chunk_hashes_list.len());
    let args = types::InstallChunkedCodeArgs {
        mode: Mode::Install,
        target_canister: id,
        store_canister: None,
        chunk_hashes_list,
        wasm_module_hash: vec![0; 32],
        arg: vec![],
        sender_canister_version: None,
    };
    assert_eq!(code(&net.manage("install_chunked_code", args.clone())), ErrorCode::InvalidManagementPayload);
    let hash = Sha256::digest(&module).to_vec();
    net.manage(
        "install_chunked_code",
        types::InstallChunkedCodeArgs { wasm_module_hash: hash.clone(), ..args },
    )
    .unwrap();
    assert_eq!(number(&net.query(id, "version", [])), 7);
    assert_eq!(net.status(id).module_hash, Some(hash), "the hash is that of the compressed module");
    net.manage("clear_chunk_store", record(id)).unwrap();
    let stored: Vec<types::ChunkHash> = decode(&net.manage("stored_chunks", record(id)));
    assert!(stored.is_empty());
}

#[test]
fn canisters_create_canisters_and_pay_for_them() {
    let mut net = Net::new();
    let factory = net.canister(&relay());
    let args = candid::encode_one(types::CreateCanisterArgs::default()).unwrap();
    let fee = CANISTER_CREATION_FEE as u64;
    let created = through(&mut net, factory, "create_canister", fee + 1_000, &args);
    let id = decode::<types::CanisterIdRecord>(&created).canister_id;
    let canister = net.network.canister(id).unwrap();
    assert_eq!(canister.balance, 1_000);
    assert_eq!(canister.settings.controllers[..], [factory]);

    let before = net.balance(factory);
    let poor = through(&mut net, factory, "create_canister", fee - 1, &args).unwrap_err();
    assert!(poor.message.contains("requires a fee of 500000000000 cycles"), "{poor}");
    assert!(before - net.balance(factory) < u128::from(fee), "the cycles have come back");

    let deposit = candid::encode_one(record(id)).unwrap();
    through(&mut net, factory, "deposit_cycles", 234, &deposit).unwrap();
    assert_eq!(net.balance(id), 1_234);
    let user_call = net.manage("create_canister", types::CreateCanisterArgs::default());
    assert_eq!(code(&user_call), ErrorCode::CanisterRejectedMessage, "only canisters can");
}

#[test]
fn randomness_and_everything_else_repeat() {
    let run = || {
        let mut net = Net::new();
        let id = net.canister(&relay());
        let empty = candid::encode_args(()).unwrap();
        let first: Vec<u8> = decode(&through(&mut net, id, "raw_rand", 0, &empty));
        let second: Vec<u8> = decode(&through(&mut net, id, "raw_rand", 0, &empty));
        assert_ne!(first, second);
        assert_eq!(first.len(), 32);
        (id, first, second, net.balance(id), net.network.certify(0, vec![]))
    };
    assert_eq!(run(), run());
}

#[test]
fn stopping_waits_for_open_calls_and_uninstalling_ends_them() {
    let mut net = Net::new();
    // `wait` calls `wait` of the same canister for ever.
    let text = module(
        r#"
  (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
  (elem (i32.const 1) func $done)
  (global $go (mut i32) (i32.const 0))
  (func (export "canister_update get")
    (if (global.get $go) (then (call $reply) (return)))
    (call $self (i32.const 1000) (i32.const 0) (i32.const 10))
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (drop (call $perform)))
  (func (export "canister_update inc") (global.set $go (i32.const 1)) (call $reply))
  (func $done (param i32) (call $reply))"#,
    );
    let id = net.canister(&text);
    let waiting = net.submit(id, user(), "get", vec![]).unwrap();
    let release = net.submit(id, user(), "inc", vec![]).unwrap();
    net.network.execute_messages();
    let record_bytes = candid::encode_one(record(id)).unwrap();
    let management = Principal::management_canister();
    let stop = net.submit(management, user(), "stop_canister", record_bytes.clone()).unwrap();
    net.network.execute_messages();
    assert_eq!(net.state(waiting), Some(IngressState::Processing));
    for _ in 0..10 {
        net.network.execute_messages();
    }
    assert!(matches!(net.state(release), Some(IngressState::Done(Ok(_)))));
    assert!(matches!(net.state(waiting), Some(IngressState::Done(Ok(_)))));
    assert!(matches!(net.state(stop), Some(IngressState::Done(Ok(_)))), "it stops when nothing is open");
    assert_eq!(code(&net.call(id, "inc", [])), ErrorCode::CanisterStopped);

    net.manage("start_canister", record(id)).unwrap();
    net.install(id, Mode::Reinstall, &text).unwrap();
    let waiting = net.submit(id, user(), "get", vec![]).unwrap();
    net.network.execute_messages();
    let uninstall = net.submit(management, user(), "uninstall_code", record_bytes).unwrap();
    for _ in 0..10 {
        net.network.execute_messages();
    }
    assert!(matches!(net.state(uninstall), Some(IngressState::Done(Ok(_)))));
    let Some(IngressState::Done(Err(reject))) = net.state(waiting) else {
        panic!("the open call is rejected")
    };
    assert_eq!(reject.code.reject_code() as u8, 5);
}

#[test]
fn settings_and_logs_follow_their_rules() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (import "ic0" "env_var_count" (func $variables (result i32)))
  (func (export "canister_update inc") (call $print (i32.const 256) (i32.const 3)) (call $reply))
  (func (export "canister_query get") (call $reply_i64 (i64.extend_i32_u (call $variables))))"#,
    ));
    let change = |net: &mut Net, settings: types::CanisterSettings| {
        net.manage(
            "update_settings",
            types::UpdateSettingsArgs { canister_id: id, settings, sender_canister_version: None },
        )
    };
    let too_many = vec![user(); 11];
    let refused =
        change(&mut net, types::CanisterSettings { controllers: Some(too_many), ..Default::default() });
    assert_eq!(code(&refused), ErrorCode::InvalidManagementPayload);
    let share = change(
        &mut net,
        types::CanisterSettings { compute_allocation: Some(101u8.into()), ..Default::default() },
    );
    assert_eq!(code(&share), ErrorCode::InvalidManagementPayload);
    let variable = types::EnvironmentVariable { name: "key".into(), value: "value".into() };
    change(
        &mut net,
        types::CanisterSettings {
            environment_variables: Some(vec![variable]),
            log_visibility: Some(types::LogVisibility::Public),
            ..Default::default()
        },
    )
    .unwrap();
    assert_eq!(number(&net.query(id, "get", [])), 1);
    for _ in 0..2_000 {
        net.call(id, "inc", []).unwrap();
    }
    let args = types::FetchCanisterLogsArgs { canister_id: id, filter: None };
    let logs = net.network.query(local_net::network::Query {
        canister: Principal::management_canister(),
        caller: Principal::anonymous(),
        method: "fetch_canister_logs".into(),
        argument: candid::encode_one(args).unwrap(),
    });
    let records = decode::<types::FetchCanisterLogsResult>(&logs).canister_log_records;
    assert_eq!(records.last().unwrap().idx, 1_999);
    assert_eq!(records.len(), 4_096 / 3, "the oldest records are gone");
    let status = net.status(id);
    assert_eq!(status.settings.environment_variables.len(), 1);
    assert_eq!(status.memory_metrics.wasm_memory_size, 65_536u32);
}
