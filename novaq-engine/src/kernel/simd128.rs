//! WebAssembly SIMD128, written for few instructions under the Internet Computer's cost table, where most vector
//! operations cost 1 like the `local.get` that feeds them, and float additions and multiplications 2.

use super::lanes::Lanes;
use super::{
    BlockRange, BlockScratch, CACHE_BLOCK, CODEBOOK_ENTRIES, ENTRY_ZERO, GROUPS_AT_ONCE, Packing, ROUNDING,
    TILE_POSITIONS, TileShape, VECTOR_ROWS, scalar,
};
use std::arch::wasm32::{
    f32x4_add, f32x4_convert_i32x4, f32x4_div, f32x4_ge, f32x4_mul, f32x4_pmax, f32x4_pmin, f32x4_splat,
    f32x4_sub, i8x16_narrow_i16x8, i8x16_sub, i8x16_swizzle, i16x8_add, i16x8_extend_high_i8x16,
    i16x8_extend_high_u8x16, i16x8_extend_low_i8x16, i16x8_extend_low_u8x16, i16x8_load_extend_i8x8,
    i16x8_max, i16x8_min, i16x8_narrow_i32x4, i16x8_q15mulr_sat, i16x8_shl, i16x8_shuffle, i16x8_splat,
    i16x8_sub, i32x4_add, i32x4_dot_i16x8, i32x4_extend_high_i16x8, i32x4_extend_low_i16x8,
    i32x4_extract_lane, i32x4_max, i32x4_shl, i32x4_shr, i32x4_shuffle, i32x4_splat, i32x4_sub, u8x16_avgr,
    u8x16_shr, u8x16_splat, v128, v128_and, v128_any_true, v128_load, v128_load16_splat, v128_load32_splat,
    v128_not, v128_store, v128_xor,
};

/// Repeats a block for the numbers from 0 that are below a constant, which is at most the first argument. Written out instead of
/// looped over: sums have to stay in locals, and the compiler gives up unrolling at 4. Nested blocks multiply.
macro_rules! repeated {
    (2: $i:ident < $n:expr, $body:block) => { repeated!(@ $i, $n, $body, 0 1) };
    (4: $i:ident < $n:expr, $body:block) => { repeated!(@ $i, $n, $body, 0 1 2 3) };
    (8: $i:ident < $n:expr, $body:block) => { repeated!(@ $i, $n, $body, 0 1 2 3 4 5 6 7) };
    (16: $i:ident < $n:expr, $body:block) => {
        repeated!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (32: $i:ident < $n:expr, $body:block) => {
        repeated!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31)
    };
    (@ $i:ident, $n:expr, $body:block, $($number:literal)*) => {
        $(if $number < $n {
            let $i: usize = $number;
            $body
        })*
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
    fn or_larger_magnitude(self, other: Self) -> Self {
        // Bits of floats that are not negative are ordered as the floats, with infinity and NaN on top.
        Self(i32x4_max(self.0, v128_and(other.0, i32x4_splat(0x7fff_ffff))))
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

/// Calls a function for as many queries as there are: a copy for each number, since what belongs to a query has to stay in locals.
macro_rules! for_queries {
    ($count:expr, $of:ident $arguments:tt) => {
        match $count {
            8 => $of::<8> $arguments,
            4 => $of::<4> $arguments,
            3 => $of::<3> $arguments,
            2 => $of::<2> $arguments,
            _ => $of::<1> $arguments,
        }
    };
}

/// See [`super::Backend::key_products`].
pub(super) fn key_products(count: usize, queries: &[i16], keys: &[i8], stride: usize, products: &mut [i32]) {
    for_queries!(count, key_products_of(queries, keys, stride, products));
}

fn key_products_of<const Q: usize>(queries: &[i16], keys: &[i8], stride: usize, products: &mut [i32]) {
    let width = queries.len() / Q;
    let mut done = 0;
    while done < width {
        let (size, of): (_, unsafe fn(_, _, _, _, &mut _)) = match (width - done, done) {
            (64.., 0) => (64, pairs_of::<Q, 32, true>),
            (64.., _) => (64, pairs_of::<Q, 32, false>),
            (32.., 0) => (32, pairs_of::<Q, 16, true>),
            (32.., _) => (32, pairs_of::<Q, 16, false>),
            (_, 0) => (4, pairs_of::<Q, 2, true>),
            _ => (4, pairs_of::<Q, 2, false>),
        };
        // SAFETY: `Backend::key_products` has checked that all blocks are there; what is left of a query is a multiple of 4.
        unsafe { of(queries.as_ptr().add(done), keys.as_ptr().add(4 * done), width, stride, products) };
        done += size;
    }
}

/// Adds the products of `N` pairs of `Q` queries with the keys at `keys`, or stores them if they are the first.
///
/// # Safety
/// `queries` must point to `2 · N` elements of each query, `width` apart, and each block of keys have as many pairs behind `keys`.
unsafe fn pairs_of<const Q: usize, const N: usize, const FIRST: bool>(
    queries: *const i16,
    mut keys: *const i8,
    width: usize,
    stride: usize,
    products: &mut [i32],
) {
    let mut x = [[i32x4_splat(0); N]; Q];
    repeated!(8: q < Q, {
        let query = queries.wrapping_add(q * width);
        repeated!(32: p < N, {
            // SAFETY: as the caller promises.
            x[q][p] = unsafe { v128_load32_splat(query.add(2 * p).cast()) };
        });
    });
    for block in products.chunks_exact_mut(Q * CACHE_BLOCK) {
        let (mut group, mut at) = (keys, block.as_mut_ptr().cast::<v128>());
        for _ in 0..CACHE_BLOCK / 4 {
            // SAFETY: a query's products with a block are four vectors; a group of four keys has eight bytes per pair.
            unsafe {
                let mut k = [i32x4_splat(0); N];
                repeated!(32: p < N, {
                    k[p] = i16x8_load_extend_i8x8(group.add(8 * p));
                });
                repeated!(8: q < Q, {
                    let first = i32x4_dot_i16x8(k[0], x[q][0]);
                    let mut sum = if FIRST { first } else { i32x4_add(v128_load(at.add(4 * q)), first) };
                    repeated!(32: p < N, {
                        if p > 0 {
                            sum = i32x4_add(sum, i32x4_dot_i16x8(k[p], x[q][p]));
                        }
                    });
                    v128_store(at.add(4 * q), sum);
                });
            }
            group = group.wrapping_add(4 * width);
            at = at.wrapping_add(1);
        }
        keys = keys.wrapping_add(stride);
    }
}

/// See [`super::Backend::value_sums`].
pub(super) fn value_sums(count: usize, weights: &[i16], values: &[i8], stride: usize, sums: &mut [i32]) {
    for_queries!(count, value_sums_of(weights, values, stride, sums));
}

fn value_sums_of<const Q: usize>(weights: &[i16], values: &[i8], stride: usize, sums: &mut [i32]) {
    let mut values = values.as_ptr();
    let twos = weights.chunks_exact(2 * Q * CACHE_BLOCK);
    let rest = twos.remainder();
    for weights in twos {
        // SAFETY: `Backend::value_sums` has checked that all blocks are there.
        unsafe { blocks_of::<Q, 2>(weights, values, stride, sums) };
        values = values.wrapping_add(2 * stride);
    }
    if !rest.is_empty() {
        // SAFETY: as above.
        unsafe { blocks_of::<Q, 1>(rest, values, stride, sums) };
    }
}

/// Adds what is in `B` blocks: the more, the fewer visits of the sums.
///
/// # Safety
/// `weights` must be `[B][Q][CACHE_BLOCK]`, and `values` point to as many blocks as wide as `sums`, `stride` bytes apart.
unsafe fn blocks_of<const Q: usize, const B: usize>(
    weights: &[i16],
    values: *const i8,
    stride: usize,
    sums: &mut [i32],
) {
    const PAIRS: usize = CACHE_BLOCK / 2;
    let mut w = [[[i32x4_splat(0); PAIRS]; B]; Q];
    repeated!(8: q < Q, {
        repeated!(2: b < B, {
            repeated!(8: p < PAIRS, {
                let pair = weights.as_ptr().wrapping_add((b * Q + q) * CACHE_BLOCK + 2 * p);
                // SAFETY: as the caller promises.
                w[q][b][p] = unsafe { v128_load32_splat(pair.cast()) };
            });
        });
    });
    let mut blocks = [values; B];
    repeated!(2: b < B, {
        blocks[b] = values.wrapping_add(b * stride);
    });
    for sums in sums.chunks_exact_mut(4 * Q) {
        let at = sums.as_mut_ptr().cast::<v128>();
        // SAFETY: as the caller promises; four sums of a query are a vector.
        unsafe {
            let mut v = [[i32x4_splat(0); PAIRS]; B];
            repeated!(2: b < B, {
                repeated!(8: p < PAIRS, {
                    v[b][p] = i16x8_load_extend_i8x8(blocks[b].add(8 * p));
                });
                blocks[b] = blocks[b].wrapping_add(8 * PAIRS);
            });
            repeated!(8: q < Q, {
                let mut sum = v128_load(at.add(q));
                repeated!(2: b < B, {
                    repeated!(8: p < PAIRS, {
                        sum = i32x4_add(sum, i32x4_dot_i16x8(v[b][p], w[q][b][p]));
                    });
                });
                v128_store(at.add(q), sum);
            });
        }
    }
}

/// See [`super::Backend::block_tables`].
pub(super) fn block_tables(
    words: &[i16],
    dimension: usize,
    input: &[i16],
    scratch: &mut BlockScratch,
    entries: &mut [[u8; CODEBOOK_ENTRIES]],
    stride: usize,
) -> BlockRange {
    let codebooks = words.len() / (CODEBOOK_ENTRIES * dimension);
    let BlockScratch { sums, centers } = scratch;
    let range = match dimension {
        4 => block_sums::<4>(words, codebooks, input, sums, centers),
        _ => block_sums::<8>(words, codebooks, input, sums, centers),
    };
    let inverse = i16x8_splat(range.inverse);
    let zero = u8x16_splat(ENTRY_ZERO as u8);
    let (mut sum, mut center) = (sums.as_ptr().cast::<v128>(), centers.as_ptr());
    let per_group = stride * codebooks;
    let mut left = entries.len().div_ceil(per_group);
    let mut first = entries.as_mut_ptr().cast::<v128>();
    while left > 0 {
        // Of the last four groups some may not be there: what stands for them is written to the first, and over at once.
        let mut tables = [first; GROUPS_AT_ONCE];
        repeated!(4: g < GROUPS_AT_ONCE, {
            tables[g] = if g < left { first.wrapping_add(g * per_group) } else { first };
        });
        for _ in 0..codebooks {
            // SAFETY: `block_sums` has left two vectors of sums and a center for each table, groups by fours and in them by
            // codebook; `Backend::block_tables` has checked that there are entries for each.
            unsafe {
                repeated!(4: i < GROUPS_AT_ONCE, {
                    let g = GROUPS_AT_ONCE - 1 - i;
                    let middle = v128_load16_splat(center.add(g).cast());
                    let scaled =
                        |i: usize| i16x8_q15mulr_sat(i16x8_sub(v128_load(sum.add(2 * g + i)), middle), inverse);
                    v128_store(tables[g], v128_xor(i8x16_narrow_i16x8(scaled(0), scaled(1)), zero));
                    tables[g] = tables[g].wrapping_add(stride);
                });
            }
            (sum, center) = (sum.wrapping_add(2 * GROUPS_AT_ONCE), center.wrapping_add(GROUPS_AT_ONCE));
        }
        first = first.wrapping_add(GROUPS_AT_ONCE * per_group);
        left -= left.min(GROUPS_AT_ONCE);
    }
    range
}

/// Sums of the entries and centers of the tables of a block, `[groups / 4][M][4]`; codewords have `D` columns.
fn block_sums<const D: usize>(
    words: &[i16],
    codebooks: usize,
    input: &[i16],
    sums: &mut [[i16; CODEBOOK_ENTRIES]],
    centers: &mut [i32],
) -> BlockRange {
    // A pair's difference, more one, and its sum, less one, when the second is the complement of a lowest entry.
    let (plus, minus) = (i16x8_splat(1), i32x4_splat(-0xffff));
    let (mut ranges, mut total) = (i32x4_splat(-2), i32x4_splat(0));
    let (mut sum, mut center) = (sums.as_mut_ptr().cast::<v128>(), centers.as_mut_ptr().cast::<v128>());
    for input in input.chunks_exact(GROUPS_AT_ONCE * D) {
        let mut x = [[i16x8_splat(0); D]; GROUPS_AT_ONCE];
        repeated!(4: g < 4, {
            repeated!(8: j < D, {
                // SAFETY: `input` holds so many int16.
                x[g][j] = unsafe { v128_load16_splat(input.as_ptr().add(g * D + j).cast()) };
            });
        });
        let mut word = words.as_ptr().cast::<v128>();
        for _ in 0..codebooks {
            let mut s = [[i16x8_splat(0); 2]; GROUPS_AT_ONCE];
            repeated!(8: j < D, {
                // SAFETY: a codebook has two vectors for each of its `D` columns.
                let words = unsafe { [v128_load(word.add(2 * j)), v128_load(word.add(2 * j + 1))] };
                repeated!(4: g < 4, {
                    let products = words.map(|words| i16x8_q15mulr_sat(words, x[g][j]));
                    s[g] = if j == 0 {
                        products
                    } else {
                        [i16x8_add(s[g][0], products[0]), i16x8_add(s[g][1], products[1])]
                    };
                });
            });
            // Highest entries and the complements of the lowest: both are largest.
            let mut ends = [i16x8_splat(0); GROUPS_AT_ONCE];
            repeated!(4: g < 4, {
                let [a, b] = s[g];
                // SAFETY: a table's sums are two vectors.
                unsafe {
                    v128_store(sum.add(2 * g), a);
                    v128_store(sum.add(2 * g + 1), b);
                }
                let (high, low) = (i16x8_max(a, b), v128_not(i16x8_min(a, b)));
                ends[g] = i16x8_max(
                    i16x8_shuffle::<0, 1, 2, 3, 8, 9, 10, 11>(high, low),
                    i16x8_shuffle::<4, 5, 6, 7, 12, 13, 14, 15>(high, low),
                );
            });
            let of_two = |a, b| {
                i16x8_max(
                    i16x8_shuffle::<0, 1, 4, 5, 8, 9, 12, 13>(a, b),
                    i16x8_shuffle::<2, 3, 6, 7, 10, 11, 14, 15>(a, b),
                )
            };
            let (a, b) = (of_two(ends[0], ends[1]), of_two(ends[2], ends[3]));
            // The highest entry and the complement of the lowest of each of four tables.
            let four = i16x8_max(
                i16x8_shuffle::<0, 2, 4, 6, 8, 10, 12, 14>(a, b),
                i16x8_shuffle::<1, 3, 5, 7, 9, 11, 13, 15>(a, b),
            );
            ranges = i32x4_max(ranges, i32x4_dot_i16x8(four, plus));
            let middle = i32x4_shr(i32x4_dot_i16x8(four, minus), 1);
            total = i32x4_add(total, middle);
            // SAFETY: four centers are one vector.
            unsafe { v128_store(center, middle) };
            word = word.wrapping_add(2 * D);
            sum = sum.wrapping_add(2 * GROUPS_AT_ONCE);
            center = center.wrapping_add(1);
        }
    }
    let lanes = |v| {
        [
            i32x4_extract_lane::<0>(v),
            i32x4_extract_lane::<1>(v),
            i32x4_extract_lane::<2>(v),
            i32x4_extract_lane::<3>(v),
        ]
    };
    let range = lanes(ranges).into_iter().fold(-2, i32::max);
    BlockRange::new((range + 2) >> 1, lanes(total).iter().sum())
}

/// See [`super::Backend::tile`].
pub(super) fn tile(shape: TileShape, codes: &[u8], tables: &[u8], steps: &[f32], sums: &mut [f32]) {
    // One copy of the loop for each extent: all sums have to stay in locals.
    macro_rules! heights {
        ($fold:literal $packed:literal $positions:literal ($($vectors:literal)*)) => {
            match shape.vectors {
                $($vectors => {
                    tile_of::<$fold, $packed, $vectors, $positions>(shape, codes, tables, steps, sums);
                })*
                _ => scalar::tile(shape, codes, tables, steps, sums),
            }
        };
    }
    macro_rules! extents {
        ($fold:literal $packed:literal, $($positions:literal)*: $heights:tt) => {
            match shape.positions {
                $($positions => heights!($fold $packed $positions $heights),)*
                _ => scalar::tile(shape, codes, tables, steps, sums),
            }
        };
    }
    match (shape.packing, shape.fold.entries()) {
        (Packing::Nibbles, 8) => extents!(8 true, 1 8 16: (1 2 3 4)),
        (Packing::Nibbles, 4) => extents!(4 true, 1 8: (1 2 3 4)),
        (Packing::Nibbles, 2) => extents!(2 true, 1 8: (1 2 3 4)),
        (Packing::Nibbles, _) => extents!(1 true, 1 8: (1 2 3 4)),
        (Packing::Bytes, 8) => extents!(8 false, 1 8 16: (1 2 8)),
        (Packing::Bytes, 4) => extents!(4 false, 1 8: (1 2 8)),
        (Packing::Bytes, 2) => extents!(2 false, 1 8: (1 2 8)),
        (Packing::Bytes, _) => extents!(1 false, 1 8: (1 2 8)),
    }
}

/// Sums in 16 bits of `R` vectors of 32 rows for `P` inputs.
type Wide<const R: usize, const P: usize> = [[[v128; 4]; R]; P];

/// Looks up 16 rows at a time, averages `F` entries, widens to 16 bits, and goes to floats at the end of each block. `N` says
/// that codes are packed as nibbles.
fn tile_of<const F: usize, const N: bool, const R: usize, const P: usize>(
    shape: TileShape,
    codes: &[u8],
    tables: &[u8],
    steps: &[f32],
    sums: &mut [f32],
) {
    let TileShape { block_tables, packing, .. } = shape;
    let group = R * packing.vector_bytes();
    let blocks = codes.chunks(block_tables * group).zip(tables.chunks(block_tables * P * CODEBOOK_ENTRIES));
    for (block, ((codes, tables), steps)) in blocks.zip(steps.chunks_exact(P)).enumerate() {
        let count = codes.len() / group;
        let mut code = codes.as_ptr();
        let mut table = tables.as_ptr();
        let mut wide: Wide<R, P> = [[[i16x8_splat((count / F) as i16 * -(ENTRY_ZERO as i16)); 4]; R]; P];
        // The loops visit `count` tables of each input and as many groups of `R` code vectors, which `Backend::tile` has checked to
        // be there; the pointers end at most one past their slices.
        macro_rules! look_up {
            ($fold:expr, $tables:expr) => {
                // SAFETY: as said above.
                unsafe {
                    look_up::<$fold, $tables, N, R, P>(&mut wide, table, code);
                    code = code.add($tables * group);
                    table = table.add($tables * P * CODEBOOK_ENTRIES);
                }
            };
        }
        // The more tables at a time, the fewer instructions each takes to be widened; where that counts most.
        let mut left = count;
        if !N && P == TILE_POSITIONS {
            for _ in 0..count / 32 {
                look_up!(F, 32);
            }
            left %= 32;
        } else if !N && (P == 1 || F == 8) {
            for _ in 0..count / 16 {
                look_up!(F, 16);
            }
            left %= 16;
        }
        for _ in 0..left / F {
            look_up!(F, F);
        }
        // Units of as many entries as are averaged, unless some are left over: powers of two change no float's digits.
        let units = if count.is_multiple_of(F) { F as f32 } else { 1.0 };
        if !count.is_multiple_of(F) {
            let left = (count % F) as i16 * -(ENTRY_ZERO as i16);
            repeated!(16: p < P, {
                repeated!(8: r < R, {
                    repeated!(4: i < 4, {
                        let whole = i16x8_shl(wide[p][r][i], F.ilog2());
                        wide[p][r][i] = i16x8_add(whole, i16x8_splat(left));
                    });
                });
            });
            for _ in 0..count % F {
                look_up!(1, 1);
            }
        }
        // One copy of this code for all inputs: of several, sums are in memory from here on.
        let wide = wide;
        for ((wide, step), sums) in wide.iter().zip(steps).zip(sums.chunks_exact_mut(R * VECTOR_ROWS)) {
            let (step, sums) = (f32x4_splat(units * step), sums.as_mut_ptr().cast());
            // SAFETY: `sums` has `R · 32` floats.
            unsafe {
                if block == 0 {
                    add_scaled::<true, R>(wide, step, sums);
                } else {
                    add_scaled::<false, R>(wide, step, sums);
                }
            }
        }
    }
}

/// Adds 16-bit sums times `step` to `sums`, or stores them if they are the first.
///
/// # Safety
/// `sums` must point to `R · 32` floats.
#[inline(always)]
unsafe fn add_scaled<const FIRST: bool, const R: usize>(wide: &[[v128; 4]; R], step: v128, sums: *mut v128) {
    let scaled = |values| f32x4_mul(step, f32x4_convert_i32x4(values));
    repeated!(8: r < R, {
        repeated!(4: i < 4, {
            let value = wide[r][i];
            // SAFETY: as the caller promises; a vector of 16-bit sums is eight floats.
            unsafe {
                let [low, high] = [sums.add(r * 8 + i * 2), sums.add(r * 8 + i * 2 + 1)];
                let first = scaled(i32x4_extend_low_i16x8(value));
                v128_store(low, if FIRST { first } else { f32x4_add(v128_load(low), first) });
                let second = scaled(i32x4_extend_high_i16x8(value));
                v128_store(high, if FIRST { second } else { f32x4_add(v128_load(high), second) });
            }
        });
    });
}

/// Adds the entries of `S` tables, averages of `F` of them, for `R` vectors of 32 rows and `P` inputs.
///
/// # Safety
/// `table` must point to `S · P · 16` entries and `code` to the codes of `S · R` vectors.
#[inline(always)]
unsafe fn look_up<const F: usize, const S: usize, const N: bool, const R: usize, const P: usize>(
    wide: &mut Wide<R, P>,
    table: *const u8,
    code: *const u8,
) {
    let mut codes = [[[u8x16_splat(0); S]; 2]; R];
    repeated!(8: r < R, {
        // SAFETY: as the caller promises.
        codes[r] = unsafe { codes_of::<S, N, R>(code, r) };
    });
    repeated!(16: p < P, {
        let mut tables = [u8x16_splat(0); S];
        repeated!(32: s < S, {
            // SAFETY: as the caller promises.
            tables[s] = unsafe { v128_load(table.add((s * P + p) * CODEBOOK_ENTRIES).cast()) };
        });
        repeated!(8: r < R, {
            repeated!(2: half < 2, {
                let sums = &mut wide[p][r];
                [sums[2 * half], sums[2 * half + 1]] =
                    added::<F, S>([sums[2 * half], sums[2 * half + 1]], &tables, &codes[r][half]);
            });
        });
    });
}

/// Codes of the first and of the last 16 rows of vector `r` of `R` for `S` tables.
///
/// # Safety
/// `code` must point to the codes of `S · R` vectors.
#[inline(always)]
unsafe fn codes_of<const S: usize, const N: bool, const R: usize>(
    code: *const u8,
    r: usize,
) -> [[v128; S]; 2] {
    let mut codes = [[u8x16_splat(0); S]; 2];
    repeated!(32: s < S, {
        let vector = s * R + r;
        // SAFETY: as the caller promises.
        unsafe {
            if N {
                let byte = v128_load(code.add(vector * 16).cast());
                codes[0][s] = v128_and(byte, u8x16_splat(15));
                codes[1][s] = u8x16_shr(byte, 4);
            } else {
                codes[0][s] = v128_load(code.add(vector * VECTOR_ROWS).cast());
                codes[1][s] = v128_load(code.add(vector * VECTOR_ROWS + 16).cast());
            }
        }
    });
    codes
}

/// Sums of 16 rows with the entries of `S` tables at their codes, averages of `F` of them.
#[inline(always)]
fn added<const F: usize, const S: usize>(
    sums: [v128; 2],
    tables: &[v128; S],
    codes: &[v128; S],
) -> [v128; 2] {
    let entry = |i: usize| i8x16_swizzle(tables[i], codes[i]);
    let two = |i: usize| u8x16_avgr(entry(i), entry(i + 1));
    let four = |i: usize| u8x16_avgr(two(i), two(i + 2));
    let [mut low, mut high] = sums;
    repeated!(32: group < S / F, {
        let first = group * F;
        let average = match F {
            8 => u8x16_avgr(four(first), four(first + 4)),
            4 => four(first),
            2 => two(first),
            _ => entry(first),
        };
        low = i16x8_add(low, i16x8_extend_low_u8x16(average));
        high = i16x8_add(high, i16x8_extend_high_u8x16(average));
    });
    [low, high]
}
