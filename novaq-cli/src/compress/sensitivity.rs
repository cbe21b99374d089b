//! What noise in each part of a model does to its predictions: what bits are given out by.

use std::collections::BTreeMap;

use indicatif::ProgressBar;
use ndarray::{Array2, s};
use novaq_engine::codec::Matrix;
use novaq_engine::model::CachePrecision;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::matrices::{DAMPING, stacked};
use super::plan::{EMBEDDING, HEAD, Layout, Named};
use super::quantization::spread;
use crate::checkpoint::{Checkpoint, dense, layer_name};
use crate::evaluate::divergence;
use crate::layered::{Captured, Layered, Streams, Tensors, Vectors, layer, vocabulary};
use crate::quantize::feedback::noisy;
use crate::quantize::hessian::{BlockFactors, damped, mean_product};

/// The noise that is put in, as a share of the mean square of each row's weights: about what codes of 2 bits leave.
const NOISE: f64 = 0.1;

/// Multiply-adds that measuring should take at most.
const WORK: f64 = 2e11;

/// Fewest positions that are measured on, whatever it takes.
const FEWEST_POSITIONS: usize = 64;

/// Most sequences that are measured on.
pub(super) const MOST_SEQUENCES: usize = 16;

/// Positions that second moments are taken of, about, which shape the noise.
pub(super) const SHAPING_POSITIONS: usize = 4096;

/// Where noise hurts. The unit is that of a loss per squared error of the weights relative to the weights; what counts is how
/// they compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// Of the matrices that read one input, per layer and linear input.
    pub layers: Vec<[f64; 4]>,
    /// Of the embedding, and of the head if it is not tied.
    pub vocabulary: f64,
}

impl Sensitivity {
    /// What is expected before anything is measured: every linear input counts the same, and the embedding as much as all
    /// of them together. On TinyStories-656K, which has 8 inputs, the KL divergence was 3.7 nats per unit of relative
    /// error of the embedding, 0.43 of one input.
    pub fn expected(layout: &dyn Layout) -> Self {
        let layers = layout.layers();
        Self { layers: vec![[1.0; 4]; layers], vocabulary: (4 * layers) as f64 }
    }

    /// Measures the KL divergence of the next-token distribution, in nats per token, when the matrices of one linear input after
    /// the other have noise as error feedback leaves it on `sequences`, and the embedding and the head without feedback.
    /// Those that `named` gives a codec stay as they are. `memory` bytes may be used to keep layers.
    ///
    /// # Errors
    /// If a tensor can't be read, or activations are not numbers.
    pub(super) fn measure(
        checkpoint: &Checkpoint,
        named: &Named,
        sequences: &[Vec<u32>],
        memory: u64,
        seed: u64,
        bar: &ProgressBar,
    ) -> anyhow::Result<Self> {
        let mut original = Layered::original(checkpoint)?.keeping(memory);
        let layers = original.parts();
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let (count, length) = measured(checkpoint, longest);
        let texts: Vec<&[u32]> = sequences.iter().take(count).map(|s| &s[..length.min(s.len())]).collect();
        let shaping = spread(sequences, SHAPING_POSITIONS.div_ceil(longest.max(1)));
        let mut shaping = Streams::embed(&shaping, original.last())?;
        let mut before = Streams::embed(&texts, original.last())?;
        let reference = through(&mut original, 0, before.clone())?;
        let mut sensitivities = Vec::new();
        for index in 0..layers {
            bar.set_message(format!("measuring layer {index}"));
            let captured = shaping.capture_and_advance(&*original.part(index)?)?;
            let (mut measured, mut changed) = (Vec::new(), Vec::new());
            for (input, (names, captured)) in Checkpoint::LAYER_MATRICES.iter().zip(captured).enumerate() {
                let free: Vec<&str> = names
                    .iter()
                    .copied()
                    .filter(|name| !named.contains_key(&layer_name(index, name)))
                    .collect();
                if free.is_empty() {
                    continue;
                }
                let number = 4 * index + input;
                let weights = |name: &&str| Ok(checkpoint.matrix(&layer_name(index, name))?);
                let matrices = with_noise(&free, weights, &captured, seed ^ number as u64)?;
                let replaced = Tensors { matrices, ..Tensors::default() };
                let mut streams = before.clone();
                streams
                    .advance(&layer(checkpoint, index, &replaced, Vectors::Exact)?, CachePrecision::F32)?;
                measured.push(input);
                changed.push(streams);
            }
            // Together, because few sequences keep few cores busy.
            let changed = through(&mut original, index + 1, Streams::joined(changed))?.split(texts.len());
            let last = original.last();
            let losses: Vec<f64> = changed
                .par_iter()
                .map(|streams| divergence(last, &reference, last, streams))
                .collect::<Result<_, _>>()?;
            let mut of_layer = [0.0; 4];
            measured.into_iter().zip(losses).for_each(|(input, loss)| of_layer[input] = loss);
            before.advance(&*original.part(index)?, CachePrecision::F32)?;
            sensitivities.push(of_layer);
        }
        bar.set_message("measuring the embedding");
        let tied = checkpoint.config().tie_word_embeddings;
        let free =
            [EMBEDDING, HEAD].into_iter().filter(|&name| !(named.contains_key(name) || name == HEAD && tied));
        let matrices = free
            .map(|name| Ok((name.to_owned(), with_plain_noise(&checkpoint.matrix(name)?, seed)?)))
            .collect::<anyhow::Result<_>>()?;
        let last = vocabulary(checkpoint, &Tensors { matrices, ..Tensors::default() }, Vectors::Exact)?;
        let streams = through(&mut original, 0, Streams::embed(&texts, &last)?)?;
        let vocabulary = divergence(original.last(), &reference, &last, &streams)?;
        Ok(Self { layers: sensitivities, vocabulary })
    }
}

/// The matrices `names`, which read the inputs `captured`, with noise as error feedback leaves it.
///
/// # Errors
/// If one can't be read, or the inputs are not numbers.
pub(super) fn with_noise<'a>(
    names: &[&'a str],
    weights: impl Fn(&&'a str) -> anyhow::Result<Array2<f32>>,
    captured: &Captured,
    seed: u64,
) -> anyhow::Result<BTreeMap<String, Matrix>> {
    let weights: Vec<Array2<f32>> = names.iter().map(weights).collect::<Result<_, _>>()?;
    let inputs = captured.inputs.view();
    let h = damped(mean_product(inputs, inputs), DAMPING);
    let block = 1 << h.nrows().trailing_zeros().min(3);
    let factors = BlockFactors::new(h.view(), block)?;
    let changed = noisy(stacked(&weights).view(), &factors, NOISE, seed);
    let mut first = 0;
    let parts = names.iter().zip(weights.iter().map(Array2::nrows)).map(|(name, rows)| {
        let part = changed.slice(s![first..first + rows, ..]).to_owned();
        first += rows;
        Ok(((*name).to_owned(), dense(part)?))
    });
    parts.collect()
}

/// `weights` with noise that nothing makes up for.
///
/// # Errors
/// None that could come up.
pub(super) fn with_plain_noise(weights: &Array2<f32>, seed: u64) -> anyhow::Result<Matrix> {
    let factors = BlockFactors::new(Array2::eye(weights.ncols()).view(), 1)?;
    Ok(dense(noisy(weights.view(), &factors, NOISE, seed))?)
}

/// How many sequences of at most `longest` tokens are measured on, and how many tokens of each: each passes half of the layers
/// and the head for every linear input.
pub(super) fn measured(checkpoint: &Checkpoint, longest: usize) -> (usize, usize) {
    let passes = 4.0 * checkpoint.config().num_hidden_layers as f64;
    let positions = (WORK / (passes * checkpoint.parameters().max(1) as f64)) as usize;
    ((positions / longest.max(1)).clamp(1, MOST_SEQUENCES), positions.max(FEWEST_POSITIONS).min(longest))
}

/// `streams` after the layers from `first` on.
fn through(model: &mut Layered, first: usize, mut streams: Streams) -> anyhow::Result<Streams> {
    for index in first..model.parts() {
        streams.advance(&*model.part(index)?, CachePrecision::F32)?;
    }
    Ok(streams)
}
