//! Small random checkpoints, and the command on them.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

/// A copy of one of the engine's random models (vocabulary of 101), with a tokenizer of letters.
pub fn checkpoint(folder: &Path, name: &str) -> PathBuf {
    let model = folder.join("model");
    fs::create_dir_all(&model).unwrap();
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../novaq-engine/tests/fixtures/logits").join(name);
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), model.join(file)).unwrap();
    }
    let letters = (b'!'..=b'~').map(|c| char::from(c).to_string());
    let vocab: BTreeMap<String, u32> = letters.zip(3..).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []
        }
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    model
}

/// A copy of the engine's random encoder, in the layout of sentence-transformers, and `texts.txt` to calibrate it on.
pub fn encoder(folder: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../novaq-engine/tests/fixtures/encoders");
    let (from, to) = (fixtures.join("tiny-bert"), folder.join("model"));
    fs::create_dir_all(to.join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let words = [
        "the",
        "miller",
        "river",
        "daughters",
        "winter",
        "forest",
        "king",
        "apples",
        "birds",
        "wheel",
        "old",
        "came",
    ];
    let mut state = 1u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(state >> 33) as usize % words.len()]
    };
    let lines: Vec<String> =
        (0..300).map(|i| (0..4 + i % 15).map(|_| word()).collect::<Vec<_>>().join(" ") + ".").collect();
    fs::write(folder.join("texts.txt"), lines.join("\n")).unwrap();
}

/// The calibration of [`encoder`].
pub const CALIBRATED: [&str; 4] = ["--calibration", "texts.txt", "--license", "CC0-1.0"];

/// Runs `novaq` in `folder`; standard output on success, standard error on failure.
pub fn novaq(folder: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::cargo_bin("novaq").unwrap().current_dir(folder).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// What a command prints, as JSON.
pub fn json_of(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&novaq(folder, args).unwrap()).unwrap()
}

/// All files of a folder.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Calibration that takes no time.
pub const FEW_TOKENS: [&str; 2] = ["--calibration-tokens", "768"];

/// Names of the files of a folder.
pub fn contents_names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}
