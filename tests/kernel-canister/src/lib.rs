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

/// Multiplies `products` random matrices by random inputs with every kernel.
///
/// # Errors
/// The first product whose bits differ, or a matrix that the engine refuses.
pub fn compare(seed: u64, products: u32) -> Result<Report, String> {
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let backends = Backend::available();
    let mut fingerprint = 0xcbf2_9ce4_8422_2325_u64;
    for product in 0..products {
        let matrix = random.matrix().map_err(|error| format!("product {product}: {error}"))?;
        let positions = random.between(1, 13);
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
        for bits in reference.unwrap_or_default() {
            // FNV-1a over the words.
            fingerprint = (fingerprint ^ u64::from(bits)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    let backends = backends.iter().map(|backend| format!("{backend:?}")).collect();
    Ok(Report { backends, products, fingerprint })
}

#[update(name = "compare")]
fn compare_in_canister(seed: u64, products: u32) -> Result<Report, String> {
    compare(seed, products)
}
