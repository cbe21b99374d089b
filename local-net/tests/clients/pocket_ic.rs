//! The unmodified `pocket-ic` crate against the server.

use crate::common::{
    id_bytes, module,
    pocket::{builder, pocket_ic},
    user,
};
use candid::Principal;
use pocket_ic::{
    CanisterSettings, ErrorCode, IngressStatusResult, PocketIc, RejectCode, TickConfigs, Time,
    common::rest::{BlobCompression, InstanceHttpGatewayConfig},
    nonblocking,
};
use std::{
    io::Write,
    time::{Duration, SystemTime},
};

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

fn number(reply: &[u8]) -> u64 {
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

#[tokio::test]
async fn a_counter_in_an_asynchronous_test() {
    let pic = builder().build_async().await;
    let canister = pic.create_canister().await;
    pic.install_canister(canister, counter(), vec![], None).await;
    for expected in 1..=3 {
        let reply = pic.update_call(canister, user(), "inc", vec![]).await.unwrap();
        assert_eq!(number(&reply), expected);
    }
    assert_eq!(number(&pic.query_call(canister, user(), "get", vec![]).await.unwrap()), 3);
    pic.drop().await;
}

#[test]
fn time_is_set_advanced_and_ticks() {
    let pic = pocket_ic();
    let start = Time::from_nanos_since_unix_epoch(1_620_328_630_000_000_000);
    assert_eq!(pic.get_time(), start);
    pic.tick();
    pic.tick_with_configs(TickConfigs::default());
    assert_eq!(pic.get_time(), start + Duration::from_nanos(2));
    pic.advance_time(Duration::from_hours(1));
    assert_eq!(pic.get_time(), start + Duration::from_nanos(2) + Duration::from_hours(1));
    let now: Time = SystemTime::now().into();
    pic.set_time(now);
    assert_eq!(pic.get_time(), now);
    pic.set_time(now);
    pic.set_certified_time(now + Duration::from_secs(1));
    assert_eq!(pic.get_time(), now + Duration::from_secs(1));

    let later = start + Duration::from_hours(24);
    let pic = builder().with_initial_time(later).build();
    assert_eq!(pic.get_time(), later);
}

#[test]
#[should_panic(expected = "SettingTimeIntoPast")]
fn time_does_not_go_back() {
    let pic = pocket_ic();
    pic.set_time(pic.get_time() + Duration::from_secs(1));
    pic.set_time(pic.get_time() + Duration::from_nanos(0));
    let past = Time::from_nanos_since_unix_epoch(pic.get_time().as_nanos_since_unix_epoch() - 1);
    pic.set_time(past);
}

#[test]
#[should_panic(expected = "must be no earlier than 1620328630000000000")]
fn time_begins_in_2021() {
    builder().with_initial_time(Time::from_nanos_since_unix_epoch(0)).build();
}

#[test]
fn canisters_are_created_with_ids_settings_and_subnets() {
    let pic = builder().with_nns_subnet().with_application_subnet().build();
    let wanted = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 42, 1, 1]);
    assert!(!pic.canister_exists(wanted));
    assert_eq!(pic.create_canister_with_id(Some(user()), None, wanted), Ok(wanted));
    assert!(pic.canister_exists(wanted));
    assert!(pic.create_canister_with_id(Some(user()), None, wanted).unwrap_err().contains("already"));
    let topology = pic.topology();
    assert_eq!(pic.get_subnet(wanted), topology.get_nns());
    let subnets = topology.get_app_subnets();
    assert_eq!(subnets.len(), 2);
    for subnet in subnets {
        let settings = CanisterSettings { compute_allocation: Some(0u8.into()), ..Default::default() };
        let canister = pic.create_canister_on_subnet(Some(user()), Some(settings), subnet);
        assert_eq!(pic.get_subnet(canister), Some(subnet));
        assert_eq!(pic.get_controllers(canister), vec![user()]);
    }
    assert_eq!(pic.get_subnet(Principal::anonymous()), None);
    assert!(pic.root_key().is_some());
    assert_eq!(pocket_ic().root_key(), None, "the root key is that of an NNS subnet");
}

#[test]
fn messages_cost_cycles() {
    let pic = pocket_ic();
    let canister = install(&pic, counter());
    let before = pic.cycle_balance(canister);
    call(&pic, canister, "inc", &[]);
    let cost = before - pic.cycle_balance(canister);
    assert!((6_200_000..60_000_000).contains(&cost), "{cost}");
    let before = pic.cycle_balance(canister);
    get(&pic, canister);
    assert_eq!(pic.cycle_balance(canister), before, "queries are free");

    let args = CanisterSettings { freezing_threshold: Some((1u64 << 60).into()), ..Default::default() };
    pic.update_canister_settings(canister, Some(user()), args).unwrap();
    let frozen = pic.update_call(canister, user(), "inc", vec![]).unwrap_err();
    assert_eq!(frozen.error_code, ErrorCode::CanisterOutOfCycles);
    assert_eq!(frozen.reject_code, RejectCode::SysTransient);
}

#[test]
fn stable_memory_is_read_and_written() {
    let pic = pocket_ic();
    let canister = install(&pic, counter());
    let data: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    pic.set_stable_memory(canister, data.clone(), BlobCompression::NoCompression);
    assert_eq!(pic.get_stable_memory(canister)[..data.len()], data);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"decompressed on the way").unwrap();
    pic.set_stable_memory(canister, gzip.finish().unwrap(), BlobCompression::Gzip);
    assert!(pic.get_stable_memory(canister).starts_with(b"decompressed on the way"));
}

#[test]
fn calls_are_submitted_first_and_awaited_later() {
    let pic = pocket_ic();
    let (a, b) = (install(&pic, counter()), install(&pic, counter()));
    let submit =
        |canister, method, argument: Vec<u8>| pic.submit_call(canister, user(), method, argument).unwrap();
    let calls = [submit(a, "inc", vec![]), submit(a, "relay", id_bytes(b)), submit(a, "inc", vec![])];
    assert!(matches!(pic.ingress_status_as(calls[0].clone(), user()), IngressStatusResult::NotAvailable));
    assert_eq!(get(&pic, a), 0, "nothing happens by itself");
    assert_eq!(number(&pic.await_call(calls[2].clone()).unwrap()), 2);
    assert_eq!(number(&pic.await_call(calls[0].clone()).unwrap()), 1);
    assert_eq!(number(&pic.await_call(calls[1].clone()).unwrap()), 1);
    let status = pic.ingress_status_as(calls[0].clone(), user());
    assert!(matches!(status, IngressStatusResult::Success(Ok(reply)) if number(&reply) == 1));
    assert_eq!(number(&pic.ingress_status(calls[0].clone()).unwrap().unwrap()), 1);
    let forbidden = pic.ingress_status_as(calls[0].clone(), Principal::anonymous());
    assert!(matches!(forbidden, IngressStatusResult::Forbidden(_)));
}

#[test]
fn instances_do_not_know_each_other() {
    let (first, second) = (pocket_ic(), pocket_ic());
    let (a, b) = (install(&first, counter()), install(&second, counter()));
    call(&first, a, "inc", &[]);
    assert_eq!((get(&first, a), get(&second, b)), (1, 0));
    let handle = PocketIc::new_from_existing_instance(first.get_server_url(), first.instance_id(), None);
    assert_eq!(get(&handle, a), 1);
    drop(handle);
    assert_eq!(get(&first, a), 1, "a handle does not own the instance");

    let url = first.get_server_url().join("instances").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let states = || -> Vec<String> {
        let list = async { reqwest::get(url.clone()).await.unwrap().text().await.unwrap() };
        serde_json::from_str(&runtime.block_on(list)).unwrap()
    };
    let id = first.instance_id();
    assert_eq!(states()[id], "Available");
    drop(first);
    assert_eq!(states()[id], "Deleted");
}

#[test]
fn a_live_instance_serves_agents_and_finds_its_default_canister() {
    let mut pic = pocket_ic();
    let canister = install(&pic, counter());
    assert!(!pic.auto_progress_enabled());
    let url = pic.make_live(None);
    assert!(pic.auto_progress_enabled());
    assert_eq!(pic.url(), Some(url.clone()));
    assert_eq!(pic.make_live(None), url, "a live instance stays as it is");
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(pic.get_time().as_nanos_since_unix_epoch() >= started - 10_000_000_000);

    let call = pic.submit_call(canister, user(), "inc", vec![]).unwrap();
    assert_eq!(number(&pic.await_call_no_ticks(call).unwrap()), 1);

    let expected = Principal::from_slice(&pic.topology().default_effective_canister_id.canister_id);
    let instance = pic.get_server_url().join(&format!("instances/{}", pic.instance_id())).unwrap();
    for url in [url.to_string(), instance.to_string()] {
        assert_eq!(pocket_ic::get_default_effective_canister_id(url).unwrap(), expected);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let agent = ic_agent::Agent::builder().with_url(url).build().unwrap();
        agent.fetch_root_key().await.unwrap();
        let reply = agent.update(&canister, "inc").call_and_wait().await.unwrap();
        assert_eq!(number(&reply), 2);
    });
    pic.stop_live();
    assert!(!pic.auto_progress_enabled());
    assert_eq!(pic.url(), None);
    let time = pic.get_time();
    pic.tick();
    assert_eq!(pic.get_time(), time + Duration::from_nanos(1), "time stands still again");
}

#[test]
fn an_instance_is_live_from_the_beginning() {
    let gateway = InstanceHttpGatewayConfig {
        ip_addr: None,
        port: None,
        domains: Some(vec!["localhost".into(), "local.test".into()]),
        https_config: None,
        domain_custom_provider_local_file: None,
    };
    let pic = builder().with_auto_progress().with_http_gateway(gateway).build();
    assert!(pic.auto_progress_enabled());
    assert!(pic.url().is_some());
    let canister = pic.create_canister();
    assert!(pic.canister_exists(canister));
}

#[tokio::test]
async fn instances_work_side_by_side() {
    let run = async |n: u64| {
        let pic: nonblocking::PocketIc = builder().build_async().await;
        let canister = pic.create_canister().await;
        pic.install_canister(canister, counter(), vec![], None).await;
        let mut last = 0;
        for _ in 0..n {
            last = number(&pic.update_call(canister, user(), "inc", vec![]).await.unwrap());
        }
        pic.drop().await;
        last
    };
    assert_eq!(tokio::join!(run(1), run(2), run(3), run(4)), (1, 2, 3, 4));
}
