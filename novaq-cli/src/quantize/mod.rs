//! The mathematics of quantization, free of files and models: plain matrices in, codes out.
//!
//! A weight matrix `W [n, k]` is cut into vectors of `d` weights along its rows. Each vector becomes the sum of `M`
//! codewords, one from each of `M` codebooks of 16 entries, times the scale of its row. What is minimised is the
//! error of the layer's output, `tr (W - Ŵ) H (W - Ŵ)ᵀ` with `H = E[x xᵀ]` over calibration inputs:
//!
//! - [`beam`] chooses the `M` codewords of one vector together, in the metric of its diagonal block;
//! - [`feedback`] walks over the column groups and lets each group make up for the errors of those before it
//!   (the block form of GPTQ, <https://arxiv.org/abs/2210.17323>, called LDLQ in <https://arxiv.org/abs/2307.13304>),
//!   then revisits every group with all others fixed;
//! - [`fit`] solves for the codewords and the row scales by least squares with the codes fixed;
//! - [`additive`] alternates the three;
//! - [`low_rank`] is for less than one bit: two factors of signs;
//! - [`scalar`] is round-to-nearest and GPTQ on a uniform grid, the baseline of the benchmarks.
//!
//! Everything is a function of its arguments and a seed: work is cut into pieces of fixed size whose results are
//! added in a fixed order, so the number of threads changes nothing.

pub mod additive;
pub mod beam;
pub mod feedback;
pub mod fit;
pub mod hessian;
pub mod low_rank;
pub mod scalar;

/// Entries of one codebook: what a nibble can name.
pub const ENTRIES: usize = 16;

/// Rows that one task of a parallel loop works on; fixed, so that sums do not depend on the number of threads.
pub(crate) const ROWS_PER_TASK: usize = 32;

#[cfg(test)]
mod testing {
    //! Matrices for the tests of this module.

    use ndarray::Array2;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::additive::normal;
    use super::hessian::{damped, mean_product};

    /// Independent standard normal values.
    pub fn gaussian(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((rows, columns), || normal(&mut rng))
    }

    /// Second moments of inputs of which each column takes most from the one before it.
    pub fn correlated_hessian(columns: usize, seed: u64) -> Array2<f32> {
        let mut x = gaussian(4 * columns, columns, seed);
        for mut row in x.rows_mut() {
            for j in 1..columns {
                row[j] = 0.9 * row[j - 1] + 0.4 * row[j];
            }
        }
        damped(mean_product(x.view(), x.view()), 0.01)
    }

    /// `tr (W - Ŵ) H (W - Ŵ)ᵀ`.
    pub fn output_error(w: &Array2<f32>, quantized: &Array2<f32>, h: &Array2<f32>) -> f64 {
        let e = w - quantized;
        e.dot(h).iter().zip(&e).map(|(a, b)| f64::from(a * b)).sum()
    }
}
