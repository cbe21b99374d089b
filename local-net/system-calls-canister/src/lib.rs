//! A canister that makes every system call from every entry point that Rust can give it: all but the `(start)` function.
//!
//! The test says which call is to be made (`choose`, or the argument of `canister_init` and `canister_post_upgrade`) and then
//! lets the network run an entry point. A call that is not allowed there traps, which the test sees in the reject; where there is
//! nobody to reject, it asks whether the call was made (`made`).

// Entry points and imports exist in WebAssembly only.
#![cfg(target_family = "wasm")]

use candid::Principal;
use ic_cdk::{call::Call, query, update};
use ic_cdk_management_canister::{CostHttpRequestV2Args, HttpRequestArgs, transform_context_from_query};
use std::{
    cell::{Cell, RefCell},
    sync::LazyLock,
};

/// The system calls of the specification that `ic0` leaves out, because they are deprecated.
mod deprecated {
    #[link(wasm_import_module = "ic0")]
    unsafe extern "C" {
        pub fn msg_cycles_available() -> u64;
        pub fn msg_cycles_refunded() -> u64;
        pub fn msg_cycles_accept(limit: u64) -> u64;
        pub fn canister_cycle_balance() -> u64;
        pub fn call_cycles_add(amount: u64);
        pub fn stable_size() -> u32;
        pub fn stable_grow(pages: u32) -> u32;
        pub fn stable_write(offset: u32, src: u32, size: u32);
        pub fn stable_read(dst: u32, offset: u32, size: u32);
    }
}

/// Where system calls may write.
static mut BUFFER: [u8; 64] = [0; 64];
/// The name and the value of the environment variable that the test sets.
const VARIABLE: &str = "variable";
/// More cycles than an HTTP request costs.
const HTTP_REQUEST_CYCLES: u128 = 100_000_000_000;
/// The resources of an outcall, in Candid.
static OUTCALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let resources = CostHttpRequestV2Args {
        request_bytes: 100,
        http_roundtrip_time_ms: 100,
        raw_response_bytes: 100,
        transformed_response_bytes: 100,
        transform_instructions: 100,
        outcall_type: None,
    };
    candid::encode_one(resources).expect("numbers have a Candid encoding")
});
/// The name of the threshold keys.
const KEY: &str = "key_1";

thread_local! {
    static CHOSEN: RefCell<String> = const { RefCell::new(String::new()) };
    static MADE: Cell<bool> = const { Cell::new(false) };
    /// The task that makes the call.
    static ARMED: RefCell<String> = const { RefCell::new(String::new()) };
}

fn dst() -> usize {
    &raw mut BUFFER as usize
}

fn at(text: &str) -> usize {
    text.as_ptr() as usize
}

/// The address of a callback: function pointers are indices into the table.
fn callback(function: extern "C" fn(usize)) -> usize {
    function as usize
}

/// Lists system calls with arguments that are valid where the call is allowed, and makes them.
macro_rules! system_calls {
    ($($name:ident($($argument:expr),*);)*) => {
        /// Makes the system call `name`.
        fn make(name: &str) {
            #[allow(unused_imports)]
            use {deprecated::*, ic0::sys::*};
            match name {
                // SAFETY: the arguments are addresses and sizes of memory that nothing else uses meanwhile.
                $(stringify!($name) => { let _ = unsafe { $name($($argument),*) }; })*
                _ => ic_cdk::trap(format!("there is no system call `{name}`")),
            }
        }
    };
}

system_calls! {
    msg_arg_data_size();
    msg_arg_data_copy(dst(), 0, 0);
    msg_caller_size();
    msg_caller_copy(dst(), 0, 0);
    msg_caller_info_data_size();
    msg_caller_info_data_copy(dst(), 0, 0);
    msg_caller_info_signer_size();
    msg_caller_info_signer_copy(dst(), 0, 0);
    msg_reject_code();
    msg_reject_msg_size();
    msg_reject_msg_copy(dst(), 0, 1);
    msg_deadline();
    msg_reply_data_append(dst(), 1);
    msg_reply();
    msg_reject(at("tried"), 5);
    msg_cycles_available128(dst());
    msg_cycles_refunded128(dst());
    msg_cycles_accept128(0, 1, dst());
    cycles_burn128(0, 1, dst());
    canister_self_size();
    canister_self_copy(dst(), 0, 10);
    canister_cycle_balance128(dst());
    canister_liquid_cycle_balance128(dst());
    canister_status();
    canister_version();
    subnet_self_size();
    subnet_self_copy(dst(), 0, 29);
    subnet_self_node_count();
    msg_method_name_size();
    msg_method_name_copy(dst(), 0, 1);
    accept_message();
    call_new(dst(), 0, at("none"), 4, callback(nothing), 0, callback(nothing), 0);
    call_on_cleanup(callback(nothing), 0);
    call_data_append(dst(), 1);
    call_with_best_effort_response(1);
    call_cycles_add128(0, 1);
    call_perform();
    stable64_size();
    stable64_grow(0);
    stable64_write(0, dst() as u64, 0);
    stable64_read(dst() as u64, 0, 0);
    root_key_size();
    root_key_copy(dst(), 0, 32);
    certified_data_set(dst(), 32);
    data_certificate_present();
    data_certificate_size();
    data_certificate_copy(dst(), 0, 64);
    time();
    global_timer_set(0);
    performance_counter(0);
    is_controller(dst(), 0);
    in_replicated_execution();
    cost_call(1, 1, dst());
    cost_create_canister(dst());
    cost_http_request(1, 1, dst());
    cost_http_request_v2(OUTCALL.as_ptr() as usize, OUTCALL.len(), dst());
    cost_sign_with_ecdsa(at(KEY), KEY.len(), 0, dst());
    cost_sign_with_schnorr(at(KEY), KEY.len(), 0, dst());
    cost_vetkd_derive_key(at(KEY), KEY.len(), 0, dst());
    env_var_count();
    env_var_name_size(0);
    env_var_name_copy(0, dst(), 0, 8);
    env_var_name_exists(at(VARIABLE), VARIABLE.len());
    env_var_value_size(at(VARIABLE), VARIABLE.len());
    env_var_value_copy(at(VARIABLE), VARIABLE.len(), dst(), 0, 8);
    debug_print(at("tried"), 5);
    trap(at("tried"), 5);
    msg_cycles_available();
    msg_cycles_refunded();
    msg_cycles_accept(1);
    canister_cycle_balance();
    call_cycles_add(1);
    stable_size();
    stable_grow(0);
    stable_write(0, dst() as u32, 0);
    stable_read(dst() as u32, 0, 0);
}

/// Makes the chosen call.
fn attempt() {
    CHOSEN.with_borrow(|name| make(name));
    MADE.set(true);
}

/// Makes the chosen call, and answers unless that was it.
fn attempt_and_reply() {
    attempt();
    if CHOSEN.with_borrow(|name| !["msg_reply", "msg_reject"].contains(&name.as_str())) {
        ic0::msg_reply();
    }
}

fn choose_argument() {
    let mut name = vec![0; ic0::msg_arg_data_size()];
    ic0::msg_arg_data_copy(&mut name, 0);
    if !name.is_empty() {
        CHOSEN.set(String::from_utf8_lossy(&name).into_owned());
        attempt();
    }
}

/// Makes the chosen call in a task. What belongs to a call under construction gets one: nobody would see that it is missing.
fn attempt_in_task(task: &str) {
    if ARMED.with_borrow(|armed| armed != task) {
        return;
    }
    if CHOSEN.with_borrow(|name| name.starts_with("call_") && name != "call_new") {
        make("call_new");
    }
    attempt();
    ARMED.take();
}

/// Says which system call is to be made next, and by which task, if any.
#[update]
fn choose(name: String, task: String) {
    if task == "timer" {
        ic0::global_timer_set(1);
    }
    CHOSEN.set(name);
    ARMED.set(task);
    MADE.set(false);
}

/// Whether the chosen call was made since it was chosen.
#[query]
fn made() -> bool {
    MADE.get()
}

#[query]
fn answer() {}

#[query(manual_reply = true)]
fn refuse() {
    ic_cdk::api::msg_reject("refused");
}

/// Makes an HTTP request whose transform makes the chosen call.
#[update]
async fn fetch() -> Result<(), String> {
    let args = HttpRequestArgs {
        url: "https://example.com".into(),
        max_response_bytes: Some(1_000),
        transform: Some(transform_context_from_query("query".into(), Vec::new())),
        ..Default::default()
    };
    let call = Call::unbounded_wait(Principal::management_canister(), "http_request");
    let response = call.with_arg(&args).with_cycles(HTTP_REQUEST_CYCLES).await;
    response.map(|_| ()).map_err(|e| e.to_string())
}

#[unsafe(export_name = "canister_init")]
extern "C" fn init() {
    choose_argument();
}

#[unsafe(export_name = "canister_post_upgrade")]
extern "C" fn post_upgrade() {
    choose_argument();
}

#[unsafe(export_name = "canister_pre_upgrade")]
extern "C" fn pre_upgrade() {
    if CHOSEN.with_borrow(|name| !name.is_empty()) {
        attempt();
    }
}

#[unsafe(export_name = "canister_inspect_message")]
extern "C" fn inspect_message() {
    let mut method = vec![0; ic0::msg_method_name_size()];
    ic0::msg_method_name_copy(&mut method, 0);
    if method == b"inspected" {
        attempt();
        if CHOSEN.with_borrow(|name| name == "accept_message") {
            return;
        }
    }
    ic0::accept_message();
}

#[unsafe(export_name = "canister_heartbeat")]
extern "C" fn heartbeat() {
    attempt_in_task("heartbeat");
}

#[unsafe(export_name = "canister_global_timer")]
extern "C" fn global_timer() {
    attempt_in_task("timer");
}

#[unsafe(export_name = "canister_on_low_wasm_memory")]
extern "C" fn on_low_wasm_memory() {
    attempt_in_task("low memory");
}

#[unsafe(export_name = "canister_update update")]
extern "C" fn update_method() {
    attempt_and_reply();
}

#[unsafe(export_name = "canister_update inspected")]
extern "C" fn inspected_method() {
    ic0::msg_reply();
}

#[unsafe(export_name = "canister_query query")]
extern "C" fn query_method() {
    attempt_and_reply();
}

#[unsafe(export_name = "canister_composite_query composite")]
extern "C" fn composite_method() {
    attempt_and_reply();
}

extern "C" fn nothing(_: usize) {}

extern "C" fn attempting(_: usize) {
    attempt_and_reply();
}

/// A cleanup callback: nobody waits for an answer.
extern "C" fn cleaning(_: usize) {
    attempt();
}

extern "C" fn trapping(_: usize) {
    ic_cdk::trap("for the cleanup");
}

/// Calls a method of the canister whose id is the argument.
fn call(method: &str, on_reply: extern "C" fn(usize), on_reject: extern "C" fn(usize)) {
    let mut bytes = vec![0; ic0::msg_arg_data_size()];
    ic0::msg_arg_data_copy(&mut bytes, 0);
    let callee = Principal::from_slice(&bytes);
    // SAFETY: the callbacks take any value.
    unsafe {
        ic0::call_new(callee.as_slice(), method, on_reply, 0, on_reject, 0);
    }
    ic0::call_data_append(&candid::encode_args(()).unwrap_or_default());
}

fn call_and_clean_up() {
    call("answer", trapping, trapping);
    // SAFETY: as above.
    unsafe {
        ic0::call_on_cleanup(cleaning, 0);
    }
    ic0::call_perform();
}

#[unsafe(export_name = "canister_update reply_callback")]
extern "C" fn reply_callback() {
    call("answer", attempting, nothing);
    ic0::call_perform();
}

#[unsafe(export_name = "canister_update reject_callback")]
extern "C" fn reject_callback() {
    call("refuse", nothing, attempting);
    ic0::call_perform();
}

#[unsafe(export_name = "canister_update cleanup")]
extern "C" fn cleanup() {
    call_and_clean_up();
}

#[unsafe(export_name = "canister_composite_query composite_reply_callback")]
extern "C" fn composite_reply_callback() {
    call("answer", attempting, nothing);
    ic0::call_perform();
}

#[unsafe(export_name = "canister_composite_query composite_reject_callback")]
extern "C" fn composite_reject_callback() {
    call("refuse", nothing, attempting);
    ic0::call_perform();
}

#[unsafe(export_name = "canister_composite_query composite_cleanup")]
extern "C" fn composite_cleanup() {
    call_and_clean_up();
}
