//! Quantizing all matrices, one layer at a time; what is done is kept in the work folder.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use indicatif::ProgressBar;
use ndarray::Array2;
use novaq_engine::model::{CachePrecision, LinearInput, Model};
use serde::{Deserialize, Serialize};

use super::forecast::Planning;
use super::job::{Job, Shapes, Unit};
use super::matrices::{self, Fitted, Quantizer, Read, Shared, Starts};
use super::output::write_whole;
use super::plan::{EMBEDDING, HEAD, Plan};
use super::refinement::{REFINED, refined_name};
use super::sensitivity::Sensitivity;
use super::{Options, STOP};
use crate::checkpoint::{Checkpoint, layer_name};
use crate::evaluate::text;
use crate::layered::{self, Captured, LAYER_INPUTS, Layered, Share, Streams, Tensors, Vectors};
use crate::output::{HintExt, progress};
use crate::quantize::additive::Effort;
use crate::quantize::hessian::{damped, mean_product};
use crate::refine::Refine;

/// Share of the mean diagonal that is added to the head's Hessian for a tied embedding. Large, because the embedding is
/// also what the first layer reads, where every direction counts. With nothing but the embedding of TinyStories-656K
/// quantized, at 4 bits, the KL divergence was 0.053 at a share of 0.1, 0.036 at 1 and 0.0315 at 5.
const TIED_DAMPING: f32 = 5.0;

/// Sequences that a tied head's Hessian is measured on: its damping leaves little for more of them to say.
pub(super) const HEAD_SEQUENCES: usize = 24;

/// Sequences of held-out text that the result is measured on.
pub(super) const HELD_OUT_SEQUENCES: usize = 24;

/// What a seed is changed by for text that was not calibrated on.
pub const HELD_OUT: u64 = 0x6865_6c64_2d6f_7574;

/// Token sequences to calibrate and to measure on.
#[derive(Serialize, Deserialize)]
pub(super) struct Sequences {
    pub(super) calibration: Vec<Vec<u32>>,
    pub(super) held_out: Vec<Vec<u32>>,
}

/// The name of the work folder's file with the sequences.
const SEQUENCES: &str = "sequences.json";

/// The name of the work folder's file with the codecs, where they had to be found.
const PLAN: &str = "plan.json";

/// A compression in progress.
pub(super) struct Run<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) options: &'a Options,
    pub(super) planning: &'a Planning<'a>,
    /// The plan, where it follows from the headers.
    pub(super) fixed: Option<Plan>,
    pub(super) job: Job,
}

impl Run<'_> {
    /// The calibration text and the held-out text, made on the first call.
    pub(super) fn sequences(&self, text: Option<Vec<Vec<u32>>>, tokens: usize) -> anyhow::Result<Sequences> {
        if let Some(sequences) = self.job.json(SEQUENCES)? {
            return Ok(sequences);
        }
        if let Some(path) = self.options.text.as_ref().filter(|path| path.exists()) {
            let bytes = std::fs::read(path).with_context(|| format!("`{}` can't be read", path.display()))?;
            let sequences = serde_json::from_slice(&bytes);
            return sequences.with_context(|| format!("`{}` is no sampled text", path.display()));
        }
        let began = Instant::now();
        let (config, seed) = (self.checkpoint.config(), self.options.seed);
        let length = text::SEQUENCE_TOKENS.min(config.max_position_embeddings);
        let count = tokens.div_ceil(length);
        let sampled = if text.is_some() { 0 } else { count };
        let mut seeds = text::seeds(seed, sampled);
        seeds.extend(text::seeds(seed ^ HELD_OUT, HELD_OUT_SEQUENCES));
        let share = self.share(seeds.len());
        let mut model = Layered::original(self.checkpoint)?.keeping(share.layers);
        let bar = progress(seeds.len() as u64, "Sampling", "sequences");
        let mut written = text::sample(&mut model, &seeds, share.sequences, |done| bar.inc(done))?;
        bar.finish_and_clear();
        let held_out = written.split_off(sampled);
        let calibration = text.unwrap_or(written);
        let sequences = Sequences { calibration, held_out };
        let json = serde_json::to_vec(&sequences)?;
        self.job.write(SEQUENCES, &json)?;
        if let Some(path) = &self.options.text {
            write_whole(path, &json)?;
        }
        self.job.spend(|times| &mut times.text, began)?;
        Ok(sequences)
    }

    /// What the memory allowed for sampling is used for while up to `sequences` are written.
    pub(super) fn share(&self, sequences: usize) -> Share {
        let config = self.checkpoint.config();
        let length = text::SEQUENCE_TOKENS.min(config.max_position_embeddings);
        let weights = self.checkpoint.layer_weights() * config.num_hidden_layers as u64;
        Share::of(self.options.memory, config, weights, length, sequences)
    }

    /// Brings all matrices of the model in their codecs to the work folder; returns the codecs.
    pub(super) fn quantize(&self, sequences: &[Vec<u32>]) -> anyhow::Result<Plan> {
        let checkpoint = self.checkpoint;
        let layers = checkpoint.config().num_hidden_layers;
        let tied = checkpoint.config().tie_word_embeddings;
        let bar = progress(layers as u64 * 4 + 1, "Quantizing", "steps");
        let mut began = Instant::now();
        let mut spend = || -> anyhow::Result<()> {
            self.job.spend(|times| &mut times.quantization, began)?;
            began = Instant::now();
            Ok(())
        };
        let mut original = Streams::embed(sequences, &layered::embedding(checkpoint, &Tensors::default())?)?;
        let plan = self.plan(sequences, &bar)?;
        let mut quantizer =
            Quantizer { starts: Starts::default(), effort: Effort::default(), seed: self.options.seed };

        self.embedding(&plan, &mut quantizer, sequences, &bar)?;
        let embedding = finished(checkpoint, &self.job, EMBEDDING)?.tensors;
        let mut quantized = Streams::embed(sequences, &layered::embedding(checkpoint, &embedding)?)?;
        drop(embedding);
        // Activations are needed only as far as something is left to be quantized.
        let open = (0..layers).rfind(|&layer| !self.job.has(&unit_name(layer)));
        let head_is_open = !tied && !self.job.has(HEAD);
        let needed = if head_is_open { layers } else { open.map_or(0, |layer| layer + 1) };
        for layer in 0..layers {
            if self.job.has(&unit_name(layer)) {
                if layer < needed {
                    let unit = finished_layer(checkpoint, &self.job, layer)?;
                    original.advance(&self.layer_of(layer, &Tensors::default())?, CachePrecision::F32)?;
                    quantized.advance(&self.layer_of(layer, &unit.tensors)?, CachePrecision::F32)?;
                }
                bar.inc(4);
            } else {
                let unit = self.layer(layer, &plan, &mut quantizer, &mut original, &mut quantized, &bar)?;
                self.job.store(&unit_name(layer), &unit)?;
                spend()?;
                self.check_stop(layer)?;
            }
        }
        if head_is_open {
            bar.set_message("head");
            self.head(&plan, &mut quantizer, &original, &quantized, sequences)?;
        }
        bar.finish_and_clear();
        spend()?;
        Ok(plan)
    }

    /// Layer `layer` as calibration runs it.
    fn layer_of(&self, layer: usize, replaced: &Tensors) -> anyhow::Result<Model> {
        Ok(layered::layer(self.checkpoint, layer, replaced, Vectors::Rounded)?)
    }

    /// The codecs: the same everywhere, or as the sensitivities of the original's parts say.
    fn plan(&self, sequences: &[Vec<u32>], bar: &ProgressBar) -> anyhow::Result<Plan> {
        if let Some(plan) = &self.fixed {
            return Ok(plan.clone());
        }
        if let Some(plan) = self.job.json(PLAN)? {
            return Ok(plan);
        }
        let (named, seed) = (self.planning.named, self.options.seed);
        let memory = self.share(0).layers;
        let sensitivity = Sensitivity::measure(self.checkpoint, named, sequences, memory, seed, bar)?;
        tracing::debug!(?sensitivity, "measured");
        let plan = self.planning.plan(&sensitivity)?;
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
        sequences: &[Vec<u32>],
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        bar.set_message("embedding");
        let config = self.checkpoint.config();
        self.vocabulary(plan, EMBEDDING, |codec| {
            let metric = if config.tie_word_embeddings {
                let inputs = self.head_inputs(&spread(sequences, HEAD_SEQUENCES))?;
                damped(mean_product(inputs.view(), inputs.view()), TIED_DAMPING)
            } else {
                Array2::eye(config.hidden_size)
            };
            let weights = self.checkpoint.matrix(EMBEDDING)?;
            Ok(quantizer.embedding(codec, weights.view(), metric.view(), &self.frequencies(sequences))?)
        })?;
        bar.inc(1);
        Ok(())
    }

    /// What the head of the original reads, `[positions, hidden_size]`.
    fn head_inputs(&self, sequences: &[Vec<u32>]) -> anyhow::Result<Array2<f32>> {
        let mut model = Layered::original(self.checkpoint)?;
        let mut streams = Streams::embed(sequences, model.last())?;
        for index in 0..model.parts() {
            streams.advance(&*model.part(index)?, CachePrecision::F32)?;
        }
        Ok(streams.capture(model.last(), LinearInput::Head)?.inputs)
    }

    /// The head of a model that is not tied, on what the rest of the model, quantized, gives it to read.
    fn head(
        &self,
        plan: &Plan,
        quantizer: &mut Quantizer,
        original: &Streams,
        quantized: &Streams,
        sequences: &[Vec<u32>],
    ) -> anyhow::Result<()> {
        self.vocabulary(plan, HEAD, |codec| {
            let weights = self.checkpoint.matrix(HEAD)?;
            let read = |streams: &Streams| -> anyhow::Result<Captured> {
                let norm = layered::norm(self.checkpoint)?;
                Ok(streams.capture(&norm, LinearInput::Head)?)
            };
            let (original, quantized) = (read(original)?, read(quantized)?);
            let read = Read { original, quantized, adds_to_residual: false };
            Ok(quantizer.layer(codec, &[weights], &read, &self.frequencies(sequences))?)
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

    /// Brings a matrix with a row per token to the work folder, in the codec for embeddings; `quantize` makes additive
    /// codes of it.
    fn vocabulary(
        &self,
        plan: &Plan,
        name: &str,
        quantize: impl FnOnce(Fitted) -> anyhow::Result<Shared>,
    ) -> anyhow::Result<()> {
        if self.job.has(name) {
            return Ok(());
        }
        let mut unit = Unit::default();
        let codec = plan.vocabulary(name);
        if let Some(fitted) = codec.fitted() {
            let began = Instant::now();
            let shared = quantize(fitted)?;
            let error = shared.relative_error;
            shared.store(&[name], &mut unit.tensors);
            unit.record(&[name], error, began);
        } else {
            let matrix = matrices::rounded(codec, name, &self.checkpoint.matrix(name)?)?;
            unit.tensors.matrices.extend(matrix.map(|matrix| (name.to_owned(), matrix)));
        }
        self.job.store(name, &unit)
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
        let captured = original.capture_and_advance(&self.layer_of(layer, &Tensors::default())?)?;
        for (index, (reference, names)) in captured.into_iter().zip(Checkpoint::LAYER_MATRICES).enumerate() {
            bar.set_message(format!("layer {layer} {}", names.join(" ").replace(".weight", "")));
            let inputs = quantized.capture(&self.layer_of(layer, &unit.tensors)?, LAYER_INPUTS[index])?;
            tracing::debug!(layer, input = names[0], "captured");
            // o_proj and down_proj write to the residual stream, unless a norm is between them.
            let adds = index % 2 == 1 && !self.checkpoint.config().variant.post_norms;
            let read = Read { original: reference, quantized: inputs, adds_to_residual: adds };
            for (codec, names) in plan.groups(self.checkpoint, layer, index) {
                let weights = self.layer_weights(layer, &names)?;
                quantizer.group(&mut unit, codec, &layer_name(layer, ""), &names, &weights, &read)?;
            }
            bar.inc(1);
        }
        if self.options.refine >= Refine::Blocks {
            bar.set_message(format!("refining layer {layer}"));
            self.refine_layer(layer, &mut unit.tensors, original, quantized)?;
        }
        quantized.advance(&self.layer_of(layer, &unit.tensors)?, CachePrecision::F32)?;
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
}

/// At most `count` of `sequences`, spread evenly.
pub(super) fn spread(sequences: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let count = count.min(sequences.len());
    (0..count).map(|i| sequences[i * sequences.len() / count].clone()).collect()
}

/// Name of a layer's file in the work folder.
pub(super) fn unit_name(layer: usize) -> String {
    format!("layer-{layer:05}")
}

/// The tensors of `layer` that are done, by their names without its prefix.
pub(super) fn finished_layer(checkpoint: &Checkpoint, job: &Job, layer: usize) -> anyhow::Result<Unit> {
    let name = unit_name(layer);
    load_layer(checkpoint, job, &if job.has(REFINED) { refined_name(&name) } else { name })
}

/// What quantization made of `layer`, refined or not.
pub(super) fn quantized_layer(checkpoint: &Checkpoint, job: &Job, layer: usize) -> anyhow::Result<Unit> {
    load_layer(checkpoint, job, &unit_name(layer))
}

fn load_layer(checkpoint: &Checkpoint, job: &Job, unit: &str) -> anyhow::Result<Unit> {
    let names = Checkpoint::LAYER_MATRICES.iter().copied().flatten();
    let shapes: Shapes =
        names.map(|name| ((*name).to_owned(), checkpoint.layer_matrix_shape(name))).collect();
    job.load(unit, &shapes)
}

/// The embedding or the head, done, and the last norm if it was refined.
pub(super) fn finished(checkpoint: &Checkpoint, job: &Job, name: &str) -> anyhow::Result<Unit> {
    load_vocabulary(checkpoint, job, if job.has(REFINED) { REFINED } else { name }, name)
}

/// What quantization made of the embedding or the head, refined or not.
pub(super) fn quantized_vocabulary(checkpoint: &Checkpoint, job: &Job, name: &str) -> anyhow::Result<Unit> {
    load_vocabulary(checkpoint, job, name, name)
}

fn load_vocabulary(checkpoint: &Checkpoint, job: &Job, unit: &str, name: &str) -> anyhow::Result<Unit> {
    let config = checkpoint.config();
    job.load(unit, &vec![(name.to_owned(), [config.vocab_size, config.hidden_size])])
}

/// The compressed model, whose matrices are in the work folder.
pub(super) fn compressed<'a>(checkpoint: &'a Checkpoint, job: &'a Job) -> anyhow::Result<Layered<'a>> {
    let mut vocabulary = finished(checkpoint, job, EMBEDDING)?.tensors;
    if !checkpoint.config().tie_word_embeddings {
        vocabulary.matrices.append(&mut finished(checkpoint, job, HEAD)?.tensors.matrices);
    }
    let last = layered::vocabulary(checkpoint, &vocabulary, Vectors::Rounded)?;
    Ok(Layered::new(last, move |layer| {
        let unit = finished_layer(checkpoint, job, layer)?;
        Ok(layered::layer(checkpoint, layer, &unit.tensors, Vectors::Rounded)?)
    }))
}
