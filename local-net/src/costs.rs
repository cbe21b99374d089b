//! What execution costs: instructions of operators, system calls and pages, and cycles.
//!
//! **Exact**: the cost of every WebAssembly operator (`instruction-costs.toml`, the replica's table), how operators
//! are grouped into blocks, one instruction per byte of bulk memory operations, the fixed cost of every system call.
//!
//! **Estimate**: pages. The replica charges a page when it is first touched. Here that is so for stable memory; the pages of
//! the heap are counted when the message ends and when the canister reads `performance_counter` (with a heap above
//! 64 MiB not every time), so a message can run past its limit by what the heap's pages cost. The cost of copying dirty
//! pages after the message is an upper bound (every 4 KiB page of a written 64 KiB page). Cycles are the published fees of
//! a subnet of 13 nodes, in proportion to the subnet's size, without the rounding of the replica.

use crate::{limits, network::SubnetKind};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::LazyLock};
use wasmparser::Operator;

/// Bytes of a WebAssembly page, the unit in which accesses are tracked.
pub const WASM_PAGE: usize = 65_536;
/// Bytes of an operating-system page, the unit in which the replica charges.
pub const OS_PAGE: usize = 4_096;
/// Operating-system pages of one WebAssembly page.
pub const OS_PAGES_PER_WASM_PAGE: u64 = (WASM_PAGE / OS_PAGE) as u64;

/// Instructions for each OS page of a WebAssembly page that a message accesses for the first time, and again when it
/// first writes to it (dfinity/ic #10789).
pub const PAGE_ACCESS: u64 = 5_000;
/// Instructions for copying a dirty OS page after the message (dfinity/ic #10789).
pub const DIRTY_PAGE_COPY: u64 = 3_000;

/// Instructions of a system call that has no own entry below (`system_api_complexity.rs` of the replica).
pub const SYSTEM_CALL: u64 = 500;
/// Instructions of `call_new`.
pub const CALL_NEW: u64 = 1_500;
/// Instructions of `call_perform`.
pub const CALL_PERFORM: u64 = 5_000;
/// Instructions of `performance_counter`.
pub const PERFORMANCE_COUNTER: u64 = 200;
/// Instructions of `stable*_size`, `stable*_read` and `stable*_write`, plus one per byte.
pub const STABLE_ACCESS: u64 = 20;

/// Nodes of the subnets for which the fees below are published.
const REFERENCE_NODES: u32 = 13;
/// Cycles of executing one update message, whatever it does.
pub const UPDATE_MESSAGE_FEE: u128 = 5_000_000;
/// Cycles per instruction of a wasm32 canister.
pub const INSTRUCTION_FEE: u128 = 1;
/// Cycles of creating a canister.
pub const CANISTER_CREATION_FEE: u128 = 500_000_000_000;
/// Cycles of an inter-canister call.
pub const XNET_CALL_FEE: u128 = 260_000;
/// Cycles per byte of an inter-canister call's method name and payload.
pub const XNET_BYTE_FEE: u128 = 1_000;
/// Cycles of receiving an ingress message.
pub const INGRESS_MESSAGE_FEE: u128 = 1_200_000;
/// Cycles per byte of an ingress message.
pub const INGRESS_BYTE_FEE: u128 = 2_000;
/// Cycles for storing one GiB for one second.
pub const GIB_STORAGE_PER_SECOND_FEE: u128 = 127_000;
/// Cycles for one percent of compute allocation for one second.
pub const COMPUTE_PERCENT_PER_SECOND_FEE: u128 = 10_000_000;
/// Cycles of a threshold signature with `key_1`, wherever it is asked for: the subnet that signs has 34 nodes.
pub const THRESHOLD_SIGNATURE_FEE: u128 = 26_153_846_153;
/// Cycles of a threshold signature with one of the test keys, which subnets of 13 nodes hold.
pub const TEST_THRESHOLD_SIGNATURE_FEE: u128 = 10_000_000_000;

/// What a subnet charges: the published fees, in proportion to its nodes; nothing on system subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fees {
    /// Nodes of the subnet.
    pub nodes: u32,
    free: bool,
}

impl Fees {
    /// The fees of a subnet of this kind. The numbers of nodes are those of the Internet Computer in 2026.
    pub const fn of(kind: SubnetKind) -> Self {
        let nodes = match kind {
            SubnetKind::NNS => 40,
            SubnetKind::SNS | SubnetKind::Fiduciary | SubnetKind::II => 34,
            _ => REFERENCE_NODES,
        };
        let free =
            matches!(kind, SubnetKind::NNS | SubnetKind::II | SubnetKind::Bitcoin | SubnetKind::System);
        Self { nodes, free }
    }

    /// What costs `cycles` on a subnet of 13 nodes.
    fn scaled(self, cycles: u128) -> u128 {
        if self.free {
            0
        } else {
            cycles.saturating_mul(u128::from(self.nodes)) / u128::from(REFERENCE_NODES)
        }
    }

    /// Cycles of executing `instructions` in one replicated message.
    pub fn execution(self, instructions: u64) -> u128 {
        self.scaled(UPDATE_MESSAGE_FEE + u128::from(instructions) * INSTRUCTION_FEE)
    }

    /// Cycles of keeping `bytes` for `seconds`.
    pub fn storage(self, bytes: u64, seconds: u64) -> u128 {
        let byte_seconds = u128::from(bytes) * u128::from(seconds);
        self.scaled(byte_seconds.saturating_mul(GIB_STORAGE_PER_SECOND_FEE) / (1 << 30))
    }

    /// Cycles of a compute allocation of `percent` for `seconds`.
    pub fn compute_allocation(self, percent: u64, seconds: u64) -> u128 {
        self.scaled(u128::from(percent) * u128::from(seconds) * COMPUTE_PERCENT_PER_SECOND_FEE)
    }

    /// Cycles of creating a canister.
    pub fn canister_creation(self) -> u128 {
        self.scaled(CANISTER_CREATION_FEE)
    }

    /// Cycles of sending `bytes` of method name and payload to another canister.
    pub fn call(self, bytes: u64) -> u128 {
        self.scaled(XNET_CALL_FEE + u128::from(bytes) * XNET_BYTE_FEE)
    }

    /// Cycles set aside for a response of the largest size and for executing its callback to the limit.
    pub fn response_reserve(self) -> u128 {
        self.scaled(limits::MESSAGE_BYTES as u128 * XNET_BYTE_FEE)
            + self.execution(limits::UPDATE_INSTRUCTIONS)
    }

    /// Cycles of receiving an ingress message of `bytes`.
    pub fn ingress(self, bytes: u64) -> u128 {
        self.scaled(INGRESS_MESSAGE_FEE + u128::from(bytes) * INGRESS_BYTE_FEE)
    }

    /// Cycles of a threshold signature with the key `name`. The nodes that count are those of the subnet that has the key.
    pub fn threshold_signature(self, name: &str) -> u128 {
        match name {
            _ if self.free => 0,
            "key_1" => THRESHOLD_SIGNATURE_FEE,
            _ => TEST_THRESHOLD_SIGNATURE_FEE,
        }
    }

    /// Cycles of an HTTP outcall: a base, a part for each byte sent and each byte that may come back.
    pub fn http_request(self, request_bytes: u64, max_response_bytes: u64) -> u128 {
        self.scaled(49_140_000 + 5_200 * u128::from(request_bytes) + 10_400 * u128::from(max_response_bytes))
    }
}

/// The distinct 64 KiB pages of one memory that a message touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCount {
    /// Pages read or written.
    pub accessed: u64,
    /// Pages written.
    pub written: u64,
}

impl PageCount {
    /// Instructions charged to the message while it runs.
    pub fn charge(self) -> u64 {
        (self.accessed + self.written) * OS_PAGES_PER_WASM_PAGE * PAGE_ACCESS
    }

    /// Instructions charged after the message for copying what it wrote.
    pub fn copy_charge(self) -> u64 {
        self.written * OS_PAGES_PER_WASM_PAGE * DIRTY_PAGE_COPY
    }
}

impl std::ops::Add for PageCount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { accessed: self.accessed + other.accessed, written: self.written + other.written }
    }
}

/// The replica's cost of each WebAssembly operator, by its name in the text format.
#[derive(Debug, Deserialize)]
struct OperatorTable {
    default: u64,
    cost: BTreeMap<String, u64>,
}

/// The table with dots as underscores, which is how `wasmparser` names operators.
static OPERATORS: LazyLock<OperatorTable> = LazyLock::new(|| {
    let table: OperatorTable = toml::from_str(include_str!("../instruction-costs.toml"))
        .expect("instruction-costs.toml is part of the crate");
    OperatorTable {
        cost: table.cost.into_iter().map(|(name, cost)| (name.replace('.', "_"), cost)).collect(),
        ..table
    }
});

macro_rules! define_operator_cost {
    ($(@$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        /// The cost in instructions of one execution of `op`, without the bytes of bulk memory operations.
        pub fn operator_cost(op: &Operator<'_>) -> u64 {
            match op {
                $(Operator::$op { .. } => {
                    static COST: LazyLock<u64> = LazyLock::new(|| named_cost(stringify!($visit)));
                    *COST
                })*
                _ => OPERATORS.default,
            }
        }

        #[cfg(test)]
        const OPERATOR_NAMES: &[&str] = &[$(stringify!($visit),)*];
    };
}
wasmparser::for_each_operator!(define_operator_cost);

fn named_cost(visit: &str) -> u64 {
    let name = visit.strip_prefix("visit_").unwrap_or(visit);
    OPERATORS.cost.get(name).copied().unwrap_or(OPERATORS.default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_operator_exists() {
        for name in OPERATORS.cost.keys() {
            assert!(OPERATOR_NAMES.contains(&format!("visit_{name}").as_str()), "unknown operator `{name}`");
        }
    }

    #[test]
    fn costs_are_those_of_the_table() {
        assert_eq!(operator_cost(&Operator::I32DivS), 10);
        assert_eq!(operator_cost(&Operator::MemoryGrow { mem: 0 }), 300);
        assert_eq!(operator_cost(&Operator::F64x2Sqrt), 14);
        assert_eq!(operator_cost(&Operator::LocalGet { local_index: 0 }), 1);
        assert_eq!(operator_cost(&Operator::End), 0);
    }

    #[test]
    fn one_touched_byte_pays_for_its_whole_wasm_page() {
        assert_eq!(PageCount { accessed: 1, written: 0 }.charge(), 80_000);
        assert_eq!(PageCount { accessed: 1, written: 1 }.charge(), 160_000);
        assert_eq!(PageCount { accessed: 1, written: 1 }.copy_charge(), 48_000);
    }
}
