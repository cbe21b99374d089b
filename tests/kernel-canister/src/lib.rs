//! A test canister: multiplies random matrices by every kernel that this target has and compares the bits.
//!
//! The comparison is a plain function, so that the same cases also run natively against AVX2. [`chain`] measures.

pub mod chain;

use std::sync::Arc;

use ic_cdk::update;
use novaq_engine::codec::{
    AqMatrix, Codebooks, CodecError, Fp8Matrix, Input, Int4Matrix, Int8Matrix, Matrix,
};
use novaq_engine::kernel::{Backend, Fold, Packing};
use novaq_engine::model::{CachePrecision, Config, RopeScaling, Variant};
use novaq_engine::synth::{Format, Synthetic};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The codebook sets of the format: number of codebooks and weights per codeword.
const SETS: [(usize, usize); 7] = [(2, 4), (4, 4), (2, 8), (3, 8), (4, 8), (6, 8), (8, 8)];

/// What a comparison covered.
#[derive(candid::CandidType, candid::Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Kernels that were compared, the reference first.
    pub backends: Vec<String>,
    /// Products compared.
    pub products: u32,
    /// A hash of all results, to compare targets with each other.
    pub fingerprint: u64,
}

struct Random(ChaCha8Rng);

impl Random {
    /// Uniform in `low..=high`.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.0.next_u32() as usize) % (high - low + 1)
    }

    /// Uniform in -1..1.
    fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn units(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }

    fn matrix(&mut self) -> Result<Matrix, CodecError> {
        let which = self.between(0, SETS.len() + 2);
        let rows = self.between(1, 300);
        let Some(&(count, dimension)) = SETS.get(which) else {
            let columns = self.between(1, 1_200);
            let weights = self.units(rows * columns);
            return match which - SETS.len() {
                0 => Int8Matrix::quantize(rows, columns, &weights).map(Matrix::Int8),
                1 => Int4Matrix::quantize(rows, columns, &weights).map(Matrix::Int4),
                _ => Fp8Matrix::quantize(rows, columns, &weights).map(Matrix::Fp8),
            };
        };
        let columns = self.between(1, 320);
        let codewords = self.units(count * 16 * dimension);
        let fold = Fold::ALL[self.between(0, Fold::ALL.len() - 1)];
        let set = Arc::new(Codebooks::quantize(count, dimension, &codewords)?.with_fold(fold));
        let codes: Vec<u8> =
            (0..rows * set.groups(columns) * count).map(|_| (self.0.next_u32() >> 28) as u8).collect();
        let scales = self.units(rows);
        let means = (self.between(0, 1) == 1).then(|| self.units(rows));
        let packing = Packing::ALL[self.between(0, 1)];
        AqMatrix::from_codes(rows, columns, set, &codes, &scales, means.as_deref())
            .map(|matrix| Matrix::Aq(matrix.packed(packing)))
    }
}

/// Multiplies `products` random matrices by random inputs with every kernel, and runs a random model for every fourth.
///
/// # Errors
/// The first product whose bits differ, or a matrix that the engine refuses.
pub fn compare(seed: u64, products: u32) -> Result<Report, String> {
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let backends = Backend::available();
    let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
    for product in 0..products {
        let matrix = random.matrix().map_err(|error| format!("product {product}: {error}"))?;
        // Up to what lies side by side at most, with some of each smaller number.
        let positions = random.between(1, 26);
        // Inputs of very different size, exact zeros included: where rounding and empty ranges are decided.
        let size = 10f32.powi(random.between(0, 8) as i32 - 4);
        let values: Vec<f32> = random.units(positions * matrix.columns()).iter().map(|x| x * size).collect();
        let values: Vec<f32> = if random.between(0, 9) == 0 { vec![0.0; values.len()] } else { values };
        let mut reference: Option<Vec<u32>> = None;
        for &backend in &backends {
            let mut input = Input::default();
            input.reset(positions, matrix.columns()).copy_from_slice(&values);
            let mut output = vec![0.0; positions * matrix.rows()];
            matrix.multiply(backend, &mut input, &mut output);
            let bits: Vec<u32> = output.iter().map(|x| x.to_bits()).collect();
            let expected = reference.get_or_insert_with(|| bits.clone());
            if let Some(at) = bits.iter().zip(expected.iter()).position(|(a, b)| a != b) {
                return Err(format!(
                    "product {product} ({} × {}, {positions} positions): {backend:?} differs at {at}",
                    matrix.rows(),
                    matrix.columns()
                ));
            }
        }
        add_bits(&mut fingerprint, &reference.unwrap_or_default());
        if product.is_multiple_of(4) {
            compare_model(&mut random, &mut fingerprint)?;
        }
    }
    let backends = backends.iter().map(|backend| format!("{backend:?}")).collect();
    Ok(Report { backends, products, fingerprint })
}

/// FNV-1a over words.
fn add_bits(fingerprint: &mut u64, bits: &[u32]) {
    for &bits in bits {
        *fingerprint = (*fingerprint ^ u64::from(bits)).wrapping_mul(0x0100_0000_01b3);
    }
}

/// Adds the logits of a random model to `fingerprint`, which may attend over a window: with every kernel and in passes of several
/// lengths they have to be the same.
fn compare_model(random: &mut Random, fingerprint: &mut u64) -> Result<(), String> {
    let head_dim = [4, 8, 32, 36, 64, 96, 132][random.between(0, 6)];
    let num_key_value_heads = random.between(1, 2);
    let num_attention_heads = num_key_value_heads * random.between(1, 8);
    let sliding_window = (random.between(0, 1) == 1).then(|| random.between(1, 40));
    let config = Config {
        vocab_size: 40,
        hidden_size: 24,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        variant: Variant { sliding_window, ..Variant::default() },
    };
    let body = Format::Aq { codebooks: 4, dimension: 8, fold: Fold::ALL[random.between(0, 3)] };
    let seed = random.0.next_u64();
    let synthetic = Synthetic { config, body, embedding: Format::Int8, seed, tokenizer: Vec::new() };
    let mut model = synthetic.model().map_err(|error| error.to_string())?;
    let tokens: Vec<u32> = (0..random.between(20, 60)).map(|_| random.between(0, 39) as u32).collect();
    let mut reference: Option<Vec<u32>> = None;
    for backend in Backend::available() {
        model = model.with_backend(backend);
        for chunk in [1, 3, 16, tokens.len()] {
            let logits = model.forward(&tokens, CachePrecision::Int8, chunk, None);
            let logits = logits.map_err(|error| error.to_string())?;
            let bits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
            if *reference.get_or_insert_with(|| bits.clone()) != bits {
                return Err(format!("a model with {head_dim} a head: {backend:?} differs at {chunk} a pass"));
            }
        }
    }
    add_bits(fingerprint, &reference.unwrap_or_default());
    Ok(())
}

#[update(name = "compare")]
fn compare_in_canister(seed: u64, products: u32) -> Result<Report, String> {
    compare(seed, products)
}
