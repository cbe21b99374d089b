//! Token sequences to calibrate and to measure on: a text's, or what a model writes itself.

use novaq_engine::model::{Budget, CachePrecision, Config, KvCache, LogitsFor, Model, ModelError, Pass};
use novaq_engine::sampler::{Sampler, SamplingError, SamplingParams};
use novaq_engine::tokenizer::{Tokenizer, TokenizerError};
use rayon::prelude::*;

use crate::layered::Layered;

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

/// The seeds of the `count` sequences of the text that `seed` stands for.
pub fn seeds(seed: u64, count: usize) -> Vec<u64> {
    (0..count as u64).map(|index| mix(seed, index)).collect()
}

/// Lets `model` write a sequence for each of `seeds` at temperature 1, until it ends or is `SEQUENCE_TOKENS` long.
///
/// The same seed gives the same sequence. `together` of them are written at the same time, so that they share each
/// reading of the weights; their caches take memory, and nothing else depends on their number. `done` is told the number
/// of sequences that are finished.
///
/// # Errors
/// If the model's logits are not numbers, or a part of it can't be loaded.
pub fn sample(
    model: &mut Layered,
    seeds: &[u64],
    together: usize,
    done: impl Fn(u64) + Sync,
) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut sequences = Vec::with_capacity(seeds.len());
    for seeds in seeds.chunks(together.max(1)) {
        sequences.extend(write(model, seeds, &done)?);
    }
    Ok(sequences)
}

/// Sequences that one thread works on: enough to share its readings of the weights, and no more than needed.
const MOST_PER_BATCH: usize = 32;

/// Writes the sequences of `seeds` together.
fn write(model: &mut Layered, seeds: &[u64], done: &(impl Fn(u64) + Sync)) -> anyhow::Result<Vec<Vec<u32>>> {
    let length = SEQUENCE_TOKENS.min(model.config().max_position_embeddings);
    let start = first_token(model.config());
    let seeds: Vec<(usize, u64)> = seeds.iter().copied().enumerate().collect();
    let per_batch = seeds.len().div_ceil(rayon::current_num_threads()).clamp(1, MOST_PER_BATCH);
    let mut batches = Vec::new();
    for seeds in seeds.chunks(per_batch) {
        let mut batch = Batch { parts: Vec::new(), open: Vec::new(), hidden: Vec::new(), spare: None };
        for part in 0..model.parts() {
            batch.parts.push(caches(&*model.part(part)?, seeds.len(), length)?);
        }
        batch.parts.push(caches(model.last(), seeds.len(), length)?);
        for &(index, seed) in seeds {
            let params = SamplingParams { temperature: 1.0, seed, ..SamplingParams::default() };
            batch.open.push(Open { index, tokens: vec![start], sampler: Sampler::new(params)? });
        }
        batches.push(batch);
    }

    let mut finished: Vec<(usize, Vec<u32>)> = Vec::new();
    for _ in 1..length {
        let last = model.last();
        batches.par_iter_mut().try_for_each(|batch| batch.embed(last))?;
        for index in 0..model.parts() {
            let part = model.part(index)?;
            batches.par_iter_mut().try_for_each(|batch| batch.run(&part, index))?;
        }
        let last = model.last();
        let ended: Vec<Vec<(usize, Vec<u32>)>> = batches
            .par_iter_mut()
            .map(|batch| batch.sample(last, length))
            .collect::<Result<_, TextError>>()?;
        let before = finished.len();
        finished.extend(ended.into_iter().flatten());
        done((finished.len() - before) as u64);
        batches.retain(|batch| !batch.open.is_empty());
        if batches.is_empty() {
            break;
        }
    }
    // In a context of one token nothing follows.
    finished.extend(batches.into_iter().flat_map(|b| b.open).map(|open| (open.index, open.tokens)));
    finished.sort_unstable_by_key(|(index, _)| *index);
    Ok(finished.into_iter().map(|(_, tokens)| tokens).collect())
}

/// Empty caches of a part for `count` sequences.
fn caches(part: &Model, count: usize, length: usize) -> Result<Vec<KvCache>, ModelError> {
    (0..count).map(|_| part.cache(CachePrecision::F32, length)).collect()
}

/// A sequence that goes on.
struct Open {
    index: usize,
    tokens: Vec<u32>,
    sampler: Sampler,
}

/// Sequences that are written in step, on one thread.
struct Batch {
    open: Vec<Open>,
    /// Their caches, part by part.
    parts: Vec<Vec<KvCache>>,
    /// The residual stream of their newest tokens.
    hidden: Vec<f32>,
    spare: Option<Pass>,
}

impl Batch {
    fn embed(&mut self, last: &Model) -> Result<(), ModelError> {
        let tokens: Vec<u32> = self.open.iter().filter_map(|open| open.tokens.last().copied()).collect();
        let Some(caches) = self.parts.last_mut() else { return Ok(()) };
        let pass = last.begin_batch(caches, &tokens, LogitsFor::None, self.spare.take())?;
        self.keep(pass);
        Ok(())
    }

    fn run(&mut self, part: &Model, index: usize) -> Result<(), ModelError> {
        let caches = &mut self.parts[index];
        let spare = self.spare.take();
        let mut pass = part.begin_batch_with_hidden(caches, &self.hidden, LogitsFor::None, spare)?;
        part.advance_batch(&mut pass, caches, &mut Budget::unlimited(), None);
        self.keep(pass);
        Ok(())
    }

    fn keep(&mut self, pass: Pass) {
        self.hidden.clear();
        self.hidden.extend_from_slice(pass.hidden());
        self.spare = Some(pass);
    }

    /// Adds a token to each sequence; returns those that end.
    fn sample(&mut self, last: &Model, length: usize) -> Result<Vec<(usize, Vec<u32>)>, TextError> {
        let Some(caches) = self.parts.last_mut() else { return Ok(Vec::new()) };
        let spare = self.spare.take();
        let mut pass = last.begin_batch_with_hidden(caches, &self.hidden, LogitsFor::Last, spare)?;
        last.advance_batch(&mut pass, caches, &mut Budget::unlimited(), None);
        let config = last.config();
        let mut goes_on = Vec::with_capacity(self.open.len());
        for (open, logits) in self.open.iter_mut().zip(pass.logits().chunks_exact(config.vocab_size)) {
            let token = open.sampler.sample(logits, &open.tokens)?;
            open.tokens.push(token);
            goes_on.push(open.tokens.len() < length && !config.eos_token_ids.contains(&token));
        }
        self.spare = Some(pass);
        for caches in &mut self.parts {
            let mut kept = goes_on.iter();
            caches.retain(|_| kept.next() == Some(&true));
        }
        let mut kept = goes_on.iter();
        let ended = self.open.extract_if(.., |_| kept.next() == Some(&false));
        Ok(ended.map(|open| (open.index, open.tokens)).collect())
    }
}

/// A seed for sequence `index` (the finaliser of `SplitMix64`).
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::checkpoint::Checkpoint;

    /// The obvious way: each sequence alone, with the whole model.
    fn alone(model: &Model, index: u64, seed: u64, length: usize) -> Vec<u32> {
        let params = SamplingParams { temperature: 1.0, seed: mix(seed, index), ..SamplingParams::default() };
        let mut sampler = Sampler::new(params).unwrap();
        let mut tokens = vec![first_token(model.config())];
        while tokens.len() < length {
            let logits = model.forward(&tokens, CachePrecision::F32, 64, None).unwrap();
            let last = &logits[logits.len() - model.config().vocab_size..];
            let token = sampler.sample(last, &tokens).unwrap();
            tokens.push(token);
            if model.config().eos_token_ids.contains(&token) {
                break;
            }
        }
        tokens
    }

    #[test]
    fn a_text_depends_on_the_model_and_the_seed_alone() {
        let fixture = "/../novaq-engine/tests/fixtures/logits/gqa-default";
        let path = format!("{}{fixture}", env!("CARGO_MANIFEST_DIR"));
        let checkpoint = Checkpoint::open(std::path::Path::new(&path)).unwrap();
        let whole = checkpoint.model().unwrap();
        let length = SEQUENCE_TOKENS.min(whole.config().max_position_embeddings);
        let expected: Vec<Vec<u32>> = (0..9).map(|index| alone(&whole, index, 7, length)).collect();
        assert!(expected.iter().any(|tokens| tokens.len() < length), "none of the texts ends early");
        for (together, kept, threads) in [(9, u64::MAX, 1), (4, 0, 3), (1, 0, 2)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let done = AtomicU64::new(0);
            let found = pool.install(|| {
                let mut model = Layered::original(&checkpoint).unwrap().keeping(kept);
                sample(&mut model, &seeds(7, 9), together, |n| {
                    done.fetch_add(n, Ordering::Relaxed);
                })
                .unwrap()
            });
            assert!(found == expected, "{together} together");
            assert_eq!(done.into_inner(), 9);
        }
    }
}
