//! What an agent remembers: conversations, and facts that are found by meaning or by words.
//!
//! # Facts
//! A fact is a text, with a vector where there is an encoder: the agent's own model, if it is one, or any other, whose vectors the
//! caller brings. All vectors of an agent are of one model and length. A search compares its vector with every one of them by the inner
//! product in 32-bit floats: it is exact, not approximate. Where there is no vector, words are compared (BM25), and the answer says so.
//!
//! # Conversations
//! `converse` adds a message and submits the job that answers it: the instructions, the facts that fit the message, the summary, and as
//! many of the last turns as there is room for. The answer joins the conversation in the message in which its job ends.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::{JobId, MAX_KEY_BYTES, Priority};
use crate::digest::ModelId;
use crate::field::FieldError;

/// Most facts that an agent keeps.
pub const MAX_FACTS: u64 = 100_000;

/// Longest fact in bytes.
pub const MAX_FACT_BYTES: usize = 4_096;

/// Longest vector.
pub const MAX_DIMENSIONS: usize = 4_096;

/// Most facts that one call brings.
pub const MAX_REMEMBERED: usize = 64;

/// Most facts that a search finds.
pub const MAX_FOUND: u32 = 100;

/// Most words of a query that are looked up.
pub const MAX_QUERY_WORDS: usize = 32;

/// Most conversations.
pub const MAX_CONVERSATIONS: u64 = 1_000;

/// Most turns of a conversation; the oldest make room.
pub const MAX_TURNS: u32 = 2_000;

/// Number of a fact, from 1.
pub type FactId = u64;

/// A fact to remember.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NewFact {
    /// The text, 1 to [`MAX_FACT_BYTES`] bytes.
    pub text: String,
    /// Its vector; absent: the agent's encoder makes it, or there is none.
    pub vector: Option<Vec<f32>>,
}

/// Argument of `remember`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct RememberArgs {
    /// The facts, 1 to [`MAX_REMEMBERED`].
    pub facts: Vec<NewFact>,
    /// The model that made the vectors, where there are any.
    pub encoder: Option<ModelId>,
}

/// A fact.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its number.
    pub id: FactId,
    /// The text.
    pub text: String,
    /// Whether it has a vector.
    pub has_vector: bool,
    /// When it was remembered, in nanoseconds since 1970.
    pub time_ns: u64,
}

/// Page request of `list_facts`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFactsArgs {
    /// The last fact of the page before.
    pub after: Option<FactId>,
    /// Most facts to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_facts`, oldest first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FactPage {
    /// The facts.
    pub facts: Vec<Fact>,
    /// `after` of the next page.
    pub next: Option<FactId>,
}

/// Argument of `search_facts`: a text, or a vector.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SearchFactsArgs {
    /// What is looked for, at most [`MAX_FACT_BYTES`] bytes.
    pub text: String,
    /// Its vector; absent: the agent's encoder makes it if it is in the heap, or words are compared.
    pub vector: Option<Vec<f32>>,
    /// The model that made the vector.
    pub encoder: Option<ModelId>,
    /// Most facts to find, 1 to [`MAX_FOUND`].
    pub limit: u32,
}

/// How facts were compared.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchMethod {
    /// By the inner product with every vector.
    InnerProduct,
    /// By the words they share with the query: BM25 with k1 = 1.2 and b = 0.75 (Robertson and Zaragoza, 2009).
    Lexical,
}

/// A fact that was found.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct FoundFact {
    /// The fact.
    pub fact: Fact,
    /// How well it fits: higher is better; comparable within one answer.
    pub score: f32,
}

/// Result of `search_facts`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct FoundFacts {
    /// How facts were compared.
    pub method: SearchMethod,
    /// The best, best first; of equals the older one.
    pub facts: Vec<FoundFact>,
    /// Facts that were compared.
    pub compared: u64,
    /// Instructions that it took.
    pub instructions: u64,
}

/// Argument of `converse`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ConverseArgs {
    /// The conversation's name, 1 to [`MAX_KEY_BYTES`] bytes. It begins with its first message.
    pub conversation: String,
    /// What is said, 1 to [`MAX_FACT_BYTES`] bytes.
    pub message: String,
    /// Chosen by the caller, 1 to [`MAX_KEY_BYTES`] bytes: the same key in the same conversation is the same message.
    pub key: String,
    /// Which jobs the answer goes before; absent: [`Priority::RealTime`].
    pub priority: Option<Priority>,
}

impl ConverseArgs {
    /// Checks the texts.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::check_text("conversation", &self.conversation, MAX_KEY_BYTES)?;
        FieldError::check_text("message", &self.message, MAX_FACT_BYTES)?;
        FieldError::check_text("key", &self.key, MAX_KEY_BYTES)
    }
}

/// A turn of a conversation: a message and its answer.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its number in the conversation, from 0.
    pub index: u32,
    /// The key of `converse`.
    pub key: String,
    /// What was said.
    pub message: String,
    /// The job that answers.
    pub job_id: JobId,
    /// The answer, as far as it was given when the job had ended.
    pub answer: Option<String>,
    /// Whether its job ended without an answer.
    pub failed: bool,
    /// Turns of the conversation that its prompt took in.
    pub turns_in_prompt: u32,
    /// The facts that its prompt took in.
    pub facts_in_prompt: Vec<FactId>,
    /// When it was said, in nanoseconds since 1970.
    pub time_ns: u64,
}

/// A conversation.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its name.
    pub name: String,
    /// Turns so far, those included that made room.
    pub turns: u32,
    /// What later prompts begin with in the place of the turns before `summarised`.
    pub summary: Option<String>,
    /// The first turn that the summary does not tell of.
    pub summarised: u32,
    /// The job that writes the next summary, while there is one.
    pub summary_job: Option<JobId>,
    /// When it began, in nanoseconds since 1970.
    pub begun_at_ns: u64,
}

/// Page request of `list_conversations`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListConversationsArgs {
    /// The last name of the page before.
    pub after: Option<String>,
    /// Most conversations to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_conversations`, ordered by name.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ConversationPage {
    /// The conversations.
    pub conversations: Vec<Conversation>,
    /// `after` of the next page.
    pub next: Option<String>,
}

/// Page request of `get_conversation`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GetConversationArgs {
    /// The conversation.
    pub name: String,
    /// The last turn of the page before.
    pub after: Option<u32>,
    /// Most turns to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `get_conversation`, oldest turn first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TurnPage {
    /// The conversation.
    pub conversation: Conversation,
    /// The turns.
    pub turns: Vec<Turn>,
    /// `after` of the next page.
    pub next: Option<u32>,
}

/// Where an export goes on.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum ExportCursor {
    /// After this fact.
    Facts(FactId),
    /// After this turn of the conversation of this name.
    Turns(String, u32),
}

/// Page request of `export_memory`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExportMemoryArgs {
    /// `next` of the page before.
    pub after: Option<ExportCursor>,
}

/// Page of `export_memory`: lines of JSON, first the profile, then facts, then turns.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ExportedMemory {
    /// The lines, each ended by a line feed.
    pub lines: String,
    /// `after` of the next page.
    pub next: Option<ExportCursor>,
}

/// What an agent remembers, in numbers.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Facts.
    pub facts: u64,
    /// Those of them that have vectors.
    pub vectors: u64,
    /// Length of the vectors; 0 where there are none.
    pub dimensions: u32,
    /// The model that made the vectors.
    pub encoder: Option<ModelId>,
    /// Conversations.
    pub conversations: u64,
}
