//! What a compression takes, estimated from shapes.

use std::collections::BTreeSet;
use std::time::Instant;

use ndarray::Array2;
use novaq_engine::codec::{DenseMatrix, Input, Matrix};
use novaq_engine::kernel::Backend;
use novaq_engine::model::{CachePrecision, KvCache};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::Options;
use super::encoder::MEASURED_TEXTS;
use super::matrices::START_ROUNDS;
use super::plan::{Additive, Layout, MatrixCodec, Part, Plan};
use super::quantization::{HEAD_SEQUENCES, HELD_OUT_SEQUENCES};
use super::sensitivity::{MOST_SEQUENCES, SHAPING_POSITIONS, measured};
use crate::checkpoint::{Checkpoint, EncoderCheckpoint};
use crate::evaluate::text::SEQUENCE_TOKENS;
use crate::layered::Share;
use crate::quantize::additive::{Effort, GAUSSIAN_VECTORS, Work, normal, quantize};
use crate::quantize::beam::Codebooks;
use crate::quantize::hessian::BlockFactors;
use crate::refine::{BLOCK_STEPS, Refine, SEQUENCES_PER_STEP, TEXTS_PER_STEP};

/// What a compression takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Memory that is resident at a time, in bytes, at most.
    pub peak_memory_bytes: u64,
    /// Time with all cores of this machine, in seconds.
    pub seconds: f64,
}

/// What a compression is to do, as far as its cost depends on it.
pub(super) struct Task<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) plan: &'a Plan,
    /// Whether the plan follows from the headers; if not, sensitivities are measured first.
    pub(super) fixed: bool,
    /// Tokens of calibration text.
    pub(super) tokens: usize,
    /// Whether the model writes that text itself.
    pub(super) sampled: bool,
    /// How far is refined, and the steps of a refinement of the whole model.
    pub(super) refine: Refine,
    pub(super) refine_steps: usize,
    /// [`super::Options::memory`].
    pub(super) memory: u64,
    /// Bytes of the tokenizer's description.
    pub(super) tokenizer_bytes: u64,
}

/// Times that each layer runs over the calibration text, in whole layers: once in the original, once in the quantized
/// model, and up to each of its four linear inputs.
const PASSES: f64 = 4.0;

/// Multiplications of a step of refinement for a weight and a position: forward and twice that backward.
const GRADIENT_PRODUCTS: f64 = 3.0;

/// How many times longer a step of refinement takes than its multiplications, for attention, norms, losses and the search
/// for codes.
const GRADIENT_OVERHEAD: f64 = 2.5;

/// Bytes that a refinement needs for each weight: the original's and the variables' values, the latent weights with two
/// moments, gradients of each part of a step and their sum, and all that is saved twice while it is written.
const BYTES_PER_REFINED_WEIGHT: u64 = 84;

/// The same for each weight that is not trained: the original's values, what is stored and its values.
const BYTES_PER_FIXED_WEIGHT: u64 = 12;

/// Activations of a layer for a position of a sequence of `length`, with their gradients; attention has the most.
fn activations_per_position(inputs: [u64; 4], heads: usize, length: usize) -> u64 {
    12 * inputs.iter().sum::<u64>() + 6 * (heads * length) as u64
}

/// Second moments that are measured per linear input: of the inputs, of their change, and of the residual stream's
/// for every second one.
const MOMENTS: f64 = 2.5;

/// How many times longer a low-rank matrix's two decompositions take, with the products between them, than one factorisation.
const DECOMPOSITION: f64 = 30.0;

/// Shape of the sample that is quantized to measure this machine.
const SAMPLE_COLUMNS: usize = 256;
const SAMPLE_ROWS: usize = 64;

/// Rows and positions of the forward product that is measured: weights that only the outermost cache holds, as those of a layer's
/// largest matrices; positions between the few of sequences that are written together and the many that are calibrated on.
const PRODUCT: [usize; 2] = [1 << 12, 64];

/// Codebooks of the sample.
const SAMPLE: Additive = Additive { books: 4, dim: 8 };

impl Cost {
    /// What `task` takes.
    ///
    /// The time is counted in weights coded and in multiplications, at the speed that this machine has with a small
    /// matrix of random weights.
    pub(super) fn of(task: &Task) -> anyhow::Result<Self> {
        let shape = Shape::of(task);
        Ok(Self {
            peak_memory_bytes: shape.peak_memory_bytes(task),
            seconds: shape.seconds(task, &Speed::measure()?),
        })
    }

    /// What it takes to compress an encoder to `plan` as `options` say, on `tokens` tokens of text, by the same count; if the
    /// plan is not `fixed`, sensitivities are measured first.
    pub(super) fn of_encoder(
        checkpoint: &EncoderCheckpoint,
        plan: &Plan,
        options: &Options,
        tokens: usize,
        fixed: bool,
    ) -> anyhow::Result<Self> {
        let (layout, config) = (checkpoint as &dyn Layout, checkpoint.config());
        let parts = Part::all(layout);
        let (mut layers, mut coded, mut coded_products, mut all) = (0.0, 0.0, 0.0, 0);
        for part in &parts {
            let (Some([rows, columns]), weights) = (part.matrix(), part.weights()) else { continue };
            all += weights;
            if part.input.is_some() {
                layers += weights as f64;
            }
            if let MatrixCodec::Aq(codec) = plan.codec(part) {
                let work = work([rows, columns], codec);
                coded +=
                    weights as f64 * codec.bits() / SAMPLE.bits() * work.searches / sample_work().searches;
                coded_products += (weights * columns as u64) as f64 * work.products;
            }
        }
        let inputs = layout.layer_matrices().map(|names| layout.layer_matrix_shape(names[0])[1] as u64);
        let squares: f64 = inputs.iter().map(|&width| (width * width) as f64).sum();
        let cubes: f64 = inputs.iter().map(|&width| (width as f64).powi(3)).sum();
        let depth = layout.layers() as f64;
        let shaping = tokens.min(SHAPING_POSITIONS) as f64;
        let measured = (MEASURED_TEXTS * config.max_seq_length) as f64 * (4.0 * depth + 2.0);
        let positions = PASSES * tokens as f64 + if fixed { 0.0 } else { shaping + measured };
        let speed = Speed::measure()?;
        let per_step = TEXTS_PER_STEP * config.max_seq_length;
        let mut gradients = 0.0;
        if options.refine >= Refine::Blocks {
            gradients += BLOCK_STEPS as f64 * GRADIENT_PRODUCTS;
        }
        if options.refine >= Refine::Full {
            gradients += options.refine_steps as f64 * (GRADIENT_PRODUCTS + 1.0);
        }
        let seconds = positions * layers * speed.product
            + gradients * per_step as f64 * layers * GRADIENT_OVERHEAD * speed.hessian_product
            + (MOMENTS * depth * squares * tokens as f64 + coded_products) * speed.hessian_product
            + coded * speed.weight
            + 2.0 * depth * cubes * speed.factor;
        // Hidden states and captured inputs of both models, some of them twice for a while, and all weights as floats.
        let activations = 2 * (inputs.iter().sum::<u64>() + 4 * inputs[0]);
        let encoders = if fixed { 2 } else { 3 };
        let quantizing = 4 * (tokens as u64 * activations + encoders * all);
        let refined = |weights: f64, layers: usize| {
            let heads = config.num_attention_heads;
            BYTES_PER_REFINED_WEIGHT * weights as u64
                + 4 * (per_step * layers) as u64
                    * activations_per_position(inputs, heads, config.max_seq_length)
        };
        let peak_memory_bytes = match options.refine {
            Refine::None => quantizing,
            Refine::Blocks => quantizing + refined(layers / depth, 1),
            Refine::Full => (quantizing + refined(layers / depth, 1))
                .max(BYTES_PER_FIXED_WEIGHT * all + refined(layers, config.num_hidden_layers)),
        };
        Ok(Self { peak_memory_bytes, seconds })
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
    /// Products of a weight in additive codes and a row of a Hessian.
    coded_products: f64,
    /// Cubes of the widths of low-rank matrices, which are decomposed.
    decomposed: f64,
    /// Weights of the embedding.
    vocabulary: u64,
    /// Entries of the vocabulary.
    entries: u64,
    /// Matrices with a row for each: embedding, and head if it is not tied.
    vocabulary_matrices: u64,
    /// Weights of the largest tensor.
    largest: u64,
    /// Most codebooks that a matrix has.
    books: u64,
    layers: u64,
    hidden: u64,
    /// Widths of a layer's linear inputs.
    inputs: [u64; 4],
}

impl Shape {
    fn of(task: &Task) -> Self {
        let (checkpoint, plan) = (task.checkpoint, task.plan);
        let config = checkpoint.config();
        let parts = Part::all(checkpoint);
        let matrices = || parts.iter().filter_map(|part| Some((part, part.matrix()?)));
        let additive = |part: &Part| match plan.codec(part) {
            MatrixCodec::Aq(codec) => Some(codec),
            MatrixCodec::Int4
            | MatrixCodec::Int8
            | MatrixCodec::Fp8
            | MatrixCodec::F16
            | MatrixCodec::LowRank { .. } => None,
        };
        let effort = |codec: Additive| codec.bits() / SAMPLE.bits();
        let coded =
            || matrices().filter_map(|(part, shape)| Some((additive(part)?, part.weights() as f64, shape)));
        let codecs: BTreeSet<Additive> = coded().map(|(codec, ..)| codec).collect();
        let starts = codecs.iter().map(|&codec| {
            let searches = (GAUSSIAN_VECTORS * codec.dim * START_ROUNDS) as f64;
            effort(codec) * searches / sample_work().searches
        });
        let inputs =
            Checkpoint::LAYER_MATRICES.map(|names| checkpoint.layer_matrix_shape(names[0])[1] as u64);
        let layers = config.num_hidden_layers as u64;
        let of_layers = matrices().filter(|(part, _)| part.input.is_some());
        let layer_weights = of_layers.map(|(part, _)| part.weights()).sum::<u64>();
        Self {
            weights: matrices().map(|(part, _)| part.weights()).sum::<u64>() as f64,
            layer_weights: layer_weights as f64,
            one_layer: layer_weights / layers,
            coded: coded()
                .map(|(codec, weights, shape)| {
                    weights * effort(codec) * work(shape, codec).searches / sample_work().searches
                })
                .sum::<f64>()
                + starts.sum::<f64>(),
            coded_products: coded()
                .map(|(codec, weights, shape)| weights * shape[1] as f64 * work(shape, codec).products)
                .sum(),
            decomposed: matrices()
                .filter(|(part, _)| matches!(plan.codec(part), MatrixCodec::LowRank { .. }))
                .map(|(_, [_, columns])| (columns as f64).powi(3))
                .sum(),
            vocabulary: (config.vocab_size * config.hidden_size) as u64,
            entries: config.vocab_size as u64,
            vocabulary_matrices: if config.tie_word_embeddings { 1 } else { 2 },
            largest: parts.iter().map(Part::weights).max().unwrap_or(0),
            books: codecs.iter().map(|codec| codec.books as u64).max().unwrap_or(0),
            layers,
            hidden: config.hidden_size as u64,
            inputs,
        }
    }

    fn seconds(&self, task: &Task, speed: &Speed) -> f64 {
        let held_out = (HELD_OUT_SEQUENCES * SEQUENCE_TOKENS) as f64;
        let tokens = task.tokens as f64;
        let written = held_out + if task.sampled { tokens } else { 0.0 };
        let mut passes = PASSES * tokens * self.layer_weights;
        if !task.fixed {
            let length = SEQUENCE_TOKENS.min(task.checkpoint.config().max_position_embeddings);
            let (sequences, length) = measured(task.checkpoint, length);
            let positions = (sequences * length) as f64;
            // Half of the layers and both heads for each linear input.
            let each = self.layer_weights / 2.0 + 2.0 * self.vocabulary as f64;
            passes += tokens.min(SHAPING_POSITIONS as f64) * self.layer_weights
                + 4.0 * self.layers as f64 * positions * each;
        }
        let forward = (written + 2.0 * held_out) * self.weights + passes;
        let squares: f64 = self.inputs.iter().map(|&width| (width * width) as f64).sum();
        let cubes: f64 = self.inputs.iter().map(|&width| (width as f64).powi(3)).sum();
        let moments = MOMENTS * self.layers as f64 * squares * tokens;
        // One factorisation for the corrected weights, one for the feedback.
        let factors = 2.0 * self.layers as f64 * cubes + (self.hidden as f64).powi(3);
        let per_step = (SEQUENCES_PER_STEP * SEQUENCE_TOKENS) as f64;
        let (mut gradients, mut written_for_steps) = (0.0, 0.0);
        if task.refine >= Refine::Blocks {
            gradients += BLOCK_STEPS as f64 * per_step * self.layer_weights * GRADIENT_PRODUCTS;
        }
        if task.refine >= Refine::Full {
            let positions = task.refine_steps as f64 * per_step;
            // The original goes along, forward.
            gradients += positions * self.weights * (GRADIENT_PRODUCTS + 1.0);
            written_for_steps = if task.sampled { positions * self.weights } else { 0.0 };
        }
        (forward + written_for_steps) * speed.product
            + gradients * GRADIENT_OVERHEAD * speed.hessian_product
            + (moments + self.coded_products) * speed.hessian_product
            + self.coded * speed.weight
            + (factors + DECOMPOSITION * self.decomposed) * speed.factor
    }

    /// The most of six stages: sampling text, sensitivities, the embedding, a layer, refining the model, measuring.
    fn peak_memory_bytes(&self, task: &Task) -> u64 {
        let config = task.checkpoint.config();
        let threads = rayon::current_num_threads() as u64;
        let length = SEQUENCE_TOKENS.min(config.max_position_embeddings);
        let floats = |count: u64| 4 * count;
        let (tokens, hidden) = (task.tokens.next_multiple_of(length) as u64, self.hidden);
        let widest = self.inputs.iter().max().copied().unwrap_or(0);
        // Of a tensor that is read, the mapped pages are resident too, of 4 bytes a weight at most.
        let mapped = floats(self.largest);
        let layer = floats(self.one_layer);
        let vocabulary = floats(self.vocabulary) * self.vocabulary_matrices;
        // Every activation of a pass, with some that are quantized again.
        let passes = |rows: u64| floats(rows * 3 * (self.inputs.iter().sum::<u64>() + hidden));
        let held_out = (HELD_OUT_SEQUENCES.max(HEAD_SEQUENCES) * length) as u64;

        let written = if task.sampled { task.tokens.div_ceil(length) } else { 0 } + HELD_OUT_SEQUENCES;
        let all_layers = self.one_layer * self.layers;
        let share = Share::of(task.memory, config, all_layers, length, written);
        let cache = (KvCache::bytes_per_position(config, CachePrecision::F32) * length) as u64;
        let together = share.sequences as u64;
        // Logits, and candidates and weights of the sampler.
        let choices = together * self.entries * 24;
        let sampling = vocabulary + share.layers + layer + together * cache + choices + passes(together);

        let codes = self.vocabulary.div_ceil(4) * self.books;
        let metric = vocabulary + 2 * floats(held_out * hidden) + layer + passes(threads * length as u64);
        // The weights, their product with the Hessian; codes in pieces, joined and packed.
        let coding = 2 * floats(self.vocabulary) + 3 * codes + self.search_bytes(hidden);
        let head = if self.vocabulary_matrices > 1 { floats(tokens * hidden * 6) } else { 0 };
        let embedding = 2 * floats(tokens * hidden) + metric.max(coding + head);

        // What is captured is joined to one array, so it is there twice for a while.
        let reference = floats(tokens * (self.inputs.iter().sum::<u64>() + 2 * hidden));
        let quantized = floats(tokens * (2 * widest + 2 * hidden + widest));
        let of_layer = 2 * floats(tokens * hidden)
            + 2 * reference
            + quantized
            + self.search_bytes(widest)
            + 5 * layer
            + passes(threads * length as u64);

        let per_position = activations_per_position(self.inputs, config.num_attention_heads, length);
        let positions = (SEQUENCES_PER_STEP * length) as u64;
        let refined = |weights: u64, layers: u64, entries: u64| {
            BYTES_PER_REFINED_WEIGHT * weights + floats(positions * (layers * per_position + 8 * entries))
        };
        let of_layer =
            of_layer + if task.refine >= Refine::Blocks { refined(self.one_layer, 1, 0) } else { 0 };
        let of_model = match task.refine {
            Refine::Full => refined(self.weights as u64, self.layers, self.entries),
            Refine::None | Refine::Blocks => 0,
        };

        let logits = threads * 2 * 64 * self.entries * 4;
        let measuring = 2 * vocabulary
            + 2 * floats(held_out * hidden)
            + 2 * layer
            + logits
            + passes(2 * threads * length as u64);

        let sensitivities = if task.fixed {
            0
        } else {
            let probe = (MOST_SEQUENCES * length) as u64;
            let shaping = tokens.min(SHAPING_POSITIONS.next_multiple_of(length) as u64);
            let captured = floats(shaping * (self.inputs.iter().sum::<u64>() + 2 * hidden));
            let kept = Share::of(task.memory, config, all_layers, length, 0).layers;
            let inputs = kept + 5 * layer + 2 * captured + self.search_bytes(widest);
            vocabulary
                + floats((shaping + 4 * probe) * hidden)
                + logits
                + inputs.max(kept + 3 * vocabulary)
                + passes(2 * threads * length as u64)
        };

        let most =
            sensitivities.max(sampling).max(embedding).max(of_layer).max(of_model).max(measuring) + mapped;
        // The program itself, the tokenizer as it is parsed, and what the allocator keeps for itself.
        let program = (48 << 20) + 16 * task.tokenizer_bytes + threads * (8 << 20);
        program + most + most / 6
    }

    /// What quantizing a matrix of `width` columns takes beside the matrix: second moments and their parts, factors in 64
    /// bits, tables of the search.
    fn search_bytes(&self, width: u64) -> u64 {
        let pairs = (16 * self.books).pow(2);
        4 * 14 * width * width + 8 * 5 * width * width + 4 * pairs * width.div_ceil(4)
    }
}

/// What a matrix in `codec` takes.
fn work(shape: [usize; 2], codec: Additive) -> Work {
    Effort::default().work(shape, codec.dim)
}

/// The same of the sample that speeds are measured on.
fn sample_work() -> Work {
    work([SAMPLE_ROWS, SAMPLE_COLUMNS], SAMPLE)
}

/// What this machine takes, in seconds, with all cores at work.
struct Speed {
    /// A multiplication of the forward pass.
    product: f64,
    /// A multiplication with a Hessian.
    hessian_product: f64,
    /// The search for a weight's codes in the codec of the sample.
    weight: f64,
    /// The factorisation of a Hessian, per cube of its width; on one core.
    factor: f64,
}

impl Speed {
    fn measure() -> anyhow::Result<Self> {
        let threads = rayon::current_num_threads() as f64;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let weights = Array2::from_shape_simple_fn((SAMPLE_ROWS, SAMPLE_COLUMNS), || normal(&mut rng));
        let mut start = Codebooks::zeros(SAMPLE.books, SAMPLE.dim);
        start.words.fill_with(|| normal(&mut rng));
        let identity = Array2::eye(SAMPLE_COLUMNS);

        let began = Instant::now();
        let mut same = weights.dot(&identity);
        for _ in 0..8 {
            same = same.dot(&identity);
        }
        let products = 9 * SAMPLE_ROWS * SAMPLE_COLUMNS * SAMPLE_COLUMNS;
        let hessian_product = began.elapsed().as_secs_f64() / products as f64 / threads;

        let began = Instant::now();
        BlockFactors::new(identity.view(), SAMPLE.dim)?;
        let factor = began.elapsed().as_secs_f64() / SAMPLE_COLUMNS.pow(3) as f64;

        let began = Instant::now();
        quantize(same.view(), identity.view(), &[1.0; SAMPLE_ROWS], &start, Effort::default())?;
        let all = began.elapsed().as_secs_f64() / weights.len() as f64;
        let of_products = sample_work().products * SAMPLE_COLUMNS as f64 * hessian_product;
        let weight = (all - of_products).max(all / 4.0);

        let [rows, positions] = PRODUCT;
        let mut input = Input::default();
        input.reset(positions, SAMPLE_COLUMNS).fill(1.0);
        let mut output = vec![0.0; positions * rows];
        let products = (rows * SAMPLE_COLUMNS * positions) as f64;
        let values = vec![1.0; rows * SAMPLE_COLUMNS];
        let matrix = Matrix::Dense(DenseMatrix::new(rows, SAMPLE_COLUMNS, values)?);
        // The first product brings the memory that it writes to.
        matrix.multiply(Backend::detect(), &mut input, &mut output);
        let began = Instant::now();
        matrix.multiply(Backend::detect(), &mut input, &mut output);
        let product = began.elapsed().as_secs_f64() / products / threads;
        Ok(Self { product, hessian_product, weight, factor })
    }
}
