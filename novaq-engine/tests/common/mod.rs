//! Small models with random weights.
#![allow(dead_code, reason = "each test binary uses a part")]

use novaq_engine::artifact::{LoadedModel, Loader, Manifest, Shards};
use novaq_engine::model::{Config, RopeScaling};
use novaq_engine::synth::{Format, Synthetic};
use novaq_engine::tokenizer::Tokenizer;
use std::sync::Arc;

/// A byte-level tokenizer without merges: one token per byte.
pub const TOKENIZER_JSON: &str = include_str!("byte_tokenizer.json");

/// Grouped heads, a head width that is not `hidden_size / heads`, and sizes that fill no tile.
pub fn config() -> Config {
    Config {
        vocab_size: 257,
        hidden_size: 72,
        intermediate_size: 168,
        num_hidden_layers: 3,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 96,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: Some(256),
        eos_token_ids: vec![256],
    }
}

/// A synthetic artifact: its manifest and shards.
pub fn artifact(config: Config, seed: u64) -> (Manifest, Vec<Vec<u8>>) {
    let tokenizer = Tokenizer::from_json(TOKENIZER_JSON.as_bytes()).unwrap().to_bytes();
    let body = Format::Aq { codebooks: 4, dimension: 8 };
    let synthetic = Synthetic { config, body, embedding: Format::Int8, seed, tokenizer };
    let mut shards = Vec::new();
    let manifest = synthetic.write(&mut shards).unwrap();
    (manifest, shards)
}

/// The same, loaded.
pub fn model(config: Config, seed: u64) -> LoadedModel {
    let (manifest, shards) = artifact(config, seed);
    Loader::load(Arc::new(manifest), &Shards(shards)).unwrap()
}
