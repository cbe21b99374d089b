//! Artifacts with random weights, on disk.

use std::fs;
use std::path::Path;

use novaq_cli::artifact_dir::{MANIFEST_FILE, shard_file};
use novaq_engine::artifact::Manifest;
use novaq_engine::kernel::Fold;
use novaq_engine::model::{Config, RopeScaling, Variant};
use novaq_engine::synth::{Format, Synthetic};
use novaq_engine::tokenizer::Tokenizer;

/// The Llama-3-like tokenizer of the engine's fixtures, of 504 tokens.
pub fn tokenizer() -> Tokenizer {
    let path = "../novaq-engine/tests/fixtures/tokenizers/byte-level.tokenizer.json";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    Tokenizer::from_json(&fs::read(path).unwrap()).unwrap()
}

/// Writes an artifact with a hidden width of `hidden` to `folder`.
pub fn write_artifact(folder: &Path, hidden: usize) -> Manifest {
    write_chat_artifact(folder, hidden, None)
}

/// The same with a chat template.
pub fn write_chat_artifact(folder: &Path, hidden: usize, chat_template: Option<&str>) -> Manifest {
    let config = Config {
        vocab_size: 504,
        hidden_size: hidden,
        intermediate_size: 2 * hidden,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 48,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Llama3 {
            factor: 4.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        },
        tie_word_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: Some(500),
        eos_token_ids: vec![501],
        variant: Variant::default(),
    };
    let synthetic = Synthetic {
        config,
        body: Format::Aq { codebooks: 2, dimension: 4, fold: Fold::ONE },
        embedding: Format::Int8,
        seed: 1,
        tokenizer: tokenizer().to_bytes(),
    };
    let mut shards: Vec<Vec<u8>> = Vec::new();
    let manifest = synthetic.write_with_template(&mut shards, chat_template).unwrap();
    fs::create_dir_all(folder).unwrap();
    for (index, shard) in (0..).zip(&shards) {
        fs::write(folder.join(shard_file(index)), shard).unwrap();
    }
    fs::write(folder.join(MANIFEST_FILE), manifest.to_bytes().unwrap()).unwrap();
    manifest
}
