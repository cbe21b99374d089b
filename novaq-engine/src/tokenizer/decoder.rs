//! Decoders: they turn tokens back into text, token by token as they come.

use serde::{Deserialize, Serialize};

use super::TokenizerError;
use super::byte_level;
use super::pattern::Pattern;
use super::pre_tokenizer::{Metaspace, PrependScheme};

/// One decoder of `tokenizer.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Decoder {
    /// Characters stand for bytes, see [`byte_level`].
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        #[serde(default)]
        trim_offsets: bool,
        #[serde(default)]
        use_regex: bool,
    },
    /// Replaces every match.
    Replace { pattern: Pattern, content: String },
    /// Runs of `<0x00>` to `<0xFF>` are UTF-8, or one U+FFFD for each where they are not.
    ByteFallback,
    /// All tokens become one.
    Fuse,
    /// Takes up to `start` characters `content` from the beginning of a token, up to `stop` from its end.
    Strip { content: char, start: usize, stop: usize },
    /// A visible character stands for a space.
    Metaspace(Metaspace),
    /// Words are put together with spaces, pieces that begin with `prefix` without; `cleanup` takes spaces away that
    /// English does not have.
    WordPiece { prefix: String, cleanup: bool },
    /// One after the other.
    Sequence { decoders: Vec<Decoder> },
}

impl Decoder {
    /// The names that are supported, as `tokenizer.json` writes them.
    pub(super) const NAMES: &[&str] =
        &["ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "WordPiece", "Sequence"];

    /// The steps of this decoder, sequences taken apart.
    fn flatten<'a>(&'a self, steps: &mut Vec<&'a Self>) {
        match self {
            Self::Sequence { decoders } => decoders.iter().for_each(|decoder| decoder.flatten(steps)),
            step => steps.push(step),
        }
    }

    /// What this step makes of a token that depends on nothing else.
    fn map(&self, token: &str) -> Result<String, TokenizerError> {
        Ok(match self {
            Self::Replace { pattern, content } => pattern.replace_all(token, content)?,
            Self::Strip { content, start, stop } => {
                let mut rest = token;
                for _ in 0..*start {
                    rest = match rest.strip_prefix(*content) {
                        Some(rest) => rest,
                        None => break,
                    };
                }
                for _ in 0..*stop {
                    rest = match rest.strip_suffix(*content) {
                        Some(rest) => rest,
                        None => break,
                    };
                }
                rest.to_owned()
            }
            Self::ByteLevel { .. } => String::from_utf8_lossy(&level_bytes(token)).into_owned(),
            Self::ByteFallback => match fallback_byte(token) {
                Some(byte) => String::from_utf8_lossy(&[byte]).into_owned(),
                None => token.to_owned(),
            },
            Self::Metaspace(metaspace) => metaspace_token(metaspace, token, true),
            Self::WordPiece { prefix, cleanup } => word_piece(prefix, *cleanup, token, true),
            Self::Fuse | Self::Sequence { .. } => token.to_owned(),
        })
    }
}

/// The bytes that the characters of `token` stand for, or its own if one of them stands for none.
fn level_bytes(token: &str) -> Vec<u8> {
    token.chars().map(byte_level::to_byte).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a token such as `<0x0A>` stands for.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// A token with spaces for the replacement character, which the first token loses instead.
fn metaspace_token(metaspace: &Metaspace, token: &str, first: bool) -> String {
    let with = if first && metaspace.prepend_scheme != PrependScheme::Never { "" } else { " " };
    token.replace(metaspace.replacement, with)
}

/// A token as part of a text: the first, a word behind a space, or the rest of a word.
fn word_piece(prefix: &str, cleanup: bool, token: &str, first: bool) -> String {
    /// As Hugging Face tokenizers has them.
    const CLEANUP: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    let text = match token.strip_prefix(prefix) {
        _ if first => token.to_owned(),
        Some(rest) => rest.to_owned(),
        None => format!(" {token}"),
    };
    if !cleanup {
        return text;
    }
    CLEANUP.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// What a step remembers between tokens.
#[derive(Debug, Clone)]
enum Step {
    /// Nothing: each token is decoded by itself.
    Each,
    /// Passes tokens on unchanged, as parts of one.
    Fuse,
    /// Bytes that do not make a character yet.
    Bytes(Vec<u8>),
    /// A run of byte tokens, which are text only if all of them are.
    Run(Vec<u8>),
    /// How many characters may still be taken from the beginning.
    Strip(usize),
    /// Whether this is the first token.
    Metaspace(bool),
    /// Likewise.
    WordPiece(bool),
    /// Parts of one token that can only be decoded whole.
    Whole(String),
    /// Spaces between tokens, where there is no decoder: whether this is the first token.
    Join(bool),
}

/// Decodes token by token. What has come out, put together, is what decoding all tokens at once gives.
///
/// An incomplete UTF-8 sequence is held back until it is complete.
#[derive(Debug, Clone)]
pub struct DecodeStream {
    pub(super) skip_special: bool,
    steps: Vec<Step>,
}

impl DecodeStream {
    pub(super) fn new(decoder: Option<&Decoder>, skip_special: bool) -> Self {
        let Some(decoder) = decoder else { return Self { skip_special, steps: vec![Step::Join(true)] } };
        let mut decoders = Vec::new();
        decoder.flatten(&mut decoders);
        // Behind a step that makes one token of all, a step sees parts of that one token.
        let mut fused = false;
        let mut steps = Vec::with_capacity(decoders.len());
        for decoder in decoders {
            steps.push(match decoder {
                Decoder::ByteLevel { .. } if !fused => Step::Bytes(Vec::new()),
                Decoder::ByteFallback if !fused => Step::Run(Vec::new()),
                Decoder::Metaspace(_) if !fused => Step::Metaspace(true),
                Decoder::Metaspace(_) => Step::Each,
                Decoder::WordPiece { .. } if !fused => Step::WordPiece(true),
                Decoder::Strip { start, stop: 0, .. } if fused => Step::Strip(*start),
                Decoder::Fuse => Step::Fuse,
                Decoder::Replace { pattern: Pattern::Literal(literal), .. }
                    if literal.chars().count() == 1 =>
                {
                    Step::Each
                }
                _ if fused => Step::Whole(String::new()),
                _ => Step::Each,
            });
            fused |= matches!(decoder, Decoder::Fuse | Decoder::ByteLevel { .. });
        }
        Self { skip_special, steps }
    }

    /// Decodes one token; returns the text that is now certain.
    pub(super) fn push_token(
        &mut self,
        decoder: Option<&Decoder>,
        token: &str,
    ) -> Result<String, TokenizerError> {
        let mut decoders = Vec::new();
        if let Some(decoder) = decoder {
            decoder.flatten(&mut decoders);
        }
        let mut text = String::new();
        feed(&mut self.steps, &decoders, token.to_owned(), &mut text)?;
        Ok(text)
    }

    /// The bytes that `token` adds to a text that has begun; `None` if they depend on other tokens.
    pub(super) fn bytes_inside(mut self, decoder: Option<&Decoder>, token: &str) -> Option<Vec<u8>> {
        if let [Step::Bytes(_)] = self.steps[..] {
            return Some(level_bytes(token));
        }
        for step in &mut self.steps {
            match step {
                Step::Strip(left) => *left = 0,
                Step::Metaspace(first) | Step::WordPiece(first) | Step::Join(first) => *first = false,
                Step::Each | Step::Fuse | Step::Bytes(_) | Step::Run(_) | Step::Whole(_) => {}
            }
        }
        let mut bytes = self.push_token(decoder, token).ok()?.into_bytes();
        for step in &mut self.steps {
            match step {
                Step::Bytes(held) | Step::Run(held) => bytes.append(held),
                Step::Whole(held) if !held.is_empty() => return None,
                _ => {}
            }
        }
        Some(bytes)
    }

    /// Ends the stream; returns the text that was held back.
    pub(super) fn finish_tokens(mut self, decoder: Option<&Decoder>) -> Result<String, TokenizerError> {
        let mut decoders = Vec::new();
        if let Some(decoder) = decoder {
            decoder.flatten(&mut decoders);
        }
        let mut text = String::new();
        for at in 0..decoders.len() {
            let held = match &mut self.steps[at] {
                Step::Bytes(bytes) if !bytes.is_empty() => {
                    vec![String::from_utf8_lossy(&std::mem::take(bytes)).into_owned()]
                }
                Step::Run(bytes) => run_text(&std::mem::take(bytes)),
                Step::Whole(whole) => vec![decoders[at].map(&std::mem::take(whole))?],
                _ => Vec::new(),
            };
            for token in held {
                feed(&mut self.steps[at + 1..], &decoders[at + 1..], token, &mut text)?;
            }
        }
        Ok(text)
    }
}

/// Sends `token` through the steps; what comes out at the end is appended to `text`.
fn feed(
    steps: &mut [Step],
    decoders: &[&Decoder],
    token: String,
    text: &mut String,
) -> Result<(), TokenizerError> {
    let Some((step, steps)) = steps.split_first_mut() else {
        text.push_str(&token);
        return Ok(());
    };
    let Some((&decoder, decoders)) = decoders.split_first() else {
        // Without a decoder, tokens are put together with spaces.
        if let Step::Join(first) = step
            && !std::mem::take(first)
        {
            text.push(' ');
        }
        text.push_str(&token);
        return Ok(());
    };
    let token = match (step, decoder) {
        (Step::Bytes(bytes), _) => {
            bytes.extend(level_bytes(&token));
            let complete = complete_text(bytes);
            if complete.is_empty() {
                return Ok(());
            }
            complete
        }
        (Step::Run(bytes), _) => {
            if let Some(byte) = fallback_byte(&token) {
                bytes.push(byte);
                return Ok(());
            }
            for character in run_text(&std::mem::take(bytes)) {
                feed(steps, decoders, character, text)?;
            }
            token
        }
        (Step::Strip(left), Decoder::Strip { content, .. }) => {
            let mut rest = token.as_str();
            while *left > 0 && !rest.is_empty() {
                if let Some(stripped) = rest.strip_prefix(*content) {
                    *left -= 1;
                    rest = stripped;
                } else {
                    *left = 0;
                }
            }
            rest.to_owned()
        }
        (Step::Metaspace(first), Decoder::Metaspace(metaspace)) => {
            metaspace_token(metaspace, &token, std::mem::take(first))
        }
        (Step::WordPiece(first), Decoder::WordPiece { prefix, cleanup }) => {
            word_piece(prefix, *cleanup, &token, std::mem::take(first))
        }
        (Step::Whole(whole), _) => {
            whole.push_str(&token);
            return Ok(());
        }
        (Step::Fuse, _) => token,
        (_, decoder) => decoder.map(&token)?,
    };
    feed(steps, decoders, token, text)
}

/// Takes all that is certain from `bytes`: complete characters, and U+FFFD for what can no longer become one.
fn complete_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, behind) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                rest = behind;
                let Some(len) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[len..];
            }
        }
    }
    *bytes = rest.to_vec();
    text
}

/// The tokens that a run of byte tokens becomes.
fn run_text(bytes: &[u8]) -> Vec<String> {
    match std::str::from_utf8(bytes) {
        Ok("") => Vec::new(),
        Ok(text) => vec![text.to_owned()],
        Err(_) => vec![char::REPLACEMENT_CHARACTER.to_string(); bytes.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(decoder: &str, tokens: &[&str]) -> Vec<String> {
        let decoder: Decoder = serde_json::from_str(decoder).unwrap();
        let mut stream = DecodeStream::new(Some(&decoder), false);
        let mut pieces: Vec<String> =
            tokens.iter().map(|token| stream.push_token(Some(&decoder), token).unwrap()).collect();
        pieces.push(stream.finish_tokens(Some(&decoder)).unwrap());
        pieces
    }

    #[test]
    fn incomplete_characters_are_held_back() {
        let byte_level = r#"{"type": "ByteLevel"}"#;
        assert_eq!(decode(byte_level, &["Ã", "©", "Ġa", "Ã"]), ["", "é", " a", "", "\u{fffd}"]);
        assert_eq!(decode(byte_level, &["Ã", "Ã", "☃"]), ["", "\u{fffd}", "\u{fffd}☃", ""]);
    }

    #[test]
    fn byte_tokens_are_text_only_as_a_run() {
        let llama = r#"{"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;
        assert_eq!(decode(llama, &["▁a", "<0xC3>", "<0xA9>", "▁b"]), ["a", "", "", "é b", ""]);
        assert_eq!(decode(llama, &["▁", "<0xC3>", "<0xC3>"]), ["", "", "", "\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn a_step_behind_fuse_sees_one_token() {
        let whole = r#"{"type": "Sequence", "decoders": [{"type": "Fuse"},
            {"type": "Replace", "pattern": {"String": "ab"}, "content": "-"},
            {"type": "Strip", "content": "-", "start": 1, "stop": 1}]}"#;
        assert_eq!(decode(whole, &["a", "bxa", "b"]).concat(), "x");
    }

    #[test]
    fn the_first_token_loses_its_space() {
        let metaspace = r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}"#;
        assert_eq!(decode(metaspace, &["▁a", "▁b"]), ["a", " b", ""]);
    }
}
