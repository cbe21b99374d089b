//! The engine with 32-bit weights and a 32-bit cache against Hugging Face transformers: see
//! `novaq-engine/tests/fixtures/README.md` for where the expectations come from.

use novaq_cli::checkpoint::{Checkpoint, dense};
use novaq_engine::codec::Matrix;
use novaq_engine::kernel::Backend;
use novaq_engine::model::{Activation, CachePrecision, Config, Model, ModelError, TensorSource, Variant};
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
    for name in [
        "gqa-default",
        "mqa-linear-bias",
        "mha-llama3",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma3",
        "gemma3-multimodal",
    ] {
        check(name, &repository().join("novaq-engine/tests/fixtures/logits").join(name));
    }
}

/// Hands out a checkpoint's tensors whatever the configuration is.
struct Tensors<'a>(&'a Checkpoint);

impl TensorSource for Tensors<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        Ok(self.0.matrix(name).ok().map(|matrix| dense(matrix).unwrap()))
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        Ok(self.0.vector(name).ok())
    }
}

/// A change of what a model departs from Llama by.
type Change = fn(&mut Variant);

/// The comparison with transformers would see any feature that the engine lacks: without it, logits are others.
#[test]
fn every_feature_changes_the_logits() {
    let window: Change = |v| v.sliding_window = v.sliding_window.map(|window| window + 1);
    let full: Change = |v| *v = v.clone().with_windows(0, Vec::new());
    let heads: Change = |v| v.qk_norm = false;
    let models: [(&str, &[Change]); 4] = [
        ("mistral", &[window, full]),
        ("qwen2", &[window, full, |v| v.qkv_bias = false, |v| v.layer_types.reverse()]),
        ("qwen3", &[heads]),
        (
            "gemma3",
            &[
                window,
                full,
                heads,
                |v| v.post_norms = false,
                |v| v.scale_embeddings = false,
                |v| v.hidden_act = Activation::Silu,
                |v| v.query_pre_attn_scalar = None,
                |v| v.rope_local_base_freq = None,
            ],
        ),
    ];
    for (name, changes) in models {
        let folder = repository().join("novaq-engine/tests/fixtures/logits").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 101).collect();
        let logits = |variant: Variant| {
            let config = Config { variant, ..checkpoint.config().clone() };
            let model = Model::load(config, &mut Tensors(&checkpoint)).unwrap();
            model.forward(&tokens, CachePrecision::F32, 16, None).unwrap()
        };
        let expected = logits(checkpoint.config().variant.clone());
        for (number, change) in changes.iter().enumerate() {
            let mut variant = checkpoint.config().variant.clone();
            change(&mut variant);
            let differences = logits(variant).into_iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let largest = differences.fold(0.0f32, f32::max);
            println!("{name}, change {number}: a logit differs by {largest}");
            assert!(largest > 50.0 * TOLERANCE, "{name}, change {number}: a logit differs by {largest} only");
        }
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
