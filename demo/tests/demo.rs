//! The demo itself on a small synthetic artifact: `novaq upload` and `novaq models activate` against the model canister, an
//! agent from the factory, the same tokens natively, and a team of agents within a subscription.

use novaq_engine::kernel::Fold;
use novaq_engine::model::{Config, RopeScaling, Variant};
use novaq_engine::synth::{Format, Synthetic};
use novaq_engine::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn the_main_job_ends_with_equal_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ohms-tales-6m/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(tokenizer).unwrap()).unwrap();
    let config = Config {
        vocab_size: 4096,
        hidden_size: 64,
        intermediate_size: 160,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: Some(0),
        eos_token_ids: vec![0],
        variant: Variant::default(),
    };
    let body = Format::Aq { codebooks: 3, dimension: 8, fold: Fold::ONE };
    let synthetic =
        Synthetic { config, body, embedding: Format::Int8, seed: 3, tokenizer: tokenizer.to_bytes() };
    let mut shards: Vec<Vec<u8>> = Vec::new();
    let manifest = synthetic.write(&mut shards).unwrap();
    let artifact = folder.path().join("artifact");
    std::fs::create_dir(&artifact).unwrap();
    std::fs::write(artifact.join("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
    for (index, shard) in shards.iter().enumerate() {
        std::fs::write(artifact.join(format!("shard-{index:05}.novaq")), shard).unwrap();
    }
    let json = folder.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ohms-demo"))
        .args(["--max-tokens", "24", "--slice-instructions", "50000000", "--artifact"])
        .arg(&artifact)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["native_equal"], true, "{said}");
    assert_eq!(report["team_tasks"], 3, "{said}");
    assert!(report["team_tokens"].as_u64().unwrap() > 0);
    assert!(report["sixth_agent"].as_str().unwrap().contains("agents"), "{said}");
    assert!(
        report["tokens"].as_u64().unwrap() >= 1 && report["instructions_per_token"].as_f64().unwrap() > 0.0
    );
}
