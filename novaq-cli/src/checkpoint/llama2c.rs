//! Checkpoints of llama2.c: `.bin` with the header of its first version, and a tokenizer beside it.
//!
//! `run.c`, `export.py` and `tokenizer.py` of <https://github.com/karpathy/llama2.c>.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use novaq_engine::model::{Config, RopeScaling, Variant};

use super::sentencepiece::{self, Kind, Piece};
use super::storage::Storage;
use super::tensors::{Convention, Mapped, Stored, Tensors};
use super::{CheckpointError, Opened, Source, folder_of, layer_name, read};

/// Seven 32-bit integers.
const HEADER: usize = 28;

/// `ak42`: how later versions begin.
const LATER: i32 = 0x616b_3432;

/// Beginning and end of a sequence; the models that `run.c` runs write the beginning where a text ends.
const BOS: u32 = 1;
const EOS: u32 = 2;

/// The matrices and vectors of the layers in the order of the file: each stands there for all layers, then the next.
const LAYERS: [&str; 9] = [
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.down_proj.weight",
    "mlp.up_proj.weight",
];

/// Opens the file at `path`.
pub(super) fn open(path: &Path) -> Result<Opened, CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = Mapped::open(folder_of(path), &name)?;
    let config = config(&file)?;
    config.validate()?;
    let index = index(&file, &config)?;
    let convention = Convention { interleaved_head: Some(config.head_dim), ..Convention::HUGGING_FACE };
    let source = Tokenizer { file: tokenizer_file(path)?, vocab_size: config.vocab_size };
    let tensors = Tensors::new(vec![file], index).with_convention(convention);
    Ok(Opened { config, tensors, source: Box::new(source) })
}

/// The hyper-parameters of the header; those that it does not have are constants of `run.c`.
fn config(file: &Mapped) -> Result<Config, CheckpointError> {
    let header = file.bytes.get(..HEADER).ok_or_else(|| file.invalid("the file ends inside the header"))?;
    let fields: Vec<i32> = header.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect();
    if fields[0] == LATER {
        return Err(file.invalid("it is of a version after the first (`ak42`), which is not supported"));
    }
    let size = |at: usize, name: &str| {
        let value = fields[at];
        usize::try_from(value).ok().filter(|&size| size > 0).ok_or_else(|| {
            file.invalid(format!("`{name}` in the header is {value}; it is no checkpoint of llama2.c"))
        })
    };
    let (hidden_size, num_attention_heads) = (size(0, "dim")?, size(3, "n_heads")?);
    if !hidden_size.is_multiple_of(num_attention_heads) {
        let reason = format!(
            "`n_heads` in the header is {num_attention_heads}, which does not divide `dim` {hidden_size}"
        );
        return Err(file.invalid(reason));
    }
    Ok(Config {
        // A head of its own is said by the sign.
        vocab_size: fields[5].unsigned_abs() as usize,
        hidden_size,
        intermediate_size: size(1, "hidden_dim")?,
        num_hidden_layers: size(2, "n_layers")?,
        num_attention_heads,
        num_key_value_heads: size(4, "n_kv_heads")?,
        head_dim: hidden_size / num_attention_heads,
        max_position_embeddings: size(6, "seq_len")?,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: fields[5] > 0,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: Some(BOS),
        eos_token_ids: vec![BOS, EOS],
        variant: Variant::default(),
    })
}

/// Where each tensor is. The file must be as long as all of them.
fn index(file: &Mapped, config: &Config) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    let (dim, kv_dim, hidden) = (config.hidden_size, config.key_value_width(), config.intermediate_size);
    let layers = config.num_hidden_layers;
    let vocabulary = vec![config.vocab_size, dim];
    let mut at = HEADER;
    let mut index = BTreeMap::new();
    let mut put = |name: String, shape: Vec<usize>| -> Result<(), CheckpointError> {
        let bytes = shape.iter().try_fold(4usize, |bytes, &d| bytes.checked_mul(d));
        let end = bytes.and_then(|bytes| at.checked_add(bytes)).filter(|&end| end <= file.bytes.len());
        let Some(end) = end else {
            let reason = format!("ends behind the end of the file, which has {} bytes", file.bytes.len());
            return Err(CheckpointError::Tensor { name, reason });
        };
        index.insert(name, Stored { file: 0, shape, storage: Ok(Storage::F32), bytes: at..end });
        at = end;
        Ok(())
    };
    put("model.embed_tokens.weight".into(), vocabulary.clone())?;
    for name in LAYERS {
        let shape = match name.split('.').nth(1) {
            Some("q_proj" | "o_proj") => vec![dim, dim],
            Some("k_proj" | "v_proj") => vec![kv_dim, dim],
            Some("gate_proj" | "up_proj") => vec![hidden, dim],
            Some("down_proj") => vec![dim, hidden],
            _ => vec![dim],
        };
        for layer in 0..layers {
            put(layer_name(layer, name), shape.clone())?;
        }
    }
    put("model.norm.weight".into(), vec![dim])?;
    // Tables of cosines and sines, which follow from the configuration.
    let tables = "the rotary embedding's tables";
    put(tables.into(), vec![config.max_position_embeddings, config.head_dim])?;
    if !config.tie_word_embeddings {
        put("lm_head.weight".into(), vocabulary)?;
    }
    index.remove(tables);
    if at != file.bytes.len() {
        let reason = format!("it has {} bytes, its header stands for {at}", file.bytes.len());
        return Err(file.invalid(reason));
    }
    Ok(index)
}

/// The tokenizer beside the checkpoint.
#[derive(Debug)]
struct Tokenizer {
    file: PathBuf,
    vocab_size: usize,
}

/// The only `tok*.bin` in the folder of the checkpoint, or else the only `tok*.model`.
fn tokenizer_file(checkpoint: &Path) -> Result<PathBuf, CheckpointError> {
    let folder = folder_of(checkpoint);
    let fail = |source| CheckpointError::Io { path: folder.to_owned(), source };
    for extension in ["bin", "model"] {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let is_tokenizer = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tok"))
                && path.extension().is_some_and(|e| e == extension)
                && path.file_name() != checkpoint.file_name();
            if is_tokenizer {
                found.push(path);
            }
        }
        match found.len() {
            0 => {}
            1 => return Ok(found.remove(0)),
            count => {
                let reason = format!("{count} files beside it could be its tokenizer, `tok*.{extension}`");
                return Err(CheckpointError::Invalid { path: checkpoint.to_owned(), reason });
            }
        }
    }
    let reason = "its tokenizer, `tok*.bin` or `tok*.model`, is not beside it".to_owned();
    Err(CheckpointError::Invalid { path: checkpoint.to_owned(), reason })
}

impl Source for Tokenizer {
    fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        let invalid = |reason| CheckpointError::Invalid { path: self.file.clone(), reason };
        let bytes = read(&self.file)?;
        let (pieces, prefix) = if self.file.extension().is_some_and(|e| e == "bin") {
            (read_pieces(&bytes).map_err(invalid)?, true)
        } else {
            sentencepiece::read_model(&bytes).map_err(invalid)?
        };
        if pieces.len() != self.vocab_size {
            let reason = format!("it has {} tokens, the checkpoint {}", pieces.len(), self.vocab_size);
            return Err(invalid(reason));
        }
        let before = pieces.get(BOS as usize).map(|piece| (BOS, piece.text.as_str()));
        let template = sentencepiece::template(before, None);
        let unknown = pieces.iter().position(|piece| piece.kind == Kind::Unknown);
        let json = sentencepiece::tokenizer_json(&pieces, unknown, prefix, &template).map_err(invalid)?;
        Ok(json.to_string().into_bytes())
    }

    fn chat_template(&self) -> Option<String> {
        None
    }

    fn license(&self) -> Option<String> {
        None
    }

    fn files(&self) -> Vec<String> {
        vec![self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()]
    }

    fn tolerates(&self, _tensor: &str) -> bool {
        false
    }
}

/// The pieces of a `tok*.bin`: the longest piece's length, then each piece's score, length and text, in which spaces
/// are spaces and beginning and end stand in lines of their own.
fn read_pieces(bytes: &[u8]) -> Result<Vec<Piece>, String> {
    let ends = || "it ends inside a token".to_owned();
    let (_, mut rest) = bytes.split_first_chunk::<4>().ok_or_else(ends)?;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (score, behind) = rest.split_first_chunk().ok_or_else(ends)?;
        let (len, behind) = behind.split_first_chunk().ok_or_else(ends)?;
        let len = usize::try_from(i32::from_le_bytes(*len)).map_err(|_| ends())?;
        let (text, behind) = behind.split_at_checked(len).ok_or_else(ends)?;
        rest = behind;
        let id = pieces.len();
        let text = std::str::from_utf8(text).map_err(|e| format!("token {id} is no UTF-8: {e}"))?;
        let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        let (text, kind) = match id {
            0 => (text.to_owned(), Kind::Unknown),
            1 | 2 => (text.trim().to_owned(), Kind::Control),
            _ => (text.replace(' ', "▁"), if is_byte { Kind::Byte } else { Kind::Normal }),
        };
        pieces.push(Piece { text, score: f32::from_le_bytes(*score), kind });
    }
    Ok(pieces)
}
