//! `WordPiece`: a word is cut into the longest pieces of the vocabulary, from the left.
//!
//! Schuster and Nakajima, "Japanese and Korean Voice Search", 2012; as BERT uses it,
//! <https://github.com/google-research/bert/blob/master/tokenization.py>.

use super::TokenizerError;
use super::bpe::Vocab;

/// A `WordPiece` model, its options named as `tokenizer.json` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WordPiece {
    pub(super) vocab: Vocab,
    /// The token for words that can't be cut into pieces.
    pub(super) unk_token: u32,
    /// What a piece that continues a word begins with in the vocabulary.
    pub(super) continuing_subword_prefix: String,
    /// Longer words are unknown.
    pub(super) max_input_chars_per_word: usize,
}

/// Most characters of a word that is looked up: bounds the work on a word, which grows with their square.
const LONGEST_WORD: usize = 1000;

impl WordPiece {
    /// Checks the options.
    ///
    /// # Errors
    /// If words may be too long.
    pub(super) fn new(
        vocab: Vocab,
        unk_token: u32,
        continuing_subword_prefix: String,
        max_input_chars_per_word: usize,
    ) -> Result<Self, TokenizerError> {
        if max_input_chars_per_word > LONGEST_WORD {
            let reason = format!("{max_input_chars_per_word} is above {LONGEST_WORD}");
            return Err(TokenizerError::invalid("model.max_input_chars_per_word", reason));
        }
        Ok(Self { vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word })
    }

    /// Appends the ids of `word`.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        let first = ids.len();
        if self.pieces(word, ids).is_none() {
            ids.truncate(first);
            ids.push(self.unk_token);
        }
    }

    /// Appends the pieces of `word`, as far as there are some.
    fn pieces(&self, word: &str, ids: &mut Vec<u32>) -> Option<()> {
        let mut ends: Vec<usize> = word.char_indices().map(|(at, _)| at).skip(1).collect();
        ends.push(word.len());
        if ends.len() > self.max_input_chars_per_word {
            return None;
        }
        let mut piece = String::new();
        let mut start = 0;
        while start < word.len() {
            piece.clear();
            if start > 0 {
                piece.push_str(&self.continuing_subword_prefix);
            }
            let prefix = piece.len();
            let (end, id) = ends.iter().rev().take_while(|&&end| end > start).find_map(|&end| {
                piece.truncate(prefix);
                piece.push_str(&word[start..end]);
                Some((end, self.vocab.id(&piece)?))
            })?;
            ids.push(id);
            start = end;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model() -> WordPiece {
        let tokens = ["[UNK]", "a", "b", "ab", "##b", "##ba", "##c", "é", "##é"];
        let vocab = Vocab::new((0..).zip(tokens).collect()).unwrap();
        WordPiece::new(vocab, 0, "##".to_owned(), 8).unwrap()
    }

    /// The definition: the longest piece that is there, then the rest of the word.
    fn longest_first(model: &WordPiece, word: &[char], continues: bool) -> Option<Vec<u32>> {
        if word.is_empty() {
            return Some(Vec::new());
        }
        let prefix = if continues { "##" } else { "" };
        let piece =
            |len: usize| model.vocab.id(&format!("{prefix}{}", word[..len].iter().collect::<String>()));
        let (len, id) = (1..=word.len()).rev().find_map(|len| Some((len, piece(len)?)))?;
        Some([vec![id], longest_first(model, &word[len..], true)?].concat())
    }

    proptest! {
        #[test]
        fn words_are_cut_by_the_definition(word in "[abcé]{1,10}") {
            let model = model();
            let mut ids = Vec::new();
            model.encode(&word, &mut ids);
            let chars: Vec<char> = word.chars().collect();
            let expected = if chars.len() > 8 { None } else { longest_first(&model, &chars, false) };
            prop_assert_eq!(ids, expected.unwrap_or(vec![0]));
        }
    }

    #[test]
    fn words_without_bound_are_refused() {
        let WordPiece { vocab, .. } = model();
        assert!(WordPiece::new(vocab, 0, String::new(), 1001).is_err());
    }
}
