//! How far a compressed model is from the original: the same text through both, compared position by position.

pub mod similarity;
pub mod text;

use indicatif::ProgressBar;
use novaq_engine::model::{Budget, CachePrecision, KvCache, LogitsFor, Model, ModelError, Pass};
use rayon::prelude::*;
use serde::Serialize;

use crate::layered::{Layered, Streams};
use crate::output::progress;

/// Positions whose logits are held at once.
const CHUNK: usize = 64;

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Tokens predicted.
    pub tokens: u64,
    /// Perplexity of the compressed model: the exponential of its mean negative log-likelihood.
    pub perplexity: f64,
    /// Perplexity of the original.
    pub perplexity_original: f64,
    /// Mean Kullback-Leibler divergence of the compressed model's next-token distribution from the original's, in nats.
    pub kl: f64,
    /// Share of positions at which both find the same token most likely.
    pub top1_agreement: f64,
}

/// Sums over positions; added up in the order of the sequences.
#[derive(Clone, Copy, Default)]
struct Sums {
    tokens: u64,
    loss: f64,
    loss_original: f64,
    kl: f64,
    agreed: u64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.loss += other.loss;
        self.loss_original += other.loss_original;
        self.kl += other.kl;
        self.agreed += other.agreed;
    }

    /// Adds one position: both models' logits and the token that followed.
    fn position(&mut self, original: &[f32], compressed: &[f32], next: u32) {
        let (p, q) = (LogSoftmax::new(original), LogSoftmax::new(compressed));
        self.tokens += 1;
        self.loss_original -= p.of(original[next as usize]);
        self.loss -= q.of(compressed[next as usize]);
        self.kl += original
            .iter()
            .zip(compressed)
            .map(|(&x, &y)| {
                let log_p = p.of(x);
                log_p.exp() * (log_p - q.of(y))
            })
            .sum::<f64>();
        self.agreed += u64::from(p.most_likely == q.most_likely);
    }
}

/// What turns logits into log-probabilities.
struct LogSoftmax {
    normaliser: f64,
    most_likely: usize,
}

impl LogSoftmax {
    fn new(logits: &[f32]) -> Self {
        let mut most_likely = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[most_likely] {
                most_likely = token;
            }
        }
        let max = logits[most_likely];
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        Self { normaliser: f64::from(max) + sum.ln(), most_likely }
    }

    fn of(&self, logit: f32) -> f64 {
        f64::from(logit) - self.normaliser
    }
}

/// The last part of a model on its way through one sequence.
struct Reader<'a> {
    model: &'a Model,
    cache: KvCache,
    spare: Option<Pass>,
}

impl<'a> Reader<'a> {
    fn new(model: &'a Model, precision: CachePrecision, capacity: usize) -> Result<Self, ModelError> {
        Ok(Self { model, cache: model.cache(precision, capacity)?, spare: None })
    }

    /// Logits after each position of the residual stream `hidden`, `[positions, vocab_size]`.
    fn logits(&mut self, hidden: &[f32]) -> Result<&[f32], ModelError> {
        let spare = self.spare.take();
        let mut pass = self.model.begin_with_hidden(&mut self.cache, hidden, LogitsFor::All, spare)?;
        self.model.advance(&mut pass, &mut self.cache, &mut Budget::unlimited(), None);
        Ok(self.spare.insert(pass).logits())
    }
}

/// The residual streams of `inputs` before the last part of `model`; `bar` counts its parts.
fn streams(
    model: &mut Layered,
    precision: CachePrecision,
    inputs: &[&[u32]],
    bar: &ProgressBar,
) -> anyhow::Result<Streams> {
    let mut streams = Streams::embed(inputs, model.last())?;
    for index in 0..model.parts() {
        streams.advance(&*model.part(index)?, precision)?;
        bar.inc(1);
    }
    Ok(streams)
}

/// Compares `compressed` with `original` on `sequences`, the original with a cache of floats, the compressed model
/// with the 8-bit cache that it runs with.
///
/// # Errors
/// If a token is outside the vocabulary, a sequence is longer than the context window, or a part can't be loaded.
pub fn compare(
    original: &mut Layered,
    compressed: &mut Layered,
    sequences: &[Vec<u32>],
) -> anyhow::Result<Measured> {
    let steps = original.parts() + compressed.parts() + sequences.len();
    let bar = progress(steps as u64, "Measuring", "steps");
    // Every token but the first is predicted from those before it.
    let (inputs, next): (Vec<&[u32]>, Vec<&[u32]>) =
        sequences.iter().filter(|s| s.len() > 1).map(|s| (&s[..s.len() - 1], &s[1..])).unzip();
    let reference = streams(original, CachePrecision::F32, &inputs, &bar)?;
    let candidate = streams(compressed, CachePrecision::Int8, &inputs, &bar)?;
    let last = [original.last(), compressed.last()];
    let total =
        predictions(last, [&reference, &candidate], |sequence, position| next[sequence][position], &bar)?;
    bar.finish_and_clear();
    let tokens = total.tokens.max(1) as f64;
    Ok(Measured {
        tokens: total.tokens,
        perplexity: (total.loss / tokens).exp(),
        perplexity_original: (total.loss_original / tokens).exp(),
        kl: total.kl / tokens,
        top1_agreement: total.agreed as f64 / tokens,
    })
}

/// Mean Kullback-Leibler divergence of what `changed` predicts from the streams `candidate` from what `original` predicts from
/// `reference`, in nats per position. Both are last parts of a model.
///
/// # Errors
/// If the streams are not of these models.
pub(crate) fn divergence(
    original: &Model,
    reference: &Streams,
    changed: &Model,
    candidate: &Streams,
) -> Result<f64, ModelError> {
    let bar = ProgressBar::hidden();
    let total = predictions([original, changed], [reference, candidate], |_, _| 0, &bar)?;
    Ok(total.kl / total.tokens.max(1) as f64)
}

/// Compares what the last parts of two models predict from their streams; `next` tells the token after a position of a
/// sequence. `bar` counts sequences.
fn predictions(
    [original, compressed]: [&Model; 2],
    [reference, candidate]: [&Streams; 2],
    next: impl Fn(usize, usize) -> u32 + Sync,
    bar: &ProgressBar,
) -> Result<Sums, ModelError> {
    let (width, vocab_size) = (original.config().hidden_size, original.config().vocab_size);
    let parts: Vec<Sums> = reference
        .par_iter()
        .zip(candidate.par_iter())
        .enumerate()
        .map(|(sequence, (p, q))| {
            let mut sums = Sums::default();
            let mut reference = Reader::new(original, CachePrecision::F32, p.len() / width)?;
            let mut candidate = Reader::new(compressed, CachePrecision::Int8, q.len() / width)?;
            let mut position = 0;
            for (p, q) in p.chunks(CHUNK * width).zip(q.chunks(CHUNK * width)) {
                let p = reference.logits(p)?.chunks_exact(vocab_size);
                let q = candidate.logits(q)?.chunks_exact(vocab_size);
                for (p, q) in p.zip(q) {
                    sums.position(p, q, next(sequence, position));
                    position += 1;
                }
            }
            bar.inc(1);
            Ok(sums)
        })
        .collect::<Result<_, ModelError>>()?;
    let mut total = Sums::default();
    for part in &parts {
        total.add(part);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_definitions() {
        let mut sums = Sums::default();
        // Probabilities 1/2, 1/4, 1/4 against thirds.
        let original = [2.0f32.ln(), 0.0, 0.0];
        sums.position(&original, &[5.0, 5.0, 5.0], 1);
        assert!((sums.loss_original - 4.0f64.ln()).abs() < 1e-6);
        assert!((sums.loss - 3.0f64.ln()).abs() < 1e-6);
        let kl = 0.5 * 1.5f64.ln() + 0.5 * 0.75f64.ln();
        assert!((sums.kl - kl).abs() < 1e-6);
        assert_eq!((sums.tokens, sums.agreed), (1, 1));
        sums.position(&original, &[0.0, 1.0, 0.0], 0);
        assert_eq!((sums.tokens, sums.agreed), (2, 1));
    }
}
