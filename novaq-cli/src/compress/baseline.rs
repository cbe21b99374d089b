//! Other ways to quantize, run over a whole model as the additive codes are: what the benchmarks compare with.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2, s};
use novaq_engine::codec::Matrix;
use novaq_engine::model::CachePrecision;

use super::matrices::{DAMPING, stacked};
use super::plan::EMBEDDING;
use crate::checkpoint::{Checkpoint, dense, layer_name};
use crate::layered::{LAYER_INPUTS, Layered, Streams, Tensors, Vectors, embedding, layer, vocabulary};
use crate::quantize::hessian::{damped, mean_product};
use crate::quantize::scalar;

/// How weights are put on a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Each to the nearest value.
    Nearest,
    /// Column by column, the rest making up for the errors so far.
    Gptq,
}

/// The model of `checkpoint` with `tokens` as embedding and with the layers' matrices on grids of `bits` bits per row and `group`
/// columns, layer by layer on `sequences`. It takes `bits + 32 / group` bits per weight.
///
/// # Errors
/// If a tensor can't be read, or the activations are not numbers.
pub fn on_grids<'a>(
    rounding: Rounding,
    checkpoint: &'a Checkpoint,
    sequences: &[Vec<u32>],
    tokens: &Matrix,
    bits: u32,
    group: usize,
) -> anyhow::Result<Layered<'a>> {
    in_floats(checkpoint, sequences, tokens, |w, h| {
        let h = match rounding {
            Rounding::Nearest => Array2::eye(w.ncols()),
            Rounding::Gptq => damped(h.to_owned(), DAMPING),
        };
        Ok(scalar::gptq(w, h.view(), bits, group)?)
    })
}

/// The model of `checkpoint` with `tokens` as embedding and with other layers' matrices, in 32-bit floats: `quantize`
/// makes them of those that read one input, one below the other, `[n, k]`, and of the second moments of that input in
/// the model quantized so far, `[k, k]`.
///
/// # Errors
/// If a tensor can't be read, or `quantize` fails.
pub fn in_floats<'a>(
    checkpoint: &'a Checkpoint,
    sequences: &[Vec<u32>],
    tokens: &Matrix,
    quantize: impl Fn(ArrayView2<f32>, ArrayView2<f32>) -> anyhow::Result<Array2<f32>>,
) -> anyhow::Result<Layered<'a>> {
    let matrices = BTreeMap::from([(EMBEDDING.to_owned(), tokens.clone())]);
    let replaced = Tensors { matrices, ..Tensors::default() };
    let mut streams = Streams::embed(sequences, &embedding(checkpoint, &replaced)?)?;
    let mut layers = Vec::new();
    for index in 0..checkpoint.config().num_hidden_layers {
        let of_layer = |done: &Tensors| layer(checkpoint, index, done, Vectors::Rounded);
        let mut done = Tensors::default();
        for (names, input) in Checkpoint::LAYER_MATRICES.iter().zip(LAYER_INPUTS) {
            let inputs = streams.capture(&of_layer(&done)?, input)?.inputs;
            let h = mean_product(inputs.view(), inputs.view());
            let weights = names.iter().map(|name| checkpoint.matrix(&layer_name(index, name)));
            let weights: Vec<Array2<f32>> = weights.collect::<Result<_, _>>()?;
            let quantized = quantize(stacked(&weights).view(), h.view())?;
            let mut first = 0;
            for (&name, rows) in names.iter().zip(weights.iter().map(Array2::nrows)) {
                let part = quantized.slice(s![first..first + rows, ..]);
                done.matrices.insert(name.to_owned(), dense(part.to_owned())?);
                first += rows;
            }
        }
        let model = of_layer(&done)?;
        streams.advance(&model, CachePrecision::F32)?;
        layers.push(model);
    }
    let last = vocabulary(checkpoint, &replaced, Vectors::Rounded)?;
    Ok(Layered::new(last, move |index| Ok(layers[index].clone())))
}
