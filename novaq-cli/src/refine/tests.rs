//! The refinement of small random models.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use ndarray::Array2;
use novaq_engine::codec::{AqMatrix, Codebooks, DenseMatrix, Matrix};
use novaq_engine::model::{
    Activation, Architecture, BertConfig, Budget, CachePrecision, Config, LayerType, Model, ModelError,
    Pooling, RopeScaling, TensorSource, Variant,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::blocks::Example;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::student::floats;
use super::{Course, Network, Stopped, refine_layer, refine_model};
use crate::layered::Tensors;
use crate::quantize::additive::{Effort, gaussian_codebooks, normal, quantize};

fn config() -> Config {
    Config {
        vocab_size: 60,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: false,
        attention_bias: true,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        variant: Variant::default(),
    }
}

/// Random tensors of the shapes that a model has.
struct Random<'a> {
    rng: ChaCha8Rng,
    /// Rows and columns of a matrix by its name.
    shape: &'a dyn Fn(&str) -> (usize, usize),
    /// Length of a vector by its name.
    length: &'a dyn Fn(&str) -> usize,
    tensors: Tensors,
}

impl TensorSource for Random<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let (rows, columns) = (self.shape)(name);
        // Outlying rows, as real models have them, and logits that say something.
        let size = if name.starts_with("lm_head") { 3.0 } else { 1.0 } / (columns as f32).sqrt();
        let values = (0..rows * columns)
            .map(|i| normal(&mut self.rng) * size * if i / columns % 7 == 0 { 2.0 } else { 1.0 })
            .collect();
        let matrix = Matrix::Dense(DenseMatrix::new(rows, columns, values).unwrap());
        self.tensors.matrices.insert(name.to_owned(), matrix.clone());
        Ok(Some(matrix))
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let around = if name.rsplit('.').next() == Some("bias") { 0.0 } else { 1.0 };
        let values = (0..(self.length)(name)).map(|_| around + self.rng.random_range(-0.3..0.3));
        let vector: Vec<f32> = values.collect();
        self.tensors.vectors.insert(name.to_owned(), vector.clone());
        Ok(Some(vector))
    }
}

/// What a tensor is of: the last but one part of its name.
fn part(name: &str) -> &str {
    name.rsplit('.').nth(1).unwrap()
}

fn random(c: &Config, seed: u64) -> (Model, Tensors) {
    let shape = |name: &str| match part(name) {
        "q_proj" => (c.query_width(), c.hidden_size),
        "k_proj" | "v_proj" => (c.key_value_width(), c.hidden_size),
        "o_proj" => (c.hidden_size, c.query_width()),
        "gate_proj" | "up_proj" => (c.intermediate_size, c.hidden_size),
        "down_proj" => (c.hidden_size, c.intermediate_size),
        _ => (c.vocab_size, c.hidden_size),
    };
    let length = |name: &str| match part(name) {
        "q_proj" => c.query_width(),
        "k_proj" | "v_proj" => c.key_value_width(),
        "q_norm" | "k_norm" => c.head_dim,
        _ => c.hidden_size,
    };
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let mut source = Random { rng, shape: &shape, length: &length, tensors: Tensors::default() };
    let model = Model::load(c.clone(), &mut source).unwrap();
    (model, source.tensors)
}

fn encoder_config() -> BertConfig {
    BertConfig {
        vocab_size: 60,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        max_position_embeddings: 24,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        max_seq_length: 24,
        pooling: Pooling::Mean,
        normalize: true,
    }
}

fn random_encoder(c: &BertConfig, seed: u64) -> (novaq_engine::model::Encoder, Tensors) {
    let shape = |name: &str| match part(name) {
        "word_embeddings" => (c.vocab_size, c.hidden_size),
        "position_embeddings" => (c.max_position_embeddings, c.hidden_size),
        "token_type_embeddings" => (c.type_vocab_size, c.hidden_size),
        _ if name.contains("intermediate") => (c.intermediate_size, c.hidden_size),
        _ if name.contains("attention") => (c.hidden_size, c.hidden_size),
        _ => (c.hidden_size, c.intermediate_size),
    };
    let length = |name: &str| if name.contains("intermediate") { c.intermediate_size } else { c.hidden_size };
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let mut source = Random { rng, shape: &shape, length: &length, tensors: Tensors::default() };
    let model = novaq_engine::model::Encoder::load(c.clone(), &mut source).unwrap();
    (model, source.tensors)
}

/// `original` with its matrices in codes of 1.5 bits.
fn quantized(original: &Tensors) -> Tensors {
    let start = gaussian_codebooks(3, 8, 2, 0);
    let mut tensors = original.clone();
    for matrix in tensors.matrices.values_mut() {
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let w = Array2::from_shape_vec((rows, columns), matrix.decode()).unwrap();
        let q = quantize(w.view(), Array2::eye(columns).view(), &vec![1.0; rows], &start, Effort::default());
        let q = q.unwrap();
        let codebooks = Arc::new(Codebooks::new(3, 8, q.codebook_scale, q.codewords).unwrap());
        let scales: Vec<f32> = q.row_scales.iter().map(|s| s.to_f32()).collect();
        *matrix =
            Matrix::Aq(AqMatrix::from_codes(rows, columns, codebooks, &q.codes, &scales, None).unwrap());
    }
    tensors
}

fn sequences(vocab_size: usize, count: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sequence = |_| (0..rng.random_range(5..20)).map(|_| rng.random_range(0..vocab_size as u32)).collect();
    (0..count).map(sequence).collect()
}

/// One forward pass imitates the other to the precision of floats: every feature of the configuration counts.
#[test]
fn logits_are_those_of_the_engine() {
    let gemma = Variant {
        qk_norm: true,
        post_norms: true,
        scale_embeddings: true,
        hidden_act: Activation::GeluPytorchTanh,
        query_pre_attn_scalar: Some(12.0),
        rope_local_base_freq: Some(50.0),
        ..Variant::default()
    };
    let types = vec![LayerType::SlidingAttention, LayerType::FullAttention];
    let configs = [
        config(),
        Config { tie_word_embeddings: true, attention_bias: false, rope_theta: 100.0, ..config() },
        Config {
            variant: Variant { qkv_bias: true, ..Variant::default() },
            attention_bias: false,
            ..config()
        },
        Config { variant: Variant { sliding_window: Some(3), ..Variant::default() }, ..config() },
        Config { variant: gemma.with_windows(4, types), tie_word_embeddings: true, ..config() },
    ];
    for config in configs {
        let (model, tensors) = random(&config, 1);
        let sequences = sequences(config.vocab_size, 3, 2);
        let parts: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let forward = Decoder::new(&config, 20, &Device::Cpu).unwrap();
        let outputs = forward.model(&floats(&tensors, &Device::Cpu).unwrap(), &parts).unwrap();
        let logits: Vec<f32> = outputs.logits.flatten_all().unwrap().to_vec1().unwrap();
        let expected: Vec<f32> =
            parts.iter().flat_map(|s| model.forward(s, CachePrecision::F32, 64, None).unwrap()).collect();
        assert_eq!(logits.len(), expected.len());
        for (a, b) in logits.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{a} {b}");
        }
    }
}

/// The same for embeddings, however they are pooled.
#[test]
fn embeddings_are_those_of_the_engine() {
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Max] {
        for normalize in [true, false] {
            let config = BertConfig { pooling, normalize, ..encoder_config() };
            let (model, tensors) = random_encoder(&config, 1);
            let texts = sequences(config.vocab_size, 3, 2);
            let parts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let encoder = Encoder::new(&config, &Device::Cpu);
            let outputs = encoder.model(&floats(&tensors, &Device::Cpu).unwrap(), &parts).unwrap();
            let (mut embeddings, mut hidden) = (Vec::new(), Vec::new());
            for text in &parts {
                let mut pass = model.begin(text, None).unwrap();
                model.advance(&mut pass, &mut Budget::unlimited(), None);
                embeddings.extend_from_slice(pass.embedding());
                hidden.extend_from_slice(pass.hidden());
            }
            for (tensor, expected) in [(&outputs.embeddings, &embeddings), (&outputs.hidden[1], &hidden)] {
                let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                assert_eq!(values.len(), expected.len());
                for (a, b) in values.iter().zip(expected) {
                    assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{pooling:?}: {a} {b}");
                }
            }
        }
    }
}

/// The gradient of an encoder's loss against differences, in a random direction of each kind of tensor.
#[test]
fn gradients_of_an_encoder_are_those_of_differences() {
    const SMALL: f64 = 1e-2;
    let config = encoder_config();
    let encoder = Encoder::new(&config, &Device::Cpu);
    let (_, original) = random_encoder(&config, 3);
    let teacher = floats(&original, &Device::Cpu).unwrap();
    let student = floats(&quantized(&original), &Device::Cpu).unwrap();
    let texts = sequences(config.vocab_size, 4, 4);
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for name in [
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.attention.self.value.bias",
        "encoder.layer.0.attention.output.LayerNorm.weight",
        "encoder.layer.1.intermediate.dense.weight",
        "encoder.layer.1.output.dense.weight",
        "encoder.layer.1.output.LayerNorm.bias",
        "embeddings.LayerNorm.weight",
    ] {
        let variable = Var::from_tensor(&student[name]).unwrap();
        let loss = |weight: Tensor| {
            let mut weights = student.clone();
            weights.insert(name.to_owned(), weight);
            encoder.loss(&teacher, &weights, &texts).unwrap().tensor
        };
        let direction: Vec<f32> = (0..variable.elem_count()).map(|_| normal(&mut rng)).collect();
        let direction = Tensor::from_vec(direction, variable.shape(), &Device::Cpu).unwrap();
        let gradients = loss(variable.as_tensor().clone()).backward().unwrap();
        let along = (gradients.get(&variable).unwrap() * &direction).unwrap().sum_all().unwrap();
        let along = f64::from(along.to_scalar::<f32>().unwrap());
        let at = |step: f64| {
            let moved = (variable.as_tensor() + (&direction * step).unwrap()).unwrap();
            f64::from(loss(moved).to_scalar::<f32>().unwrap())
        };
        let slope = (at(SMALL) - at(-SMALL)) / (2.0 * SMALL);
        assert!((slope - along).abs() < 0.03 * (0.02 + along.abs()), "{name}: {slope} {along}");
    }
}

/// What a refinement came to, the distances along the way, and what was saved last.
type Refined = (Result<Tensors, anyhow::Error>, Vec<f64>, Option<Vec<u8>>);

/// Runs a refinement of a decoder in `steps` steps.
fn refined(steps: usize, stop_at: Option<usize>, saved: Option<&[u8]>) -> Refined {
    let config = config();
    let (_, original) = random(&config, 5);
    let text = sequences(config.vocab_size, 24, 6);
    refined_on(&config.into(), &original, &text, steps, stop_at, saved)
}

/// Runs a refinement of a model with the tensors `original`.
fn refined_on(
    architecture: &Architecture,
    original: &Tensors,
    text: &[Vec<u32>],
    steps: usize,
    stop_at: Option<usize>,
    saved: Option<&[u8]>,
) -> Refined {
    let student = quantized(original);
    let course = Course { architecture, original, sequences: text, steps };
    let mut divergences = Vec::new();
    let state = RefCell::new(None);
    let save = |bytes: &[u8]| {
        state.replace(Some(bytes.to_vec()));
        Ok(())
    };
    let result = refine_model(&course, student, saved, save, |step| {
        divergences.push(step.distance);
        if Some(step.steps) == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (result, divergences, state.into_inner())
}

fn stored(tensors: &Tensors) -> BTreeMap<String, Vec<f32>> {
    let matrices = tensors.matrices.iter().map(|(name, m)| (name.clone(), m.decode()));
    matrices.chain(tensors.vectors.clone()).collect()
}

#[test]
fn the_student_comes_closer_to_the_teacher() {
    let (result, divergences, _) = refined(60, None, None);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&divergences[..3]), mean(&divergences[57..]));
    assert!(last < 0.5 * first, "{first} {last}");
    result.unwrap();
}

/// Stopping and going on, and other numbers of threads, change nothing.
#[test]
fn a_refinement_that_was_stopped_ends_alike() {
    let whole = stored(&refined(12, None, None).0.unwrap());
    let (stopped, _, state) = refined(12, Some(5), None);
    assert_eq!(stopped.unwrap_err().downcast::<Stopped>().unwrap().steps, 5);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let rest = pool.install(|| refined(12, None, state.as_deref()).0.unwrap());
    assert_eq!(stored(&rest), whole);
    let damaged = refined(12, None, Some(b"nonsense")).0.unwrap_err();
    assert_eq!(damaged.to_string(), "the saved refinement is damaged");
}

/// An encoder comes closer too, with its embeddings as they were, and ends alike when it was stopped.
#[test]
fn an_encoder_comes_closer_to_the_teacher() {
    let config = encoder_config();
    let (_, original) = random_encoder(&config, 5);
    let text = sequences(config.vocab_size, 24, 6);
    let refined = |steps, stop_at, saved: Option<&[u8]>| {
        refined_on(&config.clone().into(), &original, &text, steps, stop_at, saved)
    };
    let (result, distances, _) = refined(60, None, None);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&distances[..3]), mean(&distances[57..]));
    assert!(last < 0.5 * first, "{first} {last}");
    let before = stored(&quantized(&original));
    for (name, values) in stored(&result.unwrap()) {
        let stays = name.ends_with("_embeddings.weight");
        assert_eq!(values == before[&name], stays, "{name}");
    }
    let whole = stored(&refined(12, None, None).0.unwrap());
    let (stopped, _, state) = refined(12, Some(5), None);
    assert!(stopped.unwrap_err().is::<Stopped>());
    assert_eq!(stored(&refined(12, None, state.as_deref()).0.unwrap()), whole);
}

#[test]
fn a_layer_comes_closer_to_its_outputs() {
    let config = Config { num_hidden_layers: 1, ..config() };
    let (model, original) = random(&config, 8);
    let prefix = "model.layers.0.";
    let of_layer = |tensors: &Tensors| {
        let strip = |name: &String| name.strip_prefix(prefix).map(ToOwned::to_owned);
        Tensors {
            matrices: tensors.matrices.iter().filter_map(|(n, m)| Some((strip(n)?, m.clone()))).collect(),
            vectors: tensors.vectors.iter().filter_map(|(n, v)| Some((strip(n)?, v.clone()))).collect(),
        }
    };
    let forward = Decoder::new(&config, 20, &Device::Cpu).unwrap();
    let width = config.hidden_size;
    let output = |tensors: &Tensors, input: &[f32]| -> Vec<f32> {
        let positions = input.len() / width;
        let x = candle_core::Tensor::from_slice(input, (positions, width), &Device::Cpu).unwrap();
        let weights = floats(tensors, &Device::Cpu).unwrap();
        let y = forward.layer(&weights, "", 0, &x, &[positions]).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    };
    let inputs: Vec<Vec<f32>> = sequences(config.vocab_size, 16, 9)
        .iter()
        .map(|s| {
            let mut hidden = vec![0.0; s.len() * width];
            for (&token, hidden) in s.iter().zip(hidden.chunks_exact_mut(width)) {
                model.embed_tokens().decode_row(token as usize, hidden);
            }
            hidden
        })
        .collect();
    let (original, start) = (of_layer(&original), of_layer(&quantized(&original)));
    let targets: Vec<Vec<f32>> = inputs.iter().map(|x| output(&original, x)).collect();
    let examples: Vec<Example> =
        inputs.iter().zip(&targets).map(|(input, target)| Example { input, target }).collect();
    let error = |tensors: &Tensors| -> f64 {
        let of = |(x, y): (&Vec<f32>, &Vec<f32>)| -> f64 {
            output(tensors, x).iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        inputs.iter().zip(&targets).map(of).sum()
    };
    let refined = refine_layer(&config.clone().into(), 0, start.clone(), &examples).unwrap();
    assert!(error(&refined) < 0.6 * error(&start), "{} {}", error(&refined), error(&start));
}
