//! Every architecture from end to end: random models that transformers wrote are compressed, measured, expanded, and the
//! expansion measured again.

mod small;

use std::fs;

use novaq_cli::checkpoint::Checkpoint;
use safetensors::SafeTensors;
use serde_json::Value;
use small::{FEW_TOKENS, checkpoint, json_of, novaq};

/// Compresses the model `name` with 4 bits in the layers, and checks what comes of it.
fn check(name: &str, architecture: &str, class: &str, context: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    checkpoint(path, name);
    let args = ["compress", "model", "-o", "out", "--bpw", "4", "--embedding-bpw", "8"];
    let plan = json_of(path, &[&args[..], &["--dry-run", "--json"], &FEW_TOKENS].concat());
    novaq(path, &[&args[..], &FEW_TOKENS].concat()).unwrap();
    novaq(path, &["verify", "out"]).unwrap();
    let manifest: Value = serde_json::from_slice(&fs::read(path.join("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["architecture"], architecture);
    let original = Checkpoint::open(&path.join("model")).unwrap();
    assert_eq!(manifest["compression"]["parameters"], original.parameters());
    let most = plan["bytes"].as_u64().unwrap();
    let bytes = manifest["compression"]["bytes"].as_u64().unwrap();
    assert!(bytes <= most && most - plan["variable_bytes"].as_u64().unwrap() <= bytes, "{bytes}: {plan}");
    let inspected = novaq(path, &["inspect", "out"]).unwrap();
    assert!(inspected.contains(&format!("Architecture: {architecture},")), "{inspected}");
    assert!(inspected.contains(&format!("Context: 64 tokens{context}\n")), "{inspected}");

    let kl = |artifact: &str, against: &str| {
        let args = ["eval", artifact, "--against", against, "--max-tokens", "512", "--json"];
        json_of(path, &args)["kl"].as_f64().unwrap()
    };
    // Random models with sharp logits.
    let four_bits = kl("out", "model");
    assert!(four_bits > 0.001 && four_bits < 0.8, "{name}: {four_bits}");
    let args = ["compress", "model", "-o", "fine", "--embedding-bpw", "16", "--tensor", "*.layers.*=int8"];
    novaq(path, &[&args[..], &FEW_TOKENS].concat()).unwrap();
    let eight_bits = kl("fine", "model");
    assert!(eight_bits < 0.02, "{name}: {eight_bits}");

    novaq(path, &["expand", "out", "-o", "expanded"]).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(path.join("expanded/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], class);
    // What 16-bit inputs, 8-bit tables and the 8-bit cache cost.
    let expanded = kl("out", "expanded");
    assert!(expanded < 0.03, "{name}: {expanded}");
    println!("{name}: KL {four_bits:.4} with 4 bits, {eight_bits:.4} with 8, {expanded:.4} to the expansion");
    let weights = fs::read(path.join("expanded/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(tensors.len(), manifest["tensors"].as_array().unwrap().len());
}

#[test]
fn mistral() {
    check("mistral", "mistral", "MistralForCausalLM", ", attention over the last 7");
}

#[test]
fn qwen2() {
    check("qwen2", "qwen2", "Qwen2ForCausalLM", ", attention over the last 6 in 1 of 2 layers");
}

#[test]
fn qwen3() {
    check("qwen3", "qwen3", "Qwen3ForCausalLM", "");
}

#[test]
fn gemma3() {
    let context = ", attention over the last 5 in 2 of 3 layers, RoPE scaled linearly by 4";
    check("gemma3", "gemma3_text", "Gemma3ForCausalLM", context);
}

#[test]
fn gemma3_inside_a_model_that_sees_images() {
    let context = ", attention over the last 5 in 1 of 2 layers, RoPE scaled linearly by 4";
    check("gemma3-multimodal", "gemma3_text", "Gemma3ForCausalLM", context);
}

/// A tensor that the architecture has not would be left out, and the model would be another.
#[test]
fn tensors_of_other_architectures_are_refused() {
    for (name, class, words) in [
        ("qwen3", "LlamaForCausalLM", "tensor `model.layers.0.self_attn.k_norm.weight` is not one of"),
        ("qwen2", "MistralForCausalLM", "tensor `model.layers.0.self_attn.k_proj.bias` is not one of"),
        ("mistral", "Qwen2ForCausalLM", "tensor `model.layers.0.self_attn.q_proj.bias` is missing"),
        ("qwen3", "Gemma3ForCausalLM", "tensor `model.layers.0.pre_feedforward_layernorm.weight` is missing"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = checkpoint(folder.path(), name);
        let path = model.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["architectures"][0] = class.into();
        config["model_type"] = Value::Null;
        fs::write(&path, config.to_string()).unwrap();
        let error = Checkpoint::open(&model).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
}
