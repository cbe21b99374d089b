//! Compression of an encoder.
//!
//! As a decoder's: embeddings, then layer after layer, each on the activations of the model quantized so far. What is
//! different: an encoder can't write text to calibrate on; every linear layer has a bias and is followed, at the latest one
//! layer later, by a norm with an affine map. So weights are fitted to inputs around their mean, biases make up for the means,
//! and the affine maps for what else is linear in a single channel. A refinement is one on lines of the calibration file.

mod streams;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use ndarray::{Array1, Array2, Axis};
use novaq_engine::artifact::{Estimates, ManifestDraft, Similarity, SourceFile, VectorPrecision};
use novaq_engine::codec::Matrix;
use novaq_engine::model::{BertEmbeddings, BertLayer, Encoder, LinearInput};
use novaq_engine::tokenizer::Tokenizer;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::forecast::{self as common, Planning};
use super::job::{Job, Settings, Shapes, Unit};
use super::matrices::{self, Quantizer, Read, Starts};
use super::output::Written;
use super::plan::{Folding, Layout, MatrixCodec, Named, Part, Plan};
use super::refinement::{self, REFINED, REFINEMENT, forget_steps, refined};
use super::report::{self, Report};
use super::sensitivity::{SHAPING_POSITIONS, Sensitivity, with_noise, with_plain_noise};
use super::size::Sizes;
use super::{Cost, Forecast, Options, STOP, Summary, check_vocabulary, output, quantization};
use crate::checkpoint::{CheckpointError, EncoderCheckpoint, encoder_layer_name};
use crate::evaluate::similarity::{compare, cosine, embeddings, lines, spread};
use crate::layered::{Captured, LAYER_INPUTS, rounded_vector};
use crate::output::{HintExt, progress};
use crate::quantize::additive::Effort;
use crate::refine::{Course, Example, Refine, TEXTS_PER_STEP, refine_layer};
use streams::Streams;
use tensors::Tensors;

/// What the held-out texts are.
pub(super) const HELD_OUT_LINES: &str = "lines of the calibration file, not calibrated on";

/// Most texts that the result is measured on.
pub(super) const MOST_HELD_OUT: usize = 256;

/// Of so many lines one is held out.
const HELD_OUT_SHARE: usize = 8;

/// Most texts that sensitivities are measured on.
pub(super) const MEASURED_TEXTS: usize = 64;

/// Calibration tokens where nobody says how many.
pub const CALIBRATION_TOKENS: usize = 32_768;

/// The name of the work folder's file with the texts.
const TEXTS: &str = "texts.json";

/// The name of the work folder's file with the codecs, where they had to be found.
const PLAN: &str = "plan.json";

/// The name of the work folder's file with the embeddings.
const EMBEDDINGS: &str = "embeddings";

/// Tokens of texts to calibrate, to refine the whole model and to measure on.
#[derive(Serialize, Deserialize)]
struct Texts {
    calibration: Vec<Vec<u32>>,
    refinement: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

/// What [`run`] would make of `checkpoint`. Reads the tokenizer and no weights; writes nothing.
///
/// # Errors
/// If a file can't be read, or the budget can't be met.
pub fn forecast(checkpoint: &EncoderCheckpoint, options: &Options) -> anyhow::Result<Forecast> {
    let named = named(checkpoint, options)?;
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)?;
    check_vocabulary(&tokenizer, EncoderCheckpoint::WORDS, checkpoint.config().vocab_size)?;
    let sizes = sizes(checkpoint, options, checkpoint.source_lengths()?, &tokenizer)?;
    let planning = Planning { layout: checkpoint, options, named: &named, sizes: &sizes };
    let plan = planning.expected()?;
    let exact = planning.follows_from_headers(&plan);
    let tokens = options.calibration_tokens.unwrap_or(CALIBRATION_TOKENS);
    let cost = Cost::of_encoder(checkpoint, &plan, options, tokens, exact)?;
    Forecast::new(&sizes, &plan, exact, tokens, cost)
}

/// The codecs of single matrices: those that the options ask for; integers for the positions, which every text needs and
/// which are few, and floats for the kinds of tokens.
fn named(checkpoint: &EncoderCheckpoint, options: &Options) -> anyhow::Result<Named> {
    let mut named = common::overrides(checkpoint, options)?;
    named.entry(EncoderCheckpoint::POSITIONS.to_owned()).or_insert(MatrixCodec::Int8);
    named.entry(EncoderCheckpoint::KINDS.to_owned()).or_insert(MatrixCodec::F16);
    Ok(named)
}

/// What the manifest says beyond sizes and tables.
fn draft(
    checkpoint: &EncoderCheckpoint,
    options: &Options,
    files: Vec<SourceFile>,
    similarity: Option<Similarity>,
    estimates: Estimates,
) -> anyhow::Result<ManifestDraft> {
    let described = output::Described {
        path: checkpoint.path(),
        license: checkpoint.license(),
        tokenizer_json: checkpoint.tokenizer_json()?,
        chat_template: None,
        architecture: checkpoint.config().clone().into(),
    };
    let draft = output::draft_of(described, options, files, common::calibration(options), estimates)?;
    Ok(ManifestDraft { similarity, ..draft })
}

/// The sizes of artifacts of `checkpoint`.
fn sizes<'a>(
    checkpoint: &'a EncoderCheckpoint,
    options: &Options,
    sources: Vec<SourceFile>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Sizes<'a>> {
    let unknown = Estimates { heap_bytes: 0, cache_bytes_per_token: 0, instructions_per_token: 0 };
    let draft = draft(checkpoint, options, sources, None, unknown)?;
    let folding = Folding::new(options.fold, checkpoint.parameters());
    Ok(Sizes::new(checkpoint, tokenizer.to_bytes().len() as u64, draft, folding))
}

/// Compresses `checkpoint` as `options` say.
///
/// # Errors
/// If the output exists, there is no calibration text or too little of it, a file can't be read or written, or the user
/// stopped it.
pub fn run(checkpoint: &EncoderCheckpoint, options: &Options) -> anyhow::Result<Summary> {
    let began = Instant::now();
    output::refuse_existing(&options.output)?;
    let Some(calibration) = &options.calibration else {
        return Err(anyhow::anyhow!("an encoder can't write the text that it is calibrated on")).hint(|| {
            "add `--calibration <FILE>` with one text per line, like those to be embedded".to_owned()
        });
    };
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)
        .with_context(|| format!("the tokenizer of `{}` can't be used", checkpoint.path().display()))?;
    check_vocabulary(&tokenizer, EncoderCheckpoint::WORDS, checkpoint.config().vocab_size)?;
    let sources = checkpoint.source_files()?;
    let named = named(checkpoint, options)?;
    let sizes = sizes(checkpoint, options, sources.clone(), &tokenizer)?;
    let planning = Planning { layout: checkpoint, options, named: &named, sizes: &sizes };
    let fixed = planning.fixed()?;
    let settings = Settings {
        novaq: env!("CARGO_PKG_VERSION").to_owned(),
        seed: options.seed,
        budget: options.budget,
        embedding: options.embedding,
        named: named.clone(),
        plan: fixed.clone(),
        calibration: common::calibration(options),
        calibration_tokens: options.calibration_tokens.unwrap_or(CALIBRATION_TOKENS),
        refine: options.refine,
        refine_steps: options.refine_steps,
        sources: sources.clone(),
        folding: Folding::new(options.fold, checkpoint.parameters()),
    };
    // Read before anything is written, so that a bad text leaves nothing behind.
    let texts = texts(checkpoint, &tokenizer, calibration, &settings)?;
    let report = options.report.clone().unwrap_or_else(|| report::beside(&options.output));
    let job = Job::open(output::work_folder(&options.output), &settings, options.restart)?;
    let run = Run { checkpoint, options, planning: &planning, fixed, job };
    let texts = run.texts(texts)?;
    let (plan, unit) = run.quantize(&texts.calibration)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "all matrices are quantized");
    let unit = run.refine(unit, &texts.refinement)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "the model is refined");
    let measuring = Instant::now();
    let encoder = run.assemble(&unit)?;
    let similarity = run.verify(&encoder, &texts.held_out)?;
    run.job.spend(|times| &mut times.measurement, measuring)?;
    tracing::info!(seconds = began.elapsed().as_secs_f32(), "quality is measured");
    let estimates = Estimates {
        heap_bytes: encoder.heap_bytes() as u64,
        cache_bytes_per_token: 0,
        instructions_per_token: encoder
            .work_per_token(Estimates::CONTEXT.min(checkpoint.config().max_seq_length)),
    };
    let draft = draft(checkpoint, options, sources, Some(similarity), estimates)?;
    let written = run.write(&unit, &tokenizer, draft)?;
    Report::new(checkpoint, options, &settings, &plan, &written, &run.job.times()?)?.write(&report)?;
    output::publish(run.job, &options.output)?;
    super::summary(written, options, Some(report), began)
}

/// The lines of the calibration file, some of them held out.
fn texts(
    checkpoint: &EncoderCheckpoint,
    tokenizer: &Tokenizer,
    path: &Path,
    settings: &Settings,
) -> anyhow::Result<Texts> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("`{}` can't be read", path.display()))?;
    let all = lines(checkpoint.config(), tokenizer, &text)
        .with_context(|| format!("`{}` can't be used for calibration", path.display()))?;
    let (held_out, calibration): (Vec<_>, Vec<_>) =
        all.into_iter().enumerate().partition(|(index, _)| index % HELD_OUT_SHARE == HELD_OUT_SHARE - 1);
    let plain = |texts: Vec<(usize, Vec<u32>)>| texts.into_iter().map(|(_, text)| text).collect();
    let (held_out, calibration): (Vec<_>, Vec<_>) = (plain(held_out), plain(calibration));
    let step = held_out.len().div_ceil(MOST_HELD_OUT).max(1);
    let kept = spread(&calibration, settings.calibration_tokens);
    let mut refinement = Vec::new();
    if settings.refine == Refine::Full {
        // A file may have several sources, one after the other.
        refinement = calibration;
        refinement.shuffle(&mut ChaCha8Rng::seed_from_u64(settings.seed ^ REFINEMENT));
        refinement.truncate(settings.refine_steps * TEXTS_PER_STEP);
    }
    Ok(Texts { calibration: kept, refinement, held_out: held_out.into_iter().step_by(step).collect() })
}

/// A compression in progress.
struct Run<'a> {
    checkpoint: &'a EncoderCheckpoint,
    options: &'a Options,
    planning: &'a Planning<'a>,
    /// The plan, where it follows from the headers.
    fixed: Option<Plan>,
    job: Job,
}

impl Run<'_> {
    /// The texts of the work folder, or these.
    fn texts(&self, texts: Texts) -> anyhow::Result<Texts> {
        if let Some(texts) = self.job.json(TEXTS)? {
            return Ok(texts);
        }
        self.job.write(TEXTS, &serde_json::to_vec(&texts)?)?;
        Ok(texts)
    }

    /// The codecs, and all matrices of the model in them and all vectors, by full name.
    fn quantize(&self, texts: &[Vec<u32>]) -> anyhow::Result<(Plan, Unit)> {
        let mut began = Instant::now();
        let mut spend = || -> anyhow::Result<()> {
            self.job.spend(|times| &mut times.quantization, began)?;
            began = Instant::now();
            Ok(())
        };
        let (layers, width) = (self.checkpoint.layers(), self.checkpoint.config().hidden_size);
        let bar = progress(layers as u64 * 4 + 1, "Quantizing", "steps");
        let mut original = Streams::embed(texts, &self.original_embeddings()?, width)?;
        let plan = self.plan(texts, &bar)?;
        let mut quantizer =
            Quantizer { starts: Starts::default(), effort: Effort::default(), seed: self.options.seed };
        let mut all = self.embeddings(&plan, &mut quantizer, texts, &original, &bar)?;
        let mut quantized = Streams::embed(texts, &self.compressed_embeddings(&all)?, width)?;
        // Activations are needed only as far as something is left to be quantized.
        let needed = (0..layers).rfind(|&layer| !self.job.has(&unit_name(layer))).map_or(0, |last| last + 1);
        for layer in 0..layers {
            let unit = if self.job.has(&unit_name(layer)) {
                let unit = self.job.load(&unit_name(layer), &self.layer_shapes())?;
                if layer < needed {
                    original.advance(&self.original_layer(layer)?);
                    quantized.advance(&self.layer_with(layer, &unit)?);
                }
                bar.inc(4);
                unit
            } else {
                let unit = self.layer(layer, &plan, &mut quantizer, &mut original, &mut quantized, &bar)?;
                self.job.store(&unit_name(layer), &unit)?;
                spend()?;
                self.check_stop(layer)?;
                unit
            };
            let full = |name: String| encoder_layer_name(layer, &name);
            all.tensors.matrices.extend(unit.tensors.matrices.into_iter().map(|(name, m)| (full(name), m)));
            all.tensors.vectors.extend(unit.tensors.vectors.into_iter().map(|(name, v)| (full(name), v)));
            all.records.extend(unit.records.into_iter().map(|(name, record)| (full(name), record)));
        }
        bar.finish_and_clear();
        spend()?;
        Ok((plan, all))
    }

    /// Refines the whole model, if that was asked for, on `texts`.
    fn refine(&self, unit: Unit, texts: &[Vec<u32>]) -> anyhow::Result<Unit> {
        if self.options.refine < Refine::Full {
            return Ok(unit);
        }
        if self.job.has(REFINED) {
            return self.job.load(REFINED, &self.matrix_shapes(|name| Some(name.to_owned())));
        }
        let checkpoint = self.checkpoint;
        let original =
            refinement::original(checkpoint, |name| checkpoint.matrix(name), |name| checkpoint.vector(name))?;
        let course = Course {
            architecture: &checkpoint.config().clone().into(),
            original: &original,
            sequences: texts,
            steps: self.options.refine_steps,
        };
        let unit = Unit { tensors: refined(&self.job, &course, unit.tensors)?, records: unit.records };
        self.job.store(REFINED, &unit)?;
        forget_steps(&self.job)?;
        Ok(unit)
    }

    /// The codecs: the same everywhere, or as the sensitivities of the original's parts say: how far noise in each turns the
    /// embeddings of texts.
    fn plan(&self, texts: &[Vec<u32>], bar: &ProgressBar) -> anyhow::Result<Plan> {
        if let Some(plan) = &self.fixed {
            return Ok(plan.clone());
        }
        if let Some(plan) = self.job.json(PLAN)? {
            return Ok(plan);
        }
        let (original, width) = (self.checkpoint.encoder()?, self.checkpoint.config().hidden_size);
        let probe = quantization::spread(texts, MEASURED_TEXTS);
        let reference = embeddings(&original, &probe)?;
        let loss = |matrices: BTreeMap<String, Matrix>| -> anyhow::Result<f64> {
            let mut unit = Unit::default();
            unit.tensors.matrices = matrices;
            let noisy = embeddings(&self.assemble(&unit)?, &probe)?;
            let cosines = reference.iter().zip(&noisy).map(|(a, b)| cosine(a, b));
            Ok(1.0 - cosines.sum::<f64>() / probe.len().max(1) as f64)
        };
        let (named, seed) = (self.planning.named, self.options.seed);
        let shaping = spread(texts, SHAPING_POSITIONS);
        let mut streams = Streams::embed(&shaping, &self.original_embeddings()?, width)?;
        let mut layers = Vec::new();
        for layer in 0..self.checkpoint.layers() {
            bar.set_message(format!("measuring layer {layer}"));
            let captured = streams.capture_and_advance(&self.original_layer(layer)?);
            let mut of_layer = [0.0; 4];
            let inputs = EncoderCheckpoint::LAYER_MATRICES.iter().zip(captured).enumerate();
            for (input, (names, captured)) in inputs {
                let full: Vec<String> = names.iter().map(|name| encoder_layer_name(layer, name)).collect();
                let free: Vec<&str> =
                    full.iter().map(String::as_str).filter(|name| !named.contains_key(*name)).collect();
                if !free.is_empty() {
                    let inputs = centred(captured).0;
                    let seed = seed ^ (4 * layer + input) as u64;
                    let weights = |name: &&str| Ok(self.checkpoint.matrix(name)?);
                    of_layer[input] = loss(with_noise(&free, weights, &inputs, seed)?)?;
                }
            }
            layers.push(of_layer);
        }
        bar.set_message("measuring the embeddings");
        let tables = Part::all(self.checkpoint).into_iter();
        let free = tables.filter(|part| {
            part.input.is_none() && part.matrix().is_some() && !named.contains_key(&part.name)
        });
        let noisy = free.map(|Part { name, .. }| {
            let matrix = with_plain_noise(&self.checkpoint.matrix(&name)?, seed)?;
            Ok((name, matrix))
        });
        let vocabulary = loss(noisy.collect::<anyhow::Result<_>>()?)?;
        let sensitivity = Sensitivity { layers, vocabulary };
        tracing::debug!(?sensitivity, "measured");
        let plan = self.planning.plan(&sensitivity)?;
        self.job.write(PLAN, &serde_json::to_vec(&plan)?)?;
        Ok(plan)
    }

    fn layer_weights(&self, layer: usize, names: &[&str]) -> anyhow::Result<Vec<Array2<f32>>> {
        names.iter().map(|name| Ok(self.checkpoint.matrix(&encoder_layer_name(layer, name))?)).collect()
    }

    /// The embeddings in their codecs, and the norm behind them.
    fn embeddings(
        &self,
        plan: &Plan,
        quantizer: &mut Quantizer,
        texts: &[Vec<u32>],
        original: &Streams,
        bar: &ProgressBar,
    ) -> anyhow::Result<Unit> {
        bar.set_message("embeddings");
        if self.job.has(EMBEDDINGS) {
            bar.inc(1);
            return self.job.load(EMBEDDINGS, &self.embedding_shapes());
        }
        let mut unit = Unit::default();
        for part in Part::all(self.checkpoint).iter().filter(|part| part.input.is_none()) {
            if part.matrix().is_none() {
                continue;
            }
            let (name, weights) = (&part.name, self.checkpoint.matrix(&part.name)?);
            let (codec, began, mut error) = (plan.codec(part), Instant::now(), None);
            let matrix = if let Some(codec) = codec.fitted() {
                let metric = Array2::eye(weights.ncols());
                let counts = counts(name, weights.nrows(), texts);
                let shared = quantizer.embedding(codec, weights.view(), metric.view(), &counts)?;
                error = Some(shared.relative_error);
                shared.store(&[name], &mut unit.tensors);
                None
            } else {
                matrices::rounded(codec, name, &weights)?
            };
            unit.tensors.matrices.extend(matrix.map(|matrix| (name.clone(), matrix)));
            if let Some(error) = error {
                unit.record(&[name], error, began);
            }
        }
        let width = self.checkpoint.config().hidden_size;
        let quantized = Streams::embed(texts, &self.compressed_embeddings(&unit)?, width)?;
        let [weight, bias] = EncoderCheckpoint::EMBEDDING_VECTORS;
        self.correct_norm(&mut unit, [weight, bias], "", &original.joined(), &quantized.joined())?;
        self.job.store(EMBEDDINGS, &unit)?;
        bar.inc(1);
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
        let prefix = encoder_layer_name(layer, "");
        let mut unit = Unit::default();
        let captured = original.capture_and_advance(&self.original_layer(layer)?);
        let inputs = captured.into_iter().zip(EncoderCheckpoint::LAYER_MATRICES).enumerate();
        for (index, (reference, names)) in inputs {
            bar.set_message(format!("layer {layer} {}", names.join(" ").replace(".weight", "")));
            let mut inputs = quantized.capture(&self.layer_with(layer, &unit)?, LAYER_INPUTS[index]);
            if LAYER_INPUTS[index] == LinearInput::GateUp {
                let norm = ["attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias"];
                self.correct_norm(&mut unit, norm, &prefix, &reference.inputs, &inputs.inputs)?;
                inputs = quantized.capture(&self.layer_with(layer, &unit)?, LAYER_INPUTS[index]);
            }
            // The layers behind attention and activation write to what the next norm reads.
            let adds = index % 2 == 1;
            let (reference, reference_means) = centred(reference);
            let (inputs, means) = centred(inputs);
            let read = Read { original: reference, quantized: inputs, adds_to_residual: adds };
            for (codec, names) in plan.groups(self.checkpoint, layer, index) {
                let weights = self.layer_weights(layer, &names)?;
                quantizer.group(&mut unit, codec, &prefix, &names, &weights, &read)?;
                for (name, weights) in names.iter().zip(weights) {
                    let matrix = unit.tensors.matrices.get(*name).context("one matrix in, none out")?;
                    let mut missing = weights.dot(&reference_means.inputs) - product(matrix, &means.inputs);
                    if adds {
                        missing = missing + &reference_means.residual - &means.residual;
                    }
                    let bias = name.replace(".weight", ".bias");
                    let values = self.checkpoint.vector(&format!("{prefix}{bias}"))?;
                    let corrected: Vec<f32> = values.iter().zip(missing).map(|(b, m)| b + m).collect();
                    let name_of_bias = format!("{prefix}{bias}");
                    unit.tensors.vectors.insert(bias, rounded_vector(&name_of_bias, &corrected)?);
                }
            }
            bar.inc(1);
        }
        let mut advanced = quantized.clone();
        advanced.advance(&self.layer_with(layer, &unit)?);
        let norm = ["output.LayerNorm.weight", "output.LayerNorm.bias"];
        self.correct_norm(&mut unit, norm, &prefix, &original.joined(), &advanced.joined())?;
        if self.options.refine >= Refine::Blocks {
            bar.set_message(format!("refining layer {layer}"));
            let pairs = quantized.iter().zip(original.iter());
            let examples: Vec<Example> = pairs.map(|(input, target)| Example { input, target }).collect();
            let architecture = self.checkpoint.config().clone().into();
            unit.tensors = refine_layer(&architecture, layer, unit.tensors, &examples)?;
        }
        quantized.advance(&self.layer_with(layer, &unit)?);
        Ok(unit)
    }

    /// Changes weight and bias of a norm whose outputs are `outputs`, both `[positions, hidden_size]`, so that each channel
    /// comes as close to `wanted` as it can. The names are those of `unit`; with `prefix` those of the checkpoint.
    fn correct_norm(
        &self,
        unit: &mut Unit,
        names: [&str; 2],
        prefix: &str,
        wanted: &Array2<f32>,
        outputs: &Array2<f32>,
    ) -> anyhow::Result<()> {
        let [weight, bias] = names.map(|name| self.checkpoint.vector(&format!("{prefix}{name}")));
        let (mut weight, mut bias) = (weight?, bias?);
        let channels = weight.iter_mut().zip(&mut bias).zip(wanted.columns()).zip(outputs.columns());
        for (((weight, bias), wanted), outputs) in channels {
            let mean = |values: &ndarray::ArrayView1<f32>| {
                values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len().max(1) as f64
            };
            let (to, from) = (mean(&wanted), mean(&outputs));
            let (mut square, mut product) = (0.0f64, 0.0f64);
            for (&y, &x) in wanted.iter().zip(&outputs) {
                square += (f64::from(x) - from).powi(2);
                product += (f64::from(x) - from) * (f64::from(y) - to);
            }
            let slope = if square > 0.0 { product / square } else { 1.0 };
            *weight = (f64::from(*weight) * slope) as f32;
            *bias = (f64::from(*bias) * slope + to - slope * from) as f32;
        }
        for (name, values) in names.into_iter().zip([weight, bias]) {
            unit.tensors
                .vectors
                .insert(name.to_owned(), rounded_vector(&format!("{prefix}{name}"), &values)?);
        }
        Ok(())
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

    fn original_embeddings(&self) -> Result<BertEmbeddings, CheckpointError> {
        self.checkpoint.load(|source| BertEmbeddings::load(source, self.checkpoint.config()))
    }

    fn original_layer(&self, layer: usize) -> Result<BertLayer, CheckpointError> {
        self.checkpoint.load(|source| BertLayer::load(source, self.checkpoint.config(), layer))
    }

    /// The embeddings in `unit`.
    fn compressed_embeddings(&self, unit: &Unit) -> Result<BertEmbeddings, CheckpointError> {
        Tensors::new(self.checkpoint, unit, "")
            .make(|tensors| BertEmbeddings::load(tensors, self.checkpoint.config()))
    }

    /// Layer `layer` with what `unit` has of it so far; the rest is the checkpoint's.
    fn layer_with(&self, layer: usize, unit: &Unit) -> Result<BertLayer, CheckpointError> {
        let prefix = encoder_layer_name(layer, "");
        Tensors::new(self.checkpoint, unit, &prefix)
            .make(|tensors| BertLayer::load(tensors, self.checkpoint.config(), layer))
    }

    /// The compressed encoder.
    fn assemble(&self, unit: &Unit) -> Result<Encoder, CheckpointError> {
        Tensors::new(self.checkpoint, unit, "")
            .make(|tensors| Encoder::load(self.checkpoint.config().clone(), tensors))
    }

    /// Measures the compressed encoder on lines that it was not calibrated on.
    fn verify(&self, encoder: &Encoder, held_out: &[Vec<u32>]) -> anyhow::Result<Similarity> {
        let bar = progress(held_out.len() as u64, "Measuring", "texts");
        let measured = compare(&self.checkpoint.encoder()?, encoder, held_out, || bar.inc(1))?;
        bar.finish_and_clear();
        Ok(Similarity {
            text: HELD_OUT_LINES.to_owned(),
            texts: measured.texts,
            tokens: measured.tokens,
            mean_cosine: measured.mean_cosine,
            min_cosine: measured.min_cosine,
        })
    }

    /// Names and shapes of the matrices that a layer's file holds.
    fn layer_shapes(&self) -> Shapes {
        let prefix = encoder_layer_name(0, "");
        self.matrix_shapes(|name| name.strip_prefix(&prefix).map(str::to_owned))
    }

    /// Names and shapes of the matrices that the embeddings' file holds.
    fn embedding_shapes(&self) -> Shapes {
        self.matrix_shapes(|name| name.starts_with("embeddings.").then(|| name.to_owned()))
    }

    /// The matrices to which `name` gives a name, and their shapes.
    fn matrix_shapes(&self, name: impl Fn(&str) -> Option<String>) -> Shapes {
        let shape = |part: Part| Some((name(&part.name)?, part.matrix()?));
        Part::all(self.checkpoint).into_iter().filter_map(shape).collect()
    }

    /// Writes shards and manifest to the work folder, tensors in the order in which the forward pass needs them.
    fn write(&self, unit: &Unit, tokenizer: &Tokenizer, draft: ManifestDraft) -> anyhow::Result<Written> {
        output::write_parts(&self.job, tokenizer, draft, |writer| {
            for part in Part::all(self.checkpoint) {
                let tensors = &unit.tensors;
                match (tensors.matrices.get(&part.name), tensors.vectors.get(&part.name)) {
                    (Some(matrix), _) => output::write_matrix(writer, &part.name, matrix)?,
                    (None, Some(vector)) => writer.vector(&part.name, vector, VectorPrecision::F16)?,
                    (None, None) => bail!("`{}` was not quantized", part.name),
                }
            }
            Ok(unit.records.clone())
        })
    }
}

/// Name of a layer's file in the work folder.
fn unit_name(layer: usize) -> String {
    format!("layer-{layer:05}")
}

/// How often each row of an embedding is read, and once more: texts that were not seen have others.
fn counts(name: &str, rows: usize, texts: &[Vec<u32>]) -> Vec<f32> {
    let mut counts = vec![1.0; rows];
    for text in texts {
        for (position, &token) in text.iter().enumerate() {
            let at = match name {
                EncoderCheckpoint::WORDS => token as usize,
                EncoderCheckpoint::POSITIONS => position,
                _ => 0,
            };
            counts[at] += 1.0;
        }
    }
    counts
}

/// `matrix · input`.
fn product(matrix: &Matrix, input: &Array1<f32>) -> Array1<f32> {
    let mut row = vec![0.0; matrix.columns()];
    (0..matrix.rows())
        .map(|r| {
            matrix.decode_row(r, &mut row);
            row.iter().zip(input).map(|(w, x)| w * x).sum::<f32>()
        })
        .collect()
}

/// Means over all positions.
struct Means {
    inputs: Array1<f32>,
    residual: Array1<f32>,
}

/// What was captured around its means, and these.
fn centred(mut captured: Captured) -> (Captured, Means) {
    let centre = |values: &mut Array2<f32>| {
        let width = values.ncols();
        let mean =
            values.mapv(f64::from).mean_axis(Axis(0)).map_or(Array1::zeros(width), |m| m.mapv(|x| x as f32));
        *values -= &mean;
        mean
    };
    let means = Means { inputs: centre(&mut captured.inputs), residual: centre(&mut captured.residual) };
    (captured, means)
}
