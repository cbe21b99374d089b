//! Patterns that cut or replace text: a literal string or a regular expression, as `tokenizer.json` writes them.

use std::ops::Range;

use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

use super::TokenizerError;

/// A pattern as `tokenizer.json` writes it: `{"String": "…"}` or `{"Regex": "…"}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Spec {
    String(String),
    Regex(String),
}

/// A compiled pattern; serialises to its source.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Spec", into = "Spec")]
pub(super) enum Pattern {
    /// Matches this string literally.
    Literal(String),
    /// Matches a regular expression with look-around.
    Regex(Box<Regex>),
}

impl TryFrom<Spec> for Pattern {
    type Error = TokenizerError;

    fn try_from(spec: Spec) -> Result<Self, Self::Error> {
        match spec {
            Spec::String(text) => Ok(Self::Literal(text)),
            Spec::Regex(source) => Self::regex(&source),
        }
    }
}

impl From<Pattern> for Spec {
    fn from(pattern: Pattern) -> Self {
        match pattern {
            Pattern::Literal(text) => Self::String(text),
            Pattern::Regex(regex) => Self::Regex(regex.as_str().to_owned()),
        }
    }
}

impl Pattern {
    /// Compiles a regular expression.
    pub(super) fn regex(source: &str) -> Result<Self, TokenizerError> {
        Regex::new(source)
            .map(|regex| Self::Regex(Box::new(regex)))
            .map_err(|error| TokenizerError::Regex { pattern: source.to_owned(), reason: error.to_string() })
    }

    /// Cuts `text` into ranges that cover it, each with whether it matches the pattern.
    pub(super) fn find_matches(&self, text: &str) -> Result<Vec<(Range<usize>, bool)>, TokenizerError> {
        let mut ranges = Vec::new();
        let mut end = 0;
        let mut push = |found: Range<usize>| {
            if end != found.start {
                ranges.push((end..found.start, false));
            }
            end = found.end;
            ranges.push((found, true));
        };
        match self {
            Self::Literal(literal) => {
                text.match_indices(literal.as_str()).for_each(|(at, found)| push(at..at + found.len()));
            }
            Self::Regex(regex) => {
                for found in regex.find_iter(text) {
                    let found = found.map_err(|error| TokenizerError::Regex {
                        pattern: regex.as_str().to_owned(),
                        reason: error.to_string(),
                    })?;
                    push(found.range());
                }
            }
        }
        if end != text.len() {
            ranges.push((end..text.len(), false));
        }
        Ok(ranges)
    }

    /// `text` with every match replaced by `content`, which is taken literally.
    pub(super) fn replace_all(&self, text: &str, content: &str) -> Result<String, TokenizerError> {
        let mut replaced = String::with_capacity(text.len());
        for (range, is_match) in self.find_matches(text)? {
            replaced.push_str(if is_match { content } else { &text[range] });
        }
        Ok(replaced)
    }
}

/// Cuts `text` at every character for which `is_match` holds; such a character is a range of its own.
pub(super) fn find_chars(text: &str, is_match: impl Fn(char) -> bool) -> Vec<(Range<usize>, bool)> {
    let mut ranges = Vec::new();
    let mut end = 0;
    for (at, c) in text.char_indices().filter(|&(_, c)| is_match(c)) {
        if end != at {
            ranges.push((end..at, false));
        }
        end = at + c.len_utf8();
        ranges.push((at..end, true));
    }
    if end != text.len() {
        ranges.push((end..text.len(), false));
    }
    ranges
}

/// What happens to the matched ranges of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Behavior {
    /// Matches are dropped.
    Removed,
    /// Matches are pieces of their own.
    Isolated,
    /// A match ends the piece before it.
    MergedWithPrevious,
    /// A match begins the piece after it.
    MergedWithNext,
    /// Neighbouring matches are one piece.
    Contiguous,
}

impl Behavior {
    /// Turns ranges that cover a text into the pieces to keep, in order.
    pub(super) fn pieces(self, ranges: Vec<(Range<usize>, bool)>) -> Vec<Range<usize>> {
        let mut pieces: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
        let mut previous = false;
        match self {
            Self::Removed => {
                pieces.extend(ranges.into_iter().filter(|(_, is_match)| !is_match).map(|(range, _)| range));
            }
            Self::Isolated => pieces.extend(ranges.into_iter().map(|(range, _)| range)),
            Self::Contiguous => {
                for (range, is_match) in ranges {
                    match pieces.last_mut() {
                        Some(last) if is_match == previous => last.end = range.end,
                        _ => pieces.push(range),
                    }
                    previous = is_match;
                }
            }
            Self::MergedWithPrevious => {
                for (range, is_match) in ranges {
                    match pieces.last_mut() {
                        Some(last) if is_match && !previous => last.end = range.end,
                        _ => pieces.push(range),
                    }
                    previous = is_match;
                }
            }
            Self::MergedWithNext => {
                for (range, is_match) in ranges.into_iter().rev() {
                    match pieces.last_mut() {
                        Some(last) if is_match && !previous => last.start = range.start,
                        _ => pieces.push(range),
                    }
                    previous = is_match;
                }
                pieces.reverse();
            }
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, behavior: Behavior) -> Vec<&str> {
        let ranges = Pattern::Literal("-".to_owned()).find_matches(text).unwrap();
        behavior.pieces(ranges).into_iter().map(|range| &text[range]).collect()
    }

    /// The examples of Hugging Face's documentation of `SplitDelimiterBehavior`.
    #[test]
    fn behaviors_cut_the_documented_example() {
        let text = "the-final--countdown";
        assert_eq!(split(text, Behavior::Removed), ["the", "final", "countdown"]);
        assert_eq!(split(text, Behavior::Isolated), ["the", "-", "final", "-", "-", "countdown"]);
        assert_eq!(split(text, Behavior::MergedWithPrevious), ["the-", "final-", "-", "countdown"]);
        assert_eq!(split(text, Behavior::MergedWithNext), ["the", "-final", "-", "-countdown"]);
        assert_eq!(split(text, Behavior::Contiguous), ["the", "-", "final", "--", "countdown"]);
    }

    #[test]
    fn characters_are_isolated() {
        let ranges = find_chars("a12b", char::is_numeric);
        assert_eq!(ranges, [(0..1, false), (1..2, true), (2..3, true), (3..4, false)]);
        assert_eq!(Behavior::Contiguous.pieces(ranges), [0..1, 1..3, 3..4]);
    }
}
