//! 8-bit floats with a scale per row.
//!
//! E4M3: a sign, 4 bits of exponent with bias 7, 3 of mantissa, no infinities, magnitudes up to 448 (Micikevicius et al.,
//! 2022, <https://arxiv.org/abs/2209.05433>).

use super::{CodecError, check_length, check_weights, finite};
use crate::kernel::Backend;

/// Largest magnitude, and its code.
const LARGEST: f32 = 448.0;
const LARGEST_CODE: u32 = 0x7e;
/// Magnitudes from here on have an implicit leading one.
const SMALLEST_NORMAL: f32 = 1.0 / 64.0;
/// What the exponents of 32-bit floats are biased by more.
const BIAS: u32 = 127 - 7;

/// The values of all codes.
const VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let magnitude = code as u32 & 0x7f;
        let value = if magnitude < 8 {
            magnitude as f32 / 512.0
        } else {
            f32::from_bits((magnitude << 20) + (BIAS << 23))
        };
        values[code] = if code < 128 { value } else { -value };
        code += 1;
    }
    values
};

/// The code of the value nearest to `x`, the even one of two, and that of the largest beyond it.
fn encode(x: f32) -> u8 {
    let magnitude = x.abs();
    let code = if magnitude < SMALLEST_NORMAL {
        // 8 is the code of the smallest normal value.
        (magnitude * 512.0).round_ties_even() as u32
    } else {
        // Half of the last bit that is kept, less one where that bit is 0; a carry goes to the exponent.
        let bits = magnitude.to_bits();
        let rounded = (bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20;
        (rounded - (BIAS << 3)).min(LARGEST_CODE)
    };
    code as u8 | if x.is_sign_negative() { 0x80 } else { 0 }
}

/// `W[r, c] = scale[r] · value(code[r, c])`.
#[derive(Clone, Debug)]
pub struct Fp8Matrix {
    rows: usize,
    columns: usize,
    scales: Vec<f32>,
    codes: Vec<u8>,
}

impl Fp8Matrix {
    /// Bytes of the stored form: a 32-bit scale per row, then the codes row by row. `None` if that overflows.
    ///
    /// A scale is the row's largest weight over 448, which is too small for 16 bits to hold precisely.
    pub fn stored_bytes(rows: usize, columns: usize) -> Option<usize> {
        rows.checked_mul(columns.checked_add(4)?)
    }

    /// Rounds `weights` (`[rows, columns]`), scaled so that each row's largest magnitude is 448.
    ///
    /// # Errors
    /// If the length is off or a weight is not finite.
    pub fn quantize(rows: usize, columns: usize, weights: &[f32]) -> Result<Self, CodecError> {
        check_weights(weights, rows, columns)?;
        let mut scales = Vec::with_capacity(rows);
        let mut codes = Vec::with_capacity(weights.len());
        for row in weights.chunks_exact(columns) {
            let largest = row.iter().fold(0.0f32, |a, w| a.max(w.abs()));
            let inverse = LARGEST / largest;
            // Weights too small to be scaled up are zeros.
            let is_scaled = inverse.is_finite();
            scales.push(if is_scaled { largest / LARGEST } else { 0.0 });
            codes.extend(row.iter().map(|w| if is_scaled { encode(w * inverse) } else { 0 }));
        }
        Ok(Self { rows, columns, scales, codes })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// If the length does not fit the shape, a scale is not finite, or a code is that of no number.
    pub fn from_bytes(rows: usize, columns: usize, bytes: &[u8]) -> Result<Self, CodecError> {
        let expected = Self::stored_bytes(rows, columns);
        check_length("bytes of an fp8 matrix", bytes.len(), (rows, columns), expected)?;
        let (scales, codes) = bytes.split_at(4 * rows);
        let scales = scales.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        if codes.iter().any(|code| u32::from(code & 0x7f) > LARGEST_CODE) {
            return Err(CodecError::NotFinite("codes of an fp8 matrix"));
        }
        let scales = finite(scales, "row scales of an fp8 matrix")?;
        Ok(Self { rows, columns, scales, codes: codes.to_vec() })
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.scales.iter().flat_map(|s| s.to_le_bytes()).chain(self.codes.iter().copied()).collect()
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
        for (o, &code) in output.iter_mut().zip(&self.codes[row * self.columns..]) {
            *o = scale * VALUES[usize::from(code)];
        }
    }

    /// The values of a row are widened once for the whole batch; products are those of 32-bit floats.
    pub(super) fn multiply(&self, backend: Backend, input: &[f32], output: &mut [f32]) {
        let mut values = vec![0.0; self.columns];
        for (r, (codes, scale)) in self.codes.chunks_exact(self.columns).zip(&self.scales).enumerate() {
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = VALUES[usize::from(code)];
            }
            for (x, y) in input.chunks_exact(self.columns).zip(output.chunks_exact_mut(self.rows)) {
                y[r] = backend.dot_f32(&values, x) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{VALUES, encode};

    /// The codes of finite numbers, by the definition of the format.
    fn definition(code: u8) -> f64 {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
        let magnitude = if exponent == 0 {
            2f64.powi(-6) * mantissa / 8.0
        } else {
            2f64.powi(exponent - 7) * (1.0 + mantissa / 8.0)
        };
        if code < 128 { magnitude } else { -magnitude }
    }

    #[test]
    fn values_are_those_of_the_format() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(
                f64::from(VALUES[usize::from(code)]).to_bits(),
                definition(code).to_bits(),
                "{code:#x}"
            );
            assert_eq!(encode(VALUES[usize::from(code)]), code);
        }
    }

    #[test]
    fn numbers_go_to_the_nearest_value() {
        let codes: Vec<u8> = (0..0x7f).collect();
        for pair in codes.windows(2) {
            let [low, high] = [definition(pair[0]), definition(pair[1])];
            let middle = f64::midpoint(low, high) as f32;
            let even = if pair[0].is_multiple_of(2) { pair[0] } else { pair[1] };
            assert_eq!(encode(middle), even, "{middle}");
            assert_eq!(
                (encode(middle.next_down()), encode(middle.next_up())),
                (pair[0], pair[1]),
                "{middle}"
            );
            assert_eq!(encode(-middle), even | 0x80);
        }
        assert_eq!((encode(1e9), encode(-460.0), encode(1e-30), encode(-0.0)), (0x7e, 0xfe, 0, 0x80));
    }
}
