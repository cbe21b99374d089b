//! Encoders: the engine against transformers, and `novaq` on a small random BERT in the layout of sentence-transformers.

mod small;

use novaq_cli::artifact_dir::ArtifactDir;
use novaq_cli::checkpoint::EncoderCheckpoint;
use novaq_cli::evaluate::similarity::cosine;
use novaq_engine::kernel::Backend;
use novaq_engine::model::{BertConfig, Encoder, Pooling};
use novaq_engine::tokenizer::Tokenizer;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use small::{CALIBRATED, FEW_TOKENS, checkpoint, contents, contents_names, encoder, json_of, novaq};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../novaq-engine/tests/fixtures/encoders")
}

fn words(file: &SafeTensors, name: &str) -> Vec<u32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
}

/// Compares tokens and embeddings of the checkpoint in `folder` with the fixture `name`, on every kernel: those by the
/// checkpoint's own pooling, and all others that the fixture has.
fn check(name: &str, folder: &Path) {
    let fixture = fixtures().join(name);
    let texts: Vec<String> = serde_json::from_slice(&fs::read(fixture.join("texts.json")).unwrap()).unwrap();
    let bytes = fs::read(fixture.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (all, lengths) = (words(&file, "tokens"), words(&file, "lengths"));
    let checkpoint = EncoderCheckpoint::open(folder).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.pooling, config.normalize), (Pooling::Mean, true));
    let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json().unwrap()).unwrap();
    let mut at = 0;
    let tokens: Vec<Vec<u32>> = (texts.iter().zip(lengths))
        .map(|(text, length)| {
            let expected = &all[at..at + length as usize];
            at += length as usize;
            let tokens = tokenizer.encode_truncated(text, config.max_seq_length).unwrap();
            assert_eq!(tokens, expected, "{text:?}");
            tokens
        })
        .collect();
    let mut compared = 0;
    for (key, pooling, normalize) in [
        ("mean", Pooling::Mean, true),
        ("cls", Pooling::Cls, true),
        ("max", Pooling::Max, true),
        ("mean-raw", Pooling::Mean, false),
        ("cls-raw", Pooling::Cls, false),
        ("max-raw", Pooling::Max, false),
    ] {
        if file.tensor(key).is_err() {
            continue;
        }
        let expected: Vec<f32> = words(&file, key).into_iter().map(f32::from_bits).collect();
        let config = BertConfig { pooling, normalize, ..config.clone() };
        let encoder = checkpoint.load(|source| Encoder::load(config, source)).unwrap();
        for backend in Backend::available() {
            let encoder = encoder.clone().with_backend(backend);
            let mut largest = 0.0f32;
            for (tokens, expected) in tokens.iter().zip(expected.chunks_exact(encoder.config().hidden_size)) {
                let embedding = encoder.embed(tokens).unwrap();
                assert!(cosine(&embedding, expected) > 1.0 - 1e-6);
                let differences = embedding.iter().zip(expected).map(|(a, b)| (a - b).abs());
                largest = differences.fold(largest, f32::max);
            }
            println!("{name} {key} on {backend:?}: largest difference {largest:.1e}");
            assert!(largest < 1e-4, "{name} {key} on {backend:?}: an embedding is off by {largest}");
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn a_random_encoder_agrees_with_transformers() {
    check("tiny-bert", &fixtures().join("tiny-bert"));
}

/// The folder of all-MiniLM-L6-v2, which is not part of this repository.
fn minilm() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/all-MiniLM-L6-v2");
    let folder = std::env::var_os("NOVAQ_MINILM").map_or(shared, PathBuf::from);
    let found = Some(folder).filter(|folder| folder.is_dir());
    if found.is_none() {
        // The macros are captured in a test that passes; this line has to be seen.
        let _ = writeln!(std::io::stderr(), "skipped: NOVAQ_MINILM names no folder of all-MiniLM-L6-v2");
    }
    found
}

#[test]
fn minilm_agrees_with_transformers() {
    if let Some(folder) = minilm() {
        check("all-MiniLM-L6-v2", &folder);
    }
}

/// A folder with the random encoder.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path());
    folder
}

fn compress(folder: &Path, out: &str, options: &[&str]) -> Value {
    json_of(folder, &[&["compress", "model", "-o", out, "--json"], &CALIBRATED[..], options].concat())
}

fn manifest(folder: &Path, out: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(out).join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn an_encoder_is_compressed_measured_and_expanded() {
    let folder = folder();
    let folder = folder.path();
    let summary = compress(folder, "out", &["--bpw", "4", "--embedding-bpw", "8"]);
    assert!(summary["verification"].is_null(), "{summary}");
    let cosine_of = |report: &Value| report["mean_cosine"].as_f64().unwrap();
    assert!(cosine_of(&summary["similarity"]) > 0.99, "{summary}");
    assert!(!folder.join("out.partial").exists());
    let manifest = manifest(folder, "out");
    assert_eq!((&manifest["architecture"], &manifest["config"]), (&json!("bert"), &Value::Null));
    assert_eq!(manifest["encoder"]["pooling"], "mean");
    let files: Vec<&str> =
        manifest["origin"]["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(files.len(), 6, "{files:?}");
    assert!(files.contains(&"1_Pooling/config.json") && files.contains(&"model.safetensors"), "{files:?}");
    let verified = novaq(folder, &["verify", "out"]).unwrap();
    assert!(verified.contains("a complete bert model"), "{verified}");
    let inspected = novaq(folder, &["inspect", "out"]).unwrap();
    // What is measured may change with the quantizer.
    let lines = inspected.lines().filter(|line| !["Model id", "Quality"].iter().any(|p| line.starts_with(p)));
    insta::assert_snapshot!("inspect_encoder", lines.collect::<Vec<_>>().join("\n"));

    let report = json_of(folder, &["eval", "out", "--against", "model", "--text", "texts.txt", "--json"]);
    assert!(cosine_of(&report) > 0.99, "{report}");
    assert_eq!(report["texts"], 300);
    let files: u64 = contents_of(&folder.join("out")).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(report["bytes"], files);
    let error = novaq(folder, &["eval", "out", "--against", "model"]).unwrap_err();
    assert!(error.contains("add `--text <FILE>` with one text per line"), "{error}");

    let report = novaq(folder, &["report", "out"]).unwrap();
    assert!(report.contains("- Quality: cosine to the original's embeddings 0.99"), "{report}");
    assert!(report.contains("| encoder.layer.1.output.dense.weight | 32 × 72 | 8x16@8 |"), "{report}");
    assert!(report.contains("| embeddings.word_embeddings.weight |"), "{report}");

    // Fewer bits, less alike.
    let coarse = compress(folder, "coarse", &["--bpw", "1", "--embedding-bpw", "2"]);
    assert!(cosine_of(&coarse["similarity"]) < cosine_of(&summary["similarity"]), "{coarse}");

    novaq(folder, &["expand", "out", "-o", "expanded"]).unwrap();
    let report = json_of(folder, &["eval", "out", "--against", "expanded", "--text", "texts.txt", "--json"]);
    // What 8-bit tables cost so narrow a model.
    assert!(cosine_of(&report) > 0.9997 && report["min_cosine"].as_f64().unwrap() > 0.998, "{report}");
}

fn contents_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    contents(folder).into_iter().collect()
}

#[test]
fn texts_are_embedded() {
    let folder = folder();
    let folder = folder.path();
    compress(folder, "out", &["--bpw", "3", "--embedding-bpw", "8"]);
    let texts = ["The miller's daughters.", "the river froze", "the miller's daughters"];
    let report = json_of(folder, &[&["embed", "out", "--json", "--cosines"], &texts[..]].concat());
    assert_eq!((&report["dimensions"], report["texts"].as_array().unwrap().len()), (&json!(32), 3));
    let loaded = ArtifactDir::open(&folder.join("out")).unwrap().load_encoder().unwrap();
    for (text, embedded) in texts.iter().zip(report["texts"].as_array().unwrap()) {
        let tokens = loaded.tokenizer.encode_truncated(text, 24).unwrap();
        assert_eq!(embedded["tokens"], tokens.len());
        let expected = loaded.encoder.embed(&tokens).unwrap();
        let got: Vec<f32> = serde_json::from_value(embedded["embedding"].clone()).unwrap();
        assert_eq!(got, expected);
    }
    let cosine = |i: usize, j: usize| report["cosines"][i][j].as_f64().unwrap();
    assert!((cosine(1, 1) - 1.0).abs() < 1e-6 && cosine(0, 2) > cosine(0, 1), "{report}");

    fs::write(folder.join("lines.txt"), texts.join("\n\n")).unwrap();
    let lines = novaq(folder, &["embed", "out", "--file", "lines.txt"]).unwrap();
    let vectors: Vec<Vec<f32>> =
        lines.lines().map(|l| l.split(' ').map(|x| x.parse().unwrap()).collect()).collect();
    let expected: Vec<Vec<f32>> = (report["texts"].as_array().unwrap().iter())
        .map(|text| serde_json::from_value(text["embedding"].clone()).unwrap())
        .collect();
    assert_eq!(vectors, expected);
    let table = novaq(folder, &["embed", "out", "--cosines", "--file", "lines.txt"]).unwrap();
    assert!(table.lines().next().unwrap().starts_with(" 1.0000 "), "{table}");

    let error = novaq(folder, &["embed", "out"]).unwrap_err();
    assert!(error.contains("<TEXT>"), "{error}");
    fs::write(folder.join("empty.txt"), " \n").unwrap();
    let error = novaq(folder, &["embed", "out", "--file", "empty.txt"]).unwrap_err();
    assert!(error.contains("`empty.txt` holds no text"), "{error}");
    let error = novaq(folder, &["run", "out", "--prompt", "once"]).unwrap_err();
    assert!(error.contains("the model is an encoder, and a decoder is needed"), "{error}");
    assert!(error.contains("`novaq embed` embeds texts with it"), "{error}");
}

#[test]
fn a_decoder_embeds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path(), "gqa-default");
    novaq(folder.path(), &[&["compress", "model", "-o", "out"], &FEW_TOKENS[..]].concat()).unwrap();
    let error = novaq(folder.path(), &["embed", "out", "once"]).unwrap_err();
    assert!(error.contains("`out` embeds no texts") && error.contains("`novaq run` generates"), "{error}");
}

#[test]
fn stopped_work_goes_on_to_the_same_artifact() {
    let folder = folder();
    let folder = folder.path();
    // Bits that need a mix of codecs, and single matrices in other codecs.
    let options = ["--bpw", "1.8", "--tensor", "*.query.weight=int8", "--tensor", "*.0.output.dense.*=f16"];
    compress(folder, "whole", &options);
    let stopped = [&["compress", "model", "-o", "parts", "--stop-after", "1"], &CALIBRATED[..], &options[..]];
    let error = novaq(folder, &stopped.concat()).unwrap_err();
    assert!(error.contains("stopped after layer 0; what is done is kept in `parts.partial`"), "{error}");
    compress(folder, "parts", &options);
    assert!(contents(&folder.join("whole")) == contents(&folder.join("parts")), "the artifacts differ");
}

#[test]
fn sizes_are_known_before() {
    let folder = folder();
    let folder = folder.path();
    let dry_run = |options: &[&str]| {
        json_of(folder, &[&["compress", "model", "--dry-run", "--json"], options].concat())
    };
    let error = novaq(folder, &["compress", "model", "--dry-run", "--size", "1kB"]).unwrap_err();
    let smallest = error.split("has ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    for (out, options) in [
        ("a", &["--bpw", "4"][..]),
        ("b", &["--size", smallest]),
        ("c", &["--codec", "2x16@4", "--embedding-bpw", "16"]),
    ] {
        let with_licence = [options, &["--license", "CC0-1.0", "--calibration", "texts.txt"]].concat();
        let forecast = dry_run(&with_licence);
        assert_eq!(forecast["exact"], true);
        let summary = compress(folder, out, options);
        let (most, bytes) = (forecast["bytes"].as_u64().unwrap(), summary["bytes"].as_u64().unwrap());
        let least = most - forecast["variable_bytes"].as_u64().unwrap();
        assert!((least..=most).contains(&bytes), "{options:?}: {bytes} of {least} to {most}");
        let kinds = forecast["kinds"].as_array().unwrap();
        let of_kinds: u64 = kinds.iter().map(|kind| kind["bytes"].as_u64().unwrap()).sum();
        assert_eq!(most, of_kinds);
        let manifest = manifest(folder, out);
        for key in
            ["bits_per_weight_codes", "bits_per_weight_body", "bits_per_weight_embedding", "parameters"]
        {
            assert_eq!(forecast[key].as_f64(), manifest["compression"][key].as_f64(), "{key}");
        }
        assert_eq!(forecast["estimates"], manifest["estimates"], "{options:?}");
        if options[0] == "--size" {
            assert!(bytes <= smallest.parse::<u64>().unwrap());
        }
    }
    assert_eq!(dry_run(&["--bpw", "1.8"])["exact"], true);
    assert_eq!(dry_run(&["--ratio", "4"])["exact"], false);
}

/// What `novaq compress` says about a copy of the random encoder that `change` has damaged.
fn refused(change: impl FnOnce(&Path)) -> String {
    let folder = folder();
    change(&folder.path().join("model"));
    let args = [&["compress", "model", "-o", "out"], &CALIBRATED[..]].concat();
    let error = novaq(folder.path(), &args).unwrap_err();
    let mut left = contents_names(folder.path());
    left.sort();
    assert_eq!(left, ["model", "texts.txt"], "something was left behind: {error}");
    error
}

/// Replaces a text in a file.
fn change(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn what_is_not_supported_is_named() {
    for (file, from, to, expected) in [
        ("config.json", "BertModel", "BertForTokenClassification", "`architectures` is `BertForTokenClass"),
        ("config.json", "\"gelu\"", "\"relu\"", "`hidden_act` is `relu`; supported is `gelu`"),
        (
            "config.json",
            "\"hidden_size\"",
            "\"width\"",
            "config.json` is not valid: missing field `hidden_size`",
        ),
        (
            "config.json",
            "\"intermediate_size\": 72",
            "\"intermediate_size\": 64",
            "has shape [72], expected [64]",
        ),
        ("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "`encoder.layer.2."),
        ("config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "`num_attention_heads`"),
        ("modules.json", "models.Normalize", "models.Dense", "module `sentence_transformers.models.Dense`"),
        (
            "1_Pooling/config.json",
            "\"pooling_mode_max_tokens\":false",
            "\"pooling_mode_max_tokens\":true",
            "is not supported",
        ),
        ("1_Pooling/config.json", "mean_tokens\":true", "mean_tokens\":false", "pooling `` is not supported"),
        ("sentence_bert_config.json", "false", "true", "`do_lower_case` is not supported"),
        ("sentence_bert_config.json", "24", "512", "`max_seq_length`: 512 is above 48 positions"),
        ("tokenizer.json", "\"WordPiece\",\"unk", "\"Unigram\",\"unk", "`Unigram` is not supported"),
    ] {
        let error = refused(|model| change(&model.join(file), from, to));
        assert!(error.contains(expected), "{file}: {error}");
    }
    let vocabulary = "\"vocab\":{";
    let larger = format!("{vocabulary}\"zyx\":424,");
    let error = refused(|model| change(&model.join("tokenizer.json"), vocabulary, &larger));
    let expected =
        "the tokenizer has 425 tokens, the embedding `embeddings.word_embeddings.weight` has 424 rows";
    assert!(error.contains(expected), "{error}");
    let error = refused(|model| fs::remove_file(model.join("1_Pooling/config.json")).unwrap());
    assert!(error.contains("1_Pooling/config.json` can't be read"), "{error}");
}

#[test]
fn calibration_text_is_needed() {
    let folder = folder();
    let folder = folder.path();
    let error = novaq(folder, &["compress", "model", "-o", "out"]).unwrap_err();
    assert!(error.contains("an encoder can't write the text that it is calibrated on"), "{error}");
    assert!(error.contains("add `--calibration <FILE>` with one text per line"), "{error}");
    fs::write(folder.join("short.txt"), "once\nupon\nonce\n\n").unwrap();
    let args = ["compress", "model", "-o", "out", "--calibration", "short.txt"];
    let error = novaq(folder, &args).unwrap_err();
    assert!(error.contains("the file has 2 different lines with"), "{error}");
    assert!(!folder.join("out.partial").exists());
}

/// A checkpoint with heads beside the encoder, and norms named as the first ones were, gives the same shards.
#[test]
fn other_names_of_the_same_tensors_are_read() {
    let folder = folder();
    let path = folder.path().join("model/model.safetensors");
    compress(folder.path(), "plain", &["--bpw", "2"]);
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: Vec<(String, _)> = (file.tensors().into_iter())
        .map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            (format!("bert.{}", name.replace("LayerNorm.bias", "LayerNorm.beta")), tensor)
        })
        .collect();
    fs::write(&path, safetensors::serialize(renamed, None).unwrap()).unwrap();
    change(&folder.path().join("model/config.json"), "BertModel", "BertForMaskedLM");
    compress(folder.path(), "renamed", &["--bpw", "2"]);
    let shards = |out: &str| {
        contents_of(&folder.path().join(out))
            .into_iter()
            .filter(|(name, _)| name != "manifest.json")
            .collect::<Vec<_>>()
    };
    assert_eq!(shards("plain"), shards("renamed"));
}

/// What was measured for a real model at 3 bits, with little text to calibrate on and headings among the lines.
#[test]
fn minilm_keeps_its_quality() {
    let Some(model) = minilm() else { return };
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/wikitext2-test.txt");
    if !corpus.exists() {
        let _ = writeln!(std::io::stderr(), "skipped: {} is not there", corpus.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, corpus) = (model.to_str().unwrap(), corpus.to_str().unwrap());
    let args = ["compress", model, "-o", "out", "--bpw", "3", "--calibration", corpus, "--json"];
    let args = [&args[..], &["--calibration-tokens", "8192", "--embedding-bpw", "8"]].concat();
    let similarity = json_of(folder.path(), &args)["similarity"].clone();
    assert!(similarity["mean_cosine"].as_f64().unwrap() > 0.94, "{similarity}");
}
