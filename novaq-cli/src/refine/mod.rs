//! Refinement by the teacher: the original shows the compressed model what it would have said.
//!
//! Quantization ([`crate::quantize`]) minimises the errors of single layers. Refinement follows the gradients of what
//! those errors do: layer by layer the error of the residual stream after the layer, on inputs that are quantized
//! already ([`blocks`]), then for the whole model what matters of its outputs and the angles between its hidden states and
//! the original's ([`full`]): of a decoder the Kullback-Leibler divergence of its next-token distribution, of an encoder the
//! angle between the embeddings of a text. Codewords, row scales, norms, biases and the codes
//! themselves move ([`coded`]); what is stored keeps its size.
//!
//! Gradients are candle's. Everything is a function of the model, the text and the seed: sequences go through in parts
//! of fixed size whose gradients are added in a fixed order.

mod adam;
mod blocks;
mod coded;
mod decoder;
mod encoder;
mod full;
mod layers;
mod student;
#[cfg(test)]
mod tests;

use std::fmt;

use candle_core::{Device, Tensor};
use clap::ValueEnum;
use novaq_engine::model::Architecture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use blocks::{Example, refine_layer};
pub(crate) use full::{Course, Stopped, refine_model};

use decoder::Decoder;
use encoder::Encoder;
use layers::Weights;
use student::Loss;

/// How far the teacher refines.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Refine {
    /// Not at all.
    #[default]
    None,
    /// Layer by layer; needs one layer at a time in memory.
    Blocks,
    /// Layer by layer, then the whole model on its predictions; needs the whole model in memory, several times.
    Full,
}

impl fmt::Display for Refine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Blocks => "blocks",
            Self::Full => "full",
        })
    }
}

/// Steps for a whole model where nobody says how many.
pub const DEFAULT_STEPS: usize = 400;

/// Steps for a single layer.
pub const BLOCK_STEPS: usize = 100;

/// Sequences of one step of a decoder.
pub const SEQUENCES_PER_STEP: usize = PARTS * SEQUENCES_PER_PART;

/// Texts of one step of an encoder. They are shorter than a decoder's sequences, and each says one thing.
pub const TEXTS_PER_STEP: usize = PARTS * TEXTS_PER_PART;

/// Parts of a step's sequences that go through the model one beside the other.
const PARTS: usize = 4;

/// Sequences of a part.
const SEQUENCES_PER_PART: usize = 2;
const TEXTS_PER_PART: usize = 8;

/// Share of the steps after which the codes stay as they are, so that everything else settles on them.
const CODES_SETTLE: f64 = 0.8;

/// Steps until the rates are reached: the first gradients say little about the sizes of those that follow.
const WARM_UP: usize = 10;

/// Rates at the start; they fall to zero along a cosine. Found on TinyStories-656K at 2 bits.
const RATES: coded::Rates = coded::Rates { latent: Some(0.032), words: 0.003, scales: 0.002, vectors: 0.002 };

/// The rates of step `step` of `steps`, counted from zero.
fn rates(step: usize, steps: usize) -> coded::Rates {
    let done = step as f64 / steps.max(1) as f64;
    let warm = ((step + 1) as f64 / WARM_UP as f64).min(1.0);
    let factor = (warm * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())) as f32;
    coded::Rates {
        latent: RATES.latent.filter(|_| done < CODES_SETTLE).map(|rate| rate * factor),
        words: RATES.words * factor,
        scales: RATES.scales * factor,
        vectors: RATES.vectors * factor,
    }
}

/// What the mean over layers of one minus the cosine of the hidden states counts beside what is minimised of the outputs.
const COSINE: f64 = 0.1;

/// The forward pass of an architecture on candle tensors, and what its refinement minimises.
trait Network: Sync {
    /// Layer `layer` on `x [positions, hidden_size]`, sequences of `lengths` one below the other; its tensors' names begin
    /// with `prefix`.
    fn layer(
        &self,
        weights: &Weights,
        prefix: &str,
        layer: usize,
        x: &Tensor,
        lengths: &[usize],
    ) -> candle_core::Result<Tensor>;

    /// How far `student` is from `teacher` on `sequences`.
    fn loss(&self, teacher: &Weights, student: &Weights, sequences: &[&[u32]]) -> candle_core::Result<Loss>;

    /// Whether the matrix `name` is trained where the whole model is.
    fn trains(&self, name: &str) -> bool;
}

/// The network of `architecture` for sequences of at most `max_positions` tokens.
fn network<'a>(
    architecture: &'a Architecture,
    max_positions: usize,
    device: &Device,
) -> candle_core::Result<Box<dyn Network + 'a>> {
    Ok(match architecture {
        Architecture::Decoder(config) => Box::new(Decoder::new(config, max_positions, device)?),
        Architecture::Encoder(config) => Box::new(Encoder::new(config, device)),
    })
}

/// Sequences of a part.
fn sequences_per_part(architecture: &Architecture) -> usize {
    match architecture {
        Architecture::Decoder(_) => SEQUENCES_PER_PART,
        Architecture::Encoder(_) => TEXTS_PER_PART,
    }
}

/// Width of the residual stream.
fn hidden_size(architecture: &Architecture) -> usize {
    match architecture {
        Architecture::Decoder(config) => config.hidden_size,
        Architecture::Encoder(config) => config.hidden_size,
    }
}

/// Where gradients are computed: the first CUDA device if this program was built for one and there is one.
#[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "CUDA may fail"))]
fn device() -> candle_core::Result<Device> {
    #[cfg(feature = "cuda")]
    return Device::cuda_if_available(0);
    #[cfg(not(feature = "cuda"))]
    Ok(Device::Cpu)
}
