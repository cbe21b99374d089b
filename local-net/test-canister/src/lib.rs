//! A canister written with ic-cdk, ic-cdk-timers, ic-cdk-management-canister and ic-stable-structures: what these libraries need of
//! a network, the tests of local-net try with it. `test-canister.did` has the methods that other clients than Rust's call.

// ic-cdk decodes arguments into owned values.
#![allow(clippy::needless_pass_by_value)]

mod assets;
mod signatures;

use candid::Principal;
use ic_cdk::{
    call::{Call, CallFailed},
    query, update,
};
use ic_cdk_management_canister::{self as management, HttpRequestResult, TransformArgs};
use ic_stable_structures::{
    DefaultMemoryImpl, StableBTreeMap,
    memory_manager::{MemoryId, MemoryManager, VirtualMemory},
};
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

/// Map of the entries; the only memory of this canister.
const ENTRIES: MemoryId = MemoryId::new(0);

type Entries = StableBTreeMap<String, u64, VirtualMemory<DefaultMemoryImpl>>;

thread_local! {
    static ENTRIES_MAP: RefCell<Entries> =
        RefCell::new(StableBTreeMap::init(MemoryManager::init(DefaultMemoryImpl::default()).get(ENTRIES)));
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static GUARDS: Cell<u64> = const { Cell::new(0) };
}

fn put_entry(key: String, value: u64) -> Option<u64> {
    ENTRIES_MAP.with_borrow_mut(|entries| entries.insert(key, value))
}

#[update]
fn put(key: String, value: u64) -> Option<u64> {
    put_entry(key, value)
}

#[query]
fn get(key: String) -> Option<u64> {
    ENTRIES_MAP.with_borrow(|entries| entries.get(&key))
}

#[update]
fn put_then_trap(key: String, value: u64) {
    put_entry(key, value);
    ic_cdk::trap("put and trapped");
}

/// The Candid interface, as public metadata.
#[used]
#[unsafe(link_section = "icp:public candid:service")]
static CANDID: [u8; include_bytes!("../test-canister.did").len()] = *include_bytes!("../test-canister.did");

#[query]
fn whoami() -> Principal {
    ic_cdk::api::msg_caller()
}

#[update]
fn whoami_update() -> Principal {
    ic_cdk::api::msg_caller()
}

#[update(manual_reply = true)]
fn reject(text: String) {
    ic_cdk::api::msg_reject(text);
}

#[update]
fn log(text: String) {
    ic_cdk::api::debug_print(text);
}

#[update]
fn certify(data: Vec<u8>) {
    ic_cdk::api::certified_data_set(data);
}

/// The certificate of the certified data.
#[query]
fn certificate() -> Option<Vec<u8>> {
    ic_cdk::api::data_certificate()
}

#[update]
async fn relay_put(canister: Principal, key: String, value: u64) -> Result<Option<u64>, String> {
    let call = Call::unbounded_wait(canister, "put").with_args(&(key, value)).await;
    call.map_err(|e| e.to_string())?.candid().map_err(|e| e.to_string())
}

/// Counts the guards that were dropped.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        GUARDS.set(GUARDS.get() + 1);
    }
}

/// Traps after an await, while a guard is held: the cleanup callback must drop it.
#[update]
async fn trap_after_await(key: String) {
    let _guard = Guard;
    let itself = ic_cdk::api::canister_self();
    let _ = Call::bounded_wait(itself, "put").with_args(&(key.clone(), 1u64)).await;
    put_entry(key, 2);
    ic_cdk::trap("after the await");
}

#[query]
fn guards() -> u64 {
    GUARDS.get()
}

#[update]
fn start_ticking(seconds: u64) {
    ic_cdk_timers::set_timer_interval(Duration::from_secs(seconds), async || TICKS.set(TICKS.get() + 1));
}

/// Runs `slices` messages one after the other, each started by the one before.
#[update]
fn start_slices(slices: u64) {
    fn slice(left: u64) {
        TICKS.set(TICKS.get() + 1);
        if left > 1 {
            ic_cdk_timers::set_timer(Duration::ZERO, async move { slice(left - 1) });
        }
    }
    ic_cdk_timers::set_timer(Duration::ZERO, async move { slice(slices) });
}

#[query]
fn ticks() -> u64 {
    TICKS.get()
}

/// Creates a canister with `cycles` besides the fee, and installs `wasm_module`.
#[update]
async fn create(wasm_module: Vec<u8>, cycles: u128) -> Result<Principal, String> {
    let args = management::CreateCanisterArgs::default();
    let created =
        management::create_canister_with_extra_cycles(&args, cycles).await.map_err(|e| e.to_string())?;
    let args = management::InstallCodeArgs {
        mode: management::CanisterInstallMode::Install,
        canister_id: created.canister_id,
        wasm_module,
        arg: candid::encode_args(()).map_err(|e| e.to_string())?,
    };
    management::install_code(&args).await.map_err(|e| e.to_string())?;
    Ok(created.canister_id)
}

#[update]
async fn random() -> Result<Vec<u8>, String> {
    management::raw_rand().await.map_err(|e| e.to_string())
}

/// Calls the management canister with `cycles` and an encoded argument; the encoded reply or the reject, and the cycles
/// that came back.
#[update]
async fn manage(method: String, argument: Vec<u8>, cycles: u128) -> (Result<Vec<u8>, (u32, String)>, u128) {
    let call = Call::unbounded_wait(Principal::management_canister(), &method);
    let answer = call.with_raw_args(&argument).with_cycles(cycles).await;
    let answer = match answer {
        Ok(reply) => Ok(reply.into_bytes()),
        Err(CallFailed::CallRejected(reject)) => {
            Err((reject.raw_reject_code(), reject.reject_message().to_owned()))
        }
        Err(other) => Err((0, other.to_string())),
    };
    (answer, ic_cdk::api::msg_cycles_refunded())
}

/// Posts a body with as many cycles as ic-cdk takes to be enough; the body of the response.
#[update]
async fn post(url: String, body: Vec<u8>) -> Result<Vec<u8>, String> {
    let request = management::HttpRequest::new(url).with_method(management::HttpMethod::POST).with_body(body);
    request.send().await.map(|response| response.body).map_err(|e| e.to_string())
}

/// Signs with as many cycles as ic-cdk takes to be enough.
#[update]
async fn sign(key: String, message_hash: Vec<u8>) -> Result<Vec<u8>, String> {
    let key_id = management::EcdsaKeyId { curve: management::EcdsaCurve::Secp256k1, name: key };
    let args = management::SignWithEcdsaArgs { message_hash, derivation_path: vec![], key_id };
    management::sign_with_ecdsa(&args).await.map(|signed| signed.signature).map_err(|e| e.to_string())
}

/// Drops the headers of an HTTP response and puts the context behind the body.
#[query]
fn strip(args: TransformArgs) -> HttpRequestResult {
    let body = [args.response.body, args.context].concat();
    HttpRequestResult { headers: Vec::new(), body, ..args.response }
}

/// Makes every HTTP response `context` kilobytes long.
#[query]
fn inflate(args: TransformArgs) -> HttpRequestResult {
    let body = vec![0; 1_000 * usize::from(args.context[0])];
    HttpRequestResult { body, ..args.response }
}

#[query]
fn trap_in_transform(_: TransformArgs) -> HttpRequestResult {
    ic_cdk::trap("this is no weather report");
}

/// Asks another canister's query `get` from a composite query.
#[query(composite = true)]
async fn get_from(canister: Principal, key: String) -> Result<Option<u64>, String> {
    let call = Call::bounded_wait(canister, "get").with_args(&(key,)).await;
    call.map_err(|e| e.to_string())?.candid().map_err(|e| e.to_string())
}
