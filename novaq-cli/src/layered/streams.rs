//! Residual streams: a text on its way through a model, layer by layer.
//!
//! The engine's own forward pass runs, one layer at a time, over residual streams that are kept between layers.

use std::ops::ControlFlow;

use ndarray::Array2;
use novaq_engine::model::{
    Budget, CachePrecision, LinearInput, LogitsFor, Model, ModelError, Observer, Pass,
};
use rayon::prelude::*;

/// The linear inputs of a layer, in the order of [`crate::checkpoint::Checkpoint::LAYER_MATRICES`].
pub const LAYER_INPUTS: [LinearInput; 4] =
    [LinearInput::Qkv, LinearInput::O, LinearInput::GateUp, LinearInput::Down];

/// What a linear layer reads and the residual stream beside it, over all positions of all sequences.
pub struct Captured {
    /// `[positions, width]`.
    pub inputs: Array2<f32>,
    /// `[positions, hidden_size]`; nothing where the layer's output is not added to the residual stream.
    pub residual: Array2<f32>,
}

/// The residual streams of all sequences, each `[positions, hidden_size]`.
#[derive(Clone)]
pub struct Streams(Vec<Vec<f32>>);

impl Streams {
    /// The streams before the first layer of the model that `embedding` is a part of.
    ///
    /// # Errors
    /// If a token is outside the vocabulary or a sequence is longer than the context window.
    pub fn embed(sequences: &[impl AsRef<[u32]> + Sync], embedding: &Model) -> Result<Self, ModelError> {
        let embed = |tokens: &_| -> Result<Vec<f32>, ModelError> {
            let tokens = AsRef::<[u32]>::as_ref(tokens);
            let mut cache = embedding.cache(CachePrecision::F32, tokens.len())?;
            Ok(embedding.begin(&mut cache, tokens, LogitsFor::None, None)?.hidden().to_vec())
        };
        Ok(Self(sequences.par_iter().map(embed).collect::<Result<_, _>>()?))
    }

    /// The stream of the first sequence.
    #[cfg(test)]
    pub fn first(&self) -> Option<&[f32]> {
        self.0.first().map(Vec::as_slice)
    }

    /// The streams of `parts`, one part after the other.
    pub fn joined(parts: Vec<Self>) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }

    /// Parts of `count` streams each, and of what is left in the last.
    pub fn split(self, count: usize) -> Vec<Self> {
        let mut streams = self.0.into_iter().peekable();
        let mut parts = Vec::new();
        while streams.peek().is_some() {
            parts.push(Self(streams.by_ref().take(count.max(1)).collect()));
        }
        parts
    }

    /// Stream after stream.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Stream after stream, in parallel.
    pub fn par_iter(&self) -> impl IndexedParallelIterator<Item = &[f32]> {
        self.0.par_iter().map(Vec::as_slice)
    }

    /// Runs the layers of `model` up to the linear layers that read `which` and returns what they read. With
    /// [`LinearInput::Head`], what the head of a part without layers reads.
    ///
    /// # Errors
    /// If the streams are not this model's.
    pub fn capture(&self, model: &Model, which: LinearInput) -> Result<Captured, ModelError> {
        let capture = |hidden: &Vec<f32>| -> Result<_, ModelError> {
            let mut wanted = Wanted { which: Some(which), seen: Vec::new() };
            let logits_for = if which == LinearInput::Head { LogitsFor::All } else { LogitsFor::None };
            run(model, CachePrecision::F32, hidden, logits_for, &mut wanted)?;
            Ok(wanted.seen)
        };
        let parts: Vec<_> = self.0.par_iter().map(capture).collect::<Result<_, ModelError>>()?;
        Ok(join(parts.into_iter().flatten(), self.values(), model.config().hidden_size))
    }

    /// Runs the one-layer `model` to its end and returns what the linear layers read, by [`LAYER_INPUTS`].
    ///
    /// # Errors
    /// If the streams are not this model's.
    pub fn capture_and_advance(&mut self, model: &Model) -> Result<[Captured; 4], ModelError> {
        let capture = |hidden: &mut Vec<f32>| -> Result<_, ModelError> {
            let mut wanted = Wanted { which: None, seen: Vec::new() };
            let pass = run(model, CachePrecision::F32, hidden, LogitsFor::None, &mut wanted)?;
            hidden.copy_from_slice(pass.hidden());
            Ok(wanted.seen)
        };
        let parts: Vec<_> = self.0.par_iter_mut().map(capture).collect::<Result<_, ModelError>>()?;
        let mut seen: [Vec<Seen>; 4] = Default::default();
        for captured in parts {
            seen.iter_mut().zip(captured).for_each(|(seen, captured)| seen.push(captured));
        }
        let (values, width) = (self.values(), model.config().hidden_size);
        Ok(seen.map(|parts| join(parts.into_iter(), values, width)))
    }

    /// Runs the layers of `model` to their end.
    ///
    /// # Errors
    /// If the streams are not this model's.
    pub fn advance(&mut self, model: &Model, precision: CachePrecision) -> Result<(), ModelError> {
        self.0.par_iter_mut().try_for_each(|hidden| {
            let pass = run(model, precision, hidden, LogitsFor::None, &mut Ignore)?;
            hidden.copy_from_slice(pass.hidden());
            Ok(())
        })
    }

    /// Values of the first stream and of all.
    fn values(&self) -> [usize; 2] {
        [self.0.first().map_or(0, Vec::len), self.0.iter().map(Vec::len).sum()]
    }
}

/// Puts the parts of all sequences, the first of whose streams has `share` values of `all`, one below the other; each is
/// dropped once it is copied.
pub(crate) fn join(
    parts: impl Iterator<Item = Seen>,
    [share, all]: [usize; 2],
    hidden_size: usize,
) -> Captured {
    let positions = all / hidden_size;
    let (mut inputs, mut residual) = (Vec::new(), Vec::new());
    for (index, (x, r)) in parts.enumerate() {
        if index == 0 {
            inputs.reserve_exact(x.len() * all / share.max(1));
            residual.reserve_exact(r.len() * all / share.max(1));
        }
        inputs.extend(x);
        residual.extend(r);
    }
    let matrix = |values: Vec<f32>| {
        let width = values.len() / positions.max(1);
        Array2::from_shape_vec((positions, width), values).expect("whole positions")
    };
    Captured { inputs: matrix(inputs), residual: matrix(residual) }
}

/// One stream through `model`.
fn run(
    model: &Model,
    precision: CachePrecision,
    hidden: &[f32],
    logits_for: LogitsFor,
    observer: &mut dyn Observer,
) -> Result<Pass, ModelError> {
    let mut cache = model.cache(precision, hidden.len() / model.config().hidden_size)?;
    let mut pass = model.begin_with_hidden(&mut cache, hidden, logits_for, None)?;
    model.advance(&mut pass, &mut cache, &mut Budget::unlimited(), Some(observer));
    Ok(pass)
}

/// Inputs and residual stream of one sequence.
pub(crate) type Seen = (Vec<f32>, Vec<f32>);

/// Keeps the inputs of one kind and stops there, or those of all kinds.
pub(crate) struct Wanted {
    pub(crate) which: Option<LinearInput>,
    pub(crate) seen: Vec<Seen>,
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
            // The outputs of the others are not added to the residual stream.
            let adds = matches!(which, LinearInput::O | LinearInput::Down);
            self.seen.push((inputs.to_vec(), if adds { residual.to_vec() } else { Vec::new() }));
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
