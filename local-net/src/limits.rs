//! Limits of the Internet Computer that this network enforces.
//!
//! Source: "Resource limits" in the developer documentation, August 2026.

/// Instructions of an update call, timer, heartbeat or callback.
pub const UPDATE_INSTRUCTIONS: u64 = 40_000_000_000;
/// Instructions of a query.
pub const QUERY_INSTRUCTIONS: u64 = 5_000_000_000;
/// Instructions of each hook of an installation or upgrade.
pub const INSTALL_INSTRUCTIONS: u64 = 300_000_000_000;
/// Instructions of `canister_inspect_message`.
pub const INSPECT_INSTRUCTIONS: u64 = 200_000_000;
/// Instructions of one slice of a message, and so of an operation that cannot be interrupted: a bulk memory operation, or a
/// system call. Queries and `canister_inspect_message` are not sliced.
pub const SLICE_INSTRUCTIONS: u64 = 2_000_000_000;
/// Instructions after which a round takes no further message.
pub const ROUND_INSTRUCTIONS: u64 = 4_000_000_000;
/// Instructions that a round counts for each message besides those it used (`scheduler_config.rs` of the replica).
pub const MESSAGE_OVERHEAD: u64 = 2_000_000;

/// Bytes of an ingress message's argument, of an inter-canister request between subnets, and of a replicated reply.
pub const MESSAGE_BYTES: usize = 2 << 20;
/// Bytes of a request between canisters of one subnet, which all canisters here are.
pub const SAME_SUBNET_REQUEST_BYTES: usize = 10 << 20;
/// Bytes of a query's reply.
pub const QUERY_REPLY_BYTES: usize = 3 << 20;
/// Bytes of a Wasm module, after decompression.
pub const MODULE_BYTES: usize = 100 << 20;
/// Bytes of a module's code section.
pub const CODE_BYTES: usize = 10 << 20;
/// Functions that a module defines.
pub const FUNCTIONS: usize = 50_000;
/// Globals that a module defines.
pub const GLOBALS: usize = 1_000;
/// Instructions of one function.
pub const FUNCTION_INSTRUCTIONS: usize = 1_000_000;
/// Update, query and composite query methods that a module exports.
pub const METHODS: usize = 1_000;
/// Bytes of the names of all exported methods.
pub const METHOD_NAME_BYTES: usize = 20_000;
/// Custom sections with metadata (`icp:public …`, `icp:private …`).
pub const METADATA_SECTIONS: usize = 16;
/// Bytes of names and contents of all metadata sections.
pub const METADATA_BYTES: usize = 1 << 20;
/// Bytes of a chunk in the chunk store.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Chunks in a canister's chunk store.
pub const CHUNKS: usize = 100;
/// Requests that wait for an answer between one canister and another.
pub const OPEN_CALLS_PER_CALLEE: usize = 500;
/// Bytes of heap of a wasm32 canister.
pub const HEAP_BYTES: u64 = 4 << 30;
/// Default of the setting `wasm_memory_limit`.
pub const DEFAULT_WASM_MEMORY_LIMIT: u64 = 3 << 30;
/// Bytes of stable memory; the Internet Computer allows 500 GiB, this network 64 GiB (it is kept in memory).
pub const STABLE_BYTES: u64 = 64 << 30;
/// Bytes of stable memory, in whole pages, that one message may touch.
pub const STABLE_ACCESS_BYTES: u64 = 2 << 30;
/// Bytes of stable memory, in whole pages, that a hook of an installation or upgrade may touch.
pub const STABLE_ACCESS_BYTES_INSTALL: u64 = 8 << 30;
/// Bytes of stable memory, in whole pages, that a query may touch.
pub const STABLE_ACCESS_BYTES_QUERY: u64 = 1 << 30;
/// Bytes of certified data.
pub const CERTIFIED_DATA_BYTES: usize = 32;
/// Controllers of a canister.
pub const CONTROLLERS: usize = 10;
/// Default of the setting `log_memory_limit`, and its smallest value besides zero.
pub const LOG_BYTES: u64 = 4_096;
/// Largest value of the setting `log_memory_limit`.
pub const MAX_LOG_BYTES: u64 = 2 << 20;
/// Default freezing threshold in seconds (30 days).
pub const DEFAULT_FREEZING_THRESHOLD: u64 = 2_592_000;
/// How far in the future the expiry of an ingress message may lie, in nanoseconds.
pub const INGRESS_TTL: u64 = 5 * 60 * 1_000_000_000;
/// How much later than `INGRESS_TTL` an expiry may lie because clocks differ, in nanoseconds.
pub const PERMITTED_DRIFT: u64 = 60 * 1_000_000_000;
/// Rounds that waiting for an ingress message executes at most, as PocketIC does.
pub const AWAIT_ROUNDS: usize = 100;
/// Depth of a chain of composite queries.
pub const QUERY_DEPTH: usize = 6;
/// Instructions that a call from a composite query counts for besides those it uses.
pub const QUERY_CALL_OVERHEAD: u64 = 50_000_000;
/// Seconds after which a bounded-wait call ends at the latest.
pub const CALL_TIMEOUT_SECONDS: u32 = 300;
/// Nanoseconds after which a stop request is answered although the canister has open calls.
pub const STOP_TIMEOUT: u64 = 5 * 60 * 1_000_000_000;
/// Snapshots of a canister.
pub const SNAPSHOTS: usize = 10;
/// Bytes that one call reads from a snapshot.
pub const SNAPSHOT_SLICE_BYTES: u64 = 2_000_000;
/// Changes that a canister's history keeps.
pub const HISTORY: usize = 20;
/// Principals in a list of allowed viewers.
pub const VIEWERS: usize = 10;
/// Environment variables of a canister.
pub const VARIABLES: usize = 20;
/// Bytes of the name, and of the value, of an environment variable.
pub const VARIABLE_BYTES: usize = 128;
