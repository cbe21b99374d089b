//! What a compression takes, estimated from shapes.

use std::collections::BTreeSet;
use std::time::Instant;

use ndarray::Array2;
use novaq_engine::codec::{DenseMatrix, Input, Matrix};
use novaq_engine::kernel::Backend;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::matrices::START_ROUNDS;
use super::plan::{Additive, MatrixCodec, Part, Plan};
use super::{HEAD_SEQUENCES, HELD_OUT_SEQUENCES};
use crate::checkpoint::Checkpoint;
use crate::evaluate::text::SEQUENCE_TOKENS;
use crate::quantize::additive::{Effort, GAUSSIAN_VECTORS, normal, quantize};
use crate::quantize::beam::Codebooks;

/// What a compression takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Most memory that is used at a time, in bytes; the mapped checkpoint is not counted.
    pub peak_memory_bytes: u64,
    /// Time with all cores of this machine, in seconds.
    pub seconds: f64,
}

/// Times that each layer runs over the calibration text, in whole layers: once in the original, once in the quantized
/// model, and up to each of its four linear inputs.
const PASSES: f64 = 4.0;

/// Second moments that are measured per linear input: of the inputs, of their change, and of the residual stream's
/// for every second one.
const MOMENTS: f64 = 2.5;

/// Shape of the sample that is quantized to measure this machine.
const SAMPLE_COLUMNS: usize = 256;
const SAMPLE_ROWS: usize = 64;

/// Codebooks of the sample.
const SAMPLE: Additive = Additive { books: 4, dim: 8 };

impl Cost {
    /// What it takes to compress `checkpoint` to `plan` on `tokens` tokens of calibration text, which the model writes
    /// itself if `sampled`. If the plan is not `fixed`, one pass more measures what it is made of.
    ///
    /// The time is counted in weights coded and in multiplications, at the speed that this machine has with a small
    /// matrix of random weights.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        plan: &Plan,
        tokens: usize,
        sampled: bool,
        fixed: bool,
    ) -> anyhow::Result<Self> {
        let shape = Shape::of(checkpoint, plan, tokens);
        let speed = Speed::measure()?;
        let held_out = (HELD_OUT_SEQUENCES * SEQUENCE_TOKENS) as f64;
        let sampling = (held_out + if sampled { tokens as f64 } else { 0.0 }) * shape.weights;
        let measuring = 2.0 * held_out * shape.weights;
        let passes = (PASSES + if fixed { 0.0 } else { 1.0 }) * tokens as f64 * shape.layer_weights;
        let products = sampling + measuring + passes + shape.moments * tokens as f64;
        Ok(Self {
            peak_memory_bytes: shape.peak_memory_bytes(),
            seconds: products * speed.per_product + shape.coded * speed.per_weight,
        })
    }
}

/// Sizes of a model that its compression takes time and memory by.
struct Shape {
    /// Weights of all matrices.
    weights: f64,
    /// Weights of the layers' matrices.
    layer_weights: f64,
    /// Weights of one layer.
    one_layer: u64,
    /// Weights in additive codes, those that starting codebooks are trained on included, each as often as it takes
    /// longer than one of [`SAMPLE`].
    coded: f64,
    /// Products for each token's part of all second moments.
    moments: f64,
    /// Weights of the embedding.
    vocabulary: u64,
    /// Bytes of the compressed matrices.
    compressed: u64,
    tokens: u64,
    hidden: u64,
    /// Widths of a layer's linear inputs.
    inputs: [u64; 4],
}

impl Shape {
    fn of(checkpoint: &Checkpoint, plan: &Plan, tokens: usize) -> Self {
        let config = checkpoint.config();
        let parts = Part::all(checkpoint);
        let matrices = || parts.iter().filter(|part| part.matrix().is_some());
        let additive = |part: &Part| match plan.codec(part) {
            MatrixCodec::Aq(codec) => Some(codec),
            MatrixCodec::Int4 | MatrixCodec::Int8 | MatrixCodec::Fp8 | MatrixCodec::F16 => None,
        };
        let effort = |codec: Additive| codec.bits() / SAMPLE.bits();
        let coded = matrices().filter_map(|part| Some(part.weights() as f64 * effort(additive(part)?)));
        let codecs: BTreeSet<Additive> = matrices().filter_map(additive).collect();
        let starts = codecs.into_iter().map(|codec| {
            let searches = (GAUSSIAN_VECTORS * codec.dim * START_ROUNDS) as f64;
            effort(codec) * searches / Effort::default().searches() as f64
        });
        let bytes = matrices().filter_map(|part| Some((plan.codec(part).form(), part.matrix()?)));
        let inputs =
            Checkpoint::LAYER_MATRICES.map(|names| checkpoint.layer_matrix_shape(names[0])[1] as u64);
        let layers = config.num_hidden_layers as f64;
        let of_layers = |part: &&Part| part.input.is_some();
        let layer_weights = matrices().filter(of_layers).map(Part::weights).sum::<u64>();
        Self {
            weights: matrices().map(Part::weights).sum::<u64>() as f64,
            layer_weights: layer_weights as f64,
            one_layer: layer_weights / config.num_hidden_layers as u64,
            coded: coded.sum::<f64>() + starts.sum::<f64>(),
            moments: MOMENTS * layers * inputs.iter().map(|&width| (width * width) as f64).sum::<f64>(),
            vocabulary: (config.vocab_size * config.hidden_size) as u64,
            compressed: bytes.map(|(form, [rows, columns])| form.heap_bytes(rows, columns) as u64).sum(),
            tokens: tokens as u64,
            hidden: config.hidden_size as u64,
            inputs,
        }
    }

    /// The most of three stages: writing text, which needs all weights in 32 bits; a layer, which needs the
    /// activations of all its inputs in the original and of one in the quantized model, the residual streams and the
    /// second moments; and measuring, which needs both models.
    fn peak_memory_bytes(&self) -> u64 {
        let original = 4 * (self.weights as u64);
        let embedding = 4 * self.vocabulary * 3
            + original
            + 4 * (HEAD_SEQUENCES * SEQUENCE_TOKENS) as u64 * self.hidden
            + 4 * 4 * self.hidden * self.hidden;
        let captured: u64 = self.inputs.iter().map(|width| width + self.hidden).sum();
        let widest = self.inputs.iter().max().copied().unwrap_or(0);
        // What was captured is joined to one array, so the last of its parts is there twice.
        let activations = 2 * self.hidden + 2 * captured + 2 * (widest + self.hidden);
        let moments = 6 * widest * widest;
        let layer = 4 * (self.tokens * activations + moments + 3 * self.one_layer + 2 * self.vocabulary)
            + self.compressed;
        let measuring = original + 2 * self.compressed + 4 * self.vocabulary;
        embedding.max(layer).max(measuring)
    }
}

/// What this machine takes, in seconds.
struct Speed {
    /// A multiplication of the forward pass, with all cores at work.
    per_product: f64,
    /// A weight in the codec of the sample, with all cores at work.
    per_weight: f64,
}

impl Speed {
    fn measure() -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let weights = Array2::from_shape_simple_fn((SAMPLE_ROWS, SAMPLE_COLUMNS), || normal(&mut rng));
        let mut start = Codebooks::zeros(SAMPLE.books, SAMPLE.dim);
        start.words.fill_with(|| normal(&mut rng));
        let began = Instant::now();
        let identity = Array2::eye(SAMPLE_COLUMNS);
        quantize(weights.view(), identity.view(), &[1.0; SAMPLE_ROWS], &start, Effort::default())?;
        let per_weight = began.elapsed().as_secs_f64() / weights.len() as f64;

        let positions = 512;
        let mut input = Input::default();
        input.reset(positions, SAMPLE_COLUMNS).fill(1.0);
        let mut output = vec![0.0; positions * SAMPLE_ROWS];
        let products = (weights.len() * positions) as f64;
        let matrix = Matrix::Dense(DenseMatrix::new(
            SAMPLE_ROWS,
            SAMPLE_COLUMNS,
            weights.into_raw_vec_and_offset().0,
        )?);
        let began = Instant::now();
        matrix.multiply(Backend::detect(), &mut input, &mut output);
        let per_product = began.elapsed().as_secs_f64() / products / rayon::current_num_threads() as f64;
        Ok(Self { per_product, per_weight })
    }
}
