//! Hyper-parameters, under the names of Hugging Face's `config.json`.

use super::ModelError;
use serde::{Deserialize, Serialize};

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "rope_type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor` (position interpolation, Chen et al., 2023).
    Linear {
        /// How many times longer the context gets.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a smooth transition between (Llama 3.1).
    Llama3 {
        /// How many times longer the context gets.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context that the model was first trained on.
        original_max_position_embeddings: usize,
    },
}

/// The activation function of the feed-forward layers, as `hidden_act` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · sigmoid(x)`.
    #[default]
    Silu,
    /// GELU (Hendrycks and Gimpel, 2016) by its approximation with tanh.
    GeluPytorchTanh,
}

/// Which positions the attention of a layer reads, as `layer_types` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// All positions so far.
    FullAttention,
    /// The last [`Variant::sliding_window`] positions, the current one included.
    SlidingAttention,
}

/// In what an architecture departs from Llama's; the default is Llama's own. Fields that have their default are not
/// written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "an architecture has any of these features or not")]
pub struct Variant {
    /// Whether q, k and v have biases although `attention_bias` says that o has none (Qwen2).
    #[serde(skip_serializing_if = "is_default")]
    pub qkv_bias: bool,
    /// Whether each head of q and k is normalised before its rotation (Qwen3, Gemma 3).
    #[serde(skip_serializing_if = "is_default")]
    pub qk_norm: bool,
    /// Whether what attention and feed-forward add to the residual stream is normalised before (Gemma 3).
    #[serde(skip_serializing_if = "is_default")]
    pub post_norms: bool,
    /// Whether embeddings are multiplied by the square root of `hidden_size` (Gemma 3).
    #[serde(skip_serializing_if = "is_default")]
    pub scale_embeddings: bool,
    /// Activation function of the feed-forward layers.
    #[serde(skip_serializing_if = "is_default")]
    pub hidden_act: Activation,
    /// Products of queries and keys are divided by the square root of this; by that of `head_dim` if it is not set.
    #[serde(skip_serializing_if = "is_default")]
    pub query_pre_attn_scalar: Option<f64>,
    /// Positions that sliding attention reads.
    #[serde(skip_serializing_if = "is_default")]
    pub sliding_window: Option<usize>,
    /// The attention of each layer where it is not the same in all: else it slides if there is a window.
    #[serde(skip_serializing_if = "is_default")]
    pub layer_types: Vec<LayerType>,
    /// Base of the rotary frequencies, not stretched, in layers whose attention slides; if it is not set, their
    /// frequencies are those of the others.
    #[serde(skip_serializing_if = "is_default")]
    pub rope_local_base_freq: Option<f64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Variant {
    /// The same with attention that slides over `window` positions in the layers of that type.
    #[must_use]
    pub fn with_windows(self, window: usize, layer_types: Vec<LayerType>) -> Self {
        let slides = |t: &LayerType| *t == LayerType::SlidingAttention;
        if !layer_types.iter().any(slides) {
            Self { sliding_window: None, layer_types: Vec::new(), rope_local_base_freq: None, ..self }
        } else if layer_types.iter().all(slides) {
            Self { sliding_window: Some(window), layer_types: Vec::new(), ..self }
        } else {
            Self { sliding_window: Some(window), layer_types, ..self }
        }
    }
}

/// Hyper-parameters of a decoder: Llama, or an architecture that is the same but for its [`Variant`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Context window in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the head is the transposed embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// First token of a text, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// In what the architecture departs from Llama's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub variant: Variant,
}

impl Config {
    /// What [`Self::architecture`] may give.
    pub const ARCHITECTURES: [&'static str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"];

    /// Checks that the numbers make a model whose arithmetic is exact where the kernels rely on it.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        /// Keeps every product of two sizes within 64 bits and tables within reason; GPT-4-class models fit.
        const LARGEST: usize = 1 << 24;
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, value) in sizes {
            if value == 0 || value > LARGEST {
                return Err(ModelError::config(field, format!("{value} is not in 1..={LARGEST}")));
            }
        }
        if !self.head_dim.is_multiple_of(2) || self.head_dim > crate::kernel::INT8_BLOCK_COLUMNS {
            return Err(ModelError::config(
                "head_dim",
                format!("{} is not an even number up to 512", self.head_dim),
            ));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let reason =
                format!("{} heads can't share {}", self.num_attention_heads, self.num_key_value_heads);
            return Err(ModelError::config("num_key_value_heads", reason));
        }
        if self.num_attention_heads.checked_mul(self.head_dim).is_none_or(|width| width > LARGEST) {
            return Err(ModelError::config("num_attention_heads", "heads times head_dim is too large"));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(ModelError::config(
                "rms_norm_eps",
                format!("{} is not in (0, 1)", self.rms_norm_eps),
            ));
        }
        if !(self.rope_theta > 1.0 && self.rope_theta.is_finite()) {
            return Err(ModelError::config("rope_theta", format!("{} is not above 1", self.rope_theta)));
        }
        match self.rope_scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => {
                if !(factor >= 1.0 && factor.is_finite()) {
                    return Err(ModelError::config("rope_scaling", format!("factor {factor} is below 1")));
                }
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings,
            } => {
                let valid =
                    factor >= 1.0 && factor.is_finite() && low > 0.0 && high > low && high.is_finite();
                if !valid || original_max_position_embeddings == 0 {
                    return Err(ModelError::config("rope_scaling", "llama3 factors are out of range"));
                }
            }
        }
        if let Some(token) =
            self.bos_token_id.iter().chain(&self.eos_token_ids).find(|&&t| t as usize >= self.vocab_size)
        {
            return Err(ModelError::Token { token: *token, vocab_size: self.vocab_size });
        }
        self.validate_variant()
    }

    fn validate_variant(&self) -> Result<(), ModelError> {
        let Variant { query_pre_attn_scalar, sliding_window, layer_types, rope_local_base_freq, .. } =
            &self.variant;
        if self.variant.qkv_bias && self.attention_bias {
            return Err(ModelError::config("qkv_bias", "`attention_bias` says so already"));
        }
        if let Some(scalar) = query_pre_attn_scalar
            && !(*scalar > 0.0 && scalar.is_finite())
        {
            return Err(ModelError::config("query_pre_attn_scalar", format!("{scalar} is not above 0")));
        }
        if *sliding_window == Some(0) {
            return Err(ModelError::config("sliding_window", "0 positions"));
        }
        if !layer_types.is_empty() {
            let slides = layer_types.iter().filter(|t| **t == LayerType::SlidingAttention).count();
            if layer_types.len() != self.num_hidden_layers {
                let reason = format!("{} for {} layers", layer_types.len(), self.num_hidden_layers);
                return Err(ModelError::config("layer_types", reason));
            }
            if slides == 0 || slides == layer_types.len() {
                return Err(ModelError::config("layer_types", "all layers are of one type"));
            }
            if sliding_window.is_none() {
                return Err(ModelError::config("sliding_window", "is missing, but `layer_types` needs one"));
            }
        }
        if let Some(base) = rope_local_base_freq
            && !(*base > 1.0 && base.is_finite())
        {
            return Err(ModelError::config("rope_local_base_freq", format!("{base} is not above 1")));
        }
        Ok(())
    }

    /// The first of transformers' architectures that computes what this model does, by its `model_type`. One that
    /// differs from an earlier one in the names alone, such as Mistral without a window, goes by the earlier name.
    pub fn architecture(&self) -> &'static str {
        let Variant { qkv_bias, qk_norm, post_norms, sliding_window, .. } = self.variant;
        let [llama, mistral, qwen2, qwen3, gemma3] = Self::ARCHITECTURES;
        if post_norms {
            gemma3
        } else if qk_norm {
            qwen3
        } else if qkv_bias {
            qwen2
        } else if sliding_window.is_some() {
            mistral
        } else {
            llama
        }
    }

    /// The type of layer `layer`.
    pub fn layer_type(&self, layer: usize) -> LayerType {
        let Variant { sliding_window, layer_types, .. } = &self.variant;
        match layer_types.get(layer) {
            Some(layer_type) => *layer_type,
            None if sliding_window.is_some() => LayerType::SlidingAttention,
            None => LayerType::FullAttention,
        }
    }

    /// Positions that the attention of layer `layer` reads; `None` for all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        match self.layer_type(layer) {
            LayerType::SlidingAttention => self.variant.sliding_window,
            LayerType::FullAttention => None,
        }
    }

    /// What products of queries and keys are multiplied by.
    pub fn attention_scale(&self) -> f32 {
        let scalar = self.variant.query_pre_attn_scalar.unwrap_or(self.head_dim as f64);
        1.0 / (scalar as f32).sqrt()
    }

    /// Names and lengths of the vectors of a layer, norms and biases, in the order of the forward pass; the names
    /// are those of the checkpoints behind `model.layers.N.`.
    pub fn layer_vectors(&self) -> Vec<(&'static str, usize)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, key) = (self.query_width(), self.key_value_width());
        let Variant { qkv_bias, qk_norm, post_norms, .. } = self.variant;
        let vectors = [
            ("input_layernorm.weight", hidden, true),
            ("self_attn.q_proj.bias", query, qkv_bias || self.attention_bias),
            ("self_attn.k_proj.bias", key, qkv_bias || self.attention_bias),
            ("self_attn.v_proj.bias", key, qkv_bias || self.attention_bias),
            ("self_attn.q_norm.weight", self.head_dim, qk_norm),
            ("self_attn.k_norm.weight", self.head_dim, qk_norm),
            ("self_attn.o_proj.bias", hidden, self.attention_bias),
            ("post_attention_layernorm.weight", hidden, true),
            ("pre_feedforward_layernorm.weight", hidden, post_norms),
            ("mlp.gate_proj.bias", inner, self.mlp_bias),
            ("mlp.up_proj.bias", inner, self.mlp_bias),
            ("mlp.down_proj.bias", hidden, self.mlp_bias),
            ("post_feedforward_layernorm.weight", hidden, post_norms),
        ];
        vectors.into_iter().filter(|(.., has)| *has).map(|(name, length, _)| (name, length)).collect()
    }

    /// Names and shapes `[outputs, inputs]` of the matrices of a layer, in the order of the forward pass; the names are those
    /// of the checkpoints behind `model.layers.N.`.
    pub fn layer_matrices(&self) -> [(&'static str, [usize; 2]); 7] {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, key) = (self.query_width(), self.key_value_width());
        [
            ("self_attn.q_proj.weight", [query, hidden]),
            ("self_attn.k_proj.weight", [key, hidden]),
            ("self_attn.v_proj.weight", [key, hidden]),
            ("self_attn.o_proj.weight", [hidden, query]),
            ("mlp.gate_proj.weight", [inner, hidden]),
            ("mlp.up_proj.weight", [inner, hidden]),
            ("mlp.down_proj.weight", [hidden, inner]),
        ]
    }

    /// Names and shapes of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let vocabulary = || vec![self.vocab_size, self.hidden_size];
        let matrices = self.layer_matrices().map(|(name, shape)| (name, shape.to_vec()));
        let vectors = self.layer_vectors().into_iter().map(|(name, length)| (name, vec![length]));
        let layer: Vec<(&str, Vec<usize>)> = matrices.into_iter().chain(vectors).collect();
        let layers = (0..self.num_hidden_layers).flat_map(move |index| {
            let named = layer
                .iter()
                .map(move |(name, shape)| (format!("model.layers.{index}.{name}"), shape.clone()));
            named.collect::<Vec<_>>()
        });
        let head = (!self.tie_word_embeddings).then(|| ("lm_head.weight".to_owned(), vocabulary()));
        [("model.embed_tokens.weight".to_owned(), vocabulary())]
            .into_iter()
            .chain(layers)
            .chain([("model.norm.weight".to_owned(), vec![self.hidden_size])])
            .chain(head)
    }

    /// Weights of the model, norms and biases included, a tied head counted once.
    pub fn parameters(&self) -> u64 {
        let (query, key) = (self.query_width(), self.key_value_width());
        let matrices = self.hidden_size * (2 * query + 2 * key + 3 * self.intermediate_size);
        let vectors: usize = self.layer_vectors().into_iter().map(|(_, length)| length).sum();
        let vocabularies = if self.tie_word_embeddings { 1 } else { 2 };
        let outside = self.hidden_size * (vocabularies * self.vocab_size + 1);
        (self.num_hidden_layers * (matrices + vectors) + outside) as u64
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads (and of all value heads) together.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Estimated instructions of the attention of layer `layer` for one position after `context` others, fitted to
    /// `cargo xtask bench chain`: 2 per element of the query and 40 per head, for each position that it reads.
    pub fn layer_attention_work(&self, layer: usize, context: usize) -> u64 {
        let read = self.window(layer).map_or(context, |window| window.min(context));
        (self.query_width() * 2 + self.num_attention_heads * 40) as u64 * read as u64
    }

    /// The same for all layers together.
    pub fn attention_work(&self, context: usize) -> u64 {
        (0..self.num_hidden_layers).map(|layer| self.layer_attention_work(layer, context)).sum()
    }
}
