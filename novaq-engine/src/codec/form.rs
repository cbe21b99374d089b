//! What a matrix takes, from its codec and shape alone.

use super::{Fp8Matrix, Int4Matrix, Int8Matrix, aq};

/// How a matrix is kept, without its weights: bytes and work follow from it and the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixForm {
    /// 32-bit floats, in an artifact and in memory.
    F32,
    /// 16-bit floats in an artifact, widened to 32 bits in memory.
    F16,
    /// 8-bit integers with a scale per row.
    Int8,
    /// 4-bit integers with a scale per group of 32 columns.
    Int4,
    /// 8-bit floats with a scale per row.
    Fp8,
    /// Additive codes with a scale and no mean per row.
    Aq {
        /// Number of codebooks M.
        codebooks: usize,
        /// Weights per codeword d.
        dimension: usize,
    },
    /// A product of two matrices in additive codes.
    LowRank {
        /// Columns of the one, rows of the other.
        rank: usize,
        /// Number of codebooks M of both.
        codebooks: usize,
        /// Weights per codeword d of both.
        dimension: usize,
    },
}

impl MatrixForm {
    /// Bytes of the matrix's section in an artifact; a codebook set is a section of its own
    /// ([`Codebooks::stored_bytes`](super::Codebooks::stored_bytes)). `None` if that overflows.
    pub fn stored_bytes(self, rows: usize, columns: usize) -> Option<usize> {
        match self {
            Self::F32 => rows.checked_mul(columns)?.checked_mul(4),
            Self::F16 => rows.checked_mul(columns)?.checked_mul(2),
            Self::Int8 => Int8Matrix::stored_bytes(rows, columns),
            Self::Int4 => Int4Matrix::stored_bytes(rows, columns),
            Self::Fp8 => Fp8Matrix::stored_bytes(rows, columns),
            Self::Aq { codebooks, dimension } => {
                aq::tile_bytes(rows, columns, codebooks, dimension)?.checked_add(rows.checked_mul(2)?)
            }
            Self::LowRank { rank, codebooks, dimension } => {
                let factor = Self::Aq { codebooks, dimension };
                factor.stored_bytes(rank, columns)?.checked_add(factor.stored_bytes(rows, rank)?)
            }
        }
    }

    /// Bytes that the loaded matrix holds on the heap, as [`Matrix::heap_bytes`](super::Matrix::heap_bytes).
    pub fn heap_bytes(self, rows: usize, columns: usize) -> usize {
        match self {
            Self::F32 | Self::F16 => rows * columns * 4,
            Self::Int8 | Self::Fp8 => rows * (columns + 4),
            Self::Int4 => Int4Matrix::heap_bytes(rows, columns),
            Self::Aq { codebooks, dimension } => {
                aq::tile_bytes(rows, columns, codebooks, dimension).unwrap_or(usize::MAX) + 4 * rows
            }
            Self::LowRank { rank, codebooks, dimension } => {
                let factor = Self::Aq { codebooks, dimension };
                factor.heap_bytes(rank, columns) + factor.heap_bytes(rows, rank)
            }
        }
    }

    /// Estimated WebAssembly instructions of the product with one vector, as [`Matrix::work`](super::Matrix::work).
    pub fn work(self, rows: usize, columns: usize) -> u64 {
        let weights = (rows * columns) as u64;
        match self {
            Self::F32 | Self::F16 => weights * 5,
            Self::Int8 | Self::Int4 => weights * 5 / 2,
            // Each is looked up before.
            Self::Fp8 => weights * 9,
            Self::Aq { codebooks, dimension } => aq::work(rows, columns, codebooks, dimension),
            Self::LowRank { rank, codebooks, dimension } => {
                let factor = Self::Aq { codebooks, dimension };
                factor.work(rank, columns) + factor.work(rows, rank)
            }
        }
    }
}
