//! The tokens of a vocabulary by what they add to a text, in the order of their bytes, so that what begins alike is looked at once.

use crate::tokenizer::Tokenizer;

/// What the tokens of a vocabulary add to a text.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenBytes {
    /// The bytes of all tokens, one behind the other.
    bytes: Vec<u8>,
    /// Sorted by their bytes.
    entries: Vec<Entry>,
    /// By id, where a token is among the entries; behind them for those that add nothing.
    places: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: u32,
    /// Where its bytes end; they begin where those of the one before end.
    end: u32,
    /// Bytes with which it begins like the one before.
    shared: u16,
}

/// Longest token that a constrained text can have; longer ones are never chosen.
const MAX_TOKEN_BYTES: usize = 256;

impl TokenBytes {
    /// The tokens of `tokenizer` that add something of their own to a text: no special ones.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let vocabulary = tokenizer.vocab_size();
        let mut tokens: Vec<(Vec<u8>, u32)> = (0..vocabulary as u32)
            .filter_map(|id| Some((tokenizer.bytes_inside_a_text(id)?, id)))
            .filter(|(bytes, _)| (1..=MAX_TOKEN_BYTES).contains(&bytes.len()))
            .collect();
        tokens.sort_unstable();
        let mut bytes: Vec<u8> = Vec::with_capacity(tokens.iter().map(|(bytes, _)| bytes.len()).sum());
        let mut entries = Vec::with_capacity(tokens.len());
        let mut places = vec![u32::MAX; vocabulary];
        let mut before: &[u8] = &[];
        for (token, id) in &tokens {
            places[*id as usize] = entries.len() as u32;
            let shared = token.iter().zip(before).take_while(|(a, b)| a == b).count() as u16;
            bytes.extend(token);
            entries.push(Entry { id: *id, end: bytes.len() as u32, shared });
            before = token;
        }
        Self { bytes, entries, places }
    }

    /// What a token adds to a text; `None` if it is a special one or none.
    pub(super) fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        let at = *self.places.get(id as usize)? as usize;
        let end = self.entries.get(at)?.end;
        let begin = at.checked_sub(1).map_or(0, |before| self.entries[before].end);
        Some(&self.bytes[begin as usize..end as usize])
    }

    /// Whether a token is this byte alone.
    #[cfg(test)]
    pub(super) fn has_byte(&self, byte: u8) -> bool {
        self.entries.iter().any(|entry| self.bytes_of(entry.id) == Some(&[byte]))
    }

    /// Ids of the tokens whose bytes lead from `start` by `step` to a state, one byte after the other; ascending.
    pub(super) fn leading<S: Copy>(&self, start: S, step: impl Fn(S, u8) -> Option<S>, ids: &mut Vec<u32>) {
        // A bit for each id: nearly all of a large vocabulary may be left, and sorting them would take longer than finding them.
        let mut marks = vec![0u64; self.places.len().div_ceil(64)];
        // States behind each byte of the token before, as far as it leads somewhere.
        let mut states = vec![start];
        let mut begin = 0;
        for entry in &self.entries {
            let (token, shared) = (&self.bytes[begin..entry.end as usize], usize::from(entry.shared));
            begin = entry.end as usize;
            // It begins like one that led nowhere at this byte.
            if shared >= states.len() {
                continue;
            }
            states.truncate(shared + 1);
            let mut state = states[shared];
            let leads = token[shared..].iter().all(|&byte| match step(state, byte) {
                Some(next) => {
                    state = next;
                    states.push(next);
                    true
                }
                None => false,
            });
            if leads {
                marks[entry.id as usize / 64] |= 1 << (entry.id % 64);
            }
        }
        ids.clear();
        for (first, mut marks) in (0u32..).step_by(64).zip(marks) {
            while marks != 0 {
                ids.push(first + marks.trailing_zeros());
                marks &= marks - 1;
            }
        }
    }
}
