//! Every system call from every entry point, compared with the specification's table (`system-calls.txt`).

mod common;

use common::{Net, id_bytes, module};
use ic_management_canister_types::CanisterInstallMode as Mode;
use std::collections::BTreeSet;

/// The entry points tried here.
const ENTRY_POINTS: &[&str] = &["s", "I", "G", "U", "RQ", "NRQ", "CQ", "Ry", "Rt", "C", "CRy", "CRt", "F"];

/// What a system call says where it is not allowed.
const FORBIDDEN: &str = "cannot be executed in";

struct SystemCall {
    name: String,
    params: Vec<String>,
    result: Option<String>,
    allowed: BTreeSet<&'static str>,
}

fn table() -> Vec<SystemCall> {
    let lines = include_str!("system-calls.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (signature, letters) = line.split_once(':').unwrap();
            let (name, rest) = signature.split_once(" (").unwrap();
            let (params, result) = rest.split_once(')').unwrap();
            let letters: Vec<&str> = letters.split_whitespace().collect();
            let everywhere = letters.contains(&"*");
            SystemCall {
                name: name.into(),
                params: params.split_whitespace().map(Into::into).collect(),
                result: Some(result.trim().to_owned()).filter(|r| !r.is_empty()),
                allowed: ENTRY_POINTS
                    .iter()
                    .copied()
                    .filter(|e| letters.contains(e) || everywhere && *e != "s")
                    .collect(),
            }
        })
        .collect()
}

impl SystemCall {
    /// A module that makes the call, with zeros, in its methods; `hook` is one more function that makes it.
    fn module(&self, hook: &str) -> String {
        let params = format!("(param {})", self.params.join(" "));
        let result = self.result.as_ref().map_or(String::new(), |r| format!("(result {r})"));
        let zeros = self.params.iter().map(|p| format!("({p}.const 0)")).collect::<Vec<_>>().join(" ");
        let call = format!("(call $tried {zeros})");
        let call = if self.result.is_some() { format!("(drop {call})") } else { call };
        // Composite queries cannot call their own canister, so all calls go to the one in the argument.
        let call_of = |method: usize, reply: u32, reject: u32| {
            format!(
                "(call $take_arg)
                 (call $call_new (i32.const 1000) (i32.const 10) (i32.const {method}) (i32.const 3)
                   (i32.const {reply}) (i32.const 0) (i32.const {reject}) (i32.const 0))"
            )
        };
        module(&format!(
            r#"
  (import "ic0" "{name}" (func $tried {params} {result}))
  (elem (i32.const 1) func $callback $trapping $nothing)
  (func $try {call})
  (func $callback (param i32) (call $try))
  (func $nothing (param i32))
  (func $trapping (param i32) unreachable)
  (func (export "canister_update U") (call $try))
  (func (export "canister_query Q") (call $try))
  (func (export "canister_composite_query CQ") (call $try))
  (func (export "canister_query get") (call $reply))
  (func (export "canister_update Ry") {reply_of_get} (drop (call $perform)))
  (func (export "canister_update Rt") {reject_of_inc} (drop (call $perform)))
  (func (export "canister_update C") {trap_in_reply}
    (call $on_cleanup (i32.const 1) (i32.const 0))
    (drop (call $perform)))
  (func (export "canister_composite_query CRy") {reply_of_get} (drop (call $perform)))
  (func (export "canister_composite_query CRt") {reject_of_inc} (drop (call $perform)))
  (func (export "canister_inspect_message")
    (if (i32.eq (call $arg_size) (i32.const 1)) (then (call $try)))
    (call $accept))
  (func (export "canister_update arm") (call $reply))
  {hook}"#,
            name = self.name,
            reply_of_get = call_of(272, 1, 3),
            reject_of_inc = call_of(256, 3, 1),
            trap_in_reply = call_of(272, 2, 2),
        ))
    }

    /// The entry points from which the call is not refused.
    fn tried(&self, net: &mut Net) -> BTreeSet<&'static str> {
        let mut allowed = BTreeSet::new();
        let mut note = |entry: &'static str, text: String| {
            if !text.contains(FORBIDDEN) {
                allowed.insert(entry);
            }
        };
        for (entry, hook, mode) in [
            ("s", "(start $try)", Mode::Install),
            ("I", r#"(export "canister_init" (func $try))"#, Mode::Install),
            ("I", r#"(export "canister_post_upgrade" (func $try))"#, Mode::Upgrade(None)),
        ] {
            let id = net.create_with(100_000_000_000_000, None);
            if mode != Mode::Install {
                net.install(id, Mode::Install, &self.module("")).unwrap();
            }
            note(entry, format!("{:?}", net.install(id, mode, &self.module(hook))));
        }
        let id = net.canister(&self.module(r#"(export "canister_pre_upgrade" (func $try))"#));
        note("G", format!("{:?}", net.install(id, Mode::Upgrade(None), &self.module(""))));

        let id = net.canister(&self.module(""));
        let other = id_bytes(net.canister(&self.module("")));
        for (entry, method) in [("U", "U"), ("RQ", "Q"), ("Ry", "Ry"), ("Rt", "Rt")] {
            note(entry, format!("{:?}", net.call(id, method, other.clone())));
        }
        for (entry, method) in [("NRQ", "Q"), ("CQ", "CQ"), ("CRy", "CRy"), ("CRt", "CRt")] {
            note(entry, format!("{:?}", net.query(id, method, other.clone())));
        }
        note("F", format!("{:?}", net.call(id, "arm", [1])));
        note("C", format!("{:?}", net.call(id, "C", other)));
        allowed
    }
}

#[test]
fn system_calls_are_allowed_where_the_specification_says() {
    let mut net = Net::new();
    for call in table() {
        assert_eq!(call.tried(&mut net), call.allowed, "ic0.{}", call.name);
    }
}
