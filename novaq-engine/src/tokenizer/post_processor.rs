//! Post-processors: the special tokens around a text, such as a beginning of sequence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TokenizerError;

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TemplatePart {
    /// A special token by its name.
    SpecialToken { id: String, type_id: u32 },
    /// The text: `A`, or `B` for the second of a pair.
    Sequence { id: String, type_id: u32 },
}

/// The ids a special token of a template stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TemplateToken {
    id: String,
    ids: Vec<u32>,
    tokens: Vec<String>,
}

/// One post-processor of `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PostProcessor {
    /// Puts special tokens around the text.
    TemplateProcessing {
        single: Vec<TemplatePart>,
        pair: Vec<TemplatePart>,
        special_tokens: BTreeMap<String, TemplateToken>,
    },
    /// BERT's: a token and its id behind the text, and one before it.
    BertProcessing { sep: (String, u32), cls: (String, u32) },
    /// Changes offsets only, which are not computed here.
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        #[serde(default)]
        trim_offsets: bool,
        #[serde(default)]
        use_regex: bool,
    },
    /// One after the other.
    Sequence { processors: Vec<PostProcessor> },
}

impl PostProcessor {
    /// The names that are supported, as `tokenizer.json` writes them.
    pub(super) const NAMES: &[&str] = &["TemplateProcessing", "BertProcessing", "ByteLevel", "Sequence"];

    /// The ids of a text with the special tokens around it.
    pub(super) fn process(&self, ids: Vec<u32>) -> Result<Vec<u32>, TokenizerError> {
        match self {
            Self::TemplateProcessing { single, special_tokens, .. } => {
                let mut processed = Vec::with_capacity(ids.len() + single.len());
                for part in single {
                    match part {
                        TemplatePart::SpecialToken { id, .. } => {
                            let token = special_tokens.get(id).ok_or_else(|| {
                                let reason = format!("special token {id:?} of the template is not defined");
                                TokenizerError::invalid("post_processor", reason)
                            })?;
                            processed.extend(&token.ids);
                        }
                        TemplatePart::Sequence { id, .. } if id == "A" => processed.extend(&ids),
                        TemplatePart::Sequence { id, .. } => {
                            let reason = format!("the template of a single text names sequence {id:?}");
                            return Err(TokenizerError::invalid("post_processor", reason));
                        }
                    }
                }
                Ok(processed)
            }
            Self::BertProcessing { sep, cls } => Ok([&[cls.1], &ids[..], &[sep.1]].concat()),
            Self::ByteLevel { .. } => Ok(ids),
            Self::Sequence { processors } => processors.iter().try_fold(ids, |ids, step| step.process(ids)),
        }
    }
}
