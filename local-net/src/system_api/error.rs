//! Why an execution stopped.

use crate::{
    limits,
    reject::{ErrorCode, Reject},
};
use candid::Principal;

/// The reason why a canister's execution was stopped and undone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The canister called `ic0.trap` with this message.
    #[error("Canister called `ic0.trap` with message: '{0}'")]
    CalledTrap(String),
    /// WebAssembly trapped, or a system call got an address outside memory.
    #[error("Canister trapped: {0}")]
    Trapped(String),
    /// A system call was not allowed here, or its arguments break the specification.
    #[error("Canister violated contract: {0}")]
    Contract(String),
    /// The message used up its instructions.
    #[error("Canister exceeded the limit of {0} instructions for single message execution.")]
    InstructionLimit(u64),
    /// A bulk memory operation or a system call used more instructions than a slice has; the number it used.
    #[error(
        "Canister attempted to perform a large memory operation that used {0} instructions and exceeded the slice limit {limit}.",
        limit = limits::SLICE_INSTRUCTIONS
    )]
    SliceOverrun(u64),
    /// The message touched more stable memory than it may.
    #[error("Canister exceeded memory access limits: {0}")]
    MemoryAccess(String),
    /// The heap grew beyond the setting `wasm_memory_limit`.
    #[error(
        "Canister exceeded its current Wasm memory limit of {limit} bytes. The peak Wasm memory usage was {bytes} bytes."
    )]
    WasmMemoryLimit {
        /// Bytes the heap would have.
        bytes: u64,
        /// The setting, in bytes.
        limit: u64,
    },
    /// With the memory that the message allocated, the canister would be frozen.
    #[error(
        "Canister cannot grow memory by {bytes} bytes due to insufficient cycles. At least {missing} additional cycles are required."
    )]
    InsufficientCyclesInMemoryGrow {
        /// Bytes allocated.
        bytes: u64,
        /// Cycles that are missing.
        missing: u128,
    },
    /// The machine has no memory left.
    #[error("Canister cannot grow its memory usage: {0}")]
    OutOfMemory(String),
    /// A callback's table entry is missing or not of type `(i32) -> ()`.
    #[error("Canister requested to invoke a non-existent Wasm function {0} from table 0")]
    NoFunction(u32),
}

impl Stop {
    /// A memory access of the system call was outside the heap.
    pub fn heap_out_of_bounds() -> Self {
        Self::Trapped("heap out of bounds".into())
    }

    /// A memory access of the system call was outside stable memory.
    pub fn stable_out_of_bounds() -> Self {
        Self::Trapped("stable memory out of bounds".into())
    }

    /// The 32-bit interface cannot address this much stable memory.
    pub fn stable_too_large() -> Self {
        Self::Trapped("32 bit stable memory api used on a memory larger than 4GB".into())
    }

    /// The line for the canister's log; only traps have one.
    pub fn log_line(&self) -> Option<String> {
        match self {
            Self::CalledTrap(text) if text.is_empty() => Some("[TRAP]: (no message)".into()),
            Self::CalledTrap(text) | Self::Trapped(text) => Some(format!("[TRAP]: {text}")),
            _ => None,
        }
    }

    /// The reject that the caller of `canister` sees; `backtrace` follows the text.
    pub fn into_reject(self, canister: Principal, backtrace: &str) -> Reject {
        let code = match &self {
            Self::CalledTrap(_) => ErrorCode::CanisterCalledTrap,
            Self::Trapped(_) => ErrorCode::CanisterTrapped,
            Self::Contract(_) => ErrorCode::CanisterContractViolation,
            Self::InstructionLimit(_) | Self::SliceOverrun(_) => ErrorCode::CanisterInstructionLimitExceeded,
            Self::MemoryAccess(_) => ErrorCode::CanisterMemoryAccessLimitExceeded,
            Self::WasmMemoryLimit { .. } => ErrorCode::CanisterWasmMemoryLimitExceeded,
            Self::InsufficientCyclesInMemoryGrow { .. } => ErrorCode::InsufficientCyclesInMemoryGrow,
            Self::OutOfMemory(_) => ErrorCode::CanisterOutOfMemory,
            Self::NoFunction(_) => ErrorCode::CanisterFunctionNotFound,
        };
        Reject::new(code, format!("Error from Canister {canister}: {self}{backtrace}"))
    }
}
