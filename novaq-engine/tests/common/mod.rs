//! Small models with random weights.
#![allow(dead_code, reason = "each test binary uses a part")]

use novaq_engine::artifact::{LoadedModel, Loader, Manifest, Shards};
use novaq_engine::kernel::Fold;
use novaq_engine::model::{Activation, Config, LayerType, RopeScaling, Variant};
use novaq_engine::synth::{Format, Synthetic};
use novaq_engine::tokenizer::Tokenizer;
use proptest::prelude::*;
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
        variant: Variant::default(),
    }
}

/// Random models with any of the features that architectures have.
pub fn configs() -> impl Strategy<Value = Config> {
    let scaling = prop_oneof![
        Just(RopeScaling::Default),
        Just(RopeScaling::Linear { factor: 4.0 }),
        Just(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        }),
    ];
    let heads = prop_oneof![Just((6, 2, 16)), Just((3, 3, 10)), Just((4, 1, 24))];
    let shape = (heads, 1usize..4, any::<bool>(), scaling);
    let layer_type = prop_oneof![Just(LayerType::FullAttention), Just(LayerType::SlidingAttention)];
    let windows = (1usize..40, prop::collection::vec(layer_type, 4), prop::option::of(2.0..5000.0));
    // Biases of no projection, of q, k and v, of all.
    let flags = (0..3, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let features = (flags, prop::option::of(4.0..40.0), windows);
    (shape, features).prop_map(|(((heads, keys, head_dim), layers, tied, scaling), features)| {
        let ((bias, mlp_bias, qk_norm, post_norms, scale_embeddings, gelu), scalar, windows) = features;
        let (window, mut layer_types, local) = windows;
        layer_types.truncate(layers);
        let variant = Variant {
            qkv_bias: bias == 1,
            qk_norm,
            post_norms,
            scale_embeddings,
            hidden_act: if gelu { Activation::GeluPytorchTanh } else { Activation::Silu },
            query_pre_attn_scalar: scalar,
            rope_local_base_freq: local,
            ..Variant::default()
        };
        Config {
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: keys,
            head_dim,
            rope_scaling: scaling,
            tie_word_embeddings: tied,
            attention_bias: bias == 2,
            mlp_bias,
            variant: variant.with_windows(window, layer_types),
            ..config()
        }
    })
}

/// A synthetic artifact: its manifest and shards. Every fourth seed gives layers of low-rank matrices.
pub fn artifact(config: Config, seed: u64) -> (Manifest, Vec<Vec<u8>>) {
    let tokenizer = Tokenizer::from_json(TOKENIZER_JSON.as_bytes()).unwrap().to_bytes();
    let body = match seed % 4 {
        3 => Format::LowRank { rank: 20 },
        _ => Format::Aq { codebooks: 4, dimension: 8, fold: Fold::ONE },
    };
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
