//! Weight matrices in their stored forms, and their product with batches of vectors.

mod aq;
mod dense;
mod form;
mod fp8;
mod int4;
mod int8;
mod low_rank;

pub use aq::{AqMatrix, Codebooks};
pub use dense::DenseMatrix;
pub use form::MatrixForm;
pub use fp8::Fp8Matrix;
pub use int4::Int4Matrix;
pub use int8::Int8Matrix;
pub use low_rank::LowRankMatrix;

use crate::kernel::Backend;
use std::sync::Arc;

/// Why bytes or numbers don't make a matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A dimension is zero, too large, or not what the codec can store.
    #[error("{what} is {got}, expected {expected}")]
    Shape {
        /// The quantity that is off.
        what: &'static str,
        /// Its value.
        got: usize,
        /// What it had to be.
        expected: String,
    },
    /// A stored float is a NaN or an infinity.
    #[error("{0} holds a value that is not finite")]
    NotFinite(&'static str),
}

impl CodecError {
    pub(crate) fn shape(what: &'static str, got: usize, expected: impl Into<String>) -> Self {
        Self::Shape { what, got, expected: expected.into() }
    }
}

/// A weight matrix `[rows, columns]`; a linear layer maps `columns` inputs to `rows` outputs.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// 32-bit floats (16-bit ones are widened when loaded).
    Dense(DenseMatrix),
    /// 8-bit integers with a scale per row.
    Int8(Int8Matrix),
    /// 4-bit integers with a scale per group of 32 columns.
    Int4(Int4Matrix),
    /// 8-bit floats with a scale per row.
    Fp8(Fp8Matrix),
    /// Sums of codewords from 16-entry codebooks.
    Aq(AqMatrix),
    /// A product of two such matrices.
    LowRank(LowRankMatrix),
}

impl Matrix {
    /// Number of outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense(m) => m.rows(),
            Self::Int8(m) => m.rows(),
            Self::Int4(m) => m.rows(),
            Self::Fp8(m) => m.rows(),
            Self::Aq(m) => m.rows(),
            Self::LowRank(m) => m.second().rows(),
        }
    }

    /// Number of inputs.
    pub fn columns(&self) -> usize {
        match self {
            Self::Dense(m) => m.columns(),
            Self::Int8(m) => m.columns(),
            Self::Int4(m) => m.columns(),
            Self::Fp8(m) => m.columns(),
            Self::Aq(m) => m.columns(),
            Self::LowRank(m) => m.first().columns(),
        }
    }

    /// Bytes that the matrix holds on the heap, a shared codebook set not counted.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Dense(m) => MatrixForm::F32.heap_bytes(m.rows(), m.columns()),
            Self::Int8(m) => MatrixForm::Int8.heap_bytes(m.rows(), m.columns()),
            Self::Int4(m) => MatrixForm::Int4.heap_bytes(m.rows(), m.columns()),
            Self::Fp8(m) => MatrixForm::Fp8.heap_bytes(m.rows(), m.columns()),
            Self::Aq(m) => m.heap_bytes(),
            Self::LowRank(m) => m.first().heap_bytes() + m.second().heap_bytes(),
        }
    }

    /// Writes row `row` as floats: an embedding. `output` has `columns` elements.
    ///
    /// # Panics
    /// If `row` or the length of `output` does not fit the matrix.
    pub fn decode_row(&self, row: usize, output: &mut [f32]) {
        assert!(row < self.rows() && output.len() == self.columns(), "row {row} of {} rows", self.rows());
        match self {
            Self::Dense(m) => output.copy_from_slice(m.row(row)),
            Self::Int8(m) => m.decode_row(row, output),
            Self::Int4(m) => m.decode_row(row, output),
            Self::Fp8(m) => m.decode_row(row, output),
            Self::Aq(m) => m.decode_row(row, output),
            Self::LowRank(m) => m.decode_row(row, output),
        }
    }

    /// The whole matrix as floats, row-major.
    pub fn decode(&self) -> Vec<f32> {
        let columns = self.columns();
        let mut out = vec![0.0; self.rows() * columns];
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            self.decode_row(row, out);
        }
        out
    }

    /// Estimated WebAssembly instructions of the product with one vector, tables included: the engine's unit of work.
    pub fn work(&self) -> u64 {
        match self {
            Self::Dense(_) => MatrixForm::F32.work(self.rows(), self.columns()),
            Self::Int8(_) => MatrixForm::Int8.work(self.rows(), self.columns()),
            Self::Int4(_) => MatrixForm::Int4.work(self.rows(), self.columns()),
            Self::Fp8(_) => MatrixForm::Fp8.work(self.rows(), self.columns()),
            Self::Aq(m) => m.work(),
            Self::LowRank(m) => m.first().work() + m.second().work(),
        }
    }

    /// Derives from `input` what products with this matrix need, as [`Self::multiply`] does where that was not done before.
    ///
    /// # Panics
    /// If the length of `input` doesn't fit the matrix.
    pub fn prepare(&self, backend: Backend, input: &mut Input) {
        assert_eq!(input.width, self.columns(), "inputs of a product");
        match self {
            Self::Dense(_) | Self::Fp8(_) => {}
            Self::Int4(_) | Self::Int8(_) => input.quantize(backend),
            Self::Aq(m) => m.prepare(backend, input),
            Self::LowRank(m) => m.first().prepare(backend, input),
        }
    }

    /// `output[p, r] = Σ_c W[r, c] · input[p, c]` for every position `p` of the batch.
    ///
    /// The result for one position does not depend on the others.
    ///
    /// # Panics
    /// If the lengths of `input` and `output` don't fit the matrix.
    pub fn multiply(&self, backend: Backend, input: &mut Input, output: &mut [f32]) {
        assert_eq!(output.len(), input.positions * self.rows(), "outputs of a product");
        self.prepare(backend, input);
        match self {
            Self::Dense(m) => m.multiply(backend, &input.values, output),
            Self::Fp8(m) => m.multiply(backend, &input.values, output),
            Self::Int4(m) => m.multiply(backend, &input.quantized, &input.scales, output),
            Self::Int8(m) => m.multiply(backend, &input.quantized, &input.scales, output),
            Self::Aq(m) => m.multiply(backend, input, output),
            Self::LowRank(m) => m.multiply(backend, input, output),
        }
    }
}

/// A batch of input vectors `[positions, width]` with the forms that the codecs derive from it, each made once.
///
/// Matrices that read the same input and share a codebook set (q, k, v; gate, up) share its tables.
#[derive(Debug, Default)]
pub struct Input {
    values: Vec<f32>,
    positions: usize,
    width: usize,
    quantized: Vec<i16>,
    scales: Vec<f32>,
    tables: Option<(Arc<Codebooks>, Vec<aq::Tables>)>,
    spare_tables: Vec<aq::Tables>,
    /// What a low-rank matrix has between its factors.
    inner: Option<Box<Input>>,
}

impl Input {
    /// Starts a new batch of `positions` vectors of `width` floats and returns its floats, to be filled in.
    pub fn reset(&mut self, positions: usize, width: usize) -> &mut [f32] {
        (self.positions, self.width) = (positions, width);
        self.quantized.clear();
        if let Some((_, tables)) = self.tables.take() {
            self.spare_tables = tables;
        }
        self.values.resize(positions * width, 0.0);
        &mut self.values
    }

    /// The batch's floats, `[positions, width]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    fn quantize(&mut self, backend: Backend) {
        if !self.quantized.is_empty() || self.values.is_empty() {
            return;
        }
        self.quantized.resize(self.values.len(), 0);
        self.scales.clear();
        for (x, q) in self.values.chunks_exact(self.width).zip(self.quantized.chunks_exact_mut(self.width)) {
            self.scales.push(backend.quantize(x, i16::MAX, q));
        }
    }

    /// The tables of `codebooks` for every position, built unless the last product used the same set.
    fn build_tables(&mut self, backend: Backend, codebooks: &Arc<Codebooks>) {
        let reusable = self.tables.as_ref().is_some_and(|(built, _)| Arc::ptr_eq(built, codebooks));
        if !reusable {
            let mut tables = match self.tables.take() {
                Some((_, tables)) => tables,
                None => std::mem::take(&mut self.spare_tables),
            };
            aq::Tables::build_all(&mut tables, backend, codebooks, &self.values, self.width);
            self.tables = Some((Arc::clone(codebooks), tables));
        }
    }
}

/// Fails unless `got` is the length of `what`, which a matrix of this shape has: `expected`, `None` if that overflows.
fn check_length(
    what: &'static str,
    got: usize,
    (rows, columns): (usize, usize),
    expected: Option<usize>,
) -> Result<(), CodecError> {
    if rows == 0 || columns == 0 || expected != Some(got) {
        return Err(CodecError::shape(what, got, format!("{rows} × {columns}")));
    }
    Ok(())
}

/// Fails unless `weights` are the finite weights of a matrix of this shape, to be quantized.
fn check_weights(weights: &[f32], rows: usize, columns: usize) -> Result<(), CodecError> {
    const WHAT: &str = "weights to quantize";
    check_length(WHAT, weights.len(), (rows, columns), rows.checked_mul(columns))?;
    if weights.iter().all(|w| w.is_finite()) { Ok(()) } else { Err(CodecError::NotFinite(WHAT)) }
}

/// Reads `count` little-endian 16-bit floats as 32-bit ones.
pub(crate) fn read_f16(bytes: &[u8], what: &'static str) -> Result<Vec<f32>, CodecError> {
    let values: Vec<f32> =
        bytes.as_chunks::<2>().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect();
    finite(values, what)
}

/// Passes `values` on if all are finite.
pub(crate) fn finite(values: Vec<f32>, what: &'static str) -> Result<Vec<f32>, CodecError> {
    if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(CodecError::NotFinite(what)) }
}

/// Rounds to the nearest 16-bit float.
pub(crate) fn to_f16(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}
