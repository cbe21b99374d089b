//! Texts that follow a JSON schema: which tokens may come next.
//!
//! A schema becomes an automaton over bytes; before each token is drawn, those tokens are left whose bytes the automaton can follow. So
//! the text is valid JSON of the schema whatever the model would say, and ends where it is complete. Which tokens are left follows from
//! the schema and the tokens so far alone.

mod schema;
mod tokens;

use std::collections::BTreeSet;
use std::sync::Arc;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};

pub use schema::MAX_SCHEMA_BYTES;
pub use tokens::TokenBytes;

/// Bytes that a schema's automata may take: enough for some hundred characters of texts with a bound.
const MAX_NFA_BYTES: usize = 1 << 20;
const MAX_DFA_BYTES: usize = 2 << 20;

/// Why a text can't be held to a schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The schema is none, or uses what is not supported.
    #[error("`json_schema`{at}: {reason}", at = if pointer.is_empty() { String::new() } else { format!(" at `{pointer}`") })]
    Schema {
        /// JSON pointer of the keyword or schema.
        pointer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The schema allows too much.
    #[error(
        "`json_schema`: its automaton would take more than {MAX_DFA_BYTES} bytes; smaller bounds of texts and lists help"
    )]
    TooLarge,
}

impl ConstraintError {
    fn schema(pointer: &str, reason: impl Into<String>) -> Self {
        Self::Schema { pointer: pointer.to_owned(), reason: reason.into() }
    }
}

/// A schema, and the tokens of the vocabulary that is to follow it.
#[derive(Debug)]
pub struct Constraint {
    schema: String,
    automaton: Automaton,
    tokens: Arc<TokenBytes>,
    /// Tokens that end a text.
    ends: Vec<u32>,
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        (&self.schema, &self.tokens, &self.ends) == (&other.schema, &other.tokens, &other.ends)
    }
}

impl Constraint {
    /// Holds texts of `tokens` to `schema`; one of `ends` is chosen where a complete text could go on, and need not.
    ///
    /// # Errors
    /// If the schema is none, uses what is not supported, or its automaton is too large.
    pub fn new(schema: &str, tokens: Arc<TokenBytes>, ends: Vec<u32>) -> Result<Self, ConstraintError> {
        let automaton = Automaton::new(schema)?;
        Ok(Self { schema: schema.to_owned(), automaton, tokens, ends })
    }
}

/// Checks a schema without a vocabulary.
///
/// # Errors
/// If texts can't be held to it.
pub fn check(schema: &str) -> Result<(), ConstraintError> {
    Automaton::new(schema).map(drop)
}

/// The automaton of the texts that a schema allows.
#[derive(Debug)]
struct Automaton {
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
    /// States that only say that a text was complete a byte ago: the crate's automata know it that late.
    over: Vec<StateID>,
}

impl Automaton {
    fn new(schema: &str) -> Result<Self, ConstraintError> {
        let expression = schema::expression(schema)?;
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .nfa_size_limit(Some(MAX_NFA_BYTES))
                    .which_captures(thompson::WhichCaptures::None),
            )
            .build_from_hir(&expression)
            .map_err(|_| ConstraintError::TooLarge)?;
        // All alternatives are followed to their ends, not the first one that matches.
        let dfa = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All)
                    .dfa_size_limit(Some(MAX_DFA_BYTES))
                    .determinize_size_limit(Some(MAX_DFA_BYTES)),
            )
            .build_from_nfa(&nfa)
            .map_err(|_| ConstraintError::TooLarge)?;
        let start = dfa
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .map_err(|_| ConstraintError::TooLarge)?;
        let (mut seen, mut open, mut over) = (BTreeSet::from([start]), vec![start], Vec::new());
        while let Some(state) = open.pop() {
            let mut goes_on = !dfa.is_dead_state(dfa.next_eoi_state(state));
            let mut before = None;
            for next in (0..=u8::MAX).map(|byte| dfa.next_state(state, byte)) {
                if before != Some(next) && !dfa.is_dead_state(next) {
                    goes_on = true;
                    if seen.insert(next) {
                        open.push(next);
                    }
                }
                before = Some(next);
            }
            if !goes_on {
                over.push(state);
            }
        }
        Ok(Self { dfa, start, over })
    }

    /// The state behind a byte that may follow.
    fn step(&self, state: StateID, byte: u8) -> Option<StateID> {
        let next = self.dfa.next_state(state, byte);
        (!self.dfa.is_dead_state(next) && !self.over.contains(&next)).then_some(next)
    }

    /// Whether the text is complete.
    fn is_match(&self, state: StateID) -> bool {
        self.dfa.is_match_state(self.dfa.next_eoi_state(state))
    }
}

/// How far a text has followed a [`Constraint`].
#[derive(Clone, Debug)]
pub(crate) struct Following {
    constraint: Arc<Constraint>,
    /// `None` behind a token that the constraint does not allow, or one that ends the text.
    state: Option<StateID>,
    allowed: Vec<u32>,
    /// The state that `allowed` is of: inside of a string without a bound it stays the same.
    allowed_in: Option<StateID>,
}

impl Following {
    pub(crate) fn new(constraint: Arc<Constraint>) -> Self {
        let state = Some(constraint.automaton.start);
        Self { constraint, state, allowed: Vec::new(), allowed_in: None }
    }

    /// Goes on with a token.
    pub(crate) fn push(&mut self, token: u32) {
        let Self { constraint, state, .. } = self;
        let bytes = constraint.tokens.bytes_of(token);
        *state = match (*state, bytes) {
            (Some(state), Some(bytes)) => {
                bytes.iter().try_fold(state, |state, &byte| constraint.automaton.step(state, byte))
            }
            _ => None,
        };
    }

    /// Ids of the tokens that may come next, ascending; none if the text can't go on.
    pub(crate) fn allowed(&mut self) -> &[u32] {
        let Self { constraint, state, allowed, allowed_in } = self;
        if *allowed_in == *state && state.is_some() {
            return allowed;
        }
        *allowed_in = *state;
        let Some(state) = *state else {
            allowed.clear();
            return allowed;
        };
        constraint.tokens.leading(state, |state, byte| constraint.automaton.step(state, byte), allowed);
        if constraint.automaton.is_match(state) {
            for end in &constraint.ends {
                if let Err(at) = allowed.binary_search(end) {
                    allowed.insert(at, *end);
                }
            }
        }
        allowed
    }

    /// Whether the text is complete and nothing can follow.
    pub(crate) fn is_complete(&self) -> bool {
        let goes_on = |state| (0..=u8::MAX).any(|byte| self.constraint.automaton.step(state, byte).is_some());
        self.state.is_some_and(|state| self.constraint.automaton.is_match(state) && !goes_on(state))
    }
}

#[cfg(test)]
mod tests;
