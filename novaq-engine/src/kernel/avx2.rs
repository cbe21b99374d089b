//! x86-64 AVX2. Float kernels are the reference compiled for wider registers: without fused multiply-add the
//! compiler may not change what they compute.

use super::{CODEBOOK_ENTRIES, TileShape, VECTOR_ROWS, scalar};
use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_srli_epi16,
    _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
    _mm256_cvtepi8_epi16, _mm256_cvtepi16_epi32, _mm256_cvtepi32_ps, _mm256_extracti128_si256,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps, _mm256_set_m128i,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_storeu_ps, _mm256_storeu_si256,
};

#[target_feature(enable = "avx2")]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    scalar::dot_f32(a, b)
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
            *product = scalar::joined(sums);
        }
    }
    products
}

#[target_feature(enable = "avx2")]
pub(super) fn dot_i8_i16(weights: &[i8], input: &[i16]) -> i32 {
    scalar::dot_i8_i16(weights, input)
}

#[target_feature(enable = "avx2")]
pub(super) fn dot_i4_i16(codes: &[u8], scales: &[f32], input: &[i16]) -> f32 {
    scalar::dot_i4_i16(codes, scales, input)
}

#[target_feature(enable = "avx2")]
pub(super) fn add_scaled_i8(output: &mut [f32], factor: f32, values: &[i8]) {
    scalar::add_scaled_i8(output, factor, values);
}

#[target_feature(enable = "avx2")]
pub(super) fn group_sums(pairs: &[i16], input: &[i16], raw: &mut [i32]) {
    let per_codebook = CODEBOOK_ENTRIES * input.len();
    for (codebook, sums) in pairs.chunks_exact(per_codebook).zip(raw.chunks_exact_mut(CODEBOOK_ENTRIES)) {
        let mut low = _mm256_setzero_si256();
        let mut high = low;
        for (pair, x) in codebook.chunks_exact(2 * CODEBOOK_ENTRIES).zip(input.chunks_exact(2)) {
            let x = _mm256_set1_epi32(i32::from(x[0] as u16) | (i32::from(x[1]) << 16));
            // SAFETY: a pair of columns is 32 int16: two vectors.
            let (c0, c1) = unsafe {
                (_mm256_loadu_si256(pair.as_ptr().cast()), _mm256_loadu_si256(pair.as_ptr().add(16).cast()))
            };
            low = _mm256_add_epi32(low, _mm256_madd_epi16(c0, x));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(c1, x));
        }
        // SAFETY: `sums` is 16 int32: two vectors.
        unsafe {
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(sums.as_mut_ptr().add(8).cast(), high);
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn tile(shape: TileShape, codes: &[u8], tables: &[i8], steps: &[f32], sums: &mut [f32]) {
    match shape.vectors {
        1 => tile_of::<1>(shape, codes, tables, steps, sums),
        2 => tile_of::<2>(shape, codes, tables, steps, sums),
        3 => tile_of::<3>(shape, codes, tables, steps, sums),
        _ => tile_of::<4>(shape, codes, tables, steps, sums),
    }
}

#[target_feature(enable = "avx2")]
fn tile_of<const R: usize>(shape: TileShape, codes: &[u8], tables: &[i8], steps: &[f32], sums: &mut [f32]) {
    let TileShape { codebooks, block_groups, .. } = shape;
    let mask = _mm_set1_epi8(15);
    sums.fill(0.0);
    let block_codes = codes.chunks(block_groups * codebooks * R * 16);
    let block_tables = tables.chunks(block_groups * codebooks * CODEBOOK_ENTRIES);
    for ((codes, tables), &step) in block_codes.zip(block_tables).zip(steps) {
        // Per vector of 32 rows: 16-bit sums of rows 0 to 15 and of rows 16 to 31.
        let mut wide = [[_mm256_setzero_si256(); 2]; R];
        for (codes, table) in codes.chunks_exact(R * 16).zip(tables.chunks_exact(CODEBOOK_ENTRIES)) {
            // SAFETY: a table is 16 bytes.
            let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
            for (wide, codes) in wide.iter_mut().zip(codes.chunks_exact(16)) {
                // SAFETY: `codes` is 16 bytes.
                let byte = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
                let nibbles = _mm256_set_m128i(
                    _mm_and_si128(_mm_srli_epi16::<4>(byte), mask),
                    _mm_and_si128(byte, mask),
                );
                let entries = _mm256_shuffle_epi8(table, nibbles);
                let (low, high) = (_mm256_castsi256_si128(entries), _mm256_extracti128_si256::<1>(entries));
                wide[0] = _mm256_add_epi16(wide[0], _mm256_cvtepi8_epi16(low));
                wide[1] = _mm256_add_epi16(wide[1], _mm256_cvtepi8_epi16(high));
            }
        }
        let step = _mm256_set1_ps(step);
        for (sums, wide) in sums.chunks_exact_mut(VECTOR_ROWS).zip(wide) {
            for (sums, wide) in sums.chunks_exact_mut(16).zip(wide) {
                add_steps(&mut sums[..8], _mm256_castsi256_si128(wide), step);
                add_steps(&mut sums[8..], _mm256_extracti128_si256::<1>(wide), step);
            }
        }
    }
}

/// `sums[i] += step · values[i]`, eight rows.
#[target_feature(enable = "avx2")]
fn add_steps(sums: &mut [f32], values: __m128i, step: __m256) {
    let values: __m256i = _mm256_cvtepi16_epi32(values);
    debug_assert_eq!(sums.len(), 8);
    // SAFETY: `sums` has eight floats.
    unsafe {
        let old = _mm256_loadu_ps(sums.as_ptr());
        let sum = _mm256_add_ps(old, _mm256_mul_ps(step, _mm256_cvtepi32_ps(values)));
        _mm256_storeu_ps(sums.as_mut_ptr(), sum);
    }
}
