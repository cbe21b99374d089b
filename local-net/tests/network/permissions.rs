//! Every system call from every entry point, compared with the table in `system-calls.txt`: by a canister that is written with
//! ic-cdk (`system-calls-canister/`), and by text modules for the `(start)` function, which Rust does not have.

use crate::common::{Net, code, decode, rust, user};
use ic_management_canister_types as types;
use local_net::reject::{ErrorCode, Response};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};
use types::CanisterInstallMode as Mode;
use wasmparser::{CompositeInnerType, Parser, Payload, TypeRef, ValType};

static WASM: LazyLock<Vec<u8>> =
    LazyLock::new(|| std::fs::read(rust::build("local-net-system-calls-canister")).unwrap());

/// The entry points of the specification, by its letters.
const ENTRY_POINTS: &[&str] =
    &["s", "I", "G", "U", "RQ", "NRQ", "TQ", "CQ", "Ry", "Rt", "C", "CRy", "CRt", "CC", "F", "T"];

/// What a system call says where it is not allowed.
const FORBIDDEN: &str = "cannot be executed in";

struct SystemCall {
    name: String,
    /// Parameters and results, as in the text format.
    signature: (Vec<String>, Vec<String>),
    allowed: BTreeSet<&'static str>,
}

fn table() -> Vec<SystemCall> {
    let lines = include_str!("system-calls.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (signature, letters) = line.split_once(':').unwrap();
            let (name, rest) = signature.split_once(" (").unwrap();
            let (params, results) = rest.split_once(')').unwrap();
            let types = |list: &str| list.split_whitespace().map(Into::into).collect();
            let letters: Vec<&str> = letters.split_whitespace().collect();
            assert!(letters.iter().all(|l| *l == "*" || ENTRY_POINTS.contains(l)), "{line}");
            let everywhere = letters.contains(&"*");
            SystemCall {
                name: name.into(),
                signature: (types(params), types(results)),
                allowed: ENTRY_POINTS
                    .iter()
                    .copied()
                    .filter(|e| letters.contains(e) || everywhere && *e != "s")
                    .collect(),
            }
        })
        .collect()
}

/// The entry points of `call` that the specification allows, without those in `except`.
fn allowed(call: &SystemCall, except: &str) -> BTreeSet<&'static str> {
    call.allowed.iter().copied().filter(|e| *e != except).collect()
}

/// What a canister imports from `ic0`: names with parameters and results.
fn imports(wasm: &[u8]) -> BTreeMap<String, (Vec<String>, Vec<String>)> {
    let mut types = Vec::new();
    let mut imports = BTreeMap::new();
    let names = |list: &[ValType]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::TypeSection(section) => {
                for ty in section.into_iter().flat_map(|group| group.unwrap().into_types()) {
                    let CompositeInnerType::Func(f) = &ty.composite_type.inner else { panic!("a function") };
                    types.push((names(f.params()), names(f.results())));
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports().map(Result::unwrap) {
                    let TypeRef::Func(ty) = import.ty else { panic!("{} is no function", import.name) };
                    assert_eq!(import.module, "ic0");
                    imports.insert(import.name.to_owned(), types[ty as usize].clone());
                }
            }
            _ => {}
        }
    }
    imports
}

#[test]
fn the_canister_makes_every_system_call_of_the_table() {
    let listed: BTreeMap<_, _> = table().into_iter().map(|call| (call.name, call.signature)).collect();
    assert_eq!(imports(&WASM), listed);
}

/// A canister whose calls can be chosen, and another one for it to call.
struct Trial {
    net: Net,
    canister: candid::Principal,
    other: candid::Principal,
}

impl Trial {
    fn new() -> Self {
        let mut net = Net::new();
        let canister = Self::create(&mut net);
        let other = Self::create(&mut net);
        for id in [canister, other] {
            Self::install(&mut net, id, Mode::Install, "").unwrap();
        }
        Self { net, canister, other }
    }

    fn create(net: &mut Net) -> candid::Principal {
        let variable = types::EnvironmentVariable { name: "variable".into(), value: "its text".into() };
        let settings =
            types::CanisterSettings { environment_variables: Some(vec![variable]), ..Default::default() };
        net.create_with(1_000_000_000_000_000, Some(settings))
    }

    /// Installs the canister; `name` is the call that the hook is to make.
    fn install(net: &mut Net, canister_id: candid::Principal, mode: Mode, name: &str) -> Response {
        let args = types::InstallCodeArgs {
            mode,
            canister_id,
            wasm_module: WASM.clone(),
            arg: name.into(),
            sender_canister_version: None,
        };
        net.manage("install_code", args)
    }

    fn choose(&mut self, name: &str, task: &str) {
        let argument = candid::encode_args((name, task)).unwrap();
        self.net.call(self.canister, "choose", argument).unwrap();
    }

    /// Whether the call was made in the task for which it was chosen. `trap` cannot come back, but is logged.
    fn was_made(&mut self) -> bool {
        let made: bool = decode(&self.net.query(self.canister, "made", candid::encode_args(()).unwrap()));
        let log = self.net.network.canister(self.canister).unwrap().log.records().last().cloned();
        made || log.is_some_and(|record| record.content.starts_with(b"[TRAP]: tried"))
    }

    /// The entry points from which the system call `name` is not refused.
    fn tried(&mut self, name: &str) -> BTreeSet<&'static str> {
        let mut allowed = BTreeSet::new();
        let mut note = |entry: &'static str, response: &Response| {
            if response.as_ref().err().is_none_or(|reject| !reject.message.contains(FORBIDDEN)) {
                allowed.insert(entry);
            }
        };
        self.choose(name, "");
        let (id, other) = (self.canister, self.other.as_slice().to_vec());
        for (entry, method) in
            [("U", "update"), ("RQ", "query"), ("Ry", "reply_callback"), ("Rt", "reject_callback")]
        {
            note(entry, &self.net.call(id, method, other.clone()));
        }
        for (entry, method) in [
            ("NRQ", "query"),
            ("CQ", "composite"),
            ("CRy", "composite_reply_callback"),
            ("CRt", "composite_reject_callback"),
            ("CC", "composite_cleanup"),
        ] {
            note(entry, &self.net.query(id, method, other.clone()));
        }
        note("C", &self.net.call(id, "cleanup", other));
        note("F", &self.net.call(id, "inspected", []));
        note("TQ", &self.transform());
        // Both hooks of an upgrade, and the one of a first installation.
        note("G", &Self::install(&mut self.net, id, Mode::Upgrade(None), ""));
        let after_upgrade = Self::install(
            &mut self.net,
            id,
            Mode::Upgrade(Some(types::UpgradeFlags {
                skip_pre_upgrade: Some(true),
                wasm_memory_persistence: None,
            })),
            name,
        );
        note("I", &after_upgrade);
        let initial = Self::install(&mut self.net, id, Mode::Reinstall, name);
        let refused = |r: &Response| r.as_ref().is_err_and(|e| e.message.contains(FORBIDDEN));
        assert_eq!(refused(&initial), refused(&after_upgrade), "{name}: both hooks are I");
        Self::install(&mut self.net, id, Mode::Reinstall, "").unwrap();
        let tasks: BTreeSet<bool> =
            ["heartbeat", "timer", "low memory"].into_iter().map(|task| self.task(name, task)).collect();
        assert_eq!(tasks.len(), 1, "{name}: all tasks are T");
        if tasks.contains(&true) {
            allowed.insert("T");
        }
        allowed
    }

    /// Lets the canister make an HTTP request, whose transform makes the chosen call; what the transform ended in.
    fn transform(&mut self) -> Response {
        let argument = candid::encode_args(()).unwrap();
        let request = self.net.submit(self.canister, user(), "fetch", argument).unwrap();
        for _ in 0..3 {
            self.net.network.round();
        }
        let id = self.net.network.outcalls().next().expect("the request waits").0;
        let answer =
            types::HttpRequestResult { status: 200u8.into(), headers: vec![], body: b"body".to_vec() };
        self.net.network.answer_outcall(id, vec![Ok(answer)]).unwrap();
        let reply = self.net.network.await_ingress(&request).unwrap().unwrap();
        let fetched: Result<(), String> = candid::decode_one(&reply).unwrap();
        fetched
            .map(|()| Vec::new())
            .map_err(|text| local_net::reject::Reject::new(ErrorCode::CanisterRejectedMessage, text))
    }

    /// Whether `task` makes the system call `name`.
    fn task(&mut self, name: &str, task: &str) -> bool {
        self.choose(name, task);
        if task == "low memory" {
            self.threshold(u64::MAX);
        }
        for _ in 0..3 {
            self.net.network.round();
        }
        let made = self.was_made();
        self.choose("time", "");
        self.threshold(0);
        self.net.network.canister_mut(self.canister).unwrap().write_log(0, b"next".to_vec());
        made
    }

    /// Sets how much of the heap must be left so that the hook for low memory does not run.
    fn threshold(&mut self, bytes: u64) {
        let settings =
            types::CanisterSettings { wasm_memory_threshold: Some(bytes.into()), ..Default::default() };
        let args =
            types::UpdateSettingsArgs { canister_id: self.canister, settings, sender_canister_version: None };
        self.net.manage("update_settings", args).unwrap();
    }
}

#[test]
fn system_calls_are_allowed_where_the_specification_says() {
    let mut trial = Trial::new();
    for call in table() {
        assert_eq!(trial.tried(&call.name), allowed(&call, "s"), "ic0.{}", call.name);
    }
}

#[test]
fn the_start_function_may_make_few_system_calls() {
    let mut net = Net::new();
    let id = net.create_with(100_000_000_000_000, None);
    for call in table() {
        let (params, results) = &call.signature;
        let zeros: String = params.iter().map(|p| format!("({p}.const 0)")).collect::<Vec<_>>().concat();
        let made = format!("(call $tried {zeros})");
        let made = if results.is_empty() { made } else { format!("(drop {made})") };
        let text = format!(
            r#"(module
  (import "ic0" "{}" (func $tried (param {}) (result {})))
  (memory 1)
  (func $start {made})
  (start $start))"#,
            call.name,
            params.join(" "),
            results.join(" ")
        );
        let response = net.install(id, Mode::Reinstall, &text);
        let refused = response.as_ref().is_err_and(|reject| reject.message.contains(FORBIDDEN));
        assert_eq!(!refused, call.allowed.contains("s"), "ic0.{}: {response:?}", call.name);
        if refused {
            assert_eq!(code(&response), ErrorCode::CanisterContractViolation);
        }
    }
}
