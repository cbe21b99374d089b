//! The model canister.
