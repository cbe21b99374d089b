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

/// Hyper-parameters of a model of the Llama family.
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
}

impl Config {
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
        Ok(())
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads (and of all value heads) together.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Estimated instructions of one layer's attention for one position after `context` others, fitted to the bundled
    /// model (`docs/BENCHMARKS.md`): 6 per element of the query, 400 per head for the exponential and the short loops.
    pub fn attention_work(&self, context: usize) -> u64 {
        (self.query_width() * 6 + self.num_attention_heads * 400) as u64 * context as u64
    }
}
