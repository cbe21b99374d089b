//! GPTQ on uniform grids, run over a whole model as the additive codes are: what the benchmarks compare with.

use std::collections::BTreeMap;

use novaq_engine::codec::Matrix;
use novaq_engine::model::Model;

use super::calibration::{LAYER_INPUTS, Streams, layer_model};
use super::matrices::DAMPING;
use super::{Compressed, EMBEDDING, HEAD};
use crate::checkpoint::{Checkpoint, dense, layer_name};
use crate::quantize::hessian::{damped, mean_product};
use crate::quantize::scalar;

/// The model of `checkpoint` with `embedding` and with the layers' matrices on grids of `bits` bits per row and `group`
/// columns, layer by layer on `sequences`. It takes `bits + 32 / group` bits per weight.
///
/// # Errors
/// If a tensor can't be read, or the activations are not numbers.
pub fn gptq(
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    embedding: &Matrix,
    bits: u32,
    group: usize,
) -> anyhow::Result<Model> {
    let mut streams = Streams::embed(checkpoint.config(), sequences, embedding);
    let mut matrices = BTreeMap::from([(EMBEDDING.to_owned(), embedding.clone())]);
    for layer in 0..checkpoint.config().num_hidden_layers {
        let mut done = BTreeMap::new();
        for (names, input) in Checkpoint::LAYER_MATRICES.iter().zip(LAYER_INPUTS) {
            let inputs = streams.capture(&layer_model(checkpoint, layer, &done)?, input)?.inputs;
            let h = damped(mean_product(inputs.view(), inputs.view()), DAMPING);
            for &name in *names {
                let weights = checkpoint.matrix(&layer_name(layer, name))?;
                let quantized = scalar::gptq(weights.view(), h.view(), bits, group)?;
                done.insert(name.to_owned(), dense(&quantized)?);
            }
        }
        streams.advance(&layer_model(checkpoint, layer, &done)?)?;
        matrices.extend(done.into_iter().map(|(name, matrix)| (layer_name(layer, &name), matrix)));
    }
    if !checkpoint.config().tie_word_embeddings {
        matrices.insert(HEAD.to_owned(), dense(&checkpoint.matrix(HEAD)?)?);
    }
    Ok(Model::load(checkpoint.config().clone(), &mut Compressed { checkpoint, matrices: &matrices })?)
}
