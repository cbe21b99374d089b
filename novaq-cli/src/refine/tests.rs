//! The refinement of small random models.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::Device;
use ndarray::Array2;
use novaq_engine::codec::{AqMatrix, Codebooks, DenseMatrix, Matrix};
use novaq_engine::model::{
    Activation, CachePrecision, Config, LayerType, Model, ModelError, RopeScaling, TensorSource, Variant,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::blocks::Example;
use super::forward::Forward;
use super::student::floats;
use super::{Course, Stopped, refine_layer, refine_model};
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

/// Random tensors for `config`'s model.
struct Random<'a> {
    rng: ChaCha8Rng,
    config: &'a Config,
    tensors: Tensors,
}

impl TensorSource for Random<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let c = self.config;
        let part = name.rsplit('.').nth(1).unwrap();
        let (rows, columns) = match part {
            "q_proj" => (c.query_width(), c.hidden_size),
            "k_proj" | "v_proj" => (c.key_value_width(), c.hidden_size),
            "o_proj" => (c.hidden_size, c.query_width()),
            "gate_proj" | "up_proj" => (c.intermediate_size, c.hidden_size),
            "down_proj" => (c.hidden_size, c.intermediate_size),
            _ => (c.vocab_size, c.hidden_size),
        };
        // Outlying rows, as real models have them, and logits that say something.
        let size = if part == "lm_head" { 3.0 } else { 1.0 } / (columns as f32).sqrt();
        let values = (0..rows * columns)
            .map(|i| normal(&mut self.rng) * size * if i / columns % 7 == 0 { 2.0 } else { 1.0 })
            .collect();
        let matrix = Matrix::Dense(DenseMatrix::new(rows, columns, values).unwrap());
        self.tensors.matrices.insert(name.to_owned(), matrix.clone());
        Ok(Some(matrix))
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let c = self.config;
        let len = match name.rsplit('.').nth(1).unwrap() {
            "q_proj" => c.query_width(),
            "k_proj" | "v_proj" => c.key_value_width(),
            "q_norm" | "k_norm" => c.head_dim,
            _ => c.hidden_size,
        };
        let around = if name.rsplit('.').next() == Some("bias") { 0.0 } else { 1.0 };
        let vector: Vec<f32> = (0..len).map(|_| around + self.rng.random_range(-0.3..0.3)).collect();
        self.tensors.vectors.insert(name.to_owned(), vector.clone());
        Ok(Some(vector))
    }
}

fn random(config: &Config, seed: u64) -> (Model, Tensors) {
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let mut source = Random { rng, config, tensors: Tensors::default() };
    let model = Model::load(config.clone(), &mut source).unwrap();
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

fn sequences(config: &Config, count: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sequence =
        |_| (0..rng.random_range(5..20)).map(|_| rng.random_range(0..config.vocab_size as u32)).collect();
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
        let sequences = sequences(&config, 3, 2);
        let parts: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let forward = Forward::new(&config, 20, &Device::Cpu).unwrap();
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

/// Runs a refinement of `steps` steps and returns the divergences along the way.
fn refined(
    steps: usize,
    stop_at: Option<usize>,
    saved: Option<&[u8]>,
) -> (Result<Tensors, anyhow::Error>, Vec<f64>, Option<Vec<u8>>) {
    let config = config();
    let (_, original) = random(&config, 5);
    let student = quantized(&original);
    let text = sequences(&config, 24, 6);
    let course = Course { config: &config, original: &original, sequences: &text, steps };
    let mut divergences = Vec::new();
    let state = RefCell::new(None);
    let save = |bytes: &[u8]| {
        state.replace(Some(bytes.to_vec()));
        Ok(())
    };
    let result = refine_model(&course, student, saved, save, |step| {
        divergences.push(step.divergence);
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
    let forward = Forward::new(&config, 20, &Device::Cpu).unwrap();
    let width = config.hidden_size;
    let output = |tensors: &Tensors, input: &[f32]| -> Vec<f32> {
        let positions = input.len() / width;
        let x = candle_core::Tensor::from_slice(input, (positions, width), &Device::Cpu).unwrap();
        let weights = floats(tensors, &Device::Cpu).unwrap();
        let y = forward.layer(&weights, "", 0, &x, &[positions]).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    };
    let inputs: Vec<Vec<f32>> = sequences(&config, 16, 9)
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
    let refined = refine_layer(&config, 0, start.clone(), &examples).unwrap();
    assert!(error(&refined) < 0.6 * error(&start), "{} {}", error(&refined), error(&start));
}
