//! AQ(M, d): additive quantization with 16-entry codebooks.
//!
//! A row is cut into groups of `d` weights, each the sum of `M` codewords, one from each of `M` codebooks of 16:
//! `4M/d` bits per weight. A product with a vector first builds, per group and codebook, the table of the 16
//! codewords' products with the group's inputs; every row then only looks up and adds.
//!
//! Additive quantization: Babenko and Lempitsky, 2014; for language models: AQLM, Egiazarian et al., 2024.

use super::{CodecError, Input, finite, read_f16, to_f16};
use crate::kernel::{
    BLOCK_GROUPS, BLOCK_TABLES, Backend, BlockScratch, CODEBOOK_ENTRIES, Fold, GROUP_INPUTS, GROUPS_AT_ONCE,
    MAX_CODEBOOKS, Packing, TILE_POSITIONS, TileShape, VECTOR_ROWS,
};
use std::sync::Arc;

/// A set of `M` codebooks of 16 codewords over `d` weights, with one scale.
#[derive(Clone, Debug)]
pub struct Codebooks {
    count: usize,
    dimension: usize,
    scale: f32,
    fold: Fold,
    /// `[M][16][d]`, as stored.
    codewords: Vec<i8>,
    /// The same times the largest factor that leaves 16 bits, for the table kernels: `[M][d][16]`.
    words: Vec<i16>,
    /// What sums of products of [`Self::words`] in 2⁻¹⁵ are multiplied by.
    unit: f32,
}

impl Codebooks {
    /// Bytes of the stored form: the scale as a 32-bit float, then the codewords. `None` for unsupported sizes.
    pub fn stored_bytes(codebooks: usize, dimension: usize) -> Option<usize> {
        Self::check(codebooks, dimension).ok()?;
        Some(4 + codebooks * CODEBOOK_ENTRIES * dimension)
    }

    fn check(codebooks: usize, dimension: usize) -> Result<(), CodecError> {
        if !(1..=MAX_CODEBOOKS).contains(&codebooks) {
            return Err(CodecError::shape("codebooks of a set", codebooks, format!("1 to {MAX_CODEBOOKS}")));
        }
        if ![4, 8].contains(&dimension) {
            return Err(CodecError::shape("dimension of a codebook", dimension, "4 or 8"));
        }
        Ok(())
    }

    /// Takes `codewords` (`[codebooks][16][dimension]`); a codeword's value is its integer times `scale`.
    ///
    /// # Errors
    /// If the sizes are not supported, the length is off, or the scale is not a finite non-negative number.
    pub fn new(
        codebooks: usize,
        dimension: usize,
        scale: f32,
        codewords: Vec<i8>,
    ) -> Result<Self, CodecError> {
        Self::check(codebooks, dimension)?;
        let expected = codebooks * CODEBOOK_ENTRIES * dimension;
        if codewords.len() != expected {
            return Err(CodecError::shape("codewords of a set", codewords.len(), expected.to_string()));
        }
        if !(scale.is_finite() && scale >= 0.0) {
            return Err(CodecError::NotFinite("scale of a codebook set"));
        }
        Ok(Self::assemble(codebooks, dimension, scale, codewords))
    }

    fn assemble(count: usize, dimension: usize, scale: f32, codewords: Vec<i8>) -> Self {
        let largest = codewords.iter().map(|c| i16::from(*c).abs()).max().unwrap_or_default();
        let factor = i16::MAX / largest.max(1);
        let unit = scale * (32_768.0 / f32::from(factor));
        let mut words = Vec::with_capacity(codewords.len());
        for codebook in codewords.chunks_exact(CODEBOOK_ENTRIES * dimension) {
            for column in 0..dimension {
                let codewords = codebook.chunks_exact(dimension);
                words.extend(codewords.map(|codeword| i16::from(codeword[column]) * factor));
            }
        }
        Self { count, dimension, scale, fold: Fold::ONE, codewords, words, unit }
    }

    /// Rounds float codewords (`[codebooks][16][dimension]`) to the stored form: the largest magnitude becomes 127.
    ///
    /// # Errors
    /// As [`Self::new`], and if a codeword is not finite.
    pub fn quantize(codebooks: usize, dimension: usize, codewords: &[f32]) -> Result<Self, CodecError> {
        if !codewords.iter().all(|c| c.is_finite()) {
            return Err(CodecError::NotFinite("codewords to quantize"));
        }
        let largest = codewords.iter().fold(0.0f32, |a, c| a.max(c.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let rounded = codewords.iter().map(|c| (c * inverse).round_ties_even().clamp(-127.0, 127.0) as i8);
        Self::new(codebooks, dimension, scale, rounded.collect())
    }

    /// All signs of four weights: one codebook of `±1`, in the order of the binary numbers whose bits are set where the
    /// sign is positive, lowest bit first.
    pub fn signs() -> Self {
        let sign = |i: usize| if (i / 4) >> (i % 4) & 1 == 1 { 1 } else { -1 };
        Self::assemble(1, 4, 1.0, (0..CODEBOOK_ENTRIES * 4).map(sign).collect())
    }

    /// Whether this is [`Self::signs`].
    pub fn is_signs(&self) -> bool {
        let signs = Self::signs();
        self.dimension == signs.dimension && self.scale == signs.scale && self.codewords == signs.codewords
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_bytes(codebooks: usize, dimension: usize, bytes: &[u8]) -> Result<Self, CodecError> {
        match bytes.split_first_chunk::<4>() {
            Some((scale, codewords)) => {
                let codewords = codewords.iter().map(|&b| b as i8).collect();
                Self::new(codebooks, dimension, f32::from_le_bytes(*scale), codewords)
            }
            None => Err(CodecError::shape("bytes of a codebook set", bytes.len(), "at least 4")),
        }
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.scale.to_le_bytes().into_iter().chain(self.codewords.iter().map(|&c| c as u8)).collect()
    }

    /// Number of codebooks `M`.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Weights per group `d`.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The same with products that average `fold` table entries. New codebooks average none.
    #[must_use]
    pub fn with_fold(self, fold: Fold) -> Self {
        Self { fold, ..self }
    }

    /// How many table entries its products average in 8 bits.
    pub fn fold(&self) -> Fold {
        self.fold
    }

    /// What a codeword's integers are multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The integers, `[codebooks][16][dimension]`.
    pub fn codewords(&self) -> &[i8] {
        &self.codewords
    }

    /// Column groups of a row of `columns` weights; the last may be partly unused.
    pub fn groups(&self, columns: usize) -> usize {
        columns.div_ceil(self.dimension)
    }

    /// Column groups of a row of `groups` that share a step: as few blocks as there can be, of about the same size, but of whole
    /// eights, so that averages don't leave tables over.
    fn block_groups(&self, groups: usize) -> usize {
        let most = (BLOCK_TABLES / self.count / 8 * 8).min(BLOCK_GROUPS);
        groups.div_ceil(groups.div_ceil(most)).next_multiple_of(8)
    }
}

/// Bytes of the tiles of a matrix with `count` codebooks over `dimension` weights. `None` if that overflows.
pub(super) fn tile_bytes(rows: usize, columns: usize, count: usize, dimension: usize) -> Option<usize> {
    let vectors = rows.div_ceil(VECTOR_ROWS);
    vectors.checked_mul(16)?.checked_mul(columns.div_ceil(dimension))?.checked_mul(count)
}

/// 22 instructions per look-up of 32 rows, fewer where entries are averaged, and 80 per table with 13 for each weight of its
/// codewords (`cargo xtask bench chain`, with what happens around the products).
pub(super) fn work(rows: usize, columns: usize, count: usize, dimension: usize) -> u64 {
    let lookups = (columns.div_ceil(dimension) * count) as u64;
    let vectors = rows.div_ceil(VECTOR_ROWS) as u64;
    lookups * (22 * vectors + 80 + 13 * dimension as u64)
}

/// A matrix whose rows are codes into a [`Codebooks`] set:
/// `W[r, g·d + j] = row_scale[r] · scale · Σ_m codewords[m][code[r][g][m]][j] + row_mean[r]`.
#[derive(Clone, Debug)]
pub struct AqMatrix {
    rows: usize,
    columns: usize,
    codebooks: Arc<Codebooks>,
    row_scales: Vec<f32>,
    row_means: Option<Vec<f32>>,
    packing: Packing,
    /// Tiles of so many vectors of 32 rows as [`Packing::tile_vectors`] says, each `[groups][M][vectors]`. An artifact has
    /// those of [`Packing::Nibbles`]: tiles of up to 4 vectors of 16 bytes, low nibbles for rows 0 to 15, high nibbles for rows 16
    /// to 31.
    tiles: Vec<u8>,
}

impl AqMatrix {
    /// Bytes of the stored form (16-bit row scales, row means if any, tiles). `None` if that overflows.
    pub fn stored_bytes(
        rows: usize,
        columns: usize,
        codebooks: &Codebooks,
        row_means: bool,
    ) -> Option<usize> {
        let tiles = tile_bytes(rows, columns, codebooks.count, codebooks.dimension)?;
        rows.checked_mul(if row_means { 4 } else { 2 })?.checked_add(tiles)
    }

    /// Packs `codes` (`[rows][groups][M]`, each below 16). Row scales and means are rounded to 16-bit floats.
    ///
    /// # Errors
    /// If a length is off, a code is above 15, or a scale or mean is not finite.
    pub fn from_codes(
        rows: usize,
        columns: usize,
        codebooks: Arc<Codebooks>,
        codes: &[u8],
        row_scales: &[f32],
        row_means: Option<&[f32]>,
    ) -> Result<Self, CodecError> {
        let groups = codebooks.groups(columns);
        let expected = rows.checked_mul(groups).and_then(|n| n.checked_mul(codebooks.count));
        if rows == 0 || columns == 0 || expected != Some(codes.len()) {
            return Err(CodecError::shape(
                "codes",
                codes.len(),
                format!("{rows} × {groups} × {}", codebooks.count),
            ));
        }
        if let Some(&code) = codes.iter().find(|&&code| usize::from(code) >= CODEBOOK_ENTRIES) {
            return Err(CodecError::shape("a code", code.into(), "below 16"));
        }
        if row_scales.len() != rows || row_means.is_some_and(|means| means.len() != rows) {
            return Err(CodecError::shape("row scales or means", row_scales.len(), rows.to_string()));
        }
        let round = |values: &[f32]| values.iter().map(|&v| to_f16(v)).collect::<Vec<_>>();
        let row_scales = finite(round(row_scales), "row scales")?;
        let row_means = row_means.map(|means| finite(round(means), "row means")).transpose()?;
        let size = tile_bytes(rows, columns, codebooks.count, codebooks.dimension)
            .ok_or_else(|| CodecError::shape("rows", rows, "a matrix that fits in memory"))?;
        let packing = Packing::Nibbles;
        let mut matrix =
            Self { rows, columns, codebooks, row_scales, row_means, packing, tiles: vec![0; size] };
        let per_row = groups * matrix.codebooks.count;
        for (row, codes) in codes.chunks_exact(per_row).enumerate() {
            for (i, &code) in codes.iter().enumerate() {
                let (byte, shift) = matrix.position(row, i);
                matrix.tiles[byte] |= code << shift;
            }
        }
        Ok(matrix.packed(Packing::DEFAULT))
    }

    /// Reads the stored form; the codes are then packed as is the [default](Packing::DEFAULT).
    ///
    /// # Errors
    /// If the length does not fit the shape or a scale or mean is not finite.
    pub fn from_bytes(
        rows: usize,
        columns: usize,
        codebooks: Arc<Codebooks>,
        row_means: bool,
        bytes: &[u8],
    ) -> Result<Self, CodecError> {
        Self::read(rows, columns, codebooks, row_means, bytes, Packing::DEFAULT)
    }

    /// As [`Self::from_bytes`], with the codes packed as asked for.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    pub fn read(
        rows: usize,
        columns: usize,
        codebooks: Arc<Codebooks>,
        row_means: bool,
        bytes: &[u8],
        packing: Packing,
    ) -> Result<Self, CodecError> {
        let expected = Self::stored_bytes(rows, columns, &codebooks, row_means);
        if rows == 0 || columns == 0 || expected != Some(bytes.len()) {
            return Err(CodecError::shape(
                "bytes of an AQ matrix",
                bytes.len(),
                format!("{expected:?} for {rows} × {columns}"),
            ));
        }
        let (scales, rest) = bytes.split_at(2 * rows);
        let (means, tiles) = rest.split_at(if row_means { 2 * rows } else { 0 });
        let row_scales = read_f16(scales, "row scales")?;
        let row_means = row_means.then(|| read_f16(means, "row means")).transpose()?;
        let mut matrix = Self { rows, columns, codebooks, row_scales, row_means, packing, tiles: Vec::new() };
        matrix.tiles = matrix.repacked(Packing::Nibbles, tiles, packing);
        Ok(matrix)
    }

    /// The same matrix with its codes packed in another way.
    #[must_use]
    pub fn packed(self, packing: Packing) -> Self {
        if packing == self.packing {
            return self;
        }
        let tiles = self.repacked(self.packing, &self.tiles, packing);
        Self { packing, tiles, ..self }
    }

    /// How the codes are packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The codes in `tiles`, packed as `from` says, as `to` says.
    fn repacked(&self, from: Packing, tiles: &[u8], to: Packing) -> Vec<u8> {
        if from == to {
            return tiles.to_vec();
        }
        let vectors = self.rows.div_ceil(VECTOR_ROWS);
        let tables = self.codebooks.groups(self.columns) * self.codebooks.count;
        let mut packed = vec![0; vectors * tables * to.vector_bytes()];
        for vector in 0..vectors {
            let places = |packing: Packing| {
                let (first, step) = self.vector_place(packing, vector);
                let size = packing.vector_bytes();
                (0..tables).map(move |table| (first + table * step) * size..(first + table * step + 1) * size)
            };
            for (source, place) in places(from).zip(places(to)) {
                match (from, &tiles[source], &mut packed[place]) {
                    (Packing::Nibbles, codes, packed) => {
                        let (low, high) = packed.split_at_mut(codes.len());
                        for ((low, high), byte) in low.iter_mut().zip(high).zip(codes) {
                            (*low, *high) = (byte & 15, byte >> 4);
                        }
                    }
                    (Packing::Bytes, codes, packed) => {
                        let (low, high) = codes.split_at(packed.len());
                        for ((low, high), byte) in low.iter().zip(high).zip(packed) {
                            *byte = low | high << 4;
                        }
                    }
                }
            }
        }
        packed
    }

    /// Where a vector of 32 rows is in the tiles, in vectors: at its first table, and how far it is to the next.
    fn vector_place(&self, packing: Packing, vector: usize) -> (usize, usize) {
        let vectors = self.rows.div_ceil(VECTOR_ROWS);
        let tables = self.codebooks.groups(self.columns) * self.codebooks.count;
        // Tiles before the last few have as many vectors as the first.
        let mut first = vector / packing.tile_vectors(vectors) * packing.tile_vectors(vectors);
        let mut height = packing.tile_vectors(vectors - first);
        while vector >= first + height {
            first += height;
            height = packing.tile_vectors(vectors - first);
        }
        (first * tables + vector - first, height)
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let halves = self.row_scales.iter().chain(self.row_means.iter().flatten());
        let mut bytes: Vec<u8> = halves.flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
        bytes.extend(self.repacked(self.packing, &self.tiles, Packing::Nibbles));
        bytes
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The codebook set.
    pub fn codebooks(&self) -> &Arc<Codebooks> {
        &self.codebooks
    }

    /// The codes, `[rows][groups][M]`: what [`Self::from_codes`] packed.
    pub fn codes(&self) -> Vec<u8> {
        let per_row = self.codebooks.groups(self.columns) * self.codebooks.count;
        let code = |(row, index)| {
            let (byte, shift) = self.position(row, index);
            (self.tiles[byte] >> shift) & 15
        };
        (0..self.rows).flat_map(|row| (0..per_row).map(move |index| (row, index))).map(code).collect()
    }

    /// The scale of each row.
    pub fn row_scales(&self) -> &[f32] {
        &self.row_scales
    }

    /// Whether each row has a mean beside its scale.
    pub fn has_row_means(&self) -> bool {
        self.row_means.is_some()
    }

    pub(super) fn work(&self) -> u64 {
        work(self.rows, self.columns, self.codebooks.count, self.codebooks.dimension)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.tiles.len() + 4 * self.rows * (1 + usize::from(self.row_means.is_some()))
    }

    /// Byte and shift of the code of `row` at `index` (group · M + codebook).
    fn position(&self, row: usize, index: usize) -> (usize, u32) {
        let (first, step) = self.vector_place(self.packing, row / VECTOR_ROWS);
        let (vector, lane) = (first + index * step, row % VECTOR_ROWS);
        match self.packing {
            Packing::Nibbles => (vector * 16 + lane % 16, if lane < 16 { 0 } else { 4 }),
            Packing::Bytes => (vector * VECTOR_ROWS + lane, 0),
        }
    }

    pub(super) fn decode_row(&self, row: usize, output: &mut [f32]) {
        let Codebooks { count: codebooks, dimension, scale, .. } = *self.codebooks;
        let factor = self.row_scales[row] * scale;
        let mean = self.row_means.as_ref().map_or(0.0, |means| means[row]);
        for (group, output) in output.chunks_mut(dimension).enumerate() {
            let mut sums = [0i32; 8];
            for m in 0..codebooks {
                let (byte, shift) = self.position(row, group * codebooks + m);
                let code = usize::from((self.tiles[byte] >> shift) & 15);
                let codeword =
                    &self.codebooks.codewords[(m * CODEBOOK_ENTRIES + code) * dimension..][..dimension];
                for (sum, &c) in sums.iter_mut().zip(codeword) {
                    *sum += i32::from(c);
                }
            }
            for (o, sum) in output.iter_mut().zip(sums) {
                *o = factor * sum as f32 + mean;
            }
        }
    }

    pub(super) fn prepare(&self, backend: Backend, input: &mut Input) {
        input.build_tables(backend, &self.codebooks);
    }

    /// `input` must be prepared for this matrix.
    pub(super) fn multiply(&self, backend: Backend, input: &Input, output: &mut [f32]) {
        let codebooks = &*self.codebooks;
        let groups = codebooks.groups(self.columns);
        let Some((_, tables)) = &input.tables else { return };
        let packing = self.packing;
        let mut sums = [0.0f32; TILE_POSITIONS * Packing::MOST_TILE_VECTORS * VECTOR_ROWS];
        let mut first = 0;
        let mut tiles = &self.tiles[..];
        while first < self.rows {
            let vectors = packing.tile_vectors((self.rows - first).div_ceil(VECTOR_ROWS));
            let (tile, rest) = tiles.split_at(vectors * packing.vector_bytes() * groups * codebooks.count);
            tiles = rest;
            let rows = (vectors * VECTOR_ROWS).min(self.rows - first);
            let scales = &self.row_scales[first..][..rows];
            let mut p = 0;
            for tables in tables {
                let shape = TileShape {
                    vectors,
                    tables: groups * codebooks.count,
                    block_tables: codebooks.block_groups(groups) * codebooks.count,
                    positions: tables.offsets.len(),
                    fold: codebooks.fold,
                    packing,
                };
                let sums = &mut sums[..shape.positions * vectors * VECTOR_ROWS];
                backend.tile(shape, tile, &tables.entries, &tables.steps, sums);
                for (sums, offset) in sums.chunks_exact(vectors * VECTOR_ROWS).zip(&tables.offsets) {
                    let output = &mut output[p * self.rows + first..][..rows];
                    backend.scale_rows(sums, *offset, codebooks.unit, scales, output);
                    p += 1;
                }
            }
            first += rows;
        }
        if let Some(means) = &self.row_means {
            for (x, y) in input.values.chunks_exact(self.columns).zip(output.chunks_exact_mut(self.rows)) {
                let sum: f32 = x.iter().sum();
                for (y, mean) in y.iter_mut().zip(means) {
                    *y += mean * sum;
                }
            }
        }
    }
}

/// The look-up tables of some input vectors for one codebook set.
///
/// `Σ_j codeword[j] · x[j] ≈ (entry · step(block) + center) · unit`, and since every row adds exactly one entry of each table,
/// the centers add up to one constant for all rows: `offset`.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// `[groups][M][inputs][16]`, each with 128 added.
    entries: Vec<u8>,
    /// One per block of columns and input, `[blocks][inputs]`.
    steps: Vec<f32>,
    /// One per input.
    offsets: Vec<f32>,
    /// A block's inputs as integers.
    integers: Vec<i16>,
    scratch: BlockScratch,
}

impl Tables {
    /// Fills `tables` for `inputs`, `[inputs][columns]`; inputs whose tables lie side by side share one.
    pub(super) fn build_all(
        all: &mut Vec<Self>,
        backend: Backend,
        codebooks: &Codebooks,
        inputs: &[f32],
        columns: usize,
    ) {
        let mut rest = inputs;
        let mut used = 0;
        for &size in codebooks.fold.tile_positions() {
            while rest.len() >= size * columns {
                let (now, later) = rest.split_at(size * columns);
                rest = later;
                if all.len() == used {
                    all.push(Self::default());
                }
                all[used].build(backend, codebooks, now, columns);
                used += 1;
            }
        }
        all.truncate(used);
    }

    /// Entries use all 8 bits: the widest table of a block decides its step.
    fn build(&mut self, backend: Backend, codebooks: &Codebooks, inputs: &[f32], columns: usize) {
        let positions = inputs.len() / columns;
        let groups = codebooks.groups(columns);
        self.entries.resize(groups * codebooks.count * positions * CODEBOOK_ENTRIES, 0);
        let blocks = groups.div_ceil(codebooks.block_groups(groups));
        self.steps.resize(blocks * positions, 0.0);
        self.offsets.clear();
        for (position, input) in inputs.chunks_exact(columns).enumerate() {
            self.build_one(backend, codebooks, input, position, positions);
        }
    }

    fn build_one(
        &mut self,
        backend: Backend,
        codebooks: &Codebooks,
        input: &[f32],
        position: usize,
        positions: usize,
    ) {
        let Codebooks { dimension, count, fold, .. } = *codebooks;
        let block_groups = codebooks.block_groups(codebooks.groups(input.len()));
        let limit = GROUP_INPUTS / dimension as i16;
        let mut offset = 0.0;
        let entries = self.entries.as_chunks_mut::<CODEBOOK_ENTRIES>().0;
        let blocks = entries.chunks_mut(block_groups * count * positions);
        let inputs = input.chunks(block_groups * dimension);
        for ((input, entries), steps) in inputs.zip(blocks).zip(self.steps.chunks_exact_mut(positions)) {
            let tables = entries.len() / positions;
            let padded = input.len().next_multiple_of(GROUPS_AT_ONCE * dimension);
            self.integers.resize(padded, 0);
            self.integers[input.len()..].fill(0);
            // Each block has a scale of its own: beside a large input far away, small ones keep their digits.
            let scale = backend.quantize(input, limit, &mut self.integers[..input.len()]);
            let (words, integers) = (&codebooks.words, &self.integers);
            let entries = &mut entries[position..];
            let range =
                backend.block_tables(words, dimension, integers, &mut self.scratch, entries, positions);
            let step = scale * range.step();
            steps[position] = step;
            offset += scale * range.centers as f32;
            offset -= step * ((tables / fold.entries()) as f32 * fold.bias());
        }
        self.offsets.push(offset);
    }
}
