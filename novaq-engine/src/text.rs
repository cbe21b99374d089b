//! Text generation: tokens, the text that they make, and strings that end it.

use crate::artifact::LoadedModel;
use crate::constraint::ConstraintError;
use crate::generate::{Batch, Event, FinishReason, Generation, GenerationError, Passed, Request};
use crate::model::Budget;
use crate::tokenizer::{DecodeStream, Tokenizer, TokenizerError};

/// Most stop strings of a text.
pub const MAX_STOP_STRINGS: usize = 16;

/// Longest stop string in bytes.
pub const MAX_STOP_STRING_BYTES: usize = 256;

/// Why a text can't be generated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TextError {
    /// The stop strings are too many, too long, or empty.
    #[error("stop strings: {reason}")]
    StopStrings {
        /// What is wrong with them.
        reason: String,
    },
    /// The text can't be held to the schema.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The tokens can't be generated.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The tokens can't be decoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Cuts a text, which comes in pieces, off before the first stop string.
///
/// The first is the one that is complete first; of several that end at the same place, the longest. What comes out
/// does not depend on how the text is cut into pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopStrings {
    strings: Vec<String>,
    /// The end of the text that could still become a stop string.
    held: String,
}

impl StopStrings {
    /// Looks for `strings`.
    ///
    /// # Errors
    /// [`TextError::StopStrings`] if there are more than [`MAX_STOP_STRINGS`], or one has not 1 to
    /// [`MAX_STOP_STRING_BYTES`] bytes.
    pub fn new(strings: Vec<String>) -> Result<Self, TextError> {
        let refused = |reason| Err(TextError::StopStrings { reason });
        if strings.len() > MAX_STOP_STRINGS {
            return refused(format!("{}, at most {MAX_STOP_STRINGS} are allowed", strings.len()));
        }
        match strings.iter().map(String::len).find(|bytes| !(1..=MAX_STOP_STRING_BYTES).contains(bytes)) {
            Some(0) => refused("one of them is empty".to_owned()),
            Some(bytes) => {
                refused(format!("one has {bytes} bytes, at most {MAX_STOP_STRING_BYTES} are allowed"))
            }
            None => Ok(Self { strings, held: String::new() }),
        }
    }

    /// Takes the next piece; returns the text that is now certain, and whether a stop string ended it. After that,
    /// nothing more must be pushed.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        if self.strings.is_empty() {
            return (piece.to_owned(), false);
        }
        let from = self.held.len();
        self.held.push_str(piece);
        let text = self.held.as_bytes();
        // A string that is complete now ends in the new piece: an earlier end would have been found earlier.
        for end in from + 1..=text.len() {
            let ends_here = |stop: &&String| text[..end].ends_with(stop.as_bytes());
            if let Some(stop) = self.strings.iter().filter(ends_here).max_by_key(|stop| stop.len()) {
                self.held.truncate(end - stop.len());
                return (std::mem::take(&mut self.held), true);
            }
        }
        let longest = self.strings.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
        let could_begin =
            |start: &usize| self.strings.iter().any(|stop| stop.as_bytes().starts_with(&text[*start..]));
        let certain =
            (text.len().saturating_sub(longest)..text.len()).find(could_begin).unwrap_or(text.len());
        // A stop string begins with the first byte of a character, so this is between two characters.
        let held = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, held), false)
    }

    /// Ends the text; returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// What a step ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextEvent {
    /// The next token, and the text that is certain since: that of the last token includes all that was held back.
    Token(u32, String),
    /// The budget is used up, or a layer is not in memory; nothing is lost.
    Paused,
    /// There will be no more tokens.
    Finished(FinishReason),
}

/// A [`Generation`] with its text, which ends before the first stop string. The tokens that spell the string are
/// kept.
///
/// Like a generation, it can be dropped at any point and resumed from its tokens with the same result.
#[derive(Debug)]
pub struct TextGeneration {
    generation: Generation,
    stream: DecodeStream,
    stops: StopStrings,
    /// All text that came out.
    text: String,
    finished: Option<FinishReason>,
}

impl TextGeneration {
    /// Begins a text that ends before one of `stop`.
    ///
    /// # Errors
    /// If the request or the strings are invalid, or the prompt does not fit the model's context window.
    pub fn new(loaded: &LoadedModel, request: Request, stop: &[String]) -> Result<Self, TextError> {
        Self::resume(loaded, request, stop, &[])
    }

    /// Goes on with a text of which `generated` are the first tokens; [`Self::text`] is what they make.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn resume(
        loaded: &LoadedModel,
        request: Request,
        stop: &[String],
        generated: &[u32],
    ) -> Result<Self, TextError> {
        let mut text = Self {
            generation: Generation::resume(&loaded.model, request, generated)?,
            stream: loaded.tokenizer.decode_stream(true),
            stops: StopStrings::new(stop.to_vec())?,
            text: String::new(),
            finished: None,
        };
        for (at, &token) in generated.iter().enumerate() {
            let reason = text.generation.finished().filter(|_| at + 1 == generated.len());
            text.add(&loaded.tokenizer, token, reason)?;
            if text.finished.is_some() {
                break;
            }
        }
        Ok(text)
    }

    /// As [`Generation::reuse`].
    ///
    /// # Errors
    /// If there is no memory for the copy.
    pub fn reuse(&mut self, previous: &Self) -> Result<usize, TextError> {
        Ok(self.generation.reuse(&previous.generation)?)
    }

    /// The generation of the tokens.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> &[u32] {
        self.generation.generated()
    }

    /// The text so far, without what is held back.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Why the text has ended, if it has.
    pub fn finished(&self) -> Option<FinishReason> {
        self.finished
    }

    /// Works until there is a token, the budget is used up, or the text has ended.
    ///
    /// # Errors
    /// If the logits are not numbers, or a token can't be decoded. `loaded` must be what the text began with.
    pub fn advance(&mut self, loaded: &LoadedModel, budget: &mut Budget) -> Result<TextEvent, TextError> {
        if let Some(reason) = self.finished {
            return Ok(TextEvent::Finished(reason));
        }
        Ok(match self.generation.advance(&loaded.model, budget)? {
            Event::Token(token) => {
                let piece = self.add(&loaded.tokenizer, token, self.generation.finished())?;
                TextEvent::Token(token, piece)
            }
            Event::Paused => TextEvent::Paused,
            Event::Finished(reason) => {
                self.finished = Some(reason);
                TextEvent::Finished(reason)
            }
        })
    }

    /// Adds the text of a token, behind which the tokens end for `reason` if there is one; returns what came out.
    fn add(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        reason: Option<FinishReason>,
    ) -> Result<String, TextError> {
        let mut decoded = self.stream.push(tokenizer, token)?;
        if reason.is_some() {
            decoded.push_str(&self.stream.clone().finish(tokenizer)?);
        }
        let (mut piece, stopped) = self.stops.push(&decoded);
        self.finished = if stopped { Some(FinishReason::StopString) } else { reason };
        if reason.is_some() && !stopped {
            piece.push_str(&self.stops.finish());
        }
        self.text.push_str(&piece);
        Ok(piece)
    }
}

/// As a [`Batch`], of texts.
#[derive(Debug, Default)]
pub struct TextBatch(Batch);

/// What a pass brought to one of its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct PassedText {
    /// Positions that were worked on for it.
    pub positions: usize,
    /// Its next token with the text that is certain since, if its prompt is through. After an error it can't go on.
    pub token: Result<Option<(u32, String)>, TextError>,
}

impl TextBatch {
    /// As [`Batch::next_layer`].
    pub fn next_layer(&self) -> usize {
        self.0.next_layer()
    }

    /// As [`Batch::abandon`].
    pub fn abandon(&mut self) {
        self.0.abandon();
    }

    /// As [`Batch::advance`]. None of `texts` may have ended.
    pub fn advance(
        &mut self,
        loaded: &LoadedModel,
        texts: &mut [&mut TextGeneration],
        budget: &mut Budget,
    ) -> Option<Vec<PassedText>> {
        let mut generations: Vec<&mut Generation> =
            texts.iter_mut().map(|text| &mut text.generation).collect();
        let passed = self.0.advance(&loaded.model, &mut generations, budget)?;
        let passed = texts.iter_mut().zip(passed).map(|(text, Passed { positions, token })| {
            let token = token.map_err(TextError::from).and_then(|token| {
                let Some(token) = token else { return Ok(None) };
                let reason = text.generation.finished();
                Ok(Some((token, text.add(&loaded.tokenizer, token, reason)?)))
            });
            PassedText { positions, token }
        });
        Some(passed.collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The obvious way: look at every end of the whole text.
    fn reference(text: &str, stops: &[String]) -> (String, bool) {
        for end in 1..=text.len() {
            let ending = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (text[..end - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(
            pieces in vec("[abäß]{0,4}", 0..12),
            stops in vec("[abäß]{1,5}", 0..4),
        ) {
            let mut found = StopStrings::new(stops.clone()).unwrap();
            let mut text = String::new();
            let mut stopped = false;
            let mut given = String::new();
            for piece in &pieces {
                given.push_str(piece);
                let (certain, stop) = found.push(piece);
                text.push_str(&certain);
                stopped = stop;
                if stop {
                    break;
                }
                // What is certain is a beginning of the text however it goes on.
                prop_assert!(given.starts_with(&text));
                let held = &given[text.len()..];
                prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)));
            }
            if !stopped {
                text.push_str(&found.finish());
            }
            prop_assert_eq!((text, stopped), reference(&pieces.concat(), &stops));
        }
    }

    #[test]
    fn of_strings_that_end_alike_the_longest_counts() {
        let stops = ["c", "bc", "abcd"].map(str::to_owned).to_vec();
        assert_eq!(StopStrings::new(stops).unwrap().push("xabcd"), ("xa".to_owned(), true));
    }

    #[test]
    fn strings_out_of_bounds_are_refused() {
        let refused = |strings| StopStrings::new(strings).map(|_| ()).unwrap_err().to_string();
        assert_eq!(refused(vec![String::new()]), "stop strings: one of them is empty");
        assert_eq!(
            refused(vec!["x".repeat(257)]),
            "stop strings: one has 257 bytes, at most 256 are allowed"
        );
        assert_eq!(refused(vec!["x".to_owned(); 17]), "stop strings: 17, at most 16 are allowed");
        StopStrings::new(vec!["x".repeat(256); 16]).unwrap();
    }
}
