//! Merges from scores: `SentencePiece` has no list of merges but a score for each token. Any two neighbours that
//! together are a token can merge; the best score goes first, of equal scores the leftmost.
//!
//! Kudo and Richardson, "SentencePiece", <https://arxiv.org/abs/1808.06226>; `bpe_model.cc` of
//! <https://github.com/google/sentencepiece>.

use super::TokenizerError;
use super::bpe::Vocab;

/// The longest token, in bytes, that is taken apart: the work is quadratic in it.
const LONGEST: usize = 1024;

fn invalid(reason: String) -> TokenizerError {
    TokenizerError::invalid("model.scores", reason)
}

/// Whether `token` is one of those for single bytes.
fn is_byte(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}

/// The pairs of ids that merge, best first, and which of them are as good as the one before.
pub(super) type Merges = (Vec<(u32, u32)>, Vec<bool>);

/// The merges that `scores`, one per id, make of `vocab`.
///
/// # Errors
/// If there is not one finite score per id, or merging pairs of ids would not do what merging texts does: a token that
/// a character outside of the vocabulary leads to, or that begins or ends with the token of a byte.
pub(super) fn merges(vocab: &Vocab, scores: &[f32], byte_fallback: bool) -> Result<Merges, TokenizerError> {
    if scores.len() != vocab.len() {
        return Err(invalid(format!("are {}, and there are {} ids", scores.len(), vocab.len())));
    }
    let mut merges: Vec<(f32, u32, u32)> = Vec::new();
    for (id, token) in vocab.iter() {
        let score = scores[id as usize];
        if !score.is_finite() {
            return Err(invalid(format!("{score} is the score of token {id}")));
        }
        if token.len() > LONGEST {
            let reason = format!("token {id} has {} bytes, at most {LONGEST} are supported", token.len());
            return Err(invalid(reason));
        }
        for (middle, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(middle);
            let parts = [left, right].map(|part| (part, vocab.id(part)));
            if let [(_, Some(left)), (_, Some(right))] = parts {
                if byte_fallback && parts.iter().any(|(part, _)| is_byte(part)) {
                    return Err(invalid(format!("token {id}, {token:?}, contains the token of a byte")));
                }
                // Adding zero turns −0 into 0.
                merges.push((score + 0.0, left, right));
            } else if let Some((part, _)) =
                parts.iter().find(|(part, id)| id.is_none() && part.chars().count() == 1)
                && parts.iter().all(|(part, id)| id.is_some() || part.chars().count() == 1)
            {
                let reason = format!("token {id}, {token:?}, is made of {part:?}, which is no token");
                return Err(invalid(reason));
            }
        }
    }
    merges.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut previous = None;
    let equals = merges.iter().map(|merge| previous.replace(merge.0) == Some(merge.0)).collect();
    Ok((merges.into_iter().map(|(_, left, right)| (left, right)).collect(), equals))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bpe::{Bpe, BpeOptions};
    use super::*;

    const TOKENS: [&str; 10] = ["a", "b", "aa", "ab", "ba", "aba", "aaa", "abab", "bb", "<0x41>"];

    fn vocab(tokens: &[&str]) -> Vocab {
        Vocab::new(tokens.iter().zip(0..).map(|(&token, id)| (id, token)).collect()).unwrap()
    }

    /// The definition over texts: again and again the neighbours whose text has the best score, leftmost first.
    fn merge_texts(vocab: &Vocab, scores: &[f32], word: &str) -> Vec<u32> {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for (at, pair) in parts.windows(2).enumerate() {
                let score = vocab.id(&pair.concat()).map(|id| scores[id as usize]);
                if let Some(score) = score.filter(|&score| best.is_none_or(|(most, _)| score > most)) {
                    best = Some((score, at));
                }
            }
            let Some((_, at)) = best else { break };
            let merged = parts[at..at + 2].concat();
            parts.splice(at..at + 2, [merged]);
        }
        parts.iter().map(|part| vocab.id(part).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn merging_by_rank_is_merging_by_score(
            word in "[ab]{0,24}",
            // Few different scores, so that many are equal.
            scores in prop::collection::vec((-3..3i8).prop_map(f32::from), TOKENS.len()),
        ) {
            let vocab = vocab(&TOKENS);
            let expected = merge_texts(&vocab, &scores, &word);
            let (pairs, equals) = merges(&vocab, &scores, true).unwrap();
            let bpe = Bpe::new(vocab, &pairs, &equals, BpeOptions::default()).unwrap();
            let mut ids = Vec::new();
            bpe.encode(&word, &mut ids);
            prop_assert_eq!(ids, expected);
        }
    }

    #[test]
    fn what_pairs_of_ids_cannot_do_is_refused() {
        for (tokens, scores, reason) in [
            (&["a", "b"][..], &[0.0][..], "are 1, and there are 2 ids"),
            (&["a"], &[f32::NAN], "NaN is the score of token 0"),
            (&["a", "ax"], &[0.0, 0.0], "token 1, \"ax\", is made of \"x\", which is no token"),
            (&["xy"], &[0.0], "token 0, \"xy\", is made of \"x\", which is no token"),
            (&["a", "<0x41>", "<0x41>a"], &[0.0; 3], "token 2, \"<0x41>a\", contains the token of a byte"),
        ] {
            assert_eq!(merges(&vocab(tokens), scores, true), Err(invalid(reason.to_owned())));
        }
        let long = "a".repeat(LONGEST + 1);
        assert!(merges(&vocab(&[&long]), &[0.0], true).is_err());
        // No merge leads to such a token: it is one that is looked for in the text.
        assert_eq!(merges(&vocab(&["a", "<s>"]), &[0.0; 2], true), Ok((vec![], vec![])));
    }
}
