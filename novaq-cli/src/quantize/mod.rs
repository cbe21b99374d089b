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
//! - [`scalar`] is round-to-nearest and GPTQ on a uniform grid, the baseline of the benchmarks.
//!
//! Everything is a function of its arguments and a seed: work is cut into pieces of fixed size whose results are
//! added in a fixed order, so the number of threads changes nothing.

pub mod additive;
pub mod beam;
pub mod feedback;
pub mod fit;
pub mod hessian;
pub mod scalar;

/// Entries of one codebook: what a nibble can name.
pub const ENTRIES: usize = 16;

/// Rows that one task of a parallel loop works on; fixed, so that sums do not depend on the number of threads.
const ROWS_PER_TASK: usize = 32;
