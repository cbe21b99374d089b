//! `novaq expand`: turns an artifact back into a Hugging Face checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args as ClapArgs;
use novaq_engine::artifact::{Loader, Manifest};
use novaq_engine::model::{BertConfig, Config, Pooling};
use novaq_engine::tokenizer::Tokenizer;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::artifact_dir::ArtifactDir;
use crate::checkpoint::{NORM_SUFFIX, config_json, eos_json, stored_norm_offset};
use crate::output::{self, HintExt};
use crate::say;

/// Write an artifact as a Hugging Face checkpoint with 32-bit weights, which transformers loads.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// Folder to write; it is made, and must be empty.
    #[arg(short, long, value_name = "MODEL_DIR")]
    output: PathBuf,
}

/// Largest weights file, in bytes: what is held in memory at once.
const MAX_FILE_BYTES: usize = 2_000_000_000;

/// Runs the command.
///
/// # Errors
/// If the artifact is damaged, or the folder cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let artifact = ArtifactDir::open(&args.artifact)?;
    let out = &args.output;
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(anyhow::anyhow!("`{}` is not empty", out.display()))
            .hint(|| "name another folder with `-o`, or remove this one".to_owned());
    }
    let manifest = artifact.manifest();
    let tokenizer = match &manifest.encoder {
        None => artifact.load()?.tokenizer,
        Some(_) => artifact.load_encoder()?.tokenizer,
    };
    // What transformers has no configuration for is refused before anything is written.
    let decoder = match &manifest.encoder {
        None => {
            manifest.decoder().map_err(anyhow::Error::from).and_then(|c| Ok(Some((c, config_json(c)?))))?
        }
        Some(_) => None,
    };
    let norm_offset = decoder.as_ref().map_or(0.0, |(config, _)| stored_norm_offset(config));
    fs::create_dir_all(out).with_context(|| format!("`{}` cannot be made", out.display()))?;
    let bytes = write_weights(&artifact, norm_offset, out)?;
    write_json(out, "tokenizer.json", &tokenizer.to_json())?;
    if let Some((config, config_json)) = decoder {
        write_json(out, "config.json", &config_json)?;
        write_json(out, "generation_config.json", &generation_config_json(config))?;
        write_json(out, "tokenizer_config.json", &tokenizer_config_json(config, manifest, &tokenizer))?;
    }
    if let Some(config) = &manifest.encoder {
        write_encoder(out, config)?;
    }
    say!("Tensors: {} as 32-bit floats ({})", manifest.tensors.len(), output::bytes(bytes));
    say!("Checkpoint: `{}`", out.display());
    Ok(())
}

fn write_json(folder: &Path, name: &str, value: &Value) -> anyhow::Result<()> {
    let path = folder.join(name);
    let text = serde_json::to_string_pretty(value)?;
    fs::write(&path, text + "\n").with_context(|| format!("`{}` cannot be written", path.display()))
}

/// Writes the tensors as `model.safetensors`, or as several files and an index where they are larger than
/// [`MAX_FILE_BYTES`]; returns their bytes. `norm_offset` is taken from the weights of norms.
fn write_weights(artifact: &ArtifactDir, norm_offset: f32, out: &Path) -> anyhow::Result<u64> {
    let manifest = artifact.manifest();
    let size = |shape: &[usize]| shape.iter().product::<usize>() * 4;
    let mut files: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0;
    for (index, entry) in manifest.tensors.iter().enumerate() {
        if filled > 0 && filled + size(&entry.shape) > MAX_FILE_BYTES {
            files.push(Vec::new());
            filled = 0;
        }
        filled += size(&entry.shape);
        files.last_mut().expect("never empty").push(index);
    }

    let bar = output::progress(manifest.tensors.len() as u64, "Expanding", "tensors");
    let mut loader = Loader::new(Arc::clone(manifest));
    let mut weight_map = serde_json::Map::new();
    let mut total = 0;
    let count = files.len();
    for (number, indices) in files.into_iter().enumerate() {
        let name = if count == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", number + 1)
        };
        let mut values = Vec::with_capacity(indices.len());
        for &index in &indices {
            let mut floats = loader.decode(index, artifact).map_err(|error| artifact.load_error(error))?;
            if manifest.tensors[index].name.ends_with(NORM_SUFFIX) {
                for weight in &mut floats {
                    *weight -= norm_offset;
                }
            }
            values.push(floats.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
            bar.inc(1);
        }
        let mut views = Vec::with_capacity(indices.len());
        for (&index, bytes) in indices.iter().zip(&values) {
            let entry = &manifest.tensors[index];
            views.push((entry.name.as_str(), TensorView::new(Dtype::F32, entry.shape.clone(), bytes)?));
            weight_map.insert(entry.name.clone(), Value::from(name.clone()));
            total += bytes.len() as u64;
        }
        let path = out.join(&name);
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize_to_file(views, Some(metadata), &path)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_json(out, "model.safetensors.index.json", &index)?;
    }
    bar.finish_and_clear();
    Ok(total)
}

/// Writes the configuration of an encoder and what sentence-transformers needs to know.
fn write_encoder(out: &Path, config: &BertConfig) -> anyhow::Result<()> {
    write_json(
        out,
        "config.json",
        &json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "hidden_act": "gelu",
            "max_position_embeddings": config.max_position_embeddings,
            "type_vocab_size": config.type_vocab_size,
            "layer_norm_eps": config.layer_norm_eps,
            "position_embedding_type": "absolute",
            "torch_dtype": "float32",
        }),
    )?;
    write_json(
        out,
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
            "model_max_length": config.max_position_embeddings,
        }),
    )?;
    write_json(out, "sentence_bert_config.json", &json!({"max_seq_length": config.max_seq_length}))?;
    let module = |index: usize, path: &str, kind: &str| {
        let kind = format!("sentence_transformers.models.{kind}");
        json!({"idx": index, "name": index.to_string(), "path": path, "type": kind})
    };
    let mut modules = vec![module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")];
    if config.normalize {
        modules.push(module(2, "2_Normalize", "Normalize"));
    }
    write_json(out, "modules.json", &Value::from(modules))?;
    let pooling = out.join("1_Pooling");
    fs::create_dir_all(&pooling).with_context(|| format!("`{}` cannot be made", pooling.display()))?;
    write_json(
        &pooling,
        "config.json",
        &json!({
            "word_embedding_dimension": config.hidden_size,
            "pooling_mode_cls_token": config.pooling == Pooling::Cls,
            "pooling_mode_mean_tokens": config.pooling == Pooling::Mean,
            "pooling_mode_max_tokens": config.pooling == Pooling::Max,
            "pooling_mode_mean_sqrt_len_tokens": false,
        }),
    )
}

fn generation_config_json(config: &Config) -> Value {
    json!({"bos_token_id": config.bos_token_id, "eos_token_id": eos_json(config)})
}

fn tokenizer_config_json(config: &Config, manifest: &Manifest, tokenizer: &Tokenizer) -> Value {
    let token = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
    let mut value = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(config.bos_token_id),
        "eos_token": token(config.eos_token_ids.first().copied()),
        "model_max_length": config.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
    });
    if let Some(template) = &manifest.chat_template {
        value["chat_template"] = template.as_str().into();
    }
    value
}
