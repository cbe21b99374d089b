//! Llama (Touvron et al., 2023) and its relatives: RMSNorm, rotary embedding, grouped-query attention, gated
//! feed-forward layers. Names are those of the checkpoints.
//!
//! Mistral (Jiang et al., 2023) adds attention over a window, Qwen2 (Yang et al., 2024) biases of q, k and v, Qwen3
//! (Yang et al., 2025) norms of the heads of q and k, and Gemma 3 (Gemma Team, 2025) norms of what is added to the
//! residual stream, layers of two types, and scaled embeddings. [`Variant`](super::Variant) says which a model has.

use super::kv_cache::{CachePrecision, KvCache, Scratch};
use super::profile::{Part, Profile};
use super::rope::{Angles, Rope};
use super::{Config, ModelError, RopeScaling};
use crate::codec::{Input, Matrix};
use crate::kernel::Backend;
use std::ops::{ControlFlow, Range};

/// Where a model's tensors come from, by their name in the checkpoint. A tensor is taken once.
pub trait TensorSource {
    /// The matrix `name` (a `[rows, columns]` weight), or `None` if there is none.
    ///
    /// # Errors
    /// If it exists but can't be read.
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError>;

    /// The vector `name` (a norm's weight or a bias) as floats, or `None` if there is none.
    ///
    /// # Errors
    /// If it exists but can't be read.
    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError>;
}

/// A linear layer: `y = W x + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Matrix,
    /// `[outputs]`.
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    pub(super) fn load(
        source: &mut dyn TensorSource,
        name: &str,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Self, ModelError> {
        let weight = load_matrix(source, &format!("{name}.weight"), shape)?;
        let bias = if bias { Some(load_vector(source, &format!("{name}.bias"), shape[0])?) } else { None };
        Ok(Self { weight, bias })
    }

    /// `[positions, inputs]` to `[positions, outputs]`.
    pub(super) fn forward(
        &self,
        backend: Backend,
        input: &mut Input,
        output: &mut Vec<f32>,
        positions: usize,
    ) {
        output.resize(positions * self.weight.rows(), 0.0);
        self.weight.multiply(backend, input, output);
        if let Some(bias) = &self.bias {
            for output in output.chunks_exact_mut(bias.len()) {
                output.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }
}

pub(super) fn load_matrix(
    source: &mut dyn TensorSource,
    name: &str,
    shape: [usize; 2],
) -> Result<Matrix, ModelError> {
    let matrix = source.matrix(name)?.ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
    let got = [matrix.rows(), matrix.columns()];
    if got != shape {
        return Err(ModelError::TensorShape { name: name.to_string(), got, expected: shape });
    }
    Ok(matrix)
}

pub(super) fn load_vector(
    source: &mut dyn TensorSource,
    name: &str,
    len: usize,
) -> Result<Vec<f32>, ModelError> {
    let vector = source.vector(name)?.ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
    if vector.len() != len {
        let (got, expected) = ([vector.len(), 1], [len, 1]);
        return Err(ModelError::TensorShape { name: name.to_string(), got, expected });
    }
    Ok(vector)
}

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    /// Positions that its attention reads, if not all.
    window: Option<usize>,
    input_layernorm: Vec<f32>,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    /// Norms of one head of q and k.
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    o_proj: Linear,
    /// Norm of the attention's output.
    post_attention_norm: Option<Vec<f32>>,
    /// Norm of the input of the feed-forward layers.
    pre_feedforward_norm: Vec<f32>,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    /// Norm of the output of the feed-forward layers.
    post_feedforward_norm: Option<Vec<f32>>,
}

impl DecoderLayer {
    /// Takes the tensors of layer `index` of `config`'s model from `source`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn load(source: &mut dyn TensorSource, config: &Config, index: usize) -> Result<Self, ModelError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.query_width(), config.key_value_width());
        let variant = &config.variant;
        let prefix = format!("model.layers.{index}");
        let attention = format!("{prefix}.self_attn");
        let mlp = format!("{prefix}.mlp");
        let (o_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
        let qkv_bias = o_bias || variant.qkv_bias;
        let norm = |source: &mut dyn TensorSource, name: &str| {
            load_vector(source, &format!("{prefix}.{name}.weight"), hidden)
        };
        let head_norm = |source: &mut dyn TensorSource, name: &str| {
            let name = format!("{attention}.{name}.weight");
            variant.qk_norm.then(|| load_vector(source, &name, config.head_dim)).transpose()
        };
        let input_layernorm = norm(source, "input_layernorm")?;
        // Llama names the norm before the feed-forward layers by what it comes after; Gemma has both.
        let post_attention_layernorm = norm(source, "post_attention_layernorm")?;
        let (post_attention_norm, pre_feedforward_norm, post_feedforward_norm) = if variant.post_norms {
            let post_feedforward = norm(source, "post_feedforward_layernorm")?;
            let pre_feedforward = norm(source, "pre_feedforward_layernorm")?;
            (Some(post_attention_layernorm), pre_feedforward, Some(post_feedforward))
        } else {
            (None, post_attention_layernorm, None)
        };
        Ok(Self {
            window: config.window(index),
            input_layernorm,
            q_proj: Linear::load(source, &format!("{attention}.q_proj"), [q, hidden], qkv_bias)?,
            k_proj: Linear::load(source, &format!("{attention}.k_proj"), [kv, hidden], qkv_bias)?,
            v_proj: Linear::load(source, &format!("{attention}.v_proj"), [kv, hidden], qkv_bias)?,
            q_norm: head_norm(source, "q_norm")?,
            k_norm: head_norm(source, "k_norm")?,
            o_proj: Linear::load(source, &format!("{attention}.o_proj"), [hidden, q], o_bias)?,
            post_attention_norm,
            pre_feedforward_norm,
            gate_proj: Linear::load(source, &format!("{mlp}.gate_proj"), [inner, hidden], mlp_bias)?,
            up_proj: Linear::load(source, &format!("{mlp}.up_proj"), [inner, hidden], mlp_bias)?,
            down_proj: Linear::load(source, &format!("{mlp}.down_proj"), [hidden, inner], mlp_bias)?,
            post_feedforward_norm,
        })
    }

    fn linears(&self) -> [&Linear; 7] {
        let Self { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, .. } = self;
        [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
    }

    /// Bytes that the weights of its matrices hold on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.linears().iter().map(|linear| linear.weight.heap_bytes()).sum()
    }
}

/// Which linear layers read an input that an [`Observer`] is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinearInput {
    /// The input of `q_proj`, `k_proj` and `v_proj`; of an encoder's `query`, `key` and `value`.
    Qkv,
    /// The attention's output, input of `o_proj`; of an encoder's `attention.output`.
    O,
    /// The input of `gate_proj` and `up_proj`; of an encoder's `intermediate`.
    GateUp,
    /// The activations, input of `down_proj`; of an encoder's `output`.
    Down,
    /// The final normalised hidden state, input of the head.
    Head,
}

/// Sees the inputs of linear layers during a forward pass, for calibration.
pub trait Observer {
    /// Called with the inputs `[positions, width]` before the layers that read them, and the residual stream
    /// `[positions, hidden_size]` at that point. `layer` is the number of layers for [`LinearInput::Head`].
    /// [`ControlFlow::Break`] ends the pass there.
    fn linear_input(
        &mut self,
        layer: usize,
        which: LinearInput,
        inputs: &[f32],
        residual: &[f32],
    ) -> ControlFlow<()>;
}

/// Work allowed and spent, in the units of [`Matrix::work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// No new layer starts once this much is spent.
    pub limit: u64,
    /// Work done so far.
    pub spent: u64,
}

impl Budget {
    /// A budget of `limit` units.
    pub const fn new(limit: u64) -> Self {
        Self { limit, spent: 0 }
    }

    /// A budget that never ends.
    pub const fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.spent >= self.limit
    }
}

/// How far [`Model::advance`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The budget ended, or the layer that comes next is not there ([`Model::put_layer`]); call again to go on.
    Paused,
    /// The pass is complete: its positions are in the cache, its logits can be read.
    Complete,
    /// The observer has seen what it wanted; the pass can't go on.
    Stopped,
}

/// Which positions of a pass need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsFor {
    /// None: an inner part of a prompt.
    None,
    /// The last one: the next token is to be sampled.
    Last,
    /// All: evaluation.
    All,
}

/// What a pass works on at once: a position of a sequence.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Number of the sequence's cache.
    cache: usize,
    position: usize,
    /// Where the position's angles are.
    angles: usize,
}

/// A forward pass over a few consecutive positions of one or more sequences, which can stop and go on after any layer.
#[derive(Debug, Default)]
pub struct Pass {
    /// Sequence after sequence.
    rows: Vec<Row>,
    /// Positions that each cache holds after the pass.
    ends: Vec<usize>,
    /// Rows whose logits are wanted, in ascending order.
    wanted: Vec<usize>,
    /// Whether it began with tokens, not with a residual stream.
    has_tokens: bool,
    /// Layers done.
    layer: usize,
    hidden: Vec<f32>,
    angles: Angles,
    /// Those of layers whose attention slides, where they have their own.
    local_angles: Angles,
    logits: Vec<f32>,
    buffers: Buffers,
    profile: Option<Profile>,
}

/// Activations, kept between layers and passes.
#[derive(Debug, Default)]
struct Buffers {
    input: Input,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    attention: Scratch,
    /// Positions that the attention of each row of a sequence reads.
    reads: Vec<Range<usize>>,
}

impl Pass {
    /// The residual stream after the layers done so far, `[positions, hidden_size]`, sequence after sequence. After the model's
    /// last layer, a pass that began with tokens and has no observer holds those positions alone whose logits are wanted.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// The layer that comes next, counted among those of the model that the pass runs on; their number if none is left.
    pub fn next_layer(&self) -> usize {
        self.layer
    }

    /// Counts what the pass and those that reuse it take from now on. A pass begins with none.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = Some(profile);
    }

    /// What [`Self::set_profile`] asked for.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Logits of the positions asked for, `[positions, vocab_size]`, sequence after sequence; empty until the pass is
    /// complete.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

/// A model's weights, or those of some of its layers, ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    config: Config,
    backend: Backend,
    rope: Rope,
    /// That of layers whose attention slides, where they have their own.
    local_rope: Option<Rope>,
    embed_tokens: Matrix,
    /// Number of the first of `layers`.
    first_layer: usize,
    /// Those that are not in memory are absent.
    layers: Vec<Option<DecoderLayer>>,
    norm: Vec<f32>,
    /// `None` if tied to the embedding.
    lm_head: Option<Matrix>,
}

impl Model {
    /// Takes the tensors of `config`'s model from `source`.
    ///
    /// # Errors
    /// If the configuration is invalid, or a tensor is missing or has another shape.
    pub fn load(config: Config, source: &mut dyn TensorSource) -> Result<Self, ModelError> {
        let layers = 0..config.num_hidden_layers;
        Self::load_part(config, layers, source)
    }

    /// As [`Self::load`] with `layers` only: a model that is too large to be held runs part by part. The parts hand on the
    /// residual stream ([`Pass::hidden`], [`Self::begin_with_hidden`]); with no layers, what is left are embedding, last
    /// norm and head.
    ///
    /// # Errors
    /// As [`Self::load`], or if the model has no such layers.
    pub fn load_part(
        config: Config,
        range: Range<usize>,
        source: &mut dyn TensorSource,
    ) -> Result<Self, ModelError> {
        config.validate()?;
        if range.end > config.num_hidden_layers {
            let reason = format!("is {}, layers {range:?} were asked for", config.num_hidden_layers);
            return Err(ModelError::config("num_hidden_layers", reason));
        }
        let first_layer = range.start;
        // Not reserved ahead: a missing tensor ends the loop long before a hostile number of layers does.
        let mut layers = Vec::new();
        for index in range {
            layers.push(Some(DecoderLayer::load(source, &config, index)?));
        }
        Self::assemble(config, first_layer, layers, source)
    }

    /// As [`Self::load`] with a place for each layer, all of them empty: embedding, last norm and head alone.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_without_layers(config: Config, source: &mut dyn TensorSource) -> Result<Self, ModelError> {
        config.validate()?;
        let layers = vec![None; config.num_hidden_layers];
        Self::assemble(config, 0, layers, source)
    }

    /// Puts embedding, last norm and head around `layers`.
    fn assemble(
        config: Config,
        first_layer: usize,
        layers: Vec<Option<DecoderLayer>>,
        source: &mut dyn TensorSource,
    ) -> Result<Self, ModelError> {
        let shape = [config.vocab_size, config.hidden_size];
        let embed_tokens = load_matrix(source, "model.embed_tokens.weight", shape)?;
        let norm = load_vector(source, "model.norm.weight", config.hidden_size)?;
        let lm_head = if config.tie_word_embeddings {
            None
        } else {
            Some(load_matrix(source, "lm_head.weight", shape)?)
        };
        let rope = Rope::new(config.head_dim, config.rope_theta, &config.rope_scaling);
        let local_base = config.variant.rope_local_base_freq;
        let local_rope = local_base.map(|base| Rope::new(config.head_dim, base, &RopeScaling::Default));
        Ok(Self {
            config,
            backend: Backend::detect(),
            rope,
            local_rope,
            embed_tokens,
            first_layer,
            layers,
            norm,
            lm_head,
        })
    }

    /// Whether the layer at `place` is there.
    pub fn has_layer(&self, place: usize) -> bool {
        self.layers.get(place).is_some_and(Option::is_some)
    }

    /// Puts a layer at its place; a pass that waits for it can go on.
    ///
    /// # Panics
    /// If the model has no such place.
    pub fn put_layer(&mut self, place: usize, layer: DecoderLayer) {
        self.layers[place] = Some(layer);
    }

    /// Takes the layer at `place` out of memory, if it is there. A pass that comes to it waits.
    pub fn take_layer(&mut self, place: usize) -> Option<DecoderLayer> {
        self.layers.get_mut(place).and_then(Option::take)
    }

    /// The same model on other kernels; all give the same bits.
    #[must_use]
    pub fn with_backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The token embedding `[vocab_size, hidden_size]`.
    pub fn embed_tokens(&self) -> &Matrix {
        &self.embed_tokens
    }

    /// The head `[vocab_size, hidden_size]`: the embedding if tied.
    pub fn head(&self) -> &Matrix {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// An empty cache for up to `capacity` positions of the layers that this model holds.
    ///
    /// # Errors
    /// If the capacity is above the model's context window, or there is no memory for it.
    pub fn cache(&self, precision: CachePrecision, capacity: usize) -> Result<KvCache, ModelError> {
        KvCache::of_layers(&self.config, self.layers.len(), precision, capacity)
    }

    /// Bytes that the weights in memory hold on the heap.
    pub fn heap_bytes(&self) -> usize {
        let layers: usize = self.layers.iter().flatten().map(DecoderLayer::heap_bytes).sum();
        let vocabulary = self.lm_head.iter().chain([&self.embed_tokens]).map(Matrix::heap_bytes);
        layers + vocabulary.sum::<usize>()
    }

    /// Work of one layer's matrices for one position.
    fn layer_work(layer: &DecoderLayer) -> u64 {
        layer.linears().iter().map(|linear| linear.weight.work()).sum()
    }

    /// Work of decoding one token with a context of `context` tokens, in estimated instructions, of the layers in memory.
    pub fn work_per_token(&self, context: usize) -> u64 {
        let layers = (self.first_layer..).zip(&self.layers).filter_map(|(index, layer)| {
            Some(Self::layer_work(layer.as_ref()?) + self.config.layer_attention_work(index, context))
        });
        layers.sum::<u64>() + self.head().work()
    }

    /// Begins a pass over `tokens` at the positions after those in `cache`, reusing the buffers of `spare`.
    ///
    /// # Errors
    /// If there is no token, a token is not in the vocabulary, or the cache is too small.
    pub fn begin(
        &self,
        cache: &mut KvCache,
        tokens: &[u32],
        logits_for: LogitsFor,
        spare: Option<Pass>,
    ) -> Result<Pass, ModelError> {
        self.begin_batch(std::slice::from_mut(cache), tokens, logits_for, spare)
    }

    /// As [`Self::begin`] for several sequences with as many positions in their caches: `tokens` are as many of each, one
    /// sequence after the other. What comes out for one sequence does not depend on the others.
    ///
    /// # Errors
    /// As [`Self::begin`]; also if the sequences are not alike.
    pub fn begin_batch(
        &self,
        caches: &mut [KvCache],
        tokens: &[u32],
        logits_for: LogitsFor,
        spare: Option<Pass>,
    ) -> Result<Pass, ModelError> {
        let each = Self::alike(caches, tokens.len())?;
        self.begin_rows(caches, &vec![(each, logits_for); caches.len()], Some(tokens), spare)
    }

    /// As [`Self::begin_batch`] for sequences that are not alike: of each, in order, the number of its next tokens and which
    /// of them need logits. A sequence may have none.
    ///
    /// # Errors
    /// As [`Self::begin`]; also if there are not as many counts as caches, or they are not those of `tokens`.
    pub fn begin_ragged(
        &self,
        caches: &mut [KvCache],
        tokens: &[u32],
        counts: &[(usize, LogitsFor)],
        spare: Option<Pass>,
    ) -> Result<Pass, ModelError> {
        let positions = counts.iter().map(|(count, _)| count).sum();
        if counts.len() != caches.len() || positions != tokens.len() {
            return Err(ModelError::Context { positions, context: tokens.len() });
        }
        self.begin_rows(caches, counts, Some(tokens), spare)
    }

    /// Positions of each of several sequences with as many in their caches, of `rows` in all.
    fn alike(caches: &[KvCache], rows: usize) -> Result<usize, ModelError> {
        let start = caches.first().map_or(0, KvCache::len);
        let each = rows / caches.len().max(1);
        if caches.iter().all(|cache| cache.len() == start) && each * caches.len() == rows {
            Ok(each)
        } else {
            let context = caches.iter().map(KvCache::capacity).min().unwrap_or(0);
            Err(ModelError::Context { positions: start + each, context })
        }
    }

    /// As [`Self::begin`], from a residual stream `[positions, hidden_size]` in place of tokens: calibration runs
    /// one layer at a time.
    ///
    /// # Errors
    /// If there is no position, `hidden` holds no whole number of them, or the cache is too small.
    pub fn begin_with_hidden(
        &self,
        cache: &mut KvCache,
        hidden: &[f32],
        logits_for: LogitsFor,
        spare: Option<Pass>,
    ) -> Result<Pass, ModelError> {
        self.begin_batch_with_hidden(std::slice::from_mut(cache), hidden, logits_for, spare)
    }

    /// As [`Self::begin_with_hidden`] for several sequences with as many positions in their caches; see
    /// [`Self::begin_batch`].
    ///
    /// # Errors
    /// As [`Self::begin_with_hidden`]; also if the sequences are not alike.
    pub fn begin_batch_with_hidden(
        &self,
        caches: &mut [KvCache],
        hidden: &[f32],
        logits_for: LogitsFor,
        spare: Option<Pass>,
    ) -> Result<Pass, ModelError> {
        let width = self.config.hidden_size;
        if !hidden.len().is_multiple_of(width) {
            return Err(ModelError::config(
                "hidden_size",
                format!("{} values are no multiple", hidden.len()),
            ));
        }
        let each = Self::alike(caches, hidden.len() / width)?;
        let mut pass = self.begin_rows(caches, &vec![(each, logits_for); caches.len()], None, spare)?;
        pass.hidden.copy_from_slice(hidden);
        Ok(pass)
    }

    /// A pass over `counts` positions of each sequence after those in its cache. Without tokens, its residual stream is
    /// yet to be filled in.
    fn begin_rows(
        &self,
        caches: &mut [KvCache],
        counts: &[(usize, LogitsFor)],
        tokens: Option<&[u32]>,
        spare: Option<Pass>,
    ) -> Result<Pass, ModelError> {
        let (vocab_size, hidden_size) = (self.config.vocab_size, self.config.hidden_size);
        if let Some(&token) = tokens.unwrap_or_default().iter().find(|&&t| t as usize >= vocab_size) {
            return Err(ModelError::Token { token, vocab_size });
        }
        if counts.iter().all(|(count, _)| *count == 0) {
            return Err(ModelError::Context { positions: 0, context: self.config.max_position_embeddings });
        }
        for (cache, (count, _)) in caches.iter_mut().zip(counts) {
            let (end, capacity) = (cache.len() + count, cache.capacity());
            if end > capacity {
                return Err(ModelError::Context { positions: end, context: capacity });
            }
            cache.make_room(end)?;
        }
        let mut pass = spare.unwrap_or_default();
        let Pass { rows, ends, wanted, layer, hidden, angles, local_angles, logits, has_tokens, .. } =
            &mut pass;
        *has_tokens = tokens.is_some();
        *layer = 0;
        rows.clear();
        ends.clear();
        wanted.clear();
        logits.clear();
        angles.clear();
        local_angles.clear();
        // Sequences at the same positions share their angles.
        let (mut shared, mut first_angles, mut next_angles) = (0..0, 0, 0);
        for (index, (cache, &(count, logits_for))) in caches.iter_mut().zip(counts).enumerate() {
            let positions = cache.len()..cache.len() + count;
            // An abandoned pass may have left positions in the first layers.
            cache.truncate(positions.start);
            if positions != shared {
                angles.extend(&self.rope, positions.clone());
                if let Some(rope) = &self.local_rope {
                    local_angles.extend(rope, positions.clone());
                }
                (first_angles, next_angles) = (next_angles, next_angles + count);
                shared = positions.clone();
            }
            let logits_from = match logits_for {
                LogitsFor::None => count,
                LogitsFor::Last => count.saturating_sub(1),
                LogitsFor::All => 0,
            };
            wanted.extend(rows.len() + logits_from..rows.len() + count);
            ends.push(positions.end);
            rows.extend(positions.zip(first_angles..).map(|(position, angles)| Row {
                cache: index,
                position,
                angles,
            }));
        }
        hidden.resize(rows.len() * hidden_size, 0.0);
        for (&token, hidden) in tokens.unwrap_or_default().iter().zip(hidden.chunks_exact_mut(hidden_size)) {
            embed(&self.config, &self.embed_tokens, token, hidden);
        }
        Ok(pass)
    }

    /// Goes on with `pass` until it is complete or `budget` is used up. At least one layer is done unless the
    /// budget is already used up.
    ///
    /// `cache` must be the one that the pass began with; `observer` sees the inputs of the linear layers.
    pub fn advance(
        &self,
        pass: &mut Pass,
        cache: &mut KvCache,
        budget: &mut Budget,
        observer: Option<&mut dyn Observer>,
    ) -> Progress {
        self.advance_batch(pass, std::slice::from_mut(cache), budget, observer)
    }

    /// As [`Self::advance`] for a pass over several sequences; `caches` must be those that it began with.
    pub fn advance_batch(
        &self,
        pass: &mut Pass,
        caches: &mut [KvCache],
        budget: &mut Budget,
        mut observer: Option<&mut dyn Observer>,
    ) -> Progress {
        let rows = pass.rows.len();
        while let Some(layer) = self.layers.get(pass.layer) {
            let Some(layer) = layer.as_ref().filter(|_| !budget.is_exhausted()) else {
                return Progress::Paused;
            };
            if let Some(profile) = &mut pass.profile {
                profile.start();
            }
            if self.layer(layer, pass, caches, &mut observer).is_break() {
                return Progress::Stopped;
            }
            let context = pass.ends.iter().max().copied().unwrap_or(0);
            let attention = self.config.layer_attention_work(self.first_layer + pass.layer, context);
            budget.spent += (Self::layer_work(layer) + attention) * rows as u64;
            pass.layer += 1;
        }
        if pass.layer == self.layers.len() {
            if !pass.wanted.is_empty() {
                if budget.is_exhausted() {
                    return Progress::Paused;
                }
                if let Some(profile) = &mut pass.profile {
                    profile.start();
                }
                if self.logits(pass, &mut observer).is_break() {
                    return Progress::Stopped;
                }
                if let Some(profile) = &mut pass.profile {
                    profile.end(Part::Head);
                }
                budget.spent += self.head().work() * pass.wanted.len() as u64;
            }
            for (cache, end) in caches.iter_mut().zip(&pass.ends) {
                cache.set_len(*end);
            }
            pass.layer += 1;
        }
        Progress::Complete
    }

    /// One layer on `pass.hidden`, `[positions, hidden_size]`.
    fn layer(
        &self,
        layer: &DecoderLayer,
        pass: &mut Pass,
        caches: &mut [KvCache],
        observer: &mut Option<&mut dyn Observer>,
    ) -> ControlFlow<()> {
        let Pass { rows, wanted, layer: index, hidden, buffers, profile, has_tokens, .. } = pass;
        let (index, mut positions) = (*index, rows.len());
        // What comes after the last layer's keys and values is for logits alone.
        let is_last = self.first_layer + index + 1 == self.config.num_hidden_layers;
        let narrows = *has_tokens && is_last && observer.is_none();
        let Buffers { input, q, k, v, projected, gate, up, attention, reads } = buffers;
        let Config { hidden_size, head_dim, intermediate_size, .. } = self.config;
        let is_local = self.local_rope.is_some() && layer.window.is_some();
        let angles = if is_local { &pass.local_angles } else { &pass.angles };
        let (query_width, key_width) = (self.config.query_width(), self.config.key_value_width());
        let mut observe = |which, input: &Input, residual: &[f32]| match observer {
            Some(observer) => {
                observer.linear_input(self.first_layer + index, which, input.values(), residual)
            }
            None => ControlFlow::Continue(()),
        };

        let mut done = |part| {
            if let Some(profile) = profile {
                profile.end(part);
            }
        };
        self.rms_norm(hidden, &layer.input_layernorm, input.reset(positions, hidden_size));
        observe(LinearInput::Qkv, input, hidden)?;
        done(Part::Rest);
        layer.v_proj.weight.prepare(self.backend, input);
        done(Part::Tables);
        layer.v_proj.forward(self.backend, input, v, positions);
        layer.k_proj.forward(self.backend, input, k, positions);
        done(Part::Products);
        if let Some(norm) = &layer.k_norm {
            self.rms_norm_in_place(k, norm);
        }
        let keys = k.chunks_exact_mut(key_width).zip(v.chunks_exact(key_width));
        for (row, (k, v)) in rows.iter().zip(keys) {
            for head in k.chunks_exact_mut(head_dim) {
                angles.rotate(row.angles, head);
            }
            done(Part::Rest);
            caches[row.cache].push(index, row.position, k, v, attention);
            done(Part::Attention);
        }
        if narrows && wanted.len() < rows.len() {
            for (place, row) in wanted.iter_mut().enumerate() {
                rows[place] = rows[*row];
                hidden.copy_within(*row * hidden_size..(*row + 1) * hidden_size, place * hidden_size);
                *row = place;
            }
            rows.truncate(wanted.len());
            positions = rows.len();
            hidden.truncate(positions * hidden_size);
            if rows.is_empty() {
                return ControlFlow::Continue(());
            }
            self.rms_norm(hidden, &layer.input_layernorm, input.reset(positions, hidden_size));
            done(Part::Rest);
            layer.q_proj.weight.prepare(self.backend, input);
            done(Part::Tables);
        }
        layer.q_proj.forward(self.backend, input, q, positions);
        done(Part::Products);
        if let Some(norm) = &layer.q_norm {
            self.rms_norm_in_place(q, norm);
        }
        for (row, q) in rows.iter().zip(q.chunks_exact_mut(query_width)) {
            for head in q.chunks_exact_mut(head_dim) {
                angles.rotate(row.angles, head);
            }
        }
        done(Part::Rest);
        let (mut q_left, mut attended_left) = (&q[..], input.reset(positions, query_width));
        for rows in rows.chunk_by(|a, b| a.cache == b.cache) {
            let (q, attended);
            (q, q_left) = q_left.split_at(rows.len() * query_width);
            (attended, attended_left) = attended_left.split_at_mut(rows.len() * query_width);
            reads.clear();
            reads.extend(rows.iter().map(|row| {
                let end = row.position + 1;
                layer.window.map_or(0, |window| end.saturating_sub(window))..end
            }));
            caches[rows[0].cache].attend(self.backend, index, reads, q, attention, attended);
        }
        observe(LinearInput::O, input, hidden)?;
        done(Part::Attention);
        layer.o_proj.weight.prepare(self.backend, input);
        done(Part::Tables);
        layer.o_proj.forward(self.backend, input, projected, positions);
        done(Part::Products);
        if let Some(norm) = &layer.post_attention_norm {
            self.rms_norm_in_place(projected, norm);
        }
        hidden.iter_mut().zip(&*projected).for_each(|(h, o)| *h += o);

        self.rms_norm(hidden, &layer.pre_feedforward_norm, input.reset(positions, hidden_size));
        observe(LinearInput::GateUp, input, hidden)?;
        done(Part::Rest);
        layer.gate_proj.weight.prepare(self.backend, input);
        done(Part::Tables);
        layer.gate_proj.forward(self.backend, input, gate, positions);
        layer.up_proj.forward(self.backend, input, up, positions);
        done(Part::Products);
        let gated = input.reset(positions, intermediate_size);
        self.backend.gate(self.config.variant.hidden_act, gate, up, gated);
        observe(LinearInput::Down, input, hidden)?;
        done(Part::Rest);
        layer.down_proj.weight.prepare(self.backend, input);
        done(Part::Tables);
        layer.down_proj.forward(self.backend, input, projected, positions);
        done(Part::Products);
        if let Some(norm) = &layer.post_feedforward_norm {
            self.rms_norm_in_place(projected, norm);
        }
        hidden.iter_mut().zip(&*projected).for_each(|(h, o)| *h += o);
        done(Part::Rest);
        ControlFlow::Continue(())
    }

    /// Logits of the rows that want them.
    fn logits(&self, pass: &mut Pass, observer: &mut Option<&mut dyn Observer>) -> ControlFlow<()> {
        let hidden_size = self.config.hidden_size;
        let Pass { hidden, wanted, logits, buffers, .. } = pass;
        let of_rows = || wanted.iter().map(|row| &hidden[row * hidden_size..][..hidden_size]);
        let rows = wanted.len();
        let input = &mut buffers.input;
        for (hidden, normed) in of_rows().zip(input.reset(rows, hidden_size).chunks_exact_mut(hidden_size)) {
            self.rms_norm(hidden, &self.norm, normed);
        }
        if let Some(observer) = observer {
            let residual: Vec<f32> = of_rows().flatten().copied().collect();
            let layer = self.config.num_hidden_layers;
            observer.linear_input(layer, LinearInput::Head, input.values(), &residual)?;
        }
        logits.resize(rows * self.config.vocab_size, 0.0);
        self.head().multiply(self.backend, input, logits);
        ControlFlow::Continue(())
    }

    /// Root-mean-square normalisation (Zhang and Sennrich, 2019) of each position, `[positions, hidden_size]`.
    fn rms_norm(&self, hidden: &[f32], weight: &[f32], output: &mut [f32]) {
        let width = weight.len();
        for (x, y) in hidden.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
            let factor = self.rms_factor(x);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * factor * w;
            }
        }
    }

    /// The same of each vector of as many values as `weight` has, in place.
    fn rms_norm_in_place(&self, values: &mut [f32], weight: &[f32]) {
        for x in values.chunks_exact_mut(weight.len()) {
            let factor = self.rms_factor(x);
            for (x, w) in x.iter_mut().zip(weight) {
                *x = *x * factor * w;
            }
        }
    }

    fn rms_factor(&self, values: &[f32]) -> f32 {
        let mean_square = self.backend.dot_f32(values, values) / values.len() as f32;
        1.0 / (mean_square + self.config.rms_norm_eps as f32).sqrt()
    }

    /// Runs `tokens` through the model in passes of at most `chunk` positions and returns the logits of all,
    /// `[tokens, vocab_size]`: evaluation and calibration.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn forward(
        &self,
        tokens: &[u32],
        precision: super::CachePrecision,
        chunk: usize,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<Vec<f32>, ModelError> {
        let mut cache = KvCache::new(&self.config, precision, tokens.len())?;
        let mut logits = Vec::with_capacity(tokens.len() * self.config.vocab_size);
        let mut spare = None;
        for tokens in tokens.chunks(chunk.max(1)) {
            let mut pass = self.begin(&mut cache, tokens, LogitsFor::All, spare)?;
            let observer: Option<&mut dyn Observer> = match &mut observer {
                Some(observer) => Some(&mut **observer),
                None => None,
            };
            self.advance(&mut pass, &mut cache, &mut Budget::unlimited(), observer);
            logits.extend_from_slice(pass.logits());
            spare = Some(pass);
        }
        Ok(logits)
    }
}

/// Writes what the residual stream of `config`'s model begins with at `token`, `[hidden_size]`, to `hidden`.
///
/// Gemma's factor is rounded to 32 bits, as transformers does it with 32-bit weights.
///
/// # Panics
/// If `token` or the length of `hidden` does not fit the embedding `embed_tokens`.
fn embed(config: &Config, embed_tokens: &Matrix, token: u32, hidden: &mut [f32]) {
    embed_tokens.decode_row(token as usize, hidden);
    if config.variant.scale_embeddings {
        let factor = (config.hidden_size as f32).sqrt();
        for h in hidden {
            *h *= factor;
        }
    }
}
