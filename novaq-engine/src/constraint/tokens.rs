//! The tokens of a vocabulary by what they add to a text, in the order of their bytes, so that what begins alike is looked at once.

use crate::tokenizer::Tokenizer;

/// What the tokens of a vocabulary add to a text.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenBytes {
    /// The bytes of all tokens, one behind the other.
    bytes: Vec<u8>,
    /// Sorted by their bytes.
    entries: Vec<Entry>,
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
        let mut tokens: Vec<(Vec<u8>, u32)> = (0..tokenizer.vocab_size() as u32)
            .filter_map(|id| Some((tokenizer.bytes_inside_a_text(id)?, id)))
            .filter(|(bytes, _)| (1..=MAX_TOKEN_BYTES).contains(&bytes.len()))
            .collect();
        tokens.sort_unstable();
        let mut bytes: Vec<u8> = Vec::with_capacity(tokens.iter().map(|(bytes, _)| bytes.len()).sum());
        let mut entries = Vec::with_capacity(tokens.len());
        let mut before: &[u8] = &[];
        for (token, id) in &tokens {
            let shared = token.iter().zip(before).take_while(|(a, b)| a == b).count() as u16;
            bytes.extend(token);
            entries.push(Entry { id: *id, end: bytes.len() as u32, shared });
            before = token;
        }
        Self { bytes, entries }
    }

    /// What a token adds to a text; `None` if it is a special one or none.
    pub(super) fn bytes_of(&self, id: u32) -> Option<&[u8]> {
        let at = self.entries.iter().position(|entry| entry.id == id)?;
        let begin = at.checked_sub(1).map_or(0, |before| self.entries[before].end);
        Some(&self.bytes[begin as usize..self.entries[at].end as usize])
    }

    /// Whether a token is this byte alone.
    #[cfg(test)]
    pub(super) fn has_byte(&self, byte: u8) -> bool {
        self.entries.iter().any(|entry| self.bytes_of(entry.id) == Some(&[byte]))
    }

    /// Ids of the tokens whose bytes lead from `start` by `step` to a state, one byte after the other; ascending.
    pub(super) fn leading<S: Copy>(&self, start: S, step: impl Fn(S, u8) -> Option<S>, ids: &mut Vec<u32>) {
        ids.clear();
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
                ids.push(entry.id);
            }
        }
        ids.sort_unstable();
    }
}
