//! WebAssembly SIMD128, written for few instructions under the Internet Computer's cost table, where most vector
//! operations cost 1 like the `local.get` that feeds them, and float additions and multiplications 2.

use super::{CODEBOOK_ENTRIES, ROUNDING, TileShape, VECTOR_ROWS, scalar};
use std::arch::wasm32::{
    f32x4_add, f32x4_convert_i32x4, f32x4_mul, f32x4_splat, i8x16_narrow_i16x8, i8x16_sub, i8x16_swizzle,
    i16x8_add, i16x8_extend_high_i8x16, i16x8_extend_low_i8x16, i16x8_load_extend_i8x8, i16x8_narrow_i32x4,
    i16x8_splat, i32x4_add, i32x4_dot_i16x8, i32x4_extend_high_i16x8, i32x4_extend_low_i16x8,
    i32x4_extract_lane, i32x4_max, i32x4_min, i32x4_shuffle, i32x4_splat, i32x4_sub, u8x16_shr, u8x16_splat,
    v128, v128_and, v128_load, v128_load32_splat, v128_store,
};

/// See [`super::Backend::dot_i8_i16`].
pub(super) fn dot_i8_i16(weights: &[i8], input: &[i16]) -> i32 {
    let (w8, w_tail) = weights.as_chunks::<8>();
    let (x8, x_tail) = input.as_chunks::<8>();
    let mut sums = i32x4_splat(0);
    for (w, x) in w8.iter().zip(x8) {
        // SAFETY: both chunks have eight elements; vector loads need no alignment.
        let (w, x) = unsafe { (i16x8_load_extend_i8x8(w.as_ptr()), v128_load(x.as_ptr().cast())) };
        sums = i32x4_add(sums, i32x4_dot_i16x8(w, x));
    }
    let tail = scalar::dot_i8_i16(w_tail, x_tail);
    let pairs = i32x4_add(sums, i32x4_shuffle::<2, 3, 0, 1>(sums, sums));
    i32x4_extract_lane::<0>(pairs) + i32x4_extract_lane::<1>(pairs) + tail
}

/// See [`super::Backend::dot_i4_i16`].
pub(super) fn dot_i4_i16(codes: &[u8], scales: &[f32], input: &[i16]) -> f32 {
    scalar::dot_of_groups(codes, scales, input, |codes, input| {
        let at = input.as_ptr().cast::<v128>();
        // SAFETY: `codes` is sixteen bytes and `input` 32 int16: one and four vectors; loads need no alignment.
        let (byte, inputs) =
            unsafe { (v128_load(codes.as_ptr().cast()), [0, 1, 2, 3].map(|i| v128_load(at.add(i)))) };
        let low = i8x16_sub(v128_and(byte, u8x16_splat(15)), u8x16_splat(8));
        let high = i8x16_sub(u8x16_shr(byte, 4), u8x16_splat(8));
        let sums = i32x4_add(
            i32x4_add(
                i32x4_dot_i16x8(i16x8_extend_low_i8x16(low), inputs[0]),
                i32x4_dot_i16x8(i16x8_extend_high_i8x16(low), inputs[1]),
            ),
            i32x4_add(
                i32x4_dot_i16x8(i16x8_extend_low_i8x16(high), inputs[2]),
                i32x4_dot_i16x8(i16x8_extend_high_i8x16(high), inputs[3]),
            ),
        );
        let pairs = i32x4_add(sums, i32x4_shuffle::<2, 3, 0, 1>(sums, sums));
        i32x4_extract_lane::<0>(pairs) + i32x4_extract_lane::<1>(pairs)
    })
}

/// See [`super::Backend::add_scaled_i8`].
pub(super) fn add_scaled_i8(output: &mut [f32], factor: f32, values: &[i8]) {
    let scale = f32x4_splat(factor);
    let (outputs, output_tail) = output.as_chunks_mut::<8>();
    let (values, value_tail) = values.as_chunks::<8>();
    for (output, values) in outputs.iter_mut().zip(values) {
        let at = output.as_mut_ptr().cast::<v128>();
        // SAFETY: `values` is eight bytes and `output` eight floats: two vectors.
        unsafe {
            let wide = i16x8_load_extend_i8x8(values.as_ptr());
            let low = f32x4_mul(scale, f32x4_convert_i32x4(i32x4_extend_low_i16x8(wide)));
            let high = f32x4_mul(scale, f32x4_convert_i32x4(i32x4_extend_high_i16x8(wide)));
            v128_store(at, f32x4_add(v128_load(at), low));
            v128_store(at.add(1), f32x4_add(v128_load(at.add(1)), high));
        }
    }
    scalar::add_scaled_i8(output_tail, factor, value_tail);
}

/// See [`super::Backend::group_sums`].
pub(super) fn group_sums(pairs: &[i16], input: &[i16], raw: &mut [i32]) {
    match input.len() {
        4 => group_sums_of::<2>(pairs, input, raw),
        _ => group_sums_of::<4>(pairs, input, raw),
    }
}

/// `P` pairs of columns: two for vectors of four weights, four for vectors of eight.
#[inline(always)]
fn group_sums_of<const P: usize>(pairs: &[i16], input: &[i16], raw: &mut [i32]) {
    assert!(input.len() == 2 * P && pairs.len() == raw.len() * 2 * P && raw.len() % CODEBOOK_ENTRIES == 0);
    let mut x = [i32x4_splat(0); P];
    for (p, x) in x.iter_mut().enumerate() {
        // SAFETY: `input` holds `P` pairs of int16.
        *x = unsafe { v128_load32_splat(input.as_ptr().add(2 * p).cast()) };
    }
    let codebooks = raw.len() / CODEBOOK_ENTRIES;
    for m in 0..codebooks {
        for quarter in 0..4 {
            let mut sum = i32x4_splat(0);
            for (p, &x) in x.iter().enumerate() {
                let at = (m * P + p) * 2 * CODEBOOK_ENTRIES + quarter * 8;
                // SAFETY: `pairs` holds `codebooks · P · 32` int16, checked on entry.
                let c = unsafe { v128_load(pairs.as_ptr().add(at).cast()) };
                sum = i32x4_add(sum, i32x4_dot_i16x8(c, x));
            }
            // SAFETY: `raw` holds `codebooks · 16` int32.
            unsafe { v128_store(raw.as_mut_ptr().add(m * CODEBOOK_ENTRIES + quarter * 4).cast(), sum) };
        }
    }
}

fn load_raw(raw: &[i32; CODEBOOK_ENTRIES]) -> [v128; 4] {
    // SAFETY: 16 int32 are four vectors.
    unsafe { [0, 4, 8, 12].map(|at| v128_load(raw.as_ptr().add(at).cast())) }
}

/// See [`super::Backend::range16`].
#[inline(always)]
pub(super) fn range16(raw: &[i32; CODEBOOK_ENTRIES]) -> (i32, i32) {
    let [a, b, c, d] = load_raw(raw);
    let low = i32x4_min(i32x4_min(a, b), i32x4_min(c, d));
    let high = i32x4_max(i32x4_max(a, b), i32x4_max(c, d));
    let low = i32x4_min(low, i32x4_shuffle::<2, 3, 0, 1>(low, low));
    let high = i32x4_max(high, i32x4_shuffle::<2, 3, 0, 1>(high, high));
    (
        i32x4_extract_lane::<0>(low).min(i32x4_extract_lane::<1>(low)),
        i32x4_extract_lane::<0>(high).max(i32x4_extract_lane::<1>(high)),
    )
}

/// See [`super::Backend::quantize16`].
#[inline(always)]
pub(super) fn quantize16(
    raw: &[i32; CODEBOOK_ENTRIES],
    center: i32,
    inverse_step: f32,
    table: &mut [i8; 16],
) {
    let (center, inverse) = (i32x4_splat(center), f32x4_splat(inverse_step));
    let (rounding, bits) = (f32x4_splat(ROUNDING), i32x4_splat(ROUNDING.to_bits() as i32));
    let [a, b, c, d] = load_raw(raw).map(|v| {
        let scaled = f32x4_mul(f32x4_convert_i32x4(i32x4_sub(v, center)), inverse);
        i32x4_sub(f32x4_add(scaled, rounding), bits)
    });
    let bytes = i8x16_narrow_i16x8(i16x8_narrow_i32x4(a, b), i16x8_narrow_i32x4(c, d));
    // SAFETY: a table is one vector.
    unsafe { v128_store(table.as_mut_ptr().cast(), bytes) };
}

/// See [`super::Backend::tile`].
pub(super) fn tile(shape: TileShape, codes: &[u8], tables: &[i8], steps: &[f32], sums: &mut [f32]) {
    let unroll = match shape.codebooks {
        2 | 4 | 6 | 8 => 2,
        3 => 3,
        _ => 1,
    };
    // One copy of the loop for each number of row vectors, unrolled by as many tables as a group has a multiple of.
    macro_rules! unrolled {
        ($($unroll:literal)*) => {
            match (unroll, shape.vectors) {
                $(($unroll, 1) => tile_of::<$unroll, 1>(shape, codes, tables, steps, sums),
                ($unroll, 2) => tile_of::<$unroll, 2>(shape, codes, tables, steps, sums),
                ($unroll, 3) => tile_of::<$unroll, 3>(shape, codes, tables, steps, sums),
                ($unroll, 4) => tile_of::<$unroll, 4>(shape, codes, tables, steps, sums),)*
                _ => scalar::tile(shape, codes, tables, steps, sums),
            }
        };
    }
    unrolled!(1 2 3);
}

/// Looks up 16 rows at a time, widens to 16 bits, and goes to floats at the end of each block; `R` vectors of 32 rows, `U`
/// tables in a row.
fn tile_of<const U: usize, const R: usize>(
    shape: TileShape,
    codes: &[u8],
    tables: &[i8],
    steps: &[f32],
    sums: &mut [f32],
) {
    let TileShape { codebooks, block_groups, .. } = shape;
    let mask = u8x16_splat(15);
    sums.fill(0.0);
    let block_codes = codes.chunks(block_groups * codebooks * R * 16);
    let block_tables = tables.chunks(block_groups * codebooks * CODEBOOK_ENTRIES);
    for ((codes, tables), &step) in block_codes.zip(block_tables).zip(steps) {
        let mut wide = [[i16x8_splat(0); 4]; R];
        let mut code = codes.as_ptr();
        let mut table = tables.as_ptr();
        for _ in 0..tables.len() / (U * CODEBOOK_ENTRIES) {
            // SAFETY: the loop visits `tables.len() / 16` tables and as many groups of `R` code vectors, which `Backend::tile`
            // has checked to be there; the pointers end at most one past their slices.
            unsafe {
                look_up(&mut wide, table, code, mask);
                if U > 1 {
                    look_up(&mut wide, table.add(CODEBOOK_ENTRIES), code.add(R * 16), mask);
                }
                if U > 2 {
                    look_up(&mut wide, table.add(2 * CODEBOOK_ENTRIES), code.add(2 * R * 16), mask);
                }
                code = code.add(U * R * 16);
                table = table.add(U * CODEBOOK_ENTRIES);
            }
        }
        let step = f32x4_splat(step);
        for (sums, wide) in sums.chunks_exact_mut(VECTOR_ROWS).zip(wide) {
            for (sums, values) in sums.chunks_exact_mut(8).zip(wide) {
                let halves = [i32x4_extend_low_i16x8(values), i32x4_extend_high_i16x8(values)];
                for (sums, half) in sums.chunks_exact_mut(4).zip(halves) {
                    let at = sums.as_mut_ptr().cast::<v128>();
                    // SAFETY: `sums` is four floats.
                    unsafe {
                        v128_store(at, f32x4_add(v128_load(at), f32x4_mul(step, f32x4_convert_i32x4(half))))
                    };
                }
            }
        }
    }
}

/// Adds the entries of one table for `R` vectors of 32 rows.
///
/// Written out instead of looped over `R`: the sums have to stay in locals, and the compiler gives up unrolling at 4.
///
/// # Safety
/// `table` must point to 16 entries and `code` to `R · 16` bytes.
#[inline(always)]
unsafe fn look_up<const R: usize>(wide: &mut [[v128; 4]; R], table: *const i8, code: *const u8, mask: v128) {
    // SAFETY: as the caller promises.
    let entries = unsafe { v128_load(table.cast()) };
    macro_rules! vector {
        ($r:literal) => {
            if R > $r {
                // SAFETY: as the caller promises.
                let byte = unsafe { v128_load(code.add($r * 16).cast()) };
                let low = i8x16_swizzle(entries, v128_and(byte, mask));
                let high = i8x16_swizzle(entries, u8x16_shr(byte, 4));
                let wide = &mut wide[$r];
                wide[0] = i16x8_add(wide[0], i16x8_extend_low_i8x16(low));
                wide[1] = i16x8_add(wide[1], i16x8_extend_high_i8x16(low));
                wide[2] = i16x8_add(wide[2], i16x8_extend_low_i8x16(high));
                wide[3] = i16x8_add(wide[3], i16x8_extend_high_i8x16(high));
            }
        };
    }
    vector!(0);
    vector!(1);
    vector!(2);
    vector!(3);
}
