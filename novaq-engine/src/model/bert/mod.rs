//! BERT encoders (Devlin et al., 2018, <https://arxiv.org/abs/1810.04805>) that embed texts, as sentence-transformers
//! runs them: bidirectional attention, norms behind the sums, pooling, an embedding of length one.

mod config;
mod layer;

pub use config::{BertConfig, Pooling};
pub use layer::{BertBuffers, BertEmbeddings, BertLayer};

use super::ModelError;
use super::llama::{Budget, Observer, Progress, TensorSource};
use crate::codec::Matrix;
use crate::kernel::Backend;

/// Smallest length that an embedding is divided by, as sentence-transformers has it.
const SMALLEST_LENGTH: f32 = 1e-12;

/// The embedding of one text on its way through the layers, which can stop and go on after any of them.
#[derive(Debug)]
pub struct EncoderPass {
    /// Layers done.
    layer: usize,
    hidden: Vec<f32>,
    embedding: Vec<f32>,
    buffers: BertBuffers,
}

impl EncoderPass {
    /// The hidden states after the layers done so far, `[tokens, hidden_size]`.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// The text's embedding, `[hidden_size]`; empty until the pass is complete.
    pub fn embedding(&self) -> &[f32] {
        &self.embedding
    }
}

/// An encoder's weights, ready to run.
#[derive(Clone, Debug)]
pub struct Encoder {
    config: BertConfig,
    backend: Backend,
    embeddings: BertEmbeddings,
    layers: Vec<BertLayer>,
}

impl Encoder {
    /// Takes the tensors of `config`'s model from `source`.
    ///
    /// # Errors
    /// If the configuration is invalid, or a tensor is missing or has another shape.
    pub fn load(config: BertConfig, source: &mut dyn TensorSource) -> Result<Self, ModelError> {
        config.validate()?;
        let embeddings = BertEmbeddings::load(source, &config)?;
        // Not reserved ahead: a missing tensor ends the loop long before a hostile number of layers does.
        let mut layers = Vec::new();
        for index in 0..config.num_hidden_layers {
            layers.push(BertLayer::load(source, &config, index)?);
        }
        Ok(Self { config, backend: Backend::detect(), embeddings, layers })
    }

    /// The same model on other kernels; all give the same bits.
    #[must_use]
    pub fn with_backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Bytes that the weights hold on the heap.
    pub fn heap_bytes(&self) -> usize {
        let linears = self.layers.iter().flat_map(BertLayer::linears).map(|linear| &linear.weight);
        linears.chain(self.embeddings.matrices()).map(Matrix::heap_bytes).sum()
    }

    /// Work of embedding a text of `tokens` tokens, per token, in estimated instructions.
    pub fn work_per_token(&self, tokens: usize) -> u64 {
        let attention = self.config.attention_work(tokens) * self.layers.len() as u64;
        self.layers.iter().map(BertLayer::work).sum::<u64>() + attention
    }

    /// Begins a pass over the text of `tokens`, reusing the buffers of `spare`.
    ///
    /// # Errors
    /// If there is no token, a token is not in the vocabulary, or there are more than `max_seq_length`.
    pub fn begin(&self, tokens: &[u32], spare: Option<EncoderPass>) -> Result<EncoderPass, ModelError> {
        let context = self.config.max_seq_length;
        if tokens.len() > context {
            return Err(ModelError::Context { positions: tokens.len(), context });
        }
        let hidden = self.embeddings.embed(self.backend, tokens)?;
        let buffers = spare.map(|pass| pass.buffers).unwrap_or_default();
        Ok(EncoderPass { layer: 0, hidden, embedding: Vec::new(), buffers })
    }

    /// Goes on with `pass` until it is complete or `budget` is used up. At least one layer is done unless the budget is
    /// already used up. `observer` sees the inputs of the linear layers.
    pub fn advance(
        &self,
        pass: &mut EncoderPass,
        budget: &mut Budget,
        mut observer: Option<&mut dyn Observer>,
    ) -> Progress {
        let positions = pass.hidden.len() / self.config.hidden_size;
        while let Some(layer) = self.layers.get(pass.layer) {
            if budget.is_exhausted() {
                return Progress::Paused;
            }
            let EncoderPass { layer: index, hidden, buffers, .. } = &mut *pass;
            if layer.forward(self.backend, *index, hidden, buffers, &mut observer).is_break() {
                return Progress::Stopped;
            }
            budget.spent += (layer.work() + self.config.attention_work(positions)) * positions as u64;
            pass.layer += 1;
        }
        if pass.embedding.is_empty() {
            pass.embedding = self.pool(&pass.hidden);
        }
        Progress::Complete
    }

    /// The embedding of the text of `tokens`, `[hidden_size]`.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut pass = self.begin(tokens, None)?;
        self.advance(&mut pass, &mut Budget::unlimited(), None);
        Ok(pass.embedding)
    }

    /// One vector of the hidden states `[tokens, hidden_size]`; sums run over the tokens in ascending order.
    fn pool(&self, hidden: &[f32]) -> Vec<f32> {
        let mut rows = hidden.chunks_exact(self.config.hidden_size);
        let mut pooled = rows.next().map(<[f32]>::to_vec).unwrap_or_default();
        match self.config.pooling {
            Pooling::Cls => {}
            Pooling::Mean => {
                let count = 1.0 + rows.len() as f32;
                rows.for_each(|row| pooled.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
                for sum in &mut pooled {
                    *sum /= count;
                }
            }
            Pooling::Max => {
                let larger = |(most, x): (&mut f32, &f32)| *most = if *x > *most { *x } else { *most };
                rows.for_each(|row| pooled.iter_mut().zip(row).for_each(larger));
            }
        }
        if self.config.normalize {
            let length = self.backend.dot_f32(&pooled, &pooled).sqrt();
            let length = if length > SMALLEST_LENGTH { length } else { SMALLEST_LENGTH };
            for x in &mut pooled {
                *x /= length;
            }
        }
        pooled
    }
}
