//! State directories: a network goes on after a restart as if there had been none.

use crate::common::{Net, id_bytes, module, number, server::Server, user};
use candid::Principal;
use ic_agent::identity::AnonymousIdentity;
use ic_management_canister_types as types;
use ic_utils::interfaces::ManagementCanister;
use local_net::{
    network::SubnetKind,
    snapshot,
    state_dir::{StateDir, StateError},
};
use pocket_ic::PocketIcBuilder;
use proptest::prelude::*;
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// `inc` counts in a global, in the heap and in stable memory, and answers with the sum of all three; `relay` lets the canister in
/// the argument count; `late` sets a timer that counts by 100 ten seconds later; `random` answers with random bytes.
fn counter() -> String {
    module(
        r#"
  (elem (i32.const 1) func $done $done $pass_on)
  (global $counter (mut i64) (i64.const 0))
  (func $add (param $n i64)
    (global.set $counter (i64.add (global.get $counter) (local.get $n)))
    (i64.store (i32.const 600) (i64.add (i64.load (i32.const 600)) (local.get $n)))
    (call $stable_read (i64.const 608) (i64.const 0) (i64.const 8))
    (i64.store (i32.const 608) (i64.add (i64.load (i32.const 608)) (local.get $n)))
    (call $stable_write (i64.const 0) (i64.const 608) (i64.const 8))
    (call $certify (i32.const 600) (i32.const 8)))
  (func $sum (result i64)
    (call $stable_read (i64.const 608) (i64.const 0) (i64.const 8))
    (i64.add (global.get $counter) (i64.add (i64.load (i32.const 600)) (i64.load (i32.const 608)))))
  (func (export "canister_init") (drop (call $stable_grow (i64.const 1))))
  (func (export "canister_update inc") (call $add (i64.const 1)) (call $reply_i64 (call $sum)))
  (func (export "canister_query get") (call $reply_i64 (call $sum)))
  (func (export "canister_update late")
    (drop (call $timer_set (i64.add (call $time) (i64.const 10000000000))))
    (call $reply))
  (func (export "canister_global_timer") (call $add (i64.const 100)))
  (func (export "canister_update relay")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 256) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 0))
    (drop (call $perform)))
  (data (i32.const 320) "raw_randDIDL\00\00")
  (func (export "canister_update random")
    (call $call_new (i32.const 0) (i32.const 0) (i32.const 320) (i32.const 8)
      (i32.const 3) (i32.const 0) (i32.const 3) (i32.const 0))
    (call $call_append (i32.const 328) (i32.const 6))
    (drop (call $perform)))
  (func $pass_on (param i32)
    (call $arg_copy (i32.const 700) (i32.const 0) (call $arg_size))
    (call $append (i32.const 700) (call $arg_size))
    (call $reply))
  (func $done (param i32)
    (call $add (i64.const 10))
    (call $reply_i64 (call $sum)))"#,
    )
}

/// Saves the network to `path` and opens it again.
fn restart(net: &mut Net, path: &Path) {
    let (mut state, _) = StateDir::open(path).unwrap();
    state.save(&net.network).unwrap();
    drop(state);
    net.network = StateDir::open(path).unwrap().1.expect("the network that was saved");
}

#[derive(Clone, Debug)]
enum Step {
    Inc(usize),
    Relay(usize, usize),
    Late(usize),
    Advance(u64),
    Round,
    Message,
    Random(usize),
    Upgrade(usize),
    Stop(usize),
    Start(usize),
    Snapshot(usize),
    Load(usize),
}

fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    let canister = 0..3usize;
    let step = prop_oneof![
        3 => canister.clone().prop_map(Step::Inc),
        4 => (canister.clone(), canister.clone()).prop_map(|(a, b)| Step::Relay(a, b)),
        1 => canister.clone().prop_map(Step::Late),
        1 => (1..20u64).prop_map(Step::Advance),
        2 => Just(Step::Round),
        4 => Just(Step::Message),
        1 => canister.clone().prop_map(Step::Random),
        1 => canister.clone().prop_map(Step::Upgrade),
        1 => canister.clone().prop_map(Step::Stop),
        1 => canister.clone().prop_map(Step::Start),
        1 => canister.clone().prop_map(Step::Snapshot),
        1 => canister.prop_map(Step::Load),
    ];
    prop::collection::vec((step, any::<bool>()), 1..25)
}

/// A network of two subnets with canisters on both.
fn network() -> (Net, Vec<Principal>) {
    let mut net = Net::with_subnets(&[SubnetKind::NNS, SubnetKind::Application]);
    let ids = vec![net.canister(&counter()), net.canister(&counter())];
    let far = net.canister_with_id(net.first_id(0), &counter());
    (net, [ids, vec![far]].concat())
}

fn run(net: &mut Net, ids: &[Principal], step: &Step) -> Option<[u8; 32]> {
    let management = Principal::management_canister();
    let record = |i: usize| candid::encode_one(types::CanisterIdRecord { canister_id: ids[i] }).unwrap();
    let (canister, method, argument) = match step {
        Step::Inc(i) => (ids[*i], "inc", vec![]),
        Step::Relay(a, b) => (ids[*a], "relay", id_bytes(ids[*b])),
        Step::Late(i) => (ids[*i], "late", vec![]),
        Step::Random(i) => (ids[*i], "random", vec![]),
        Step::Advance(seconds) => {
            net.network.set_time(net.network.time() + seconds * 1_000_000_000);
            return None;
        }
        Step::Round => {
            net.network.round();
            return None;
        }
        Step::Message => {
            net.network.execute_messages();
            return None;
        }
        Step::Upgrade(i) => {
            let args = types::InstallCodeArgs {
                mode: types::CanisterInstallMode::Upgrade(None),
                canister_id: ids[*i],
                wasm_module: wat::parse_str(counter()).unwrap(),
                arg: vec![],
                sender_canister_version: None,
            };
            (management, "install_code", candid::encode_one(args).unwrap())
        }
        Step::Stop(i) => (management, "stop_canister", record(*i)),
        Step::Start(i) => (management, "start_canister", record(*i)),
        Step::Snapshot(i) => {
            let args = types::TakeCanisterSnapshotArgs {
                canister_id: ids[*i],
                replace_snapshot: None,
                uninstall_code: None,
                sender_canister_version: None,
            };
            (management, "take_canister_snapshot", candid::encode_one(args).unwrap())
        }
        Step::Load(i) => {
            let args = types::LoadCanisterSnapshotArgs {
                canister_id: ids[*i],
                snapshot_id: snapshot::id(ids[*i], 0),
                sender_canister_version: None,
            };
            (management, "load_canister_snapshot", candid::encode_one(args).unwrap())
        }
    };
    net.submit(canister, user(), method, argument).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restarts_change_nothing(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let (mut steady, ids) = network();
        let (mut restarted, same_ids) = network();
        prop_assert_eq!(&ids, &same_ids);
        let mut requests = Vec::new();
        for (step, restarts) in &steps {
            let request = run(&mut steady, &ids, step);
            prop_assert_eq!(request, run(&mut restarted, &ids, step));
            requests.extend(request);
            if *restarts {
                restart(&mut restarted, folder.path());
            }
        }
        for net in [&mut steady, &mut restarted] {
            for _ in 0..30 {
                net.network.round();
            }
        }
        for id in requests {
            prop_assert_eq!(steady.state(id), restarted.state(id));
        }
        for (index, id) in ids.iter().enumerate() {
            prop_assert_eq!(steady.query(*id, "get", []), restarted.query(*id, "get", []));
            prop_assert_eq!(steady.status(*id), restarted.status(*id), "canister {}", index);
        }
        let everything = |net: &Net, subnet| {
            let paths = ids.iter().map(|id| vec![b"canister".to_vec(), id.as_slice().to_vec()]);
            net.network.certify(subnet, paths.collect())
        };
        for subnet in 0..2 {
            prop_assert_eq!(everything(&steady, subnet), everything(&restarted, subnet));
        }
    }
}

#[test]
fn memories_that_did_not_change_are_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut net, ids) = network();
    let (mut state, saved) = StateDir::open(folder.path()).unwrap();
    assert!(saved.is_none());
    let inodes = |number: u64| -> Vec<u64> {
        let folder = folder.path().join(format!("checkpoint-{number}"));
        let memories = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let memories = memories.filter(|entry| entry.file_name().to_string_lossy().starts_with("memory-"));
        memories.map(|entry| entry.metadata().unwrap().ino()).collect()
    };
    state.save(&net.network).unwrap();
    let first = inodes(1);
    assert_eq!(first.len(), 2 * ids.len(), "a heap and a stable memory for each canister");
    net.call(ids[0], "inc", []).unwrap();
    state.save(&net.network).unwrap();
    let second = inodes(2);
    assert_eq!(second.iter().filter(|inode| first.contains(inode)).count(), 2 * ids.len() - 2);
    assert!(!folder.path().join("checkpoint-1").exists());
}

#[test]
fn a_directory_serves_one_process_and_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (net, _) = network();
    let (mut state, _) = StateDir::open(folder.path()).unwrap();
    assert!(matches!(StateDir::open(folder.path()), Err(StateError::InUse(_))));
    state.save(&net.network).unwrap();
    drop(state);

    // What a crash leaves behind.
    fs::create_dir(folder.path().join("unfinished")).unwrap();
    fs::write(folder.path().join("unfinished/network.cbor"), "half").unwrap();
    let (mut state, saved) = StateDir::open(folder.path()).unwrap();
    state.save(&saved.unwrap()).unwrap();
    drop(state);

    let file = folder.path().join("checkpoint-2/network.cbor");
    let bytes = fs::read(&file).unwrap();
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..cut]).unwrap();
        assert!(matches!(StateDir::open(folder.path()), Err(StateError::Damaged { .. })), "cut at {cut}");
    }
    fs::write(&file, &bytes).unwrap();
    let memory = fs::read_dir(folder.path().join("checkpoint-2")).unwrap().map(|e| e.unwrap().path());
    fs::remove_file(memory.into_iter().find(|p| p.ends_with("memory-0")).unwrap()).unwrap();
    let error = StateDir::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("memory-0"), "{error}");
}

#[test]
fn pocket_ic_instances_keep_their_state() {
    let folder = tempfile::tempdir().unwrap();
    let builder = || {
        let builder = PocketIcBuilder::new().with_state_dir(folder.path().into());
        match std::env::var_os("POCKET_IC_BIN") {
            Some(_) => builder,
            None => builder.with_server_binary(env!("CARGO_BIN_EXE_local-net").into()),
        }
    };
    let pic = builder().with_nns_subnet().with_application_subnet().build();
    let id = pic.create_canister();
    pic.add_cycles(id, 1_000_000_000_000_000);
    pic.install_canister(id, wat::parse_str(counter()).unwrap(), vec![], None);
    pic.update_call(id, Principal::anonymous(), "inc", vec![]).unwrap();
    pic.update_call(id, Principal::anonymous(), "late", vec![]).unwrap();
    let (topology, time, cycles) = (pic.topology(), pic.get_time(), pic.cycle_balance(id));
    drop(pic);

    let pic = builder().build();
    assert_eq!(pic.topology().get_app_subnets(), topology.get_app_subnets());
    assert_eq!((pic.get_time(), pic.cycle_balance(id)), (time, cycles));
    let get = || number(&Ok(pic.query_call(id, Principal::anonymous(), "get", vec![]).unwrap()));
    assert_eq!(get(), 3);
    pic.advance_time(std::time::Duration::from_secs(11));
    pic.tick();
    assert_eq!(get(), 303, "the timer was kept");
    assert_ne!(pic.create_canister(), id);
}

#[test]
fn a_server_that_is_asked_to_end_keeps_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::start_with(&["--state-dir".as_ref(), folder.path().as_ref()]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut server = start();
    let id = runtime.block_on(async {
        let agent = server.agent(AnonymousIdentity);
        let management = ManagementCanister::create(&agent);
        let created = management
            .create_canister()
            .as_provisional_create_with_amount(None)
            .with_effective_canister_id(server.effective_canister)
            .call_and_wait();
        let (id,) = created.await.unwrap();
        let wasm = wat::parse_str(counter()).unwrap();
        management.install(&id, &wasm).call_and_wait().await.unwrap();
        agent.update(&id, "inc").call_and_wait().await.unwrap();
        id
    });
    assert!(server.terminate().success());
    let again = start();
    assert_eq!(again.root_key, server.root_key);
    let reply = runtime.block_on(again.agent(AnonymousIdentity).query(&id, "get").call()).unwrap();
    assert_eq!(reply, 3u64.to_le_bytes());
}
