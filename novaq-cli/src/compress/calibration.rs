//! Activations: the calibration text on its way through the original and the quantized model, layer by layer.
//!
//! The engine's own forward pass runs, one layer at a time, over residual streams that are kept between layers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ndarray::Array2;
use novaq_engine::codec::{DenseMatrix, Matrix};
use novaq_engine::model::{
    Budget, CachePrecision, Config, KvCache, LinearInput, LogitsFor, Model, ModelError, Observer,
    TensorSource, embed,
};
use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, CheckpointError, dense, layer_name};

/// The linear inputs of a layer, in the order of [`Checkpoint::LAYER_MATRICES`].
pub(super) const LAYER_INPUTS: [LinearInput; 4] =
    [LinearInput::Qkv, LinearInput::O, LinearInput::GateUp, LinearInput::Down];

/// What a linear layer reads and the residual stream beside it, over all positions of all sequences.
pub(super) struct Captured {
    /// `[positions, width]`.
    pub(super) inputs: Array2<f32>,
    /// `[positions, hidden_size]`.
    pub(super) residual: Array2<f32>,
}

impl Captured {
    /// Inputs of a layer whose output is not added to the residual stream.
    pub(super) fn inputs(inputs: Array2<f32>) -> Self {
        Self { inputs, residual: Array2::zeros((0, 0)) }
    }
}

/// What the head of `model` reads, `[positions, hidden_size]`.
pub(super) fn head_inputs(model: &Model, sequences: &[Vec<u32>]) -> Result<Array2<f32>, ModelError> {
    let parts: Vec<Wanted> = sequences
        .par_iter()
        .map(|tokens| {
            let mut wanted = Wanted { which: Some(LinearInput::Head), seen: Vec::new() };
            let mut cache = KvCache::new(model.config(), CachePrecision::F32, tokens.len())?;
            let mut pass = model.begin(&mut cache, tokens, LogitsFor::All, None)?;
            model.advance(&mut pass, &mut cache, &mut Budget::unlimited(), Some(&mut wanted));
            Ok(wanted)
        })
        .collect::<Result<_, ModelError>>()?;
    Ok(join(parts.into_iter().flat_map(|wanted| wanted.seen), model.config().hidden_size).inputs)
}

/// The residual streams of all sequences, each `[positions, hidden_size]`.
#[derive(Clone)]
pub(super) struct Streams(Vec<Vec<f32>>);

impl Streams {
    /// The streams before the first layer.
    pub(super) fn embed(config: &Config, sequences: &[Vec<u32>], embedding: &Matrix) -> Self {
        let width = embedding.columns();
        let of_sequence = |tokens: &Vec<u32>| {
            let mut hidden = vec![0.0; tokens.len() * width];
            for (&token, hidden) in tokens.iter().zip(hidden.chunks_exact_mut(width)) {
                embed(config, embedding, token, hidden);
            }
            hidden
        };
        Self(sequences.par_iter().map(of_sequence).collect())
    }

    /// Runs the one-layer `model` up to the linear layers that read `which` and returns what they read.
    pub(super) fn capture(&self, model: &Model, which: LinearInput) -> Result<Captured, ModelError> {
        let parts = self.each(model, || Wanted { which: Some(which), seen: Vec::new() })?;
        Ok(join(parts.into_iter().flat_map(|(wanted, _)| wanted.seen), model.config().hidden_size))
    }

    /// Runs the one-layer `model` to its end and returns what the linear layers read, by [`LAYER_INPUTS`].
    pub(super) fn capture_and_advance(&mut self, model: &Model) -> Result<[Captured; 4], ModelError> {
        let parts = self.each(model, || Wanted { which: None, seen: Vec::new() })?;
        let mut seen: [Vec<(Vec<f32>, Vec<f32>)>; 4] = Default::default();
        for (stream, (wanted, hidden)) in self.0.iter_mut().zip(parts) {
            *stream = hidden;
            for (seen, captured) in seen.iter_mut().zip(wanted.seen) {
                seen.push(captured);
            }
        }
        Ok(seen.map(|parts| join(parts.into_iter(), model.config().hidden_size)))
    }

    /// Runs the one-layer `model` to its end.
    pub(super) fn advance(&mut self, model: &Model) -> Result<(), ModelError> {
        let parts = self.each(model, || Ignore)?;
        self.0 = parts.into_iter().map(|(_, hidden)| hidden).collect();
        Ok(())
    }

    /// Runs every stream through `model` with an observer of its own; returns the observers and the streams.
    fn each<O: Observer + Send>(
        &self,
        model: &Model,
        observer: impl Fn() -> O + Sync,
    ) -> Result<Vec<(O, Vec<f32>)>, ModelError> {
        let width = model.config().hidden_size;
        self.0
            .par_iter()
            .map(|hidden| {
                let mut observer = observer();
                let mut cache = KvCache::new(model.config(), CachePrecision::F32, hidden.len() / width)?;
                let mut pass = model.begin_with_hidden(&mut cache, hidden, LogitsFor::None, None)?;
                model.advance(&mut pass, &mut cache, &mut Budget::unlimited(), Some(&mut observer));
                Ok((observer, pass.hidden().to_vec()))
            })
            .collect()
    }
}

/// Puts the parts of all sequences one below the other.
fn join(parts: impl Iterator<Item = (Vec<f32>, Vec<f32>)>, hidden_size: usize) -> Captured {
    let (mut inputs, mut residual) = (Vec::new(), Vec::new());
    for (x, r) in parts {
        inputs.extend(x);
        residual.extend(r);
    }
    let positions = residual.len() / hidden_size;
    let matrix = |values: Vec<f32>| {
        let width = values.len() / positions.max(1);
        Array2::from_shape_vec((positions, width), values).expect("whole positions")
    };
    Captured { inputs: matrix(inputs), residual: matrix(residual) }
}

/// Keeps the inputs of one kind and stops there, or those of all kinds.
struct Wanted {
    which: Option<LinearInput>,
    seen: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Observer for Wanted {
    fn linear_input(
        &mut self,
        _: usize,
        which: LinearInput,
        inputs: &[f32],
        residual: &[f32],
    ) -> ControlFlow<()> {
        if self.which.is_none_or(|wanted| wanted == which) {
            self.seen.push((inputs.to_vec(), residual.to_vec()));
        }
        if self.which == Some(which) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Lets everything pass.
struct Ignore;

impl Observer for Ignore {
    fn linear_input(&mut self, _: usize, _: LinearInput, _: &[f32], _: &[f32]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Layer `layer` as a model of its own: the checkpoint's weights, or those in `replaced` by their name without the
/// layer's prefix. It is fed residual streams, so its vocabulary is a single token that nobody uses.
pub(super) fn layer_model(
    checkpoint: &Checkpoint,
    layer: usize,
    replaced: &BTreeMap<String, Matrix>,
) -> Result<Model, CheckpointError> {
    let config = Config {
        vocab_size: 1,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        ..checkpoint.config().single_layer(layer)
    };
    let mut source = LayerTensors { checkpoint, layer, replaced, error: None };
    Model::load(config, &mut source).map_err(|e| source.error.take().unwrap_or(e.into()))
}

/// The tensors of a one-layer model.
struct LayerTensors<'a> {
    checkpoint: &'a Checkpoint,
    layer: usize,
    replaced: &'a BTreeMap<String, Matrix>,
    error: Option<CheckpointError>,
}

impl LayerTensors<'_> {
    fn original(&self, name: &str) -> String {
        match name.strip_prefix("model.layers.0.") {
            Some(rest) => layer_name(self.layer, rest),
            None => name.to_owned(),
        }
    }
}

impl TensorSource for LayerTensors<'_> {
    fn matrix(&mut self, name: &str) -> Result<Option<Matrix>, ModelError> {
        let fail = |source| ModelError::Tensor { name: name.to_owned(), source };
        let Some(short) = name.strip_prefix("model.layers.0.") else {
            let width = self.checkpoint.config().hidden_size;
            return Ok(Some(Matrix::Dense(DenseMatrix::new(1, width, vec![0.0; width]).map_err(fail)?)));
        };
        if let Some(matrix) = self.replaced.get(short) {
            return Ok(Some(matrix.clone()));
        }
        match self.checkpoint.matrix(&self.original(name)) {
            Ok(matrix) => Ok(Some(dense(&matrix).map_err(fail)?)),
            Err(error) => {
                self.error = Some(error);
                Ok(None)
            }
        }
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        match self.checkpoint.vector(&self.original(name)) {
            Ok(vector) => Ok(Some(vector)),
            Err(error) => {
                self.error = Some(error);
                Ok(None)
            }
        }
    }
}
