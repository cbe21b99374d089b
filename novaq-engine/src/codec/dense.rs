//! 32-bit floats: the reference codec, and small tensors.

use super::{CodecError, check_length};
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
        check_length("values of a dense matrix", values.len(), (rows, columns), rows.checked_mul(columns))?;
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
        let (rows, columns) = (self.rows, self.columns);
        let vector = |p: usize| &input[p * columns..][..columns];
        let positions = input.len() / columns;
        let (whole_rows, whole_positions) = (rows / ROWS * ROWS, positions / POSITIONS * POSITIONS);
        for r in (0..whole_rows).step_by(ROWS) {
            let weights: [&[f32]; ROWS] = std::array::from_fn(|i| self.row(r + i));
            for p in (0..whole_positions).step_by(POSITIONS) {
                let products =
                    backend.dots_f32(weights, std::array::from_fn::<_, POSITIONS, _>(|i| vector(p + i)));
                for (i, products) in products.iter().enumerate() {
                    for (j, product) in products.iter().enumerate() {
                        output[(p + j) * rows + r + i] = *product;
                    }
                }
            }
            for p in whole_positions..positions {
                for (i, [product]) in backend.dots_f32(weights, [vector(p)]).into_iter().enumerate() {
                    output[p * rows + r + i] = product;
                }
            }
        }
        for r in whole_rows..rows {
            for p in 0..positions {
                output[p * rows + r] = backend.dot_f32(self.row(r), vector(p));
            }
        }
    }
}

/// Rows and positions whose products are computed together: eight sums keep the adders busy.
const ROWS: usize = 2;
const POSITIONS: usize = 4;
