//! Inner loops, in several implementations of one definition that agree to the last bit.
//!
//! Every sum either runs over integers (exact in any order) or over floats in the one order written down in
//! [`scalar`]. There is no fused multiply-add and no reassociation, so an implementation is free to choose its
//! instructions but not its results. [`Backend::available`] lists what this machine can run; tests compare all.

#![allow(
    clippy::inline_always,
    reason = "the reference is compiled anew for each target feature by inlining it"
)]
#![allow(clippy::cast_ptr_alignment, reason = "the vector loads and stores used here need no alignment")]

#[cfg(target_arch = "x86_64")]
mod avx2;
mod lanes;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;

use crate::model::Activation;
pub(crate) use lanes::Attention;
use std::ops::ControlFlow;

/// Entries of every codebook: one `i8x16.swizzle` looks up 16 rows at once.
pub const CODEBOOK_ENTRIES: usize = 16;
/// Output rows whose nibbles share one 16-byte vector.
pub const VECTOR_ROWS: usize = 32;
/// Vectors of rows that a full tile interleaves: 4 × 32 = 128 output rows.
pub const TILE_VECTORS: usize = 4;
/// Most tables that share one step: their sums stay within 16 bits, since 256 entries of at most 127 make 32,512.
pub const BLOCK_TABLES: usize = 256;
/// Most column groups whose tables share one step.
pub const BLOCK_GROUPS: usize = 40;
/// Column groups whose tables are built together.
pub(crate) const GROUPS_AT_ONCE: usize = 4;
/// What the integer inputs of a column group add up to at most: with codewords of 16 bits as fractions below 1, 16 bits then hold
/// every sum of their products, each of which is rounded up by at most a half.
pub(crate) const GROUP_INPUTS: i16 = 32_760;
/// Most input vectors whose tables can lie side by side, so that one tile of codes serves all: [`TileShape::positions`].
pub(crate) const TILE_POSITIONS: usize = 16;
/// Positions whose keys and values lie together in the cache.
pub(crate) const CACHE_BLOCK: usize = 16;
/// Queries that read keys and values at the same time: as many as are left of the first that fits.
pub(crate) const ATTENTION_QUERIES: [usize; 5] = [8, 4, 3, 2, 1];
/// Largest number of codebooks of a set.
pub const MAX_CODEBOOKS: usize = 8;
/// Input columns of an INT8 matrix summed in 32 bits before the sum goes to a float:
/// 512 · 127 · 32,767 is below 2³¹.
pub const INT8_BLOCK_COLUMNS: usize = 512;
/// Input columns of an INT4 matrix that share a scale: 32 · 8 · 32,767 is a whole number that a float holds.
pub const INT4_GROUP: usize = 32;
/// What stands for 0 in a table's unsigned entries.
const ENTRY_ZERO: i32 = 128;
/// Adding 1.5 · 2²³ to a float of magnitude below 2²² leaves its nearest integer (ties to even) in the low bits.
const ROUNDING: f32 = 12_582_912.0;

/// An implementation of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Portable Rust: the reference.
    Scalar,
    /// 256-bit integer vectors of x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 128-bit vectors of WebAssembly.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Simd128,
}

impl Backend {
    /// The fastest implementation that this machine runs.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        return Self::Simd128;
        #[allow(unreachable_code, reason = "reached where no vector implementation exists")]
        Self::Scalar
    }

    /// Every implementation that this machine runs, the reference first.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        if Self::detect() != Self::Scalar {
            all.push(Self::detect());
        }
        all
    }

    /// Dot product of two vectors of equal length, summed in eight lanes (column mod 8) that are joined pairwise.
    pub fn dot_f32(self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "dot product of unequal lengths");
        match self {
            // SAFETY: `Avx2` is only made by `detect`, after the processor said that it has AVX2.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::dot_f32(a, b) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::dot::<simd128::F32x4>(a, b),
            Self::Scalar => lanes::dot::<[f32; 4]>(a, b),
        }
    }

    /// Dot products of each of `a` with each of `b`, all of equal length: the sums of [`Self::dot_f32`], several at a time.
    pub fn dots_f32<const A: usize, const B: usize>(self, a: [&[f32]; A], b: [&[f32]; B]) -> [[f32; B]; A] {
        let len = a[0].len();
        assert!(a.iter().chain(&b).all(|v| v.len() == len), "dot products of unequal lengths");
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::dots_f32(a, b) },
            _ => a.map(|a| b.map(|b| self.dot_f32(a, b))),
        }
    }

    /// Exact dot product of int8 weights and int16 inputs of equal length, at most [`INT8_BLOCK_COLUMNS`] long.
    pub fn dot_i8_i16(self, weights: &[i8], input: &[i16]) -> i32 {
        assert!(weights.len() == input.len() && weights.len() <= INT8_BLOCK_COLUMNS, "int8 dot product");
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::dot_i8_i16(weights, input) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::dot_i8_i16(weights, input),
            Self::Scalar => scalar::dot_i8_i16(weights, input),
        }
    }

    /// Dot product of a row of an INT4 matrix, in codes of `q + 8` as [`crate::codec::Int4Matrix`] keeps them, with int16
    /// inputs: the exact sum of each group of [`INT4_GROUP`] columns times its scale, added up in ascending order.
    pub(crate) fn dot_i4_i16(self, codes: &[u8], scales: &[f32], input: &[i16]) -> f32 {
        let groups = input.len().div_ceil(INT4_GROUP);
        assert!(codes.len() == groups * INT4_GROUP / 2 && scales.len() == groups, "int4 dot product");
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::dot_i4_i16(codes, scales, input) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::dot_i4_i16(codes, scales, input),
            Self::Scalar => scalar::dot_i4_i16(codes, scales, input),
        }
    }

    /// Quantizes `input` with one scale to integers of at most `limit`, so that `input[i] ≈ output[i] * scale`, and returns the
    /// scale. An input that holds a NaN or an infinity gives zeros and a NaN scale.
    pub fn quantize(self, input: &[f32], limit: i16, output: &mut [i16]) -> f32 {
        assert_eq!(input.len(), output.len(), "integers of an input");
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::quantize(input, limit, output) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::quantize::<simd128::F32x4>(input, limit, output),
            Self::Scalar => lanes::quantize::<[f32; 4]>(input, limit, output),
        }
    }

    /// The largest of `values`; a NaN if one of them is not finite, negative infinity if there are none.
    pub fn largest(self, values: &[f32]) -> f32 {
        match self {
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::largest_finite::<simd128::F32x4>(values),
            _ => lanes::largest_finite::<[f32; 4]>(values),
        }
    }

    /// Shows `each` the index and value of every one of `values` that is at least `least`, until it breaks: fast where few are.
    pub fn for_each_at_least(
        self,
        values: &[f32],
        least: f32,
        each: impl FnMut(u32, f32) -> ControlFlow<()>,
    ) {
        match self {
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::for_each_at_least::<simd128::F32x4>(values, least, each),
            _ => lanes::for_each_at_least::<[f32; 4]>(values, least, each),
        }
    }

    /// `output[r] = ((sums[r] + offset) · factor) · scales[r]`; there may be more sums than rows.
    pub(crate) fn scale_rows(
        self,
        sums: &[f32],
        offset: f32,
        factor: f32,
        scales: &[f32],
        output: &mut [f32],
    ) {
        assert!(sums.len() >= output.len() && scales.len() == output.len(), "rows of a tile");
        match self {
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::scale_rows::<simd128::F32x4>(sums, offset, factor, scales, output),
            _ => lanes::scale_rows::<[f32; 4]>(sums, offset, factor, scales, output),
        }
    }

    /// Replaces values by their exponentials, divided by that of the largest, and returns the sum of those: softmax but for the
    /// division. Four lanes (position mod 4) are summed.
    pub fn softmax_numerators(self, values: &mut [f32]) -> f32 {
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::softmax_numerators(values) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::softmax_numerators::<simd128::F32x4>(values),
            Self::Scalar => lanes::softmax_numerators::<[f32; 4]>(values),
        }
    }

    /// `output[i] = activation(gate[i]) · up[i]`: `x · sigmoid(x)`, or torch's `gelu(approximate="tanh")`, which is
    /// `x · sigmoid(√(8/π) · (x + 0.044715 x³))`.
    pub fn gate(self, activation: Activation, gate: &[f32], up: &[f32], output: &mut [f32]) {
        assert!(gate.len() == output.len() && up.len() == output.len(), "gates of unequal lengths");
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::gate(activation, gate, up, output) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::gate::<simd128::F32x4>(activation, gate, up, output),
            Self::Scalar => lanes::gate::<[f32; 4]>(activation, gate, up, output),
        }
    }

    /// Exact products of `count` queries, one of [`ATTENTION_QUERIES`], with [`CACHE_BLOCK`] keys at a time. `queries` is
    /// `[count][width]`, the width a multiple of 4; a block of `keys` is `[CACHE_BLOCK / 4][width / 2][4][2]`, one begins every
    /// `stride` bytes; `products` is `[blocks][count][CACHE_BLOCK]`.
    pub(crate) fn key_products(
        self,
        count: usize,
        queries: &[i16],
        keys: &[i8],
        stride: usize,
        products: &mut [i32],
    ) {
        Self::check_blocks(count, queries.len(), keys.len(), stride, products.len());
        match self {
            // SAFETY: as in `dot_f32`; lengths are checked above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::key_products(count, queries, keys, stride, products) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::key_products(count, queries, keys, stride, products),
            Self::Scalar => scalar::key_products(count, queries, keys, stride, products),
        }
    }

    /// Adds values times their weights, exactly, for `count` queries, one of [`ATTENTION_QUERIES`]. `weights` is
    /// `[blocks][count][CACHE_BLOCK]`, the magnitudes of a query's together at most 2²⁴, so that 32 bits hold every sum; a block of
    /// `values` is `[width / 4][CACHE_BLOCK / 2][4][2]`, one begins every `stride` bytes; `sums` is `[width / 4][count][4]`.
    pub(crate) fn value_sums(
        self,
        count: usize,
        weights: &[i16],
        values: &[i8],
        stride: usize,
        sums: &mut [i32],
    ) {
        Self::check_blocks(count, sums.len(), values.len(), stride, weights.len());
        match self {
            // SAFETY: as in `dot_f32`; lengths are checked above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::value_sums(count, weights, values, stride, sums) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::value_sums(count, weights, values, stride, sums),
            Self::Scalar => scalar::value_sums(count, weights, values, stride, sums),
        }
    }

    /// Attention weights of a query as integers, where its products are: softmax of the products times their scales, times the
    /// value's scale, times the factor that uses 16 bits; 0 for positions that don't count. Returns what sums of values with
    /// these weights are to be multiplied by; a NaN if anything was one. `buffer` is for what is in between.
    pub(crate) fn attention_weights(
        self,
        args: &Attention,
        buffer: &mut Vec<f32>,
        weights: &mut [i16],
    ) -> f32 {
        assert_eq!(args.products.len(), weights.len(), "weights of a query");
        buffer.resize(args.blocks().len() * CACHE_BLOCK, 0.0);
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::attention_weights(args, buffer, weights) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => lanes::attention_weights::<simd128::F32x4>(args, buffer, weights),
            Self::Scalar => lanes::attention_weights::<[f32; 4]>(args, buffer, weights),
        }
    }

    /// Panics unless the blocks for `positions` of `count` queries, of `width` elements in all, lie in `bytes` bytes.
    fn check_blocks(count: usize, width: usize, bytes: usize, stride: usize, positions: usize) {
        assert!(ATTENTION_QUERIES.contains(&count), "queries of a key");
        let (blocks, rest) = (positions / (count * CACHE_BLOCK), positions % (count * CACHE_BLOCK));
        assert!(width.is_multiple_of(4 * count) && rest == 0, "blocks of the cache");
        let width = width / count;
        assert!(blocks == 0 || (blocks - 1) * stride + CACHE_BLOCK * width <= bytes, "blocks of the cache");
    }

    /// Builds the tables of a block of column groups.
    ///
    /// `words` is the set as [`crate::codec::Codebooks`] keeps it for this (`[M][d][16]`), `input` the block's integers
    /// (`[groups][d]`, filled up with zeros to whole [`GROUPS_AT_ONCE`]), of which a group's add up to at most [`GROUP_INPUTS`]. The
    /// sum of an entry is `Σ_j round(word · input / 2¹⁵)`, halves rounded up (`i16x8.q15mulr_sat_s`, `pmulhrsw`); its table's center
    /// is the middle of its range, rounded up. `entries[i · stride][e] = round((sum − center) · inverse / 2¹⁵) + 128`.
    pub(crate) fn block_tables(
        self,
        words: &[i16],
        dimension: usize,
        input: &[i16],
        scratch: &mut BlockScratch,
        entries: &mut [[u8; CODEBOOK_ENTRIES]],
        stride: usize,
    ) -> BlockRange {
        let codebooks = words.len() / (CODEBOOK_ENTRIES * dimension);
        let tables = entries.len().div_ceil(stride);
        let groups = tables / codebooks;
        assert!([4, 8].contains(&dimension) && words.len() == codebooks * CODEBOOK_ENTRIES * dimension);
        assert_eq!(tables, groups * codebooks, "tables of a block");
        assert_eq!(input.len(), groups.next_multiple_of(GROUPS_AT_ONCE) * dimension, "inputs of a block");
        scratch.sums.resize(input.len() / dimension * codebooks, [0; CODEBOOK_ENTRIES]);
        scratch.centers.resize(scratch.sums.len(), 0);
        match self {
            // SAFETY: as in `dot_f32`; lengths are checked above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::block_tables(words, dimension, input, scratch, entries, stride) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::block_tables(words, dimension, input, scratch, entries, stride),
            Self::Scalar => scalar::block_tables(words, dimension, input, scratch, entries, stride),
        }
    }

    /// One tile of `vectors` × 32 output rows times `positions` inputs: adds up table entries by the tile's codes.
    ///
    /// `codes` is the tile (`[tables][vectors]` of what [`Packing`] says), `tables` those of the inputs (`[tables][positions][16]`,
    /// entries with 128 added), `steps` (`[blocks][positions]`) one factor per block of `block_tables` tables. `sums` (`[positions][rows]`)
    /// receives `Σ_block steps[block] · Σ entries`, the blocks in ascending order.
    ///
    /// In each block, as many tables in a row as `fold` says are averaged pairwise in 8 bits, every average rounded up
    /// (`i8x16.avgr_u`, `pavgb`; Blalock and Guttag, <https://arxiv.org/abs/2106.10860>), and count that many times; the tables
    /// that are left over at its end count one by one.
    pub(crate) fn tile(self, shape: TileShape, codes: &[u8], tables: &[u8], steps: &[f32], sums: &mut [f32]) {
        let TileShape { vectors, tables: count, block_tables, positions, packing, fold } = shape;
        assert!(packing.tile_vectors(vectors) == vectors && fold.tile_positions().contains(&positions));
        assert!(block_tables <= BLOCK_TABLES);
        assert_eq!(codes.len(), count * vectors * packing.vector_bytes(), "codes of a tile");
        assert_eq!(tables.len(), count * positions * CODEBOOK_ENTRIES, "tables of the inputs");
        assert_eq!(steps.len(), count.div_ceil(block_tables) * positions, "steps of the inputs");
        assert_eq!(sums.len(), positions * vectors * VECTOR_ROWS, "sums of a tile");
        match self {
            // SAFETY: as in `dot_f32`; every length is checked above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::tile(shape, codes, tables, steps, sums) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::tile(shape, codes, tables, steps, sums),
            Self::Scalar => scalar::tile(shape, codes, tables, steps, sums),
        }
    }
}

/// How many table entries are averaged in 8 bits before they are widened: a power of two from 1 to 8. More take fewer
/// instructions and cost precision (`docs/adr/0002-table-precision.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fold {
    /// Steps of averaging in pairs.
    levels: u32,
}

impl Fold {
    /// No averaging: every entry keeps its 8 bits.
    pub const ONE: Self = Self { levels: 0 };
    /// All, from the most precise to the fastest.
    pub const ALL: [Self; 4] = [Self::ONE, Self { levels: 1 }, Self { levels: 2 }, Self { levels: 3 }];

    /// What large models take for codes of `bits` per weight: the noise of the averages stays small against that of the codes
    /// (`docs/adr/0002-table-precision.md`).
    pub fn of_bits(bits: f64) -> Self {
        let levels = match bits {
            ..=2.25 => 3,
            ..=4.0 => 2,
            _ => 1,
        };
        Self { levels }
    }

    /// The same for a head, whose noise comes in once and not in every layer.
    pub fn of_head_bits(bits: f64) -> Self {
        Self { levels: if bits <= 3.0 { 3 } else { 2 } }
    }

    /// That of `entries` entries. `None` unless there is one.
    pub fn new(entries: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|fold| fold.entries() == entries)
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(crate) fn is_one(&self) -> bool {
        *self == Self::ONE
    }

    /// Entries that are averaged.
    pub const fn entries(self) -> usize {
        1 << self.levels
    }

    /// Numbers of input vectors whose tables lie side by side, most first. There is a copy of the loop for each, and most is
    /// to be gained where the loop is shortest.
    pub(crate) const fn tile_positions(self) -> &'static [usize] {
        if self.levels == 3 { &[TILE_POSITIONS, 8, 1] } else { &[8, 1] }
    }

    /// What rounding up adds to the sum of [`Self::entries`] entries in the mean: a quarter of each average's unit, and each
    /// level has as many averages as its unit is a part of the whole.
    pub(crate) fn bias(self) -> f32 {
        (self.entries() as u32 * self.levels) as f32 / 4.0
    }
}

/// How the codes of a matrix lie in memory. Products are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Two in a byte, as in an artifact: a vector of 32 rows is 16 bytes, low nibbles for its first 16 rows.
    Nibbles,
    /// One in a byte: twice the memory, and in WebAssembly a quarter fewer instructions, since taking a nibble out of its byte
    /// costs as much as the look-up.
    Bytes,
}

impl Default for Packing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Packing {
    /// All.
    pub const ALL: [Self; 2] = [Self::Nibbles, Self::Bytes];

    /// What is faster under the Internet Computer's cost table in a canister, and what is smaller elsewhere, where memory is
    /// the limit.
    pub const DEFAULT: Self = if cfg!(all(target_arch = "wasm32", target_feature = "simd128")) {
        Self::Bytes
    } else {
        Self::Nibbles
    };

    /// Bytes of the codes of [`VECTOR_ROWS`] rows.
    pub(crate) const fn vector_bytes(self) -> usize {
        match self {
            Self::Nibbles => VECTOR_ROWS / 2,
            Self::Bytes => VECTOR_ROWS,
        }
    }

    /// Vectors of the next tile where `left` are left. A tile's tables are loaded once, so high ones are cheaper; there is a
    /// copy of the loop for each height.
    pub(crate) fn tile_vectors(self, left: usize) -> usize {
        match self {
            Self::Nibbles => left.min(TILE_VECTORS),
            Self::Bytes => match left {
                8.. => 8,
                2.. => 2,
                _ => left,
            },
        }
    }

    /// Most vectors of a tile.
    pub(crate) const MOST_TILE_VECTORS: usize = 8;
}

/// What a block's tables have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRange {
    /// What entries were multiplied by, in 2⁻¹⁵; 0 if all are 0.
    pub inverse: i16,
    /// Sum of the centers.
    pub centers: i32,
}

/// Largest magnitude of a table entry.
const ENTRY_LIMIT: i32 = 127;

impl BlockRange {
    /// `widest` is the distance of the farthest entry from its table's center, at most [`GROUP_INPUTS`].
    fn new(widest: i32, centers: i32) -> Self {
        let inverse = if widest > 0 { (ENTRY_LIMIT << 15) / widest } else { 0 };
        Self { inverse: inverse.min(i32::from(i16::MAX)) as i16, centers }
    }

    /// What an entry is to be multiplied by.
    pub(crate) fn step(self) -> f32 {
        if self.inverse > 0 { 32_768.0 / f32::from(self.inverse) } else { 0.0 }
    }
}

/// What building the tables of a block needs, kept between calls.
#[derive(Debug, Default)]
pub(crate) struct BlockScratch {
    /// In an order of the implementation's own.
    sums: Vec<[i16; CODEBOOK_ENTRIES]>,
    centers: Vec<i32>,
}

/// Extent of one tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileShape {
    /// Vectors of 32 rows in the tile, one of what [`Packing::tile_vectors`] gives.
    pub vectors: usize,
    /// Tables of an input: one per column group and codebook.
    pub tables: usize,
    /// Tables that share a step, at most [`BLOCK_TABLES`].
    pub block_tables: usize,
    /// Inputs, one of [`Fold::tile_positions`].
    pub positions: usize,
    /// Entries that are averaged.
    pub fold: Fold,
    /// How the codes lie.
    pub packing: Packing,
}

/// Quantizes `input` to int8 with one scale, as [`Backend::quantize`] does to int16.
pub fn quantize_i8(input: &[f32], output: &mut [i8]) -> f32 {
    let largest = largest_magnitude(input);
    let scale = if largest.is_finite() { largest / f32::from(i8::MAX) } else { f32::NAN };
    let inverse = if scale > 0.0 { f32::from(i8::MAX) / largest } else { 0.0 };
    if inverse.is_finite() && inverse > 0.0 {
        for (q, &x) in output.iter_mut().zip(input) {
            *q = ((x * inverse + ROUNDING).to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32) as i8;
        }
    } else {
        output.fill(0);
    }
    scale
}

/// Largest magnitude of `input`; not finite if any element is not.
fn largest_magnitude(input: &[f32]) -> f32 {
    // Bit patterns of non-negative floats are ordered as the floats, with infinity and NaN on top.
    let bits = |x: f32| (x.to_bits() & 0x7fff_ffff) as i32;
    let (fours, rest) = input.as_chunks::<4>();
    let lanes = fours.iter().fold([0; 4], |lanes, four| std::array::from_fn(|i| bits(four[i]).max(lanes[i])));
    let largest = lanes.into_iter().chain(rest.iter().map(|&x| bits(x))).fold(0, i32::max);
    f32::from_bits(largest as u32)
}
