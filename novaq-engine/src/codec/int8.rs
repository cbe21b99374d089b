//! 8-bit integers with a scale per row.

use super::{CodecError, check_length, check_weights, read_f16, to_f16};
use crate::kernel::{Backend, INT8_BLOCK_COLUMNS};

/// `W[r, c] = scale[r] · q[r, c]`, `q` in -127..=127.
#[derive(Clone, Debug)]
pub struct Int8Matrix {
    rows: usize,
    columns: usize,
    scales: Vec<f32>,
    values: Vec<i8>,
}

impl Int8Matrix {
    /// Bytes of the stored form: a 16-bit scale per row, then the weights row by row. `None` if that overflows.
    pub fn stored_bytes(rows: usize, columns: usize) -> Option<usize> {
        rows.checked_mul(columns)?.checked_add(rows.checked_mul(2)?)
    }

    /// Rounds `weights` (`[rows, columns]`) to the nearest multiples of each row's largest magnitude over 127.
    ///
    /// # Errors
    /// If the length is off or a weight is not finite.
    pub fn quantize(rows: usize, columns: usize, weights: &[f32]) -> Result<Self, CodecError> {
        check_weights(weights, rows, columns)?;
        let mut scales = Vec::with_capacity(rows);
        let mut values = Vec::with_capacity(weights.len());
        for row in weights.chunks_exact(columns) {
            let largest = row.iter().fold(0.0f32, |a, w| a.max(w.abs()));
            // The scale is rounded to its stored form first, so that the integers are the best for that scale.
            let scale = to_f16(largest / 127.0);
            scales.push(scale);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            values.extend(row.iter().map(|w| (w * inverse).round_ties_even().clamp(-127.0, 127.0) as i8));
        }
        Ok(Self { rows, columns, scales, values })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// If the length does not fit the shape or a scale is not finite.
    pub fn from_bytes(rows: usize, columns: usize, bytes: &[u8]) -> Result<Self, CodecError> {
        let expected = Self::stored_bytes(rows, columns);
        check_length("bytes of an int8 matrix", bytes.len(), (rows, columns), expected)?;
        let (scales, values) = bytes.split_at(2 * rows);
        let scales = read_f16(scales, "row scales of an int8 matrix")?;
        Ok(Self { rows, columns, scales, values: values.iter().map(|&b| b as i8).collect() })
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let scales = self.scales.iter().flat_map(|&s| half::f16::from_f32(s).to_le_bytes());
        scales.chain(self.values.iter().map(|&v| v as u8)).collect()
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn decode_row(&self, row: usize, output: &mut [f32]) {
        let scale = self.scales[row];
        for (o, &v) in output.iter_mut().zip(&self.values[row * self.columns..]) {
            *o = scale * f32::from(v);
        }
    }

    /// Blocks of columns are summed exactly, their sums added as floats in ascending order.
    pub(super) fn multiply(&self, backend: Backend, input: &[i16], input_scales: &[f32], output: &mut [f32]) {
        for (r, weights) in self.values.chunks_exact(self.columns).enumerate() {
            for (p, x) in input.chunks_exact(self.columns).enumerate() {
                let blocks = weights.chunks(INT8_BLOCK_COLUMNS).zip(x.chunks(INT8_BLOCK_COLUMNS));
                let sum = blocks.fold(0.0, |sum, (w, x)| sum + backend.dot_i8_i16(w, x) as f32);
                output[p * self.rows + r] = sum * (self.scales[r] * input_scales[p]);
            }
        }
    }
}
