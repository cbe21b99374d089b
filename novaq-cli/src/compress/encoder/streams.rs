//! Hidden states: texts on their way through an encoder, layer by layer, by the engine's own forward pass.

use ndarray::Array2;
use novaq_engine::kernel::Backend;
use novaq_engine::model::{BertBuffers, BertEmbeddings, BertLayer, LinearInput, ModelError};
use rayon::prelude::*;

use crate::layered::{Captured, Seen, Wanted, join};

/// The hidden states of all texts, each `[tokens, hidden_size]`.
#[derive(Clone)]
pub(super) struct Streams {
    texts: Vec<Vec<f32>>,
    /// `hidden_size`.
    width: usize,
}

impl Streams {
    /// The hidden states before the first layer.
    ///
    /// # Errors
    /// If a token is outside the vocabulary or a text is longer than what the model reads.
    pub(super) fn embed(
        texts: &[Vec<u32>],
        embeddings: &BertEmbeddings,
        width: usize,
    ) -> Result<Self, ModelError> {
        let backend = Backend::detect();
        let texts = texts.par_iter().map(|tokens| embeddings.embed(backend, tokens));
        Ok(Self { texts: texts.collect::<Result<_, _>>()?, width })
    }

    /// Runs `layer` up to the linear layers that read `which` and returns what they read.
    pub(super) fn capture(&self, layer: &BertLayer, which: LinearInput) -> Captured {
        join(self.each(layer, Some(which)).into_iter().flat_map(|(seen, _)| seen), self.values(), self.width)
    }

    /// Runs `layer` to its end and returns what the linear layers read, by [`LAYER_INPUTS`].
    pub(super) fn capture_and_advance(&mut self, layer: &BertLayer) -> [Captured; 4] {
        let mut seen: [Vec<Seen>; 4] = Default::default();
        let parts = self.each(layer, None);
        for (stream, (of_text, hidden)) in self.texts.iter_mut().zip(parts) {
            *stream = hidden;
            seen.iter_mut().zip(of_text).for_each(|(seen, pair)| seen.push(pair));
        }
        let values = self.values();
        seen.map(|parts| join(parts.into_iter(), values, self.width))
    }

    /// Runs `layer` to its end.
    pub(super) fn advance(&mut self, layer: &BertLayer) {
        let backend = Backend::detect();
        self.texts.par_iter_mut().for_each_init(BertBuffers::default, |buffers, hidden| {
            // Nobody looks on, so nothing ends the layer early.
            let _ = layer.forward(backend, 0, hidden, buffers, &mut None);
        });
    }

    /// Runs every stream through `layer`; returns what was seen, and the streams.
    fn each(&self, layer: &BertLayer, which: Option<LinearInput>) -> Vec<(Vec<Seen>, Vec<f32>)> {
        let backend = Backend::detect();
        let run = |buffers: &mut BertBuffers, hidden: &Vec<f32>| {
            let mut hidden = hidden.clone();
            let mut wanted = Wanted { which, seen: Vec::new() };
            let _ = layer.forward(backend, 0, &mut hidden, buffers, &mut Some(&mut wanted));
            (wanted.seen, hidden)
        };
        self.texts.par_iter().map_init(BertBuffers::default, run).collect()
    }

    /// Values of the first stream and of all.
    fn values(&self) -> [usize; 2] {
        [self.texts.first().map_or(0, Vec::len), self.texts.iter().map(Vec::len).sum()]
    }

    /// Text after text.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.texts.iter().map(Vec::as_slice)
    }

    /// All positions of all texts, `[positions, hidden_size]`.
    pub(super) fn joined(&self) -> Array2<f32> {
        let values = self.texts.concat();
        Array2::from_shape_vec((values.len() / self.width, self.width), values).expect("whole positions")
    }
}
