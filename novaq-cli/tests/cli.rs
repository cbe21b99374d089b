//! The command as it is typed: its words, its JSON, its errors.

mod common;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use novaq_cli::artifact_dir::{ArtifactDir, MANIFEST_FILE, shard_file};
use novaq_cli::checkpoint::Checkpoint;
use novaq_cli::evaluate;
use novaq_engine::artifact::{Loader, Manifest, Shards};
use novaq_engine::tokenizer::Tokenizer;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

/// An artifact of one shard in a folder of its own.
fn artifact() -> (TempDir, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = common::write_artifact(folder.path(), 32);
    (folder, manifest)
}

struct Output {
    success: bool,
    stdout: String,
    stderr: String,
}

/// Runs `novaq` in `folder`.
fn novaq(folder: &Path, args: &[&str]) -> Output {
    let output = Command::cargo_bin("novaq").unwrap().current_dir(folder).args(args).output().unwrap();
    Output {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `text` without what changes with the format of manifests or the estimates of the engine.
fn redact(text: &str) -> String {
    let mut redacted = String::new();
    for line in text.lines() {
        let line = match line.split_once(": ") {
            Some((key @ ("Model id" | "Instructions" | "Memory"), _)) => format!("{key}: …"),
            _ => line.to_owned(),
        };
        redacted.push_str(&line);
        redacted.push('\n');
    }
    redacted
}

fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = novaq(folder, args);
    assert!(output.success, "{}", output.stderr);
    output.stdout
}

fn fail(folder: &Path, args: &[&str]) -> String {
    let output = novaq(folder, args);
    assert!(!output.success, "{}", output.stdout);
    assert_eq!(output.stdout, "");
    output.stderr
}

#[test]
fn the_help_names_every_command() {
    insta::assert_snapshot!("help", succeed(Path::new("."), &["--help"]));
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = succeed(Path::new("."), &["completions", shell]);
        assert!(script.contains("embedding-bpw") && script.contains("novaq"), "{shell}: {script}");
    }
    let error = fail(Path::new("."), &["completions", "tcsh"]);
    assert!(error.contains("possible values: bash, elvish, fish, powershell, zsh"), "{error}");
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let page = succeed(folder.path(), &["man", "compress"]);
    assert!(page.contains(".TH") && page.contains("embedding") && page.contains("balanced"), "{page}");
    assert!(succeed(folder.path(), &["man"]).contains("compress"));
    assert_eq!(succeed(folder.path(), &["man", "-o", "pages/man1"]), "");
    let pages = fs::read_dir(folder.path().join("pages/man1")).unwrap();
    let mut pages: Vec<_> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort_unstable();
    let page = |command: &str| format!("novaq-{command}.1");
    assert!(pages.contains(&"novaq.1".to_owned()), "{pages:?}");
    for command in ["compress", "eval", "run", "upload", "models", "completions", "man"] {
        assert!(pages.contains(&page(command)), "{pages:?}");
    }
    let error = fail(folder.path(), &["man", "zip"]);
    assert_eq!(error, "error: there is no command `zip`\nhint: `novaq --help` lists them\n");
}

#[test]
fn inspect_says_what_the_artifact_is() {
    let (folder, manifest) = artifact();
    insta::assert_snapshot!("inspect", redact(&succeed(folder.path(), &["inspect", "."])));
    insta::assert_snapshot!(
        "inspect_tensors",
        redact(&succeed(folder.path(), &["inspect", ".", "--tensors"]))
    );
    let json: Value = serde_json::from_str(&succeed(folder.path(), &["inspect", ".", "--json"])).unwrap();
    assert_eq!(json["model_id"], hex::encode(manifest.id().unwrap()));
    assert_eq!(json["manifest"], serde_json::to_value(&manifest).unwrap());
    let files: u64 =
        fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(json["bytes"], files);
}

#[test]
fn verify_accepts_what_is_whole() {
    let (folder, _) = artifact();
    insta::assert_snapshot!("verify", redact(&succeed(folder.path(), &["verify", "."])));
    let json: Value = serde_json::from_str(&succeed(folder.path(), &["verify", ".", "--json"])).unwrap();
    assert_eq!((&json["shards"], &json["vocab_size"]), (&1.into(), &504.into()));
}

#[test]
fn run_is_a_function_of_its_arguments() {
    let (folder, _) = artifact();
    let args =
        ["run", ".", "--prompt", "Once upon a time", "--max-tokens", "12", "--top-k", "50", "--seed", "7"];
    let text = succeed(folder.path(), &args);
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&succeed(folder.path(), &[args, &["--json"]].concat())).unwrap()
    };
    let first = json(&args);
    assert_eq!(text, format!("Once upon a time{}\n", first["text"].as_str().unwrap()));
    assert_eq!(first["tokens"], json(&args)["tokens"]);
    assert_eq!(first["finish_reason"], "length");
    let tokens: Vec<u32> = serde_json::from_value(first["tokens"].clone()).unwrap();
    assert_eq!(tokens.len(), 12);
    assert_eq!(first["text"], common::tokenizer().decode(&tokens, true).unwrap());
    // The template's beginning of sequence stands in front.
    assert_eq!(first["prompt_tokens"][0], 500);
    let other = json(&["run", ".", "--prompt", "Once upon a time", "--max-tokens", "12", "--seed", "8"]);
    assert_ne!(other["tokens"], first["tokens"]);
    let full = json(&["run", ".", "--prompt", "a", "--max-tokens", "1000", "--temperature", "0"]);
    assert_eq!(full["finish_reason"], "context");
}

#[test]
fn run_refuses_what_does_not_fit() {
    let (folder, _) = artifact();
    let long = "z".repeat(100);
    insta::assert_snapshot!("run_long_prompt", fail(folder.path(), &["run", ".", "--prompt", &long]));
    let args = ["run", ".", "--prompt", "a", "--temperature=-1"];
    insta::assert_snapshot!("run_temperature", fail(folder.path(), &args));
    let args = ["run", ".", "--prompt", "a", "--top-p=1.5"];
    insta::assert_snapshot!("run_top_p", fail(folder.path(), &args));
}

#[test]
fn expand_writes_every_tensor_and_the_tokenizer() {
    let (folder, manifest) = artifact();
    insta::assert_snapshot!("expand", succeed(folder.path(), &["expand", ".", "-o", "out/model"]));
    let out = folder.path().join("out/model");
    let weights = fs::read(out.join("model.safetensors")).unwrap();
    let weights = SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(weights.len(), manifest.tensors.len());
    let shards = Shards(vec![fs::read(folder.path().join(shard_file(0))).unwrap()]);
    let mut loader = Loader::new(std::sync::Arc::new(manifest.clone()));
    for (index, entry) in manifest.tensors.iter().enumerate() {
        let tensor = weights.tensor(&entry.name).unwrap();
        assert_eq!(tensor.shape(), entry.shape, "{}", entry.name);
        let values: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(values, loader.decode(index, &shards).unwrap(), "{}", entry.name);
    }
    let tokenizer = Tokenizer::from_json(&fs::read(out.join("tokenizer.json")).unwrap()).unwrap();
    assert_eq!(tokenizer.to_bytes(), common::tokenizer().to_bytes());
    insta::assert_snapshot!("expand_config", fs::read_to_string(out.join("config.json")).unwrap());
    insta::assert_snapshot!(
        "expand_tokenizer_config",
        fs::read_to_string(out.join("tokenizer_config.json")).unwrap()
    );
    let generation: Value =
        serde_json::from_slice(&fs::read(out.join("generation_config.json")).unwrap()).unwrap();
    assert_eq!(generation, serde_json::json!({"bos_token_id": 500, "eos_token_id": 501}));
    insta::assert_snapshot!("expand_not_empty", fail(folder.path(), &["expand", ".", "-o", "out/model"]));
}

/// What 16-bit inputs, 8-bit tables and the 8-bit cache cost: the artifact as it runs against its expansion in 32-bit
/// floats. The engine's float path is held to transformers by the fixtures in `novaq-engine/tests`.
#[test]
fn an_artifact_computes_what_its_expansion_does() {
    let folder = tempfile::tempdir().unwrap();
    common::write_artifact(folder.path(), 128);
    succeed(folder.path(), &["expand", ".", "-o", "out"]);
    let checkpoint = Checkpoint::open(&folder.path().join("out")).unwrap();
    let expanded = checkpoint.model().unwrap();
    let artifact = ArtifactDir::open(folder.path()).unwrap().load().unwrap();
    assert_eq!(expanded.config(), artifact.model.config());
    let sequences: Vec<Vec<u32>> =
        (0..16u32).map(|s| (0..48).map(|i| (s * 7919 + i * i * 31 + i) % 504).collect()).collect();
    let measured = evaluate::compare(&mut expanded.into(), &mut artifact.model.into(), &sequences).unwrap();
    assert_eq!(measured.tokens, 16 * 47);
    assert!(measured.kl > 0.0 && measured.kl <= 0.003, "{measured:?}");
}

/// Changes the manifest's JSON and writes it back canonically.
fn change_manifest(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join(MANIFEST_FILE);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, serde_json_canonicalizer::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn damaged_manifests_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    insta::assert_snapshot!("no_manifest", fail(empty.path(), &["inspect", "tales"]));

    let (folder, _) = artifact();
    let path = folder.path().join(MANIFEST_FILE);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    insta::assert_snapshot!("truncated_manifest", fail(folder.path(), &["inspect", "."]));

    let pretty: Value = serde_json::from_slice(&bytes).unwrap();
    fs::write(&path, serde_json::to_vec_pretty(&pretty).unwrap()).unwrap();
    insta::assert_snapshot!("manifest_not_canonical", fail(folder.path(), &["verify", "."]));

    for (name, change) in [
        (
            "unknown_codec",
            (|manifest| manifest["tensors"][0]["codec"]["kind"] = "zip".into()) as fn(&mut Value),
        ),
        ("hostile_length", |manifest| manifest["tensors"][0]["section"]["length"] = (1u64 << 53).into()),
        ("wrong_shape", |manifest| manifest["tensors"][0]["shape"] = serde_json::json!([504, 33])),
        ("oversized_shard", |manifest| manifest["shards"][0]["bytes"] = 2_000_000.into()),
        ("format_version", |manifest| manifest["format_version"] = 9.into()),
    ] {
        fs::write(&path, &bytes).unwrap();
        change_manifest(folder.path(), change);
        insta::assert_snapshot!(name, fail(folder.path(), &["verify", "."]));
    }
}

#[test]
fn damaged_shards_are_refused() {
    let (folder, _) = artifact();
    let path = folder.path().join(shard_file(0));
    let bytes = fs::read(&path).unwrap();

    let mut flipped = bytes.clone();
    flipped[5000] ^= 4;
    fs::write(&path, flipped).unwrap();
    insta::assert_snapshot!("flipped_bit", fail(folder.path(), &["verify", "."]));
    insta::assert_snapshot!("flipped_bit_run", fail(folder.path(), &["run", ".", "--prompt", "a"]));

    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    insta::assert_snapshot!("truncated_shard", fail(folder.path(), &["verify", "."]));

    fs::remove_file(&path).unwrap();
    insta::assert_snapshot!("missing_shard", fail(folder.path(), &["verify", "."]));

    // A wrong hash in the manifest.
    fs::write(&path, &bytes).unwrap();
    change_manifest(folder.path(), |manifest| manifest["shards"][0]["sha256"] = "00".repeat(32).into());
    insta::assert_snapshot!("wrong_hash", fail(folder.path(), &["verify", "."]));

    // A header of another shard, with the hash put right.
    let mut other = bytes;
    other[12] = 7;
    fs::write(&path, &other).unwrap();
    let hash = shared_types::Digest::of(&other).to_string();
    change_manifest(folder.path(), |manifest| manifest["shards"][0]["sha256"] = hash.into());
    insta::assert_snapshot!("wrong_header", fail(folder.path(), &["verify", "."]));
}

#[test]
fn every_damaged_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    common::write_artifact(folder.path(), 1536);
    fs::remove_file(folder.path().join(shard_file(1))).unwrap();
    fs::write(folder.path().join(shard_file(2)), "NOVAQSH1").unwrap();
    insta::assert_snapshot!("two_damaged_shards", fail(folder.path(), &["verify", "."]));
}

#[test]
fn network_errors_say_what_to_do() {
    let (folder, _) = artifact();
    let canister = ["--canister", "rrkah-fqaaa-aaaaa-aaaaq-cai", "--network", "http://127.0.0.1:1"];
    let error = fail(folder.path(), &[&["models", "list"], &canister[..]].concat());
    // What the system says about a refused connection differs.
    let (first, rest) = error.split_once('\n').unwrap();
    assert_eq!(first, "error: the network at http://127.0.0.1:1 does not answer");
    assert!(rest.contains("hint: `cargo xtask demo --keep` leaves a local network running"), "{rest}");

    let upload = [&["upload", ".", "--identity", "me.pem"], &canister[..]].concat();
    insta::assert_snapshot!("no_identity", fail(folder.path(), &upload));
    insta::assert_snapshot!(
        "bad_network",
        fail(folder.path(), &["models", "list", "--canister", "aaaaa-aa", "--network", "mainnet"])
    );
}

#[test]
fn synth_makes_what_verifies_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let synth = |bits: &str| {
        let mut command = assert_cmd::Command::cargo_bin("novaq").unwrap();
        command.current_dir(folder.path());
        command.args(["synth", "--like", "smollm2-135m", "--bpw", bits, "-o", "random"]).assert()
    };
    let refused = synth("1.3").failure();
    assert!(String::from_utf8_lossy(&refused.get_output().stderr).contains("steps of 0.5"));
    assert!(!folder.path().join("random").exists());
    synth("1.5").success();
    let run = |args: &[&str]| {
        assert_cmd::Command::cargo_bin("novaq")
            .unwrap()
            .current_dir(folder.path())
            .args(args)
            .assert()
            .success()
    };
    run(&["verify", "random"]);
    run(&["run", "random", "--prompt", "Once", "--max-tokens", "2", "--json"]);
    let again = synth("1.5").failure();
    assert!(String::from_utf8_lossy(&again.get_output().stderr).contains("exists already"));
}
