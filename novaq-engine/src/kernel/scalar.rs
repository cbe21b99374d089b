//! The reference implementation: what each kernel means.

use super::{
    BlockRange, BlockScratch, CACHE_BLOCK, CODEBOOK_ENTRIES, ENTRY_ZERO, INT4_GROUP, Packing, TileShape,
    VECTOR_ROWS,
};

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

/// See [`super::Backend::key_products`].
#[inline(always)]
pub(super) fn key_products(count: usize, queries: &[i16], keys: &[i8], stride: usize, products: &mut [i32]) {
    let width = queries.len() / count;
    for (block, products) in products.chunks_exact_mut(count * CACHE_BLOCK).enumerate() {
        for (query, products) in queries.chunks_exact(width).zip(products.chunks_exact_mut(CACHE_BLOCK)) {
            let keys = keys[block * stride..][..CACHE_BLOCK * width].chunks_exact(4 * width);
            for (keys, products) in keys.zip(products.chunks_exact_mut(4)) {
                products.fill(0);
                for (keys, x) in keys.as_chunks::<8>().0.iter().zip(query.as_chunks::<2>().0) {
                    for (product, key) in products.iter_mut().zip(keys.as_chunks::<2>().0) {
                        *product += i32::from(key[0]) * i32::from(x[0]) + i32::from(key[1]) * i32::from(x[1]);
                    }
                }
            }
        }
    }
}

/// See [`super::Backend::value_sums`].
#[inline(always)]
pub(super) fn value_sums(count: usize, weights: &[i16], values: &[i8], stride: usize, sums: &mut [i32]) {
    let width = sums.len() / count;
    for (block, weights) in weights.chunks_exact(count * CACHE_BLOCK).enumerate() {
        let values = values[block * stride..][..CACHE_BLOCK * width].chunks_exact(4 * CACHE_BLOCK);
        for (values, sums) in values.zip(sums.chunks_exact_mut(4 * count)) {
            for (weights, sums) in weights.chunks_exact(CACHE_BLOCK).zip(sums.chunks_exact_mut(4)) {
                for (values, w) in values.as_chunks::<8>().0.iter().zip(weights.as_chunks::<2>().0) {
                    for (sum, value) in sums.iter_mut().zip(values.as_chunks::<2>().0) {
                        *sum += i32::from(value[0]) * i32::from(w[0]) + i32::from(value[1]) * i32::from(w[1]);
                    }
                }
            }
        }
    }
}

/// `a · b / 2¹⁵`, rounded, halves up.
#[inline(always)]
fn product(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b) + (1 << 14)) >> 15) as i16
}

/// See [`super::Backend::block_tables`].
#[inline(always)]
pub(super) fn block_tables(
    words: &[i16],
    dimension: usize,
    input: &[i16],
    scratch: &mut BlockScratch,
    entries: &mut [[u8; CODEBOOK_ENTRIES]],
    stride: usize,
) -> BlockRange {
    let BlockScratch { sums, centers } = scratch;
    let codebooks = words.chunks_exact(CODEBOOK_ENTRIES * dimension);
    let tables = input.chunks_exact(dimension).flat_map(|input| codebooks.clone().map(move |c| (input, c)));
    let (mut widest, mut total) = (0, 0);
    for (((input, codebook), sums), center) in tables.zip(&mut *sums).zip(&mut *centers) {
        sums.fill(0);
        for (words, &x) in codebook.as_chunks::<CODEBOOK_ENTRIES>().0.iter().zip(input) {
            for (sum, &word) in sums.iter_mut().zip(words) {
                *sum += product(word, x);
            }
        }
        let (low, high) = sums.iter().fold((i16::MAX, i16::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let (low, high) = (i32::from(low), i32::from(high));
        *center = (low + high + 1) >> 1;
        widest = widest.max(*center - low);
        total += *center;
    }
    let range = BlockRange::new(widest, total);
    for ((sums, &center), table) in sums.iter().zip(&*centers).zip(entries.iter_mut().step_by(stride)) {
        for (entry, &sum) in table.iter_mut().zip(sums) {
            *entry = (product(sum - center as i16, range.inverse) + ENTRY_ZERO as i16) as u8;
        }
    }
    range
}

/// The average of the entries in pairs, rounded up at each level; their number is a power of two.
fn average(entries: &mut [u8]) -> u8 {
    let mut left = entries.len();
    while left > 1 {
        left /= 2;
        for i in 0..left {
            entries[i] = (u16::from(entries[2 * i]) + u16::from(entries[2 * i + 1])).div_ceil(2) as u8;
        }
    }
    entries[0]
}

/// See [`super::Backend::tile`].
pub(super) fn tile(shape: TileShape, codes: &[u8], tables: &[u8], steps: &[f32], sums: &mut [f32]) {
    let TileShape { vectors, block_tables, positions, fold, packing, .. } = shape;
    let rows = vectors * VECTOR_ROWS;
    let tables = tables.as_chunks::<CODEBOOK_ENTRIES>().0;
    for (position, sums) in sums.chunks_exact_mut(rows).enumerate() {
        for (row, sum) in sums.iter_mut().enumerate() {
            let (vector, lane) = (row / VECTOR_ROWS, row % VECTOR_ROWS);
            let entry = |table: usize| {
                let codes = &codes[(table * vectors + vector) * packing.vector_bytes()..];
                let code = match packing {
                    Packing::Nibbles if lane < 16 => codes[lane] & 15,
                    Packing::Nibbles => codes[lane - 16] >> 4,
                    Packing::Bytes => codes[lane],
                };
                tables[table * positions + position][usize::from(code)]
            };
            for (index, steps) in steps.chunks_exact(positions).enumerate() {
                let block = index * block_tables..((index + 1) * block_tables).min(shape.tables);
                let whole = block.len() / fold.entries() * fold.entries();
                let mut value = 0;
                for first in block.clone().take(whole).step_by(fold.entries()) {
                    let mut entries = [0; 8];
                    let entries = &mut entries[..fold.entries()];
                    entries.iter_mut().zip(first..).for_each(|(e, table)| *e = entry(table));
                    value += fold.entries() as i32 * (i32::from(average(entries)) - ENTRY_ZERO);
                }
                for table in block.skip(whole) {
                    value += i32::from(entry(table)) - ENTRY_ZERO;
                }
                let scaled = steps[position] * value as f32;
                *sum = if index == 0 { scaled } else { *sum + scaled };
            }
        }
    }
}
