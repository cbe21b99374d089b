//! The whole model against the original's predictions.

use std::ops::ControlFlow;

use anyhow::Context;
use candle_core::{D, Tensor};
use novaq_engine::model::Config;
use rayon::prelude::*;

use super::forward::{Forward, Outputs, Weights};
use super::student::{Loss, Student, floats};
use super::{PARTS, SEQUENCES_PER_PART, SEQUENCES_PER_STEP, device, rates};
use crate::layered::Tensors;

/// What the mean over layers of one minus the cosine of the hidden states counts beside the divergence.
const COSINE: f64 = 0.1;

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
    /// Mean divergence of the last step, in nats per token, before it was taken.
    pub(crate) divergence: f64,
}

/// What a model learns, and from what.
pub(crate) struct Course<'a> {
    pub(crate) config: &'a Config,
    /// The teacher's tensors.
    pub(crate) original: &'a Tensors,
    /// Gone through in their order, again and again.
    pub(crate) sequences: &'a [Vec<u32>],
    pub(crate) steps: usize,
}

/// Moves `tensors` towards predicting what the original of `course` predicts. Goes on from `saved`; what a later call
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
    let &Course { config, original, sequences, steps } = course;
    let device = device()?;
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let forward = Forward::new(config, longest, &device)?;
    let teacher = floats(original, &device)?;
    let mut student = Student::new(tensors, &device);
    if let Some(saved) = saved {
        student.restore(saved).context("the saved refinement is damaged")?;
    }
    while !sequences.is_empty() && student.steps() < steps {
        let first = student.steps() * SEQUENCES_PER_STEP;
        let divergence = student.step(rates(student.steps(), steps), PARTS, |weights, part| {
            let at = first + part * SEQUENCES_PER_PART;
            let part: Vec<&[u32]> =
                (at..at + SEQUENCES_PER_PART).map(|i| &sequences[i % sequences.len()][..]).collect();
            loss(&forward, &teacher, weights, &part)
        })?;
        let stop = each(Step { steps: student.steps(), divergence }).is_break();
        if stop || student.steps().is_multiple_of(SAVE_EVERY) {
            save(&student.save()?)?;
        }
        if stop {
            return Err(Stopped { steps: student.steps() }.into());
        }
    }
    student.finish()
}

/// The loss of the student's `weights` on `sequences`.
fn loss(
    forward: &Forward,
    teacher: &Weights,
    weights: &Weights,
    sequences: &[&[u32]],
) -> candle_core::Result<Loss> {
    let reference = forward.model(teacher, sequences)?;
    let Outputs { hidden, logits } = forward.model(weights, sequences)?;
    let (value, gradient) = divergence(&reference.logits, &logits.detach())?;
    // Its gradient with respect to the logits is `gradient`.
    let mut tensor = (&logits * &gradient)?.sum_all()?;
    let weight = COSINE / hidden.len().max(1) as f64;
    for (t, s) in reference.hidden.iter().zip(&hidden) {
        let product = (t * s)?.sum(D::Minus1)?;
        let norms = (t.sqr()?.sum(D::Minus1)? * s.sqr()?.sum(D::Minus1)?)?;
        let cosine = product.div(&(norms + f64::from(f32::MIN_POSITIVE))?.sqrt()?)?;
        tensor = (tensor - (cosine.sum_all()? * weight)?)?;
    }
    Ok(Loss { tensor, value, positions: logits.dim(0)? })
}

/// The sum over positions of the Kullback-Leibler divergence of the student's distribution from the teacher's, in nats,
/// and its gradient with respect to the student's logits, `q - p`. Both take logits `[positions, vocab_size]`.
fn divergence(teacher: &Tensor, student: &Tensor) -> candle_core::Result<(f64, Tensor)> {
    let vocab_size = student.dim(D::Minus1)?;
    let reference = teacher.flatten_all()?.to_vec1::<f32>()?;
    let mut gradient = student.flatten_all()?.to_vec1::<f32>()?;
    let rows = gradient.par_chunks_mut(vocab_size).zip(reference.par_chunks(vocab_size));
    let sums: Vec<f64> = rows
        .map(|(student, teacher)| {
            let (q, p) = (normaliser(student), normaliser(teacher));
            let mut sum = 0.0;
            for (s, t) in student.iter_mut().zip(teacher) {
                let (log_p, log_q) = (t - p, *s - q);
                let p = log_p.exp();
                sum += f64::from(p * (log_p - log_q));
                *s = log_q.exp() - p;
            }
            sum
        })
        .collect();
    Ok((sums.iter().sum(), Tensor::from_vec(gradient, student.shape(), student.device())?))
}

/// The logarithm of the sum of the exponentials.
fn normaliser(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + logits.iter().map(|x| (x - max).exp()).sum::<f32>().ln()
}
