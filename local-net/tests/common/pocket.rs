//! A PocketIC server, and the canister written in Rust (`test-canister/`).

use super::server::TEST_CANISTER;
use candid::{Principal, encode_args};
use pocket_ic::{PocketIc, PocketIcBuilder};
use std::sync::LazyLock;

/// The test canister's Wasm, built once.
pub static WASM: LazyLock<Vec<u8>> = LazyLock::new(|| std::fs::read(&*TEST_CANISTER).unwrap());

/// The beginning of an instance with an application subnet, on the server that the environment names, else this crate's.
pub fn builder() -> PocketIcBuilder {
    let builder = PocketIcBuilder::new().with_application_subnet();
    match std::env::var_os("POCKET_IC_BIN") {
        Some(_) => builder,
        None => builder.with_server_binary(env!("CARGO_BIN_EXE_local-net").into()),
    }
}

/// An instance with an application subnet.
pub fn pocket_ic() -> PocketIc {
    builder().build()
}

/// A new canister with plenty of cycles that runs the test canister's Wasm.
pub fn install(pic: &PocketIc) -> Principal {
    let canister = pic.create_canister();
    pic.install_canister(canister, WASM.clone(), encode_args(()).unwrap(), None);
    canister
}
