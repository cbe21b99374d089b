//! 32-bit floats: the reference codec, and small tensors.

use super::CodecError;
use crate::kernel::Backend;

/// A matrix of 32-bit floats, row-major.
#[derive(Clone, Debug)]
pub struct DenseMatrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl DenseMatrix {
    /// Takes `values` (`[rows, columns]`, row-major).
    ///
    /// # Errors
    /// If a dimension is zero or `values` has another length.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Result<Self, CodecError> {
        if rows == 0 || columns == 0 || rows.checked_mul(columns) != Some(values.len()) {
            return Err(CodecError::shape(
                "values of a dense matrix",
                values.len(),
                format!("{rows} × {columns}"),
            ));
        }
        Ok(Self { rows, columns, values })
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    pub(super) fn multiply(&self, backend: Backend, input: &[f32], output: &mut [f32]) {
        for (r, weights) in self.values.chunks_exact(self.columns).enumerate() {
            for (x, y) in input.chunks_exact(self.columns).zip(output.chunks_exact_mut(self.rows)) {
                y[r] = backend.dot_f32(weights, x);
            }
        }
    }
}
