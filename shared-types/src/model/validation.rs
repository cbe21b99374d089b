//! What the canister finds out about a model before anybody may propose it.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ModelId};

/// How far the validation of a model is.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Validation {
    /// `finish_upload` was not called yet.
    #[default]
    NotStarted,
    /// It is under way.
    Running {
        /// Shards that were read again.
        shards: u32,
    },
    /// Every check passed.
    Passed {
        /// Nanoseconds since 1970.
        at_ns: u64,
    },
    /// A check failed; the report says which.
    Failed {
        /// Nanoseconds since 1970.
        at_ns: u64,
    },
}

/// What is checked.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckKind {
    /// The stored manifest is valid and has the model's id.
    Manifest,
    /// The licence is named.
    License,
    /// The semantic version is greater than that of any model of the name that was ever Active.
    Version,
    /// The signature is that of a key of the uploader.
    Signature,
    /// The tensors are those of the architecture, in its shapes.
    Architecture,
    /// Every stored shard has the manifest's hash, and a header that says what the manifest says.
    Shards,
    /// Rows of tensors of every codec decode to finite numbers.
    Rows,
    /// The tokenizer decodes, and the model knows all of its tokens.
    Tokenizer,
}

/// What a check found.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Passed,
    /// It is not.
    Failed {
        /// What is wrong, and where.
        reason: String,
    },
    /// It was not looked at.
    Skipped {
        /// Why not.
        reason: String,
    },
}

/// A check and what it found.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked.
    pub kind: CheckKind,
    /// What was found.
    pub outcome: Outcome,
}

/// A row that was decoded. Whoever has the artifact can decode it too and compare.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct DecodedRow {
    /// The tensor.
    pub tensor: String,
    /// The row; 0 for a vector.
    pub row: u64,
    /// Numbers in it.
    pub columns: u64,
    /// Root of their mean square.
    pub rms: f64,
    /// SHA-256 of the numbers as 32-bit floats, little-endian.
    pub sha256: Digest,
}

/// What validation found. It is stored with the model and hashed into the audit log.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ValidationReport {
    /// The model.
    pub model_id: ModelId,
    /// Version of the canister's code.
    pub validator: String,
    /// Nanoseconds since 1970.
    pub started_at_ns: u64,
    /// Nanoseconds since 1970; absent while validation runs.
    pub finished_at_ns: Option<u64>,
    /// Shards that were read again.
    pub shards: u32,
    /// Bytes of these.
    pub bytes: u64,
    /// Instructions that it took.
    pub instructions: u64,
    /// Messages that it took.
    pub messages: u32,
    /// The checks that are done, in order.
    pub checks: Vec<Check>,
    /// The rows that were decoded.
    pub rows: Vec<DecodedRow>,
}

impl ValidationReport {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        !self.checks.iter().any(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }

    /// The hash that the audit log names: [`crate::receipt::hash_of`] of the report.
    pub fn hash(&self) -> Digest {
        crate::receipt::hash_of(self)
    }
}
