//! GGUF files, as llama.cpp's converter writes them for the Llama architecture.
//!
//! Names of fields and tensors: `gguf-py/gguf/constants.py` of <https://github.com/ggml-org/llama.cpp>.

mod container;
mod tokenizer;

use std::path::Path;

use novaq_engine::model::{Config, RopeScaling};

use super::tensors::{Convention, Tensors};
use super::{CheckpointError, Opened, Source};
use container::Metadata;

const ARCHITECTURE: &str = "llama";

/// Factors by which Llama 3.1 divides the rotary frequencies, one per pair of a head's values.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Opens the file at `path`.
pub(super) fn open(path: &Path) -> Result<Opened, CheckpointError> {
    let (file, metadata, index) = container::open(path)?;
    let tensors = Tensors::new(vec![file], index);
    let config = config(&metadata, &tensors)?;
    config.validate()?;
    let head = config.head_dim;
    let tensors = tensors.with_convention(Convention { name: tensor_name, interleaved_head: Some(head) });
    let config = Config {
        tie_word_embeddings: !tensors.contains("lm_head.weight"),
        attention_bias: tensors.contains("model.layers.0.self_attn.q_proj.bias"),
        mlp_bias: tensors.contains("model.layers.0.mlp.gate_proj.bias"),
        ..config
    };
    let source = Box::new(File(metadata));
    Ok(Opened { config, tensors, source })
}

/// The parts of a layer, as Hugging Face's checkpoints and as GGUF files name them.
const PARTS: [(&str, &str); 9] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// The name in a GGUF file of the tensor that Hugging Face's checkpoints call `name`.
fn tensor_name(name: &str) -> String {
    let name = match name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => name.strip_prefix("model.layers.").unwrap_or(name),
    };
    let written = name.split_once('.').and_then(|(layer, rest)| {
        let (part, end) = rest.rsplit_once('.')?;
        let (_, written) = PARTS.iter().find(|(known, _)| *known == part)?;
        Some(format!("blk.{layer}.{written}.{end}"))
    });
    written.unwrap_or_else(|| name.to_owned())
}

/// The hyper-parameters, but for what only the tensors say: the tied head and the biases.
fn config(metadata: &Metadata, tensors: &Tensors) -> Result<Config, CheckpointError> {
    match metadata.text("general.architecture")? {
        Some(ARCHITECTURE) => {}
        Some(other) => {
            let reason = format!("is `{other}`; supported is `{ARCHITECTURE}`");
            return Err(metadata.invalid("general.architecture", reason));
        }
        None => return Err(metadata.missing("general.architecture")),
    }
    for (key, most) in [("split.count", 1), ("llama.expert_count", 0)] {
        if let Some(count) = metadata.size(key)?.filter(|&count| count > most) {
            return Err(metadata.invalid(key, format!("is {count}, which is not supported")));
        }
    }
    let needed = |key: &str| metadata.size(key)?.ok_or_else(|| metadata.missing(key));
    let hidden_size = needed("llama.embedding_length")?;
    let num_attention_heads = needed("llama.attention.head_count")?;
    let head_dim = match metadata.size("llama.attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            let reason =
                format!("{num_attention_heads} does not divide the embedding's length {hidden_size}");
            return Err(metadata.invalid("llama.attention.head_count", reason));
        }
    };
    // Values as wide as keys, and the whole head rotated.
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(width) = metadata.size(key)?.filter(|&width| width != head_dim) {
            return Err(
                metadata.invalid(key, format!("is {width}; supported is the head's width {head_dim}"))
            );
        }
    }
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let token = |key: &str| -> Result<Option<u32>, CheckpointError> {
        // 4294967295 stands for none.
        let id = metadata.size(key)?.filter(|&id| id != u32::MAX as usize);
        id.map(|id| u32::try_from(id).map_err(|_| metadata.invalid(key, format!("is {id}, not a token id"))))
            .transpose()
    };
    // The end of a sequence, and that of a turn or message where a model has its own.
    let ends = ["eos", "eot", "eom"].map(|end| token(&format!("tokenizer.ggml.{end}_token_id")));
    let mut eos_token_ids: Vec<u32> = Vec::new();
    for id in ends.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        if !eos_token_ids.contains(&id) {
            eos_token_ids.push(id);
        }
    }
    let eps = "llama.attention.layer_norm_rms_epsilon";
    Ok(Config {
        vocab_size: tokens.ok_or_else(|| metadata.missing("tokenizer.ggml.tokens"))?.len(),
        hidden_size,
        intermediate_size: needed("llama.feed_forward_length")?,
        num_hidden_layers: needed("llama.block_count")?,
        num_attention_heads,
        num_key_value_heads: metadata.size("llama.attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: needed("llama.context_length")?,
        rms_norm_eps: metadata.number(eps)?.ok_or_else(|| metadata.missing(eps))?,
        rope_theta: metadata.number("llama.rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: rope_scaling(metadata, tensors, head_dim)?,
        tie_word_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: token("tokenizer.ggml.bos_token_id")?,
        eos_token_ids,
    })
}

/// Linear scaling is in the metadata. Of Llama 3's, which is there only as the factors that follow from it, the
/// parameters are found again and checked against every factor.
fn rope_scaling(
    metadata: &Metadata,
    tensors: &Tensors,
    head_dim: usize,
) -> Result<RopeScaling, CheckpointError> {
    const KIND: &str = "llama.rope.scaling.type";
    const FACTOR: &str = "llama.rope.scaling.factor";
    let scaling = match metadata.text(KIND)? {
        None | Some("none") => RopeScaling::Default,
        Some("linear") => {
            RopeScaling::Linear { factor: metadata.number(FACTOR)?.ok_or_else(|| metadata.missing(FACTOR))? }
        }
        Some(other) => {
            let reason = format!("is `{other}`; supported are `none` and `linear`");
            return Err(metadata.invalid(KIND, reason));
        }
    };
    if !tensors.contains(ROPE_FACTORS) {
        return Ok(scaling);
    }
    tensors.check(ROPE_FACTORS, &[head_dim / 2])?;
    let (_, factors) = tensors.read(ROPE_FACTORS)?;
    let theta = metadata.number("llama.rope.freq_base")?.unwrap_or(10_000.0);
    // The lowest frequency has the whole factor; the other parameters are those of all models of Llama 3.1 to 3.3.
    let factor = factors.last().copied().map_or(1.0, f64::from);
    let (low, high) = (1.0, 4.0);
    let original = metadata.size("llama.rope.scaling.original_context_length")?.unwrap_or(8192);
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
