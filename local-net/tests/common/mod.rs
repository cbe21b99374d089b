//! A network in this process, and canisters written in WebAssembly text.
#![allow(dead_code)]

pub mod clients;
pub mod pocket;
pub mod rust;
pub mod server;

use candid::{CandidType, Deserialize, Principal};
use ic_management_canister_types as types;
use local_net::{
    limits,
    network::{INITIAL_TIME, IngressMessage, IngressState, Network, Query, SubnetIndex, SubnetKind},
    reject::{ErrorCode, Response},
};

/// The user who controls every canister of a test.
pub fn user() -> Principal {
    Principal::self_authenticating(b"user")
}

/// A network and the number of requests made so far.
pub struct Net {
    pub network: Network,
    requests: u64,
}

impl Net {
    pub fn new() -> Self {
        Self::with_subnets(&[SubnetKind::Application])
    }

    pub fn with_subnets(kinds: &[SubnetKind]) -> Self {
        Self { network: Network::with_subnets([7; 32], INITIAL_TIME, kinds), requests: 0 }
    }

    /// The first canister id of a subnet's range.
    pub fn first_id(&self, subnet: SubnetIndex) -> Principal {
        self.network.subnets()[subnet].first_canister_id()
    }

    /// Sends a call; the request's id, or the reject at admission.
    pub fn submit(
        &mut self,
        canister: Principal,
        sender: Principal,
        method: &str,
        argument: Vec<u8>,
    ) -> Result<[u8; 32], local_net::reject::Reject> {
        self.requests += 1;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.requests.to_be_bytes());
        let expiry = self.network.time() + limits::INGRESS_TTL;
        let message =
            IngressMessage { id, sender, canister, method: method.into(), argument, expiry, effective: None };
        self.network.submit(message).map(|()| id)
    }

    pub fn call_as(
        &mut self,
        canister: Principal,
        sender: Principal,
        method: &str,
        argument: Vec<u8>,
    ) -> Response {
        let id = self.submit(canister, sender, method, argument)?;
        self.network.await_ingress(&id).expect("the call finishes within the rounds of a test")
    }

    pub fn call(&mut self, canister: Principal, method: &str, argument: impl Into<Vec<u8>>) -> Response {
        self.call_as(canister, user(), method, argument.into())
    }

    pub fn query(&mut self, canister: Principal, method: &str, argument: impl Into<Vec<u8>>) -> Response {
        self.network.query(Query {
            canister,
            caller: user(),
            method: method.into(),
            argument: argument.into(),
        })
    }

    pub fn state(&self, id: [u8; 32]) -> Option<IngressState> {
        self.network.ingress_request(&id).map(|request| request.state.clone())
    }

    pub fn manage(&mut self, method: &str, argument: impl CandidType) -> Response {
        let argument = candid::encode_one(argument).unwrap();
        self.call(Principal::management_canister(), method, argument)
    }

    pub fn create_with(&mut self, cycles: u128, settings: Option<types::CanisterSettings>) -> Principal {
        let args = types::ProvisionalCreateCanisterWithCyclesArgs {
            amount: Some(cycles.into()),
            settings,
            ..Default::default()
        };
        let reply = self.manage("provisional_create_canister_with_cycles", args).unwrap();
        candid::decode_one::<types::CanisterIdRecord>(&reply).unwrap().canister_id
    }

    pub fn install(
        &mut self,
        canister_id: Principal,
        mode: types::CanisterInstallMode,
        wat: &str,
    ) -> Response {
        let wasm_module = wat::parse_str(wat).unwrap();
        let args = types::InstallCodeArgs {
            mode,
            canister_id,
            wasm_module,
            arg: vec![],
            sender_canister_version: None,
        };
        self.manage("install_code", args)
    }

    /// A new canister with plenty of cycles that runs `wat`.
    pub fn canister(&mut self, wat: &str) -> Principal {
        let id = self.create_with(100_000_000_000_000, None);
        self.installed(id, wat)
    }

    /// A new canister with this id and plenty of cycles that runs `wat`.
    pub fn canister_with_id(&mut self, id: Principal, wat: &str) -> Principal {
        let args = types::ProvisionalCreateCanisterWithCyclesArgs {
            amount: Some(100_000_000_000_000u128.into()),
            specified_id: Some(id),
            ..Default::default()
        };
        self.manage("provisional_create_canister_with_cycles", args).unwrap();
        self.installed(id, wat)
    }

    fn installed(&mut self, id: Principal, wat: &str) -> Principal {
        self.install(id, types::CanisterInstallMode::Install, wat).unwrap();
        id
    }

    pub fn balance(&self, id: Principal) -> u128 {
        self.network.canister(id).unwrap().balance
    }

    pub fn status(&mut self, id: Principal) -> types::CanisterStatusResult {
        let reply = self.manage("canister_status", types::CanisterIdRecord { canister_id: id }).unwrap();
        candid::decode_one(&reply).unwrap()
    }
}

/// The reply's bytes as a little-endian number.
pub fn number(response: &Response) -> u64 {
    let bytes = response.as_ref().expect("a reply");
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

pub fn code(response: &Response) -> ErrorCode {
    response.as_ref().expect_err("a reject").code
}

pub fn decode<T: for<'a> Deserialize<'a> + CandidType>(response: &Response) -> T {
    candid::decode_one(response.as_ref().expect("a reply")).unwrap()
}

/// A module with all imports of `ic0` that the tests use, one page of memory, a table of eight functions, and a few helpers:
/// `$reply_i64` answers with a number, `$call` calls the canister whose 10-byte id stands at address 1000.
pub fn module(body: &str) -> String {
    // Imports must come before everything else.
    let (imports, body): (Vec<&str>, Vec<&str>) =
        body.lines().partition(|line| line.trim_start().starts_with("(import"));
    let (imports, body) = (imports.join("\n"), body.join("\n"));
    format!(
        r#"(module
  (import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
  (import "ic0" "msg_caller_size" (func $caller_size (result i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reject" (func $reject (param i32 i32)))
  (import "ic0" "msg_reject_code" (func $reject_code (result i32)))
  (import "ic0" "msg_cycles_available" (func $cycles_available (result i64)))
  (import "ic0" "msg_cycles_refunded" (func $cycles_refunded (result i64)))
  (import "ic0" "msg_cycles_accept" (func $cycles_accept (param i64) (result i64)))
  (import "ic0" "canister_cycle_balance" (func $balance (result i64)))
  (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_data_append" (func $call_append (param i32 i32)))
  (import "ic0" "call_on_cleanup" (func $on_cleanup (param i32 i32)))
  (import "ic0" "call_cycles_add" (func $call_cycles (param i64)))
  (import "ic0" "call_with_best_effort_response" (func $best_effort (param i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0" "stable64_size" (func $stable_size (result i64)))
  (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
  (import "ic0" "stable64_read" (func $stable_read (param i64 i64 i64)))
  (import "ic0" "certified_data_set" (func $certify (param i32 i32)))
  (import "ic0" "data_certificate_present" (func $certificate_present (result i32)))
  (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "global_timer_set" (func $timer_set (param i64) (result i64)))
  (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
  (import "ic0" "in_replicated_execution" (func $replicated (result i32)))
  (import "ic0" "accept_message" (func $accept))
  (import "ic0" "debug_print" (func $print (param i32 i32)))
  (import "ic0" "trap" (func $trap (param i32 i32)))
{imports}
  (memory (export "memory") 1)
  (table 8 8 funcref)
  (type $callback (func (param i32)))
  (func $reply_i64 (param i64)
    (i64.store (i32.const 512) (local.get 0))
    (call $append (i32.const 512) (i32.const 8))
    (call $reply))
  (func $take_arg (call $arg_copy (i32.const 1000) (i32.const 0) (call $arg_size)))
  (data (i32.const 256) "inc")
  (data (i32.const 272) "get")
  (data (i32.const 288) "fail")
  (data (i32.const 304) "take")
{body}
)"#
    )
}

/// The id of `canister` as an argument: 10 bytes.
pub fn id_bytes(canister: Principal) -> Vec<u8> {
    canister.as_slice().to_vec()
}
