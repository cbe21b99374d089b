//! `tokenizer.json`, the format of Hugging Face tokenizers: read and written.
//!
//! One thing is read that Hugging Face tokenizers does not know: a BPE model with `scores`, one per id, in place of
//! `merges`; see [`scores`].

use std::collections::{BTreeMap, HashMap};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::added::AddedToken;
use super::bpe::{Bpe, BpeOptions, Vocab};
use super::decoder::Decoder;
use super::normalizer::Normalizer;
use super::post_processor::PostProcessor;
use super::pre_tokenizer::PreTokenizer;
use super::scores;
use super::wordpiece::WordPiece;
use super::{Model, Tokenizer, TokenizerError};

/// The steps around the model, as `tokenizer.json` writes them.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Components {
    pub(super) normalizer: Option<Normalizer>,
    pub(super) pre_tokenizer: Option<PreTokenizer>,
    pub(super) post_processor: Option<PostProcessor>,
    pub(super) decoder: Option<Decoder>,
}

impl Components {
    /// Reads the components from the fields of `file`.
    pub(super) fn read(file: &mut Value) -> Result<Self, TokenizerError> {
        Ok(Self {
            normalizer: component(file["normalizer"].take(), "normalizer", Normalizer::NAMES)?,
            pre_tokenizer: component(file["pre_tokenizer"].take(), "pre_tokenizer", PreTokenizer::NAMES)?,
            post_processor: component(file["post_processor"].take(), "post_processor", PostProcessor::NAMES)?,
            decoder: component(file["decoder"].take(), "decoder", Decoder::NAMES)?,
        })
    }
}

/// Reads one component; one that is not supported is named, however deep in sequences it stands.
fn component<T: DeserializeOwned>(
    value: Value,
    field: &'static str,
    names: &[&str],
) -> Result<Option<T>, TokenizerError> {
    fn check(value: &Value, field: &'static str, names: &[&str]) -> Result<(), TokenizerError> {
        let name = value["type"].as_str().unwrap_or_default();
        if !names.contains(&name) {
            return Err(TokenizerError::Unsupported { field, name: name.to_owned() });
        }
        ["normalizers", "pretokenizers", "processors", "decoders"]
            .iter()
            .filter_map(|key| value[*key].as_array())
            .flatten()
            .try_for_each(|value| check(value, field, names))
    }
    if value.is_null() {
        return Ok(None);
    }
    check(&value, field, names)?;
    typed(value, field).map(Some)
}

/// `value` as a `T`.
fn typed<T: DeserializeOwned>(value: Value, field: &'static str) -> Result<T, TokenizerError> {
    serde_json::from_value(value).map_err(|error| TokenizerError::invalid(field, error.to_string()))
}

/// A merge as it is written: `"a b"`, or `["a", "b"]` since tokenizers 0.20.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawMerge {
    Pair(String, String),
    Joined(String),
}

/// The fields of a BPE model.
#[derive(Deserialize)]
struct RawModel {
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Option<Vec<RawMerge>>,
    scores: Option<Vec<f32>>,
}

impl RawModel {
    fn build(self) -> Result<Bpe, TokenizerError> {
        let unsupported = [
            ("dropout", self.dropout.is_some_and(|dropout| dropout != 0.0)),
            (
                "continuing_subword_prefix",
                self.continuing_subword_prefix.is_some_and(|text| !text.is_empty()),
            ),
            ("end_of_word_suffix", self.end_of_word_suffix.is_some_and(|text| !text.is_empty())),
        ];
        if let Some((name, _)) = unsupported.into_iter().find(|(_, used)| *used) {
            return Err(TokenizerError::Unsupported { field: "model", name: name.to_owned() });
        }
        let vocab = Vocab::new(self.vocab.iter().map(|(token, &id)| (id, token.as_str())).collect())?;
        let id = |token: &str, field| {
            vocab
                .id(token)
                .ok_or_else(|| TokenizerError::invalid(field, format!("{token:?} is not in the vocabulary")))
        };
        let unk_token = self.unk_token.map(|token| id(&token, "model.unk_token")).transpose()?;
        let options = BpeOptions {
            unk_token,
            fuse_unk: self.fuse_unk,
            byte_fallback: self.byte_fallback,
            ignore_merges: self.ignore_merges,
        };
        let merges = match (self.merges, self.scores) {
            (Some(merges), None) => merges,
            (None, Some(scores)) => {
                let (pairs, equals) = scores::merges(&vocab, &scores, options.byte_fallback)?;
                return Bpe::new(vocab, &pairs, &equals, options);
            }
            (merges, _) => {
                let reason = if merges.is_none() { "are missing" } else { "are given beside `scores`" };
                return Err(TokenizerError::invalid("model.merges", reason.to_owned()));
            }
        };
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in &merges {
            let (left, right) = match merge {
                RawMerge::Pair(left, right) => (left.as_str(), right.as_str()),
                RawMerge::Joined(joined) => joined.split_once(' ').ok_or_else(|| {
                    TokenizerError::invalid("model.merges", format!("{joined:?} is not two tokens"))
                })?,
            };
            pairs.push((id(left, "model.merges")?, id(right, "model.merges")?));
        }
        Bpe::new(vocab, &pairs, &[], options)
    }
}

/// The fields of a `WordPiece` model.
#[derive(Deserialize)]
struct RawWordPiece {
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    vocab: HashMap<String, u32>,
}

impl RawWordPiece {
    fn build(self) -> Result<WordPiece, TokenizerError> {
        let vocab = Vocab::new(self.vocab.iter().map(|(token, &id)| (id, token.as_str())).collect())?;
        let unk_token = vocab.id(&self.unk_token).ok_or_else(|| {
            let reason = format!("{:?} is not in the vocabulary", self.unk_token);
            TokenizerError::invalid("model.unk_token", reason)
        })?;
        WordPiece::new(vocab, unk_token, self.continuing_subword_prefix, self.max_input_chars_per_word)
    }
}

/// Reads a `tokenizer.json`.
pub(super) fn read(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let mut file: Value =
        serde_json::from_slice(json).map_err(|error| TokenizerError::Json { reason: error.to_string() })?;
    if !file.is_object() {
        return Err(TokenizerError::Json { reason: "not an object".to_owned() });
    }
    let model = file["model"].take();
    // Files from before `type` was written are BPE if they have merges.
    let model = match model["type"].as_str() {
        Some("BPE") => Model::Bpe(typed::<RawModel>(model, "model")?.build()?),
        None if model["merges"].is_array() => Model::Bpe(typed::<RawModel>(model, "model")?.build()?),
        Some("WordPiece") => Model::WordPiece(typed::<RawWordPiece>(model, "model")?.build()?),
        name => {
            let name = name.unwrap_or_default().to_owned();
            return Err(TokenizerError::Unsupported { field: "model", name });
        }
    };
    let mut added = match file["added_tokens"].take() {
        Value::Null => Vec::new(),
        tokens => typed::<Vec<AddedToken>>(tokens, "added_tokens")?,
    };
    for token in &mut added {
        // A token of the vocabulary keeps its id there.
        if let Some(id) = model.vocab().id(&token.content) {
            token.id = id;
        }
    }
    Tokenizer::new(model, added, Components::read(&mut file)?)
}

/// Writes a `tokenizer.json`.
pub(super) fn write(tokenizer: &Tokenizer) -> Value {
    let model = match &tokenizer.model {
        Model::Bpe(bpe) => write_bpe(bpe),
        Model::WordPiece(word_piece) => json!({
            "type": "WordPiece",
            "unk_token": word_piece.vocab.token(word_piece.unk_token).unwrap_or_default(),
            "continuing_subword_prefix": word_piece.continuing_subword_prefix,
            "max_input_chars_per_word": word_piece.max_input_chars_per_word,
            "vocab": write_vocab(&word_piece.vocab),
        }),
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": tokenizer.added.tokens(),
        "normalizer": tokenizer.components.normalizer,
        "pre_tokenizer": tokenizer.components.pre_tokenizer,
        "post_processor": tokenizer.components.post_processor,
        "decoder": tokenizer.components.decoder,
        "model": model,
    })
}

fn write_vocab(vocab: &Vocab) -> BTreeMap<&str, u32> {
    vocab.iter().map(|(id, token)| (token, id)).collect()
}

fn write_bpe(bpe: &Bpe) -> Value {
    let token = |id| bpe.vocab.token(id).unwrap_or_default();
    let merges: Vec<[&str; 2]> =
        bpe.pairs().into_iter().map(|(left, right, _)| [token(left), token(right)]).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": bpe.options.unk_token.map(token),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": bpe.options.fuse_unk,
        "byte_fallback": bpe.options.byte_fallback,
        "ignore_merges": bpe.options.ignore_merges,
        "vocab": write_vocab(&bpe.vocab),
        "merges": merges,
    })
}
