//! What the OHMS canisters share: structures in stable memory, and calls whose outcome matters.
//!
//! Architecture Invariant: only [`calls`] depends on `ic-cdk`; every structure works on any
//! [`ic_stable_structures::Memory`] and is tested natively.

pub mod calls;
pub mod cbor;
pub mod extents;
pub mod interface;
pub mod region;
