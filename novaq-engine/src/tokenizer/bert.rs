//! BERT's normalizer and the characters that its pre-tokenizer cuts at, as Hugging Face tokenizers has them:
//! by the character classes of Unicode 8, newer characters belong to none.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::TokenizerError;
use super::pattern::Pattern;

/// The options of `BertNormalizer`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BertNormalizer {
    /// Removes control characters and makes all white space spaces.
    #[serde(default = "yes")]
    pub(super) clean_text: bool,
    /// Puts spaces around Chinese characters.
    #[serde(default = "yes")]
    pub(super) handle_chinese_chars: bool,
    /// Removes accents; by default where letters become lower case.
    pub(super) strip_accents: Option<bool>,
    /// Makes letters lower case.
    #[serde(default = "yes")]
    pub(super) lowercase: bool,
}

fn yes() -> bool {
    true
}

/// A pattern that is compiled once.
fn class(source: &str) -> Pattern {
    Pattern::regex(source).expect("a constant that compiles")
}

/// Control, format and private characters, and U+FFFD; not those that are white space.
static REMOVED: LazyLock<Pattern> =
    LazyLock::new(|| class(r"[[\p{Cc}\p{Co}\x{fffd}[\p{Cf}&&\p{age=8.0}]]--[\t\n\r]]+"));

/// Combining marks that take no room. Those that are named have changed their class since Unicode 8.
static ACCENTS: LazyLock<Pattern> = LazyLock::new(|| {
    class(r"[\x{1734}\x{1171e}[[\p{Mn}&&\p{age=8.0}]--[\x{1885}\x{1886}\x{a9bd}\x{111c9}]]]+")
});

/// Punctuation, and all symbols of ASCII. U+166D and U+111C9 have changed their class since Unicode 8.
static PUNCTUATION: LazyLock<Pattern> =
    LazyLock::new(|| class(r"[!-/:-@\[-`{-~\x{166d}\x{111c9}[\p{P}&&\p{age=8.0}]]"));

/// The ranges of `is_chinese_char` of Hugging Face tokenizers, which leaves out U+2B820 to U+2B91F.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{20000}'..='\u{2a6df}' | '\u{2a700}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}' | '\u{f900}'..='\u{faff}' | '\u{2f800}'..='\u{2fa1f}')
}

impl BertNormalizer {
    /// The normalized form of `text`.
    pub(super) fn normalize(&self, text: &str) -> Result<String, TokenizerError> {
        let mut text = text.to_owned();
        if self.clean_text {
            text = REMOVED.replace_all(&text, "")?;
            text = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
        }
        if self.handle_chinese_chars && text.contains(is_chinese) {
            let spaced = text.chars().flat_map(|c| {
                let space = Some(' ').filter(|_| is_chinese(c));
                space.into_iter().chain([c]).chain(space)
            });
            text = spaced.collect();
        }
        if self.strip_accents.unwrap_or(self.lowercase) && !text.is_ascii() {
            text = ACCENTS.replace_all(&text.nfd().collect::<String>(), "")?;
        }
        if self.lowercase {
            text = text.chars().flat_map(char::to_lowercase).collect();
        }
        Ok(text)
    }
}

/// The words of `text`: between white space, each punctuation character a word of its own.
pub(super) fn words(text: &str) -> Result<Vec<std::ops::Range<usize>>, TokenizerError> {
    let mut words = Vec::new();
    for (range, is_punctuation) in PUNCTUATION.find_matches(text)? {
        if is_punctuation {
            words.push(range);
            continue;
        }
        let part = &text[range.clone()];
        let place = |word: &str| {
            let start = range.start + (word.as_ptr() as usize - part.as_ptr() as usize);
            start..start + word.len()
        };
        words.extend(part.split_whitespace().map(place));
    }
    Ok(words)
}
