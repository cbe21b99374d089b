//! One row of a stored tensor, from the bytes that it needs: a look at a model that is too large to be loaded.

use super::loader::{read_codebooks, read_range, tensor_error};
use super::manifest::{Codec, Manifest, TensorEntry};
use super::{ArtifactError, ShardSource};
use crate::codec::{
    AqMatrix, Codebooks, CodecError, DenseMatrix, Fp8Matrix, Int4Matrix, Int8Matrix, LowRankMatrix, Matrix,
    finite, read_f16,
};
use crate::kernel::{INT4_GROUP, TILE_VECTORS, VECTOR_ROWS};
use std::ops::Range;

/// Most bytes that are read for a row. Codes of 128 rows stand together, so this is 128 rows of half a million 2-bit weights;
/// of a low-rank matrix the first factor is read whole.
pub const MAX_ROW_BYTES: u64 = 16 << 20;

/// Rows of additive codes that stand together.
const TILE_ROWS: usize = TILE_VECTORS * VECTOR_ROWS;

/// Reads row `row` of tensor `index` of a valid manifest as floats; a vector is its only row.
///
/// # Errors
/// If there is no such row, more than [`MAX_ROW_BYTES`] would be read for it, or its bytes can't be read or decoded.
pub fn decode_row(
    manifest: &Manifest,
    index: usize,
    row: usize,
    source: &dyn ShardSource,
) -> Result<Vec<f32>, ArtifactError> {
    let missing = || ArtifactError::field("tensors", format!("there is no row {row} of a tensor {index}"));
    let entry = manifest.tensors.get(index).ok_or_else(missing)?;
    let (rows, columns) = match entry.shape[..] {
        [rows, columns] => (rows, columns),
        [length] => (1, length),
        _ => return Err(missing()),
    };
    if row >= rows {
        return Err(missing());
    }
    let sets = entry.codec.codebook_sets().map(|name| read_codebooks(manifest, name, source));
    let sets = sets.map(|set| set.map(|(set, _)| set)).collect::<Result<Vec<_>, _>>()?;
    let fail = |e: CodecError| tensor_error(&entry.name, e);
    let read = |ranges: Vec<Range<usize>>| read_ranges(manifest, entry, &ranges, source);

    let (matrix, row) = match (&entry.codec, &sets[..]) {
        (Codec::F32, _) => {
            let bytes = read(vec![slab(0, 4 * columns, row, 1)])?;
            let values = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let values = finite(values, "values").map_err(fail)?;
            (DenseMatrix::new(1, columns, values).map(Matrix::Dense), 0)
        }
        (Codec::F16, _) => {
            let bytes = read(vec![slab(0, 2 * columns, row, 1)])?;
            let values = read_f16(&bytes, "values").map_err(fail)?;
            (DenseMatrix::new(1, columns, values).map(Matrix::Dense), 0)
        }
        (Codec::Int8, _) => {
            let bytes = read(vec![slab(0, 2, row, 1), slab(2 * rows, columns, row, 1)])?;
            (Int8Matrix::from_bytes(1, columns, &bytes).map(Matrix::Int8), 0)
        }
        (Codec::Fp8, _) => {
            let bytes = read(vec![slab(0, 4, row, 1), slab(4 * rows, columns, row, 1)])?;
            (Fp8Matrix::from_bytes(1, columns, &bytes).map(Matrix::Fp8), 0)
        }
        (Codec::Int4, _) => {
            let groups = columns.div_ceil(INT4_GROUP);
            let (scales, codes) = (2 * groups, INT4_GROUP / 2 * groups);
            let bytes = read(vec![slab(0, scales, row, 1), slab(scales * rows, codes, row, 1)])?;
            (Int4Matrix::from_bytes(1, columns, &bytes).map(Matrix::Int4), 0)
        }
        (Codec::Aq { row_means, .. }, [set]) => {
            let tile = Tile::of(row, rows);
            let bytes = read(tile.ranges(0, [rows, columns], set, *row_means))?;
            let matrix = AqMatrix::from_bytes(tile.rows, columns, set.clone(), *row_means, &bytes);
            (matrix.map(Matrix::Aq), row - tile.first)
        }
        (Codec::LowRank { rank, .. }, [first, second]) => {
            let whole = stored(*rank, columns, first);
            let tile = Tile::of(row, rows);
            let bytes = read(vec![slab(0, whole, 0, 1)])?;
            let first = AqMatrix::from_bytes(*rank, columns, first.clone(), false, &bytes).map_err(fail)?;
            let bytes = read(tile.ranges(whole, [rows, *rank], second, false))?;
            let second = AqMatrix::from_bytes(tile.rows, *rank, second.clone(), false, &bytes);
            let matrix = second.and_then(|second| LowRankMatrix::new(first, second));
            (matrix.map(Matrix::LowRank), row - tile.first)
        }
        (Codec::Aq { .. } | Codec::LowRank { .. }, _) => return Err(missing()),
    };
    let mut values = vec![0.0; columns];
    matrix.map_err(fail)?.decode_row(row, &mut values);
    finite(values, "a decoded row").map_err(fail)
}

/// Bytes of `count` rows from row `first` of a part of a section that begins at `base` and has `width` bytes a row.
fn slab(base: usize, width: usize, first: usize, count: usize) -> Range<usize> {
    base + first * width..base + (first + count) * width
}

/// Bytes of a whole matrix without means; the manifest was checked for an overflow.
fn stored(rows: usize, columns: usize, set: &Codebooks) -> usize {
    AqMatrix::stored_bytes(rows, columns, set, false).unwrap_or(usize::MAX)
}

/// The rows that stand together with a row.
struct Tile {
    first: usize,
    rows: usize,
}

impl Tile {
    fn of(row: usize, rows: usize) -> Self {
        let first = row / TILE_ROWS * TILE_ROWS;
        Self { first, rows: (rows - first).min(TILE_ROWS) }
    }

    /// Where its scales, means and codes are in a matrix `[rows, columns]` that begins at `base`: together the stored form of
    /// the matrix of its rows.
    fn ranges(
        &self,
        base: usize,
        [rows, columns]: [usize; 2],
        set: &Codebooks,
        row_means: bool,
    ) -> Vec<Range<usize>> {
        let codes = |rows: usize| stored(rows, columns, set) - 2 * rows;
        let heads = if row_means { 2 } else { 1 };
        let mut ranges: Vec<Range<usize>> =
            (0..heads).map(|head| slab(base + head * 2 * rows, 2, self.first, self.rows)).collect();
        let begin = base + heads * 2 * rows + codes(self.first);
        ranges.push(begin..begin + codes(self.rows));
        ranges
    }
}

/// The bytes of `ranges` of the tensor's section, one after the other.
fn read_ranges(
    manifest: &Manifest,
    entry: &TensorEntry,
    ranges: &[Range<usize>],
    source: &dyn ShardSource,
) -> Result<Vec<u8>, ArtifactError> {
    let length: usize = ranges.iter().map(ExactSizeIterator::len).sum();
    if length as u64 > MAX_ROW_BYTES {
        let reason = format!("a row takes {length} bytes to decode, at most {MAX_ROW_BYTES} are read");
        return Err(ArtifactError::field(format!("tensor `{}`", entry.name), reason));
    }
    let mut bytes = vec![0; length];
    let mut rest = &mut bytes[..];
    for range in ranges {
        let (now, later) = rest.split_at_mut(range.len());
        read_range(manifest, entry.section, range.start as u64, now, source)?;
        rest = later;
    }
    Ok(bytes)
}
