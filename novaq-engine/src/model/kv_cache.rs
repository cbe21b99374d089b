//! Keys and values of the positions seen so far.

use super::{Config, ModelError};
use crate::kernel::{ATTENTION_QUERIES, Attention, Backend, CACHE_BLOCK, quantize_i8};
use std::collections::TryReserveError;
use std::ops::Range;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePrecision {
    /// 8-bit integers with a scale per head and position.
    Int8,
    /// 32-bit floats: the reference.
    F32,
}

/// Positions for which a cache takes room at first; after that it doubles.
const FIRST_ROOM: usize = 64;

/// The cache of one sequence: per layer by blocks of positions. Its memory grows with the context used, not with the
/// context allowed.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    layers: Vec<Layer>,
    heads: usize,
    head_dim: usize,
    /// What products of queries and keys are multiplied by.
    scale: f32,
    capacity: usize,
    /// Positions that every layer holds.
    len: usize,
}

/// Keys and values of a layer.
#[derive(Clone, Debug)]
enum Layer {
    Int8(Int8Layer),
    /// `[position][head][head_dim]` each.
    F32 {
        keys: Vec<f32>,
        values: Vec<f32>,
    },
}

impl Layer {
    /// Takes room for `positions` in all.
    fn try_reserve(
        &mut self,
        positions: usize,
        heads: usize,
        head_dim: usize,
    ) -> Result<(), TryReserveError> {
        fn reserve<T>(values: &mut Vec<T>, len: usize) -> Result<(), TryReserveError> {
            values.try_reserve_exact(len.saturating_sub(values.len()))
        }
        match self {
            Self::Int8(Int8Layer { keys, values, key_scales, value_scales }) => {
                let scales = positions.next_multiple_of(CACHE_BLOCK) * heads;
                let width = head_dim.next_multiple_of(4);
                reserve(keys, scales * width)?;
                reserve(values, scales * width)?;
                reserve(key_scales, scales)?;
                reserve(value_scales, scales)
            }
            Self::F32 { keys, values } => {
                reserve(keys, positions * heads * head_dim)?;
                reserve(values, positions * heads * head_dim)
            }
        }
    }

    /// Takes over the first `positions` of `other`, which is as precise; there must be room for them.
    fn extend_from(&mut self, other: &Self, positions: usize, heads: usize, head_dim: usize) {
        match (self, other) {
            (Self::Int8(own), Self::Int8(other)) => {
                let scales = positions.next_multiple_of(CACHE_BLOCK) * heads;
                let width = head_dim.next_multiple_of(4);
                own.keys.extend_from_slice(&other.keys[..scales * width]);
                own.values.extend_from_slice(&other.values[..scales * width]);
                own.key_scales.extend_from_slice(&other.key_scales[..scales]);
                own.value_scales.extend_from_slice(&other.value_scales[..scales]);
            }
            (Self::F32 { keys, values }, Self::F32 { keys: other_keys, values: other_values }) => {
                keys.extend_from_slice(&other_keys[..positions * heads * head_dim]);
                values.extend_from_slice(&other_values[..positions * heads * head_dim]);
            }
            (Self::Int8(_), Self::F32 { .. }) | (Self::F32 { .. }, Self::Int8(_)) => {
                unreachable!("a copy is as precise as what it is made of")
            }
        }
    }

    /// Positions for which there is room.
    fn room(&self, heads: usize, head_dim: usize) -> usize {
        match self {
            Self::Int8(layer) => layer.value_scales.capacity() / heads,
            Self::F32 { values, .. } => values.capacity() / (heads * head_dim),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Int8(layer) => {
                let bytes = layer.keys.capacity() + layer.values.capacity();
                bytes + 4 * (layer.key_scales.capacity() + layer.value_scales.capacity())
            }
            Self::F32 { keys, values } => 4 * (keys.capacity() + values.capacity()),
        }
    }
}

/// Keys and values in 8 bits, with a scale for each position and head, as [`Backend::key_products`] and
/// [`Backend::value_sums`] read them: `[position / 16][head]`, and in each of these blocks pairs side by side. Heads are filled
/// up with zeros to a multiple of 4.
#[derive(Clone, Debug, Default)]
struct Int8Layer {
    /// `[4][head_dim / 2][4][2]` in a block: four times the pairs of elements of four positions.
    keys: Vec<i8>,
    /// `[head_dim / 4][8][4][2]` in a block: for four elements each, the pairs of positions.
    values: Vec<i8>,
    /// `[16]` in a block.
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
}

impl Int8Layer {
    /// Writes one head of a key and a value, each padded to a multiple of 4. The head's block must be there.
    fn put(&mut self, position: usize, block: usize, [key, value]: [&[f32]; 2], quantized: &mut [i8]) {
        let (width, lane) = (quantized.len(), position % CACHE_BLOCK);
        let first = block * CACHE_BLOCK * width;
        let keys = &mut self.keys[first + lane / 4 * 4 * width..][..4 * width];
        self.key_scales[block * CACHE_BLOCK + lane] = quantize_i8(key, &mut quantized[..key.len()]);
        for (pair, keys) in quantized.as_chunks::<2>().0.iter().zip(keys.as_chunks_mut::<8>().0) {
            keys[lane % 4 * 2..][..2].copy_from_slice(pair);
        }
        let values = &mut self.values[first..][..CACHE_BLOCK * width];
        self.value_scales[block * CACHE_BLOCK + lane] = quantize_i8(value, &mut quantized[..value.len()]);
        let fours = quantized.as_chunks::<4>().0.iter();
        for (four, values) in fours.zip(values.chunks_exact_mut(4 * CACHE_BLOCK)) {
            for (i, &v) in four.iter().enumerate() {
                values[lane / 2 * 8 + i * 2 + lane % 2] = v;
            }
        }
    }
}

impl KvCache {
    /// An empty cache for up to `capacity` positions of `config`'s model. It takes memory for positions when they come.
    ///
    /// # Errors
    /// If the capacity is above the model's context window.
    pub fn new(config: &Config, precision: CachePrecision, capacity: usize) -> Result<Self, ModelError> {
        Self::of_layers(config, config.num_hidden_layers, precision, capacity)
    }

    /// As [`Self::new`] for so many of the model's layers.
    pub(super) fn of_layers(
        config: &Config,
        layers: usize,
        precision: CachePrecision,
        capacity: usize,
    ) -> Result<Self, ModelError> {
        let context = config.max_position_embeddings;
        if capacity > context {
            return Err(ModelError::Context { positions: capacity, context });
        }
        let (heads, head_dim) = (config.num_key_value_heads, config.head_dim);
        let layer = || match precision {
            CachePrecision::Int8 => Layer::Int8(Int8Layer::default()),
            CachePrecision::F32 => Layer::F32 { keys: Vec::new(), values: Vec::new() },
        };
        let layers = std::iter::repeat_with(layer).take(layers).collect();
        Ok(Self { layers, heads, head_dim, scale: config.attention_scale(), capacity, len: 0 })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that one position takes in all layers.
    pub fn bytes_per_position(config: &Config, precision: CachePrecision) -> usize {
        let per_head = match precision {
            CachePrecision::Int8 => config.head_dim.next_multiple_of(4) + 4,
            CachePrecision::F32 => 4 * config.head_dim,
        };
        2 * config.num_hidden_layers * config.num_key_value_heads * per_head
    }

    /// Takes memory for `positions` in all, if there is less: twice what there was, so that what is copied on the way is no
    /// more than what is there in the end.
    ///
    /// # Errors
    /// If there is no memory for them; what is held stays.
    pub fn make_room(&mut self, positions: usize) -> Result<(), ModelError> {
        // Layers take room in their order.
        let room = self.layers.last().map_or(usize::MAX, |layer| layer.room(self.heads, self.head_dim));
        if positions <= room {
            return Ok(());
        }
        let room = (2 * room).max(FIRST_ROOM).min(self.capacity).max(positions);
        self.reserve(room).or_else(|_| self.reserve(positions))
    }

    fn reserve(&mut self, room: usize) -> Result<(), ModelError> {
        for layer in &mut self.layers {
            layer
                .try_reserve(room, self.heads, self.head_dim)
                .map_err(|_| ModelError::OutOfMemory { positions: room })?;
        }
        Ok(())
    }

    /// A cache for up to `capacity` positions that holds a copy of the first `positions`, or of all if there are fewer.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn prefix(&self, positions: usize, capacity: usize) -> Result<Self, ModelError> {
        let len = positions.min(self.len);
        let emptied = |layer: &Layer| match layer {
            Layer::Int8(_) => Layer::Int8(Int8Layer::default()),
            Layer::F32 { .. } => Layer::F32 { keys: Vec::new(), values: Vec::new() },
        };
        let layers = self.layers.iter().map(emptied).collect();
        let mut prefix = Self { layers, capacity: capacity.max(len), len, ..*self };
        prefix.make_room(len)?;
        for (copy, layer) in prefix.layers.iter_mut().zip(&self.layers) {
            copy.extend_from(layer, len, self.heads, self.head_dim);
        }
        Ok(prefix)
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.layers.iter().map(Layer::heap_bytes).sum()
    }

    /// Forgets all positions from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        // Positions of 8 bits are written over where they are.
        for layer in &mut self.layers {
            if let Layer::F32 { keys, values } = layer {
                keys.truncate(positions * self.heads * self.head_dim);
                values.truncate(positions * self.heads * self.head_dim);
            }
        }
        self.len = self.len.min(positions);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len;
    }

    /// Writes the key and value of `position` of `layer`, each `[heads × head_dim]`; the positions before it must be there.
    pub(super) fn push(
        &mut self,
        layer: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
        scratch: &mut Scratch,
    ) {
        match &mut self.layers[layer] {
            Layer::F32 { keys, values } => {
                keys.extend_from_slice(key);
                values.extend_from_slice(value);
            }
            Layer::Int8(layer) => {
                let width = self.head_dim.next_multiple_of(4);
                let block = position / CACHE_BLOCK * self.heads;
                let scales = (block + self.heads) * CACHE_BLOCK;
                if layer.key_scales.len() < scales {
                    layer.keys.resize(scales * width, 0);
                    layer.values.resize(scales * width, 0);
                    layer.key_scales.resize(scales, 0.0);
                    layer.value_scales.resize(scales, 0.0);
                }
                scratch.quantized.clear();
                scratch.quantized.resize(width, 0);
                let heads = key.chunks_exact(self.head_dim).zip(value.chunks_exact(self.head_dim));
                for (head, (key, value)) in heads.enumerate() {
                    layer.put(position, block + head, [key, value], &mut scratch.quantized);
                }
            }
        }
    }

    /// Attention of some queries of a layer, each over its `positions`: softmax of the scaled products with the keys, then the
    /// weighted sum of the values.
    ///
    /// In 8 bits, the products are exact, and so are the sums of the values; their weights are integers of 16 bits.
    /// `queries` and `output` are `[positions][query heads × head_dim]`.
    pub(super) fn attend(
        &self,
        backend: Backend,
        layer: usize,
        positions: &[Range<usize>],
        queries: &[f32],
        scratch: &mut Scratch,
        output: &mut [f32],
    ) {
        let width = queries.len() / positions.len();
        match &self.layers[layer] {
            Layer::F32 { keys, values } => {
                let rows = queries.chunks_exact(width).zip(output.chunks_exact_mut(width));
                let per_key = width / (self.heads * self.head_dim);
                for (positions, (queries, output)) in positions.iter().zip(rows) {
                    let heads =
                        queries.chunks_exact(self.head_dim).zip(output.chunks_exact_mut(self.head_dim));
                    for (head, (query, output)) in heads.enumerate() {
                        let of_layer = (&keys[..], &values[..]);
                        self.attend_f32(backend, of_layer, head / per_key, positions, query, scratch, output);
                    }
                }
            }
            Layer::Int8(layer) => {
                let per_key = width / (self.heads * self.head_dim);
                for head in 0..self.heads {
                    // All that read this head's keys, position after position.
                    let place = |i: usize| {
                        let first = i / per_key * width + (head * per_key + i % per_key) * self.head_dim;
                        (positions[i / per_key].clone(), first..first + self.head_dim)
                    };
                    let mut done = 0;
                    for count in ATTENTION_QUERIES {
                        while done + count <= positions.len() * per_key {
                            let places = (done..done + count).map(place);
                            self.attend_int8(backend, layer, head, places, queries, scratch, output);
                            done += count;
                        }
                    }
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "those of `attend`")]
    fn attend_f32(
        &self,
        backend: Backend,
        (keys, values): (&[f32], &[f32]),
        head: usize,
        positions: &Range<usize>,
        query: &[f32],
        scratch: &mut Scratch,
        output: &mut [f32],
    ) {
        let (width, first) = (self.heads * self.head_dim, head * self.head_dim);
        let of_head = first..first + self.head_dim;
        let weights = &mut scratch.weights;
        let keys = keys.chunks_exact(width).skip(positions.start).take(positions.len());
        weights.clear();
        weights.extend(keys.map(|key| backend.dot_f32(&key[of_head.clone()], query) * self.scale));
        let inverse = 1.0 / backend.softmax_numerators(weights);
        output.fill(0.0);
        for (value, weight) in values.chunks_exact(width).skip(positions.start).zip(weights) {
            let weight = *weight * inverse;
            output.iter_mut().zip(&value[of_head.clone()]).for_each(|(o, v)| *o += weight * v);
        }
    }

    /// Of as many queries as [`ATTENTION_QUERIES`] has a number for: over which positions, and where in `queries` and `output`.
    #[expect(clippy::too_many_arguments, reason = "those of `attend`")]
    fn attend_int8(
        &self,
        backend: Backend,
        layer: &Int8Layer,
        head: usize,
        places: impl ExactSizeIterator<Item = (Range<usize>, Range<usize>)> + Clone,
        queries: &[f32],
        scratch: &mut Scratch,
        output: &mut [f32],
    ) {
        let Scratch { weights, query: quantized, products, integers, sums, .. } = scratch;
        let (count, width) = (places.len(), self.head_dim.next_multiple_of(4));
        // Blocks that one of the queries reads.
        let (from, to) = places.clone().fold((usize::MAX, 0), |(from, to), (positions, _)| {
            (from.min(positions.start / CACHE_BLOCK), to.max(positions.end.div_ceil(CACHE_BLOCK)))
        });
        let blocks = from..to;
        let stride = self.heads * CACHE_BLOCK;
        let first = blocks.start * stride + head * CACHE_BLOCK;

        quantized.clear();
        quantized.resize(count * width, 0);
        let mut scales = [0.0; ATTENTION_QUERIES[0]];
        for ((scale, quantized), (_, of_query)) in
            scales.iter_mut().zip(quantized.chunks_exact_mut(width)).zip(places.clone())
        {
            let quantized = &mut quantized[..self.head_dim];
            *scale = backend.quantize(&queries[of_query], i16::MAX, quantized) * self.scale;
        }
        products.resize(blocks.len() * count * CACHE_BLOCK, 0);
        backend.key_products(count, quantized, &layer.keys[first * width..], stride * width, products);
        integers.resize(products.len(), 0);
        let skipped = blocks.start * CACHE_BLOCK;
        for (query, (scale, (positions, _))) in scales.iter_mut().zip(places.clone()).enumerate() {
            let attention = Attention {
                products: &products[query * CACHE_BLOCK..],
                product_stride: count * CACHE_BLOCK,
                key_scales: &layer.key_scales[first..],
                value_scales: &layer.value_scales[first..],
                stride,
                scale: *scale,
                positions: positions.start - skipped..positions.end - skipped,
            };
            *scale = backend.attention_weights(&attention, weights, &mut integers[query * CACHE_BLOCK..]);
        }
        sums.clear();
        sums.resize(count * width, 0);
        backend.value_sums(count, integers, &layer.values[first * width..], stride * width, sums);
        for (query, (scale, (_, of_query))) in scales.iter().zip(places).enumerate() {
            let mut fours = sums.as_chunks::<4>().0[query..].iter().step_by(count);
            let (outputs, rest) = output[of_query].as_chunks_mut::<4>();
            for (output, sums) in outputs.iter_mut().zip(&mut fours) {
                *output = sums.map(|sum| sum as f32 * scale);
            }
            for (o, sum) in rest.iter_mut().zip(fours.next().unwrap_or(&[0; 4])) {
                *o = *sum as f32 * scale;
            }
        }
    }
}

/// Buffers of [`KvCache::push`] and [`KvCache::attend`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    weights: Vec<f32>,
    query: Vec<i16>,
    quantized: Vec<i8>,
    products: Vec<i32>,
    integers: Vec<i16>,
    sums: Vec<i32>,
}
