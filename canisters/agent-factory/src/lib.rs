//! The agent-factory canister.
