//! What the cross-canister tests share: the canisters' Wasm, a network to install it on, an artifact to upload.
//!
//! The network is whatever server `POCKET_IC_BIN` names: the project's `local-net` or a PocketIC.

pub mod artifact;
pub mod coordinator;
pub mod exchange_rate;
pub mod faults;
pub mod golden;
pub mod ledger;
pub mod network;
pub mod wasm;
