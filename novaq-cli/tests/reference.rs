//! The engine with 32-bit weights and a 32-bit cache against Hugging Face transformers: see
//! `novaq-engine/tests/fixtures/README.md` for where the expectations come from.

use novaq_cli::checkpoint::Checkpoint;
use novaq_engine::kernel::Backend;
use novaq_engine::model::CachePrecision;
use safetensors::SafeTensors;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Largest difference of a logit that the order of float additions may explain.
const TOLERANCE: f32 = 1e-3;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn words(file: &SafeTensors, name: &str) -> Vec<u32> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
}

/// Compares the logits of the checkpoint in `folder` with those of the fixture `name`, on every kernel.
fn check(name: &str, folder: &Path) {
    let path =
        repository().join("novaq-engine/tests/fixtures/logits").join(name).join("expected.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (tokens, positions) = (words(&file, "tokens"), words(&file, "positions"));
    let expected: Vec<f32> = words(&file, "logits").into_iter().map(f32::from_bits).collect();
    let model = Checkpoint::open(folder).unwrap().model().unwrap();
    for backend in Backend::available() {
        let model = model.clone().with_backend(backend);
        let logits = model.forward(&tokens, CachePrecision::F32, 16, None).unwrap();
        let vocab_size = model.config().vocab_size;
        assert_eq!(expected.len(), positions.len() * vocab_size);
        let mut largest = 0.0f32;
        for (position, expected) in positions.iter().zip(expected.chunks_exact(vocab_size)) {
            let logits = &logits[*position as usize * vocab_size..][..vocab_size];
            largest = logits.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
        }
        println!("{name} on {backend:?}: largest difference of a logit {largest:.1e}");
        assert!(largest < TOLERANCE, "{name} on {backend:?}: a logit is off by {largest}");
    }
}

#[test]
fn random_models_agree_with_transformers() {
    for name in ["gqa-default", "mqa-linear-bias", "mha-llama3"] {
        check(name, &repository().join("novaq-engine/tests/fixtures/logits").join(name));
    }
}

#[test]
fn the_bundled_model_agrees_with_transformers() {
    check("ohms-tales-6m", &repository().join("models/ohms-tales-6m"));
}

#[test]
fn tinystories_agrees_with_transformers() {
    let folder = repository().join("../shared/models/TinyStories-656K");
    if folder.is_dir() {
        check("TinyStories-656K", &folder);
    } else {
        // The macros are captured in a test that passes; this line has to be seen.
        let _ = writeln!(std::io::stderr(), "skipped: {} is not there", folder.display());
    }
}
