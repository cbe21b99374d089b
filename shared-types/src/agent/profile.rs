//! What an agent is for: role, instructions, capabilities, how it chooses tokens, and how it remembers.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::GenerationParams;
use crate::field::FieldError;

/// Longest role in bytes.
pub const MAX_ROLE_BYTES: usize = 64;

/// Longest instructions in bytes.
pub const MAX_INSTRUCTIONS_BYTES: usize = 8_192;

/// Most capabilities, each of at most [`MAX_ROLE_BYTES`] bytes.
pub const MAX_CAPABILITIES: usize = 32;

/// Fewest and most bytes of a conversation that a prompt takes in.
pub const CONTEXT_BYTES: std::ops::RangeInclusive<u32> = 64..=65_536;

/// Most facts that a prompt takes in.
pub const MAX_RECALLED_FACTS: u32 = 32;

/// What an agent is for; see `configure`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct AgentProfile {
    /// Its role in a team, such as `reviewer`; empty for none.
    pub role: String,
    /// What each of its conversations begins with; empty for nothing.
    pub instructions: String,
    /// What it can do, in words that a coordinator looks for.
    pub capabilities: Vec<String>,
    /// How tokens of a conversation are chosen; absent: the default.
    pub params: Option<GenerationParams>,
    /// How it remembers; absent: the default.
    pub memory: Option<MemoryPolicy>,
}

/// How a conversation becomes a prompt.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// Bytes of instructions, summary, facts and turns that a prompt takes in, within [`CONTEXT_BYTES`]; absent: two for each
    /// token of the model's context window, which leaves room for the answer in most languages.
    pub context_bytes: Option<u32>,
    /// What becomes of turns for which there is no room.
    pub when_full: WhenFull,
    /// Facts that are looked up for each message, at most [`MAX_RECALLED_FACTS`]; 0 for none.
    pub recalled_facts: u32,
}

impl Default for MemoryPolicy {
    fn default() -> Self {
        Self { context_bytes: None, when_full: WhenFull::Summarise, recalled_facts: 4 }
    }
}

/// What becomes of turns for which a prompt has no room. They stay readable in any case.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The model writes a summary of them, which later prompts begin with. Until it is written, the oldest are left out.
    #[default]
    Summarise,
    /// The oldest are left out.
    LeaveOut,
}

impl AgentProfile {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the first that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        let bounded = |field: &str, text: &str, most: usize| match text.len() {
            n if n > most => {
                Err(FieldError::new(field, format!("has {n} bytes, at most {most} are allowed")))
            }
            _ => Ok(()),
        };
        bounded("profile.role", &self.role, MAX_ROLE_BYTES)?;
        bounded("profile.instructions", &self.instructions, MAX_INSTRUCTIONS_BYTES)?;
        if self.capabilities.len() > MAX_CAPABILITIES {
            let reason = format!("are {}, at most {MAX_CAPABILITIES} are allowed", self.capabilities.len());
            return Err(FieldError::new("profile.capabilities", reason));
        }
        for (index, capability) in self.capabilities.iter().enumerate() {
            FieldError::check_text(&format!("profile.capabilities[{index}]"), capability, MAX_ROLE_BYTES)?;
        }
        if let Some(params) = &self.params {
            params
                .validate()
                .map_err(|error| FieldError::new(format!("profile.{}", error.field), error.reason))?;
        }
        let Some(memory) = &self.memory else { return Ok(()) };
        if let Some(bytes) = memory.context_bytes.filter(|bytes| !CONTEXT_BYTES.contains(bytes)) {
            let (least, most) = (CONTEXT_BYTES.start(), CONTEXT_BYTES.end());
            let reason = format!("is {bytes}, not within {least}..={most}");
            return Err(FieldError::new("profile.memory.context_bytes", reason));
        }
        if memory.recalled_facts > MAX_RECALLED_FACTS {
            let reason = format!("is {}, at most {MAX_RECALLED_FACTS} are allowed", memory.recalled_facts);
            return Err(FieldError::new("profile.memory.recalled_facts", reason));
        }
        Ok(())
    }
}
