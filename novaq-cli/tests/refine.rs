//! `novaq compress --refine`, and artifacts of less than one bit per weight, on small random models.

mod small;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use small::{CALIBRATED, FEW_TOKENS, checkpoint, contents, encoder, json_of, novaq};

/// The divergence of what `novaq compress` makes with `more` options.
fn divergence(folder: &Path, output: &str, more: &[&str]) -> f64 {
    let args = [&["compress", "model", "-o", output, "--json"][..], &FEW_TOKENS, more].concat();
    json_of(folder, &args)["verification"]["kl"].as_f64().unwrap()
}

#[test]
fn each_stage_of_refinement_lowers_the_divergence() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path(), "gqa-default");
    let stage = |output, more: &[&str]| {
        divergence(folder.path(), output, &[&["--bpw", "1", "--embedding-bpw", "3"], more].concat())
    };
    let none = stage("none", &[]);
    let blocks = stage("blocks", &["--refine", "blocks"]);
    let full = stage("full", &["--refine", "full", "--refine-steps", "60"]);
    assert!(blocks < none && full < 0.75 * blocks, "{none} {blocks} {full}");
    let full = ["compress", "model", "--bpw", "1", "--refine", "full", "--refine-steps", "60", "--json"];
    let said = json_of(folder.path(), &[&full[..], &["--dry-run"], &FEW_TOKENS].concat());
    let took = json_of(folder.path(), &[&full[..], &["-o", "again"], &FEW_TOKENS].concat());
    let said = said["cost"]["peak_memory_bytes"].as_u64().unwrap();
    assert!(took["peak_memory_bytes"].as_u64().is_none_or(|took| took <= said), "{took} {said}");
    // The numbers move, what is stored keeps its form.
    let size = |name: &str| -> usize {
        contents(&folder.path().join(name))
            .iter()
            .filter(|(n, _)| n.starts_with("shard"))
            .map(|(_, b)| b.len())
            .sum()
    };
    assert_eq!(size("none"), size("full"));
}

/// Kills `novaq compress` with `args` in `folder` once some steps are saved. The command again ends with the artifact of an
/// undisturbed run.
fn goes_on_after_a_kill(folder: &Path, args: &[&str]) {
    let args = |output| [&["compress", "model", "-o", output, "--refine", "full"], args].concat();
    novaq(folder, &args("whole")).unwrap();
    let mut killed = Command::new(assert_cmd::cargo::cargo_bin("novaq"))
        .current_dir(folder)
        .args(args("again"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let saved = folder.join("again.partial/refinement.safetensors");
    while !saved.exists() && killed.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_mins(5), "nothing was saved");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(saved.exists(), "it ended before it was killed");
    novaq(folder, &args("again")).unwrap();
    assert!(contents(&folder.join("whole")) == contents(&folder.join("again")));
    assert!(!folder.join("again.partial").exists());
}

#[test]
fn a_refinement_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path(), "gqa-default");
    goes_on_after_a_kill(folder.path(), &[&FEW_TOKENS[..], &["--refine-steps", "160"]].concat());
}

#[test]
fn a_refinement_of_an_encoder_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path());
    goes_on_after_a_kill(folder.path(), &[&CALIBRATED[..], &["--refine-steps", "160"]].concat());
}

#[test]
fn each_stage_of_refinement_brings_an_encoder_closer() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path());
    let options =
        [&["compress", "model", "--json", "--bpw", "1", "--embedding-bpw", "8"], &CALIBRATED[..]].concat();
    let distance = |output, more: &[&str]| {
        let summary = json_of(folder.path(), &[&options[..], &["-o", output], more].concat());
        let said = json_of(folder.path(), &[&options[..], &["--dry-run"], more].concat());
        let said = said["cost"]["peak_memory_bytes"].as_u64().unwrap();
        assert!(summary["peak_memory_bytes"].as_u64().is_none_or(|took| took <= said), "{summary} {said}");
        1.0 - summary["similarity"]["mean_cosine"].as_f64().unwrap()
    };
    let none = distance("none", &[]);
    let blocks = distance("blocks", &["--refine", "blocks"]);
    let full = distance("full", &["--refine", "full", "--refine-steps", "400"]);
    // Text of random words says little about other text of a random model.
    assert!(blocks < 0.95 * none && full < 0.95 * blocks, "{none} {blocks} {full}");
    let report = novaq(folder.path(), &["report", "full"]).unwrap();
    assert!(report.contains("- Refinement: full, 400 steps"), "{report}");
}

/// Below one bit matrices are products of signs; refinement is what makes them useful.
#[test]
fn less_than_a_bit_is_a_product_of_signs() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path(), "gqa-default");
    let dry = json_of(folder.path(), &["compress", "model", "--dry-run", "--json", "--codec", "2x16@8"]);
    let one_bit = dry["bytes"].as_u64().unwrap();
    let size = (one_bit - 2500).to_string();
    let none = divergence(folder.path(), "none", &["--size", &size]);
    let more = ["--size", &size, "--refine", "full", "--refine-steps", "150"];
    let full = divergence(folder.path(), "full", &more);
    assert!(full < 0.6 * none, "{none} {full}");
    let artifact = folder.path().join("full");
    let bytes: u64 = fs::read_dir(&artifact).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= one_bit - 2500, "{bytes}");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(artifact.join("manifest.json")).unwrap()).unwrap();
    let tensors = manifest["tensors"].as_array().unwrap();
    let matrices = tensors.iter().filter(|t| t["shape"].as_array().unwrap().len() == 2);
    assert!(matrices.clone().all(|t| t["codec"]["kind"] == "low_rank"), "{tensors:?}");
    assert_eq!(manifest["codebooks"].as_array().unwrap().len(), 1);
    novaq(folder.path(), &["verify", "full"]).unwrap();
    novaq(folder.path(), &["expand", "full", "-o", "expanded"]).unwrap();
    novaq(folder.path(), &["eval", "full", "--against", "model"]).unwrap();
}
