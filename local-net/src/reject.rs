//! Reject codes and error codes, with the texts that the Internet Computer uses.
//!
//! Sources: the interface specification (reject codes) and the public list of execution errors
//! (`IC0503` and so on). The numbers of [`ErrorCode`] are those of the IC; the hundreds give the reject code.

use candid::Principal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a call was rejected, as the caller sees it (interface specification, "Reject codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RejectCode {
    /// Fatal system error; a retry is unlikely to help.
    SysFatal = 1,
    /// Transient system error; a retry may help.
    SysTransient = 2,
    /// The destination does not exist.
    DestinationInvalid = 3,
    /// The canister rejected explicitly.
    CanisterReject = 4,
    /// The canister trapped or did not reply.
    CanisterError = 5,
    /// The result of a bounded-wait call is unknown.
    SysUnknown = 6,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// The IC's detailed error codes that this network can produce; printed as `IC` and four digits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $name = $code,)* }

        impl ErrorCode {
            /// Every code, in ascending order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

error_codes! {
    /// The subnet has no room for another canister.
    SubnetOversubscribed = 101,
    /// The queue between two canisters is full.
    CanisterQueueFull = 201,
    /// An ingress message was not executed before its expiry.
    IngressMessageTimeout = 202,
    /// The wanted canister id is taken.
    CanisterIdAlreadyExists = 205,
    /// A canister did not stop in time.
    StopCanisterRequestTimeout = 206,
    /// The balance does not cover the message and the freezing threshold.
    CanisterOutOfCycles = 207,
    /// No canister has this id.
    CanisterNotFound = 301,
    /// The canister has no snapshot with this id.
    CanisterSnapshotNotFound = 305,
    /// `create_canister` came with fewer cycles than the creation fee.
    InsufficientCyclesForCreateCanister = 403,
    /// The canister called `msg_reject`.
    CanisterRejectedMessage = 406,
    /// The management canister has no such method.
    UnknownManagementMessage = 407,
    /// The management canister cannot decode or accept the argument.
    InvalidManagementPayload = 408,
    /// Only snapshots that were created from metadata take data.
    CanisterSnapshotImmutable = 409,
    /// Wasm trap.
    CanisterTrapped = 502,
    /// The canister called `ic0.trap`.
    CanisterCalledTrap = 503,
    /// A system call was made where it is not allowed, or with bad arguments.
    CanisterContractViolation = 504,
    /// The module is not valid.
    CanisterInvalidWasm = 505,
    /// The call ended without reply or reject.
    CanisterDidNotReply = 506,
    /// A memory limit was reached.
    CanisterOutOfMemory = 507,
    /// The canister is stopped.
    CanisterStopped = 508,
    /// The canister is stopping.
    CanisterStopping = 509,
    /// The operation needs a stopped canister.
    CanisterNotStopped = 510,
    /// A start request cancelled the stop request.
    CanisterStoppingCancelled = 511,
    /// The caller does not control the canister.
    CanisterInvalidController = 512,
    /// A callback's function does not exist or has the wrong type.
    CanisterFunctionNotFound = 513,
    /// Installation into a canister that has code.
    CanisterNonEmpty = 514,
    /// Composite queries called each other in a circle.
    QueryCallGraphLoopDetected = 517,
    /// The call carries fewer cycles than the callee demands.
    InsufficientCyclesInCall = 520,
    /// The message exceeded its instruction limit.
    CanisterInstructionLimitExceeded = 522,
    /// The message touched more memory than it may.
    CanisterMemoryAccessLimitExceeded = 524,
    /// Composite queries called each other too deeply.
    QueryCallGraphTooDeep = 525,
    /// A composite query and the queries it called used too many instructions.
    QueryCallGraphTotalInstructionLimitExceeded = 526,
    /// A composite query method was called in replicated mode.
    CompositeQueryCalledInReplicatedMode = 527,
    /// The balance is too low for the compute allocation.
    InsufficientCyclesInComputeAllocation = 530,
    /// The balance is too low for the memory allocation.
    InsufficientCyclesInMemoryAllocation = 531,
    /// The balance is too low for the memory that a message allocates.
    InsufficientCyclesInMemoryGrow = 532,
    /// The canister has no such method.
    CanisterMethodNotFound = 536,
    /// The canister has no code.
    CanisterWasmModuleNotFound = 537,
    /// The heap exceeds the setting `wasm_memory_limit`.
    CanisterWasmMemoryLimitExceeded = 539,
    /// The caller may not see the canister's status.
    CanisterStatusAccessDenied = 542,
    /// The deadline of a bounded-wait call passed.
    DeadlineExpired = 601,
}

impl ErrorCode {
    /// The reject code this error belongs to.
    pub fn reject_code(self) -> RejectCode {
        match self as u16 / 100 {
            1 => RejectCode::SysFatal,
            2 => RejectCode::SysTransient,
            3 => RejectCode::DestinationInvalid,
            4 => RejectCode::CanisterReject,
            5 => RejectCode::CanisterError,
            _ => RejectCode::SysUnknown,
        }
    }
}

impl From<RejectCode> for ErrorCode {
    /// An error code of this class, for rejects that have none on the Internet Computer: canisters see the reject code only.
    fn from(code: RejectCode) -> Self {
        match code {
            RejectCode::SysFatal => Self::SubnetOversubscribed,
            RejectCode::SysTransient => Self::CanisterQueueFull,
            RejectCode::DestinationInvalid => Self::CanisterNotFound,
            RejectCode::CanisterReject => Self::CanisterRejectedMessage,
            RejectCode::CanisterError => Self::CanisterDidNotReply,
            RejectCode::SysUnknown => Self::DeadlineExpired,
        }
    }
}

impl TryFrom<u64> for RejectCode {
    type Error = u64;

    /// The reject code with this number; the number itself when there is none.
    fn try_from(code: u64) -> Result<Self, u64> {
        match code {
            1 => Ok(Self::SysFatal),
            2 => Ok(Self::SysTransient),
            3 => Ok(Self::DestinationInvalid),
            4 => Ok(Self::CanisterReject),
            5 => Ok(Self::CanisterError),
            6 => Ok(Self::SysUnknown),
            other => Err(other),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IC{:04}", *self as u16)
    }
}

/// A rejected call: code and text, as it reaches the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{code}: {message}")]
pub struct Reject {
    /// What happened.
    pub code: ErrorCode,
    /// The text for people.
    pub message: String,
}

/// The answer to a call: the reply's bytes or a reject.
pub type Response = Result<Vec<u8>, Reject>;

impl Reject {
    /// A reject with this code and text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A reject of the system that has a reject code only.
    pub fn system(code: RejectCode, message: impl Into<String>) -> Self {
        Self::new(code.into(), message)
    }

    /// The reject of a call whose callback failed with this one, and whose cleanup callback failed with `cleanup`, if at all.
    #[must_use]
    pub fn with_cleanup(mut self, cleanup: Option<Self>) -> Self {
        if let Some(cleanup) = cleanup {
            self.message.push_str("\n\ncall_on_cleanup also failed:\n\n");
            self.message.push_str(&cleanup.message);
        }
        self
    }

    /// No canister has the id `id`.
    pub fn canister_not_found(id: Principal) -> Self {
        Self::new(ErrorCode::CanisterNotFound, format!("Canister {id} not found"))
    }

    /// The canister `id` has no code.
    pub fn no_module(id: Principal) -> Self {
        Self::new(
            ErrorCode::CanisterWasmModuleNotFound,
            format!(
                "Error from Canister {id}: Attempted to execute a message, but the canister contains no Wasm module."
            ),
        )
    }

    /// The canister `id` exports no method of this kind ("update" or "query") and name.
    pub fn no_method(id: Principal, kind: &str, name: &str) -> Self {
        Self::new(
            ErrorCode::CanisterMethodNotFound,
            format!("Error from Canister {id}: Canister has no {kind} method '{name}'."),
        )
    }

    /// The management canister cannot work with the argument.
    pub fn bad_payload(reason: impl fmt::Display) -> Self {
        Self::new(ErrorCode::InvalidManagementPayload, format!("Error decoding candid: {reason}"))
    }
}
