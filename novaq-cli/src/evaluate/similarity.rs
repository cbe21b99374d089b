//! How close the embeddings of a compressed encoder are to the original's: the same texts through both.

use std::collections::BTreeSet;

use novaq_engine::model::{BertConfig, Encoder, ModelError};
use novaq_engine::tokenizer::{Tokenizer, TokenizerError};
use rayon::prelude::*;
use serde::Serialize;

/// Fewest texts and tokens that say anything about an encoder.
const FEWEST_TEXTS: usize = 16;
const FEWEST_TOKENS: usize = 256;

/// Why there are no texts.
#[derive(Debug, thiserror::Error)]
pub enum TextsError {
    /// There are too few of them, or they are too short.
    #[error(
        "the file has {texts} different lines with {tokens} tokens; at least {FEWEST_TEXTS} with {FEWEST_TOKENS} are needed, \
         each line is one text"
    )]
    TooFew {
        /// Lines that differ and are not empty.
        texts: usize,
        /// Tokens of all.
        tokens: usize,
    },
    /// A text can't be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model does not take the tokens, as when the tokenizer belongs to another one.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// The tokens of each line of `text` that is not empty and was not there before, cut to what the encoder reads.
///
/// # Errors
/// If there are too few lines, or one can't be encoded.
pub fn lines(config: &BertConfig, tokenizer: &Tokenizer, text: &str) -> Result<Vec<Vec<u32>>, TextsError> {
    let mut seen = BTreeSet::new();
    let new: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && seen.insert(*line)).collect();
    let texts: Vec<Vec<u32>> = new
        .par_iter()
        .map(|line| tokenizer.encode_truncated(line, config.max_seq_length))
        .collect::<Result<_, _>>()?;
    let tokens = texts.iter().map(Vec::len).sum();
    if texts.len() < FEWEST_TEXTS || tokens < FEWEST_TOKENS {
        return Err(TextsError::TooFew { texts: texts.len(), tokens });
    }
    let vocab_size = config.vocab_size;
    match texts.iter().flatten().find(|&&token| token as usize >= vocab_size) {
        Some(&token) => Err(ModelError::Token { token, vocab_size }.into()),
        None => Ok(texts),
    }
}

/// As many of `texts` as have at most `max_tokens` tokens together, spread evenly; at least one.
pub fn spread(texts: &[Vec<u32>], max_tokens: usize) -> Vec<Vec<u32>> {
    let total: usize = texts.iter().map(Vec::len).sum();
    let share = (max_tokens as f64 / total.max(1) as f64).min(1.0);
    let mut kept = Vec::new();
    let mut left = max_tokens;
    for (i, text) in texts.iter().enumerate() {
        // Whether a multiple of the share falls on this text.
        let is_chosen = ((i + 1) as f64 * share).floor() > (i as f64 * share).floor();
        if is_chosen && (text.len() <= left || kept.is_empty()) {
            left = left.saturating_sub(text.len());
            kept.push(text.clone());
        }
    }
    if kept.is_empty() {
        kept.extend(texts.first().cloned());
    }
    kept
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Texts embedded.
    pub texts: u64,
    /// Tokens that they have together.
    pub tokens: u64,
    /// Mean cosine of the two embeddings of a text.
    pub mean_cosine: f64,
    /// Smallest cosine.
    pub min_cosine: f64,
}

/// Compares the embeddings that `compressed` makes of `texts` with those of `original`. `done` is called for each text.
///
/// # Errors
/// If a token is outside the vocabulary or a text is longer than what a model reads.
pub fn compare(
    original: &Encoder,
    compressed: &Encoder,
    texts: &[Vec<u32>],
    done: impl Fn() + Sync,
) -> Result<Measured, ModelError> {
    let cosines: Vec<f64> = texts
        .par_iter()
        .map(|tokens| {
            let cosine = cosine(&original.embed(tokens)?, &compressed.embed(tokens)?);
            done();
            Ok(cosine)
        })
        .collect::<Result<_, ModelError>>()?;
    Ok(Measured {
        texts: texts.len() as u64,
        tokens: texts.iter().map(|tokens| tokens.len() as u64).sum(),
        mean_cosine: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
        min_cosine: cosines.iter().copied().fold(1.0, f64::min),
    })
}

/// The embeddings of `texts`.
///
/// # Errors
/// If a token is outside the vocabulary or a text is longer than what the model reads.
pub fn embeddings(encoder: &Encoder, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, ModelError> {
    texts.par_iter().map(|tokens| encoder.embed(tokens)).collect()
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_do_not_depend_on_length() {
        assert!((cosine(&[3.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert!((cosine(&[3.0, -1.0], &[-6.0, 2.0]) + 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_part_of_the_texts_is_spread_evenly() {
        let texts: Vec<Vec<u32>> = (0..100).map(|i| vec![i; 10]).collect();
        let kept = spread(&texts, 250);
        assert_eq!(kept.len(), 25);
        assert!(kept.windows(2).all(|pair| pair[1][0] - pair[0][0] == 4), "{kept:?}");
        assert_eq!(spread(&texts, 10_000), texts);
        assert_eq!(spread(&texts, 1).len(), 1);
    }
}
