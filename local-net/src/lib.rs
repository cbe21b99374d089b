//! An embedded local network for canister development and tests.
//!
//! It runs canisters' real Wasm on wasmtime and speaks two interfaces: that of the PocketIC server, so that the `pocket-ic` crate
//! works with `POCKET_IC_BIN` set to this binary, and the Internet Computer's own HTTP interface with certificates and signatures,
//! so that agents work. It is an estimate of the Internet Computer, not a replica: [`costs`] says which charges are exact.
//!
//! **Invariants.** A message that traps leaves no trace but its log and the cycles it used (`network::messages`). The
//! order of messages and all random bytes depend only on the requests and the seed. Only [`http`] reads the machine's clock.

#[cfg(not(target_os = "linux"))]
compile_error!("local-net needs Linux: canister memory is undone with memfd and /proc/self/pagemap");

pub mod authentication;
pub mod canister;
pub mod certification;
pub mod costs;
pub mod execution;
pub mod http;
pub mod limits;
pub mod management;
pub mod memory;
pub mod module;
pub mod network;
pub mod reject;
pub mod snapshot;
pub mod state_dir;
pub mod system_api;
pub mod system_canisters;
