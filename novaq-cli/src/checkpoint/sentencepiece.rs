//! `SentencePiece` models of the BPE kind, as the `tokenizer.json` that does the same.
//!
//! Kudo and Richardson, <https://arxiv.org/abs/1808.06226>. The normalization is that of llama.cpp and llama2.c: spaces
//! become `▁`, and one is put in front; nothing else changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What a piece is for; the numbers are those of `sentencepiece_model.proto`, which GGUF uses too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal,
    /// What stands for characters that no piece stands for.
    Unknown,
    /// A sign that is no text, such as a beginning.
    Control,
    /// Cut out of a text before anything else happens.
    UserDefined,
    /// Nothing.
    Unused,
    /// A byte, `<0x00>` to `<0xFF>`.
    Byte,
}

impl Kind {
    /// The kind of this number.
    pub(super) fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    /// The higher, the sooner neighbours become this piece.
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// The tokens by id.
pub(super) type Vocabulary = BTreeMap<String, u32>;

/// The tokens by text.
///
/// # Errors
/// If two are alike: the reason. Empty ones are passed over.
pub(super) fn vocabulary<'a>(tokens: impl Iterator<Item = &'a str>) -> Result<Vocabulary, String> {
    let mut vocabulary = Vocabulary::new();
    for (token, id) in tokens.zip(0..).filter(|(token, _)| !token.is_empty()) {
        if let Some(other) = vocabulary.insert(token.to_owned(), id) {
            return Err(format!("tokens {other} and {id} are both {token:?}"));
        }
    }
    Ok(vocabulary)
}

/// The tokens that are cut out of a text, as `tokenizer.json` lists them.
pub(super) fn added_tokens<'a>(tokens: impl Iterator<Item = (&'a str, Kind)>) -> Value {
    let added = tokens.zip(0u32..).filter(|((text, kind), _)| {
        !text.is_empty() && matches!(kind, Kind::Unknown | Kind::Control | Kind::UserDefined)
    });
    added
        .map(|((text, kind), id)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind != Kind::UserDefined
            })
        })
        .collect()
}

/// The post-processor that puts `before` in front of a text's ids and `after` behind them.
pub(super) fn template(before: Option<(u32, &str)>, after: Option<(u32, &str)>) -> Value {
    let part = |(_, token): (u32, &str)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    let around = |sequences: Vec<Value>| -> Vec<Value> {
        before.map(part).into_iter().chain(sequences).chain(after.map(part)).collect()
    };
    let special: serde_json::Map<String, Value> = before
        .into_iter()
        .chain(after)
        .map(|(id, token)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    if special.is_empty() {
        return Value::Null;
    }
    json!({
        "type": "TemplateProcessing",
        "single": around(vec![sequence("A", 0)]),
        "pair": around(vec![sequence("A", 0), sequence("B", 1)]),
        "special_tokens": special
    })
}

/// The `tokenizer.json` of a model of `pieces`. `unknown` is the id of the piece for what no piece stands for, `prefix`
/// says whether a space is put in front of a text, `template` is what [`template`] made.
///
/// # Errors
/// If two pieces are alike, or a score is not finite: the reason.
pub(super) fn tokenizer_json(
    pieces: &[Piece],
    unknown: Option<usize>,
    prefix: bool,
    template: &Value,
) -> Result<Value, String> {
    let vocabulary = vocabulary(pieces.iter().map(|piece| piece.text.as_str()))?;
    if let Some((id, piece)) = pieces.iter().enumerate().find(|(_, piece)| !piece.score.is_finite()) {
        return Err(format!("token {id} has the score {}", piece.score));
    }
    // An id without text is none, so that the highest ids may be.
    let scores: Vec<f32> = pieces.iter().take(last_id(&vocabulary)).map(|piece| piece.score).collect();
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizers =
        if prefix { vec![json!({"type": "Prepend", "prepend": "▁"}), spaces] } else { vec![spaces] };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = unknown.and_then(|id| pieces.get(id)).map(|piece| &piece.text);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(pieces.iter().map(|piece| (piece.text.as_str(), piece.kind))),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": template,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": pieces.iter().any(|piece| piece.kind == Kind::Byte),
            "ignore_merges": false,
            "vocab": vocabulary,
            "scores": scores
        }
    }))
}

/// One more than the highest id.
fn last_id(vocabulary: &Vocabulary) -> usize {
    vocabulary.values().max().map_or(0, |&id| id as usize + 1)
}

/// Reads protocol buffers: fields one after the other.
struct Message<'a>(&'a [u8]);

/// A field's value.
enum Field<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    /// 64 bits; no field that is read here has them.
    Other,
}

impl<'a> Message<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next field's number and value; `None` if the bytes are not a message.
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

/// The pieces of a `.model` file (`sentencepiece_model.proto`), and whether a space is put in front of a text.
///
/// # Errors
/// If the bytes are no such model, or one of another algorithm than BPE: the reason.
pub(super) fn read_model(bytes: &[u8]) -> Result<(Vec<Piece>, bool), String> {
    const BROKEN: &str = "it is no SentencePiece model, or not all of one";
    let mut pieces = Vec::new();
    let mut prefix = true;
    let mut model = Message(bytes);
    while !model.0.is_empty() {
        match model.field().ok_or(BROKEN)? {
            (1, Field::Bytes(bytes)) => pieces.push(read_piece(bytes).ok_or(BROKEN)?),
            // The trainer's settings: the algorithm is 1 unigram, 2 BPE, 3 word, 4 character.
            (2, Field::Bytes(bytes)) => {
                let kind = read_number(bytes, 3).ok_or(BROKEN)?.unwrap_or(1);
                if !matches!(kind, 2 | 4) {
                    return Err(format!(
                        "its algorithm is number {kind}; supported are BPE (2) and characters (4)"
                    ));
                }
            }
            // The normalizer's settings.
            (3, Field::Bytes(bytes)) => prefix = read_number(bytes, 3).ok_or(BROKEN)? != Some(0),
            _ => {}
        }
    }
    if pieces.is_empty() { Err(BROKEN.to_owned()) } else { Ok((pieces, prefix)) }
}

fn read_piece(bytes: &[u8]) -> Option<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    let mut message = Message(bytes);
    while !message.0.is_empty() {
        match message.field()? {
            (1, Field::Bytes(bytes)) => std::str::from_utf8(bytes).ok()?.clone_into(&mut piece.text),
            (2, Field::Float(score)) => piece.score = score,
            (3, Field::Number(kind)) => piece.kind = Kind::from_number(kind.cast_signed())?,
            _ => {}
        }
    }
    Some(piece)
}

/// The number in field `wanted` of a message.
#[expect(clippy::option_option, reason = "no message, or no such field")]
fn read_number(bytes: &[u8], wanted: u64) -> Option<Option<u64>> {
    let mut message = Message(bytes);
    let mut found = None;
    while !message.0.is_empty() {
        if let (field, Field::Number(number)) = message.field()?
            && field == wanted
        {
            found = Some(number);
        }
    }
    Some(found)
}
