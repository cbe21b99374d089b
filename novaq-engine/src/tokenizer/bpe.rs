//! Byte-pair encoding: a vocabulary, ranked merges, and the merging of a word.
//!
//! Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", <https://arxiv.org/abs/1508.07909>.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::TokenizerError;

/// Token strings by id and ids by token string: one text, offsets into it, and the ids in the order of their strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vocab {
    text: String,
    /// Token `id` is `text[offsets[id]..offsets[id + 1]]`; an unused id is empty.
    offsets: Vec<u32>,
    /// The used ids, sorted by token.
    sorted: Vec<u32>,
}

impl Vocab {
    /// How far ids may lie apart: the highest id is below `8 · tokens + 1024`, so that a hostile id cannot make
    /// the table of offsets large.
    fn id_limit(tokens: usize) -> usize {
        8 * tokens + 1024
    }

    /// Builds the tables.
    ///
    /// # Errors
    /// If an id or a token occurs twice, an id is out of proportion, or the text is longer than 4 GiB.
    pub(super) fn new(mut tokens: Vec<(u32, &str)>) -> Result<Self, TokenizerError> {
        tokens.retain(|(_, token)| !token.is_empty());
        tokens.sort_unstable_by_key(|&(id, _)| id);
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(TokenizerError::invalid("model.vocab", format!("id {} occurs twice", pair[0].0)));
        }
        let len = tokens.last().map_or(0, |&(id, _)| id as usize + 1);
        if len > Self::id_limit(tokens.len()) {
            let reason = format!("id {} is out of proportion to {} tokens", len - 1, tokens.len());
            return Err(TokenizerError::invalid("model.vocab", reason));
        }
        let total = tokens.iter().map(|(_, token)| token.len()).sum();
        if u32::try_from(total).is_err() {
            return Err(TokenizerError::invalid(
                "model.vocab",
                "the tokens are longer than 4 GiB".to_owned(),
            ));
        }
        let mut text = String::with_capacity(total);
        let mut offsets = Vec::with_capacity(len + 1);
        for (id, token) in &tokens {
            offsets.resize(*id as usize + 1, text.len() as u32);
            text.push_str(token);
        }
        offsets.push(text.len() as u32);
        tokens.sort_unstable_by_key(|&(_, token)| token);
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0].1 == pair[1].1) {
            return Err(TokenizerError::invalid(
                "model.vocab",
                format!("token {:?} occurs twice", pair[0].1),
            ));
        }
        Ok(Self { text, offsets, sorted: tokens.into_iter().map(|(id, _)| id).collect() })
    }

    /// One more than the highest id.
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The token with this id, if the id is used.
    pub(super) fn token(&self, id: u32) -> Option<&str> {
        let at = id as usize;
        let (start, end) = (*self.offsets.get(at)?, *self.offsets.get(at + 1)?);
        Some(&self.text[start as usize..end as usize]).filter(|token| !token.is_empty())
    }

    /// The id of `token`.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        let found = self.sorted.binary_search_by(|&id| self.token(id).unwrap_or_default().cmp(token));
        found.ok().map(|at| self.sorted[at])
    }

    /// Ids and tokens in the order of the ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.len() as u32).filter_map(|id| Some((id, self.token(id)?)))
    }
}

/// Two neighbouring tokens that become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Merge {
    left: u32,
    right: u32,
    rank: u32,
    merged: u32,
}

/// Options of a BPE model, named as `tokenizer.json` names them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct BpeOptions {
    /// The token for characters that are not in the vocabulary.
    pub(super) unk_token: Option<u32>,
    /// Whether neighbouring unknown characters are one unknown token.
    pub(super) fuse_unk: bool,
    /// Whether an unknown character is written as its bytes, `<0x00>` to `<0xFF>`.
    pub(super) byte_fallback: bool,
    /// Whether a word that is in the vocabulary is not merged but taken whole.
    pub(super) ignore_merges: bool,
}

/// A BPE model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bpe {
    pub(super) vocab: Vocab,
    /// Sorted by pair.
    merges: Vec<Merge>,
    /// The ids of `<0x00>` to `<0xFF>`; empty without byte fallback.
    bytes: Vec<Option<u32>>,
    pub(super) options: BpeOptions,
}

/// A token of a word that is being merged, in a doubly linked list.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
    alive: bool,
}

/// The end of the list of symbols.
const NONE: u32 = u32::MAX;

impl Bpe {
    /// A model from its vocabulary and the pairs of ids to merge, best first. `equals[i]` says that pair `i` is of the
    /// same rank as the one before it; where `equals` ends, no pair is.
    ///
    /// # Errors
    /// If a merge makes a token that is not in the vocabulary.
    pub(super) fn new(
        vocab: Vocab,
        pairs: &[(u32, u32)],
        equals: &[bool],
        options: BpeOptions,
    ) -> Result<Self, TokenizerError> {
        let mut merges = Vec::with_capacity(pairs.len());
        let mut token = String::new();
        let mut rank = 0;
        for (at, &(left, right)) in pairs.iter().enumerate() {
            token.clear();
            for part in [left, right] {
                token.push_str(vocab.token(part).ok_or_else(|| {
                    TokenizerError::invalid("model.merges", format!("merge {at} has the unknown id {part}"))
                })?);
            }
            let merged = vocab.id(&token).ok_or_else(|| {
                let reason = format!("merge {at} makes {token:?}, which is not in the vocabulary");
                TokenizerError::invalid("model.merges", reason)
            })?;
            rank += u32::from(at > 0 && !equals.get(at).is_some_and(|&equal| equal));
            merges.push(Merge { left, right, rank, merged });
        }
        // Of equal pairs the last counts, as in Hugging Face tokenizers.
        merges.sort_unstable_by_key(|merge| (merge.left, merge.right, Reverse(merge.rank)));
        merges.dedup_by_key(|merge| (merge.left, merge.right));
        let bytes = if options.byte_fallback {
            (0..=255u8).map(|byte| vocab.id(&format!("<0x{byte:02X}>"))).collect()
        } else {
            Vec::new()
        };
        Ok(Self { vocab, merges, bytes, options })
    }

    /// The pairs of ids in the order of their ranks, each with whether it is of the same rank as the one before it.
    pub(super) fn pairs(&self) -> Vec<(u32, u32, bool)> {
        let mut merges = self.merges.clone();
        merges.sort_unstable_by_key(|merge| (merge.rank, merge.left, merge.right));
        let mut previous = None;
        merges
            .into_iter()
            .map(|merge| {
                let equal = previous.replace(merge.rank) == Some(merge.rank);
                (merge.left, merge.right, equal)
            })
            .collect()
    }

    fn merge(&self, left: u32, right: u32) -> Option<&Merge> {
        let found = self.merges.binary_search_by_key(&(left, right), |merge| (merge.left, merge.right));
        found.ok().map(|at| &self.merges[at])
    }

    /// The id that `left` and `right` become, if they do.
    pub(super) fn merged(&self, left: u32, right: u32) -> Option<u32> {
        self.merge(left, right).map(|merge| merge.merged)
    }

    /// Appends the ids of `word`.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        if self.options.ignore_merges
            && let Some(id) = self.vocab.id(word)
        {
            ids.push(id);
            return;
        }
        self.merge_all(self.initial(word), ids);
    }

    /// The ids of the characters of `word`: of itself, of its bytes, or unknown.
    fn initial(&self, word: &str) -> Vec<u32> {
        let mut initial = Vec::with_capacity(word.len());
        let mut unknown = false;
        let mut buffer = [0; 4];
        for c in word.chars() {
            let c: &str = c.encode_utf8(&mut buffer);
            if let Some(id) = self.vocab.id(c) {
                if std::mem::take(&mut unknown) {
                    initial.extend(self.options.unk_token);
                }
                initial.push(id);
                continue;
            }
            if self.options.byte_fallback {
                let bytes: Option<Vec<u32>> = c.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
                if let Some(bytes) = bytes {
                    // A pending unknown token comes after these bytes, as in Hugging Face tokenizers.
                    initial.extend(bytes);
                    continue;
                }
            }
            if unknown && !self.options.fuse_unk {
                initial.extend(self.options.unk_token);
            }
            unknown = true;
        }
        if unknown {
            initial.extend(self.options.unk_token);
        }
        initial
    }

    /// Merges until no pair is left that can be, always the one of lowest rank, the leftmost first; appends the
    /// result. `O(n log n)` in the number of symbols.
    fn merge_all(&self, initial: Vec<u32>, ids: &mut Vec<u32>) {
        let count = initial.len();
        let mut symbols: Vec<Symbol> = initial
            .into_iter()
            .enumerate()
            .map(|(at, id)| Symbol {
                id,
                previous: if at == 0 { NONE } else { at as u32 - 1 },
                next: if at + 1 == count { NONE } else { at as u32 + 1 },
                alive: true,
            })
            .collect();
        let mut queue: BinaryHeap<Reverse<(u32, u32, u32)>> = BinaryHeap::with_capacity(count);
        for at in 1..count {
            if let Some(merge) = self.merge(symbols[at - 1].id, symbols[at].id) {
                queue.push(Reverse((merge.rank, at as u32 - 1, merge.merged)));
            }
        }
        while let Some(Reverse((_, at, merged))) = queue.pop() {
            let left = symbols[at as usize];
            if !left.alive || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            // The neighbours may have changed since this pair was queued.
            if self.merge(left.id, right.id).is_none_or(|merge| merge.merged != merged) {
                continue;
            }
            symbols[left.next as usize].alive = false;
            symbols[at as usize].id = merged;
            symbols[at as usize].next = right.next;
            if right.next != NONE {
                symbols[right.next as usize].previous = at;
                if let Some(merge) = self.merge(merged, symbols[right.next as usize].id) {
                    queue.push(Reverse((merge.rank, at, merge.merged)));
                }
            }
            if left.previous != NONE
                && let Some(merge) = self.merge(symbols[left.previous as usize].id, merged)
            {
                queue.push(Reverse((merge.rank, left.previous, merge.merged)));
            }
        }
        ids.extend(symbols.into_iter().filter(|symbol| symbol.alive).map(|symbol| symbol.id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(merges: &[(&str, &str)], equals: &[bool], options: BpeOptions) -> Bpe {
        let mut tokens: Vec<String> = ["a", "b", "c", "<unk>"].map(String::from).to_vec();
        for (left, right) in merges {
            let token = format!("{left}{right}");
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        let vocab =
            Vocab::new(tokens.iter().enumerate().map(|(id, t)| (id as u32, t.as_str())).collect()).unwrap();
        let pairs: Vec<_> =
            merges.iter().map(|(l, r)| (vocab.id(l).unwrap(), vocab.id(r).unwrap())).collect();
        Bpe::new(vocab, &pairs, equals, options).unwrap()
    }

    /// The definition: again and again the pair of lowest rank, leftmost first.
    fn merge_slowly(bpe: &Bpe, mut ids: Vec<u32>) -> Vec<u32> {
        loop {
            let best = ids
                .windows(2)
                .enumerate()
                .filter_map(|(at, pair)| {
                    bpe.merge(pair[0], pair[1]).map(|merge| (merge.rank, at, merge.merged))
                })
                .min();
            let Some((_, at, merged)) = best else { return ids };
            ids.splice(at..at + 2, [merged]);
        }
    }

    proptest! {
        #[test]
        fn merging_follows_the_definition(
            word in "[abc]{0,40}",
            equals in prop::collection::vec(any::<bool>(), 0..7),
            ignore_merges: bool,
        ) {
            let merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("c", "a"), ("a", "a"), ("aa", "bc"), ("ab", "ab")];
            let bpe = model(&merges, &equals, BpeOptions { ignore_merges, ..BpeOptions::default() });
            let mut ids = Vec::new();
            bpe.encode(&word, &mut ids);
            match bpe.vocab.id(&word) {
                Some(id) if ignore_merges => prop_assert_eq!(ids, [id]),
                _ => prop_assert_eq!(ids, merge_slowly(&bpe, bpe.initial(&word))),
            }
        }
    }

    #[test]
    fn unknown_characters_are_fused_only_on_request() {
        for (fuse_unk, expected) in [(true, vec![0, 3, 1]), (false, vec![0, 3, 3, 1])] {
            let bpe = model(&[], &[], BpeOptions { unk_token: Some(3), fuse_unk, ..BpeOptions::default() });
            assert_eq!(bpe.initial("axyb"), expected);
        }
        assert_eq!(model(&[], &[], BpeOptions::default()).initial("axyb"), [0, 1]);
    }

    #[test]
    fn bad_vocabularies_are_refused() {
        for (tokens, reason) in [
            (vec![(0, "a"), (0, "b")], "id 0 occurs twice"),
            (vec![(0, "a"), (1, "a")], "token \"a\" occurs twice"),
            (vec![(0, "a"), (u32::MAX, "b")], "id 4294967295 is out of proportion to 2 tokens"),
        ] {
            assert_eq!(Vocab::new(tokens), Err(TokenizerError::invalid("model.vocab", reason.to_owned())));
        }
    }
}
