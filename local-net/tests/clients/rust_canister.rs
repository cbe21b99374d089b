//! A canister made with the usual Rust libraries (`test-canister/`), through the `pocket-ic` crate.

use crate::common::pocket::{WASM, install, pocket_ic};
use candid::{Principal, encode_args};
use pocket_ic::{ErrorCode, PocketIc, query_candid, update_candid};
use std::time::{Duration, Instant};

fn get(pic: &PocketIc, canister: Principal, key: &str) -> Option<u64> {
    query_candid::<_, (Option<u64>,)>(pic, canister, "get", (key,)).unwrap().0
}

fn ticks(pic: &PocketIc, canister: Principal) -> u64 {
    query_candid::<_, (u64,)>(pic, canister, "ticks", ()).unwrap().0
}

#[test]
fn stable_structures_survive_upgrades_and_traps() {
    let pic = pocket_ic();
    let a = install(&pic);
    for i in 0..50u64 {
        update_candid::<_, (Option<u64>,)>(&pic, a, "put", (format!("key {i}"), i)).unwrap();
    }
    let trap = update_candid::<_, ()>(&pic, a, "put_then_trap", ("key 7", 0u64)).unwrap_err();
    assert_eq!(trap.error_code, ErrorCode::CanisterCalledTrap);
    assert_eq!(get(&pic, a, "key 7"), Some(7));
    pic.upgrade_canister(a, WASM.clone(), encode_args(()).unwrap(), None).unwrap();
    assert_eq!(get(&pic, a, "key 49"), Some(49));
}

#[test]
fn futures_resume_and_are_cleaned_up() {
    let pic = pocket_ic();
    let (a, b) = (install(&pic), install(&pic));
    let (relayed,): (Result<Option<u64>, String>,) =
        update_candid(&pic, a, "relay_put", (b, "relayed", 5u64)).unwrap();
    assert_eq!(relayed, Ok(None));
    assert_eq!(get(&pic, b, "relayed"), Some(5));
    let nobody = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 1, 1]);
    let (refused,): (Result<Option<u64>, String>,) =
        update_candid(&pic, a, "relay_put", (nobody, "relayed", 5u64)).unwrap();
    assert!(refused.unwrap_err().contains("not found"));

    update_candid::<_, ()>(&pic, a, "trap_after_await", ("half",)).unwrap_err();
    assert_eq!(get(&pic, a, "half"), Some(1), "what came before the trap's message stays");
    assert_eq!(query_candid::<_, (u64,)>(&pic, a, "guards", ()).unwrap().0, 1);
}

#[test]
fn timers_fire() {
    let pic = pocket_ic();
    let a = install(&pic);
    update_candid::<_, ()>(&pic, a, "start_ticking", (10u64,)).unwrap();
    pic.tick();
    assert_eq!(ticks(&pic, a), 0);
    for expected in 1..=3 {
        pic.advance_time(Duration::from_secs(10));
        pic.tick();
        pic.tick();
        assert_eq!(ticks(&pic, a), expected);
    }
    let b = install(&pic);
    update_candid::<_, ()>(&pic, b, "start_slices", (5u64,)).unwrap();
    for _ in 0..10 {
        pic.tick();
    }
    assert_eq!(ticks(&pic, b), 5, "each slice starts the next");
}

#[test]
fn a_factory_creates_and_installs() {
    let pic = pocket_ic();
    let factory = install(&pic);
    let (created,): (Result<Principal, String>,) =
        update_candid(&pic, factory, "create", (WASM.clone(), 2_000_000_000_000u128)).unwrap();
    let child = created.unwrap();
    assert_eq!(pic.get_controllers(child), vec![factory]);
    update_candid::<_, (Option<u64>,)>(&pic, child, "put", ("a", 1u64)).unwrap();
    assert_eq!(get(&pic, child, "a"), Some(1));
    assert!(pic.cycle_balance(child) > 1_990_000_000_000);
    let (random,): (Result<Vec<u8>, String>,) = update_candid(&pic, factory, "random", ()).unwrap();
    assert_eq!(random.unwrap().len(), 32);
}

#[test]
fn composite_queries_ask_other_canisters() {
    let pic = pocket_ic();
    let (a, b) = (install(&pic), install(&pic));
    update_candid::<_, (Option<u64>,)>(&pic, b, "put", ("there", 3u64)).unwrap();
    let (answer,): (Result<Option<u64>, String>,) = query_candid(&pic, a, "get_from", (b, "there")).unwrap();
    assert_eq!(answer, Ok(Some(3)));
    let nobody = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 1, 1]);
    let (refused,): (Result<Option<u64>, String>,) =
        query_candid(&pic, a, "get_from", (nobody, "x")).unwrap();
    assert!(refused.is_err());
    let replicated = update_candid::<_, (Result<Option<u64>, String>,)>(&pic, a, "get_from", (b, "there"));
    assert_eq!(replicated.unwrap_err().error_code, ErrorCode::CompositeQueryCalledInReplicatedMode);
}

#[test]
fn a_large_module_travels_in_chunks_and_instances_run_in_parallel() {
    // A custom section of 2.5 MB makes the client upload the module in chunks.
    let mut wasm = WASM.clone();
    let name_and_content = [&[1, b'x'][..], &vec![0; 2_500_000]].concat();
    wasm.push(0);
    leb128::write::unsigned(&mut wasm, name_and_content.len() as u64).unwrap();
    wasm.extend(name_and_content);
    std::thread::scope(|scope| {
        for n in 0..8u64 {
            let wasm = &wasm;
            scope.spawn(move || {
                let pic = pocket_ic();
                let a = pic.create_canister();
                pic.install_canister(a, wasm.clone(), encode_args(()).unwrap(), None);
                update_candid::<_, (Option<u64>,)>(&pic, a, "put", ("n", n)).unwrap();
                assert_eq!(get(&pic, a, "n"), Some(n));
            });
        }
    });
}

#[test]
fn a_live_network_works_by_itself() {
    let mut pic = pocket_ic();
    let url = pic.make_live(None);
    let a = install(&pic);
    update_candid::<_, ()>(&pic, a, "start_slices", (4u64,)).unwrap();
    let start = Instant::now();
    while ticks(&pic, a) < 4 {
        assert!(start.elapsed() < Duration::from_secs(20), "the timers do not fire");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(url.port().is_some());
    pic.stop_live();
    let time = pic.get_time();
    pic.tick();
    assert!(pic.get_time() > time);
}
