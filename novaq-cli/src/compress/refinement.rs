//! The third stage: [`crate::refine`] on the checkpoint, its text, and what the work folder keeps of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ndarray::Array2;
use novaq_engine::model::{Architecture, Config};

use super::STOP;
use super::job::{Job, Unit};
use super::plan::{EMBEDDING, HEAD, Layout, Part};
use super::quantization::{Run, quantized_layer, quantized_vocabulary, unit_name};
use crate::checkpoint::{CheckpointError, dense, layer_name};
use crate::evaluate::text;
use crate::layered::{Layered, Streams, Tensors};
use crate::output::{HintExt, progress};
use crate::refine::{Course, Example, Refine, SEQUENCES_PER_STEP, Stopped, refine_layer, refine_model};

/// The unit with the refined embedding and head, or with a whole refined encoder. It is stored last: once it is there, every
/// unit is refined.
pub(super) const REFINED: &str = "refined-vocabulary";

/// The files with the text and with the steps done so far.
pub(super) const TEXT: &str = "refinement-text.json";
const STATE: &str = "refinement.safetensors";

/// What a seed is changed by for the text of the refinement.
pub(super) const REFINEMENT: u64 = 0x7265_6669_6e65_6d65;

/// Name of the unit with what the refinement made of another one.
pub(super) fn refined_name(unit: &str) -> String {
    format!("refined-{unit}")
}

/// Tokens of text that a refinement of the whole model in `steps` steps has use for.
pub(super) fn tokens(config: &Config, steps: usize) -> usize {
    steps * SEQUENCES_PER_STEP * text::SEQUENCE_TOKENS.min(config.max_position_embeddings)
}

impl Run<'_> {
    /// Refines a layer's `tensors`; its inputs are the `quantized` streams, its targets the `original` ones after it.
    pub(super) fn refine_layer(
        &self,
        layer: usize,
        tensors: &mut Tensors,
        original: &Streams,
        quantized: &Streams,
    ) -> anyhow::Result<()> {
        for name in self.checkpoint.layer_vectors() {
            let vector = self.checkpoint.vector(&layer_name(layer, name))?;
            tensors.vectors.insert(name.to_owned(), vector);
        }
        let pairs = quantized.iter().zip(original.iter());
        let examples: Vec<Example> = pairs.map(|(input, target)| Example { input, target }).collect();
        let architecture = self.checkpoint.config().clone().into();
        *tensors = refine_layer(&architecture, layer, std::mem::take(tensors), &examples)?;
        Ok(())
    }

    /// Refines the whole model, if that was asked for, on `text` or on what the original writes.
    pub(super) fn refine(&self, text: Option<Vec<Vec<u32>>>) -> anyhow::Result<()> {
        if self.options.refine < Refine::Full || self.job.has(REFINED) {
            return Ok(());
        }
        let sequences = self.refinement_text(text)?;
        let checkpoint = self.checkpoint;
        let original = original(checkpoint, |name| checkpoint.matrix(name), |name| checkpoint.vector(name))?;
        let course = Course {
            architecture: &checkpoint.config().clone().into(),
            original: &original,
            sequences: &sequences,
            steps: self.options.refine_steps,
        };
        self.store(refined(&self.job, &course, self.quantized()?)?)?;
        forget_steps(&self.job)
    }

    /// The text to refine on, made on the first call.
    fn refinement_text(&self, text: Option<Vec<Vec<u32>>>) -> anyhow::Result<Vec<Vec<u32>>> {
        if let Some(sequences) = self.job.json(TEXT)? {
            return Ok(sequences);
        }
        let sequences = if let Some(text) = text {
            text
        } else {
            let count = self.options.refine_steps * SEQUENCES_PER_STEP;
            let share = self.share(count);
            let mut model = Layered::original(self.checkpoint)?.keeping(share.layers);
            let bar = progress(count as u64, "Sampling", "sequences");
            let seeds = text::seeds(self.options.seed ^ REFINEMENT, count);
            let sequences = text::sample(&mut model, &seeds, share.sequences, |done| bar.inc(done))?;
            bar.finish_and_clear();
            sequences
        };
        self.job.write(TEXT, &serde_json::to_vec(&sequences)?)?;
        Ok(sequences)
    }

    /// All tensors as quantization left them.
    fn quantized(&self) -> anyhow::Result<Tensors> {
        let (checkpoint, job) = (self.checkpoint, &self.job);
        let mut tensors = Tensors::default();
        for Part { name, .. } in Part::all(checkpoint).into_iter().filter(|part| part.matrix().is_none()) {
            let vector = checkpoint.vector(&name)?;
            tensors.vectors.insert(name, vector);
        }
        for name in self.vocabulary_names() {
            tensors.matrices.append(&mut quantized_vocabulary(checkpoint, job, name)?.tensors.matrices);
        }
        for layer in 0..checkpoint.config().num_hidden_layers {
            let Tensors { matrices, vectors } = quantized_layer(checkpoint, job, layer)?.tensors;
            tensors.matrices.extend(matrices.into_iter().map(|(name, m)| (layer_name(layer, &name), m)));
            tensors.vectors.extend(vectors.into_iter().map(|(name, v)| (layer_name(layer, &name), v)));
        }
        Ok(tensors)
    }

    /// Stores the refined units; their records are those of quantization.
    fn store(&self, mut refined: Tensors) -> anyhow::Result<()> {
        let (checkpoint, job) = (self.checkpoint, &self.job);
        for layer in 0..checkpoint.config().num_hidden_layers {
            let prefix = layer_name(layer, "");
            let unit = Unit {
                tensors: Tensors {
                    matrices: take(&mut refined.matrices, &prefix),
                    vectors: take(&mut refined.vectors, &prefix),
                },
                records: quantized_layer(checkpoint, job, layer)?.records,
            };
            job.store(&refined_name(&unit_name(layer)), &unit)?;
        }
        let mut unit = Unit { tensors: refined, ..Unit::default() };
        for name in self.vocabulary_names() {
            unit.records.append(&mut quantized_vocabulary(checkpoint, job, name)?.records);
        }
        job.store(REFINED, &unit)
    }

    fn vocabulary_names(&self) -> &'static [&'static str] {
        if self.checkpoint.config().tie_word_embeddings { &[EMBEDDING] } else { &[EMBEDDING, HEAD] }
    }
}

/// All tensors of a checkpoint.
pub(super) fn original(
    layout: &dyn Layout,
    matrix: impl Fn(&str) -> Result<Array2<f32>, CheckpointError>,
    vector: impl Fn(&str) -> Result<Vec<f32>, CheckpointError>,
) -> anyhow::Result<Tensors> {
    let mut tensors = Tensors::default();
    for Part { name, shape, .. } in Part::all(layout) {
        if shape.len() == 2 {
            tensors.matrices.insert(name.clone(), dense(matrix(&name)?)?);
        } else {
            tensors.vectors.insert(name.clone(), vector(&name)?);
        }
    }
    Ok(tensors)
}

/// What the whole model `tensors` becomes by `course`. Goes on from the steps that the work folder has.
///
/// # Errors
/// If the user stopped it, and as [`refine_model`].
pub(super) fn refined(job: &Job, course: &Course, tensors: Tensors) -> anyhow::Result<Tensors> {
    let began = Instant::now();
    let bar = progress(course.steps as u64, "Refining", "steps");
    let of = match course.architecture {
        Architecture::Decoder(_) => "KL",
        Architecture::Encoder(_) => "1 - cosine",
    };
    let saved = job.read(STATE)?;
    let result = refine_model(
        course,
        tensors,
        saved.as_deref(),
        |state| job.write(STATE, state),
        |step| {
            tracing::debug!(steps = step.steps, distance = step.distance, "refined");
            bar.set_position(step.steps as u64);
            bar.set_message(format!("{of} {:.4}", step.distance));
            if STOP.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    bar.finish_and_clear();
    job.spend(|times| &mut times.refinement, began)?;
    match result {
        Err(error) if error.is::<Stopped>() => {
            let folder = job.folder().display();
            Err(error.context(format!("what is done is kept in `{folder}`")))
                .hint(|| "run the same command again to go on".to_owned())
        }
        result => result,
    }
}

/// Removes the steps from the work folder, once what they came to is stored.
pub(super) fn forget_steps(job: &Job) -> anyhow::Result<()> {
    if job.read(STATE)?.is_some() {
        job.remove(STATE)?;
    }
    Ok(())
}

/// Takes what has a name that begins with `prefix` out of `all`, under the rest of its name.
fn take<T>(all: &mut BTreeMap<String, T>, prefix: &str) -> BTreeMap<String, T> {
    let taken = all.extract_if(.., |name, _| name.starts_with(prefix));
    taken.map(|(name, value)| (name[prefix.len()..].to_owned(), value)).collect()
}
