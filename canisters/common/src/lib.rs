//! Stable-memory building blocks shared by the OHMS canisters.
//!
//! Architecture Invariant: nothing here depends on `ic-cdk`; every structure works on any
//! [`ic_stable_structures::Memory`] and is tested natively.

pub mod cbor;
pub mod extents;
pub mod interface;
pub mod region;
