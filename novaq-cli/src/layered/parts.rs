//! Parts of a checkpoint's model, with other matrices in place of its own where they are given.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::ensure;
use half::f16;
use novaq_engine::codec::{DenseMatrix, Matrix};
use novaq_engine::model::{Config, Model, ModelError, TensorSource};

use crate::checkpoint::{Checkpoint, CheckpointError, dense, layer_name};

/// Tensors that stand in for those of the checkpoint: of a layer by their name without its prefix, others by their name.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    /// In any codec.
    pub matrices: BTreeMap<String, Matrix>,
    /// Norms and biases.
    pub vectors: BTreeMap<String, Vec<f32>>,
}

/// The vector `name` rounded to 16-bit floats, as an artifact keeps it.
pub(crate) fn rounded_vector(name: &str, values: &[f32]) -> anyhow::Result<Vec<f32>> {
    let rounded: Vec<f32> = values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
    ensure!(rounded.iter().all(|v| v.is_finite()), "`{name}` left the range of 16-bit floats");
    Ok(rounded)
}

/// The precision of norms and biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// As the checkpoint has them.
    Exact,
    /// Rounded to the 16 bits that an artifact keeps.
    Rounded,
}

/// Layer `layer` alone. It is fed residual streams, so its vocabulary is a single token that nobody uses.
///
/// # Errors
/// If a tensor can't be read.
pub fn layer(
    checkpoint: &Checkpoint,
    layer: usize,
    replaced: &Tensors,
    vectors: Vectors,
) -> Result<Model, CheckpointError> {
    let prefix = layer_name(layer, "");
    let tensors = Source { checkpoint, prefix: &prefix, replaced, vectors, error: None };
    tensors.load(without_vocabulary(checkpoint), layer..layer + 1)
}

/// The last norm alone, as an artifact keeps it, before a head that nobody uses.
///
/// # Errors
/// If it can't be read.
pub fn norm(checkpoint: &Checkpoint) -> Result<Model, CheckpointError> {
    let (replaced, vectors) = (&Tensors::default(), Vectors::Rounded);
    // No tensor has a name that begins so: there is no matrix to read.
    let tensors = Source { checkpoint, prefix: "\0", replaced, vectors, error: None };
    tensors.load(without_vocabulary(checkpoint), 0..0)
}

/// The configuration with a vocabulary of a single token.
fn without_vocabulary(checkpoint: &Checkpoint) -> Config {
    Config {
        vocab_size: 1,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        ..checkpoint.config().clone()
    }
}

/// Embedding, last norm and head.
///
/// # Errors
/// If a tensor can't be read.
pub fn vocabulary(
    checkpoint: &Checkpoint,
    replaced: &Tensors,
    vectors: Vectors,
) -> Result<Model, CheckpointError> {
    let tensors = Source { checkpoint, prefix: "", replaced, vectors, error: None };
    tensors.load(checkpoint.config().clone(), 0..0)
}

/// The embedding, with no head of its own.
///
/// # Errors
/// If a tensor can't be read.
pub fn embedding(checkpoint: &Checkpoint, replaced: &Tensors) -> Result<Model, CheckpointError> {
    let config = Config { tie_word_embeddings: true, ..checkpoint.config().clone() };
    let tensors = Source { checkpoint, prefix: "", replaced, vectors: Vectors::Exact, error: None };
    tensors.load(config, 0..0)
}

/// Hands the tensors of a part to the engine. Its error type knows no files, so the real error is kept here.
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    /// What the names of its matrices begin with; others are those of a vocabulary that nobody uses.
    prefix: &'a str,
    replaced: &'a Tensors,
    vectors: Vectors,
    error: Option<CheckpointError>,
}

impl Source<'_> {
    fn load(mut self, config: Config, layers: Range<usize>) -> Result<Model, CheckpointError> {
        let model = Model::load_part(config, layers, &mut self);
        model.map_err(|error| self.error.take().unwrap_or(error.into()))
    }

    fn pass<T>(&mut self, result: Result<T, CheckpointError>) -> Option<T> {
        match result {
            Ok(tensor) => Some(tensor),
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }
}

impl TensorSource for Source<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let fail = |source| ModelError::Tensor { name: name.to_owned(), source };
        let Some(short) = name.strip_prefix(self.prefix) else {
            let width = self.checkpoint.config().hidden_size;
            return Ok(Some(Matrix::Dense(DenseMatrix::new(1, width, vec![0.0; width]).map_err(fail)?)));
        };
        if let Some(matrix) = self.replaced.matrices.get(short) {
            return Ok(Some(matrix.clone()));
        }
        let matrix = self.checkpoint.matrix(name);
        self.pass(matrix).map(|matrix| dense(matrix).map_err(fail)).transpose()
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let short = name.strip_prefix(self.prefix).unwrap_or(name);
        if let Some(vector) = self.replaced.vectors.get(short) {
            return Ok(Some(vector.clone()));
        }
        let vector = match self.vectors {
            Vectors::Exact => self.checkpoint.exact_vector(name),
            Vectors::Rounded => self.checkpoint.vector(name),
        };
        Ok(self.pass(vector))
    }
}
