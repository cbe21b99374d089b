//! Pre-tokenizers: they cut normalized text into the words that the model cuts into tokens.

use serde::{Deserialize, Serialize};

use super::TokenizerError;
use super::bert;
use super::byte_level;
use super::pattern::{Behavior, Pattern, find_chars};

/// When [`PreTokenizer::Metaspace`] puts its replacement character before a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PrependScheme {
    /// Before the piece at the beginning of the text only.
    First,
    /// Never.
    Never,
    /// Before every piece that does not begin with it.
    #[default]
    Always,
}

/// The character for a space and where it is added; shared by the pre-tokenizer and the decoder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "MetaspaceSource")]
pub(super) struct Metaspace {
    /// Stands for a space, usually `▁` (U+2581).
    pub(super) replacement: char,
    /// Where one is added.
    pub(super) prepend_scheme: PrependScheme,
    /// Whether the text is cut before each replacement character.
    pub(super) split: bool,
}

/// [`Metaspace`] as old and new files write it.
#[derive(Deserialize)]
struct MetaspaceSource {
    replacement: char,
    add_prefix_space: Option<bool>,
    #[serde(default)]
    prepend_scheme: PrependScheme,
    split: Option<bool>,
}

impl From<MetaspaceSource> for Metaspace {
    fn from(source: MetaspaceSource) -> Self {
        let prepend_scheme =
            if source.add_prefix_space == Some(false) { PrependScheme::Never } else { source.prepend_scheme };
        Self { replacement: source.replacement, prepend_scheme, split: source.split.unwrap_or(true) }
    }
}

/// One pre-tokenizer of `tokenizer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PreTokenizer {
    /// GPT-2's: cuts by [`byte_level::GPT2_PATTERN`], then writes each byte as one printable character.
    ByteLevel {
        add_prefix_space: bool,
        #[serde(default = "yes")]
        trim_offsets: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    /// Cuts by a pattern.
    Split {
        pattern: Pattern,
        behavior: Behavior,
        #[serde(default)]
        invert: bool,
    },
    /// Cuts off numeric characters, each alone or run by run.
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    /// BERT's: cuts at white space and at punctuation.
    #[serde(rename = "BertPreTokenizer")]
    Bert,
    /// `SentencePiece`'s: spaces become a visible character.
    Metaspace(Metaspace),
    /// One after the other.
    Sequence { pretokenizers: Vec<PreTokenizer> },
}

fn yes() -> bool {
    true
}

/// A piece of text on its way to the model.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The text of the piece, never empty.
    pub(super) text: String,
    /// Whether the piece begins where the input begins.
    pub(super) at_start: bool,
}

impl Piece {
    /// The parts of this piece that `ranges` keeps.
    fn cut(&self, ranges: Vec<std::ops::Range<usize>>) -> impl Iterator<Item = Self> {
        ranges.into_iter().map(|range| Self {
            at_start: self.at_start && range.start == 0,
            text: self.text[range].to_owned(),
        })
    }
}

impl PreTokenizer {
    /// The names that are supported, as `tokenizer.json` writes them.
    pub(super) const NAMES: &[&str] =
        &["ByteLevel", "Split", "Digits", "BertPreTokenizer", "Metaspace", "Sequence"];

    /// Cuts every piece; no piece of the result is empty.
    pub(super) fn pre_tokenize(&self, pieces: Vec<Piece>) -> Result<Vec<Piece>, TokenizerError> {
        if let Self::Sequence { pretokenizers } = self {
            return pretokenizers.iter().try_fold(pieces, |pieces, step| step.pre_tokenize(pieces));
        }
        let mut cut = Vec::with_capacity(pieces.len());
        for mut piece in pieces {
            match self {
                Self::ByteLevel { add_prefix_space, use_regex, .. } => {
                    if *add_prefix_space && !piece.text.starts_with(' ') {
                        piece.text.insert(0, ' ');
                    }
                    let first = cut.len();
                    if *use_regex {
                        let ranges = byte_level::gpt2_pattern().find_matches(&piece.text)?;
                        cut.extend(piece.cut(Behavior::Isolated.pieces(ranges)));
                    } else {
                        cut.push(piece);
                    }
                    for piece in &mut cut[first..] {
                        piece.text = byte_level::to_chars(&piece.text);
                    }
                }
                Self::Split { pattern, behavior, invert } => {
                    let mut ranges = pattern.find_matches(&piece.text)?;
                    if *invert {
                        for (_, is_match) in &mut ranges {
                            *is_match = !*is_match;
                        }
                    }
                    cut.extend(piece.cut(behavior.pieces(ranges)));
                }
                Self::Digits { individual_digits } => {
                    let behavior = if *individual_digits { Behavior::Isolated } else { Behavior::Contiguous };
                    cut.extend(piece.cut(behavior.pieces(find_chars(&piece.text, char::is_numeric))));
                }
                Self::Bert => cut.extend(piece.cut(bert::words(&piece.text)?)),
                Self::Metaspace(Metaspace { replacement, prepend_scheme, split }) => {
                    piece.text = piece.text.replace(' ', replacement.encode_utf8(&mut [0; 4]));
                    let wanted = match prepend_scheme {
                        PrependScheme::Always => true,
                        PrependScheme::First => piece.at_start,
                        PrependScheme::Never => false,
                    };
                    if wanted && !piece.text.starts_with(*replacement) {
                        piece.text.insert(0, *replacement);
                    }
                    if *split {
                        let ranges = find_chars(&piece.text, |c| c == *replacement);
                        cut.extend(piece.cut(Behavior::MergedWithNext.pieces(ranges)));
                    } else {
                        cut.push(piece);
                    }
                }
                Self::Sequence { .. } => unreachable!("handled above"),
            }
        }
        Ok(cut)
    }
}
