//! An argument that breaks a rule: which field, and why.

use candid::CandidType;
use serde::{Deserialize, Serialize};

/// A field of a request that breaks a rule.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// The field's name as in the Candid interface; nested fields are joined by a dot.
    pub field: String,
    /// What the rule is, with the value that breaks it.
    pub reason: String,
}

impl FieldError {
    /// Names `field` and says why it was refused.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// Checks that `text` has between 1 and `max_bytes` bytes.
    ///
    /// # Errors
    /// Names `field` when the text is empty or longer.
    pub fn check_text(field: &str, text: &str, max_bytes: usize) -> Result<(), Self> {
        match text.len() {
            0 => Err(Self::new(field, "must not be empty")),
            n if n > max_bytes => {
                Err(Self::new(field, format!("has {n} bytes, at most {max_bytes} are allowed")))
            }
            _ => Ok(()),
        }
    }
}
