//! Encoders with random weights in every codec: equal bits on all kernels and however the work is cut, and artifacts of them.

mod common;

use common::TOKENIZER_JSON;
use novaq_engine::artifact::{
    ArtifactError, Estimates, Loader, Manifest, ManifestDraft, Origin, Shards, Similarity, VectorPrecision,
    Writer,
};
use novaq_engine::codec::{AqMatrix, Codebooks, DenseMatrix, Int8Matrix, Matrix};
use novaq_engine::kernel::Backend;
use novaq_engine::model::{
    BertConfig, Budget, Encoder, EncoderPass, LinearInput, ModelError, Observer, Pooling, Progress,
    TensorSource,
};
use novaq_engine::tokenizer::Tokenizer;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Sizes that fill no tile.
fn config(pooling: Pooling) -> BertConfig {
    BertConfig {
        vocab_size: 257,
        hidden_size: 60,
        intermediate_size: 100,
        num_hidden_layers: 3,
        num_attention_heads: 5,
        max_position_embeddings: 24,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        max_seq_length: 20,
        pooling,
        normalize: true,
    }
}

/// A repeatable stream of numbers in -1..1.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Random tensors by name, made as they are asked for; matrices take turns at the codecs.
#[derive(Clone)]
struct Random {
    seed: u64,
    config: BertConfig,
    matrices: BTreeMap<String, Matrix>,
    vectors: BTreeMap<String, Vec<f32>>,
}

impl Random {
    fn new(seed: u64, config: BertConfig) -> Self {
        Self { seed, config, matrices: BTreeMap::new(), vectors: BTreeMap::new() }
    }

    fn stream(&self, name: &str) -> impl FnMut() -> f32 + use<> {
        let hash = name.bytes().fold(self.seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        noise(hash)
    }
}

impl TensorSource for Random {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let c = &self.config;
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let [rows, columns] = match name {
            "embeddings.word_embeddings.weight" => [c.vocab_size, hidden],
            "embeddings.position_embeddings.weight" => [c.max_position_embeddings, hidden],
            "embeddings.token_type_embeddings.weight" => [c.type_vocab_size, hidden],
            name if name.contains("intermediate") => [inner, hidden],
            name if name.contains("attention") => [hidden, hidden],
            _ => [hidden, inner],
        };
        let mut next = self.stream(name);
        let scale = 2.0 / (columns as f32).sqrt();
        let fail = |source| ModelError::Tensor { name: name.to_owned(), source };
        let matrix = match self.matrices.len() % 3 {
            0 => {
                let codewords: Vec<f32> = (0..4 * 16 * 8).map(|_| next() * scale / 2.0).collect();
                let set = Arc::new(Codebooks::quantize(4, 8, &codewords).map_err(fail)?);
                let codes: Vec<u8> =
                    (0..rows * set.groups(columns) * 4).map(|_| ((next() + 1.0) * 8.0) as u8 & 15).collect();
                let scales = vec![1.0; rows];
                AqMatrix::from_codes(rows, columns, set, &codes, &scales, None).map(Matrix::Aq)
            }
            1 => {
                let weights: Vec<f32> = (0..rows * columns).map(|_| next() * scale).collect();
                Int8Matrix::quantize(rows, columns, &weights).map(Matrix::Int8)
            }
            _ => {
                let weights = (0..rows * columns).map(|_| next() * scale).collect();
                DenseMatrix::new(rows, columns, weights).map(Matrix::Dense)
            }
        };
        let matrix = matrix.map_err(fail)?;
        self.matrices.insert(name.to_owned(), matrix.clone());
        Ok(Some(matrix))
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let len = if name.contains("intermediate") {
            self.config.intermediate_size
        } else {
            self.config.hidden_size
        };
        let mut next = self.stream(name);
        let norm = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let vector: Vec<f32> = (0..len).map(|_| norm + (next() * 64.0).round() / 256.0).collect();
        self.vectors.insert(name.to_owned(), vector.clone());
        Ok(Some(vector))
    }
}

fn encoder(seed: u64, pooling: Pooling) -> Encoder {
    let config = config(pooling);
    Encoder::load(config.clone(), &mut Random::new(seed, config)).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn pooling() -> impl Strategy<Value = Pooling> {
    prop::sample::select(vec![Pooling::Mean, Pooling::Cls, Pooling::Max])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_kernels_and_all_cuts_give_the_same_bits(
        seed: u64, pooling in pooling(), tokens in prop::collection::vec(0u32..257, 1..20),
        limits in prop::collection::vec(0u64..3_000_000, 1..8),
    ) {
        let encoder = encoder(seed, pooling);
        let expected = encoder.clone().with_backend(Backend::Scalar).embed(&tokens).unwrap();
        prop_assert!(expected.iter().all(|x| x.is_finite()));
        let length: f32 = expected.iter().map(|x| x * x).sum();
        prop_assert!((length - 1.0).abs() < 1e-5);
        let mut spare: Option<EncoderPass> = None;
        for backend in Backend::available() {
            let encoder = encoder.clone().with_backend(backend);
            prop_assert_eq!(bits(&encoder.embed(&tokens).unwrap()), bits(&expected));
            let mut pass = encoder.begin(&tokens, spare.take()).unwrap();
            let mut limits = limits.iter().cycle();
            let mut slices = 0;
            while {
                let mut budget = Budget::new(*limits.next().unwrap() + u64::from(slices > 50));
                let progress = encoder.advance(&mut pass, &mut budget, None);
                prop_assert!(pass.embedding().is_empty() == (progress == Progress::Paused));
                progress == Progress::Paused
            } {
                slices += 1;
            }
            prop_assert_eq!(bits(pass.embedding()), bits(&expected));
            spare = Some(pass);
        }
    }

    #[test]
    fn what_follows_changes_what_comes_before(seed: u64, tokens in prop::collection::vec(0u32..257, 3..20)) {
        // Attention looks both ways: the first vector depends on the last token.
        let encoder = encoder(seed, Pooling::Cls);
        let mut other = tokens.clone();
        let last = other.len() - 1;
        other[last] = (other[last] + 1) % 257;
        prop_assert_ne!(encoder.embed(&tokens).unwrap(), encoder.embed(&other).unwrap());
    }
}

/// Notes what it sees.
#[derive(Default)]
struct Seen {
    inputs: Vec<(usize, LinearInput, usize, usize)>,
    stop_at: Option<LinearInput>,
}

impl Observer for Seen {
    fn linear_input(
        &mut self,
        layer: usize,
        which: LinearInput,
        inputs: &[f32],
        residual: &[f32],
    ) -> ControlFlow<()> {
        self.inputs.push((layer, which, inputs.len(), residual.len()));
        if self.stop_at == Some(which) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn observers_see_every_input_of_a_linear_layer() {
    let encoder = encoder(1, Pooling::Mean);
    let mut seen = Seen::default();
    let mut pass = encoder.begin(&[1, 2, 3], None).unwrap();
    let mut budget = Budget::unlimited();
    assert_eq!(encoder.advance(&mut pass, &mut budget, Some(&mut seen)), Progress::Complete);
    assert_eq!(budget.spent, 3 * encoder.work_per_token(3));
    let of_layer = |layer| {
        [
            (layer, LinearInput::Qkv, 180, 180),
            (layer, LinearInput::O, 180, 180),
            (layer, LinearInput::GateUp, 180, 180),
            (layer, LinearInput::Down, 300, 180),
        ]
    };
    assert_eq!(seen.inputs, [0, 1, 2].map(of_layer).concat());
    let mut seen = Seen { stop_at: Some(LinearInput::O), ..Seen::default() };
    let mut pass = encoder.begin(&[1, 2, 3], None).unwrap();
    let progress = encoder.advance(&mut pass, &mut Budget::unlimited(), Some(&mut seen));
    assert_eq!((progress, seen.inputs.len()), (Progress::Stopped, 2));
}

#[test]
fn texts_that_do_not_fit_are_refused() {
    let encoder = encoder(1, Pooling::Mean);
    assert_eq!(encoder.embed(&[]), Err(ModelError::Context { positions: 0, context: 24 }));
    assert_eq!(encoder.embed(&[0; 21]), Err(ModelError::Context { positions: 21, context: 20 }));
    assert_eq!(encoder.embed(&[257]), Err(ModelError::Token { token: 257, vocab_size: 257 }));
}

#[test]
fn configurations_out_of_range_are_refused() {
    let good = config(Pooling::Mean);
    let refused = |config: BertConfig, field: &str| {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with(&format!("config `{field}`")), "{error}");
    };
    refused(BertConfig { hidden_size: 0, ..good.clone() }, "hidden_size");
    refused(BertConfig { num_hidden_layers: usize::MAX, ..good.clone() }, "num_hidden_layers");
    refused(BertConfig { num_attention_heads: 7, ..good.clone() }, "num_attention_heads");
    refused(BertConfig { max_seq_length: 25, ..good.clone() }, "max_seq_length");
    refused(BertConfig { layer_norm_eps: f64::NAN, ..good }, "layer_norm_eps");
}

/// An artifact of a random encoder.
fn artifact(seed: u64) -> (Manifest, Vec<Vec<u8>>, Encoder) {
    let config = config(Pooling::Mean);
    let mut tensors = Random::new(seed, config.clone());
    let encoder = Encoder::load(config.clone(), &mut tensors).unwrap();
    let mut shards = Vec::new();
    let mut writer = Writer::new(&mut shards);
    writer.tokenizer(&Tokenizer::from_json(TOKENIZER_JSON.as_bytes()).unwrap().to_bytes()).unwrap();
    for (name, matrix) in &tensors.matrices {
        writer.matrix(name, matrix).unwrap();
    }
    for (name, vector) in &tensors.vectors {
        writer.vector(name, vector, VectorPrecision::F16).unwrap();
    }
    let draft = ManifestDraft {
        name: "random".into(),
        version: "1.0.0".into(),
        license: "CC0-1.0".into(),
        origin: Origin { repository: "random weights".into(), revision: None, files: Vec::new() },
        architecture: config.into(),
        tokenizer_sha256: [0; 32],
        chat_template: None,
        seed,
        calibration: "none".into(),
        verification: None,
        similarity: Some(Similarity {
            text: "none".into(),
            texts: 1,
            tokens: 2,
            mean_cosine: 0.5,
            min_cosine: 0.25,
        }),
        estimates: Estimates { heap_bytes: 0, cache_bytes_per_token: 0, instructions_per_token: 0 },
        tags: Vec::new(),
    };
    let manifest = writer.finish(draft).unwrap();
    (manifest, shards, encoder)
}

#[test]
fn an_artifact_gives_the_same_embeddings() {
    let (manifest, shards, encoder) = artifact(3);
    let parsed = Manifest::parse(&manifest.to_bytes().unwrap()).unwrap();
    assert_eq!(parsed, manifest);
    assert_eq!((parsed.architecture.as_str(), parsed.config.is_none()), ("bert", true));
    let body: usize = 3 * (4 * 60 * 60 + 2 * 60 * 100);
    assert!(parsed.compression.parameters > body as u64);
    assert!(parsed.compression.bits_per_weight_body > 4.0);
    let loaded = Loader::load_encoder(Arc::new(parsed), &Shards(shards)).unwrap();
    assert_eq!(loaded.encoder.heap_bytes(), encoder.heap_bytes());
    let tokens = loaded.tokenizer.encode("ten letters", false).unwrap();
    assert_eq!(bits(&loaded.encoder.embed(&tokens).unwrap()), bits(&encoder.embed(&tokens).unwrap()));
}

#[test]
fn a_decoder_is_no_encoder() {
    let (manifest, shards, _) = artifact(3);
    let error = Loader::load(Arc::new(manifest.clone()), &Shards(shards)).unwrap_err();
    assert!(matches!(error, ArtifactError::Kind { .. }));
    assert_eq!(error.to_string(), "the model is an encoder, and a decoder is needed");
    let (decoder, shards) = common::artifact(common::config(), 1);
    let error = Loader::load_encoder(Arc::new(decoder.clone()), &Shards(shards)).unwrap_err();
    assert_eq!(error.to_string(), "the model is a decoder, and an encoder is needed");
    // Fields of both kinds, of none, and an architecture that is not known.
    let refused = |manifest: Manifest| manifest.validate().unwrap_err().to_string();
    let both = Manifest { encoder: manifest.encoder.clone(), ..decoder.clone() };
    assert_eq!(refused(both), "manifest `encoder`: is there beside `config`");
    let none = Manifest { encoder: None, ..manifest.clone() };
    assert_eq!(refused(none), "manifest `encoder`: is missing");
    let swapped = Manifest { architecture: "llama".into(), ..manifest.clone() };
    assert_eq!(refused(swapped), "the model is an encoder, and a decoder is needed");
    let unknown = Manifest { architecture: "t5".into(), ..manifest };
    assert_eq!(refused(unknown), "manifest `architecture`: `t5` is not supported");
    assert!(!String::from_utf8(decoder.to_bytes().unwrap()).unwrap().contains("encoder"));
}
