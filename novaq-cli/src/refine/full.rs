//! The whole model against what the original makes of the same text.

use std::ops::ControlFlow;

use anyhow::Context;
use novaq_engine::model::Architecture;

use super::student::{Student, floats};
use super::{PARTS, device, network, rates, sequences_per_part};
use crate::layered::Tensors;

/// Steps after which what is done so far is saved.
const SAVE_EVERY: usize = 50;

/// The caller asked to stop; what was done is saved.
#[derive(Debug, thiserror::Error)]
#[error("stopped after {steps} steps of refinement")]
pub(crate) struct Stopped {
    /// Steps done.
    pub(crate) steps: usize,
}

/// What happens between two steps.
pub(crate) struct Step {
    /// Steps done.
    pub(crate) steps: usize,
    /// What the last step found, before it was taken: the mean divergence of a decoder in nats per token, one minus the mean
    /// cosine of an encoder's embeddings.
    pub(crate) distance: f64,
}

/// What a model learns, and from what.
pub(crate) struct Course<'a> {
    pub(crate) architecture: &'a Architecture,
    /// The teacher's tensors.
    pub(crate) original: &'a Tensors,
    /// Gone through in their order, again and again.
    pub(crate) sequences: &'a [Vec<u32>],
    pub(crate) steps: usize,
}

/// Moves `tensors` towards what the original of `course` makes of its sequences. Goes on from `saved`; what a later call
/// needs is given to `save` now and then, and when `each` breaks off.
///
/// # Errors
/// If the tensors are not those of the configuration's model, `saved` belongs to another one, `save` fails, or `each` broke
/// off ([`Stopped`]).
pub(crate) fn refine_model(
    course: &Course,
    tensors: Tensors,
    saved: Option<&[u8]>,
    save: impl Fn(&[u8]) -> anyhow::Result<()>,
    mut each: impl FnMut(Step) -> ControlFlow<()>,
) -> anyhow::Result<Tensors> {
    let &Course { architecture, original, sequences, steps } = course;
    let device = device()?;
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let network = network(architecture, longest, &device)?;
    let per_part = sequences_per_part(architecture);
    let teacher = floats(original, &device)?;
    let mut student = Student::new(tensors, &device, |name| network.trains(name))?;
    if let Some(saved) = saved {
        student.restore(saved).context("the saved refinement is damaged")?;
    }
    while !sequences.is_empty() && student.steps() < steps {
        let first = student.steps() * PARTS * per_part;
        let distance = student.step(rates(student.steps(), steps), PARTS, |weights, part| {
            let at = first + part * per_part;
            let part: Vec<&[u32]> =
                (at..at + per_part).map(|i| &sequences[i % sequences.len()][..]).collect();
            network.loss(&teacher, weights, &part)
        })?;
        let stop = each(Step { steps: student.steps(), distance }).is_break();
        if stop || student.steps().is_multiple_of(SAVE_EVERY) {
            save(&student.save()?)?;
        }
        if stop {
            return Err(Stopped { steps: student.steps() }.into());
        }
    }
    student.finish()
}
