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
/// Bytes of stable memory that one message may read, and may write.
pub const STABLE_ACCESS_BYTES: u64 = 2 << 30;
/// Bytes of certified data.
pub const CERTIFIED_DATA_BYTES: usize = 32;
/// Controllers of a canister.
pub const CONTROLLERS: usize = 10;
/// Bytes of a canister's log; older records are dropped.
pub const LOG_BYTES: usize = 4_096;
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
