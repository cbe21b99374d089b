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
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;

/// Entries of every codebook: one `i8x16.swizzle` looks up 16 rows at once.
pub const CODEBOOK_ENTRIES: usize = 16;
/// Output rows whose nibbles share one 16-byte vector.
pub const VECTOR_ROWS: usize = 32;
/// Vectors of rows that a full tile interleaves: 4 × 32 = 128 output rows.
pub const TILE_VECTORS: usize = 4;
/// Input columns that share one table step. Their sums stay within 16 bits: with 8 codebooks over vectors of 4 weights,
/// 32 · 8 entries of at most 127 make 32,512.
pub const BLOCK_COLUMNS: usize = 128;
/// Largest number of codebooks of a set.
pub const MAX_CODEBOOKS: usize = 8;
/// Input columns of an INT8 matrix summed in 32 bits before the sum goes to a float:
/// 512 · 127 · 32,767 is below 2³¹.
pub const INT8_BLOCK_COLUMNS: usize = 512;
/// Input columns of an INT4 matrix that share a scale: 32 · 8 · 32,767 is a whole number that a float holds.
pub const INT4_GROUP: usize = 32;
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
            _ => scalar::dot_f32(a, b),
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
            _ => scalar::dots_f32(a, b),
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

    /// `output[i] += factor * values[i]` for vectors of equal length: a row of the value cache.
    pub fn add_scaled_i8(self, output: &mut [f32], factor: f32, values: &[i8]) {
        assert_eq!(output.len(), values.len(), "scaled addition of unequal lengths");
        match self {
            // SAFETY: as in `dot_f32`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::add_scaled_i8(output, factor, values) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::add_scaled_i8(output, factor, values),
            Self::Scalar => scalar::add_scaled_i8(output, factor, values),
        }
    }

    /// Exact partial sums of one column group: `raw[m][e]` is codeword `e` of codebook `m` times the group's inputs.
    ///
    /// `pairs` is the codebook set as [`crate::codec::Codebooks`] keeps it, `input` the group's `d` inputs.
    pub(crate) fn group_sums(self, pairs: &[i16], input: &[i16], raw: &mut [i32]) {
        debug_assert_eq!(pairs.len(), raw.len() * input.len());
        match self {
            // SAFETY: as in `dot_f32`; lengths are checked above and by `Codebooks`.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::group_sums(pairs, input, raw) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::group_sums(pairs, input, raw),
            Self::Scalar => scalar::group_sums(pairs, input, raw),
        }
    }

    /// Smallest and largest of 16 sums.
    pub(crate) fn range16(self, raw: &[i32; CODEBOOK_ENTRIES]) -> (i32, i32) {
        match self {
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::range16(raw),
            _ => scalar::range16(raw),
        }
    }

    /// `table[e] = round((raw[e] - center) * inverse_step)`, ties to even, for one codebook.
    pub(crate) fn quantize16(
        self,
        raw: &[i32; CODEBOOK_ENTRIES],
        center: i32,
        inverse_step: f32,
        table: &mut [i8; 16],
    ) {
        match self {
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => simd128::quantize16(raw, center, inverse_step, table),
            _ => scalar::quantize16(raw, center, inverse_step, table),
        }
    }

    /// One tile of `vectors` × 32 output rows times one input: adds up table entries by the tile's codes.
    ///
    /// `codes` is the tile (`[groups][codebooks][vectors][16]`), `tables` the input's tables
    /// (`[groups][codebooks][16]`), `steps` one factor per block of `block_groups` groups. `sums` (one per row)
    /// receives `Σ_block steps[block] · Σ entries`, the blocks in ascending order.
    pub(crate) fn tile(self, shape: TileShape, codes: &[u8], tables: &[i8], steps: &[f32], sums: &mut [f32]) {
        let TileShape { codebooks, vectors, groups, block_groups } = shape;
        assert!((1..=MAX_CODEBOOKS).contains(&codebooks) && (1..=TILE_VECTORS).contains(&vectors));
        assert_eq!(codes.len(), groups * codebooks * vectors * 16, "codes of a tile");
        assert_eq!(tables.len(), groups * codebooks * CODEBOOK_ENTRIES, "tables of an input");
        assert_eq!(steps.len(), groups.div_ceil(block_groups), "steps of an input");
        assert_eq!(sums.len(), vectors * VECTOR_ROWS, "sums of a tile");
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

/// Extent of one tile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileShape {
    /// Codebooks of the set.
    pub codebooks: usize,
    /// Vectors of 32 rows in the tile, 1 to [`TILE_VECTORS`].
    pub vectors: usize,
    /// Column groups of the matrix.
    pub groups: usize,
    /// Column groups that share a step.
    pub block_groups: usize,
}

/// Quantizes `input` to int16 with one scale, so that `input[i] ≈ output[i] * scale`, and returns the scale.
///
/// An input that holds a NaN or an infinity gives zeros and a NaN scale, so that it can't pass unnoticed.
pub fn quantize_i16(input: &[f32], output: &mut [i16]) -> f32 {
    let largest = largest_magnitude(input);
    let scale = if largest.is_finite() { largest / f32::from(i16::MAX) } else { f32::NAN };
    let inverse = if scale > 0.0 { f32::from(i16::MAX) / largest } else { 0.0 };
    if inverse.is_finite() && inverse > 0.0 {
        for (q, &x) in output.iter_mut().zip(input) {
            *q = ((x * inverse + ROUNDING).to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32) as i16;
        }
    } else {
        output.fill(0);
    }
    scale
}

/// Quantizes `input` to int8 with one scale, as [`quantize_i16`] does to int16.
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
    let bits = input.iter().map(|x| (x.to_bits() & 0x7fff_ffff) as i32).fold(0, i32::max);
    f32::from_bits(bits as u32)
}
