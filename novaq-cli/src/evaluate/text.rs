//! Token sequences to calibrate and to measure on: a text's, or what a model writes itself.

use novaq_engine::model::{Budget, CachePrecision, Config, KvCache, LogitsFor, Model, ModelError};
use novaq_engine::sampler::{Sampler, SamplingError, SamplingParams};
use novaq_engine::tokenizer::{Tokenizer, TokenizerError};
use rayon::prelude::*;

/// Tokens per sequence where the context window allows it.
pub const SEQUENCE_TOKENS: usize = 256;

/// Fewest tokens of text that say anything about a model.
const FEWEST_TOKENS: usize = 256;

/// Why there are no sequences.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The text is too short.
    #[error("the text has {tokens} tokens, at least {FEWEST_TOKENS} are needed")]
    TooShort {
        /// Tokens that it has.
        tokens: usize,
    },
    /// The text can't be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model does not take the tokens, as when the tokenizer belongs to another one.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model's logits are not numbers.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// The token that a text begins with: the model's own, or the one that ends texts where there is none.
fn first_token(config: &Config) -> u32 {
    config.bos_token_id.or(config.eos_token_ids.first().copied()).unwrap_or(0)
}

/// Cuts `text` into sequences of equal length, each after the token that begins a text, and keeps at most
/// `max_tokens` tokens of them, spread evenly over the text.
///
/// # Errors
/// If the text is too short or can't be encoded.
pub fn windows(
    config: &Config,
    tokenizer: &Tokenizer,
    text: &str,
    max_tokens: usize,
) -> Result<Vec<Vec<u32>>, TextError> {
    let tokens = tokenizer.encode(text, false)?;
    if tokens.len() < FEWEST_TOKENS {
        return Err(TextError::TooShort { tokens: tokens.len() });
    }
    if let Some(&token) = tokens.iter().find(|&&t| t as usize >= config.vocab_size) {
        return Err(ModelError::Token { token, vocab_size: config.vocab_size }.into());
    }
    let length = SEQUENCE_TOKENS.min(config.max_position_embeddings);
    let windows: Vec<&[u32]> = tokens.chunks(length - 1).filter(|w| w.len() > 1).collect();
    let kept = max_tokens.div_ceil(length).clamp(1, windows.len());
    let first = first_token(config);
    Ok((0..kept).map(|i| [&[first], windows[i * windows.len() / kept]].concat()).collect())
}

/// Lets `model` write `count` sequences at temperature 1, each until it ends or is `SEQUENCE_TOKENS` long.
/// The same `seed` gives the same text. `done` is told the tokens of each sequence that is finished.
///
/// # Errors
/// If the model's logits are not numbers.
pub fn sample(
    model: &Model,
    count: usize,
    seed: u64,
    done: impl Fn(u64) + Sync,
) -> Result<Vec<Vec<u32>>, TextError> {
    let config = model.config();
    let length = SEQUENCE_TOKENS.min(config.max_position_embeddings);
    (0..count as u64)
        .into_par_iter()
        .map(|index| {
            let params = SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, seed: mix(seed, index) };
            let mut sampler = Sampler::new(params)?;
            let mut cache = KvCache::new(config, CachePrecision::F32, length)?;
            let mut tokens = vec![first_token(config)];
            let mut spare = None;
            while tokens.len() < length {
                let mut pass =
                    model.begin(&mut cache, &tokens[tokens.len() - 1..], LogitsFor::Last, spare)?;
                model.advance(&mut pass, &mut cache, &mut Budget::unlimited(), None);
                let token = sampler.sample(pass.logits(), tokens.len() as u64)?;
                tokens.push(token);
                if config.eos_token_ids.contains(&token) {
                    break;
                }
                spare = Some(pass);
            }
            done(tokens.len() as u64);
            Ok(tokens)
        })
        .collect()
}

/// A seed for sequence `index` (the finaliser of `SplitMix64`).
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
