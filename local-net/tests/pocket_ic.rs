//! The unmodified `pocket-ic` crate against the server.

mod common;

use candid::Principal;
use common::{id_bytes, module, pocket::pocket_ic, user};
use pocket_ic::{CanisterSettings, ErrorCode, PocketIc, RejectCode, common::rest::BlobCompression};
use std::time::Duration;

/// A counter at address 0, kept over upgrades in stable memory; `relay` calls `inc` of another canister, `timer` sets a timer
/// ten seconds ahead that counts by 100, `fail` counts and traps.
fn counter() -> Vec<u8> {
    let text = module(
        r#"
  (elem (i32.const 1) func $relay_done $relay_done)
  (func $inc (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.const 1))))
  (func (export "canister_update inc") (call $inc) (call $reply_i64 (i64.load (i32.const 0))))
  (func (export "canister_query get") (call $reply_i64 (i64.load (i32.const 0))))
  (func (export "canister_query inc_in_query") (call $inc) (call $reply_i64 (i64.load (i32.const 0))))
  (func (export "canister_update fail") (call $inc) (call $trap (i32.const 288) (i32.const 4)))
  (func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))
  (func (export "canister_update recurse") (drop (call $deeper (i32.const 1))))
  (func (export "canister_update divide") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "canister_update outside") (drop (i64.load (i32.const -8))))
  (func (export "canister_update say_no") (call $reject (i32.const 288) (i32.const 4)))
  (func (export "canister_update timer")
    (drop (call $timer_set (i64.add (call $time) (i64.const 10000000000))))
    (call $reply))
  (func (export "canister_global_timer")
    (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.const 100))))
  (func (export "canister_update relay")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 256) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 0))
    (drop (call $perform)))
  (func $relay_done (param i32)
    (call $arg_copy (i32.const 512) (i32.const 0) (i32.const 8))
    (call $append (i32.const 512) (i32.const 8))
    (call $reply))
  (func (export "canister_update log") (call $print (i32.const 256) (i32.const 3)) (call $reply))
  (func (export "canister_pre_upgrade")
    (drop (call $stable_grow (i64.const 1)))
    (call $stable_write (i64.const 0) (i64.const 0) (i64.const 8)))
  (func (export "canister_post_upgrade") (call $stable_read (i64.const 0) (i64.const 0) (i64.const 8)))
"#,
    );
    wat::parse_str(text).unwrap()
}

fn call(pic: &PocketIc, canister: Principal, method: &str, argument: &[u8]) -> u64 {
    let reply = pic.update_call(canister, user(), method, argument.to_vec()).unwrap();
    u64::from_le_bytes(reply[..8].try_into().unwrap())
}

fn get(pic: &PocketIc, canister: Principal) -> u64 {
    let reply = pic.query_call(canister, user(), "get", vec![]).unwrap();
    u64::from_le_bytes(reply.try_into().unwrap())
}

fn install(pic: &PocketIc, wasm: Vec<u8>) -> Principal {
    let canister = pic.create_canister_with_settings(Some(user()), None);
    pic.install_canister(canister, wasm, vec![], Some(user()));
    canister
}

#[test]
fn calls_queries_traps_and_timers() {
    let pic = pocket_ic();
    let (a, b) = (install(&pic, counter()), install(&pic, counter()));
    assert_eq!(call(&pic, a, "inc", &[]), 1);
    assert_eq!(get(&pic, a), 1);
    let reply = pic.query_call(a, user(), "inc_in_query", vec![]).unwrap();
    assert_eq!(u64::from_le_bytes(reply.try_into().unwrap()), 2);
    assert_eq!(get(&pic, a), 1, "a query changes nothing");

    let trap = pic.update_call(a, user(), "fail", vec![]).unwrap_err();
    assert_eq!(
        (trap.reject_code, trap.error_code),
        (RejectCode::CanisterError, ErrorCode::CanisterCalledTrap)
    );
    assert!(trap.reject_message.contains("Canister called `ic0.trap` with message: 'fail'"), "{trap}");
    assert_eq!(get(&pic, a), 1, "the trapped message's changes are undone");

    for (method, text) in [
        ("recurse", "stack overflow"),
        ("divide", "integer division by 0"),
        ("outside", "heap out of bounds"),
    ] {
        let trap = pic.update_call(a, user(), method, vec![]).unwrap_err();
        assert_eq!(trap.error_code, ErrorCode::CanisterTrapped);
        assert!(trap.reject_message.contains(text), "{trap}");
    }

    let reject = pic.update_call(a, user(), "say_no", vec![]).unwrap_err();
    assert_eq!(
        (reject.reject_message.as_str(), reject.error_code),
        ("fail", ErrorCode::CanisterRejectedMessage)
    );
    let missing = pic.update_call(a, user(), "nothing", vec![]).unwrap_err();
    assert_eq!(missing.error_code, ErrorCode::CanisterMethodNotFound);

    assert_eq!(call(&pic, a, "relay", &id_bytes(b)), 1);
    assert_eq!(get(&pic, b), 1, "the other canister was called");

    pic.update_call(a, user(), "timer", vec![]).unwrap();
    pic.tick();
    assert_eq!(get(&pic, a), 1);
    pic.advance_time(Duration::from_secs(11));
    pic.tick();
    assert_eq!(get(&pic, a), 101);
}

#[test]
fn life_of_a_canister() {
    let pic = pocket_ic();
    let a = install(&pic, counter());
    call(&pic, a, "inc", &[]);
    pic.upgrade_canister(a, counter(), vec![], Some(user())).unwrap();
    assert_eq!(get(&pic, a), 1, "stable memory survives an upgrade");
    assert_eq!(pic.get_stable_memory(a)[..8], 1u64.to_le_bytes());
    pic.reinstall_canister(a, counter(), vec![], Some(user())).unwrap();
    assert_eq!(get(&pic, a), 0);
    assert!(pic.get_stable_memory(a).is_empty());
    pic.set_stable_memory(a, 9u64.to_le_bytes().to_vec(), BlobCompression::NoCompression);
    assert_eq!(pic.get_stable_memory(a)[..8], 9u64.to_le_bytes());

    let status = pic.canister_status(a, Some(user())).unwrap();
    assert!(status.module_hash.is_some());
    let stranger = Principal::self_authenticating(b"stranger");
    let refused = pic.canister_status(a, Some(stranger)).unwrap_err();
    assert_eq!(refused.error_code, ErrorCode::CanisterStatusAccessDenied);

    let before = pic.cycle_balance(a);
    assert_eq!(pic.add_cycles(a, 1_000), before + 1_000);
    pic.update_call(a, user(), "log", vec![]).unwrap();
    let log = pic.fetch_canister_logs(a, user()).unwrap();
    assert_eq!(log.last().unwrap().content, b"inc");

    pic.stop_canister(a, Some(user())).unwrap();
    let stopped = pic.update_call(a, user(), "inc", vec![]).unwrap_err();
    assert_eq!(stopped.error_code, ErrorCode::CanisterStopped);
    pic.start_canister(a, Some(user())).unwrap();
    call(&pic, a, "inc", &[]);

    pic.set_controllers(a, Some(user()), vec![user(), stranger]).unwrap();
    assert_eq!(pic.get_controllers(a), vec![user(), stranger]);
    pic.update_canister_settings(
        a,
        Some(stranger),
        CanisterSettings { freezing_threshold: Some(7u8.into()), ..Default::default() },
    )
    .unwrap();
    pic.uninstall_canister(a, Some(user())).unwrap();
    let empty = pic.update_call(a, user(), "inc", vec![]).unwrap_err();
    assert_eq!(empty.error_code, ErrorCode::CanisterWasmModuleNotFound);
    pic.stop_canister(a, Some(user())).unwrap();
    pic.delete_canister(a, Some(user())).unwrap();
    assert!(!pic.canister_exists(a));
}
