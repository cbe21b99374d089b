//! Quantizing the matrices that read one input, on captured activations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use half::f16;
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use novaq_engine::codec::{
    AqMatrix, Codebooks, CodecError, DenseMatrix, Fp8Matrix, Int4Matrix, Int8Matrix, LowRankMatrix, Matrix,
};
use rayon::prelude::*;

use super::job::Unit;
use super::plan::{Additive, MatrixCodec};
use crate::layered::{Captured, Tensors};
use crate::quantize::additive::{Effort, Quantized, gaussian_codebooks, quantize};
use crate::quantize::beam;
use crate::quantize::hessian::{NotPositiveDefinite, corrected, damped, mean_product};
use crate::quantize::low_rank::{self, LowRank, Metric, Signs};

/// Damping of the Hessian, as a share of its mean diagonal: of the one that codes are chosen by.
pub(super) const DAMPING: f32 = 0.01;

/// The same for the correction of the targets, which would otherwise follow noise in rare directions.
const CORRECTION_DAMPING: f32 = 0.05;

/// Rounds in which the starting codebooks are trained.
pub(super) const START_ROUNDS: usize = 10;

/// Why matrices can't be quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The calibration inputs are not numbers.
    #[error(transparent)]
    Hessian(#[from] NotPositiveDefinite),
    /// The result does not fit the codec.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Starting codebooks by codec, trained once.
#[derive(Default)]
pub(super) struct Starts(BTreeMap<Additive, beam::Codebooks>);

impl Starts {
    fn get(&mut self, codec: Additive, seed: u64) -> &beam::Codebooks {
        self.0.entry(codec).or_insert_with(|| gaussian_codebooks(codec.books, codec.dim, START_ROUNDS, seed))
    }
}

/// What every call needs.
pub(super) struct Quantizer {
    pub(super) starts: Starts,
    pub(super) effort: Effort,
    pub(super) seed: u64,
}

/// A codec that is fitted to what a matrix does with its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitted {
    /// Additive codes.
    Aq(Additive),
    /// Two factors of signs.
    LowRank {
        /// Columns of the one, rows of the other.
        rank: usize,
    },
}

/// Matrices that read one input, quantized together; additive codes share a codebook set.
pub(super) struct Shared {
    /// In the order in which they were given.
    pub(super) matrices: Vec<Matrix>,
    /// Squared error of the output relative to the output, on the calibration inputs.
    pub(super) relative_error: f64,
}

impl Shared {
    /// Adds all to `tensors` under `names`.
    pub(super) fn store(self, names: &[&str], tensors: &mut Tensors) {
        tensors.matrices.extend(names.iter().map(|&name| name.to_owned()).zip(self.matrices));
    }
}

/// What matrices of a layer read.
pub(super) struct Read {
    /// In the original.
    pub(super) original: Captured,
    /// In the model quantized so far.
    pub(super) quantized: Captured,
    /// Whether their output is added to the residual stream; then what the stream lacks by now is made up for too.
    pub(super) adds_to_residual: bool,
}

impl Quantizer {
    /// Adds the matrices `names`, which share `codec` and have `weights`, to `unit`. What their names lack is `prefix`.
    ///
    /// # Errors
    /// If the inputs are not numbers, or the weights do not fit the codec.
    pub(super) fn group(
        &mut self,
        unit: &mut Unit,
        codec: MatrixCodec,
        prefix: &str,
        names: &[&str],
        weights: &[Array2<f32>],
        read: &Read,
    ) -> anyhow::Result<()> {
        let Some(fitted) = codec.fitted() else {
            for (name, weights) in names.iter().zip(weights) {
                let matrix = rounded(codec, &format!("{prefix}{name}"), weights)?;
                unit.tensors.matrices.extend(matrix.map(|matrix| ((*name).to_owned(), matrix)));
            }
            return Ok(());
        };
        let began = Instant::now();
        let row_weights = vec![1.0; weights.iter().map(Array2::nrows).sum()];
        let shared = self
            .layer(fitted, weights, read, &row_weights)
            .with_context(|| format!("{prefix}{}", names.join(", ")))?;
        let error = shared.relative_error;
        tracing::debug!(prefix, input = names[0], error, "quantized");
        shared.store(names, &mut unit.tensors);
        unit.record(names, error, began);
        Ok(())
    }

    /// Quantizes `weights`, each `[n, k]`. `row_weights` says how much each row counts when the codebooks are fitted.
    pub(super) fn layer(
        &mut self,
        codec: Fitted,
        weights: &[Array2<f32>],
        Read { original, quantized, adds_to_residual }: &Read,
        row_weights: &[f32],
    ) -> Result<Shared, QuantizeError> {
        let w = stacked(weights);
        let (x, y) = (&original.inputs, &quantized.inputs);
        let h = mean_product(y.view(), y.view());
        let difference = mean_product((x - y).view(), y.view());
        let residual = adds_to_residual
            .then(|| mean_product((&original.residual - &quantized.residual).view(), y.view()));
        let target = corrected(
            w.view(),
            damped(h.clone(), CORRECTION_DAMPING).view(),
            difference.view(),
            residual.as_ref().map(ArrayView2::from),
        )?;
        let shapes: Vec<(usize, usize)> = weights.iter().map(Array2::dim).collect();
        self.shared(codec, &shapes, target.view(), damped(h, DAMPING).view(), row_weights)
    }

    /// Quantizes an embedding or a head `[vocab_size, k]` in the metric `h`; the codebooks fit rows by how often their
    /// tokens occur.
    pub(super) fn embedding(
        &mut self,
        codec: Fitted,
        weights: ArrayView2<f32>,
        h: ArrayView2<f32>,
        frequencies: &[f32],
    ) -> Result<Shared, QuantizeError> {
        self.shared(codec, &[weights.dim()], weights, h, frequencies)
    }

    /// The matrices of `shapes` that stand one below the other in `target`.
    fn shared(
        &mut self,
        codec: Fitted,
        shapes: &[(usize, usize)],
        target: ArrayView2<f32>,
        h: ArrayView2<f32>,
        row_weights: &[f32],
    ) -> Result<Shared, QuantizeError> {
        match codec {
            Fitted::Aq(codec) => self.additive(codec, shapes, target, h, row_weights),
            Fitted::LowRank { rank } => self.low_rank(rank, shapes, target, h),
        }
    }

    fn low_rank(
        &self,
        rank: usize,
        shapes: &[(usize, usize)],
        target: ArrayView2<f32>,
        h: ArrayView2<f32>,
    ) -> Result<Shared, QuantizeError> {
        let signs = Arc::new(Codebooks::signs());
        let factor = |m: &Signs| {
            let scales: Vec<f32> = m.scales.iter().map(|s| s.to_f32()).collect();
            AqMatrix::from_codes(m.rows, m.columns, Arc::clone(&signs), &m.codes, &scales, None)
        };
        let metric = Metric::new(h)?;
        let mut below = target;
        let parts: Vec<ArrayView2<f32>> = shapes
            .iter()
            .map(|&(rows, _)| {
                let (part, rest) = below.split_at(Axis(0), rows);
                below = rest;
                part
            })
            .collect();
        let results: Vec<LowRank> =
            parts.into_par_iter().map(|part| low_rank::quantize(part, &metric, rank, self.seed)).collect();
        let mut shared = Shared { matrices: Vec::new(), relative_error: 0.0 };
        for result in results {
            let matrix = LowRankMatrix::new(factor(&result.first)?, factor(&result.second)?)?;
            shared.matrices.push(Matrix::LowRank(matrix));
            shared.relative_error += result.relative_error / shapes.len() as f64;
        }
        Ok(shared)
    }

    fn additive(
        &mut self,
        codec: Additive,
        shapes: &[(usize, usize)],
        target: ArrayView2<f32>,
        h: ArrayView2<f32>,
        row_weights: &[f32],
    ) -> Result<Shared, QuantizeError> {
        let start = self.starts.get(codec, self.seed);
        let result = quantize(target, h, row_weights, start, self.effort)?;
        let codebooks = Arc::new(Codebooks::new(
            codec.books,
            codec.dim,
            result.codebook_scale,
            result.codewords.clone(),
        )?);
        let mut matrices = Vec::new();
        let mut first = 0;
        for &shape in shapes {
            matrices.push(Matrix::Aq(rows_of(&result, first, shape, &codebooks)?));
            first += shape.0;
        }
        Ok(Shared { matrices, relative_error: result.relative_error })
    }
}

/// The rows of `result` from `first` on as a matrix of `shape` for the engine.
fn rows_of(
    result: &Quantized,
    first: usize,
    (rows, columns): (usize, usize),
    codebooks: &Arc<Codebooks>,
) -> Result<AqMatrix, CodecError> {
    let per_row = codebooks.groups(columns) * result.books;
    let codes = &result.codes[first * per_row..(first + rows) * per_row];
    let scales: Vec<f32> = result.row_scales[first..first + rows].iter().map(|s| s.to_f32()).collect();
    AqMatrix::from_codes(rows, columns, Arc::clone(codebooks), codes, &scales, None)
}

/// The matrix `name` in a codec that rounds value by value; `None` for those that are fitted.
pub(super) fn rounded(
    codec: MatrixCodec,
    name: &str,
    weights: &Array2<f32>,
) -> anyhow::Result<Option<Matrix>> {
    let (rows, columns) = weights.dim();
    let values: Vec<f32> = weights.iter().copied().collect();
    let matrix = match codec {
        MatrixCodec::Aq(_) | MatrixCodec::LowRank { .. } => return Ok(None),
        MatrixCodec::F16 => return half(name, weights).map(Some),
        MatrixCodec::Int4 => Int4Matrix::quantize(rows, columns, &values).map(Matrix::Int4),
        MatrixCodec::Int8 => Int8Matrix::quantize(rows, columns, &values).map(Matrix::Int8),
        MatrixCodec::Fp8 => Fp8Matrix::quantize(rows, columns, &values).map(Matrix::Fp8),
    };
    matrix.map(Some).with_context(|| format!("`{name}` does not fit the codec {codec}"))
}

/// The matrix `name` rounded to 16-bit floats.
fn half(name: &str, weights: &Array2<f32>) -> anyhow::Result<Matrix> {
    let (rows, columns) = weights.dim();
    let rounded: Vec<f32> = weights.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
    if rounded.iter().any(|v| !v.is_finite()) {
        anyhow::bail!("`{name}` holds a value beyond the range of 16-bit floats");
    }
    Ok(Matrix::Dense(DenseMatrix::new(rows, columns, rounded)?))
}

/// The values of a matrix that was rounded to 16-bit floats, row-major.
pub(super) fn half_bytes(matrix: &DenseMatrix) -> Vec<u8> {
    let values = (0..matrix.rows()).flat_map(|r| matrix.row(r));
    values.flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
}

/// All rows of `weights`, one matrix below the other.
pub(super) fn stacked(weights: &[Array2<f32>]) -> Array2<f32> {
    let views: Vec<_> = weights.iter().map(Array2::view).collect();
    concatenate(Axis(0), &views).expect("matrices that read one input have as many columns")
}
