//! Why an execution stopped.

use crate::reject::{ErrorCode, Reject};
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
    /// The heap grew beyond the setting `wasm_memory_limit` (bytes).
    #[error("Canister exceeded its current Wasm memory limit of {0} bytes.")]
    WasmMemoryLimit(u64),
    /// The machine has no memory left.
    #[error("Canister cannot grow its memory usage: {0}")]
    OutOfMemory(String),
    /// A callback's table entry is missing or not of type `(i32) -> ()`.
    #[error("Canister's callback {0} is not a function of type (i32) -> ()")]
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

    /// The reject that the caller of `canister` sees.
    pub fn into_reject(self, canister: Principal) -> Reject {
        let code = match &self {
            Self::CalledTrap(_) => ErrorCode::CanisterCalledTrap,
            Self::Trapped(_) => ErrorCode::CanisterTrapped,
            Self::Contract(_) => ErrorCode::CanisterContractViolation,
            Self::InstructionLimit(_) => ErrorCode::CanisterInstructionLimitExceeded,
            Self::WasmMemoryLimit(_) => ErrorCode::CanisterWasmMemoryLimitExceeded,
            Self::OutOfMemory(_) => ErrorCode::CanisterOutOfMemory,
            Self::NoFunction(_) => ErrorCode::CanisterFunctionNotFound,
        };
        Reject::new(code, format!("Error from Canister {canister}: {self}"))
    }
}
