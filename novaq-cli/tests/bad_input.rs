//! Damaged inputs and full disks: each a clear error that names the tensor or the file, and nothing half-written.

mod small;

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use small::{FEW_TOKENS, checkpoint, contents_names, novaq};

/// What `novaq compress` says about a checkpoint that `change` has damaged. Beside the checkpoint nothing may be left but
/// a work folder, where `work` says so.
fn refused(change: impl FnOnce(&Path), work: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path(), "gqa-default");
    change(&model);
    let args = [&["compress", "model", "-o", "out"][..], &FEW_TOKENS].concat();
    let error = novaq(folder.path(), &args).unwrap_err();
    let mut names = contents_names(folder.path());
    names.sort();
    let expected: &[&str] = if work { &["model", "out.partial"] } else { &["model"] };
    assert_eq!(names, expected, "{error}");
    error
}

/// Changes the header of the weights; the bytes of the tensors stay.
fn change_header(model: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    change(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()).unwrap();
}

/// Writes `value` over the third element of a tensor.
fn change_weight(model: &Path, tensor: &str, value: f32) {
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(header[tensor]["dtype"], "F32");
    let at = 8 + length + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 2 * 4;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for (tensor, value, word) in [
        ("model.embed_tokens.weight", f32::NAN, "NaN"),
        ("model.layers.1.mlp.up_proj.weight", f32::INFINITY, "inf"),
        ("model.layers.0.self_attn.k_proj.weight", f32::NEG_INFINITY, "-inf"),
        ("model.norm.weight", f32::NAN, "NaN"),
    ] {
        let error = refused(|model| change_weight(model, tensor, value), false);
        assert!(error.contains(&format!("tensor `{tensor}` holds {word} at element 2")), "{error}");
    }
    let error = refused(|model| change_weight(model, "model.norm.weight", 1e6), false);
    assert!(error.contains("`model.norm.weight` holds a value beyond the range of 16-bit floats"), "{error}");
}

#[test]
fn missing_and_foreign_tensors_are_named() {
    let name = "model.layers.1.self_attn.v_proj.weight";
    let renamed = |model: &Path| {
        change_header(model, |header| {
            let tensor = header.remove(name).unwrap();
            header.insert("model.layers.1.self_attn.w_proj.weight".to_owned(), tensor);
        });
    };
    let error = refused(renamed, false);
    assert!(error.contains(&format!("tensor `{name}` is missing")), "{error}");

    // One that the architecture does not have, with bytes of its own.
    let error = refused(
        |model| {
            let path = model.join("model.safetensors");
            let before = fs::metadata(&path).unwrap().len();
            change_header(model, |header| {
                let end = header.values().filter_map(|t| t["data_offsets"][1].as_u64()).max().unwrap();
                let tensor = json!({ "dtype": "F32", "shape": [1], "data_offsets": [end, end + 4] });
                header.insert("model.layers.0.self_attn.q_gate.weight".to_owned(), tensor);
            });
            let mut bytes = fs::read(&path).unwrap();
            bytes.extend([0; 4]);
            assert!(bytes.len() as u64 > before);
            fs::write(path, bytes).unwrap();
        },
        false,
    );
    let expected = "tensor `model.layers.0.self_attn.q_gate.weight` is not one of this architecture's";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let error = refused(
        |model| {
            let path = model.join("tokenizer.json");
            let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            for id in 97..140 {
                tokenizer["model"]["vocab"][format!("word{id}")] = id.into();
            }
            fs::write(path, tokenizer.to_string()).unwrap();
        },
        false,
    );
    assert!(
        error
            .contains("the tokenizer has 140 tokens, the embedding `model.embed_tokens.weight` has 101 rows"),
        "{error}"
    );
}

/// A device that has never room stands in for a full disk: what is written there fails, and nothing is published.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_work_and_no_artifact() {
    for file in ["settings.json", "sequences.json", "layer-00001.safetensors", "artifact/shard-00000.novaq"] {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(folder.path(), "gqa-default");
        let args = [&["compress", "model", "-o", "out"][..], &FEW_TOKENS].concat();
        let work = folder.path().join("out.partial");
        fs::create_dir_all(work.join("artifact")).unwrap();
        let unfinished = work.join(format!("{file}.unfinished"));
        std::os::unix::fs::symlink("/dev/full", &unfinished).unwrap();
        let error = novaq(folder.path(), &args).unwrap_err();
        assert!(error.contains(&format!("{file}` can't be written")), "{file}: {error}");
        assert!(error.contains("hint: make room on the disk and run the same command again"), "{error}");
        assert!(!work.join(file).exists() && !unfinished.exists(), "{file}");
        assert!(!folder.path().join("out").exists() && !folder.path().join("out.report.json").exists());
        // With room again, the same command goes on.
        novaq(folder.path(), &args).unwrap();
        novaq(folder.path(), &["verify", "out"]).unwrap();
    }
}
