//! Candid types and pure rules of the OHMS canisters, shared by the canisters, the command line and the tests.
//!
//! One module for each canister's interface, one for what they have in common. The Rust names are the Candid
//! names; every fallible method returns `variant { Ok : …; Err : <canister's error> }`.
//!
//! Architecture Invariant: this crate performs no I/O and does not depend on `ic-cdk`, so that a native client
//! links it as readily as a canister. Rules kept here are plain functions of their arguments.

pub mod agent;
pub mod coordinator;
pub mod digest;
pub mod econ;
#[cfg(feature = "engine")]
mod engine;
pub mod factory;
pub mod field;
pub mod lifecycle;
pub mod model;
pub mod paging;
pub mod receipt;
pub mod ui;

pub use digest::{Digest, ModelId};
pub use field::FieldError;
