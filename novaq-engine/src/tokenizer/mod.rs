//! Text to token ids and back, as `tokenizer.json` of Hugging Face tokenizers describes it.
//!
//! Byte-level BPE (GPT-2, Llama 3, Qwen, `SmolLM2`), `SentencePiece`-style BPE with byte fallback (Llama 2, Mistral,
//! `TinyLlama`) and `WordPiece` (BERT) give the ids that Hugging Face tokenizers gives. A component that is not supported is an error that
//! names it, never a different tokenization.

mod added;
mod bert;
mod bpe;
pub(crate) mod byte_level;
mod compact;
mod decoder;
mod json;
mod normalizer;
mod pattern;
mod post_processor;
mod pre_tokenizer;
mod scores;
mod wordpiece;

use added::{AddedToken, AddedTokens, Segment};
use bpe::{Bpe, Vocab};
pub use decoder::DecodeStream;
use json::Components;
use pre_tokenizer::Piece;
use wordpiece::WordPiece;

/// Why a tokenizer cannot be read, or a text not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// The file is not JSON.
    #[error("`tokenizer.json` cannot be read: {reason}")]
    Json {
        /// What the JSON parser says.
        reason: String,
    },
    /// A component of the file is not one that this tokenizer knows.
    #[error("tokenizer field `{field}`: `{name}` is not supported")]
    Unsupported {
        /// The field of `tokenizer.json` in which it stands.
        field: &'static str,
        /// Its type or option.
        name: String,
    },
    /// A field has a value that makes no sense.
    #[error("tokenizer field `{field}`: {reason}")]
    Invalid {
        /// The field of `tokenizer.json` or of the compact form.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The compact form ends too early.
    #[error("tokenizer field `{field}`: the bytes end before it does")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
    },
    /// A regular expression cannot be compiled, or takes too many steps on a text.
    #[error("tokenizer pattern `{pattern}`: {reason}")]
    Regex {
        /// The regular expression.
        pattern: String,
        /// What the regex engine says.
        reason: String,
    },
}

impl TokenizerError {
    fn invalid(field: &'static str, reason: String) -> Self {
        Self::Invalid { field, reason }
    }
}

/// What cuts words into tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Model {
    Bpe(Bpe),
    WordPiece(WordPiece),
}

impl Model {
    fn vocab(&self) -> &Vocab {
        match self {
            Self::Bpe(bpe) => &bpe.vocab,
            Self::WordPiece(word_piece) => &word_piece.vocab,
        }
    }

    fn unk_token(&self) -> Option<u32> {
        match self {
            Self::Bpe(bpe) => bpe.options.unk_token,
            Self::WordPiece(word_piece) => Some(word_piece.unk_token),
        }
    }

    /// Appends the ids of `word`.
    fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        match self {
            Self::Bpe(bpe) => bpe.encode(word, ids),
            Self::WordPiece(word_piece) => word_piece.encode(word, ids),
        }
    }
}

/// A tokenizer with its special tokens.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    model: Model,
    added: AddedTokens,
    components: Components,
}

impl Tokenizer {
    fn new(model: Model, added: Vec<AddedToken>, components: Components) -> Result<Self, TokenizerError> {
        if let Some(id) = model.unk_token()
            && model.vocab().token(id).is_none()
        {
            return Err(TokenizerError::invalid(
                "model.unk_token",
                format!("id {id} is not in the vocabulary"),
            ));
        }
        for token in &added {
            if model.vocab().token(token.id).is_some_and(|text| text != token.content) {
                let reason = format!("id {} of {:?} is another token's", token.id, token.content);
                return Err(TokenizerError::invalid("added_tokens", reason));
            }
        }
        let added = AddedTokens::new(added, components.normalizer.as_ref())?;
        Ok(Self { model, added, components })
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not JSON, not consistent, or uses something that is not supported.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        json::read(json)
    }

    /// A `tokenizer.json` that gives the same ids and texts; merges are written as pairs (tokenizers 0.20 and later).
    /// Merges of equal rank, which scores make and that format does not know, are written one after the other.
    pub fn to_json(&self) -> serde_json::Value {
        json::write(self)
    }

    /// Reads the compact form that [`Self::to_bytes`] writes.
    ///
    /// # Errors
    /// If the bytes are truncated or inconsistent. Whatever they are, memory stays in proportion to their number.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        compact::read(bytes)
    }

    /// The compact form, for an artifact.
    pub fn to_bytes(&self) -> Vec<u8> {
        compact::write(self)
    }

    /// The ids of `text`; with `add_special`, those of the special tokens around it too (such as a beginning of
    /// sequence). Added tokens inside the text are found in either case.
    ///
    /// # Errors
    /// If a pattern takes too many steps on this text, or the template for special tokens is inconsistent.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.encode_segments(text, None)?;
        match &self.components.post_processor {
            Some(post_processor) if add_special => post_processor.process(ids),
            _ => Ok(ids),
        }
    }

    /// The ids of `text`, in which `marker` stands where no added token may be found: inside of one, or right behind it.
    /// Apart from that the text is the one without the markers.
    ///
    /// # Errors
    /// If a pattern takes too many steps on this text.
    pub(crate) fn encode_guarded(&self, text: &str, marker: char) -> Result<Vec<u32>, TokenizerError> {
        self.encode_segments(text, Some(marker))
    }

    fn encode_segments(&self, text: &str, marker: Option<char>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for segment in self.added.split(text, self.components.normalizer.as_ref(), marker)? {
            match segment {
                Segment::Token(id) => ids.push(id),
                Segment::Text(text, at_start) => {
                    let mut pieces = vec![Piece { text, at_start }];
                    if let Some(pre_tokenizer) = &self.components.pre_tokenizer {
                        pieces = pre_tokenizer.pre_tokenize(pieces)?;
                    }
                    for piece in &pieces {
                        self.model.encode(&piece.text, &mut ids);
                    }
                }
            }
        }
        Ok(ids)
    }

    /// The ids of `text` with the special tokens around it, at most `max_tokens`: the end of a longer text is left out, the
    /// special tokens stay.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_truncated(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode(text, false)?;
        let around = self.encode("", true)?.len();
        ids.truncate(max_tokens.saturating_sub(around));
        match &self.components.post_processor {
            Some(post_processor) => post_processor.process(ids),
            None => Ok(ids),
        }
    }

    /// The ids of a prompt: with the special tokens around it, and with `bos`, the model's beginning of sequence, in
    /// front where the tokenizer does not put it there itself.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, prompt: &str, bos: Option<u32>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode(prompt, true)?;
        if let Some(bos) = bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of `ids`, without the special tokens if `skip_special`. Ids that are no token are passed over.
    ///
    /// # Errors
    /// If a pattern of the decoder takes too many steps.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut stream = self.decode_stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(self, id)?);
        }
        text.push_str(&stream.finish(self)?);
        Ok(text)
    }

    /// The bytes that a token adds to a text in its middle, which need not be whole characters; `None` for special tokens, ids that
    /// are no token, and where that depends on the tokens around it.
    pub(crate) fn bytes_inside_a_text(&self, id: u32) -> Option<Vec<u8>> {
        if self.added.get(id).is_some_and(|token| token.special) {
            return None;
        }
        let token = self.added.written(id).or_else(|| self.model.vocab().token(id))?;
        self.decode_stream(true).bytes_inside(self.components.decoder.as_ref(), token)
    }

    /// Starts decoding token by token.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.components.decoder.as_ref(), skip_special)
    }

    /// One more than the highest id: the rows an embedding needs.
    pub fn vocab_size(&self) -> usize {
        let added = self.added.tokens().iter().map(|token| token.id as usize + 1).max();
        self.model.vocab().len().max(added.unwrap_or(0))
    }

    /// The id of a token, as it is written in the vocabulary or the added tokens.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        let added = self.added.tokens().iter().find(|added| added.content == token);
        added.map(|added| added.id).or_else(|| self.model.vocab().id(token))
    }

    /// The token with this id, as it is written in the added tokens or the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.added.get(id).map(|token| token.content.as_str()).or_else(|| self.model.vocab().token(id))
    }

    /// What special tokens are found by in a text: as they are written, and normalized.
    pub(crate) fn special_patterns(&self) -> impl Iterator<Item = &str> {
        self.added.special_patterns()
    }

    /// A special token that `text` holds once it is normalized.
    ///
    /// # Errors
    /// If a pattern of the normalizer takes too many steps.
    pub(crate) fn normalized_special(&self, text: &str) -> Result<Option<&str>, TokenizerError> {
        self.added.normalized_special(text, self.components.normalizer.as_ref())
    }

    /// The special tokens and their ids, in the order in which they are listed.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.added
            .tokens()
            .iter()
            .filter(|token| token.special)
            .map(|token| (token.content.as_str(), token.id))
    }
}

impl DecodeStream {
    /// Decodes the next token of `tokenizer`, the one that this stream was made by; returns the text that is now certain.
    ///
    /// # Errors
    /// If a pattern of the decoder takes too many steps.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        if self.skip_special && tokenizer.added.get(id).is_some_and(|token| token.special) {
            return Ok(String::new());
        }
        match tokenizer.added.written(id).or_else(|| tokenizer.model.vocab().token(id)) {
            Some(token) => self.push_token(tokenizer.components.decoder.as_ref(), token),
            None => Ok(String::new()),
        }
    }

    /// Ends the stream; returns the text that was held back.
    ///
    /// # Errors
    /// If a pattern of the decoder takes too many steps.
    pub fn finish(self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        self.finish_tokens(tokenizer.components.decoder.as_ref())
    }
}
