//! 4-bit integers with a scale per group of 32 columns: the values of ggml's `Q4_0`.

use super::{CodecError, check_length, check_weights, finite, read_f16, to_f16};
use crate::kernel::{Backend, INT4_GROUP};

/// Bytes of the codes of a group.
const GROUP_BYTES: usize = INT4_GROUP / 2;

/// `W[r, c] = scale[r, c / 32] · q[r, c]`, `q` in -8..=7: 4.5 bits per weight.
#[derive(Clone, Debug)]
pub struct Int4Matrix {
    rows: usize,
    columns: usize,
    /// `[rows][groups]`.
    scales: Vec<f32>,
    /// `[rows][groups][16]`, `q + 8`: low nibbles for the first 16 columns of a group, high nibbles for the others. What is
    /// beyond the last column does not count.
    codes: Vec<u8>,
}

impl Int4Matrix {
    /// Bytes of the stored form: a 16-bit scale per group, row by row, then the codes. `None` if that overflows.
    pub fn stored_bytes(rows: usize, columns: usize) -> Option<usize> {
        rows.checked_mul(columns.div_ceil(INT4_GROUP))?.checked_mul(2 + GROUP_BYTES)
    }

    pub(super) fn heap_bytes(rows: usize, columns: usize) -> usize {
        rows * columns.div_ceil(INT4_GROUP) * (4 + GROUP_BYTES)
    }

    /// Rounds `weights` (`[rows, columns]`): of each group the weight of largest magnitude becomes -8.
    ///
    /// # Errors
    /// If the length is off, or a weight is not finite or beyond what scales of 16 bits reach.
    pub fn quantize(rows: usize, columns: usize, weights: &[f32]) -> Result<Self, CodecError> {
        check_weights(weights, rows, columns)?;
        let mut scales = Vec::with_capacity(rows * columns.div_ceil(INT4_GROUP));
        let mut codes = Vec::with_capacity(scales.capacity() * GROUP_BYTES);
        for group in weights.chunks_exact(columns).flat_map(|row| row.chunks(INT4_GROUP)) {
            let largest = group.iter().fold(0.0f32, |a, &w| if w.abs() > a.abs() { w } else { a });
            // The scale is rounded to its stored form first, so that the integers are the best for that scale.
            let scale = to_f16(largest / -8.0);
            scales.push(scale);
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let code = |column: usize| {
                let weight = group.get(column).copied().unwrap_or_default();
                ((weight * inverse).round_ties_even().clamp(-8.0, 7.0) + 8.0) as u8
            };
            codes.extend((0..GROUP_BYTES).map(|i| code(i) | code(i + GROUP_BYTES) << 4));
        }
        Ok(Self { rows, columns, scales: finite(scales, "group scales")?, codes })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// If the length does not fit the shape or a scale is not finite.
    pub fn from_bytes(rows: usize, columns: usize, bytes: &[u8]) -> Result<Self, CodecError> {
        let expected = Self::stored_bytes(rows, columns);
        check_length("bytes of an int4 matrix", bytes.len(), (rows, columns), expected)?;
        let (scales, codes) = bytes.split_at(2 * rows * columns.div_ceil(INT4_GROUP));
        let scales = read_f16(scales, "group scales of an int4 matrix")?;
        Ok(Self { rows, columns, scales, codes: codes.to_vec() })
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let scales = self.scales.iter().flat_map(|&s| half::f16::from_f32(s).to_le_bytes());
        scales.chain(self.codes.iter().copied()).collect()
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Codes and scales of each row.
    fn coded_rows(&self) -> impl Iterator<Item = (&[u8], &[f32])> {
        let groups = self.columns.div_ceil(INT4_GROUP);
        self.codes.chunks_exact(groups * GROUP_BYTES).zip(self.scales.chunks_exact(groups))
    }

    pub(super) fn decode_row(&self, row: usize, output: &mut [f32]) {
        let Some((codes, scales)) = self.coded_rows().nth(row) else { return };
        let groups = output.chunks_mut(INT4_GROUP).zip(codes.chunks_exact(GROUP_BYTES)).zip(scales);
        for ((output, codes), scale) in groups {
            let nibbles = codes.iter().map(|byte| byte & 15).chain(codes.iter().map(|byte| byte >> 4));
            for (o, nibble) in output.iter_mut().zip(nibbles) {
                *o = scale * (f32::from(nibble) - 8.0);
            }
        }
    }

    /// Groups are summed exactly, their sums added as floats in ascending order.
    pub(super) fn multiply(&self, backend: Backend, input: &[i16], input_scales: &[f32], output: &mut [f32]) {
        for (r, (codes, scales)) in self.coded_rows().enumerate() {
            for ((p, x), scale) in input.chunks_exact(self.columns).enumerate().zip(input_scales) {
                output[p * self.rows + r] = backend.dot_i4_i16(codes, scales, x) * scale;
            }
        }
    }
}
