//! Normalizers: what happens to text before it is cut.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::TokenizerError;
use super::bert::BertNormalizer;
use super::pattern::Pattern;

/// One normalizer of `tokenizer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Normalizer {
    /// Puts a string before a text that is not empty.
    Prepend { prepend: String },
    /// Replaces every match.
    Replace { pattern: Pattern, content: String },
    /// Unicode canonical composition.
    #[serde(rename = "NFC")]
    Nfc,
    /// Unicode canonical decomposition.
    #[serde(rename = "NFD")]
    Nfd,
    /// Unicode compatibility composition.
    #[serde(rename = "NFKC")]
    Nfkc,
    /// Unicode compatibility decomposition.
    #[serde(rename = "NFKD")]
    Nfkd,
    /// Character by character, without regard to context.
    Lowercase,
    /// Removes white space at the ends.
    Strip { strip_left: bool, strip_right: bool },
    /// BERT's.
    BertNormalizer(BertNormalizer),
    /// One after the other.
    Sequence { normalizers: Vec<Normalizer> },
}

impl Normalizer {
    /// The names that are supported, as `tokenizer.json` writes them.
    pub(super) const NAMES: &[&str] = &[
        "Prepend",
        "Replace",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "Strip",
        "BertNormalizer",
        "Sequence",
    ];

    /// The normalized form of `text`.
    pub(super) fn normalize(&self, text: &str) -> Result<String, TokenizerError> {
        Ok(match self {
            Self::Prepend { prepend } if !text.is_empty() => format!("{prepend}{text}"),
            Self::Prepend { .. } => String::new(),
            Self::Replace { pattern, content } => pattern.replace_all(text, content)?,
            Self::Nfc => text.nfc().collect(),
            Self::Nfd => text.nfd().collect(),
            Self::Nfkc => text.nfkc().collect(),
            Self::Nfkd => text.nfkd().collect(),
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Self::Strip { strip_left, strip_right } => {
                let text = if *strip_left { text.trim_start() } else { text };
                if *strip_right { text.trim_end() } else { text }.to_owned()
            }
            Self::BertNormalizer(bert) => bert.normalize(text)?,
            Self::Sequence { normalizers } => {
                let mut text = text.to_owned();
                for normalizer in normalizers {
                    text = normalizer.normalize(&text)?;
                }
                text
            }
        })
    }
}
