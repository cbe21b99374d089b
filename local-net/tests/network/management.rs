//! The management canister: installation in all its forms, settings, cycles and randomness.

use crate::common::{Net, code, decode, module, number, user};
use candid::{CandidType, Principal};
use flate2::{Compression, write::GzEncoder};
use ic_management_canister_types as types;
use local_net::{
    canister::RECORD_BYTES,
    costs::CANISTER_CREATION_FEE,
    limits,
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
    let refused = net.install(id, Mode::Upgrade(Some(flags)), &versioned(5, ""));
    assert_eq!(code(&refused), ErrorCode::CanisterContractViolation, "the module cannot do with it");
    let persistent = versioned(5, r#"(@custom "icp:private enhanced-orthogonal-persistence" "")"#);
    net.install(id, Mode::Upgrade(Some(flags)), &persistent).unwrap();
    assert_eq!(number(&net.query(id, "heap", [])), 55, "the heap was kept");
    let refused = net.install(id, Mode::Upgrade(None), &persistent);
    assert_eq!(code(&refused), ErrorCode::CanisterContractViolation, "one must say what happens to the heap");

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
    assert_eq!(records.len(), 4_096 / (3 + RECORD_BYTES), "the oldest records are gone");
    let status = net.status(id);
    assert_eq!(status.settings.environment_variables.len(), 1);
    assert_eq!(status.memory_metrics.wasm_memory_size, 65_536u32);
}

fn change(net: &mut Net, id: Principal, settings: types::CanisterSettings) -> Response {
    let args = types::UpdateSettingsArgs { canister_id: id, settings, sender_canister_version: None };
    net.manage("update_settings", args)
}

#[test]
fn a_module_must_fit_the_interface() {
    let many = |what: &str, n: usize| what.repeat(n);
    let sections: Vec<String> = (0..17).map(|i| format!(r#"(@custom "icp:public {i}" "")"#)).collect();
    let method = |kind: &str, name: &str| format!(r#"(func (export "canister_{kind} {name}"))"#);
    let long = (0..20).map(|i| method("query", &format!("{i}{}", "x".repeat(999)))).collect::<String>();
    let cases = [
        (r#"(func (export "canister_update a") (param i32))"#.into(), "no entry point of type () -> ()"),
        (r#"(func (export "canister_init") (result i32) (i32.const 0))"#.into(), "no entry point"),
        (r#"(func (export "canister_updat a"))"#.into(), "`canister_updat a`, which is no entry point"),
        (r#"(func (export "canister_global_timers"))"#.into(), "no entry point"),
        (method("update", "a") + &method("query", "a"), "more than one method with the name `a`"),
        (r#"(@custom "icp:secret a" "")"#.into(), "custom section `icp:secret a`"),
        (r#"(@custom "icp:public a" "") (@custom "icp:private a" "")"#.into(), "`icp:private a`"),
        (sections.concat(), "17 metadata sections"),
        (format!(r#"(@custom "icp:public a" "{}")"#, many("x", 1 << 20)), "bytes of metadata"),
        (many("(func)", 50_001), "50001 functions"),
        (many("(global i32 (i32.const 0))", 1_001), "1001 globals"),
        ((0..1_001).map(|i| method("query", &i.to_string())).collect(), "1001 exported methods"),
        (long, "bytes of method names"),
        (format!("(func {})", many("(nop)", 1_000_000)), "1000001 instructions in a function"),
        ("(memory 1) (memory 1)".into(), "multiple memories"),
        ("(global (mut funcref) (ref.null func))".into(), "global 0 holds a reference"),
        (r#"(memory 1) (data (i32.const 65535) "ab")"#.into(), "heap out of bounds"),
    ];
    let mut net = Net::new();
    let id = net.create_with(100_000_000_000_000, None);
    for (module, reason) in cases {
        let refused = net.install(id, Mode::Install, &format!("(module {module})")).unwrap_err();
        assert!(refused.message.contains(reason), "{reason}: {refused}");
    }
    let fine = format!(
        r#"(module (memory 1) (data (offset (i32.add (i32.const 65530) (i32.const 4))) "ab")
        (func (export "not a canister_ method") (param i32)) {})"#,
        method("composite_query", "a")
    );
    net.install(id, Mode::Install, &fine).unwrap();
    assert_eq!(net.network.canister(id).unwrap().heap.get(65_534..65_536).unwrap(), b"ab");
}

#[test]
fn the_history_says_who_did_what() {
    let mut net = Net::new();
    let parent = net.canister(&relay());
    let id = net.create_with(100_000_000_000_000, None);
    net.install(id, Mode::Install, &versioned(1, "")).unwrap();
    net.install(id, Mode::Upgrade(None), &versioned(2, "")).unwrap();
    net.install(id, Mode::Reinstall, &versioned(3, "")).unwrap();
    let controllers = vec![user(), parent];
    change(
        &mut net,
        id,
        types::CanisterSettings { controllers: Some(controllers.clone()), ..Default::default() },
    )
    .unwrap();
    change(
        &mut net,
        id,
        types::CanisterSettings { compute_allocation: Some(1u8.into()), ..Default::default() },
    )
    .unwrap();
    let args = types::TakeCanisterSnapshotArgs {
        canister_id: id,
        replace_snapshot: None,
        uninstall_code: None,
        sender_canister_version: None,
    };
    let snapshot: types::Snapshot = decode(&net.manage("take_canister_snapshot", args));
    let args = types::LoadCanisterSnapshotArgs {
        canister_id: id,
        snapshot_id: snapshot.id.clone(),
        sender_canister_version: None,
    };
    net.manage("load_canister_snapshot", args).unwrap();
    // The parent names its own version, which is checked.
    let version = net.network.canister(parent).unwrap().version;
    let uninstall = |version| {
        candid::encode_one(types::UninstallCodeArgs {
            canister_id: id,
            sender_canister_version: Some(version),
        })
        .unwrap()
    };
    let wrong = through(&mut net, parent, "uninstall_code", 0, &uninstall(version + 7)).unwrap_err();
    assert!(wrong.message.contains("does not match the actual sender canister version"), "{wrong}");
    let version = net.network.canister(parent).unwrap().version;
    through(&mut net, parent, "uninstall_code", 0, &uninstall(version)).unwrap();

    let args = types::CanisterInfoArgs { canister_id: id, num_requested_changes: Some(100) };
    let argument = candid::encode_one(args).unwrap();
    let refused = net.call(Principal::management_canister(), "canister_info", argument.clone());
    assert_eq!(code(&refused), ErrorCode::CanisterRejectedMessage, "only canisters may ask");
    let info: types::CanisterInfoResult = decode(&through(&mut net, parent, "canister_info", 0, &argument));
    let from_user = types::ChangeOrigin::FromUser(types::FromUserRecord { user_id: user() });
    let deployed = |mode, n| {
        let module_hash = Sha256::digest(wat::parse_str(versioned(n, "")).unwrap()).to_vec();
        types::ChangeDetails::CodeDeployment(types::CodeDeploymentRecord { mode, module_hash })
    };
    let expected = [
        types::ChangeDetails::Creation(types::CreationRecord {
            controllers: vec![user()],
            environment_variables_hash: None,
        }),
        deployed(types::CodeDeploymentMode::Install, 1),
        deployed(types::CodeDeploymentMode::Upgrade, 2),
        deployed(types::CodeDeploymentMode::Reinstall, 3),
        types::ChangeDetails::ControllersChange(types::ControllersChangeRecord { controllers }),
        types::ChangeDetails::LoadSnapshot(types::LoadSnapshotRecord {
            from_canister_id: None,
            snapshot_id: snapshot.id,
            canister_version: 5,
            taken_at_timestamp: snapshot.taken_at_timestamp,
            source: types::SnapshotSource::TakenFromCanister(candid::Reserved),
        }),
        types::ChangeDetails::CodeUninstall,
    ];
    assert_eq!(info.total_num_changes, 7);
    let details: Vec<_> = info.recent_changes.iter().map(|c| c.details.clone().unwrap()).collect();
    assert_eq!(details, expected);
    let versions: Vec<_> = info.recent_changes.iter().map(|c| c.canister_version).collect();
    assert_eq!(versions, [0, 1, 2, 3, 4, 6, 7]);
    assert!(info.recent_changes[..6].iter().all(|c| c.origin == from_user));
    let origin = types::ChangeOrigin::FromCanister(types::FromCanisterRecord {
        canister_id: parent,
        canister_version: Some(version),
    });
    assert_eq!(info.recent_changes[6].origin, origin);

    for n in 0..limits::HISTORY as u64 + 5 {
        net.install(id, Mode::Reinstall, &versioned(n, "")).unwrap();
    }
    for (wanted, count) in [(None, 0), (Some(3), 3), (Some(1_000), limits::HISTORY)] {
        let args = types::CanisterInfoArgs { canister_id: id, num_requested_changes: wanted };
        let argument = candid::encode_one(args).unwrap();
        let info: types::CanisterInfoResult =
            decode(&through(&mut net, parent, "canister_info", 0, &argument));
        assert_eq!(info.recent_changes.len(), count);
        assert_eq!(info.total_num_changes, 32);
    }
}

#[test]
fn the_status_shows_memory_settings_and_queries() {
    let mut net = Net::new();
    let id = net.canister(&versioned(1, r#"(@custom "icp:public greeting" "hello")"#));
    let chunk = types::UploadChunkArgs { canister_id: id, chunk: vec![1; 10] };
    net.manage("upload_chunk", chunk).unwrap();
    for _ in 0..3 {
        net.query(id, "version", []).unwrap();
    }
    net.query(id, "nothing", [1, 2, 3]).unwrap_err();
    let status = net.status(id);
    let memory = &status.memory_metrics;
    assert_eq!(memory.wasm_chunk_store_size, 1u32 << 20, "a chunk counts for a whole MiB");
    assert_eq!(memory.custom_sections_size, ("greeting".len() + "hello".len()) as u64);
    assert!(memory.canister_history_size > 0u8);
    let parts = [
        &memory.wasm_memory_size,
        &memory.stable_memory_size,
        &memory.global_memory_size,
        &memory.wasm_binary_size,
        &memory.custom_sections_size,
        &memory.canister_history_size,
        &memory.wasm_chunk_store_size,
        &memory.snapshots_size,
        &memory.log_memory_store_size,
    ];
    let sum = parts.into_iter().fold(candid::Nat::default(), |sum, part| sum + part.clone());
    assert_eq!(status.memory_size, sum);
    assert_eq!(status.query_stats.num_calls_total, 4u8);
    assert_eq!(status.query_stats.request_payload_bytes_total, 3u8);
    assert!(status.query_stats.response_payload_bytes_total > 24u8);
    assert_eq!(status.settings.wasm_memory_limit, limits::DEFAULT_WASM_MEMORY_LIMIT);

    assert!(!status.ready_for_migration);
    net.manage("stop_canister", record(id)).unwrap();
    assert!(net.status(id).ready_for_migration);

    let stranger = Principal::self_authenticating(b"stranger");
    let ask = |net: &mut Net| {
        let argument = candid::encode_one(record(id)).unwrap();
        net.call_as(Principal::management_canister(), stranger, "canister_status", argument)
    };
    assert_eq!(code(&ask(&mut net)), ErrorCode::CanisterStatusAccessDenied);
    let settings = types::CanisterSettings {
        status_visibility: Some(types::StatusVisibility::Public),
        ..Default::default()
    };
    change(&mut net, id, settings).unwrap();
    ask(&mut net).unwrap();
}

#[test]
fn every_setting_is_checked_and_kept() {
    let mut net = Net::new();
    let id = net.create_with(100_000_000_000_000, None);
    let variable =
        |name: &str, value: &str| types::EnvironmentVariable { name: name.into(), value: value.into() };
    let viewers = vec![user(); 11];
    let settings = types::CanisterSettings::default;
    let refused = [
        types::CanisterSettings { memory_allocation: Some(candid::Nat::from(1u128 << 64)), ..settings() },
        types::CanisterSettings { freezing_threshold: Some(candid::Nat::from(1u128 << 64)), ..settings() },
        types::CanisterSettings { wasm_memory_limit: Some((1u64 << 48).into()), ..settings() },
        types::CanisterSettings { wasm_memory_threshold: Some(candid::Nat::from(1u128 << 64)), ..settings() },
        types::CanisterSettings { log_memory_limit: Some(4_095u32.into()), ..settings() },
        types::CanisterSettings { log_memory_limit: Some((2u32 << 20 | 1).into()), ..settings() },
        types::CanisterSettings {
            log_visibility: Some(types::LogVisibility::AllowedViewers(viewers.clone())),
            ..settings()
        },
        types::CanisterSettings {
            snapshot_visibility: Some(types::SnapshotVisibility::AllowedViewers(viewers.clone())),
            ..settings()
        },
        types::CanisterSettings {
            status_visibility: Some(types::StatusVisibility::AllowedViewers(viewers)),
            ..settings()
        },
        types::CanisterSettings {
            environment_variables: Some((0..21).map(|i| variable(&i.to_string(), "")).collect()),
            ..settings()
        },
        types::CanisterSettings {
            environment_variables: Some(vec![variable(&"n".repeat(129), "")]),
            ..settings()
        },
        types::CanisterSettings {
            environment_variables: Some(vec![variable("n", &"v".repeat(129))]),
            ..settings()
        },
        types::CanisterSettings {
            environment_variables: Some(vec![variable("n", "1"), variable("n", "2")]),
            ..settings()
        },
        types::CanisterSettings {
            reserved_cycles_limit: Some(candid::Nat::from(u128::MAX) + 1u8),
            ..settings()
        },
    ];
    let before = net.status(id).settings;
    for settings in refused {
        let response = change(&mut net, id, settings.clone());
        assert_eq!(code(&response), ErrorCode::InvalidManagementPayload, "{settings:?}");
    }
    assert_eq!(net.status(id).settings, before);
    let all = types::CanisterSettings {
        controllers: Some(vec![user(), id]),
        compute_allocation: Some(2u8.into()),
        memory_allocation: Some((1u64 << 30).into()),
        freezing_threshold: Some(1_000u32.into()),
        reserved_cycles_limit: Some(7u8.into()),
        minimum_incoming_canister_call_cycles: Some(9u8.into()),
        log_visibility: Some(types::LogVisibility::Public),
        log_memory_limit: Some((2u32 << 20).into()),
        snapshot_visibility: Some(types::SnapshotVisibility::Public),
        status_visibility: Some(types::StatusVisibility::AllowedViewers(vec![user()])),
        wasm_memory_limit: Some(((1u64 << 48) - 1).into()),
        wasm_memory_threshold: Some(u64::MAX.into()),
        environment_variables: Some(vec![variable("b", "2"), variable("a", "1")]),
    };
    change(&mut net, id, all.clone()).unwrap();
    let kept = net.status(id).settings;
    let expected = types::DefiniteCanisterSettings {
        controllers: all.controllers.unwrap(),
        compute_allocation: all.compute_allocation.unwrap(),
        memory_allocation: all.memory_allocation.unwrap(),
        freezing_threshold: all.freezing_threshold.unwrap(),
        reserved_cycles_limit: all.reserved_cycles_limit.unwrap(),
        minimum_incoming_canister_call_cycles: all.minimum_incoming_canister_call_cycles.unwrap(),
        log_visibility: all.log_visibility.unwrap(),
        log_memory_limit: all.log_memory_limit.unwrap(),
        snapshot_visibility: all.snapshot_visibility.unwrap(),
        status_visibility: all.status_visibility.unwrap(),
        wasm_memory_limit: all.wasm_memory_limit.unwrap(),
        wasm_memory_threshold: all.wasm_memory_threshold.unwrap(),
        environment_variables: vec![variable("a", "1"), variable("b", "2")],
    };
    assert_eq!(kept, expected);

    // Allocations must be affordable; they are paid for.
    let poor = net.create_with(1_000_000_000_000, None);
    let memory = types::CanisterSettings { memory_allocation: Some((1u64 << 40).into()), ..settings() };
    assert_eq!(code(&change(&mut net, poor, memory)), ErrorCode::InsufficientCyclesInMemoryAllocation);
    let compute = types::CanisterSettings { compute_allocation: Some(50u8.into()), ..settings() };
    assert_eq!(code(&change(&mut net, poor, compute)), ErrorCode::InsufficientCyclesInComputeAllocation);
    let daily = net.status(id).idle_cycles_burned_per_day;
    assert_eq!(daily, 86_400u128 * (2 * 10_000_000 + 127_000), "two percent and one GiB");
}

#[test]
fn a_stop_request_is_answered_after_five_minutes() {
    let mut net = Net::new();
    // `get` waits for ever: it calls itself again and again.
    let id = net.canister(&module(
        r#"
  (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
  (elem (i32.const 1) func $done)
  (func $call_self (call $self (i32.const 1000) (i32.const 0) (i32.const 10))
    (call $call_new (i32.const 0) (i32.const 0) (i32.const 320) (i32.const 8)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_append (i32.const 336) (i32.const 6))
    (drop (call $perform)))
  (data (i32.const 320) "raw_rand")
  (data (i32.const 336) "DIDL\00\00")
  (func (export "canister_update get") (call $call_self))
  (func $done (param i32) (call $call_self))"#,
    ));
    let management = Principal::management_canister();
    let argument = candid::encode_one(record(id)).unwrap();
    net.submit(id, user(), "get", vec![]).unwrap();
    net.network.execute_messages();
    let first = net.submit(management, user(), "stop_canister", argument.clone()).unwrap();
    net.network.execute_messages();
    net.network.execute_messages();
    net.network.set_time(net.network.time() + 100_000_000_000);
    let second = net.submit(management, user(), "stop_canister", argument).unwrap();
    for _ in 0..4 {
        net.network.execute_messages();
    }
    net.network.set_time(net.network.time() + 200_000_000_000);
    net.network.start_round();
    let Some(IngressState::Done(Err(reject))) = net.state(first) else { panic!("the first is answered") };
    assert_eq!(reject.code, ErrorCode::StopCanisterRequestTimeout);
    assert_eq!(net.state(second), Some(IngressState::Processing));
    let canister = net.network.canister(id).unwrap();
    assert_eq!(canister.status_type(), types::CanisterStatusType::Stopping);
    let argument = candid::encode_one(record(id)).unwrap();
    let delete = net.submit(management, user(), "delete_canister", argument.clone()).unwrap();
    let start = net.submit(management, user(), "start_canister", argument).unwrap();
    for _ in 0..10 {
        net.network.execute_messages();
    }
    let Some(IngressState::Done(Err(reject))) = net.state(delete) else { panic!("it is not stopped") };
    assert_eq!(reject.code, ErrorCode::CanisterNotStopped);
    assert!(matches!(net.state(start), Some(IngressState::Done(Ok(_)))));
    let Some(IngressState::Done(Err(reject))) = net.state(second) else { panic!("it is cancelled") };
    assert_eq!(reject.code, ErrorCode::CanisterStoppingCancelled);
}

#[test]
fn a_failed_upgrade_leaves_no_trace() {
    let mut net = Net::new();
    let before = module(
        r#"
  (global $g (mut i64) (i64.const 3))
  (func (export "canister_update prepare")
    (drop (call $stable_grow (i64.const 1)))
    (global.set $g (i64.const 4))
    (call $certify (i32.const 256) (i32.const 3))
    (drop (call $timer_set (i64.const 9000000000000000000)))
    (call $reply))
  (func (export "canister_pre_upgrade")
    (global.set $g (i64.const 77))
    (i64.store (i32.const 0) (i64.const 77))
    (drop (call $stable_grow (i64.const 1)))
    (call $stable_write (i64.const 0) (i64.const 0) (i64.const 8))
    (call $certify (i32.const 0) (i32.const 8))
    (drop (call $timer_set (i64.const 5))))
  (func (export "canister_query get")
    (call $stable_read (i64.const 8) (i64.const 0) (i64.const 8))
    (call $reply_i64 (i64.add (global.get $g) (i64.add (i64.load (i32.const 0)) (i64.load (i32.const 8))))))"#,
    );
    let id = net.canister(&before);
    net.call(id, "prepare", []).unwrap();
    let old = net.status(id);
    let hooks = [
        r#"(func (export "canister_post_upgrade") (call $trap (i32.const 256) (i32.const 3)))"#,
        r"(func $fail unreachable) (start $fail)",
        r#"(func (export "canister_post_upgrade") (drop (call $stable_grow (i64.const 5)))
             (call $certify (i32.const 0) (i32.const 0)) (drop (call $timer_set (i64.const 6)))
             (drop (memory.grow (i32.const 60000))))"#,
    ];
    for hook in hooks {
        net.install(id, Mode::Upgrade(None), &module(hook)).unwrap_err();
        assert_eq!(number(&net.query(id, "get", [])), 4);
        let canister = net.network.canister(id).unwrap();
        assert_eq!(canister.certified_data, b"inc");
        assert_eq!(canister.timer, 9_000_000_000_000_000_000);
        assert_eq!(canister.stable.len(), 65_536);
        let status = net.status(id);
        assert_eq!((status.module_hash, status.version), (old.module_hash.clone(), old.version));
    }
    // The new code sees the new version, the old code's hook the old one.
    let versions = |hook: &str| {
        module(&format!(
            r#"
  (import "ic0" "canister_version" (func $version (result i64)))
  (func (export "canister_query get") (call $stable_read (i64.const 0) (i64.const 0) (i64.const 8))
    (call $reply_i64 (i64.load (i32.const 0))))
  (func (export "canister_{hook}")
    (i64.store (i32.const 0) (call $version))
    (call $stable_write (i64.const 0) (i64.const 0) (i64.const 8)))"#
        ))
    };
    net.install(id, Mode::Upgrade(None), &versions("post_upgrade")).unwrap();
    assert_eq!(number(&net.query(id, "get", [])), old.version + 1);
    assert_eq!(net.status(id).version, old.version + 1);
    net.install(id, Mode::Upgrade(None), &versions("pre_upgrade")).unwrap();
    net.install(id, Mode::Upgrade(None), &versions("pre_upgrade")).unwrap();
    assert_eq!(number(&net.query(id, "get", [])), old.version + 2, "the hook of the version before");
}

#[test]
fn calls_of_canisters_can_be_made_to_pay() {
    let mut net = Net::new();
    let caller = net.canister(&module(
        r#"
  (elem (i32.const 1) func $done)
  (func (export "canister_update send")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 256) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_cycles (i64.load (i32.const 1010)))
    (drop (call $perform)))
  (func (export "canister_update inc") (call $reply))
  (func $done (param i32) (call $reply_i64 (i64.extend_i32_u (call $reject_code))))"#,
    ));
    let callee = net.canister(&module(r#"(func (export "canister_update inc") (call $reply))"#));
    let minimum = types::CanisterSettings {
        minimum_incoming_canister_call_cycles: Some(500u32.into()),
        ..Default::default()
    };
    change(&mut net, callee, minimum.clone()).unwrap();
    change(&mut net, caller, minimum).unwrap();
    let send = |net: &mut Net, to: Principal, cycles: u64| {
        let argument = [to.as_slice(), &cycles.to_le_bytes()].concat();
        number(&net.call(caller, "send", argument))
    };
    assert_eq!(send(&mut net, callee, 499), 5);
    assert_eq!(send(&mut net, callee, 500), 0);
    assert_eq!(send(&mut net, caller, 0), 0, "its own calls are free");
    net.call(callee, "inc", []).unwrap();
}

#[test]
fn uninstalled_and_bankrupt_canisters_lose_their_contents() {
    let mut net = Net::new();
    let text = module(
        r#"(func (export "canister_update inc") (call $print (i32.const 256) (i32.const 3)) (call $reply))"#,
    );
    let id = net.canister(&text);
    net.call(id, "inc", []).unwrap();
    net.manage("upload_chunk", types::UploadChunkArgs { canister_id: id, chunk: vec![1] }).unwrap();
    net.install(id, Mode::Upgrade(None), &text).unwrap();
    let log_len = |net: &Net| net.network.canister(id).unwrap().log.records().count();
    assert_eq!(log_len(&net), 1, "upgrades keep the log");
    net.install(id, Mode::Reinstall, &text).unwrap();
    assert_eq!(log_len(&net), 0);
    net.call(id, "inc", []).unwrap();
    net.manage("uninstall_code", record(id)).unwrap();
    assert_eq!(log_len(&net), 0);
    assert!(net.network.canister(id).unwrap().chunks.is_empty());

    net.install(id, Mode::Install, &text).unwrap();
    let args = types::TakeCanisterSnapshotArgs {
        canister_id: id,
        replace_snapshot: None,
        uninstall_code: None,
        sender_canister_version: None,
    };
    net.manage("take_canister_snapshot", args).unwrap();
    net.network.canister_mut(id).unwrap().balance = 10;
    net.network.set_time(net.network.time() + 10_000_000_000_000);
    net.network.round();
    let canister = net.network.canister(id).unwrap();
    assert!(canister.code.is_none() && canister.snapshots.is_empty());
    assert_eq!(canister.history.newest(100).count(), 0);
}
