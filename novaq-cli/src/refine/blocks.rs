//! One layer against the original's residual stream.

use candle_core::{D, Tensor};
use novaq_engine::model::Architecture;

use super::student::{Loss, Student};
use super::{BLOCK_STEPS, PARTS, device, hidden_size, network, rates, sequences_per_part};
use crate::layered::Tensors;

/// What a layer reads and what it should give, for one sequence, each `[positions, hidden_size]`.
pub(crate) struct Example<'a> {
    /// The residual stream before the layer in the model quantized so far.
    pub(crate) input: &'a [f32],
    /// The residual stream after the layer in the original.
    pub(crate) target: &'a [f32],
}

/// Moves the `tensors` of layer `layer`, named without the layer's prefix, towards the outputs of `examples`: minimises the mean
/// over positions of `|y - ŷ|² / |y|²`, since the norm that reads the stream next takes its size out.
///
/// # Errors
/// If the tensors are not those of a layer of such a model.
pub(crate) fn refine_layer(
    architecture: &Architecture,
    layer: usize,
    tensors: Tensors,
    examples: &[Example],
) -> anyhow::Result<Tensors> {
    let device = device()?;
    let (width, per_part) = (hidden_size(architecture), sequences_per_part(architecture));
    let longest = examples.iter().map(|e| e.input.len() / width).max().unwrap_or(0);
    let network = network(architecture, longest, &device)?;
    let mut student = Student::new(tensors, &device, |_| true)?;
    while !examples.is_empty() && student.steps() < BLOCK_STEPS {
        let first = student.steps() * PARTS * per_part;
        student.step(rates(student.steps(), BLOCK_STEPS), PARTS, |weights, part| {
            let at = first + part * per_part;
            let examples: Vec<&Example> =
                (at..at + per_part).map(|i| &examples[i % examples.len()]).collect();
            let lengths: Vec<usize> = examples.iter().map(|e| e.input.len() / width).collect();
            let positions: usize = lengths.iter().sum();
            let join = |of: for<'e> fn(&'e Example) -> &'e [f32]| {
                let values: Vec<f32> = examples.iter().flat_map(|e| of(e)).copied().collect();
                Tensor::from_vec(values, (positions, width), &device)
            };
            let (x, y) = (join(|e| e.input)?, join(|e| e.target)?);
            let error = (network.layer(weights, "", layer, &x, &lengths)? - &y)?.sqr()?.sum(D::Minus1)?;
            let tensor = error.div(&(y.sqr()?.sum(D::Minus1)? + f64::from(f32::MIN_POSITIVE))?)?.sum_all()?;
            let value = f64::from(tensor.to_scalar::<f32>()?);
            Ok(Loss { tensor, value, count: positions })
        })?;
    }
    student.finish()
}
