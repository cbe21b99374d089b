//! Compression of a checkpoint to an artifact.
//!
//! The embedding comes first, then layer after layer, each on the activations of the model quantized so far: what
//! one layer gets wrong, the next ones are fitted to. Between layers only the residual streams of the calibration text
//! are kept, so memory does not grow with the depth of the model.

pub mod baseline;
mod calibration;
mod cost;
mod job;
mod matrices;
mod output;
pub mod pattern;
pub mod plan;
mod size;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use ndarray::Array2;
use novaq_engine::artifact::{Estimates, Manifest, SourceFile, Verification};
use novaq_engine::codec::Matrix;
use novaq_engine::model::{CachePrecision, KvCache, Model, ModelError, TensorSource};
use novaq_engine::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, dense, layer_name};
use crate::evaluate::{compare, text};
use crate::output::{HintExt, progress};
use crate::quantize::additive::Effort;
use crate::quantize::hessian::{damped, expected_noise, mean_product};
pub use cost::Cost;
pub use size::Kind;

use calibration::{Captured, LAYER_INPUTS, Streams, head_inputs, layer_model};
use job::{Job, Settings, Shapes, Unit};
use matrices::{Quantizer, Shared, Starts};
use pattern::Override;
use plan::{Additive, EMBEDDING, HEAD, MatrixCodec, Named, Plan, TooSmall};
use size::Sizes;

/// What to compress, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the artifact; must not exist yet.
    pub output: PathBuf,
    /// What the codecs may take.
    pub budget: Budget,
    /// Codec of the embedding, and of the head if it is not tied; by default 4 bits, or what a budget for the whole
    /// artifact leaves.
    pub embedding: Option<MatrixCodec>,
    /// Codecs of single matrices.
    pub overrides: Vec<Override>,
    /// Calibration text; without one the model writes its own.
    pub calibration: Option<PathBuf>,
    /// Tokens of calibration text; by default what fits the model's size.
    pub calibration_tokens: Option<usize>,
    /// Seed of all random choices.
    pub seed: u64,
    /// Name of the model; by default that of its folder.
    pub name: Option<String>,
    /// Semantic version of the artifact.
    pub version: String,
    /// Licence of the weights; by default what the model card says.
    pub license: Option<String>,
    /// Throw away the work of an earlier call that was stopped.
    pub restart: bool,
    /// Stop after so many layers, as if interrupted.
    pub stop_after: Option<usize>,
}

/// What the codecs of a model may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Most bits of codes per weight of the layers, on average.
    Bits(f64),
    /// One codec for all layers.
    Codec(MatrixCodec),
    /// Most bytes of all files of the artifact.
    Bytes(u64),
    /// How many times smaller than the weights in 32-bit floats all files of the artifact are at least.
    Ratio(f64),
}

/// What a compression came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Id of the model: SHA-256 of the manifest.
    pub id: String,
    /// Name of the model.
    pub name: String,
    /// Folder of the artifact.
    pub output: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of shards.
    pub shards: usize,
    /// Weights of the model.
    pub parameters: u64,
    /// How many times smaller than the weights in 32-bit floats.
    pub ratio_fp32: f64,
    /// Bits of the codes alone per weight of the layers.
    pub bits_per_weight_codes: f64,
    /// All bits per weight of the layers.
    pub bits_per_weight_body: f64,
    /// All bits per weight of the embedding and the head.
    pub bits_per_weight_embedding: f64,
    /// Bits of all files together per weight.
    pub bits_per_weight_file: f64,
    /// Quality on held-out text that the original wrote.
    pub verification: Option<Verification>,
    /// Squared error of each linear layer's output relative to the output, on the calibration text.
    pub relative_errors: BTreeMap<String, f64>,
    /// Time it took, in seconds.
    pub seconds: f64,
}

/// Set when the user asks to stop; work in progress ends at the next layer.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// Multiply-adds that one pass over the calibration text should take at most, whatever the size of the model.
const CALIBRATION_WORK: u64 = 80_000_000_000;

/// Fewest and most calibration tokens by default.
const CALIBRATION_TOKENS: [u64; 2] = [8192, 40_960];

/// Share of the mean diagonal that is added to the head's Hessian for a tied embedding. Large, because the embedding is
/// also what the first layer reads, where every direction counts. With nothing but the embedding of TinyStories-656K
/// quantized, at 4 bits, the KL divergence was 0.053 at a share of 0.1, 0.036 at 1 and 0.0315 at 5.
const TIED_DAMPING: f32 = 5.0;

/// Sequences that a tied head's Hessian is measured on: its damping leaves little for more of them to say.
const HEAD_SEQUENCES: usize = 24;

/// Sequences of held-out text that the result is measured on.
const HELD_OUT_SEQUENCES: usize = 24;

/// What that text is.
const HELD_OUT_TEXT: &str = "sampled from the original at temperature 1, not calibrated on";

/// What a seed is changed by for text that was not calibrated on.
pub const HELD_OUT: u64 = 0x6865_6c64_2d6f_7574;

/// Token sequences to calibrate and to measure on.
#[derive(Serialize, Deserialize)]
struct Sequences {
    calibration: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

/// The name of the work folder's file with the sequences.
const SEQUENCES: &str = "sequences.json";

/// What a compression would come to, from the headers alone.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// Whether the codecs are those that the compression will choose. If not, it will choose others within the same
    /// bits by what it measures, and padding makes other sizes of them.
    pub exact: bool,
    /// Weights of the model.
    pub parameters: u64,
    /// Most bytes of all files.
    pub bytes: u64,
    /// By how many bytes it may be less: the digits of what is measured at the end.
    pub variable_bytes: u64,
    /// Number of shards.
    pub shards: usize,
    /// Bytes of the matrices: codes, scales and codebooks.
    pub matrix_bytes: u64,
    /// The bytes of all files by what they are for.
    pub kinds: Vec<Kind>,
    /// Bits of the codes alone per weight of the layers.
    pub bits_per_weight_codes: f64,
    /// All bits per weight of the layers.
    pub bits_per_weight_body: f64,
    /// All bits per weight of the embedding and the head.
    pub bits_per_weight_embedding: f64,
    /// Bits of all files together per weight.
    pub bits_per_weight_file: f64,
    /// How many times smaller all files are than the weights in 32-bit floats.
    pub ratio_fp32: f64,
    /// How many times smaller all files are than the weights in 16-bit floats.
    pub ratio_fp16: f64,
    /// What it takes to run the model.
    pub estimates: Estimates,
    /// Calibration tokens.
    pub calibration_tokens: usize,
    /// What the compression takes.
    pub cost: Cost,
}

/// What [`run`] would make of `checkpoint`. Reads the tokenizer and no weights; writes nothing.
///
/// # Errors
/// If a file can't be read, or the budget can't be met.
pub fn forecast(checkpoint: &Checkpoint, options: &Options) -> anyhow::Result<Forecast> {
    let named = overrides(checkpoint, options)?;
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)?;
    let sizes = sizes(checkpoint, options, checkpoint.source_lengths()?, &tokenizer)?;
    let fixed = fixed_plan(checkpoint, options, &named, &sizes)?;
    let exact = fixed.is_some();
    let plan = match (fixed, options.budget) {
        (None, Budget::Bits(bits)) => {
            let evenly = vec![[1.0; 4]; checkpoint.config().num_hidden_layers];
            Plan::within_bits(checkpoint, bits, &evenly, options.embedding_codec(), named)
        }
        (fixed, _) => fixed.context("a budget other than of bits gives a plan")?,
    };
    let manifest = sizes.manifest(&plan)?;
    let [most, least] = sizes.range(&plan)?;
    let kinds = sizes.by_kind(&plan, &manifest);
    let codebooks = manifest.codebooks.iter().map(|set| set.section.length);
    let matrices = manifest.tensors.iter().filter(|t| t.shape.len() == 2).map(|t| t.section.length);
    let tokens = calibration_tokens(checkpoint, options);
    let c = &manifest.compression;
    Ok(Forecast {
        exact,
        parameters: c.parameters,
        bytes: most,
        variable_bytes: most - least,
        shards: manifest.shards.len(),
        matrix_bytes: codebooks.chain(matrices).sum(),
        kinds,
        bits_per_weight_codes: c.bits_per_weight_codes,
        bits_per_weight_body: c.bits_per_weight_body,
        bits_per_weight_embedding: c.bits_per_weight_embedding,
        bits_per_weight_file: c.bits_per_weight_file,
        ratio_fp32: c.ratio_fp32,
        ratio_fp16: c.ratio_fp16,
        estimates: manifest.estimates,
        calibration_tokens: tokens,
        cost: Cost::of(checkpoint, &plan, tokens, options.calibration.is_none(), exact)?,
    })
}

/// The codecs of single matrices that the options ask for.
fn overrides(checkpoint: &Checkpoint, options: &Options) -> anyhow::Result<Named> {
    plan::named(checkpoint, &options.overrides).map_err(anyhow::Error::msg).hint(|| {
        "names are those of `novaq inspect --tensors`, as `model.layers.0.mlp.up_proj.weight`".to_owned()
    })
}

/// The sizes of artifacts of `checkpoint`.
fn sizes<'a>(
    checkpoint: &'a Checkpoint,
    options: &Options,
    sources: Vec<SourceFile>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Sizes<'a>> {
    let unknown = Estimates { heap_bytes: 0, cache_bytes_per_token: 0, instructions_per_token: 0 };
    let draft = output::draft(checkpoint, options, sources, calibration(options), None, unknown)?;
    Ok(Sizes::new(checkpoint, tokenizer.to_bytes().len() as u64, draft))
}

/// What the manifest says about the calibration text.
fn calibration(options: &Options) -> String {
    match &options.calibration {
        Some(path) => format!("text of `{}`", path.file_name().unwrap_or_default().display()),
        None => "sampled from the original at temperature 1".to_owned(),
    }
}

fn calibration_tokens(checkpoint: &Checkpoint, options: &Options) -> usize {
    options.calibration_tokens.unwrap_or_else(|| default_calibration_tokens(checkpoint))
}

/// Calibration tokens where nobody says how many.
pub fn default_calibration_tokens(checkpoint: &Checkpoint) -> usize {
    let [least, most] = CALIBRATION_TOKENS;
    (CALIBRATION_WORK / checkpoint.parameters().max(1)).clamp(least, most) as usize
}

/// The plan, if it follows from the headers: all layers get the same codec, or the budget is one for the artifact.
/// Codecs for other bits per weight follow from what is measured.
fn fixed_plan(
    checkpoint: &Checkpoint,
    options: &Options,
    named: &Named,
    sizes: &Sizes,
) -> anyhow::Result<Option<Plan>> {
    let uniform = |body| Ok(Some(Plan::uniform(checkpoint, body, options.embedding_codec(), named.clone())));
    let fp32 = 4 * checkpoint.parameters();
    let target = match options.budget {
        Budget::Codec(codec) => return uniform(codec),
        Budget::Bits(bits) if (bits * 2.0).fract() == 0.0 => {
            return uniform(MatrixCodec::Aq(Additive { books: (bits * 2.0) as usize, dim: 8 }));
        }
        Budget::Bits(_) => return Ok(None),
        Budget::Bytes(bytes) => bytes,
        Budget::Ratio(ratio) => (fp32 as f64 / ratio) as u64,
    };
    let size = |plan: &Plan| anyhow::Ok(sizes.manifest(plan)?.compression.bytes);
    let plan = Plan::within_bytes(checkpoint, target, options.embedding, named.clone(), size);
    match plan.as_ref().err().and_then(|error| error.downcast_ref()) {
        Some(&TooSmall { smallest, .. }) => plan.map(Some).hint(|| {
            // Rounded down, so that what is proposed can be reached.
            let ratio = (10.0 * fp32 as f64 / smallest as f64).floor() / 10.0;
            let fixed = if options.embedding.is_some() || !named.is_empty() {
                ", or leave out `--embedding-bpw` and `--tensor`"
            } else {
                ""
            };
            format!("ask for `--size {smallest}` or `--ratio {ratio}`{fixed}")
        }),
        None => plan.map(Some),
    }
}

impl Options {
    /// Codec of the embedding where a budget for the whole artifact does not choose it.
    fn embedding_codec(&self) -> MatrixCodec {
        self.embedding.unwrap_or(MatrixCodec::Aq(Additive { books: 8, dim: 8 }))
    }
}

/// Compresses `checkpoint` as `options` say.
///
/// # Errors
/// If the output exists, a file can't be read or written, the calibration text is too short, or the user stopped it.
pub fn run(checkpoint: &Checkpoint, options: &Options) -> anyhow::Result<Summary> {
    let began = Instant::now();
    if options.output.exists() {
        return Err(anyhow::anyhow!("`{}` exists already", options.output.display()))
            .hint(|| "remove it, or write to another folder with `-o`".to_owned());
    }
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)
        .with_context(|| format!("the tokenizer of `{}` can't be used", checkpoint.path().display()))?;
    let sources = checkpoint.source_files()?;
    let calibration = calibration(options);
    let named = overrides(checkpoint, options)?;
    let fixed =
        fixed_plan(checkpoint, options, &named, &sizes(checkpoint, options, sources.clone(), &tokenizer)?)?;
    let settings = Settings {
        novaq: env!("CARGO_PKG_VERSION").to_owned(),
        seed: options.seed,
        budget: options.budget,
        embedding: options.embedding,
        named: named.clone(),
        plan: fixed.clone(),
        calibration: calibration.clone(),
        calibration_tokens: calibration_tokens(checkpoint, options),
        sources: sources.clone(),
    };
    // Read before anything is written, so that a bad text leaves nothing behind.
    let calibration_text = match &options.calibration {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("`{}` can't be read", path.display()))?;
            let windows = text::windows(checkpoint.config(), &tokenizer, &text, settings.calibration_tokens)
                .with_context(|| format!("`{}` can't be used for calibration", path.display()))?;
            Some(windows)
        }
    };
    let job = Job::open(output::work_folder(&options.output), &settings, options.restart)?;
    let run = Run { checkpoint, options, named, fixed, job };

    let sequences = run.sequences(calibration_text, settings.calibration_tokens)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "text is ready");
    let unit = run.quantize(&sequences.calibration)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "all matrices are quantized");
    let model = run.assemble(&unit.matrices)?;
    let verification = run.verify(&model, &sequences.held_out)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "quality is measured");
    let estimates = Estimates {
        heap_bytes: model.heap_bytes() as u64,
        cache_bytes_per_token: KvCache::bytes_per_position(model.config(), CachePrecision::Int8) as u64,
        instructions_per_token: model.work_per_token(Estimates::CONTEXT),
    };
    let draft = output::draft(checkpoint, options, sources, calibration, Some(verification), estimates)?;
    let manifest = output::write(checkpoint, &run.job, &unit.matrices, &tokenizer, draft)?;
    output::publish(run.job, &options.output)?;
    summary(&manifest, options, unit.relative_errors, began)
}

fn summary(
    manifest: &Manifest,
    options: &Options,
    relative_errors: BTreeMap<String, f64>,
    began: Instant,
) -> anyhow::Result<Summary> {
    let c = &manifest.compression;
    Ok(Summary {
        id: hex::encode(manifest.id()?),
        name: manifest.name.clone(),
        output: options.output.clone(),
        bytes: c.bytes,
        shards: manifest.shards.len(),
        parameters: c.parameters,
        ratio_fp32: c.ratio_fp32,
        bits_per_weight_codes: c.bits_per_weight_codes,
        bits_per_weight_body: c.bits_per_weight_body,
        bits_per_weight_embedding: c.bits_per_weight_embedding,
        bits_per_weight_file: c.bits_per_weight_file,
        verification: manifest.verification.clone(),
        relative_errors,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// A compression in progress.
struct Run<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a Options,
    named: Named,
    /// The plan, where it follows from the headers.
    fixed: Option<Plan>,
    job: Job,
}

impl Run<'_> {
    /// The calibration text and the held-out text, made on the first call.
    fn sequences(&self, text: Option<Vec<Vec<u32>>>, tokens: usize) -> anyhow::Result<Sequences> {
        if let Some(sequences) = self.job.json(SEQUENCES)? {
            return Ok(sequences);
        }
        let (config, seed) = (self.checkpoint.config(), self.options.seed);
        let model = self.checkpoint.model()?;
        let count = tokens.div_ceil(text::SEQUENCE_TOKENS.min(config.max_position_embeddings));
        let sampled = if text.is_some() { 0 } else { count };
        let bar = progress((sampled + HELD_OUT_SEQUENCES) as u64, "Sampling", "sequences");
        let calibration = match text {
            Some(text) => text,
            None => text::sample(&model, count, seed, |_| bar.inc(1))?,
        };
        let held_out = text::sample(&model, HELD_OUT_SEQUENCES, seed ^ HELD_OUT, |_| bar.inc(1))?;
        bar.finish_and_clear();
        let sequences = Sequences { calibration, held_out };
        self.job.write(SEQUENCES, &serde_json::to_vec(&sequences)?)?;
        Ok(sequences)
    }

    /// All matrices of the model in their codecs, by full name.
    fn quantize(&self, sequences: &[Vec<u32>]) -> anyhow::Result<Unit> {
        let checkpoint = self.checkpoint;
        let config = checkpoint.config();
        let layers = config.num_hidden_layers;
        let bar = progress(layers as u64 * 4 + 1, "Quantizing", "steps");
        let original_embedding = checkpoint.matrix(EMBEDDING)?;
        let dense_embedding = dense(&original_embedding)?;
        let plan = self.plan(&Streams::embed(config, sequences, &dense_embedding), &bar)?;
        let mut quantizer =
            Quantizer { starts: Starts::default(), effort: Effort::default(), seed: self.options.seed };

        let mut all = self.embedding(&plan, &mut quantizer, original_embedding, sequences, &bar)?;
        // Activations are needed only as far as something is left to be quantized.
        let open = (0..layers).rfind(|&layer| !self.job.has(&unit_name(layer)));
        let needed = open.map_or(0, |layer| layer + 1);
        let mut original = Streams::embed(config, sequences, &dense_embedding);
        let mut quantized = Streams::embed(config, sequences, &all.matrices[EMBEDDING]);
        for layer in 0..layers {
            let unit = if self.job.has(&unit_name(layer)) {
                let unit = self.job.load(&unit_name(layer), &layer_shapes(checkpoint))?;
                if layer < needed {
                    original.advance(&layer_model(checkpoint, layer, &BTreeMap::new())?)?;
                    quantized.advance(&layer_model(checkpoint, layer, &unit.matrices)?)?;
                }
                bar.inc(4);
                unit
            } else {
                let unit = self.layer(layer, &plan, &mut quantizer, &mut original, &mut quantized, &bar)?;
                self.job.store(&unit_name(layer), &unit)?;
                self.check_stop(layer)?;
                unit
            };
            let full = |name: String| layer_name(layer, &name);
            all.matrices.extend(unit.matrices.into_iter().map(|(name, m)| (full(name), m)));
            all.relative_errors.extend(unit.relative_errors.into_iter().map(|(name, e)| (full(name), e)));
        }
        if !checkpoint.config().tie_word_embeddings {
            bar.set_message("head");
            let head = self.head(&plan, &mut quantizer, &all, sequences)?;
            all.matrices.extend(head.matrices);
            all.relative_errors.extend(head.relative_errors);
        }
        bar.finish_and_clear();
        Ok(all)
    }

    /// The codecs: the same everywhere, or as the expected errors of the original say.
    fn plan(&self, streams: &Streams, bar: &ProgressBar) -> anyhow::Result<Plan> {
        if let Some(plan) = &self.fixed {
            return Ok(plan.clone());
        }
        if let Some(plan) = self.job.json(PLAN)? {
            return Ok(plan);
        }
        let mut streams = streams.clone();
        let mut noise = Vec::new();
        for layer in 0..self.checkpoint.config().num_hidden_layers {
            bar.set_message(format!("measuring layer {layer}"));
            let model = layer_model(self.checkpoint, layer, &BTreeMap::new())?;
            let captured = streams.capture_and_advance(&model)?;
            let mut of_layer = [0.0; 4];
            for ((noise, names), captured) in
                of_layer.iter_mut().zip(Checkpoint::LAYER_MATRICES).zip(&captured)
            {
                let h =
                    damped(mean_product(captured.inputs.view(), captured.inputs.view()), matrices::DAMPING);
                let weights = matrices::stacked(&self.layer_weights(layer, names)?);
                *noise = expected_noise(weights.view(), h.view())?;
            }
            noise.push(of_layer);
        }
        let Budget::Bits(bits) = self.options.budget else { bail!("the plan of the budget is missing") };
        let (embedding, named) = (self.options.embedding_codec(), self.named.clone());
        let plan = Plan::within_bits(self.checkpoint, bits, &noise, embedding, named);
        self.job.write(PLAN, &serde_json::to_vec(&plan)?)?;
        Ok(plan)
    }

    fn layer_weights(&self, layer: usize, names: &[&str]) -> anyhow::Result<Vec<Array2<f32>>> {
        names.iter().map(|name| Ok(self.checkpoint.matrix(&layer_name(layer, name))?)).collect()
    }

    /// The token embedding, which is the head too if the model is tied.
    fn embedding(
        &self,
        plan: &Plan,
        quantizer: &mut Quantizer,
        weights: Array2<f32>,
        sequences: &[Vec<u32>],
        bar: &ProgressBar,
    ) -> anyhow::Result<Unit> {
        bar.set_message("embedding");
        let tied = self.checkpoint.config().tie_word_embeddings;
        let unit = self.vocabulary(plan, EMBEDDING, weights, |codec, weights| {
            let metric = if tied {
                let part = spread(sequences, HEAD_SEQUENCES);
                let inputs = head_inputs(&self.checkpoint.model()?, &part)?;
                damped(mean_product(inputs.view(), inputs.view()), TIED_DAMPING)
            } else {
                Array2::eye(weights.ncols())
            };
            Ok(quantizer.embedding(codec, weights, metric.view(), &self.frequencies(sequences))?)
        })?;
        bar.inc(1);
        Ok(unit)
    }

    /// The head of a model that is not tied, on what the rest of the model, quantized, gives it to read.
    fn head(
        &self,
        plan: &Plan,
        quantizer: &mut Quantizer,
        rest: &Unit,
        sequences: &[Vec<u32>],
    ) -> anyhow::Result<Unit> {
        let weights = self.checkpoint.matrix(HEAD)?;
        self.vocabulary(plan, HEAD, weights, |codec, weights| {
            let original = Captured::inputs(head_inputs(&self.checkpoint.model()?, sequences)?);
            let mut matrices = rest.matrices.clone();
            matrices.insert(HEAD.to_owned(), dense(&weights)?);
            let quantized = Captured::inputs(head_inputs(&self.assemble(&matrices)?, sequences)?);
            let row_weights = self.frequencies(sequences);
            Ok(quantizer.layer(codec, &[weights], &original, &quantized, false, &row_weights)?)
        })
    }

    /// How often each token occurs, and once more: text that was not seen has others.
    fn frequencies(&self, sequences: &[Vec<u32>]) -> Vec<f32> {
        let mut frequencies = vec![1.0; self.checkpoint.config().vocab_size];
        for &token in sequences.iter().flatten() {
            frequencies[token as usize] += 1.0;
        }
        frequencies
    }

    /// A matrix with a row per token, in the codec for embeddings; `quantize` makes additive codes of it.
    fn vocabulary(
        &self,
        plan: &Plan,
        name: &str,
        weights: Array2<f32>,
        quantize: impl FnOnce(Additive, Array2<f32>) -> anyhow::Result<Shared>,
    ) -> anyhow::Result<Unit> {
        let (rows, columns) = weights.dim();
        let mut unit = Unit::default();
        match plan.vocabulary(name) {
            MatrixCodec::Aq(_) if self.job.has(name) => {
                return self.job.load(name, &vec![(name.to_owned(), [rows, columns])]);
            }
            MatrixCodec::Aq(codec) => {
                let shared = quantize(codec, weights)?;
                unit.relative_errors.insert(name.to_owned(), shared.relative_error);
                unit.matrices.extend(shared.matrices.into_iter().map(|m| (name.to_owned(), m)));
                self.job.store(name, &unit)?;
            }
            codec => {
                let matrix = matrices::rounded(codec, name, &weights)?;
                unit.matrices.extend(matrix.map(|matrix| (name.to_owned(), matrix)));
            }
        }
        Ok(unit)
    }

    /// One layer, input by input, each on what the quantized matrices before it in the layer produce.
    fn layer(
        &self,
        layer: usize,
        plan: &Plan,
        quantizer: &mut Quantizer,
        original: &mut Streams,
        quantized: &mut Streams,
        bar: &ProgressBar,
    ) -> anyhow::Result<Unit> {
        let mut unit = Unit::default();
        let captured =
            original.capture_and_advance(&layer_model(self.checkpoint, layer, &BTreeMap::new())?)?;
        for (index, (reference, names)) in captured.iter().zip(Checkpoint::LAYER_MATRICES).enumerate() {
            bar.set_message(format!("layer {layer} {}", names.join(" ").replace(".weight", "")));
            let model = layer_model(self.checkpoint, layer, &unit.matrices)?;
            let inputs = quantized.capture(&model, LAYER_INPUTS[index])?;
            tracing::debug!(layer, input = names[0], "captured");
            // o_proj and down_proj write to the residual stream, unless a norm is between them.
            let adds = index % 2 == 1 && !self.checkpoint.config().variant.post_norms;
            for (codec, names) in plan.groups(self.checkpoint, layer, index) {
                let weights = self.layer_weights(layer, &names)?;
                let MatrixCodec::Aq(codec) = codec else {
                    for (name, weights) in names.iter().zip(&weights) {
                        let matrix = matrices::rounded(codec, &layer_name(layer, name), weights)?;
                        unit.matrices.extend(matrix.map(|matrix| ((*name).to_owned(), matrix)));
                    }
                    continue;
                };
                let row_weights = vec![1.0; weights.iter().map(Array2::nrows).sum()];
                let shared = quantizer
                    .layer(codec, &weights, reference, &inputs, adds, &row_weights)
                    .with_context(|| format!("layer {layer}, {}", names.join(", ")))?;
                tracing::debug!(layer, input = names[0], error = shared.relative_error, "quantized");
                unit.relative_errors.extend(names.iter().map(|&n| (n.to_owned(), shared.relative_error)));
                unit.matrices.extend(names.iter().map(|&n| n.to_owned()).zip(shared.matrices));
            }
            bar.inc(1);
        }
        quantized.advance(&layer_model(self.checkpoint, layer, &unit.matrices)?)?;
        Ok(unit)
    }

    /// Fails if the user asked to stop, once `layer` is stored.
    fn check_stop(&self, layer: usize) -> anyhow::Result<()> {
        let enough = self.options.stop_after.is_some_and(|layers| layer + 1 >= layers);
        if enough || STOP.load(Ordering::Relaxed) {
            let folder = self.job.folder().display();
            return Err(anyhow::anyhow!("stopped after layer {layer}; what is done is kept in `{folder}`"))
                .hint(|| "run the same command again to go on".to_owned());
        }
        Ok(())
    }

    /// The compressed model.
    fn assemble(&self, matrices: &BTreeMap<String, Matrix>) -> anyhow::Result<Model> {
        let mut tensors = Compressed { checkpoint: self.checkpoint, matrices };
        Ok(Model::load(self.checkpoint.config().clone(), &mut tensors)?)
    }

    /// Measures the compressed model on text that the original wrote.
    fn verify(&self, model: &Model, held_out: &[Vec<u32>]) -> anyhow::Result<Verification> {
        let bar = progress(held_out.len() as u64, "Measuring", "sequences");
        let measured = compare(&self.checkpoint.model()?, model, held_out, |_| bar.inc(1))?;
        bar.finish_and_clear();
        Ok(Verification {
            text: HELD_OUT_TEXT.to_owned(),
            tokens: measured.tokens,
            perplexity: measured.perplexity,
            perplexity_original: measured.perplexity_original,
            kl: measured.kl,
            top1_agreement: measured.top1_agreement,
        })
    }
}

/// The name of the work folder's file with the codecs, where they had to be found.
const PLAN: &str = "plan.json";

/// At most `count` of `sequences`, spread evenly.
fn spread(sequences: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let count = count.min(sequences.len());
    (0..count).map(|i| sequences[i * sequences.len() / count].clone()).collect()
}

/// Name of a layer's file in the work folder.
fn unit_name(layer: usize) -> String {
    format!("layer-{layer:05}")
}

fn layer_shapes(checkpoint: &Checkpoint) -> Shapes {
    let names = Checkpoint::LAYER_MATRICES.iter().copied().flatten();
    names.map(|name| ((*name).to_owned(), checkpoint.layer_matrix_shape(name))).collect()
}

/// The tensors of the compressed model.
struct Compressed<'a> {
    checkpoint: &'a Checkpoint,
    matrices: &'a BTreeMap<String, Matrix>,
}

impl TensorSource for Compressed<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        Ok(self.matrices.get(name).cloned())
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.checkpoint.vector(name).ok())
    }
}
