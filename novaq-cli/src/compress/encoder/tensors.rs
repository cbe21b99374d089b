//! The tensors of an encoder that is compressed in part.

use novaq_engine::codec::Matrix;
use novaq_engine::model::{ModelError, TensorSource};

use super::super::job::Unit;
use crate::checkpoint::{CheckpointError, EncoderCheckpoint, dense};

/// What a unit has, and the rest from the checkpoint.
pub(super) struct Tensors<'a> {
    checkpoint: &'a EncoderCheckpoint,
    unit: &'a Unit,
    /// What the names of the unit lack.
    prefix: &'a str,
    /// The engine's error type knows no files, so the real error is kept here.
    error: Option<CheckpointError>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(checkpoint: &'a EncoderCheckpoint, unit: &'a Unit, prefix: &'a str) -> Self {
        Self { checkpoint, unit, prefix, error: None }
    }

    /// What `make` makes of the tensors.
    pub(super) fn make<T>(
        mut self,
        make: impl FnOnce(&mut dyn TensorSource) -> Result<T, ModelError>,
    ) -> Result<T, CheckpointError> {
        make(&mut self).map_err(|e| self.error.take().unwrap_or(e.into()))
    }

    /// The name of a tensor in the unit.
    fn short<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.prefix).unwrap_or(name)
    }
}

impl TensorSource for Tensors<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        if let Some(matrix) = self.unit.tensors.matrices.get(self.short(name)) {
            return Ok(Some(matrix.clone()));
        }
        let fail = |source| ModelError::Tensor { name: name.to_owned(), source };
        let matrix = self.checkpoint.matrix(name).map_err(|error| self.error = Some(error)).ok();
        matrix.map(|matrix| dense(matrix).map_err(fail)).transpose()
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        if let Some(vector) = self.unit.tensors.vectors.get(self.short(name)) {
            return Ok(Some(vector.clone()));
        }
        Ok(self.checkpoint.vector(name).map_err(|error| self.error = Some(error)).ok())
    }
}
