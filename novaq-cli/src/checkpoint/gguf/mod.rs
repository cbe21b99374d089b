//! GGUF files, as llama.cpp's converter writes them.
//!
//! Names of fields and tensors: `gguf-py/gguf/constants.py` of <https://github.com/ggml-org/llama.cpp>; what is not in
//! the metadata: `src/llama-model.cpp`.

mod container;
mod tokenizer;

use std::path::Path;

use novaq_engine::model::{Activation, Config, LayerType, RopeScaling, Variant};

use super::tensors::{Convention, Tensors};
use super::{CheckpointError, Opened, Source};
use container::Metadata;
pub(crate) use container::has_whole_header;

/// An architecture, by its name in `general.architecture`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    /// Mistral's too.
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
}

use Architecture::{Gemma3, Llama, Qwen2, Qwen3};

impl Architecture {
    const ALL: [Self; 4] = [Llama, Qwen2, Qwen3, Gemma3];

    fn name(self) -> &'static str {
        match self {
            Llama => "llama",
            Qwen2 => "qwen2",
            Qwen3 => "qwen3",
            Gemma3 => "gemma3",
        }
    }

    fn of(metadata: &Metadata) -> Result<Self, CheckpointError> {
        const KEY: &str = "general.architecture";
        let name = metadata.text(KEY)?.ok_or_else(|| metadata.missing(KEY))?;
        Self::ALL.into_iter().find(|architecture| architecture.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(|architecture| format!("`{}`", architecture.name())).join(", ");
            metadata.invalid(KEY, format!("is `{name}`; supported are {known}"))
        })
    }
}

/// Factors by which Llama 3.1 divides the rotary frequencies, one per pair of a head's values.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Layers of the largest Gemma 3, the only one that divides products of queries and keys by another width than that of
/// its heads; no field says so.
const GEMMA_27B_LAYERS: usize = 62;

/// Opens the file at `path`.
pub(super) fn open(path: &Path) -> Result<Opened, CheckpointError> {
    let (file, metadata, index) = container::open(path)?;
    let tensors = Tensors::new(vec![file], index);
    let architecture = Architecture::of(&metadata)?;
    let config = Reader { metadata: &metadata, architecture }.config(&tensors)?;
    let tensors = tensors.with_convention(Convention {
        name: if architecture == Gemma3 { gemma_name } else { llama_name },
        interleaved_head: (architecture == Llama).then_some(config.head_dim),
        ..Convention::HUGGING_FACE
    });
    let has_bias = |part: &str| tensors.contains(&format!("model.layers.0.{part}.bias"));
    let attention_bias = has_bias("self_attn.o_proj");
    let config = Config {
        tie_word_embeddings: !tensors.contains("lm_head.weight"),
        attention_bias,
        mlp_bias: has_bias("mlp.gate_proj"),
        variant: Variant { qkv_bias: has_bias("self_attn.q_proj") && !attention_bias, ..config.variant },
        ..config
    };
    config.validate()?;
    let source = Box::new(File(metadata));
    Ok(Opened { config, tensors, source })
}

/// The parts of a layer, as Hugging Face's checkpoints and as GGUF files name them.
const PARTS: [(&str, &str); 10] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
];

/// The other norms of a layer: all but Gemma call the one before the feed-forward layers by what it comes after.
const LLAMA_NORMS: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];
const GEMMA_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

fn llama_name(name: &str) -> String {
    tensor_name(name, &LLAMA_NORMS)
}

fn gemma_name(name: &str) -> String {
    tensor_name(name, &GEMMA_NORMS)
}

/// The name in a GGUF file of the tensor that Hugging Face's checkpoints call `name`.
fn tensor_name(name: &str, norms: &[(&str, &str)]) -> String {
    let name = match name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => name.strip_prefix("model.layers.").unwrap_or(name),
    };
    let written = name.split_once('.').and_then(|(layer, rest)| {
        let (part, end) = rest.rsplit_once('.')?;
        let (_, written) = PARTS.iter().chain(norms).find(|(known, _)| *known == part)?;
        Some(format!("blk.{layer}.{written}.{end}"))
    });
    written.unwrap_or_else(|| name.to_owned())
}

/// Reads hyper-parameters, whose keys begin with the architecture's name.
struct Reader<'a> {
    metadata: &'a Metadata,
    architecture: Architecture,
}

impl Reader<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    fn size(&self, name: &str) -> Result<Option<usize>, CheckpointError> {
        self.metadata.size(&self.key(name))
    }

    fn needed_size(&self, name: &str) -> Result<usize, CheckpointError> {
        self.size(name)?.ok_or_else(|| self.metadata.missing(&self.key(name)))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, CheckpointError> {
        self.metadata.number(&self.key(name))
    }

    fn needed_number(&self, name: &str) -> Result<f64, CheckpointError> {
        self.number(name)?.ok_or_else(|| self.metadata.missing(&self.key(name)))
    }

    fn invalid(&self, name: &str, reason: impl Into<String>) -> CheckpointError {
        self.metadata.invalid(&self.key(name), reason)
    }

    /// The hyper-parameters, but for what only the tensors say: the tied head and the biases.
    fn config(&self, tensors: &Tensors) -> Result<Config, CheckpointError> {
        const SPLIT: &str = "split.count";
        let metadata = self.metadata;
        let unsupported = |count: usize| format!("is {count}, which is not supported");
        if let Some(count) = metadata.size(SPLIT)?.filter(|&count| count > 1) {
            return Err(metadata.invalid(SPLIT, unsupported(count)));
        }
        if let Some(count) = self.size("expert_count")?.filter(|&count| count > 0) {
            return Err(self.invalid("expert_count", unsupported(count)));
        }
        for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(value) = self.number(name)?.filter(|&value| value != 0.0) {
                return Err(self.invalid(name, format!("is {value}, which is not supported")));
            }
        }
        let hidden_size = self.needed_size("embedding_length")?;
        let num_attention_heads = self.needed_size("attention.head_count")?;
        let head_dim = match self.size("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                let reason =
                    format!("{num_attention_heads} does not divide the embedding's length {hidden_size}");
                return Err(self.invalid("attention.head_count", reason));
            }
        };
        // Values as wide as keys, and the whole head rotated.
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(width) = self.size(name)?.filter(|&width| width != head_dim) {
                let reason = format!("is {width}; supported is the head's width {head_dim}");
                return Err(self.invalid(name, reason));
            }
        }
        let tokens = metadata.texts("tokenizer.ggml.tokens")?;
        let token = |key: &str| -> Result<Option<u32>, CheckpointError> {
            // 4294967295 stands for none.
            let id = metadata.size(key)?.filter(|&id| id != u32::MAX as usize);
            let no_id = |id| metadata.invalid(key, format!("is {id}, not a token id"));
            id.map(|id| u32::try_from(id).map_err(|_| no_id(id))).transpose()
        };
        // The end of a sequence, and that of a turn or message where a model has its own.
        let ends = ["eos", "eot", "eom"].map(|end| token(&format!("tokenizer.ggml.{end}_token_id")));
        let mut eos_token_ids: Vec<u32> = Vec::new();
        for id in ends.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            if !eos_token_ids.contains(&id) {
                eos_token_ids.push(id);
            }
        }
        let num_hidden_layers = self.needed_size("block_count")?;
        Ok(Config {
            vocab_size: tokens.ok_or_else(|| metadata.missing("tokenizer.ggml.tokens"))?.len(),
            hidden_size,
            intermediate_size: self.needed_size("feed_forward_length")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: self.size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings: self.needed_size("context_length")?,
            rms_norm_eps: self.needed_number("attention.layer_norm_rms_epsilon")?,
            rope_theta: self.rope_theta()?,
            rope_scaling: self.rope_scaling(tensors, head_dim)?,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: token("tokenizer.ggml.bos_token_id")?,
            eos_token_ids,
            variant: self.variant(hidden_size, num_attention_heads, num_hidden_layers)?,
        })
    }

    fn rope_theta(&self) -> Result<f64, CheckpointError> {
        let default = if self.architecture == Gemma3 { 1e6 } else { 1e4 };
        Ok(self.number("rope.freq_base")?.unwrap_or(default))
    }

    /// In what the model departs from Llama's architecture, but for the biases.
    fn variant(&self, hidden: usize, heads: usize, layers: usize) -> Result<Variant, CheckpointError> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        let is_gemma = self.architecture == Gemma3;
        let mut variant = Variant { qk_norm: is_gemma || self.architecture == Qwen3, ..Variant::default() };
        if is_gemma {
            variant.post_norms = true;
            variant.scale_embeddings = true;
            variant.hidden_act = Activation::GeluPytorchTanh;
            if layers == GEMMA_27B_LAYERS && heads > 0 {
                variant.query_pre_attn_scalar = Some((hidden / heads) as f64);
            }
        }
        let Some(window) = self.size("attention.sliding_window")?.filter(|&window| window > 0) else {
            return Ok(variant);
        };
        if is_gemma {
            variant.rope_local_base_freq = Some(self.number("rope.freq_base_swa")?.unwrap_or(1e4));
        }
        // Every so-manieth layer reads all positions.
        let pattern = match self.size(PATTERN)? {
            Some(0) => return Err(self.invalid(PATTERN, "is 0")),
            Some(pattern) => Some(pattern),
            None => is_gemma.then_some(6),
        };
        let layer_type = |layer: usize| match pattern {
            Some(pattern) if (layer + 1).is_multiple_of(pattern) => LayerType::FullAttention,
            _ => LayerType::SlidingAttention,
        };
        // More are refused later.
        Ok(variant.with_windows(window, (0..layers.min(1 << 24)).map(layer_type).collect()))
    }

    /// Linear scaling is in the metadata. Of Llama 3's, which is there only as the factors that follow from it, the
    /// parameters are found again and checked against every factor.
    fn rope_scaling(&self, tensors: &Tensors, head_dim: usize) -> Result<RopeScaling, CheckpointError> {
        const KIND: &str = "rope.scaling.type";
        let scaling = match self.metadata.text(&self.key(KIND))? {
            None | Some("none") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: self.needed_number("rope.scaling.factor")? },
            Some(other) => {
                let reason = format!("is `{other}`; supported are `none` and `linear`");
                return Err(self.invalid(KIND, reason));
            }
        };
        if !tensors.contains(ROPE_FACTORS) {
            return Ok(scaling);
        }
        tensors.check(ROPE_FACTORS, &[head_dim / 2])?;
        let (_, factors) = tensors.read(ROPE_FACTORS)?;
        let theta = self.rope_theta()?;
        // The lowest frequency has the whole factor; the other parameters are those of all models of Llama 3.1 to 3.3.
        let factor = factors.last().copied().map_or(1.0, f64::from);
        let (low, high) = (1.0, 4.0);
        let original = self.size("rope.scaling.original_context_length")?.unwrap_or(8192);
        let expected = |pair: usize| {
            let frequency = theta.powf(-2.0 * pair as f64 / head_dim as f64);
            let turns = original as f64 * frequency / std::f64::consts::TAU;
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        let is_llama3 = factors
            .iter()
            .enumerate()
            .all(|(pair, &f)| (f64::from(f) - expected(pair)).abs() < 1e-3 * f64::from(f));
        if scaling != RopeScaling::Default || !is_llama3 {
            let reason = "holds factors other than those of Llama 3, which is not supported".to_owned();
            return Err(CheckpointError::Tensor { name: ROPE_FACTORS.into(), reason });
        }
        Ok(RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        })
    }
}

/// What is beside the tensors in the file.
#[derive(Debug)]
struct File(Metadata);

impl Source for File {
    fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        Ok(tokenizer::json(&self.0)?.to_string().into_bytes())
    }

    fn chat_template(&self) -> Option<String> {
        self.0.text("tokenizer.chat_template").ok().flatten().map(str::to_owned)
    }

    fn license(&self) -> Option<String> {
        self.0.text("general.license").ok().flatten().map(str::to_owned)
    }

    fn files(&self) -> Vec<String> {
        Vec::new()
    }

    fn tolerates(&self, tensor: &str) -> bool {
        tensor == ROPE_FACTORS
    }
}
