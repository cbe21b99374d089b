//! The compact form of a tokenizer, as an artifact's shard holds it: about a twentieth of `tokenizer.json`.
//!
//! Most tokens are the two halves of a merge put together, so that only the pairs of ids are stored, bit by bit;
//! tokens that no earlier merge makes (the alphabet, byte tokens) are stored as text. `varint` is unsigned LEB128.
//!
//! | field | |
//! |---|---|
//! | magic, version | `NVQT`, `1` |
//! | flags | bit 0 `unk_token` follows, 1 `fuse_unk`, 2 `byte_fallback`, 3 `ignore_merges`, 4 there are equal ranks |
//! | unknown token | varint id, if flagged |
//! | base tokens | varint count; each varint (id − previous id − 1), varint length, UTF-8 |
//! | merges | varint count, u8 bits per id; the ids of left and right, packed from the lowest bit on |
//! | equal ranks | if flagged: a bit per merge, packed likewise; whether it is of the rank of the one before |
//! | ids of merged tokens | varint runs; each varint first id, varint length: in the order in which merges first make them |
//! | added tokens | varint count; each varint id, u8 flags (bit 0 `single_word`, 1 `lstrip`, 2 `rstrip`, 3 `normalized`, 4 `special`, 5 in the vocabulary), unless in the vocabulary varint length and UTF-8 |
//! | components | varint length; JSON of normalizer, pre-tokenizer, post-processor and decoder |

use std::collections::HashMap;

use super::added::AddedToken;
use super::bpe::{Bpe, BpeOptions, Vocab};
use super::json::Components;
use super::{Tokenizer, TokenizerError};

const MAGIC: &[u8; 4] = b"NVQT";
const VERSION: u8 = 1;

/// How many bytes of merged tokens a byte of the compact form may stand for: bounds what a hostile input, in which
/// each merge doubles a token, can make.
const EXPANSION_LIMIT: usize = 32;

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
    let compact = write_with(tokenizer, true);
    let vocab = &tokenizer.bpe.vocab;
    let text: usize = vocab.iter().map(|(_, token)| token.len()).sum();
    if text <= EXPANSION_LIMIT * compact.len() { compact } else { write_with(tokenizer, false) }
}

/// Writes the compact form, with tokens derived from merges or all of them as text.
fn write_with(tokenizer: &Tokenizer, derive: bool) -> Vec<u8> {
    let Bpe { vocab, options, .. } = &tokenizer.bpe;
    let pairs = tokenizer.bpe.pairs();
    let has_equals = pairs.iter().any(|&(_, _, equal)| equal);
    let mut out = MAGIC.to_vec();
    out.push(VERSION);
    out.push(
        u8::from(options.unk_token.is_some())
            | u8::from(options.fuse_unk) << 1
            | u8::from(options.byte_fallback) << 2
            | u8::from(options.ignore_merges) << 3
            | u8::from(has_equals) << 4,
    );
    if let Some(id) = options.unk_token {
        put_varint(&mut out, id);
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
            if let Some(merged) = tokenizer.bpe.merged(left, right)
                && !is_base[merged as usize]
                && !std::mem::replace(&mut is_derived[merged as usize], true)
            {
                derived.push(merged);
            }
        }
    }
    let base: Vec<_> = vocab.iter().filter(|(id, _)| !is_derived[*id as usize]).collect();
    put_varint(&mut out, base.len() as u32);
    let mut next = 0;
    for (id, token) in base {
        put_varint(&mut out, id - next);
        put_text(&mut out, token);
        next = id + 1;
    }

    let bits = u32::BITS - (vocab.len() as u32).leading_zeros();
    put_varint(&mut out, pairs.len() as u32);
    out.push(bits as u8);
    pack(&mut out, bits, pairs.iter().flat_map(|&(left, right, _)| [left, right]));
    if has_equals {
        pack(&mut out, 1, pairs.iter().map(|&(_, _, equal)| u32::from(equal)));
    }

    let runs: Vec<&[u32]> = derived.chunk_by(|a, b| a + 1 == *b).collect();
    put_varint(&mut out, runs.len() as u32);
    for run in runs {
        put_varint(&mut out, run[0]);
        put_varint(&mut out, run.len() as u32);
    }

    let added = tokenizer.added.tokens();
    put_varint(&mut out, added.len() as u32);
    for token in added {
        let in_vocab = vocab.id(&token.content) == Some(token.id);
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
    if flags > 0x1f {
        return Err(TokenizerError::invalid("flags", format!("{flags:#x} has unknown bits")));
    }
    let unk_token = if flags & 1 != 0 { Some(reader.varint("unk_token")?) } else { None };

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
    let mut budget = EXPANSION_LIMIT * bytes.len();
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

    let count = reader.count(2, "added tokens")?;
    let mut added = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.varint("added tokens")?;
        let flags = reader.byte("added tokens")?;
        let content = if flags & 1 << 5 != 0 {
            vocab.token(id).ok_or_else(|| {
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
    let options = BpeOptions {
        unk_token,
        fuse_unk: flags & 1 << 1 != 0,
        byte_fallback: flags & 1 << 2 != 0,
        ignore_merges: flags & 1 << 3 != 0,
    };
    Tokenizer::new(Bpe::new(vocab, &pairs, &equals, options)?, added, components)
}
