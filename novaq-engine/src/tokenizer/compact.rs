//! The compact form of a tokenizer, as an artifact's shard holds it: about a twentieth of `tokenizer.json`.
//!
//! Most tokens are the two halves of a merge put together, so that only the pairs of ids are stored, bit by bit;
//! tokens that no earlier merge makes (the alphabet, byte tokens) are stored as text. `varint` is unsigned LEB128.
//!
//! | field | |
//! |---|---|
//! | magic, version | `NVQT`, `1` |
//! | flags | bit 0 `unk_token` follows, 1 `fuse_unk`, 2 `byte_fallback`, 3 `ignore_merges`, 4 there are equal ranks, 5 `WordPiece` |
//! | unknown token | varint id, if flagged |
//! | base tokens | varint count; each varint (id − previous id − 1), varint length, UTF-8 |
//! | merges | varint count, u8 bits per id; the ids of left and right, packed from the lowest bit on |
//! | equal ranks | if flagged: a bit per merge, packed likewise; whether it is of the rank of the one before |
//! | ids of merged tokens | varint runs; each varint first id, varint length: in the order in which merges first make them |
//! | | |
//! | of `WordPiece` in place of the last four: | |
//! | options | varint length, UTF-8 of the prefix of continuing pieces; varint characters of a word |
//! | vocabulary | varint count, u8 bits per id; the ids, packed, in the order of the tokens' strings; then each string: varint bytes shared with the one before, varint length of the rest, the rest |
//! | | |
//! | added tokens | varint count; each varint id, u8 flags (bit 0 `single_word`, 1 `lstrip`, 2 `rstrip`, 3 `normalized`, 4 `special`, 5 in the vocabulary), unless in the vocabulary varint length and UTF-8 |
//! | components | varint length; JSON of normalizer, pre-tokenizer, post-processor and decoder |

use std::collections::HashMap;

use super::added::AddedToken;
use super::bpe::{Bpe, BpeOptions, Vocab};
use super::json::Components;
use super::wordpiece::WordPiece;
use super::{Model, Tokenizer, TokenizerError};

const MAGIC: &[u8; 4] = b"NVQT";
const VERSION: u8 = 1;

/// How many bytes of merged tokens a byte of the compact form may stand for: bounds what a hostile input, in which
/// each merge doubles a token, can make.
const EXPANSION_LIMIT: usize = 32;

/// How many bytes a token of a `WordPiece` vocabulary shares with the one before it at most: it takes two bytes at least, so
/// that the same limit holds.
const SHARED_LIMIT: usize = 60;

/// The flag of `WordPiece`.
const WORD_PIECE: u8 = 1 << 5;

/// Reads the compact form from front to back.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], TokenizerError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(TokenizerError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, TokenizerError> {
        Ok(self.take(1, field)?[0])
    }

    fn varint(&mut self, field: &'static str) -> Result<u32, TokenizerError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte(field)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value)
                    .map_err(|_| TokenizerError::invalid(field, format!("{value} does not fit 32 bits")));
            }
        }
        Err(TokenizerError::invalid(field, "a number is longer than 5 bytes".to_owned()))
    }

    /// A count of items of at least `least` bytes each, so that no more is allocated than the input holds.
    fn count(&mut self, least: usize, field: &'static str) -> Result<usize, TokenizerError> {
        let count = self.varint(field)? as usize;
        if count > self.rest.len() / least { Err(TokenizerError::Truncated { field }) } else { Ok(count) }
    }

    /// `count` numbers of `bits` bits each, as [`pack`] writes them.
    fn packed(&mut self, count: u64, bits: u32, field: &'static str) -> Result<Vec<u32>, TokenizerError> {
        let len = (count * u64::from(bits)).div_ceil(8);
        let mut bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX), field)?.iter();
        let mut buffer = 0u64;
        let mut filled = 0;
        let number = |_| {
            while filled < bits {
                buffer |= u64::from(bytes.next().copied().unwrap_or_default()) << filled;
                filled += 8;
            }
            let number = (buffer & ((1 << bits) - 1)) as u32;
            buffer >>= bits;
            filled -= bits;
            number
        };
        Ok((0..count).map(number).collect())
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, TokenizerError> {
        let len = self.varint(field)? as usize;
        std::str::from_utf8(self.take(len, field)?)
            .map_err(|error| TokenizerError::invalid(field, error.to_string()))
    }
}

/// Appends `numbers` of `bits` bits each, from the lowest bit on.
fn pack(out: &mut Vec<u8>, bits: u32, numbers: impl Iterator<Item = u32>) {
    let mut buffer = 0u64;
    let mut filled = 0;
    for number in numbers {
        buffer |= u64::from(number) << filled;
        filled += bits;
        while filled >= 8 {
            out.push(buffer as u8);
            buffer >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(buffer as u8);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u32);
    out.extend(text.as_bytes());
}

/// Writes the compact form.
pub(super) fn write(tokenizer: &Tokenizer) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    match &tokenizer.model {
        Model::Bpe(bpe) => {
            let mut compact = Vec::new();
            write_bpe(&mut compact, bpe, true);
            let text: usize = bpe.vocab.iter().map(|(_, token)| token.len()).sum();
            if text > EXPANSION_LIMIT * compact.len() {
                compact.clear();
                write_bpe(&mut compact, bpe, false);
            }
            out.extend(compact);
        }
        Model::WordPiece(word_piece) => write_word_piece(&mut out, word_piece),
    }
    let added = tokenizer.added.tokens();
    put_varint(&mut out, added.len() as u32);
    for token in added {
        let in_vocab = tokenizer.model.vocab().id(&token.content) == Some(token.id);
        put_varint(&mut out, token.id);
        out.push(
            u8::from(token.single_word)
                | u8::from(token.lstrip) << 1
                | u8::from(token.rstrip) << 2
                | u8::from(token.normalized) << 3
                | u8::from(token.special) << 4
                | u8::from(in_vocab) << 5,
        );
        if !in_vocab {
            put_text(&mut out, &token.content);
        }
    }
    let components =
        serde_json::to_string(&tokenizer.components).expect("string keys and finite numbers only");
    put_text(&mut out, &components);
    out
}

/// Bits that the ids of `vocab` take.
fn id_bits(vocab: &Vocab) -> u32 {
    u32::BITS - (vocab.len() as u32).leading_zeros()
}

/// Appends flags, options and vocabulary of a `WordPiece` model.
fn write_word_piece(out: &mut Vec<u8>, model: &WordPiece) {
    let WordPiece { vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word } = model;
    out.push(WORD_PIECE | 1);
    put_varint(out, *unk_token);
    put_text(out, continuing_subword_prefix);
    put_varint(out, *max_input_chars_per_word as u32);
    let mut tokens: Vec<(&str, u32)> = vocab.iter().map(|(id, token)| (token, id)).collect();
    tokens.sort_unstable();
    let bits = id_bits(vocab);
    put_varint(out, tokens.len() as u32);
    out.push(bits as u8);
    pack(out, bits, tokens.iter().map(|&(_, id)| id));
    let mut before = "";
    for (token, _) in tokens {
        let same = before.bytes().zip(token.bytes()).take_while(|(a, b)| a == b).count();
        let shared = same.min(SHARED_LIMIT);
        put_varint(out, shared as u32);
        put_varint(out, (token.len() - shared) as u32);
        out.extend(&token.as_bytes()[shared..]);
        before = token;
    }
}

/// Appends flags, options, vocabulary and merges of a BPE model, with tokens derived from merges or all of them as text.
fn write_bpe(out: &mut Vec<u8>, bpe: &Bpe, derive: bool) {
    let Bpe { vocab, options, .. } = bpe;
    let pairs = bpe.pairs();
    let has_equals = pairs.iter().any(|&(_, _, equal)| equal);
    out.push(
        u8::from(options.unk_token.is_some())
            | u8::from(options.fuse_unk) << 1
            | u8::from(options.byte_fallback) << 2
            | u8::from(options.ignore_merges) << 3
            | u8::from(has_equals) << 4,
    );
    if let Some(id) = options.unk_token {
        put_varint(out, id);
    }

    // A token is derived if a merge makes it before another merge needs it.
    let mut is_base = vec![!derive; vocab.len()];
    let mut is_derived = vec![false; vocab.len()];
    let mut derived: Vec<u32> = Vec::new();
    if derive {
        for &(left, right, _) in &pairs {
            for part in [left, right] {
                is_base[part as usize] |= !is_derived[part as usize];
            }
            if let Some(merged) = bpe.merged(left, right)
                && !is_base[merged as usize]
                && !std::mem::replace(&mut is_derived[merged as usize], true)
            {
                derived.push(merged);
            }
        }
    }
    let base: Vec<_> = vocab.iter().filter(|(id, _)| !is_derived[*id as usize]).collect();
    put_varint(out, base.len() as u32);
    let mut next = 0;
    for (id, token) in base {
        put_varint(out, id - next);
        put_text(out, token);
        next = id + 1;
    }

    let bits = id_bits(vocab);
    put_varint(out, pairs.len() as u32);
    out.push(bits as u8);
    pack(out, bits, pairs.iter().flat_map(|&(left, right, _)| [left, right]));
    if has_equals {
        pack(out, 1, pairs.iter().map(|&(_, _, equal)| u32::from(equal)));
    }

    let runs: Vec<&[u32]> = derived.chunk_by(|a, b| a + 1 == *b).collect();
    put_varint(out, runs.len() as u32);
    for run in runs {
        put_varint(out, run[0]);
        put_varint(out, run.len() as u32);
    }
}

/// Reads the compact form.
pub(super) fn read(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let mut reader = Reader { rest: bytes };
    if reader.take(4, "magic")? != MAGIC {
        return Err(TokenizerError::invalid("magic", "not the compact form of a tokenizer".to_owned()));
    }
    let version = reader.byte("version")?;
    if version != VERSION {
        return Err(TokenizerError::invalid(
            "version",
            format!("{version} is not supported, only {VERSION}"),
        ));
    }
    let flags = reader.byte("flags")?;
    if flags > 0x1f && flags != WORD_PIECE | 1 {
        return Err(TokenizerError::invalid("flags", format!("{flags:#x} has unknown bits")));
    }
    let unk_token = if flags & 1 != 0 { Some(reader.varint("unk_token")?) } else { None };

    let model = match unk_token {
        Some(unk_token) if flags & WORD_PIECE != 0 => {
            Model::WordPiece(read_word_piece(&mut reader, unk_token)?)
        }
        _ => Model::Bpe(read_bpe(&mut reader, flags, unk_token, EXPANSION_LIMIT * bytes.len())?),
    };

    let count = reader.count(2, "added tokens")?;
    let mut added = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.varint("added tokens")?;
        let flags = reader.byte("added tokens")?;
        let content = if flags & 1 << 5 != 0 {
            model.vocab().token(id).ok_or_else(|| {
                TokenizerError::invalid("added tokens", format!("id {id} is not in the vocabulary"))
            })?
        } else {
            reader.text("added tokens")?
        };
        added.push(AddedToken {
            id,
            content: content.to_owned(),
            single_word: flags & 1 != 0,
            lstrip: flags & 1 << 1 != 0,
            rstrip: flags & 1 << 2 != 0,
            normalized: flags & 1 << 3 != 0,
            special: flags & 1 << 4 != 0,
        });
    }
    let components = reader.text("components")?;
    if !reader.rest.is_empty() {
        return Err(TokenizerError::invalid(
            "components",
            format!("{} bytes follow them", reader.rest.len()),
        ));
    }
    let mut components = serde_json::from_str(components)
        .map_err(|error| TokenizerError::invalid("components", error.to_string()))?;
    let components = Components::read(&mut components)?;
    Tokenizer::new(model, added, components)
}

/// Reads what [`write_word_piece`] writes behind the unknown token.
fn read_word_piece(reader: &mut Reader, unk_token: u32) -> Result<WordPiece, TokenizerError> {
    let prefix = reader.text("continuing_subword_prefix")?.to_owned();
    let longest = reader.varint("max_input_chars_per_word")? as usize;
    let count = reader.count(2, "vocabulary")?;
    let bits = u32::from(reader.byte("vocabulary")?);
    if !(1..=32).contains(&bits) {
        return Err(TokenizerError::invalid("vocabulary", format!("{bits} bits per id")));
    }
    let ids = reader.packed(count as u64, bits, "vocabulary")?;
    let mut tokens: Vec<Vec<u8>> = Vec::with_capacity(count);
    for at in 0..count {
        let shared = reader.varint("vocabulary")? as usize;
        let before = tokens.last().map_or(&[][..], Vec::as_slice);
        let start = before.get(..shared).filter(|_| shared <= SHARED_LIMIT).ok_or_else(|| {
            TokenizerError::invalid("vocabulary", format!("token {at} shares {shared} bytes"))
        })?;
        let rest = reader.varint("vocabulary")? as usize;
        let token = [start, reader.take(rest, "vocabulary")?].concat();
        tokens.push(token);
    }
    let tokens: Vec<String> = tokens
        .into_iter()
        .map(String::from_utf8)
        .collect::<Result<_, _>>()
        .map_err(|error| TokenizerError::invalid("vocabulary", error.to_string()))?;
    let vocab = Vocab::new(ids.into_iter().zip(tokens.iter().map(String::as_str)).collect())?;
    WordPiece::new(vocab, unk_token, prefix, longest)
}

/// Reads what [`write_bpe`] writes behind the unknown token. Tokens that merges make may take `budget` bytes together.
fn read_bpe(
    reader: &mut Reader,
    flags: u8,
    unk_token: Option<u32>,
    mut budget: usize,
) -> Result<Bpe, TokenizerError> {
    let count = reader.count(2, "base tokens")?;
    let mut tokens: HashMap<u32, String> = HashMap::with_capacity(count);
    let mut ids: HashMap<String, u32> = HashMap::with_capacity(count);
    let mut next = 0u32;
    for _ in 0..count {
        let id = next.checked_add(reader.varint("base tokens")?);
        let (id, after) = id
            .and_then(|id| Some((id, id.checked_add(1)?)))
            .ok_or_else(|| TokenizerError::invalid("base tokens", "an id does not fit 32 bits".to_owned()))?;
        let token = reader.text("base tokens")?;
        tokens.insert(id, token.to_owned());
        ids.insert(token.to_owned(), id);
        next = after;
    }

    let count = reader.varint("merges")? as usize;
    let bits = u32::from(reader.byte("merges")?);
    if !(1..=32).contains(&bits) {
        return Err(TokenizerError::invalid("merges", format!("{bits} bits per id")));
    }
    let packed = reader.packed(2 * count as u64, bits, "merges")?;
    let pairs: Vec<(u32, u32)> = packed.as_chunks().0.iter().map(|&[left, right]| (left, right)).collect();
    let equals: Vec<bool> = if flags & 1 << 4 != 0 {
        reader.packed(count as u64, 1, "equal ranks")?.into_iter().map(|bit| bit != 0).collect()
    } else {
        Vec::new()
    };

    let mut runs = Vec::with_capacity(reader.count(2, "ids of merged tokens")?);
    for _ in 0..runs.capacity() {
        let first = reader.varint("ids of merged tokens")?;
        runs.push(first..first.saturating_add(reader.varint("ids of merged tokens")?));
    }
    let mut derived = runs.into_iter().flatten();
    for (rank, (left, right)) in pairs.iter().enumerate() {
        let part = |id| {
            tokens.get(id).ok_or_else(|| {
                TokenizerError::invalid("merges", format!("merge {rank} needs token {id} before it is made"))
            })
        };
        let (left, right) = (part(left)?, part(right)?);
        budget = budget.checked_sub(left.len() + right.len()).ok_or_else(|| {
            TokenizerError::invalid("merges", format!("tokens out of proportion at merge {rank}"))
        })?;
        let token = [left.as_str(), right.as_str()].concat();
        if ids.contains_key(&token) {
            continue;
        }
        let id = derived.next().filter(|id| !tokens.contains_key(id)).ok_or_else(|| {
            TokenizerError::invalid("ids of merged tokens", format!("none for merge {rank}"))
        })?;
        tokens.insert(id, token.clone());
        ids.insert(token, id);
    }
    if derived.next().is_some() {
        return Err(TokenizerError::invalid("ids of merged tokens", "more than merges make".to_owned()));
    }
    let vocab = Vocab::new(tokens.iter().map(|(&id, token)| (id, token.as_str())).collect())?;
    let options = BpeOptions {
        unk_token,
        fuse_unk: flags & 1 << 1 != 0,
        byte_fallback: flags & 1 << 2 != 0,
        ignore_merges: flags & 1 << 3 != 0,
    };
    Bpe::new(vocab, &pairs, &equals, options)
}
