//! Low-rank matrices: a product of two matrices in codes, `W = second · first`, for one bit per weight and below.
//!
//! `first` `[rank, columns]` maps the inputs to `rank` numbers, `second` `[rows, rank]` maps those to the outputs; each
//! has its own row scales. With the codebook of all signs of four weights ([`Codebooks::signs`]) both factors are binary
//! and a nibble names four signs: scale · ±1 · scale · ±1, the form of `OneBit` and `LittleBit`
//! (<https://arxiv.org/abs/2402.11295>, <https://arxiv.org/abs/2506.13771>). Codebooks that were fitted do better at the
//! same size.

use std::sync::Arc;

use super::{AqMatrix, Codebooks, CodecError, Input};
use crate::kernel::{Backend, Packing};

/// `W[r, c] = Σ_j second[r, j] · first[j, c]`.
#[derive(Clone, Debug)]
pub struct LowRankMatrix {
    first: AqMatrix,
    second: AqMatrix,
}

impl LowRankMatrix {
    /// The product of `second [rows, rank]` and `first [rank, columns]`.
    ///
    /// # Errors
    /// If `first` has another number of rows than `second` has columns.
    pub fn new(first: AqMatrix, second: AqMatrix) -> Result<Self, CodecError> {
        if first.rows() != second.columns() {
            let expected = format!("{}, the columns of the second", second.columns());
            return Err(CodecError::shape("rows of the first factor", first.rows(), expected));
        }
        Ok(Self { first, second })
    }

    /// The factor that is applied first, `[rank, columns]`.
    pub fn first(&self) -> &AqMatrix {
        &self.first
    }

    /// The factor that is applied to what the first one gives, `[rows, rank]`.
    pub fn second(&self) -> &AqMatrix {
        &self.second
    }

    /// The same matrix with its codes packed in another way.
    #[must_use]
    pub fn packed(self, packing: Packing) -> Self {
        Self { first: self.first.packed(packing), second: self.second.packed(packing) }
    }

    /// The inner dimension.
    pub fn rank(&self) -> usize {
        self.first.rows()
    }

    /// The stored form: the first factor's, then the second's.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.first.to_bytes(), self.second.to_bytes()].concat()
    }

    /// Reads the stored form of a matrix of shape `[rows, rank, columns]`; `codebooks` are the factors' sets.
    ///
    /// # Errors
    /// If the length does not fit the shape or a scale is not finite.
    pub fn from_bytes(
        [rows, rank, columns]: [usize; 3],
        codebooks: [Arc<Codebooks>; 2],
        bytes: &[u8],
    ) -> Result<Self, CodecError> {
        let [of_first, of_second] = codebooks;
        let split = AqMatrix::stored_bytes(rank, columns, &of_first, false);
        let Some((first, second)) = split.and_then(|at| bytes.split_at_checked(at)) else {
            return Err(CodecError::shape(
                "bytes of a low-rank matrix",
                bytes.len(),
                format!("{split:?} or more"),
            ));
        };
        Self::new(
            AqMatrix::from_bytes(rank, columns, of_first, false, first)?,
            AqMatrix::from_bytes(rows, rank, of_second, false, second)?,
        )
    }

    pub(super) fn decode_row(&self, row: usize, output: &mut [f32]) {
        let mut coefficients = vec![0.0; self.rank()];
        self.second.decode_row(row, &mut coefficients);
        let mut part = vec![0.0; output.len()];
        output.fill(0.0);
        for (j, coefficient) in coefficients.iter().enumerate() {
            self.first.decode_row(j, &mut part);
            output.iter_mut().zip(&part).for_each(|(o, p)| *o += coefficient * p);
        }
    }

    pub(super) fn multiply(&self, backend: Backend, input: &mut Input, output: &mut [f32]) {
        let mut inner = input.inner.take().unwrap_or_default();
        let between = inner.reset(input.positions, self.rank());
        self.first.multiply(backend, input, between);
        self.second.prepare(backend, &mut inner);
        self.second.multiply(backend, &inner, output);
        input.inner = Some(inner);
    }
}
