//! `novaq replay`: its words, and that no field of a receipt can be changed unnoticed.

mod common;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use candid::Principal;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_cli::receipt::{ReceiptFile, Replay};
use novaq_engine::artifact::LoadedModel;
use novaq_engine::model::Budget;
use novaq_engine::text::TextGeneration;
use proptest::prelude::*;
use serde_json::Value;
use shared_types::agent::{FinishReason, GenerationParams};
use shared_types::receipt::{Outcome, Receipt, hash_prompt, hash_tokens};
use shared_types::{Digest, ModelId};
use tempfile::TempDir;

const PROMPT: &str = "Once upon a time";

/// A receipt of what the artifact in `folder` generates, without a proof.
fn receipt_file(folder: &Path, outcome: Outcome) -> (ReceiptFile, LoadedModel) {
    let artifact = ArtifactDir::open(folder).unwrap();
    let loaded = artifact.load().unwrap();
    let params = GenerationParams {
        max_tokens: 12,
        temperature: 0.8,
        top_k: Some(50),
        seed: 7,
        ..GenerationParams::default()
    };
    let prompt = loaded.tokenizer.encode_prompt(PROMPT, loaded.model.config().bos_token_id).unwrap();
    let mut generation =
        TextGeneration::new(&loaded, params.request(&loaded, prompt.clone()).unwrap(), &[]).unwrap();
    while generation.finished().is_none() {
        generation.advance(&loaded, &mut Budget::unlimited()).unwrap();
    }
    let (tokens, text) = (generation.generated().to_vec(), generation.text().to_owned());
    let receipt = Receipt {
        sequence: 3,
        previous: Digest::of(b"the one before"),
        agent: Principal::from_text("rrkah-fqaaa-aaaaa-aaaaq-cai").unwrap(),
        job_id: 5,
        caller: Principal::from_slice(&[7; 29]),
        model_id: ModelId::new(artifact.model_id()),
        engine_version: novaq_engine::VERSION.to_owned(),
        prompt_sha256: hash_prompt(PROMPT, None),
        prompt_tokens_sha256: Some(hash_tokens(prompt.iter().copied())),
        prompt_tokens: prompt.len() as u32,
        params,
        tokens_sha256: hash_tokens(tokens.iter().copied()),
        tokens: tokens.len() as u32,
        text_sha256: Digest::of(text.as_bytes()),
        outcome,
        instructions: 1_000_000,
        repeats: None,
        submitted_at_ns: 1,
        started_at_ns: Some(2),
        finished_at_ns: 3,
    };
    (ReceiptFile::new(receipt, PROMPT.to_owned(), None, tokens, text, None), loaded)
}

fn done() -> Outcome {
    Outcome::Done { reason: FinishReason::MaxTokens }
}

/// An artifact in `model`, and `receipt.json`.
fn folder() -> (TempDir, ReceiptFile) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    common::write_artifact(&model, 32);
    let (file, _) = receipt_file(&model, done());
    (folder, file)
}

fn replay(folder: &Path, file: &ReceiptFile, more: &[&str]) -> Result<String, String> {
    fs::write(folder.join("receipt.json"), serde_json::to_vec(file).unwrap()).unwrap();
    let args = [&["replay", "receipt.json", "--model", "model"], more].concat();
    let output = Command::cargo_bin("novaq").unwrap().current_dir(folder).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// `text` without hashes, which change with the format of manifests.
fn redact(text: &str) -> String {
    let is_hash = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = |line: &str| -> String {
        let words = line.split(' ').map(|word| {
            let bare = word.trim_end_matches(',');
            if is_hash(bare) { word.replace(bare, "…") } else { word.to_owned() }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(|line| words(line) + "\n").collect()
}

#[test]
fn an_equal_replay_says_so() {
    let (folder, file) = folder();
    insta::assert_snapshot!("equal", redact(&replay(folder.path(), &file, &[]).unwrap()));
    let json: Value = serde_json::from_str(&replay(folder.path(), &file, &["--json"]).unwrap()).unwrap();
    assert_eq!((&json["equal"], &json["tokens"], &json["job"]), (&true.into(), &12.into(), &5.into()));
}

#[test]
fn a_difference_is_named() {
    let (folder, file) = folder();
    let mut errors = String::new();
    let mut fails = |what: &str, file: &ReceiptFile, more: &[&str]| {
        let error = replay(folder.path(), file, more).unwrap_err();
        writeln!(errors, "# {what}\n{}", redact(&error)).unwrap();
    };
    let mut changed = file.clone();
    changed.prompt = "Twice".to_owned();
    fails("a changed prompt", &changed, &[]);
    // Receipts that were made for it: their hashes fit.
    let forged = |change: fn(&mut ReceiptFile)| {
        let mut forged = file.clone();
        change(&mut forged);
        let receipt = &mut forged.receipt;
        receipt.tokens_sha256 = hash_tokens(forged.tokens.iter().copied());
        receipt.tokens = forged.tokens.len() as u32;
        receipt.text_sha256 = Digest::of(forged.text.as_bytes());
        forged.hash = receipt.hash();
        forged
    };
    fails("another token", &forged(|file| file.tokens[4] = (file.tokens[4] + 1) % 504), &[]);
    fails("a token too few", &forged(|file| file.tokens.truncate(11)), &[]);
    fails("a token too many", &forged(|file| file.tokens.push(9)), &[]);
    fails("another text", &forged(|file| file.text.push('x')), &[]);
    fails("another seed", &forged(|file| file.receipt.params.seed += 1), &[]);
    fails(
        "another end",
        &forged(|file| file.receipt.outcome = Outcome::Done { reason: FinishReason::EndOfText }),
        &[],
    );
    fails("another model", &forged(|file| file.receipt.model_id = Digest::ZERO), &[]);
    fails(
        "another engine",
        &forged(|file| {
            file.receipt.engine_version = "0.0.1".to_owned();
            file.tokens[0] = 0;
        }),
        &[],
    );
    fails("no proof", &file, &["--root-key", "00"]);
    insta::assert_snapshot!("differences", errors);
}

#[test]
fn what_was_cut_short_is_compared_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    common::write_artifact(folder.path(), 32);
    let (whole, loaded) = receipt_file(folder.path(), Outcome::Cancelled);
    let mut cut = whole.clone();
    cut.tokens.truncate(5);
    assert_eq!(cut.replay(&loaded).unwrap(), Replay::Equal);
    cut.tokens[4] ^= 1;
    assert!(matches!(cut.replay(&loaded).unwrap(), Replay::Token { position: 4, .. }));
    let mut unread = whole;
    unread.receipt.prompt_tokens_sha256 = None;
    assert_eq!(unread.replay(&loaded).unwrap(), Replay::Equal);
}

#[test]
fn what_is_no_receipt_is_refused() {
    let (folder, _) = folder();
    for text in ["", "{}", "[1]", "{\"format\": 3}"] {
        fs::write(folder.path().join("other.json"), text).unwrap();
        let args = ["replay", "other.json", "--model", "model"];
        let output =
            Command::cargo_bin("novaq").unwrap().current_dir(folder.path()).args(args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: `other.json` is not a receipt"), "{error}");
    }
}

/// All values of a JSON document that are not lists or objects, as paths.
fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, format!("{path}/{name}"), found);
            }
        }
        Value::Array(elements) => {
            for (index, value) in elements.iter().enumerate() {
                leaves(value, format!("{path}/{index}"), found);
            }
        }
        _ => found.push(path),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_change_anywhere_is_found(leaf: prop::sample::Index, random in 1..u64::MAX) {
        static FILE: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
        let json = FILE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            common::write_artifact(folder.path(), 32);
            serde_json::to_value(receipt_file(folder.path(), done()).0).unwrap()
        });
        let mut paths = Vec::new();
        leaves(json, String::new(), &mut paths);
        let path = &paths[leaf.index(paths.len())];
        let mut changed = json.clone();
        let value = changed.pointer_mut(path).unwrap();
        *value = match &*value {
            Value::Number(number) if number.is_f64() => (random as f64 / u64::MAX as f64).into(),
            Value::Number(number) => (number.as_u64().unwrap() ^ (random % 1_000).max(1)).into(),
            // What is absent may appear.
            Value::Null => random.into(),
            Value::String(text) => {
                let mut text: Vec<char> = text.chars().collect();
                let at = random as usize % text.len().max(1);
                match text.get_mut(at) {
                    Some(char) => *char = if *char == 'a' { 'b' } else { 'a' },
                    None => text.push('a'),
                }
                text.into_iter().collect::<String>().into()
            }
            other => other.clone(),
        };
        // Either it is no receipt any more, or its hashes say so.
        let found = match serde_json::from_value::<ReceiptFile>(changed) {
            Ok(file) => file.check().is_err(),
            Err(_) => true,
        };
        prop_assert!(found, "{path} was changed unnoticed");
    }
}
