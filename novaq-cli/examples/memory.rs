//! Prints what memory and time a compression takes: `cargo run --example memory -- [LAYERS …]`.
//!
//! Checkpoints of random weights in the shape of SmolLM2-135M, with its 30 layers or with so many, are compressed by the
//! `novaq` beside this program, to 2 bits per weight.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use half::bf16;
use novaq_cli::resources::Usage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const HIDDEN: usize = 576;
const INNER: usize = 1536;
const KEYS: usize = 192;
const VOCABULARY: usize = 49_152;

fn main() -> anyhow::Result<()> {
    let mut layers: Vec<usize> = std::env::args().skip(1).map(|n| n.parse()).collect::<Result<_, _>>()?;
    if layers.is_empty() {
        layers.push(30);
    }
    let novaq = novaq()?;
    let folder = tempfile::tempdir()?;
    println!(
        "| layers | weights | in 16 bits | artifact | peak memory | estimate | processor time | wall time | estimate |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for layers in layers {
        let model = folder.path().join(format!("layers-{layers}"));
        write_checkpoint(&model, layers)?;
        let output = folder.path().join(format!("artifact-{layers}"));
        let novaq = |options: &[&str]| -> anyhow::Result<Value> {
            let mut command = Command::new(&novaq);
            command.arg("compress").arg(&model).arg("-o").arg(&output).args(["--bpw", "2", "--json"]);
            let run = command.args(options).stderr(std::process::Stdio::inherit()).output()?;
            ensure!(run.status.success(), "`novaq compress` failed");
            Ok(serde_json::from_slice(&run.stdout)?)
        };
        let forecast = novaq(&["--dry-run"])?;
        let before = Usage::of_children().context("this system does not count")?;
        let began = Instant::now();
        let summary = novaq(&[])?;
        let seconds = began.elapsed().as_secs_f64();
        let after = Usage::of_children().context("this system does not count")?;
        let weights = summary["parameters"].as_f64().context("no weights")?;
        let size = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        println!(
            "| {layers} | {:.1} M | {} | {} | {} | {} | {:.0} s | {seconds:.0} s | {:.0} s |",
            weights / 1e6,
            size(2.0 * weights),
            size(number(&summary["bytes"])),
            size(after.peak_memory as f64),
            size(number(&forecast["cost"]["peak_memory_bytes"])),
            after.processor_seconds - before.processor_seconds,
            number(&forecast["cost"]["seconds"]),
        );
        fs::remove_dir_all(&model)?;
    }
    Ok(())
}

/// The program, where cargo puts it.
fn novaq() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this.parent().and_then(Path::parent).context("this program is in no folder")?;
    let path = folder.join(format!("novaq{}", std::env::consts::EXE_SUFFIX));
    ensure!(path.exists(), "`{}` is missing: run `cargo build --package novaq-cli`", path.display());
    Ok(path)
}

fn write_checkpoint(folder: &Path, layers: usize) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": VOCABULARY,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100_000,
        "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 0,
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    let vocabulary: BTreeMap<String, usize> = (0..VOCABULARY).map(|id| (format!("w{id:05}"), id)).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []
        }
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut matrix = |name: String, rows: usize, columns: usize| {
        // Sums of three uniform values are near enough to a normal distribution.
        let scale = 2.0 / (columns as f32).sqrt();
        let mut value = || (0..3).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * scale;
        let bytes = (0..rows * columns).flat_map(|_| bf16::from_f32(value()).to_le_bytes()).collect();
        tensors.push((name, vec![rows, columns], bytes));
    };
    matrix("model.embed_tokens.weight".to_owned(), VOCABULARY, HIDDEN);
    for layer in 0..layers {
        for (name, rows, columns) in [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KEYS, HIDDEN),
            ("self_attn.v_proj", KEYS, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", INNER, HIDDEN),
            ("mlp.up_proj", INNER, HIDDEN),
            ("mlp.down_proj", HIDDEN, INNER),
        ] {
            matrix(format!("model.layers.{layer}.{name}.weight"), rows, columns);
        }
    }
    let norm = || -> Vec<u8> { (0..HIDDEN).flat_map(|_| bf16::ONE.to_le_bytes()).collect() };
    for layer in 0..layers {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![HIDDEN], norm()));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN], norm()));
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes)?)));
    let views: Vec<(&str, TensorView)> = views.collect::<Result<_, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))?)
}
