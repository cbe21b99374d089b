//! The reference implementation: what each kernel means.

use super::{CODEBOOK_ENTRIES, INT4_GROUP, ROUNDING, TileShape, VECTOR_ROWS};

/// See [`super::Backend::dot_f32`].
#[inline(always)]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a8, a_tail) = a.as_chunks::<8>();
    let (b8, b_tail) = b.as_chunks::<8>();
    for (x, y) in a8.iter().zip(b8) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[lane] += x * y;
    }
    joined(lanes)
}

/// See [`super::Backend::dots_f32`].
#[inline(always)]
pub(super) fn dots_f32<const A: usize, const B: usize>(a: [&[f32]; A], b: [&[f32]; B]) -> [[f32; B]; A] {
    a.map(|a| b.map(|b| dot_f32(a, b)))
}

/// The sum of eight lanes.
#[inline(always)]
pub(super) fn joined([l0, l1, l2, l3, l4, l5, l6, l7]: [f32; 8]) -> f32 {
    ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
}

/// See [`super::Backend::dot_i8_i16`].
#[inline(always)]
pub(super) fn dot_i8_i16(weights: &[i8], input: &[i16]) -> i32 {
    weights.iter().zip(input).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum()
}

/// See [`super::Backend::dot_i4_i16`].
#[inline(always)]
pub(super) fn dot_i4_i16(codes: &[u8], scales: &[f32], input: &[i16]) -> f32 {
    dot_of_groups(codes, scales, input, |codes, input| {
        let (low, high) = input.split_at(INT4_GROUP / 2);
        let products = codes.iter().zip(low).zip(high).map(|((&byte, &a), &b)| {
            (i32::from(byte & 15) - 8) * i32::from(a) + (i32::from(byte >> 4) - 8) * i32::from(b)
        });
        products.sum()
    })
}

/// The same with `group` for the sum of one group of columns.
#[inline(always)]
pub(super) fn dot_of_groups(
    codes: &[u8],
    scales: &[f32],
    input: &[i16],
    group: impl Fn(&[u8; INT4_GROUP / 2], &[i16; INT4_GROUP]) -> i32,
) -> f32 {
    let (inputs, tail) = input.as_chunks();
    let codes = codes.as_chunks().0;
    let mut sum = 0.0;
    for ((codes, scale), input) in codes.iter().zip(scales).zip(inputs) {
        sum += scale * group(codes, input) as f32;
    }
    if let (false, Some(codes), Some(scale)) = (tail.is_empty(), codes.last(), scales.last()) {
        let mut filled = [0; INT4_GROUP];
        filled[..tail.len()].copy_from_slice(tail);
        sum += scale * group(codes, &filled) as f32;
    }
    sum
}

/// See [`super::Backend::add_scaled_i8`].
#[inline(always)]
pub(super) fn add_scaled_i8(output: &mut [f32], factor: f32, values: &[i8]) {
    for (o, &v) in output.iter_mut().zip(values) {
        *o += factor * f32::from(v);
    }
}

/// See [`super::Backend::group_sums`].
#[inline(always)]
pub(super) fn group_sums(pairs: &[i16], input: &[i16], raw: &mut [i32]) {
    let per_codebook = CODEBOOK_ENTRIES * input.len();
    for (codebook, sums) in pairs.chunks_exact(per_codebook).zip(raw.chunks_exact_mut(CODEBOOK_ENTRIES)) {
        sums.fill(0);
        for (pair, x) in codebook.chunks_exact(2 * CODEBOOK_ENTRIES).zip(input.chunks_exact(2)) {
            for (sum, c) in sums.iter_mut().zip(pair.chunks_exact(2)) {
                *sum += i32::from(c[0]) * i32::from(x[0]) + i32::from(c[1]) * i32::from(x[1]);
            }
        }
    }
}

/// See [`super::Backend::range16`].
#[inline(always)]
pub(super) fn range16(raw: &[i32; CODEBOOK_ENTRIES]) -> (i32, i32) {
    raw.iter().fold((i32::MAX, i32::MIN), |(low, high), &v| (low.min(v), high.max(v)))
}

/// See [`super::Backend::quantize16`].
#[inline(always)]
pub(super) fn quantize16(
    raw: &[i32; CODEBOOK_ENTRIES],
    center: i32,
    inverse_step: f32,
    table: &mut [i8; 16],
) {
    for (entry, &v) in table.iter_mut().zip(raw) {
        let scaled = (v - center) as f32 * inverse_step;
        *entry = ((scaled + ROUNDING).to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32) as i8;
    }
}

/// See [`super::Backend::tile`].
pub(super) fn tile(shape: TileShape, codes: &[u8], tables: &[i8], steps: &[f32], sums: &mut [f32]) {
    let TileShape { codebooks, vectors, block_groups, .. } = shape;
    sums.fill(0.0);
    let block_codes = codes.chunks(block_groups * codebooks * vectors * 16);
    let block_tables = tables.chunks(block_groups * codebooks * CODEBOOK_ENTRIES);
    for ((codes, tables), &step) in block_codes.zip(block_tables).zip(steps) {
        let mut block = [0i32; super::TILE_VECTORS * VECTOR_ROWS];
        for (codes, table) in codes.chunks_exact(vectors * 16).zip(tables.chunks_exact(CODEBOOK_ENTRIES)) {
            for (vector, codes) in codes.chunks_exact(16).enumerate() {
                for (lane, &byte) in codes.iter().enumerate() {
                    let row = vector * VECTOR_ROWS + lane;
                    block[row] += i32::from(table[usize::from(byte & 15)]);
                    block[row + 16] += i32::from(table[usize::from(byte >> 4)]);
                }
            }
        }
        for (sum, &value) in sums.iter_mut().zip(&block) {
            *sum += step * value as f32;
        }
    }
}
