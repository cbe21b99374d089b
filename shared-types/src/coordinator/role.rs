//! Role templates: what a role is called, by which words an instruction asks for it, and what its agents are told.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use crate::agent::MAX_TOKENS;
use crate::field::FieldError;

/// Most templates that one owner may define.
pub const MAX_ROLES: usize = 32;

/// Longest name of a role in bytes.
pub const MAX_NAME_BYTES: usize = 32;

/// Most words and phrases of each kind.
pub const MAX_SIGNALS: usize = 128;

/// Longest word or phrase in bytes.
pub const MAX_SIGNAL_BYTES: usize = 64;

/// Longest text that agents are told, in bytes.
pub const MAX_INSTRUCTIONS_BYTES: usize = 2_048;

/// Most capabilities, and most roles that a role follows.
pub const MAX_TAGS: usize = 16;

/// Largest weight of a signal.
pub const MAX_WEIGHT: u32 = 10;

/// A word or phrase that speaks for a role.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Words, separated by single spaces. They are compared by their stems, so that `writes` is `write`.
    pub text: String,
    /// How strongly, from 1 to [`MAX_WEIGHT`]; a role is taken from a sum of 4 on.
    pub weight: u32,
}

/// A role that agents can have.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RoleTemplate {
    /// Its name: 1 to [`MAX_NAME_BYTES`] of `a` to `z`, `0` to `9` and `-`.
    pub name: String,
    /// What people call somebody of this role; each counts as a request for one.
    pub names: Vec<String>,
    /// Words and phrases that speak for it.
    pub signals: Vec<Signal>,
    /// What its agents can do, as tags.
    pub capabilities: Vec<String>,
    /// Roles whose artifacts it takes where the instruction gives no order.
    pub follows: Vec<String>,
    /// What its agents are told before each task.
    pub instructions: String,
    /// Tokens that a task may take where nothing says otherwise.
    pub max_tokens: u32,
}

impl RoleTemplate {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the first that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::check_text("name", &self.name, MAX_NAME_BYTES)?;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !self.name.bytes().all(allowed) {
            return Err(FieldError::new("name", "may have `a` to `z`, `0` to `9` and `-` only"));
        }
        FieldError::check_text("instructions", &self.instructions, MAX_INSTRUCTIONS_BYTES)?;
        for (field, len, most) in [
            ("names", self.names.len(), MAX_SIGNALS),
            ("signals", self.signals.len(), MAX_SIGNALS),
            ("capabilities", self.capabilities.len(), MAX_TAGS),
            ("follows", self.follows.len(), MAX_TAGS),
        ] {
            if len > most {
                return Err(FieldError::new(field, format!("has {len} entries, at most {most} are allowed")));
            }
        }
        if self.names.is_empty() && self.signals.is_empty() {
            return Err(FieldError::new("names", "a role that no word asks for can't be found"));
        }
        let texts =
            [("names", &self.names), ("capabilities", &self.capabilities), ("follows", &self.follows)];
        for (field, texts) in texts {
            for text in texts {
                FieldError::check_text(field, text, MAX_SIGNAL_BYTES)?;
            }
        }
        for signal in &self.signals {
            FieldError::check_text("signals.text", &signal.text, MAX_SIGNAL_BYTES)?;
            if !(1..=MAX_WEIGHT).contains(&signal.weight) {
                let reason = format!("is {}, not within 1..={MAX_WEIGHT}", signal.weight);
                return Err(FieldError::new("signals.weight", reason));
            }
        }
        if !(1..=MAX_TOKENS).contains(&self.max_tokens) {
            let reason = format!("is {}, not within 1..={MAX_TOKENS}", self.max_tokens);
            return Err(FieldError::new("max_tokens", reason));
        }
        Ok(())
    }
}

/// Result of `list_roles`: the caller's own, then those that the canister brings.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RolesPage {
    /// Defined by the caller; one with the name of a built-in role stands in its place.
    pub own: Vec<RoleTemplate>,
    /// The canister's.
    pub built_in: Vec<RoleTemplate>,
}
