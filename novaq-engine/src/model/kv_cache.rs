//! Keys and values of the positions seen so far.

use super::{Config, ModelError};
use crate::kernel::{Backend, quantize_i8, quantize_i16};
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

/// The cache of one sequence: per layer `[position][head][head_dim]`, so that the memory touched grows with the
/// context used, not with the context allowed.
#[derive(Clone, Debug)]
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

#[derive(Clone, Debug)]
struct Layer {
    keys: Store,
    values: Store,
}

#[derive(Clone, Debug)]
enum Store {
    /// Values and, per position and head, their scale.
    Int8(Vec<i8>, Vec<f32>),
    F32(Vec<f32>),
}

impl Store {
    fn empty(precision: CachePrecision) -> Self {
        match precision {
            CachePrecision::Int8 => Self::Int8(Vec::new(), Vec::new()),
            CachePrecision::F32 => Self::F32(Vec::new()),
        }
    }

    /// Takes room for all positions at once: growing step by step would copy what is there.
    fn try_reserve(
        &mut self,
        positions: usize,
        heads: usize,
        head_dim: usize,
    ) -> Result<(), TryReserveError> {
        match self {
            Self::Int8(values, scales) => {
                values.try_reserve_exact(positions * heads * head_dim)?;
                scales.try_reserve_exact(positions * heads)
            }
            Self::F32(values) => values.try_reserve_exact(positions * heads * head_dim),
        }
    }

    fn push(&mut self, row: &[f32], head_dim: usize) {
        match self {
            Self::Int8(values, scales) => {
                let start = values.len();
                values.resize(start + row.len(), 0);
                for (head, out) in row.chunks_exact(head_dim).zip(values[start..].chunks_exact_mut(head_dim))
                {
                    scales.push(quantize_i8(head, out));
                }
            }
            Self::F32(values) => values.extend_from_slice(row),
        }
    }

    fn truncate(&mut self, positions: usize, heads: usize, head_dim: usize) {
        match self {
            Self::Int8(values, scales) => {
                values.truncate(positions * heads * head_dim);
                scales.truncate(positions * heads);
            }
            Self::F32(values) => values.truncate(positions * heads * head_dim),
        }
    }
}

impl KvCache {
    /// An empty cache for up to `capacity` positions of `config`'s model.
    ///
    /// # Errors
    /// If the capacity is above the model's context window, or there is no memory for it.
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
        let store = || {
            let mut store = Store::empty(precision);
            store
                .try_reserve(capacity, heads, head_dim)
                .map_err(|_| ModelError::OutOfMemory { positions: capacity })?;
            Ok(store)
        };
        let layers = (0..layers).map(|_| Ok(Layer { keys: store()?, values: store()? }));
        let layers = layers.collect::<Result<_, ModelError>>()?;
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
            CachePrecision::Int8 => config.head_dim + 4,
            CachePrecision::F32 => 4 * config.head_dim,
        };
        2 * config.num_hidden_layers * config.num_key_value_heads * per_head
    }

    /// Makes room for `capacity` positions in all, if there is less.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn grow(&mut self, capacity: usize) -> Result<(), ModelError> {
        let more = capacity.saturating_sub(self.len);
        for store in self.layers.iter_mut().flat_map(|layer| [&mut layer.keys, &mut layer.values]) {
            store
                .try_reserve(more, self.heads, self.head_dim)
                .map_err(|_| ModelError::OutOfMemory { positions: capacity })?;
        }
        self.capacity = self.capacity.max(capacity);
        Ok(())
    }

    /// Forgets all positions from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        for layer in &mut self.layers {
            layer.keys.truncate(positions, self.heads, self.head_dim);
            layer.values.truncate(positions, self.heads, self.head_dim);
        }
        self.len = self.len.min(positions);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len;
    }

    /// Appends the key and value of the next position of `layer`, each `[heads × head_dim]`.
    pub(super) fn push(&mut self, layer: usize, key: &[f32], value: &[f32]) {
        let Layer { keys, values } = &mut self.layers[layer];
        keys.push(key, self.head_dim);
        values.push(value, self.head_dim);
    }

    /// Attention of one query head over `positions`: softmax of the scaled products with the keys, then the weighted
    /// sum of the values, positions in ascending order throughout.
    ///
    /// `query` and `output` are `[head_dim]`; `head` is the key/value head; `scratch` holds the weights.
    pub(super) fn attend(
        &self,
        backend: Backend,
        (layer, head): (usize, usize),
        positions: Range<usize>,
        query: &[f32],
        scratch: &mut Scratch,
        output: &mut [f32],
    ) {
        let Layer { keys, values } = &self.layers[layer];
        let (width, dim, scale) = (self.heads * self.head_dim, self.head_dim, self.scale);
        let first = positions.start;
        let Scratch { weights, query: quantized } = scratch;
        weights.clear();
        match keys {
            Store::Int8(keys, scales) => {
                quantized.resize(dim, 0);
                let scale = quantize_i16(query, quantized) * scale;
                let keys = keys.chunks_exact(width).zip(scales.chunks_exact(self.heads));
                weights.extend(keys.skip(first).take(positions.len()).map(|(key, scales)| {
                    let product = backend.dot_i8_i16(&key[head * dim..][..dim], quantized);
                    product as f32 * (scales[head] * scale)
                }));
            }
            Store::F32(keys) => {
                let keys = keys.chunks_exact(width).skip(first).take(positions.len());
                weights.extend(keys.map(|key| backend.dot_f32(&key[head * dim..][..dim], query) * scale));
            }
        }
        softmax(weights);
        output.fill(0.0);
        match values {
            Store::Int8(values, scales) => {
                let values = values.chunks_exact(width).zip(scales.chunks_exact(self.heads));
                for ((value, scales), weight) in values.skip(first).zip(weights) {
                    backend.add_scaled_i8(output, *weight * scales[head], &value[head * dim..][..dim]);
                }
            }
            Store::F32(values) => {
                for (value, weight) in values.chunks_exact(width).skip(first).zip(weights) {
                    for (o, v) in output.iter_mut().zip(&value[head * dim..]) {
                        *o += *weight * v;
                    }
                }
            }
        }
    }
}

/// Buffers of [`KvCache::attend`], kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    weights: Vec<f32>,
    query: Vec<i16>,
}

/// Softmax in place; subtracting the largest keeps every exponential in (0, 1].
pub(super) fn softmax(values: &mut [f32]) {
    let largest = values.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = libm::expf(*value - largest);
        sum += *value;
    }
    let inverse = 1.0 / sum;
    for value in values.iter_mut() {
        *value *= inverse;
    }
}
