//! Execution of messages: undoing, metering, limits and the order of callbacks.

use crate::common::{Net, code, id_bytes, module, number, user};
use ic_management_canister_types::CanisterInstallMode;
use local_net::{
    costs::{self, DIRTY_PAGE_COPY, Fees, PAGE_ACCESS, PERFORMANCE_COUNTER, STABLE_ACCESS, SYSTEM_CALL},
    limits,
    network::{IngressState, SubnetKind},
    reject::ErrorCode,
};

/// What the tests' subnet charges.
const FEES: Fees = Fees::of(SubnetKind::Application);

/// Instructions for the first access to a 64 KiB page, and again for its first change.
const WASM_PAGE_ACCESS: u64 = 16 * PAGE_ACCESS;

#[test]
fn a_trap_undoes_heap_globals_stable_memory_and_effects() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (global $g (mut i64) (i64.const 5))
  (func (export "canister_update spoil")
    (i64.store (i32.const 0) (i64.const 77))
    (global.set $g (i64.const 77))
    (drop (memory.grow (i32.const 1)))
    (i64.store (i32.const 65536) (i64.const 77))
    (drop (call $stable_grow (i64.const 1)))
    (call $stable_write (i64.const 0) (i64.const 0) (i64.const 8))
    (call $certify (i32.const 0) (i32.const 8))
    (drop (call $timer_set (i64.const 1)))
    (call $print (i32.const 256) (i32.const 3))
    (call $append (i32.const 0) (i32.const 8))
    (call $reply)
    unreachable)
  (func (export "canister_query state")
    (call $reply_i64 (i64.add
      (i64.add (i64.load (i32.const 0)) (i64.mul (global.get $g) (i64.const 10)))
      (i64.add (i64.mul (i64.extend_i32_u (memory.size)) (i64.const 1000))
               (i64.mul (call $stable_size) (i64.const 100000))))))
  (func (export "canister_global_timer") (i64.store (i32.const 0) (i64.const 99)))"#,
    ));
    for _ in 0..3 {
        let response = net.call(id, "spoil", []);
        assert_eq!(code(&response), ErrorCode::CanisterTrapped);
        assert_eq!(
            response.unwrap_err().message,
            format!("Error from Canister {id}: Canister trapped: unreachable")
        );
        net.network.round();
        assert_eq!(number(&net.query(id, "state", [])), 1050);
    }
    let canister = net.network.canister(id).unwrap();
    assert!(canister.certified_data.is_empty());
    let log: Vec<_> =
        canister.log.records().map(|r| String::from_utf8_lossy(&r.content).into_owned()).collect();
    assert_eq!(log[..2], ["inc", "[TRAP]: unreachable"], "the log is kept");
}

#[test]
fn changes_of_a_message_last() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (global $g (mut i64) (i64.const 0))
  (func (export "canister_update step")
    (global.set $g (i64.add (global.get $g) (i64.const 1)))
    (drop (memory.grow (i32.const 1)))
    (i64.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8)) (global.get $g))
    (drop (call $stable_grow (i64.const 1)))
    (i64.store (i32.const 0) (global.get $g))
    (call $stable_write (i64.mul (global.get $g) (i64.const 60000)) (i64.const 0) (i64.const 8))
    (call $reply))
  (func (export "canister_query at") (local $at i32)
    (call $arg_copy (i32.const 0) (i32.const 0) (i32.const 4))
    (local.set $at (i32.load (i32.const 0)))
    (call $reply_i64 (i64.load (i32.sub (i32.mul (local.get $at) (i32.const 65536)) (i32.const 8)))))
  (func (export "canister_query stable_at")
    (call $arg_copy (i32.const 0) (i32.const 0) (i32.const 4))
    (call $stable_read (i64.const 16) (i64.mul (i64.load32_u (i32.const 0)) (i64.const 60000)) (i64.const 8))
    (call $reply_i64 (i64.load (i32.const 16))))"#,
    ));
    for _ in 0..5 {
        net.call(id, "step", []).unwrap();
    }
    for step in 1..=5u32 {
        assert_eq!(number(&net.query(id, "at", (step + 1).to_le_bytes())), u64::from(step));
        assert_eq!(number(&net.query(id, "stable_at", step.to_le_bytes())), u64::from(step));
    }
}

#[test]
fn instructions_are_those_of_the_table() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (func (export "canister_query straight")
    (drop (i32.div_s (i32.const 7) (i32.const 2)))
    (drop (f32.div (f32.const 7) (f32.const 2)))
    (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (v128.const i64x2 0 0) (v128.const i64x2 0 0)))
    (drop (memory.grow (i32.const 0)))
    (call $reply_i64 (call $counter (i32.const 0))))
  (func (export "canister_query looped") (local $i i32)
    (local.set $i (i32.const 10))
    (loop $again
      (local.tee $i (i32.sub (local.get $i) (i32.const 1)))
      (br_if $again))
    (if (local.get $i) (then unreachable) (else (nop)))
    (call $nothing)
    (call $reply_i64 (call $counter (i32.const 0))))
  (func $nothing)
  (func $choose (param i32) (result i32)
    (block $c (block $b (block $a (br_table $a $b $c (local.get 0)))
      (return (i32.const 10)))
      (return (i32.add (i32.const 1) (i32.const 2))))
    (i32.const 5))
  (func $either (param i32) (result i32)
    (if (result i32) (local.get 0) (then (i32.const 1)) (else (i32.mul (i32.const 2) (i32.const 3)))))
  (func (export "canister_query branches")
    (drop (call $choose (i32.const 0)))
    (drop (call $choose (i32.const 1)))
    (drop (call $choose (i32.const 7)))
    (drop (call $either (i32.const 1)))
    (drop (call $either (i32.const 0)))
    (call $reply_i64 (call $counter (i32.const 0))))
  (func (export "canister_query bulk")
    (memory.fill (i32.const 1024) (i32.const 1) (i32.const 777))
    (call $reply_i64 (call $counter (i32.const 0))))"#,
    ));
    let answer = 1 + 5 + PERFORMANCE_COUNTER + 5;
    // Every function costs one; then operands, operator and drop.
    let straight = 1 + (2 + 10 + 1) + (2 + 3 + 1) + (2 + 3 + 1) + (1 + 300 + 1) + answer;
    assert_eq!(number(&net.query(id, "straight", [])), straight);
    let looped = 1 + 2 + 10 * (1 + 1 + 1 + 1 + 2) + (1 + 2) + 1 + (5 + 1) + answer;
    assert_eq!(number(&net.query(id, "looped", [])), looped);
    let call = 1 + 5 + 1;
    let choose = (1 + 3 + 2) + (1 + 3 + 4) + (1 + 3 + 1);
    let either = (1 + 1 + 2 + 1) + (1 + 1 + 2 + 3);
    assert_eq!(number(&net.query(id, "branches", [])), 1 + 5 * call + choose + either + answer);
    let bulk = 1 + 3 + 100 + 777 + answer + 2 * WASM_PAGE_ACCESS;
    assert_eq!(number(&net.query(id, "bulk", [])), bulk);
}

#[test]
fn touched_pages_are_charged_once() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (func $start_pages (drop (memory.grow (i32.const 9))))
  (start $start_pages)
  (func (export "canister_update prepare") (drop (call $stable_grow (i64.const 4))) (call $reply))
  (func (export "canister_query read_two") (local $before i64)
    (local.set $before (call $counter (i32.const 0)))
    (drop (i64.load (i32.const 65536)))
    (drop (i64.load (i32.const 131064)))
    (drop (i64.load (i32.const 524288)))
    (call $reply_i64 (i64.sub (call $counter (i32.const 0)) (local.get $before))))
  (func (export "canister_query write_two") (local $before i64)
    (local.set $before (call $counter (i32.const 0)))
    (i32.store8 (i32.const 65536) (i32.const 1))
    (drop (i64.load (i32.const 65540)))
    (i32.store8 (i32.const 524288) (i32.const 1))
    (call $reply_i64 (i64.sub (call $counter (i32.const 0)) (local.get $before))))
  (func (export "canister_query stable") (local $before i64)
    (i64.store (i32.const 0) (i64.const 1))
    (local.set $before (call $counter (i32.const 0)))
    (call $stable_write (i64.const 65530) (i64.const 0) (i64.const 8))
    (call $stable_read (i64.const 0) (i64.const 65530) (i64.const 8))
    (call $stable_read (i64.const 0) (i64.const 200000) (i64.const 8))
    (call $reply_i64 (i64.sub (call $counter (i32.const 0)) (local.get $before))))"#,
    ));
    net.call(id, "prepare", []).unwrap();
    assert_eq!(number(&net.query(id, "read_two", [])), PERFORMANCE_COUNTER + 2 * WASM_PAGE_ACCESS);
    assert_eq!(number(&net.query(id, "write_two", [])), PERFORMANCE_COUNTER + 4 * WASM_PAGE_ACCESS);
    // Two pages written, one more read.
    let stable = 3 * (STABLE_ACCESS + 8) + 5 * WASM_PAGE_ACCESS;
    assert_eq!(number(&net.query(id, "stable", [])), PERFORMANCE_COUNTER + stable);
}

#[test]
fn a_message_is_paid_for() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"(func (export "canister_update touch") (i32.store8 (i32.const 0) (i32.const 1)) (call $reply))"#,
    ));
    let before = net.balance(id);
    net.call(id, "touch", []).unwrap();
    let instructions = 1 + 3 + 5 + SYSTEM_CALL + 2 * WASM_PAGE_ACCESS + 16 * DIRTY_PAGE_COPY;
    let fee = FEES.ingress(5) + FEES.execution(instructions);
    assert_eq!(before - net.balance(id), fee);
    let before = net.balance(id);
    net.query(id, "touch", []).unwrap_err();
    assert_eq!(net.balance(id), before, "queries are free");
}

#[test]
fn the_second_counter_adds_up_the_messages_of_a_call() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (elem (i32.const 1) func $back)
  (func (export "canister_update get") (call $reply_i64 (i64.const 1)))
  (func (export "canister_update twice")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (drop (call $perform)))
  (func $back (param i32)
    (call $reply_i64 (i64.sub (call $counter (i32.const 1)) (call $counter (i32.const 0)))))"#,
    ));
    let first_message = number(&net.call(id, "twice", id_bytes(id)));
    assert!(first_message > costs::CALL_NEW + costs::CALL_PERFORM);
    assert!(first_message < 1_000_000);
}

/// `burn` uses up instructions quickly: `table.size` costs a hundred each.
fn burner() -> String {
    let sizes = "(drop (table.size 0))".repeat(200);
    module(&format!(
        r#"
  (func $forever (loop $again {sizes} (br $again)))
  (func (export "canister_update burn") (i64.store (i32.const 0) (i64.const 1)) (call $forever))
  (func (export "canister_query burn_query") (call $forever))
  (func (export "canister_query get") (call $reply_i64 (i64.load (i32.const 0))))
  (func (export "canister_inspect_message")
    (call $accept)
    (if (i32.eq (call $arg_size) (i32.const 1)) (then (call $forever))))"#
    ))
}

#[test]
fn instruction_limits_stop_a_message() {
    let mut net = Net::new();
    let id = net.canister(&burner());
    let before = net.balance(id);
    let update = net.call(id, "burn", []);
    assert_eq!(code(&update), ErrorCode::CanisterInstructionLimitExceeded);
    assert!(update.unwrap_err().message.contains("exceeded the limit of 40000000000 instructions"));
    assert!(before - net.balance(id) >= FEES.execution(limits::UPDATE_INSTRUCTIONS), "all of them are paid");
    assert_eq!(number(&net.query(id, "get", [])), 0, "and undone");
    let query = net.query(id, "burn_query", []).unwrap_err();
    assert!(query.message.contains("exceeded the limit of 5000000000 instructions"), "{query}");
    let inspect = net.call(id, "burn", [0]).unwrap_err();
    assert!(inspect.message.contains("exceeded the limit of 200000000 instructions"), "{inspect}");
}

#[test]
fn inspect_message_decides_about_users_only() {
    let mut net = Net::new();
    let text = module(
        r#"
  (elem (i32.const 1) func $back)
  (func (export "canister_inspect_message") (if (i32.eqz (call $arg_size)) (then (call $accept))))
  (func (export "canister_update get") (call $reply_i64 (i64.const 3)))
  (func (export "canister_update relay") (call $reply))
  (func (export "canister_heartbeat")
    (if (i64.eqz (i64.load (i32.const 0))) (then (return)))
    (i64.store (i32.const 0) (i64.const 0))
    (call $call_new (i32.const 8) (i32.const 10) (i32.const 272) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_append (i32.const 0) (i32.const 8))
    (drop (call $perform)))
  (func $back (param i32)
    (call $arg_copy (i32.const 32) (i32.const 0) (i32.const 8)))
  (func (export "canister_query seen") (call $reply_i64 (i64.load (i32.const 32))))
  (func (export "canister_init") (call $arg_copy (i32.const 0) (i32.const 0) (call $arg_size)))"#,
    );
    let id = net.create_with(100_000_000_000_000, None);
    let mut argument = 1u64.to_le_bytes().to_vec();
    argument.extend(id_bytes(id));
    let args = ic_management_canister_types::InstallCodeArgs {
        mode: CanisterInstallMode::Install,
        canister_id: id,
        wasm_module: wat::parse_str(text).unwrap(),
        arg: argument,
        sender_canister_version: None,
    };
    net.manage("install_code", args).unwrap();
    assert_eq!(number(&net.call(id, "get", [])), 3);
    assert_eq!(code(&net.call(id, "get", [1])), ErrorCode::CanisterRejectedMessage, "it is not accepted");
    for _ in 0..3 {
        net.network.round();
    }
    assert_eq!(number(&net.query(id, "seen", [])), 3, "a canister's call is not inspected");
}

#[test]
fn callbacks_come_in_order_and_cleanup_after_a_trap() {
    let mut net = Net::new();
    // `chain` calls `get` of the canister in the argument three times at once; the callbacks note their number.
    let text = module(
        r#"
  (elem (i32.const 1) func $note $trap_in_callback $cleanup $note_reject)
  (global $noted (mut i64) (i64.const 0))
  (global $left (mut i32) (i32.const 0))
  (func $one (param $callback i32) (param $environment i32)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (local.get $callback) (local.get $environment) (i32.const 4) (local.get $environment)))
  (func (export "canister_update get") (call $reply_i64 (i64.const 7)))
  (func (export "canister_update chain")
    (call $take_arg)
    (global.set $noted (i64.const 0))
    (global.set $left (i32.const 3))
    (call $one (i32.const 1) (i32.const 1)) (drop (call $perform))
    (call $one (i32.const 1) (i32.const 2)) (drop (call $perform))
    (call $one (i32.const 1) (i32.const 3)) (drop (call $perform)))
  (func $note (param $n i32)
    (global.set $noted (i64.add (i64.mul (global.get $noted) (i64.const 10)) (i64.extend_i32_u (local.get $n))))
    (global.set $left (i32.sub (global.get $left) (i32.const 1)))
    (if (i32.eqz (global.get $left)) (then (call $reply_i64 (global.get $noted)))))
  (func $note_reject (param $n i32)
    (call $reply_i64 (i64.extend_i32_u (call $reject_code))))
  (func (export "canister_update broken")
    (call $take_arg)
    (call $one (i32.const 2) (i32.const 5))
    (call $on_cleanup (i32.const 3) (i32.const 6))
    (drop (call $perform)))
  (func $trap_in_callback (param i32)
    (global.set $noted (i64.const 999))
    (call $trap (i32.const 288) (i32.const 4)))
  (func $cleanup (param $n i32) (global.set $noted (i64.extend_i32_u (local.get $n))))
  (func (export "canister_update reject_code")
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 288) (i32.const 4)
      (i32.const 1) (i32.const 0) (i32.const 4) (i32.const 0))
    (drop (call $perform)))
  (func (export "canister_query noted") (call $reply_i64 (global.get $noted)))"#,
    );
    let (a, b) = (net.canister(&text), net.canister(&text));
    assert_eq!(number(&net.call(a, "chain", id_bytes(b))), 123);
    let broken = net.call(a, "broken", id_bytes(b));
    assert_eq!(code(&broken), ErrorCode::CanisterCalledTrap);
    assert_eq!(number(&net.query(a, "noted", [])), 6, "the callback is undone, the cleanup is not");
    // Nobody answers `fail`: the method does not exist. 5 is CANISTER_ERROR.
    assert_eq!(number(&net.call(a, "reject_code", [])), 5);
}

#[test]
fn cycles_travel_with_calls_and_come_back() {
    let mut net = Net::new();
    let text = module(
        r#"
  (elem (i32.const 1) func $refunded)
  (func (export "canister_update take")
    (drop (call $cycles_accept (i64.const 300)))
    (call $reply_i64 (call $cycles_available)))
  (func (export "canister_update send")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 304) (i32.const 4)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_cycles (i64.const 1000))
    (drop (call $perform)))
  (func $refunded (param i32) (call $reply_i64 (call $cycles_refunded)))
  (func (export "canister_update overdraw")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 304) (i32.const 4)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_cycles (i64.const 9000000000000000000)))
  (func (export "canister_update in_query") (call $reply))
  (func (export "canister_query call_from_query")
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 304) (i32.const 4)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0)))"#,
    );
    let (a, b) = (net.canister(&text), net.canister(&text));
    let (before_a, before_b) = (net.balance(a), net.balance(b));
    assert_eq!(number(&net.call(a, "send", id_bytes(b))), 700);
    let executed = before_b + 300 - net.balance(b);
    assert!(
        executed > costs::UPDATE_MESSAGE_FEE && executed < 10_000_000,
        "the callee pays its message: {executed}"
    );
    let spent = before_a - net.balance(a);
    let at_least = FEES.call(4) + 2 * costs::UPDATE_MESSAGE_FEE + 300;
    assert!(spent > at_least && spent < at_least + 5_000_000, "reserves come back: {spent}");
    // A callee that does not exist returns everything.
    let nobody = candid::Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 1, 1]);
    assert_eq!(number(&net.call(a, "send", id_bytes(nobody))), 1000);
    let overdraw = net.call(a, "overdraw", id_bytes(b));
    assert_eq!(code(&overdraw), ErrorCode::CanisterContractViolation);
    let query = net.query(a, "call_from_query", []).unwrap_err();
    assert_eq!(query.code, ErrorCode::CanisterContractViolation);
    assert!(
        query.message.contains("\"ic0_call_new\" cannot be executed in non replicated query mode"),
        "{query}"
    );
}

#[test]
fn bounded_wait_calls_end_at_their_deadline() {
    let mut net = Net::new();
    // `hang` waits for an answer of `never`, which waits for the same call.
    let text = module(
        r#"
  (elem (i32.const 1) func $done)
  (func (export "canister_update get") (drop (i32.const 0)) (call $wait))
  (func $wait
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (drop (call $perform)))
  (func (export "canister_update bounded")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $best_effort (i32.const 10))
    (drop (call $perform)))
  (func $done (param i32) (call $reply_i64 (i64.extend_i32_u (call $reject_code))))
  (func (export "canister_update init_target") (call $take_arg) (call $reply))"#,
    );
    let (a, b) = (net.canister(&text), net.canister(&text));
    // b's `get` calls b's `get`, and so on: no answer ever comes.
    net.call(b, "init_target", id_bytes(b)).unwrap();
    let id = net.submit(a, user(), "bounded", id_bytes(b)).unwrap();
    net.network.execute_messages();
    for _ in 0..20 {
        net.network.execute_messages();
    }
    assert_eq!(net.state(id), Some(IngressState::Processing));
    net.network.set_time(net.network.time() + 11_000_000_000);
    net.network.start_round();
    for _ in 0..20 {
        net.network.execute_messages();
    }
    let Some(IngressState::Done(response)) = net.state(id) else { panic!("the deadline has passed") };
    assert_eq!(number(&response), 6, "SYS_UNKNOWN");
}

#[test]
fn a_canister_without_cycles_is_frozen() {
    let mut net = Net::new();
    let id = net.canister(&burner());
    let freezing = net.network.canister(id).unwrap().freezing_limit();
    net.network.canister_mut(id).unwrap().balance =
        freezing + FEES.execution(limits::UPDATE_INSTRUCTIONS) / 2;
    let response = net.call(id, "burn", []);
    assert_eq!(code(&response), ErrorCode::CanisterOutOfCycles);
    net.network.canister_mut(id).unwrap().balance = 0;
    assert_eq!(code(&net.query(id, "get", [])), ErrorCode::CanisterOutOfCycles);
}

#[test]
fn replies_and_heaps_have_limits() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (func $grow (drop (memory.grow (i32.const 64))))
  (start $grow)
  (func (export "canister_update two") (call $append (i32.const 0) (i32.const 2097152)) (call $reply))
  (func (export "canister_update more") (call $append (i32.const 0) (i32.const 2097153)) (call $reply))
  (func (export "canister_query three") (call $append (i32.const 0) (i32.const 3145728)) (call $reply))
  (func (export "canister_query more_query") (call $append (i32.const 0) (i32.const 3145729)) (call $reply))
  (func (export "canister_update grow") (drop (memory.grow (i32.const 100))) (call $reply))
  (func (export "canister_query silent"))
  (func (export "canister_query twice") (call $reply) (call $reply))
  (func (export "canister_query outside") (call $append (i32.const 5000000) (i32.const 1)))"#,
    ));
    assert_eq!(net.call(id, "two", []).unwrap().len(), 2 << 20);
    assert_eq!(code(&net.call(id, "more", [])), ErrorCode::CanisterContractViolation);
    assert_eq!(net.query(id, "three", []).unwrap().len(), 3 << 20);
    assert_eq!(code(&net.query(id, "more_query", [])), ErrorCode::CanisterContractViolation);
    assert_eq!(code(&net.query(id, "silent", [])), ErrorCode::CanisterDidNotReply);
    assert_eq!(code(&net.query(id, "twice", [])), ErrorCode::CanisterContractViolation);
    assert_eq!(code(&net.query(id, "outside", [])), ErrorCode::CanisterTrapped);
    assert!(net.submit(id, user(), "two", vec![0; limits::MESSAGE_BYTES + 1]).is_err());
    let args = ic_management_canister_types::UpdateSettingsArgs {
        canister_id: id,
        settings: ic_management_canister_types::CanisterSettings {
            wasm_memory_limit: Some((8u64 << 20).into()),
            ..Default::default()
        },
        sender_canister_version: None,
    };
    net.manage("update_settings", args).unwrap();
    assert_eq!(code(&net.call(id, "grow", [])), ErrorCode::CanisterWasmMemoryLimitExceeded);
    assert_eq!(net.network.canister(id).unwrap().heap.len(), 65 << 16, "the growth is undone");
}

#[test]
fn a_trap_shows_the_functions_to_those_who_may_read_the_log() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (func $_ZN8canister5outer17h0123456789abcdefE (call $inner))
  (func $inner unreachable)
  (func (export "canister_update fail") (call $_ZN8canister5outer17h0123456789abcdefE))
  (func (export "canister_query fail_query") (call $trap (i32.const 288) (i32.const 4)))
  (func (export "canister_update silent") (call $trap (i32.const 288) (i32.const 0)))"#,
    ));
    let shown = net.call(id, "fail", []).unwrap_err().message;
    let expected = "Canister trapped: unreachable\nCanister Backtrace:\ninner\ncanister::outer\nunknown function at index ";
    assert!(shown.contains(expected), "{shown}");
    let stranger = candid::Principal::self_authenticating(b"stranger");
    let hidden = net.call_as(id, stranger, "fail", vec![]).unwrap_err().message;
    assert!(hidden.ends_with("Canister trapped: unreachable"), "{hidden}");
    net.call(id, "silent", []).unwrap_err();
    net.query(id, "fail_query", []).unwrap_err();
    net.call(id, "no_such_method", []).unwrap_err();
    let log: Vec<_> = net.network.canister(id).unwrap().log.records().collect();
    let lines: Vec<_> = log.iter().map(|r| String::from_utf8_lossy(&r.content)).collect();
    assert_eq!(lines.len(), 3, "queries leave nothing in the log: {lines:?}");
    assert!(lines[0].starts_with("[TRAP]: unreachable\nCanister Backtrace:\ninner\ncanister::outer\n"));
    assert!(lines[2].starts_with("[TRAP]: (no message)"));
}

#[test]
fn tables_and_segments_are_as_at_first_in_every_message() {
    let mut net = Net::new();
    // `call` calls entry 1 of the table; `change` puts another function there.
    let id = net.canister(&module(
        r#"
  (elem (i32.const 1) func $five)
  (elem $passive func $nine)
  (data $bytes "\07")
  (type $number (func (result i64)))
  (func $five (result i64) (i64.const 5))
  (func $nine (result i64) (i64.const 9))
  (func $start_segments
    (memory.init $bytes (i32.const 8) (i32.const 0) (i32.const 1))
    (data.drop $bytes)
    (table.init $passive (i32.const 1) (i32.const 0) (i32.const 1)))
  (start $start_segments)
  (func $take_bytes
    (memory.init $bytes (i32.const 0) (i32.const 0) (i32.const 1))
    (data.drop $bytes)
    (elem.drop $passive))
  (func $put_nine (table.init $passive (i32.const 1) (i32.const 0) (i32.const 1)))
  (func (export "canister_query call")
    (call $reply_i64 (i64.add
      (call_indirect (type $number) (i32.const 1))
      (i64.mul (i64.const 100) (i64.load8_u (i32.const 8))))))
  (func (export "canister_update change")
    (call $put_nine)
    (call $take_bytes)
    (table.fill 0 (i32.const 2) (ref.func $nine) (i32.const 3))
    (call $reply_i64 (i64.add
      (call_indirect (type $number) (i32.const 1))
      (call_indirect (type $number) (i32.const 4)))))
  (func (export "canister_query empty") (drop (call_indirect (type $number) (i32.const 4))))
  (elem declare func $nine)
  (func (export "canister_update change_and_trap") (call $put_nine) unreachable)"#,
    ));
    for _ in 0..3 {
        assert_eq!(
            number(&net.query(id, "call", [])),
            705,
            "what start did to the heap stays, to the table not"
        );
        assert_eq!(number(&net.call(id, "change", [])), 9 + 9);
        assert_eq!(code(&net.query(id, "empty", [])), ErrorCode::CanisterTrapped, "entry 4 is empty again");
        assert_eq!(code(&net.call(id, "change_and_trap", [])), ErrorCode::CanisterTrapped);
    }
}

#[test]
fn one_operation_must_fit_a_slice() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (func (export "canister_update fill")
    (drop (memory.grow (i32.const 31000)))
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 2000000001))
    (call $reply))
  (func (export "canister_update small") (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) (call $reply))
  (func (export "canister_update stable")
    (drop (call $stable_grow (i64.const 30000)))
    (call $stable_write (i64.const 0) (i64.const 0) (i64.const 1900000000))
    (call $reply))"#,
    ));
    net.call(id, "small", []).unwrap();
    let fill = net.call(id, "fill", []).unwrap_err();
    assert_eq!(fill.code, ErrorCode::CanisterInstructionLimitExceeded);
    let text =
        "large memory operation that used 2000000001 instructions and exceeded the slice limit 2000000000";
    assert!(fill.message.contains(text), "{fill}");
    let stable = net.call(id, "stable", []).unwrap_err();
    assert!(stable.message.contains("exceeded the slice limit"), "{stable}");
    net.call(id, "small", []).unwrap();
}

#[test]
fn a_message_touches_so_much_stable_memory_and_no_more() {
    let mut net = Net::new();
    let touch = |name: &str, kind: &str| {
        format!(
            r#"
  (func (export "canister_{kind} {name}") (local $page i64)
    (call $arg_copy (i32.const 0) (i32.const 0) (i32.const 8))
    (local.set $page (i64.load (i32.const 0)))
    (loop $again
      (local.set $page (i64.sub (local.get $page) (i64.const 1)))
      (call $stable_read (i64.const 16) (i64.mul (local.get $page) (i64.const 65536)) (i64.const 1))
      (br_if $again (i64.ne (local.get $page) (i64.const 0))))
    (call $reply))"#
        )
    };
    let id = net.canister(&module(&format!(
        r#"(func (export "canister_update grow") (drop (call $stable_grow (i64.const 40000))) (call $reply))
  {}{}
  (import "ic0" "stable_size" (func $size32 (result i32)))
  (import "ic0" "stable_grow" (func $grow32 (param i32) (result i32)))
  (import "ic0" "stable_read" (func $read32 (param i32 i32 i32)))
  (func (export "canister_update narrow")
    (call $read32 (i32.const 0) (i32.const 0) (i32.const 1))
    (call $reply_i64 (i64.add (i64.extend_i32_u (call $size32)) (i64.extend_i32_s (call $grow32 (i32.const 30000))))))
  (func (export "canister_update grow_more") (drop (call $stable_grow (i64.const 30000))) (call $reply))
  (func (export "canister_query size32") (call $reply_i64 (i64.extend_i32_u (call $size32))))
  (func (export "canister_query grow32") (call $reply_i64 (i64.extend_i32_s (call $grow32 (i32.const 0)))))
  (func (export "canister_query read32") (call $read32 (i32.const 0) (i32.const 0) (i32.const 0)) (call $reply))"#,
        touch("touch", "update"),
        touch("touch_query", "query"),
    )));
    net.call(id, "grow", []).unwrap();
    let two_gib = 2u64 << 14;
    net.call(id, "touch", (two_gib * 65_536 / 65_536).to_le_bytes()).unwrap();
    let more = net.call(id, "touch", (two_gib + 1).to_le_bytes());
    assert_eq!(code(&more), ErrorCode::CanisterMemoryAccessLimitExceeded);
    net.query(id, "touch_query", (two_gib / 2).to_le_bytes()).unwrap();
    let more = net.query(id, "touch_query", (two_gib / 2 + 1).to_le_bytes());
    assert_eq!(code(&more), ErrorCode::CanisterMemoryAccessLimitExceeded);
    // The 32-bit interface reaches 4 GiB: 65,536 pages.
    assert_eq!(number(&net.call(id, "narrow", [])), 39_999, "40,000 pages, and 30,000 more do not fit");
    net.call(id, "grow_more", []).unwrap();
    for method in ["size32", "grow32", "read32"] {
        let trap = net.query(id, method, []).unwrap_err();
        assert!(trap.message.contains("32 bit stable memory api used on a memory larger than 4GB"), "{trap}");
    }
}

#[test]
fn floats_are_the_same_everywhere() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (global $payload f64 (f64.const nan:0xdeadbeef))
  (func (export "canister_query nan")
    (f64.store (i32.const 0) (f64.div (f64.const -0) (f64.const 0)))
    (f64.store (i32.const 8) (f64.add (global.get $payload) (f64.const 1)))
    (f64.store (i32.const 16) (f64.sqrt (f64.const -1)))
    (v128.store (i32.const 24) (f64x2.sub (v128.const f64x2 inf -inf) (v128.const f64x2 inf -inf)))
    (f32.store (i32.const 40) (f32.min (f32.const -nan:0x12345) (f32.const 1)))
    (call $append (i32.const 0) (i32.const 44))
    (call $reply))"#,
    ));
    let bytes = net.query(id, "nan", []).unwrap();
    for value in bytes[..40].chunks(8) {
        assert_eq!(value, 0x7ff8_0000_0000_0000u64.to_le_bytes());
    }
    assert_eq!(bytes[40..], 0x7fc0_0000u32.to_le_bytes());
}

/// A canister whose `grow` allocates pages (the argument's first byte) and whose hook for low memory counts.
fn hooked() -> String {
    module(
        r#"
  (global $hooks (mut i64) (i64.const 0))
  (global $noted (mut i64) (i64.const 0))
  (func (export "canister_update grow")
    (call $take_arg)
    (drop (memory.grow (i32.load8_u (i32.const 1000))))
    (call $reply_i64 (global.get $hooks)))
  (func (export "canister_on_low_wasm_memory") (global.set $hooks (i64.add (global.get $hooks) (i64.const 1))))
  (func (export "canister_update note") (global.set $noted (global.get $hooks)) (call $reply))
  (func (export "canister_query hooks")
    (call $reply_i64 (i64.add (global.get $hooks) (i64.mul (i64.const 10) (global.get $noted)))))"#,
    )
}

#[test]
fn the_hook_for_low_memory_runs_once_before_everything_else() {
    use ic_management_canister_types::{CanisterSettings, UpdateSettingsArgs};
    const PAGE: u64 = 65_536;
    let mut net = Net::new();
    let id = net.canister(&hooked());
    let set = |net: &mut Net, limit: u64, threshold: u64| {
        let settings = CanisterSettings {
            wasm_memory_limit: Some((limit * PAGE).into()),
            wasm_memory_threshold: Some((threshold * PAGE).into()),
            ..Default::default()
        };
        let args = UpdateSettingsArgs { canister_id: id, settings, sender_canister_version: None };
        net.manage("update_settings", args).unwrap();
        net.network.round();
    };
    set(&mut net, 20, 10);
    net.call(id, "grow", [9]).unwrap();
    net.network.round();
    assert_eq!(number(&net.query(id, "hooks", [])), 0, "ten pages are left");
    // Both messages wait when the first one makes memory low.
    net.submit(id, user(), "grow", vec![1]).unwrap();
    net.submit(id, user(), "note", vec![]).unwrap();
    net.network.round();
    assert_eq!(number(&net.query(id, "hooks", [])), 11, "the hook has run before `note`");
    net.call(id, "grow", [1]).unwrap();
    net.network.round();
    assert_eq!(number(&net.query(id, "hooks", [])), 11, "and not again while memory is low");
    set(&mut net, 30, 10);
    assert_eq!(number(&net.query(id, "hooks", [])), 11, "enough is left now");
    set(&mut net, 21, 10);
    assert_eq!(number(&net.query(id, "hooks", [])), 12, "low again");

    // A frozen canister's hook waits for cycles.
    set(&mut net, 100, 10);
    let limit = net.network.canister(id).unwrap().freezing_limit();
    let rich = std::mem::replace(&mut net.network.canister_mut(id).unwrap().balance, limit);
    set(&mut net, 21, 10);
    net.network.canister_mut(id).unwrap().balance = rich;
    assert_eq!(number(&net.query(id, "hooks", [])), 12);
    net.network.round();
    assert_eq!(number(&net.query(id, "hooks", [])), 13);
}

#[test]
fn answering_and_sending_have_rules() {
    let mut net = Net::new();
    let id = net.canister(&module(
        r#"
  (func (export "canister_update reject_bytes") (i32.store8 (i32.const 0) (i32.const 255)) (call $reject (i32.const 0) (i32.const 1)))
  (func (export "canister_update print_outside") (call $print (i32.const 65530) (i32.const 100)) (call $reply))
  (func (export "canister_update all_cycles")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 304) (i32.const 4)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_cycles (call $balance)))
  (func (export "canister_update long_name")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 0) (i32.const 20001)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0)))
  (func (export "canister_update take")
    (call $append (i32.const 0) (i32.const 1))
    (call $reply)
    (i64.store (i32.const 600) (call $cycles_available))
    (drop (call $cycles_accept (i64.const 1))))
  (func (export "canister_query left") (call $reply_i64 (i64.load (i32.const 600))))
  (elem (i32.const 1) func $back)
  (func $back (param i32) (call $reply_i64 (call $cycles_refunded)))
  (func (export "canister_update send")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 304) (i32.const 4)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_cycles (i64.const 1000))
    (drop (call $perform)))"#,
    ));
    assert_eq!(code(&net.call(id, "reject_bytes", [])), ErrorCode::CanisterContractViolation);
    net.call(id, "print_outside", []).unwrap();
    let log = net.network.canister(id).unwrap().log.records().last().unwrap().content.clone();
    assert_eq!(log, b"(debug_print message out of memory bounds)");
    assert_eq!(
        code(&net.call(id, "all_cycles", id_bytes(id))),
        ErrorCode::CanisterContractViolation,
        "the freezing limit must stay"
    );
    assert_eq!(code(&net.call(id, "long_name", id_bytes(id))), ErrorCode::CanisterContractViolation);
    assert_eq!(
        number(&net.call(id, "send", id_bytes(id))),
        1000,
        "an answer gives back what was not accepted"
    );
    assert_eq!(number(&net.query(id, "left", [])), 0);
}

/// Composite queries: `ask` asks the canister in the argument for `get` and answers with what its callback finds.
fn asking() -> String {
    let sizes = "(drop (table.size 0))".repeat(200);
    module(&format!(
        r#"
  (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
  (elem (i32.const 1) func $answer $trapping $cleanup $next)
  (func $ask (param $method i32) (param $size i32) (param $callback i32)
    (call $call_new (i32.const 1000) (i32.const 10) (local.get $method) (local.get $size)
      (local.get $callback) (i32.const 0) (local.get $callback) (i32.const 0)))
  (func (export "canister_composite_query ask")
    (call $take_arg)
    (call $ask (i32.const 272) (i32.const 3) (i32.const 1))
    (drop (call $perform)))
  (func $answer (param i32)
    (call $reply_i64 (i64.add (i64.extend_i32_u (call $reject_code)) (i64.mul (i64.const 10)
      (i64.extend_i32_u (call $certificate_present))))))
  (func (export "canister_query get") (call $reply_i64 (i64.extend_i32_u (call $certificate_present))))
  (func (export "canister_composite_query present") (call $reply_i64 (i64.extend_i32_u (call $certificate_present))))
  ;; `fail` traps in the callback; the cleanup traps as well, with the number of times it was run.
  (func (export "canister_composite_query fail")
    (call $take_arg)
    (call $ask (i32.const 272) (i32.const 3) (i32.const 2))
    (call $on_cleanup (i32.const 3) (i32.const 0))
    (drop (call $perform)))
  (func $trapping (param i32) (call $trap (i32.const 288) (i32.const 4)))
  (func $cleanup (param i32) (call $trap (i32.const 256) (i32.const 3)))
  ;; `inc` asks `inc` of the first canister in the argument and passes the others on.
  (func (export "canister_composite_query inc")
    (call $take_arg)
    (if (i32.eqz (call $arg_size)) (then (call $reply_i64 (i64.const 0)) (return)))
    (call $ask (i32.const 256) (i32.const 3) (i32.const 4))
    (call $call_append (i32.const 1010) (i32.sub (call $arg_size) (i32.const 10)))
    (drop (call $perform)))
  (func $next (param i32)
    (call $arg_copy (i32.const 0) (i32.const 0) (i32.const 8))
    (call $reply_i64 (i64.add (i64.load (i32.const 0)) (i64.const 1))))
  ;; `take` uses three billion instructions.
  (func $burn (local $i i32)
    (local.set $i (i32.const 150000))
    (loop $again {sizes} (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1))))))
  (func (export "canister_query take") (call $burn) (call $reply_i64 (i64.const 1)))
  (func (export "canister_composite_query take_twice")
    (call $take_arg)
    (call $ask (i32.const 304) (i32.const 4) (i32.const 5))
    (drop (call $perform))
    (call $ask (i32.const 304) (i32.const 4) (i32.const 5))
    (drop (call $perform)))
  (func $ignore (param i32))
  (elem (i32.const 5) func $ignore)"#
    ))
}

#[test]
fn composite_queries_have_their_own_rules() {
    let mut net = Net::new();
    let text = asking();
    let ids: Vec<_> = (0..8).map(|_| net.canister(&text)).collect();
    let (a, b) = (ids[0], ids[1]);
    assert_eq!(number(&net.query(a, "present", [])), 1);
    assert_eq!(number(&net.query(a, "ask", id_bytes(b))), 0, "no certificate in callbacks");
    let path: Vec<u8> = [id_bytes(b)].concat();
    assert_eq!(number(&net.query(a, "inc", path)), 1);
    assert_eq!(number(&net.query(a, "ask", id_bytes(a))), 5, "a canister cannot call itself");

    let failed = net.query(a, "fail", id_bytes(b)).unwrap_err();
    assert_eq!(failed.code, ErrorCode::CanisterCalledTrap);
    assert!(failed.message.contains("with message: 'fail'"), "{failed}");
    assert!(failed.message.contains("call_on_cleanup also failed:\n\n"), "{failed}");
    assert!(failed.message.contains("with message: 'inc'"), "{failed}");

    // Six composite queries may wait for one more.
    let chain = |n: usize| ids[1..=n].iter().flat_map(|id| id_bytes(*id)).collect::<Vec<u8>>();
    assert_eq!(number(&net.query(a, "inc", chain(6))), 6);
    assert_eq!(code(&net.query(a, "inc", chain(7))), ErrorCode::QueryCallGraphTooDeep);

    net.query(b, "take", []).unwrap();
    let total = net.query(a, "take_twice", id_bytes(b));
    assert_eq!(code(&total), ErrorCode::QueryCallGraphTotalInstructionLimitExceeded);

    let stats = net.status(b).query_stats;
    assert!(stats.num_calls_total > 5u8 && stats.num_instructions_total > 3_000_000_000u64);
    assert_eq!(net.status(ids[7]).query_stats.num_calls_total, 0u8);
}

#[test]
fn a_late_answer_of_a_bounded_wait_call_brings_its_cycles_back() {
    let mut net = Net::new();
    // `bounded` sends 1,000 cycles to `get` of the canister in the argument, which waits for `release`.
    let text = module(
        r#"
  (import "ic0" "msg_deadline" (func $deadline (result i64)))
  (elem (i32.const 1) func $done $released)
  (global $open (mut i64) (i64.const 0))
  (func (export "canister_update bounded")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $best_effort (i32.const 100000))
    (call $call_cycles (i64.const 1000000000000))
    (drop (call $perform)))
  (func $done (param i32) (call $reply_i64 (i64.extend_i32_u (call $reject_code))))
  (func (export "canister_update get")
    (global.set $open (call $deadline))
    (call $call_new (i32.const 0) (i32.const 0) (i32.const 320) (i32.const 8)
      (i32.const 2) (i32.const 0) (i32.const 2) (i32.const 0))
    (call $call_append (i32.const 336) (i32.const 6))
    (drop (call $perform)))
  (data (i32.const 320) "raw_rand")
  (data (i32.const 336) "DIDL\00\00")
  (func $released (param i32) (call $reply))
  (func (export "canister_query deadline") (call $reply_i64 (global.get $open)))"#,
    );
    let (a, b) = (net.canister(&text), net.canister(&text));
    let before = net.balance(a);
    let id = net.submit(a, user(), "bounded", id_bytes(b)).unwrap();
    let sent_at = net.network.time();
    net.network.execute_messages();
    net.network.execute_messages();
    // A timeout of more than five minutes is five minutes, from a whole second on.
    let deadline = number(&net.query(b, "deadline", []));
    assert_eq!(deadline, (sent_at / 1_000_000_000 + 300) * 1_000_000_000);
    net.network.set_time(deadline);
    net.network.start_round();
    while net.network.is_busy() {
        net.network.execute_messages();
    }
    let Some(IngressState::Done(response)) = net.state(id) else { panic!("the deadline has passed") };
    assert_eq!(number(&response), 6, "SYS_UNKNOWN");
    let lost = before - net.balance(a);
    assert!(lost < 100_000_000_000, "the cycles have come back with the late answer: {lost}");

    // A request that waits until its deadline is not executed at all.
    let opened = number(&net.query(b, "deadline", []));
    let id = net.submit(a, user(), "bounded", id_bytes(b)).unwrap();
    net.network.execute_messages();
    net.network.set_time(net.network.time() + 301_000_000_000);
    net.network.start_round();
    while net.network.is_busy() {
        net.network.execute_messages();
    }
    assert!(matches!(net.state(id), Some(IngressState::Done(Ok(_)))));
    assert_eq!(number(&net.query(b, "deadline", [])), opened);
    assert!(before - net.balance(a) < 100_000_000_000);
}

#[test]
fn memory_needs_cycles_and_callbacks_run_when_frozen() {
    let mut net = Net::new();
    let text = module(
        r#"
  (elem (i32.const 1) func $done)
  (func (export "canister_update grow") (drop (memory.grow (i32.const 16000))) (call $reply))
  (func (export "canister_update stable") (drop (call $stable_grow (i64.const 16000))) (call $reply))
  (func (export "canister_update get") (call $reply))
  (func (export "canister_update call")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))
    (drop (call $perform)))
  (func $done (param i32) (drop (memory.grow (i32.const 1))) (call $reply_i64 (i64.const 8)))"#,
    );
    let (a, b) = (net.canister(&text), net.canister(&text));
    let canister = net.network.canister_mut(a).unwrap();
    canister.balance = canister.freezing_limit() + 100_000_000_000;
    for method in ["grow", "stable"] {
        let refused = net.call(a, method, []);
        assert_eq!(code(&refused), ErrorCode::InsufficientCyclesInMemoryGrow);
        assert!(refused.unwrap_err().message.contains("cannot grow memory by 1048576000 bytes"));
    }
    let id = net.submit(a, user(), "call", id_bytes(b)).unwrap();
    net.network.execute_messages();
    net.network.canister_mut(a).unwrap().balance = 0;
    assert_eq!(code(&net.call(a, "get", [])), ErrorCode::CanisterOutOfCycles);
    while net.network.is_busy() {
        net.network.execute_messages();
    }
    let Some(IngressState::Done(response)) = net.state(id) else { panic!("the call is answered") };
    assert_eq!(number(&response), 8, "the callback was paid for when the call was made");
}

#[test]
fn requests_have_a_size_and_queues_a_length() {
    let mut net = Net::new();
    let text = module(
        r#"
  (elem (i32.const 1) func $back $nothing)
  (global $refused (mut i64) (i64.const 0))
  (func $pages (drop (memory.grow (i32.const 200))))
  (start $pages)
  (func (export "canister_update get") (call $reply_i64 (i64.extend_i32_u (call $arg_size))))
  (func $call_get (param $callback i32)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 272) (i32.const 3)
      (local.get $callback) (i32.const 0) (local.get $callback) (i32.const 0)))
  ;; `send` passes on as many bytes as the number behind the callee says.
  (func (export "canister_update send")
    (call $take_arg)
    (call $call_get (i32.const 1))
    (call $call_append (i32.const 0) (i32.sub (i32.load (i32.const 1010)) (i32.const 1)))
    (call $call_append (i32.const 0) (i32.const 1))
    (drop (call $perform)))
  (func $back (param i32)
    (call $arg_copy (i32.const 0) (i32.const 0) (i32.const 8))
    (call $reply_i64 (i64.load (i32.const 0))))
  ;; `fail` makes 510 calls at once and answers with the number of those that were refused.
  (func (export "canister_update fail") (local $left i32)
    (call $take_arg)
    (local.set $left (i32.const 510))
    (loop $again
      (call $call_get (i32.const 2))
      (if (i32.eq (call $perform) (i32.const 2))
        (then (global.set $refused (i64.add (global.get $refused) (i64.const 1)))))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $reply_i64 (global.get $refused)))
  (func $nothing (param i32))"#,
    );
    let rich = |net: &mut Net| {
        let id = net.canister(&text);
        net.network.canister_mut(id).unwrap().balance = 1 << 80;
        id
    };
    let (a, b) = (rich(&mut net), rich(&mut net));
    let send = |net: &mut Net, bytes: usize| {
        let argument = [id_bytes(b), (bytes as u32).to_le_bytes().to_vec()].concat();
        net.call(a, "send", argument)
    };
    let largest = limits::SAME_SUBNET_REQUEST_BYTES;
    assert_eq!(largest, 10 << 20);
    assert_eq!(number(&send(&mut net, largest)), largest as u64);
    assert_eq!(code(&send(&mut net, largest + 1)), ErrorCode::CanisterContractViolation);
    let refused = number(&net.call(a, "fail", id_bytes(b)));
    assert_eq!(refused, 510 - limits::OPEN_CALLS_PER_CALLEE as u64);
}
