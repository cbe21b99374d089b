//! WebAssembly SIMD128, written for few instructions under the Internet Computer's cost table, where most vector
//! operations cost 1 like the `local.get` that feeds them, and float additions and multiplications 2.

use super::lanes::Lanes;
use super::{
    BlockRange, CACHE_BLOCK, CODEBOOK_ENTRIES, ENTRY_ZERO, ROUNDING, TileShape, VECTOR_ROWS, scalar,
};
use std::arch::wasm32::{
    f32x4_add, f32x4_convert_i32x4, f32x4_div, f32x4_ge, f32x4_mul, f32x4_pmax, f32x4_pmin, f32x4_splat,
    f32x4_sub, i8x16_sub, i8x16_swizzle, i16x8_add, i16x8_extend_high_i8x16, i16x8_extend_high_u8x16,
    i16x8_extend_low_i8x16, i16x8_extend_low_u8x16, i16x8_load_extend_i8x8, i16x8_narrow_i32x4, i16x8_shl,
    i16x8_splat, i32x4_add, i32x4_dot_i16x8, i32x4_extend_high_i16x8, i32x4_extend_low_i16x8,
    i32x4_extract_lane, i32x4_max, i32x4_min, i32x4_neg, i32x4_shl, i32x4_shr, i32x4_shuffle, i32x4_splat,
    i32x4_sub, i64x2_add, i64x2_extend_low_i32x4, i64x2_extract_lane, i64x2_splat, u8x16_avgr,
    u8x16_narrow_i16x8, u8x16_shr, u8x16_splat, v128, v128_and, v128_any_true, v128_load, v128_load32_splat,
    v128_store, v128_store32_lane,
};

/// Repeats a block for the numbers from 0 that are below a constant of at most 8. Written out instead of looped over: sums have
/// to stay in locals, and the compiler gives up unrolling at 4. Nested blocks multiply, so that the list is short.
macro_rules! repeated {
    ($i:ident < $n:expr, $body:block) => {
        repeated!(@ $i, $n, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $n:expr, $body:block, $($number:literal)*) => {
        $(if $number < $n {
            let $i: usize = $number;
            $body
        })*
    };
}

/// The same for a constant of at most 32, for blocks that are not nested.
macro_rules! repeated_32 {
    ($i:ident < $n:expr, $body:block) => {
        repeated!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31)
    };
}

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

/// Four floats.
#[derive(Clone, Copy)]
pub(super) struct F32x4(v128);

impl Lanes for F32x4 {
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(f32x4_splat(value))
    }

    #[inline(always)]
    fn load(values: &[f32; 4]) -> Self {
        // SAFETY: four floats are one vector; loads need no alignment.
        Self(unsafe { v128_load(values.as_ptr().cast()) })
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; 4]) {
        // SAFETY: as in `load`.
        unsafe { v128_store(values.as_mut_ptr().cast(), self.0) };
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(f32x4_add(self.0, other.0))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(f32x4_sub(self.0, other.0))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(f32x4_mul(self.0, other.0))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(f32x4_div(self.0, other.0))
    }

    #[inline(always)]
    fn or_larger(self, other: Self) -> Self {
        Self(f32x4_pmax(self.0, other.0))
    }

    #[inline(always)]
    fn or_smaller(self, other: Self) -> Self {
        Self(f32x4_pmin(self.0, other.0))
    }

    #[inline(always)]
    fn any_at_least(self, other: Self) -> bool {
        v128_any_true(f32x4_ge(self.0, other.0))
    }

    #[inline(always)]
    fn of_integers(values: &[i32; 4]) -> Self {
        // SAFETY: as in `load`.
        Self(f32x4_convert_i32x4(unsafe { v128_load(values.as_ptr().cast()) }))
    }

    #[inline(always)]
    fn store_rounded(self, other: Self, values: &mut [i16; 8]) {
        let bits = i32x4_splat(ROUNDING.to_bits() as i32);
        let narrow = i16x8_narrow_i32x4(i32x4_sub(self.0, bits), i32x4_sub(other.0, bits));
        // SAFETY: eight 16-bit integers are one vector.
        unsafe { v128_store(values.as_mut_ptr().cast(), narrow) };
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(i32x4_shl(i32x4_add(self.0, i32x4_splat(127)), 23))
    }
}

/// See [`super::Backend::key_products`].
pub(super) fn key_products(query: &[i16], keys: &[i8], stride: usize, products: &mut [i32]) {
    let width = query.len();
    let mut done = 0;
    while done < width {
        let left = &query[done..];
        let size = if left.len() >= 64 { 64 } else { 4 };
        let of = match (size, done) {
            (64, 0) => products_of::<32, true>,
            (64, _) => products_of::<32, false>,
            (_, 0) => products_of::<2, true>,
            _ => products_of::<2, false>,
        };
        // SAFETY: `Backend::key_products` has checked that all blocks are there; what is left of the query is a multiple of 4.
        unsafe { of(left, keys.as_ptr().add(4 * done), width, stride, products) };
        done += size;
    }
}

/// Adds the products of the first `N` pairs of the query with the keys at `keys`, or stores them if they are the first.
///
/// # Safety
/// `query` must have `2 · N` elements, and each block of keys as many pairs behind `keys`.
unsafe fn products_of<const N: usize, const FIRST: bool>(
    query: &[i16],
    mut keys: *const i8,
    width: usize,
    stride: usize,
    products: &mut [i32],
) {
    let mut x = [i32x4_splat(0); N];
    repeated_32!(p < N, {
        // SAFETY: as the caller promises.
        x[p] = unsafe { v128_load32_splat(query.as_ptr().add(2 * p).cast()) };
    });
    for block in products.chunks_exact_mut(CACHE_BLOCK) {
        let mut group = keys;
        for products in block.chunks_exact_mut(4) {
            let at = products.as_mut_ptr().cast::<v128>();
            // SAFETY: `products` is four sums; a group of four keys has eight bytes per pair.
            unsafe {
                let mut sum = if FIRST { i32x4_splat(0) } else { v128_load(at) };
                repeated_32!(p < N, {
                    let keys = i16x8_load_extend_i8x8(group.add(8 * p));
                    sum = i32x4_add(sum, i32x4_dot_i16x8(keys, x[p]));
                });
                v128_store(at, sum);
            }
            group = group.wrapping_add(4 * width);
        }
        keys = keys.wrapping_add(stride);
    }
}

/// See [`super::Backend::value_sums`].
pub(super) fn value_sums(weights: &[i16], values: &[i8], stride: usize, sums: &mut [i32]) {
    const PAIRS: usize = CACHE_BLOCK / 2;
    let mut block = values.as_ptr();
    for weights in weights.chunks_exact(CACHE_BLOCK) {
        let mut w = [i32x4_splat(0); PAIRS];
        repeated!(p < PAIRS, {
            // SAFETY: `weights` has as many pairs.
            w[p] = unsafe { v128_load32_splat(weights.as_ptr().add(2 * p).cast()) };
        });
        let mut values = block;
        for sums in sums.chunks_exact_mut(4) {
            let at = sums.as_mut_ptr().cast::<v128>();
            // SAFETY: `sums` is four sums; `Backend::value_sums` has checked that all blocks are there.
            unsafe {
                let mut sum = v128_load(at);
                repeated!(p < PAIRS, {
                    sum = i32x4_add(sum, i32x4_dot_i16x8(i16x8_load_extend_i8x8(values.add(8 * p)), w[p]));
                });
                v128_store(at, sum);
            }
            values = values.wrapping_add(8 * PAIRS);
        }
        block = block.wrapping_add(stride);
    }
}

/// See [`super::Backend::block_sums`].
pub(super) fn block_sums(
    pairs: &[i16],
    dimension: usize,
    input: &[i16],
    sums: &mut [[i32; CODEBOOK_ENTRIES]],
    centers: &mut [i32],
) -> BlockRange {
    match dimension {
        4 => block_sums_of::<2>(pairs, input, sums, centers),
        _ => block_sums_of::<4>(pairs, input, sums, centers),
    }
}

/// `P` pairs of columns: two for vectors of four weights, four for vectors of eight.
fn block_sums_of<const P: usize>(
    pairs: &[i16],
    input: &[i16],
    sums: &mut [[i32; CODEBOOK_ENTRIES]],
    centers: &mut [i32],
) -> BlockRange {
    let codebooks = pairs.len() / (2 * P * CODEBOOK_ENTRIES);
    let mut ranges = i32x4_splat(0);
    let mut total = i64x2_splat(0);
    let groups = sums.chunks_exact_mut(codebooks).zip(centers.chunks_exact_mut(codebooks));
    for (input, (sums, centers)) in input.chunks_exact(2 * P).zip(groups) {
        let mut x = [i32x4_splat(0); P];
        repeated!(p < P, {
            // SAFETY: `input` holds `P` pairs of int16.
            x[p] = unsafe { v128_load32_splat(input.as_ptr().add(2 * p).cast()) };
        });
        let mut codebook = pairs.as_ptr().cast::<v128>();
        for (sums, center) in sums.iter_mut().zip(centers) {
            let mut quarters = [i32x4_splat(0); 4];
            repeated!(q < 4, {
                repeated!(p < P, {
                    // SAFETY: a codebook has four vectors for each of its `P` pairs of columns.
                    let product = i32x4_dot_i16x8(unsafe { v128_load(codebook.add(4 * p + q)) }, x[p]);
                    quarters[q] = if p == 0 { product } else { i32x4_add(quarters[q], product) };
                });
                // SAFETY: a table's sums are four vectors.
                unsafe { v128_store(sums.as_mut_ptr().cast::<v128>().add(q), quarters[q]) };
            });
            let [a, b, c, d] = quarters;
            let low = i32x4_min(i32x4_min(a, b), i32x4_min(c, d));
            // The largest as the smallest of their negatives, beside the smallest.
            let high = i32x4_neg(i32x4_max(i32x4_max(a, b), i32x4_max(c, d)));
            let both =
                i32x4_min(i32x4_shuffle::<0, 4, 1, 5>(low, high), i32x4_shuffle::<2, 6, 3, 7>(low, high));
            let both = i32x4_min(both, i32x4_shuffle::<2, 3, 0, 1>(both, both));
            let swapped = i32x4_shuffle::<1, 0, 3, 2>(both, both);
            ranges = i32x4_min(ranges, i32x4_add(both, swapped));
            let middle = i32x4_shr(i32x4_sub(both, swapped), 1);
            total = i64x2_add(total, i64x2_extend_low_i32x4(middle));
            // SAFETY: `center` is one lane.
            unsafe { v128_store32_lane::<0>(middle, std::ptr::from_mut(center).cast()) };
            codebook = codebook.wrapping_add(4 * P);
        }
    }
    // A table is as wide on one side of its center as its range, halved and rounded up.
    BlockRange { widest: (1 - i32x4_extract_lane::<0>(ranges)) >> 1, centers: i64x2_extract_lane::<0>(total) }
}

/// See [`super::Backend::quantize_tables`].
pub(super) fn quantize_tables(
    sums: &[[i32; CODEBOOK_ENTRIES]],
    centers: &[i32],
    inverse_step: f32,
    entries: &mut [[u8; CODEBOOK_ENTRIES]],
    stride: usize,
) {
    let inverse = f32x4_splat(inverse_step);
    let (rounding, bits) = (f32x4_splat(ROUNDING), i32x4_splat(ROUNDING.to_bits() as i32 - ENTRY_ZERO));
    // Pointers instead of slices: their distances go into the loads.
    let mut table = entries.as_mut_ptr().cast::<v128>();
    let (mut sum, mut center) = (sums.as_ptr().cast::<v128>(), centers.as_ptr());
    for _ in 0..sums.len() {
        // SAFETY: the sums of a table are four vectors; `Backend::quantize_tables` has checked that there are a center and a table
        // for each.
        unsafe {
            let middle = v128_load32_splat(center.cast());
            let quarter = |i: usize| {
                let v = i32x4_sub(v128_load(sum.add(i)), middle);
                i32x4_sub(f32x4_add(f32x4_mul(f32x4_convert_i32x4(v), inverse), rounding), bits)
            };
            let halves =
                [i16x8_narrow_i32x4(quarter(0), quarter(1)), i16x8_narrow_i32x4(quarter(2), quarter(3))];
            v128_store(table, u8x16_narrow_i16x8(halves[0], halves[1]));
        }
        (sum, center) = (sum.wrapping_add(4), center.wrapping_add(1));
        table = table.wrapping_add(stride);
    }
}

/// See [`super::Backend::tile`].
pub(super) fn tile(shape: TileShape, codes: &[u8], tables: &[u8], steps: &[f32], sums: &mut [f32]) {
    // One copy of the loop for each extent: all sums have to stay in locals.
    macro_rules! extents {
        ($fold:literal: $($vectors:literal)*) => {
            match (shape.vectors, shape.positions) {
                $(($vectors, 1) => tile_of::<$fold, $vectors, 1>(shape, codes, tables, steps, sums),
                ($vectors, 4) => tile_of::<$fold, $vectors, 4>(shape, codes, tables, steps, sums),
                ($vectors, 8) => tile_of::<$fold, $vectors, 8>(shape, codes, tables, steps, sums),)*
                _ => scalar::tile(shape, codes, tables, steps, sums),
            }
        };
    }
    match shape.fold.entries() {
        8 => extents!(8: 1 2 3 4),
        4 => extents!(4: 1 2 3 4),
        2 => extents!(2: 1 2 3 4),
        _ => extents!(1: 1 2 3 4),
    }
}

/// Sums in 16 bits of `R` vectors of 32 rows for `P` inputs.
type Wide<const R: usize, const P: usize> = [[[v128; 4]; R]; P];

/// Looks up 16 rows at a time, averages `F` entries, widens to 16 bits, and goes to floats at the end of each block.
fn tile_of<const F: usize, const R: usize, const P: usize>(
    shape: TileShape,
    codes: &[u8],
    tables: &[u8],
    steps: &[f32],
    sums: &mut [f32],
) {
    let TileShape { block_tables, .. } = shape;
    let mask = u8x16_splat(15);
    let block_codes = codes.chunks(block_tables * R * 16);
    let blocks = block_codes.zip(tables.chunks(block_tables * P * CODEBOOK_ENTRIES));
    for (block, ((codes, tables), steps)) in blocks.zip(steps.chunks_exact(P)).enumerate() {
        let count = codes.len() / (R * 16);
        let mut code = codes.as_ptr();
        let mut table = tables.as_ptr();
        let mut wide: Wide<R, P> = [[[i16x8_splat((count / F) as i16 * -(ENTRY_ZERO as i16)); 4]; R]; P];
        for _ in 0..count / F {
            // SAFETY: the loops visit `count` tables of each input and as many groups of `R` code vectors, which
            // `Backend::tile` has checked to be there; the pointers end at most one past their slices.
            unsafe {
                look_up::<F, R, P>(&mut wide, table, code, mask);
                code = code.add(F * R * 16);
                table = table.add(F * P * CODEBOOK_ENTRIES);
            }
        }
        // Units of as many entries as are averaged, unless some are left over: powers of two change no float's digits.
        let units = if count.is_multiple_of(F) { F as f32 } else { 1.0 };
        if !count.is_multiple_of(F) {
            let left = (count % F) as i16 * -(ENTRY_ZERO as i16);
            repeated!(p < P, {
                repeated!(r < R, {
                    repeated!(i < 4, {
                        let whole = i16x8_shl(wide[p][r][i], F.ilog2());
                        wide[p][r][i] = i16x8_add(whole, i16x8_splat(left));
                    });
                });
            });
            for _ in 0..count % F {
                // SAFETY: as above.
                unsafe {
                    look_up::<1, R, P>(&mut wide, table, code, mask);
                    code = code.add(R * 16);
                    table = table.add(P * CODEBOOK_ENTRIES);
                }
            }
        }
        repeated!(p < P, {
            let step = f32x4_splat(units * steps[p]);
            let sums = sums[p * R * VECTOR_ROWS..][..R * VECTOR_ROWS].as_mut_ptr().cast::<v128>();
            repeated!(r < R, {
                repeated!(i < 4, {
                    let value = wide[p][r][i];
                    // SAFETY: `sums` has `R · 32` floats, of which a vector of 16-bit sums is eight.
                    unsafe {
                        let [low, high] = [sums.add(r * 8 + i * 2), sums.add(r * 8 + i * 2 + 1)];
                        let scaled = |values| f32x4_mul(step, f32x4_convert_i32x4(values));
                        let first = scaled(i32x4_extend_low_i16x8(value));
                        let second = scaled(i32x4_extend_high_i16x8(value));
                        if block == 0 {
                            v128_store(low, first);
                            v128_store(high, second);
                        } else {
                            v128_store(low, f32x4_add(v128_load(low), first));
                            v128_store(high, f32x4_add(v128_load(high), second));
                        }
                    }
                });
            });
        });
    }
}

/// Adds the averages of the entries of `F` tables for `R` vectors of 32 rows and `P` inputs.
///
/// # Safety
/// `table` must point to `F · P · 16` entries and `code` to `F · R · 16` bytes.
#[inline(always)]
unsafe fn look_up<const F: usize, const R: usize, const P: usize>(
    wide: &mut Wide<R, P>,
    table: *const u8,
    code: *const u8,
    mask: v128,
) {
    let zero = u8x16_splat(0);
    let mut low = [[zero; F]; R];
    let mut high = [[zero; F]; R];
    repeated!(r < R, {
        repeated!(f < F, {
            // SAFETY: as the caller promises.
            let byte = unsafe { v128_load(code.add((f * R + r) * 16).cast()) };
            low[r][f] = v128_and(byte, mask);
            high[r][f] = u8x16_shr(byte, 4);
        });
    });
    repeated!(p < P, {
        let mut entries = [zero; F];
        repeated!(f < F, {
            // SAFETY: as the caller promises.
            entries[f] = unsafe { v128_load(table.add((f * P + p) * CODEBOOK_ENTRIES).cast()) };
        });
        repeated!(r < R, {
            let wide = &mut wide[p][r];
            let low = average(entries, low[r]);
            wide[0] = i16x8_add(wide[0], i16x8_extend_low_u8x16(low));
            wide[1] = i16x8_add(wide[1], i16x8_extend_high_u8x16(low));
            let high = average(entries, high[r]);
            wide[2] = i16x8_add(wide[2], i16x8_extend_low_u8x16(high));
            wide[3] = i16x8_add(wide[3], i16x8_extend_high_u8x16(high));
        });
    });
}

/// The entries of `F` tables at one code of each, averaged in pairs.
#[inline(always)]
fn average<const F: usize>(tables: [v128; F], codes: [v128; F]) -> v128 {
    let entry = |i: usize| i8x16_swizzle(tables[i], codes[i]);
    let two = |i: usize| u8x16_avgr(entry(i), entry(i + 1));
    let four = |i: usize| u8x16_avgr(two(i), two(i + 2));
    match F {
        8 => u8x16_avgr(four(0), four(4)),
        4 => four(0),
        2 => two(0),
        _ => entry(0),
    }
}
