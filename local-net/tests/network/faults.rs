//! Faults on demand: each kind does what it says and nothing else, and a plan repeats itself.

use crate::common::{Net, code, module, number};
use candid::Principal;
use ic_management_canister_types::CanisterIdRecord;
use local_net::{
    limits,
    network::{
        IngressState,
        faults::{
            Await, CyclesLeft, Delay, ExecutedMessage, Fault, FaultPlan, FaultTrace, Injected, MessageKind,
            Point, Rule, When,
        },
    },
    reject::ErrorCode,
};
use pocket_ic::{PocketIc, PocketIcBuilder};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
/// Cycles that the caller attaches to each call; the callee accepts none.
const ATTACHED: u128 = 7_000_000;

/// Calls `inc` of the canister whose id is the argument's first ten bytes, bounded-wait with the next four as the timeout
/// unless that is 0. Counts replies, rejects, cleanups, calls that could not be made, upgrades and timers at 0, 8, …, 40; the
/// answer is 0 for a reply, or the reject code, or 99 when the call could not be made.
fn caller() -> String {
    module(
        r#"
  (elem (i32.const 1) func $replied $rejected $cleaned)
  (func $count (param i32)
    (i64.store (local.get 0) (i64.add (i64.load (local.get 0)) (i64.const 1))))
  (func (export "canister_update call")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 256) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 0))
    (call $on_cleanup (i32.const 3) (i32.const 0))
    (call $call_cycles (i64.const 7000000))
    (if (i32.load (i32.const 1010)) (then (call $best_effort (i32.load (i32.const 1010)))))
    (if (call $perform) (then (call $count (i32.const 24)) (call $reply_i64 (i64.const 99)))))
  (func $replied (param i32) (call $count (i32.const 0)) (call $reply_i64 (i64.const 0)))
  (func $rejected (param i32)
    (call $count (i32.const 8))
    (call $reply_i64 (i64.extend_i32_u (call $reject_code))))
  (func $cleaned (param i32) (call $count (i32.const 16)))
  (func (export "canister_update alarm")
    (drop (call $timer_set (i64.add (call $time) (i64.const 1000000000))))
    (call $reply))
  (func (export "canister_global_timer") (call $count (i32.const 40)))
  (func (export "canister_query counts") (call $append (i32.const 0) (i32.const 48)) (call $reply))
  (func (export "canister_pre_upgrade")
    (drop (call $stable_grow (i64.const 1)))
    (call $stable_write (i64.const 0) (i64.const 0) (i64.const 48)))
  (func (export "canister_post_upgrade")
    (call $stable_read (i64.const 0) (i64.const 0) (i64.const 48))
    (call $count (i32.const 32)))"#,
    )
}

/// `inc` counts calls and answers with their number; `get` reads it.
fn callee() -> String {
    module(
        r#"
  (func (export "canister_update inc")
    (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.const 1)))
    (call $reply_i64 (i64.load (i32.const 0))))
  (func (export "canister_query get") (call $reply_i64 (i64.load (i32.const 0))))"#,
    )
}

/// What the caller has counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    replies: u64,
    rejects: u64,
    cleanups: u64,
    upgrades: u64,
    timers: u64,
}

struct Pair {
    net: Net,
    caller: Principal,
    callee: Principal,
}

impl Pair {
    fn new() -> Self {
        let mut net = Net::new();
        let (caller, callee) = (net.canister(&caller()), net.canister(&callee()));
        Self { net, caller, callee }
    }

    fn with(rules: Vec<Rule>) -> Self {
        let mut pair = Self::new();
        pair.plan(rules);
        pair
    }

    fn plan(&mut self, rules: Vec<Rule>) {
        self.net.network.set_faults(FaultPlan { seed: 1, reorder: false, rules }).unwrap();
    }

    fn argument(&self, timeout: u32) -> Vec<u8> {
        [self.callee.as_slice(), &timeout.to_le_bytes()].concat()
    }

    /// The answer of `call` when it has come within the rounds of a test.
    fn call(&mut self, timeout: u32) -> local_net::reject::Response {
        let argument = self.argument(timeout);
        self.net.call(self.caller, "call", argument)
    }

    fn submit(&mut self, timeout: u32) -> [u8; 32] {
        let (caller, argument) = (self.caller, self.argument(timeout));
        self.net.submit(caller, crate::common::user(), "call", argument).unwrap()
    }

    fn is_done(&self, request: [u8; 32]) -> bool {
        matches!(self.net.state(request), Some(IngressState::Done(_)))
    }

    /// Rounds until the request is done, at most 20.
    fn rounds_until_done(&mut self, request: [u8; 32]) -> u32 {
        (0..20)
            .find(|_| {
                let done = self.is_done(request);
                self.net.network.round();
                done
            })
            .expect("the request ends")
    }

    fn counts(&mut self) -> Counts {
        let bytes = self.net.query(self.caller, "counts", []).unwrap();
        let at = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap());
        Counts { replies: at(0), rejects: at(1), cleanups: at(2), upgrades: at(4), timers: at(5) }
    }

    fn executed(&mut self) -> u64 {
        number(&self.net.query(self.callee, "get", []))
    }

    fn injected(&self) -> &[Injected] {
        &self.net.network.fault_trace().unwrap().injected
    }

    fn wait(&mut self, seconds: u64) {
        let time = self.net.network.time();
        self.net.network.set_time(time + seconds * SECOND);
        self.net.network.round();
    }
}

#[test]
fn a_trap_at_an_await_undoes_the_callback_and_runs_the_cleanup() {
    let mut pair = Pair::with(vec![Rule::at(1, Fault::Trap)]);
    assert_eq!(number(&pair.call(0)), 0);
    let trapped = pair.call(0);
    assert_eq!(code(&trapped), ErrorCode::CanisterTrapped);
    assert!(trapped.unwrap_err().message.ends_with("Canister trapped: injected fault"));
    assert_eq!(number(&pair.call(0)), 0);
    assert_eq!(pair.counts(), Counts { replies: 2, cleanups: 1, ..Counts::default() });
    assert_eq!(pair.executed(), 3, "the callee has done its work");

    let trace = pair.net.network.fault_trace().unwrap().clone();
    assert_eq!((trace.await_count, trace.message_count), (3, 9));
    let (caller, callee) = (pair.caller, pair.callee);
    let point = Await { index: 1, message: 3, caller, callee, method: "inc".to_owned(), bounded: false };
    assert_eq!(trace.awaits[1], point);
    let kinds = [MessageKind::Request, MessageKind::Request, MessageKind::Answer].repeat(3);
    assert_eq!(trace.messages.iter().map(|message| message.kind).collect::<Vec<_>>(), kinds);
    let answer = ExecutedMessage {
        index: 5,
        kind: MessageKind::Answer,
        caller: Some(callee),
        callee: caller,
        method: "inc".to_owned(),
    };
    assert_eq!(trace.messages[5], answer);
    let injected = Injected { rule: 0, point: Point::Await(point), fault: Fault::Trap, prevented: None };
    assert_eq!(trace.injected, [injected]);
    assert_eq!(
        trace.to_string(),
        format!(
            "seed 1: 3 awaits, 9 messages\n  await 1 (message 3): {caller} -> {callee} inc: the callback traps"
        )
    );
}

#[test]
fn a_rejected_call_never_reaches_its_callee_and_its_cycles_come_back() {
    let mut pair = Pair::with(vec![Rule::at(0, Fault::Reject)]);
    let before = pair.net.balance(pair.caller);
    assert_eq!(number(&pair.call(0)), 2, "SYS_TRANSIENT");
    assert_eq!((pair.executed(), pair.counts().rejects), (0, 1));
    assert!(before - pair.net.balance(pair.caller) < 2 * ATTACHED + 10_000_000);
}

#[test]
fn only_the_outcome_of_a_bounded_wait_call_can_be_unknown() {
    for (fault, executed) in [(Fault::RejectUnknown, 1), (Fault::DropAnswer, 1), (Fault::DropRequest, 0)] {
        let every = Rule { when: When::Every, ..Rule::at(0, fault.clone()) };
        let mut pair = Pair::with(vec![every]);
        let request = pair.submit(10);
        for _ in 0..5 {
            pair.net.network.round();
        }
        assert_eq!(pair.is_done(request), fault == Fault::RejectUnknown, "{fault}");
        pair.wait(11);
        let Some(IngressState::Done(answer)) = pair.net.state(request) else { panic!("{fault}: no answer") };
        assert_eq!(number(&answer), 6, "{fault}: SYS_UNKNOWN");
        assert_eq!(pair.executed(), executed, "{fault}");
        assert_eq!(pair.net.network.fault_trace().unwrap().lost_cycles, ATTACHED, "{fault}");

        // The answer to an unbounded-wait call is guaranteed.
        assert_eq!(number(&pair.call(0)), 0, "{fault}");
        let reason = pair.injected()[1].prevented.clone();
        assert_eq!(reason.as_deref(), Some("the answer to an unbounded-wait call is guaranteed"));
        assert_eq!(pair.executed(), executed + 1);
    }
}

#[test]
fn a_delay_lasts_rounds_or_time_and_keeps_the_order_of_requests() {
    for fault in [Fault::DelayAnswer, Fault::DelayRequest] {
        let rounds = Delay { rounds: 4, nanos: 0 };
        let mut pair = Pair::with(vec![Rule::at(0, fault(rounds))]);
        let (slow, fast) = (pair.submit(0), pair.submit(0));
        pair.net.network.round();
        // A later answer may overtake a late one; a later request may not.
        assert_eq!(pair.is_done(fast), fault(rounds) == Fault::DelayAnswer(rounds));
        assert_eq!(pair.executed(), if pair.is_done(fast) { 2 } else { 0 });
        assert_eq!(pair.rounds_until_done(slow), 4);
        assert!(pair.is_done(fast));
        assert_eq!(pair.counts().replies, 2);

        pair.plan(vec![Rule::at(0, fault(Delay { rounds: 0, nanos: 5 * SECOND }))]);
        let slow = pair.submit(0);
        for _ in 0..10 {
            pair.net.network.round();
        }
        assert!(!pair.is_done(slow));
        pair.wait(5);
        assert!(pair.is_done(slow));
    }
    // A late answer comes in vain when the deadline has passed.
    let late = Delay { rounds: 0, nanos: 20 * SECOND };
    let mut pair = Pair::with(vec![Rule::at(0, Fault::DelayAnswer(late))]);
    let request = pair.submit(10);
    pair.net.network.round();
    pair.wait(11);
    assert!(pair.is_done(request));
    pair.wait(20);
    assert_eq!(pair.counts(), Counts { rejects: 1, ..Counts::default() });
}

#[test]
fn a_duplicate_is_executed_twice_and_answered_once() {
    let mut pair = Pair::with(vec![Rule::at(0, Fault::Duplicate)]);
    assert_eq!(number(&pair.call(0)), 0);
    pair.net.network.round();
    assert_eq!(pair.executed(), 2);
    assert_eq!(pair.counts(), Counts { replies: 1, ..Counts::default() });
}

#[test]
fn a_message_traps_on_demand() {
    let mut pair = Pair::new();
    let callee = pair.callee;
    let rule = Rule { callee: Some(callee), when: When::Nth(1), ..Rule::at(0, Fault::TrapMessage) };
    pair.plan(vec![rule]);
    assert_eq!([number(&pair.call(0)), number(&pair.call(0)), number(&pair.call(0))], [0, 5, 0]);
    assert_eq!(pair.executed(), 2, "the message that trapped has left no trace");
    assert_eq!(pair.injected().len(), 1);
}

#[test]
fn an_upgrade_comes_between_two_messages() {
    // Message 0 makes the call, message 1 is the callee's, message 2 the answer.
    for stop in [false, true] {
        let mut pair = Pair::new();
        let canister = Some(pair.caller);
        pair.plan(vec![Rule::at(1, Fault::Upgrade { canister, stop })]);
        assert_eq!(number(&pair.call(0)), 0);
        assert_eq!(pair.counts(), Counts { replies: 1, upgrades: 1, ..Counts::default() });
        assert!(pair.net.network.canister(pair.caller).unwrap().is_running());
        // The upgrade was before the answer, or after the last open call had ended.
        assert_eq!(pair.injected()[0].prevented, None);
        assert_eq!(pair.executed(), 1);
    }
    // A canister that is being stopped takes no calls, not even of users.
    let mut pair = Pair::new();
    let canister = Some(pair.caller);
    let slow = Fault::DelayAnswer(Delay { rounds: 3, nanos: 0 });
    pair.plan(vec![Rule::at(0, slow), Rule::at(1, Fault::Upgrade { canister, stop: true })]);
    let request = pair.submit(0);
    pair.net.network.round();
    assert_eq!(code(&pair.call(0)), ErrorCode::CanisterStopping);
    pair.rounds_until_done(request);
    assert_eq!(pair.counts(), Counts { replies: 1, upgrades: 1, ..Counts::default() });
    assert_eq!(number(&pair.call(0)), 0);
}

#[test]
fn an_upgrade_that_fails_is_named() {
    let mut pair = Pair::new();
    let refuses = pair.net.canister(&module(
        r#"
  (func (export "canister_update go") (call $reply))
  (func (export "canister_pre_upgrade") (call $trap (i32.const 288) (i32.const 4)))"#,
    ));
    for stop in [false, true] {
        pair.plan(vec![Rule::at(0, Fault::Upgrade { canister: None, stop })]);
        pair.net.call(refuses, "go", []).unwrap();
        let reason = pair.injected()[0].prevented.clone().unwrap();
        assert!(reason.contains("trap") && reason.contains("fail"), "{reason}");
        assert!(pair.net.network.canister(refuses).unwrap().is_running());
    }
    let nobody = Some(Principal::from_slice(&[9]));
    for fault in [
        Fault::Upgrade { canister: nobody, stop: true },
        Fault::Upgrade { canister: nobody, stop: false },
        Fault::LowCycles { canister: nobody, left: CyclesLeft::Frozen, rounds: 1 },
    ] {
        pair.plan(vec![Rule::at(0, fault)]);
        pair.call(0).unwrap();
        assert!(pair.injected()[0].prevented.as_ref().unwrap().contains("not found"));
    }
}

#[test]
fn the_clock_jumps() {
    let mut pair = Pair::with(vec![Rule::at(0, Fault::AdvanceTime { nanos: 3 * SECOND })]);
    let before = pair.net.network.time();
    pair.net.call(pair.caller, "alarm", []).unwrap();
    assert!(pair.net.network.time() >= before + 3 * SECOND);
    pair.net.network.round();
    assert_eq!(pair.counts().timers, 1);
}

#[test]
fn without_cycles_messages_are_rejected_timers_wait_and_nothing_is_lost() {
    let mut pair = Pair::new();
    let (canister, callee) = (Some(pair.caller), Some(pair.callee));
    let low = |left| Rule { callee, ..Rule::at(0, Fault::LowCycles { canister, left, rounds: 5 }) };
    let before = pair.net.balance(pair.caller);

    pair.net.call(pair.caller, "alarm", []).unwrap();
    pair.plan(vec![low(CyclesLeft::Frozen)]);
    pair.net.call(pair.callee, "inc", []).unwrap();
    assert_eq!(code(&pair.call(0)), ErrorCode::CanisterOutOfCycles);
    pair.wait(2);
    assert_eq!(pair.counts().timers, 0);
    for _ in 0..5 {
        pair.net.network.round();
    }
    assert_eq!(pair.counts().timers, 1, "the timer has waited for cycles");
    assert_eq!(number(&pair.call(0)), 0);
    let spent = before - pair.net.balance(pair.caller);
    assert!(spent < before / 100, "what was taken is back, {spent} was spent");

    // The call is admitted before its canister loses its cycles: the fee of the request is paid at admission.
    pair.net.submit(pair.callee, crate::common::user(), "inc", Vec::new()).unwrap();
    let request = pair.submit(0);
    pair.plan(vec![low(CyclesLeft::OneMessage)]);
    pair.net.network.round();
    let Some(IngressState::Done(response)) = pair.net.state(request) else { panic!("the message runs") };
    assert_eq!(code(&response), ErrorCode::CanisterContractViolation, "there are no cycles for its call");
    pair.net.network.clear_faults();
    assert_eq!(number(&pair.call(0)), 0);
}

#[test]
fn a_timer_of_a_canister_that_is_stopped_waits_for_the_start() {
    let mut pair = Pair::new();
    pair.net.call(pair.caller, "alarm", []).unwrap();
    // The stop comes in the round in which the timer is due, and before it; it takes until the open call has ended.
    pair.plan(vec![Rule::at(0, Fault::DelayAnswer(Delay { rounds: 3, nanos: 0 }))]);
    pair.submit(0);
    let argument = CanisterIdRecord { canister_id: pair.caller };
    let encoded = candid::encode_one(&argument).unwrap();
    let management = Principal::management_canister();
    pair.net.submit(management, crate::common::user(), "stop_canister", encoded).unwrap();
    pair.wait(2);
    for _ in 0..5 {
        pair.net.network.round();
    }
    assert!(!pair.net.network.canister(pair.caller).unwrap().is_running());
    pair.net.manage("start_canister", argument).unwrap();
    pair.net.network.round();
    assert_eq!(pair.counts().timers, 1);
}

#[test]
fn a_changed_order_keeps_that_of_requests_between_two_canisters() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..8 {
        let mut pair = Pair::new();
        let plan = FaultPlan { seed, reorder: true, rules: Vec::new() };
        pair.net.network.set_faults(plan).unwrap();
        let requests: Vec<_> = (0..6).map(|_| pair.submit(0)).collect();
        while !requests.iter().all(|request| pair.is_done(*request)) {
            pair.net.network.round();
        }
        let trace = pair.net.network.clear_faults().unwrap();
        assert_eq!((trace.await_count, trace.message_count), (6, 18));
        orders.insert(trace.messages.iter().map(|m| format!("{:?}", m.kind)).collect::<Vec<_>>());
        assert_eq!(pair.counts().replies, 6);
    }
    assert!(orders.len() > 4, "seeds choose different orders");
}

/// Faults at awaits of which each can be told from the outcome.
fn await_faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Trap),
        Just(Fault::Reject),
        Just(Fault::RejectUnknown),
        Just(Fault::DropRequest),
        Just(Fault::DropAnswer),
        Just(Fault::Duplicate),
        (0u64..4).prop_map(|rounds| Fault::DelayAnswer(Delay { rounds, nanos: 0 })),
        (0u64..4).prop_map(|rounds| Fault::DelayRequest(Delay { rounds, nanos: 0 })),
    ]
}

fn plans() -> impl Strategy<Value = FaultPlan> {
    let rule = (await_faults(), 0f64..0.5)
        .prop_map(|(fault, chance)| Rule { when: When::Chance(chance), ..Rule::at(0, fault) });
    (any::<u64>(), any::<bool>(), prop::collection::vec(rule, 0..5))
        .prop_map(|(seed, reorder, rules)| FaultPlan { seed, reorder, rules })
}

/// Makes calls under `plan`, some at the same time, and lets all deadlines pass.
fn run(plan: &FaultPlan, timeouts: &[u32]) -> Pair {
    let mut pair = Pair::new();
    pair.net.network.set_faults(plan.clone()).unwrap();
    for timeouts in timeouts.chunks(3) {
        for timeout in timeouts {
            pair.submit(*timeout);
        }
        for _ in 0..12 {
            pair.net.network.round();
        }
        pair.wait(11);
    }
    pair
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn outcomes_are_those_of_the_trace(
        plan in plans(),
        timeouts in prop::collection::vec(prop_oneof![Just(0u32), Just(10u32)], 1..12),
    ) {
        let mut pair = run(&plan, &timeouts);
        let trace = pair.net.network.fault_trace().unwrap().clone();
        prop_assert_eq!(trace.await_count, timeouts.len() as u64);
        let mut expected = Counts::default();
        let (mut executed, mut lost) = (0, 0);
        for point in &trace.awaits {
            let at = |injected: &&Injected| {
                injected.prevented.is_none() && matches!(&injected.point, Point::Await(a) if a.index == point.index)
            };
            let fault = trace.injected.iter().find(at).map(|injected| &injected.fault);
            executed += match fault {
                Some(Fault::Reject | Fault::DropRequest) => 0,
                Some(Fault::Duplicate) => 2,
                _ => 1,
            };
            match fault {
                Some(Fault::Trap) => expected.cleanups += 1,
                Some(Fault::Reject | Fault::RejectUnknown | Fault::DropRequest | Fault::DropAnswer) => {
                    expected.rejects += 1;
                }
                _ => expected.replies += 1,
            }
            if fault.is_some_and(Fault::is_bounded_only) {
                prop_assert!(point.bounded);
                lost += ATTACHED;
            }
        }
        prop_assert_eq!(pair.counts(), expected);
        prop_assert_eq!(pair.executed(), executed);
        prop_assert_eq!(trace.lost_cycles, lost);
        let open = &pair.net.network.canister(pair.caller).unwrap().open_calls;
        prop_assert!(open.is_empty(), "no call stays open");
    }

    #[test]
    fn a_plan_repeats_itself(
        plan in plans(),
        timeouts in prop::collection::vec(prop_oneof![Just(0u32), Just(10u32)], 1..12),
    ) {
        let (first, second) = (run(&plan, &timeouts), run(&plan, &timeouts));
        prop_assert_eq!(first.net.network.fault_trace(), second.net.network.fault_trace());
        prop_assert_eq!(first.net.balance(first.caller), second.net.balance(second.caller));
    }

    #[test]
    fn a_plan_is_the_same_after_a_trip_through_json(plan in plans()) {
        let text = serde_json::to_string(&plan).unwrap();
        let read: FaultPlan = serde_json::from_str(&text).unwrap();
        // Probabilities are printed with all their digits.
        prop_assert_eq!(read, plan);
    }
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let mut pair = Pair::new();
    let mut refused = |rules: Vec<Rule>| {
        let error = pair.net.network.set_faults(FaultPlan { rules, ..FaultPlan::default() }).unwrap_err();
        error.to_string()
    };
    let chance = |chance| Rule { when: When::Chance(chance), ..Rule::at(0, Fault::Trap) };
    assert_eq!(refused(vec![chance(0.5), chance(1.5)]), "rules[1].when.chance: 1.5 is not between 0 and 1");
    assert!(refused(vec![chance(f64::NAN)]).starts_with("rules[0].when.chance"));
    assert!(refused(vec![chance(0.0); 1_001]).starts_with("rules: 1001 rules"));
    let rounds = Delay { rounds: 1_000_001, nanos: 0 };
    assert!(refused(vec![Rule::at(0, Fault::DelayAnswer(rounds))]).starts_with("rules[0].fault.rounds"));
    assert!(pair.net.network.fault_trace().is_none(), "a refused plan changes nothing");
}

#[test]
fn the_end_of_a_plan_sets_everything_free() {
    let mut pair = Pair::new();
    let never = Delay { rounds: 1_000, nanos: 0 };
    let callee = Some(pair.callee);
    pair.plan(vec![
        Rule::at(0, Fault::DelayRequest(never)),
        Rule::at(1, Fault::DelayAnswer(never)),
        Rule::at(0, Fault::LowCycles { canister: callee, left: CyclesLeft::Frozen, rounds: 1_000 }),
        Rule::at(2, Fault::Upgrade { canister: Some(pair.caller), stop: true }),
    ]);
    let requests = [pair.submit(0), pair.submit(0)];
    pair.net.network.round();
    let trace = pair.net.network.clear_faults().unwrap();
    assert!(trace.injected.len() >= 2, "{trace}");
    for _ in 0..limits::AWAIT_ROUNDS {
        pair.net.network.round();
    }
    assert!(requests.iter().all(|request| pair.is_done(*request)));
    assert_eq!(number(&pair.call(0)), 0);
}

/// Sends a request to the server that runs `pic`, about its instance; status and body of the answer.
fn request(pic: &PocketIc, method: reqwest::Method, body: String) -> (u16, String) {
    let url = format!("{}instances/{}/faults", pic.get_server_url(), pic.instance_id());
    let request = reqwest::Client::new().request(method, url).header("content-type", "application/json");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = request.body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    })
}

#[test]
fn plans_and_traces_travel_over_http() {
    use reqwest::Method;
    let builder = PocketIcBuilder::new().with_application_subnet();
    let pic = builder.with_server_binary(env!("CARGO_BIN_EXE_local-net").into()).build();
    let [caller, callee] = [caller(), callee()].map(|text| {
        let id = pic.create_canister();
        pic.add_cycles(id, 100_000_000_000_000);
        pic.install_canister(id, wat::parse_str(text).unwrap(), Vec::new(), None);
        id
    });
    assert_eq!(request(&pic, Method::GET, String::new()).0, 404);
    let unknown = r#"{"rules": [{"when": "every", "fault": "explode"}]}"#;
    assert_eq!(request(&pic, Method::POST, unknown.into()).0, 422);
    let improbable = r#"{"rules": [{"when": {"chance": 2}, "fault": "trap"}]}"#;
    let (status, text) = request(&pic, Method::POST, improbable.into());
    assert_eq!(status, 400);
    assert!(text.contains("rules[0].when.chance"), "{text}");

    let plan = format!(
        r#"{{"seed": 5, "rules": [
            {{"caller": "{caller}", "method": "inc", "when": {{"nth": 0}}, "fault": "reject"}},
            {{"when": {{"at": 3}}, "fault": {{"low_cycles": {{"left": "frozen", "rounds": 2}}}}}}
        ]}}"#
    );
    assert_eq!(request(&pic, Method::POST, plan).0, 200);
    let argument = [callee.as_slice(), &[0; 4]].concat();
    let call = || pic.update_call(caller, Principal::anonymous(), "call", argument.clone());
    assert_eq!([call().unwrap()[0], call().unwrap()[0]], [2, 0]);
    let (status, text) = request(&pic, Method::GET, String::new());
    assert_eq!(status, 200);
    let trace: FaultTrace = serde_json::from_str(&text).unwrap();
    assert_eq!((trace.plan.seed, trace.await_count), (5, 2));
    let [first, second] = &trace.injected[..] else { panic!("{trace}") };
    assert_eq!((&first.fault, &first.prevented), (&Fault::Reject, &None));
    assert!(matches!(&second.point, Point::Message(message) if message.callee == callee));
    assert_eq!(
        serde_json::from_str::<FaultTrace>(&request(&pic, Method::DELETE, String::new()).1).unwrap(),
        trace
    );
    assert_eq!(request(&pic, Method::GET, String::new()).0, 404);
}
