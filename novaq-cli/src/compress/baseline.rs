//! GPTQ on uniform grids, run over a whole model as the additive codes are: what the benchmarks compare with.

use std::collections::BTreeMap;

use novaq_engine::codec::Matrix;
use novaq_engine::model::CachePrecision;

use super::matrices::DAMPING;
use super::plan::EMBEDDING;
use crate::checkpoint::{Checkpoint, dense, layer_name};
use crate::layered::{LAYER_INPUTS, Layered, Replaced, Streams, Vectors, embedding, layer, vocabulary};
use crate::quantize::hessian::{damped, mean_product};
use crate::quantize::scalar;

/// The model of `checkpoint` with `tokens` as embedding and with the layers' matrices on grids of `bits` bits per row and `group`
/// columns, layer by layer on `sequences`. It takes `bits + 32 / group` bits per weight.
///
/// # Errors
/// If a tensor can't be read, or the activations are not numbers.
pub fn gptq<'a>(
    checkpoint: &'a Checkpoint,
    sequences: &[Vec<u32>],
    tokens: &Matrix,
    bits: u32,
    group: usize,
) -> anyhow::Result<Layered<'a>> {
    let replaced = BTreeMap::from([(EMBEDDING.to_owned(), tokens.clone())]);
    let mut streams = Streams::embed(sequences, &embedding(checkpoint, &replaced)?)?;
    let mut layers = Vec::new();
    for index in 0..checkpoint.config().num_hidden_layers {
        let of_layer = |done: &Replaced| layer(checkpoint, index, done, Vectors::Rounded);
        let mut done = BTreeMap::new();
        for (names, input) in Checkpoint::LAYER_MATRICES.iter().zip(LAYER_INPUTS) {
            let inputs = streams.capture(&of_layer(&done)?, input)?.inputs;
            let h = damped(mean_product(inputs.view(), inputs.view()), DAMPING);
            for &name in *names {
                let weights = checkpoint.matrix(&layer_name(index, name))?;
                let quantized = scalar::gptq(weights.view(), h.view(), bits, group)?;
                done.insert(name.to_owned(), dense(quantized)?);
            }
        }
        let model = of_layer(&done)?;
        streams.advance(&model, CachePrecision::F32)?;
        layers.push(model);
    }
    let last = vocabulary(checkpoint, &replaced, Vectors::Rounded)?;
    Ok(Layered::new(last, move |index| Ok(layers[index].clone())))
}
