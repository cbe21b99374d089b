//! The third stage: [`crate::refine`] on the checkpoint, its text, and what the work folder keeps of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use novaq_engine::model::Config;

use super::STOP;
use super::job::Unit;
use super::plan::{EMBEDDING, HEAD, Part};
use super::quantization::{Run, quantized_layer, quantized_vocabulary, unit_name};
use crate::checkpoint::{dense, layer_name};
use crate::evaluate::text;
use crate::layered::{Layered, Streams, Tensors};
use crate::output::{HintExt, progress};
use crate::refine::{Course, Example, Refine, SEQUENCES_PER_STEP, Stopped, refine_layer, refine_model};

/// The unit with the refined embedding and head. It is stored last: once it is there, every unit is refined.
pub(super) const REFINED: &str = "refined-vocabulary";

/// The files with the text and with the steps done so far.
const TEXT: &str = "refinement-text.json";
const STATE: &str = "refinement.safetensors";

/// What a seed is changed by for the text of the refinement.
const REFINEMENT: u64 = 0x7265_6669_6e65_6d65;

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
        *tensors = refine_layer(self.checkpoint.config(), layer, std::mem::take(tensors), &examples)?;
        Ok(())
    }

    /// Refines the whole model, if that was asked for, on `text` or on what the original writes.
    pub(super) fn refine(&self, text: Option<Vec<Vec<u32>>>) -> anyhow::Result<()> {
        if self.options.refine < Refine::Full || self.job.has(REFINED) {
            return Ok(());
        }
        let sequences = self.refinement_text(text)?;
        let began = Instant::now();
        let config = self.checkpoint.config();
        let steps = self.options.refine_steps;
        let bar = progress(steps as u64, "Refining", "steps");
        let saved = self.job.read(STATE)?;
        let course = Course { config, original: &self.original()?, sequences: &sequences, steps };
        let result = refine_model(
            &course,
            self.quantized()?,
            saved.as_deref(),
            |state| self.job.write(STATE, state),
            |step| {
                bar.set_position(step.steps as u64);
                bar.set_message(format!("KL {:.4}", step.divergence));
                if STOP.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        bar.finish_and_clear();
        self.job.spend(|times| &mut times.refinement, began)?;
        let refined = match result {
            Err(error) if error.is::<Stopped>() => {
                let folder = self.job.folder().display();
                return Err(error.context(format!("what is done is kept in `{folder}`")))
                    .hint(|| "run the same command again to go on".to_owned());
            }
            result => result?,
        };
        self.store(refined)?;
        if self.job.read(STATE)?.is_some() {
            self.job.remove(STATE)?;
        }
        Ok(())
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
            let seed = self.options.seed ^ REFINEMENT;
            let sequences = text::sample(&mut model, count, seed, share.sequences, |done| bar.inc(done))?;
            bar.finish_and_clear();
            sequences
        };
        self.job.write(TEXT, &serde_json::to_vec(&sequences)?)?;
        Ok(sequences)
    }

    /// All tensors of the checkpoint.
    fn original(&self) -> anyhow::Result<Tensors> {
        let mut tensors = Tensors::default();
        for Part { name, shape, .. } in Part::all(self.checkpoint) {
            if shape.len() == 2 {
                tensors.matrices.insert(name.clone(), dense(self.checkpoint.matrix(&name)?)?);
            } else {
                tensors.vectors.insert(name.clone(), self.checkpoint.vector(&name)?);
            }
        }
        Ok(tensors)
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

/// Takes what has a name that begins with `prefix` out of `all`, under the rest of its name.
fn take<T>(all: &mut BTreeMap<String, T>, prefix: &str) -> BTreeMap<String, T> {
    let taken = all.extract_if(.., |name, _| name.starts_with(prefix));
    taken.map(|(name, value)| (name[prefix.len()..].to_owned(), value)).collect()
}
