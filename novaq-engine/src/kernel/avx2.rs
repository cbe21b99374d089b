//! x86-64 AVX2. Float kernels are the reference compiled for wider registers: without fused multiply-add the
//! compiler may not change what they compute.

use super::{
    BlockRange, BlockScratch, CODEBOOK_ENTRIES, ENTRY_ZERO, Packing, TileShape, VECTOR_ROWS, lanes, scalar,
};
use crate::model::Activation;
use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_add_epi32, _mm_and_si128, _mm_cvtsi32_si128, _mm_cvtsi128_si32,
    _mm_extract_epi16, _mm_loadu_si128, _mm_max_epi16, _mm_min_epi16, _mm_minpos_epu16, _mm_packs_epi16,
    _mm_set1_epi8, _mm_set1_epi16, _mm_shuffle_epi32, _mm_srli_epi16, _mm_storeu_si128, _mm_xor_si128,
    _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_avg_epu8, _mm256_broadcastsi128_si256,
    _mm256_castsi256_si128, _mm256_cvtepi8_epi16, _mm256_cvtepi16_epi32, _mm256_cvtepi32_ps,
    _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_mul_ps, _mm256_mulhrs_epi16, _mm256_set_m128i, _mm256_set1_epi16, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_sll_epi16, _mm256_storeu_ps,
    _mm256_storeu_si256, _mm256_sub_epi16,
};

#[target_feature(enable = "avx2")]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    lanes::dot::<[f32; 4]>(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn dots_f32<const A: usize, const B: usize>(a: [&[f32]; A], b: [&[f32]; B]) -> [[f32; B]; A] {
    let whole = a[0].len() / 8 * 8;
    let mut lanes = [[_mm256_setzero_ps(); B]; A];
    let mut at = 0;
    while at < whole {
        let mut ys = [_mm256_setzero_ps(); B];
        for (y, b) in ys.iter_mut().zip(&b) {
            // SAFETY: the slices are equally long, and `at + 8` is at most their length.
            *y = unsafe { _mm256_loadu_ps(b.as_ptr().add(at)) };
        }
        for (lanes, a) in lanes.iter_mut().zip(&a) {
            // SAFETY: as above.
            let x = unsafe { _mm256_loadu_ps(a.as_ptr().add(at)) };
            for (lane, y) in lanes.iter_mut().zip(&ys) {
                *lane = _mm256_add_ps(*lane, _mm256_mul_ps(x, *y));
            }
        }
        at += 8;
    }
    let mut products = [[0.0; B]; A];
    for ((a, lanes), products) in a.iter().zip(&lanes).zip(&mut products) {
        for ((b, lane), product) in b.iter().zip(lanes).zip(products) {
            let mut sums = [0.0f32; 8];
            // SAFETY: `sums` is 8 floats: one vector.
            unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), *lane) };
            for ((sum, x), y) in sums.iter_mut().zip(&a[whole..]).zip(&b[whole..]) {
                *sum += x * y;
            }
            *product = joined(sums);
        }
    }
    products
}

#[target_feature(enable = "avx2")]
pub(super) fn dot_i8_i16(weights: &[i8], input: &[i16]) -> i32 {
    let (w16, w_tail) = weights.as_chunks::<16>();
    let (x16, x_tail) = input.as_chunks::<16>();
    let mut sums = _mm256_setzero_si256();
    for (w, x) in w16.iter().zip(x16) {
        // SAFETY: the chunks are sixteen bytes and sixteen int16: vectors of 128 and 256 bits; loads need no alignment.
        let (w, x) = unsafe { (_mm_loadu_si128(w.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().cast())) };
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_cvtepi8_epi16(w), x));
    }
    sum_of_lanes(sums) + scalar::dot_i8_i16(w_tail, x_tail)
}

#[target_feature(enable = "avx2")]
pub(super) fn dot_i4_i16(codes: &[u8], scales: &[f32], input: &[i16]) -> f32 {
    scalar::dot_of_groups(codes, scales, input, |codes, input| {
        let at = input.as_ptr().cast::<__m256i>();
        // SAFETY: `codes` is sixteen bytes and `input` 32 int16: a vector of 128 bits and two of 256; loads need no alignment.
        let (byte, low_inputs, high_inputs) = unsafe {
            (_mm_loadu_si128(codes.as_ptr().cast()), _mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
        };
        let (nibbles, zero) = (_mm_set1_epi8(15), _mm256_set1_epi16(8));
        let low = _mm256_cvtepu8_epi16(_mm_and_si128(byte, nibbles));
        let high = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(byte, 4), nibbles));
        sum_of_lanes(_mm256_add_epi32(
            _mm256_madd_epi16(_mm256_sub_epi16(low, zero), low_inputs),
            _mm256_madd_epi16(_mm256_sub_epi16(high, zero), high_inputs),
        ))
    })
}

/// The sum of eight 32-bit integers, which must not overflow.
#[target_feature(enable = "avx2")]
fn sum_of_lanes(lanes: __m256i) -> i32 {
    let fours = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    let pairs = _mm_add_epi32(fours, _mm_shuffle_epi32(fours, 0b01_00_11_10));
    _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0b10_11_00_01)))
}

#[target_feature(enable = "avx2")]
pub(super) fn softmax_numerators(values: &mut [f32]) -> f32 {
    lanes::softmax_numerators::<[f32; 4]>(values)
}

#[target_feature(enable = "avx2")]
pub(super) fn gate(activation: Activation, gate: &[f32], up: &[f32], output: &mut [f32]) {
    lanes::gate::<[f32; 4]>(activation, gate, up, output);
}

#[target_feature(enable = "avx2")]
pub(super) fn key_products(count: usize, queries: &[i16], keys: &[i8], stride: usize, products: &mut [i32]) {
    scalar::key_products(count, queries, keys, stride, products);
}

#[target_feature(enable = "avx2")]
pub(super) fn value_sums(count: usize, weights: &[i16], values: &[i8], stride: usize, sums: &mut [i32]) {
    scalar::value_sums(count, weights, values, stride, sums);
}

#[target_feature(enable = "avx2")]
pub(super) fn attention_weights(args: &lanes::Attention, buffer: &mut [f32], weights: &mut [i16]) -> f32 {
    lanes::attention_weights::<[f32; 4]>(args, buffer, weights)
}

#[target_feature(enable = "avx2")]
pub(super) fn quantize(input: &[f32], limit: i16, output: &mut [i16]) -> f32 {
    lanes::quantize::<[f32; 4]>(input, limit, output)
}

#[target_feature(enable = "avx2")]
pub(super) fn block_tables(
    words: &[i16],
    dimension: usize,
    input: &[i16],
    scratch: &mut BlockScratch,
    entries: &mut [[u8; CODEBOOK_ENTRIES]],
    stride: usize,
) -> BlockRange {
    let BlockScratch { sums, centers } = scratch;
    let codebooks = words.as_chunks::<CODEBOOK_ENTRIES>().0.chunks_exact(dimension);
    let tables = input.chunks_exact(dimension).flat_map(|input| codebooks.clone().map(move |c| (input, c)));
    let (mut widest, mut total) = (0, 0);
    for (((input, codebook), stored), center) in tables.zip(&mut *sums).zip(&mut *centers) {
        let mut sums = _mm256_setzero_si256();
        for (words, &x) in codebook.iter().zip(input) {
            // SAFETY: sixteen int16 are one vector; the load needs no alignment.
            let words = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
            sums = _mm256_add_epi16(sums, _mm256_mulhrs_epi16(words, _mm256_set1_epi16(x)));
        }
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(stored.as_mut_ptr().cast(), sums) };
        // The smallest of unsigned integers has an instruction: of the sums from the lowest int16 on, and of what they lack to
        // the highest.
        let halves = [_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums)];
        let low = _mm_xor_si128(_mm_min_epi16(halves[0], halves[1]), _mm_set1_epi16(i16::MIN));
        let high = _mm_xor_si128(_mm_max_epi16(halves[0], halves[1]), _mm_set1_epi16(i16::MAX));
        let smallest = |v| _mm_extract_epi16::<0>(_mm_minpos_epu16(v));
        let (low, high) = (smallest(low) + i32::from(i16::MIN), i32::from(i16::MAX) - smallest(high));
        *center = (low + high + 1) >> 1;
        widest = widest.max(*center - low);
        total += *center;
    }
    let range = BlockRange::new(widest, total);
    let inverse = _mm256_set1_epi16(range.inverse);
    for ((sums, &center), table) in sums.iter().zip(&*centers).zip(entries.iter_mut().step_by(stride)) {
        // SAFETY: as above; a table is sixteen bytes.
        unsafe {
            let sums = _mm256_loadu_si256(sums.as_ptr().cast());
            let centred = _mm256_sub_epi16(sums, _mm256_set1_epi16(center as i16));
            let scaled = _mm256_mulhrs_epi16(centred, inverse);
            let (low, high) = (_mm256_castsi256_si128(scaled), _mm256_extracti128_si256::<1>(scaled));
            let entries = _mm_xor_si128(_mm_packs_epi16(low, high), _mm_set1_epi8(ENTRY_ZERO as u8 as i8));
            _mm_storeu_si128(table.as_mut_ptr().cast(), entries);
        }
    }
    range
}

#[target_feature(enable = "avx2")]
pub(super) fn tile(shape: TileShape, codes: &[u8], tables: &[u8], steps: &[f32], sums: &mut [f32]) {
    let of = match (shape.fold.entries(), shape.packing) {
        (8, Packing::Nibbles) => tile_of::<8, 16>,
        (4, Packing::Nibbles) => tile_of::<4, 16>,
        (2, Packing::Nibbles) => tile_of::<2, 16>,
        (_, Packing::Nibbles) => tile_of::<1, 16>,
        (8, Packing::Bytes) => tile_of::<8, 32>,
        (4, Packing::Bytes) => tile_of::<4, 32>,
        (2, Packing::Bytes) => tile_of::<2, 32>,
        (_, Packing::Bytes) => tile_of::<1, 32>,
    };
    of(shape, codes, tables, steps, sums);
}

/// Averages `F` entries before it widens; the codes of a vector of rows are `B` bytes, which says how they are packed.
#[target_feature(enable = "avx2")]
fn tile_of<const F: usize, const B: usize>(
    shape: TileShape,
    codes: &[u8],
    tables: &[u8],
    steps: &[f32],
    sums: &mut [f32],
) {
    let TileShape { vectors, block_tables, positions, .. } = shape;
    // Negative, so that adding to it leaves a first sum as it is.
    sums.fill(-0.0);
    let (codes, _) = codes.as_chunks::<B>();
    let (tables, _) = tables.as_chunks::<CODEBOOK_ENTRIES>();
    let blocks = codes.chunks(block_tables * vectors).zip(tables.chunks(block_tables * positions));
    for ((codes, tables), steps) in blocks.zip(steps.chunks_exact(positions)) {
        let count = codes.len() / vectors;
        for (position, sums) in sums.chunks_exact_mut(vectors * VECTOR_ROWS).enumerate() {
            let step = _mm256_set1_ps(steps[position]);
            for (vector, sums) in sums.chunks_exact_mut(VECTOR_ROWS).enumerate() {
                let zero = _mm256_setzero_si256();
                let look_up = |table: usize| {
                    entries(&tables[table * positions + position], &codes[table * vectors + vector])
                };
                // 16-bit sums of rows 0 to 15 and of rows 16 to 31.
                let mut whole = [zero; 2];
                for first in (0..count / F * F).step_by(F) {
                    let two = |i: usize| _mm256_avg_epu8(look_up(first + i), look_up(first + i + 1));
                    let four = |i: usize| _mm256_avg_epu8(two(i), two(i + 2));
                    let average = match F {
                        8 => _mm256_avg_epu8(four(0), four(4)),
                        4 => four(0),
                        2 => two(0),
                        _ => look_up(first),
                    };
                    add_wide(&mut whole, average);
                }
                let mut left = [zero; 2];
                (count / F * F..count).for_each(|table| add_wide(&mut left, look_up(table)));
                // The zeros of all entries, averaged or not; every sum is within 16 bits at its end.
                let zeros = _mm256_set1_epi16((count as i32 * ENTRY_ZERO) as i16);
                let shift = _mm_cvtsi32_si128(F.ilog2() as i32);
                let pairs = sums.as_chunks_mut::<8>().0.as_chunks_mut::<2>().0;
                for (([low, high], whole), left) in pairs.iter_mut().zip(whole).zip(left) {
                    let sum = _mm256_add_epi16(_mm256_sll_epi16(whole, shift), left);
                    let wide = _mm256_sub_epi16(sum, zeros);
                    add_steps(low, _mm256_castsi256_si128(wide), step);
                    add_steps(high, _mm256_extracti128_si256::<1>(wide), step);
                }
            }
        }
    }
}

/// Adds 32 entries to the sums of two times 16 rows.
#[target_feature(enable = "avx2")]
fn add_wide(sums: &mut [__m256i; 2], entries: __m256i) {
    let halves = [_mm256_castsi256_si128(entries), _mm256_extracti128_si256::<1>(entries)];
    for (sum, half) in sums.iter_mut().zip(halves) {
        *sum = _mm256_add_epi16(*sum, _mm256_cvtepu8_epi16(half));
    }
}

/// The entries of a table at the codes of 32 rows.
#[target_feature(enable = "avx2")]
fn entries<const B: usize>(table: &[u8; CODEBOOK_ENTRIES], codes: &[u8; B]) -> __m256i {
    // SAFETY: a table is 16 bytes, the codes are 16 or 32; the loads need no alignment.
    let (table, codes) = unsafe {
        let codes = if B == VECTOR_ROWS {
            _mm256_loadu_si256(codes.as_ptr().cast())
        } else {
            let (mask, byte) = (_mm_set1_epi8(15), _mm_loadu_si128(codes.as_ptr().cast()));
            _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16::<4>(byte), mask), _mm_and_si128(byte, mask))
        };
        (_mm_loadu_si128(table.as_ptr().cast()), codes)
    };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
}

/// `sums[i] += step · values[i]`, eight rows.
#[target_feature(enable = "avx2")]
fn add_steps(sums: &mut [f32; 8], values: __m128i, step: __m256) {
    let values: __m256i = _mm256_cvtepi16_epi32(values);
    // SAFETY: `sums` has eight floats.
    unsafe {
        let old = _mm256_loadu_ps(sums.as_ptr());
        let sum = _mm256_add_ps(old, _mm256_mul_ps(step, _mm256_cvtepi32_ps(values)));
        _mm256_storeu_ps(sums.as_mut_ptr(), sum);
    }
}

/// The sum of eight lanes, in the order of [`lanes::dot`].
fn joined([l0, l1, l2, l3, l4, l5, l6, l7]: [f32; 8]) -> f32 {
    ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
}
