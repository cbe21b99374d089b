//! The agent canister.
