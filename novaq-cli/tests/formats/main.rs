//! GGUF files and checkpoints of llama2.c: the engine's random models written in these formats, read again, compared
//! and compressed; and damaged ones refused.

mod gguf;
mod llama2c;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use novaq_cli::checkpoint::{Checkpoint, layer_name};
use novaq_engine::model::CachePrecision;
use safetensors::{Dtype, SafeTensors};

/// One of the engine's random models, in Hugging Face's format.
fn fixture(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../novaq-engine/tests/fixtures/logits");
    Checkpoint::open(&folder.join(name)).unwrap()
}

/// Models that are not of this repository; `None`, and a line that says so, where they are not at hand.
fn shared_models(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    // The macros are captured in a test that passes; this line has to be seen.
    let _ = writeln!(std::io::stderr(), "skipped: {} is not there", path.display());
    None
}

/// Asserts that both checkpoints have the same values in every tensor.
fn assert_same_tensors(a: &Checkpoint, b: &Checkpoint) {
    let vector = |name: &str| assert_eq!(a.vector(name).unwrap(), b.vector(name).unwrap(), "{name}");
    let matrix = |name: &str| assert_eq!(a.matrix(name).unwrap(), b.matrix(name).unwrap(), "{name}");
    matrix("model.embed_tokens.weight");
    if !a.config().tie_word_embeddings {
        matrix("lm_head.weight");
    }
    vector("model.norm.weight");
    for layer in 0..a.config().num_hidden_layers {
        for name in Checkpoint::LAYER_MATRICES.iter().copied().flatten() {
            matrix(&layer_name(layer, name));
        }
        for name in a.layer_vectors() {
            vector(&layer_name(layer, name));
        }
    }
}

/// Logits of `tokens`.
fn logits(checkpoint: &Checkpoint, tokens: &[u32]) -> Vec<f32> {
    checkpoint.model().unwrap().forward(tokens, CachePrecision::F32, 16, None).unwrap()
}

/// `values`, rows of `columns`, with the rows of each `head` in the order of rotary embeddings on neighbours: what
/// llama.cpp's converter does, `reshape(heads, 2, head / 2, columns).swapaxes(1, 2)`.
fn interleaved(values: &[f32], head: usize, columns: usize) -> Vec<f32> {
    let mut written = Vec::with_capacity(values.len());
    for first in (0..values.len() / columns).step_by(head) {
        for pair in 0..head / 2 {
            for half in 0..2 {
                let row = first + half * (head / 2) + pair;
                written.extend(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    written
}

/// Shape and values of tensor `name` as other formats store them: for Llama with interleaved rotary embeddings, for
/// Gemma with the whole weights of norms.
fn stored(checkpoint: &Checkpoint, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(checkpoint.path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let mut values: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => tensor.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::BF16 => {
            let upper = |&b: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
            tensor.data().as_chunks().0.iter().map(upper).collect()
        }
        other => panic!("{name} is of the type {other:?}"),
    };
    let shape = tensor.shape().to_vec();
    let architecture = checkpoint.config().architecture();
    if architecture == "gemma3_text" && name.ends_with("norm.weight") {
        for weight in &mut values {
            *weight += 1.0;
        }
    }
    let is_rotated = name.contains("q_proj") || name.contains("k_proj");
    if is_rotated && ["llama", "mistral"].contains(&architecture) {
        let columns = shape.get(1).copied().unwrap_or(1);
        let values = interleaved(&values, checkpoint.config().head_dim, columns);
        return (shape, values);
    }
    (shape, values)
}

/// Writes Hugging Face's folder for `checkpoint`, with `tokenizer` in it.
fn write_folder(folder: &Path, checkpoint: &Checkpoint, tokenizer: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(checkpoint.path().join(file), folder.join(file)).unwrap();
    }
    fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
}

/// Runs `novaq` in `folder`, which must succeed; what it prints.
fn novaq(folder: &Path, args: &[&str]) -> String {
    let output = Command::cargo_bin("novaq").unwrap().current_dir(folder).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All shards of an artifact, one behind the other.
fn shards(artifact: &Path) -> Vec<u8> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(artifact).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|e| e == "novaq"));
    assert!(!paths.is_empty());
    paths.iter().flat_map(|path| fs::read(path).unwrap()).collect()
}
