//! Models that run layer by layer, so that they need not be in memory as a whole.

mod parts;
mod streams;

use std::borrow::Cow;

use novaq_engine::model::{CachePrecision, Config, KvCache, Model};

use crate::checkpoint::Checkpoint;
pub(crate) use parts::rounded_vector;
pub use parts::{Tensors, Vectors, embedding, layer, norm, vocabulary};
pub use streams::{Captured, LAYER_INPUTS, Streams};
pub(crate) use streams::{Seen, Wanted, join};

/// A model whose layers are brought to memory when they are needed.
pub struct Layered<'a> {
    /// Embedding, last norm and head; the whole model if there are no `layers`.
    last: Model,
    /// Layers before `last`, those that are kept in memory filled in.
    layers: Vec<Option<Model>>,
    load: Box<dyn Fn(usize) -> anyhow::Result<Model> + 'a>,
    /// Bytes of layers that may be kept beyond those that are.
    room: u64,
}

impl<'a> Layered<'a> {
    /// A model of `vocabulary`, which has no layers (see [`vocabulary`]), and of the layers that `load` brings by their
    /// number, each a model of one layer. Only one of them is in memory at a time.
    pub fn new(vocabulary: Model, load: impl Fn(usize) -> anyhow::Result<Model> + 'a) -> Self {
        let layers = vec![None; vocabulary.config().num_hidden_layers];
        Self { last: vocabulary, layers, load: Box::new(load), room: 0 }
    }

    /// The model of `checkpoint` in 32-bit floats.
    ///
    /// # Errors
    /// If its embedding, last norm or head can't be read.
    pub fn original(checkpoint: &'a Checkpoint) -> anyhow::Result<Self> {
        let last = vocabulary(checkpoint, &Tensors::default(), Vectors::Exact)?;
        Ok(Self::new(last, |index| Ok(layer(checkpoint, index, &Tensors::default(), Vectors::Exact)?)))
    }

    /// Keeps layers once they are there, as long as they take at most `bytes`.
    #[must_use]
    pub fn keeping(self, bytes: u64) -> Self {
        Self { room: bytes, ..self }
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        self.last.config()
    }

    /// Number of parts before [`Self::last`].
    pub fn parts(&self) -> usize {
        self.layers.len()
    }

    /// The part that embeds tokens and turns the last residual stream into logits. It begins where the parts before it
    /// end.
    pub fn last(&self) -> &Model {
        &self.last
    }

    /// Part `index` of those before the last one.
    ///
    /// # Errors
    /// If its tensors can't be read.
    pub fn part(&mut self, index: usize) -> anyhow::Result<Cow<'_, Model>> {
        if self.layers[index].is_none() {
            let loaded = (self.load)(index)?;
            let bytes = loaded.heap_bytes() as u64;
            let Some(room) = self.room.checked_sub(bytes) else { return Ok(Cow::Owned(loaded)) };
            self.room = room;
            self.layers[index] = Some(loaded);
        }
        // Filled in above.
        Ok(Cow::Borrowed(self.layers[index].as_ref().unwrap_or(&self.last)))
    }
}

impl From<Model> for Layered<'_> {
    fn from(model: Model) -> Self {
        let none = |_| anyhow::bail!("a whole model has no other parts");
        Self { last: model, layers: Vec::new(), load: Box::new(none), room: 0 }
    }
}

/// What `memory` bytes are used for while many sequences of `length` tokens are written at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Bytes of layers that are kept.
    pub layers: u64,
    /// Sequences that are written together.
    pub sequences: usize,
}

impl Share {
    /// All layers of `config`'s model, `layer_weights` in all, if that leaves enough for a few sequences; otherwise none:
    /// the more sequences are written together, the fewer times the layers have to be read.
    pub fn of(memory: u64, config: &Config, layer_weights: u64, length: usize, sequences: usize) -> Self {
        /// Sequences that keep the cores busy.
        const FEW: u64 = 8;
        let cache = (KvCache::bytes_per_position(config, CachePrecision::F32) * length) as u64;
        let layers = 4 * layer_weights;
        let few = FEW.min(sequences as u64) * cache;
        let layers = if layers + few <= memory { layers } else { 0 };
        let together = (memory - layers) / cache.max(1);
        Self { layers, sequences: (together as usize).clamp(1, sequences.max(1)) }
    }
}

#[cfg(test)]
mod tests {
    use novaq_engine::model::{LogitsFor, RopeScaling};

    use super::*;

    /// Four layers of 10,000 weights; a position's keys and values take 4 · 2 · 16 · 4 bytes.
    fn config() -> Config {
        Config {
            vocab_size: 100,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            max_position_embeddings: 512,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            variant: novaq_engine::model::Variant::default(),
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        }
    }

    #[test]
    fn memory_is_shared_between_layers_and_caches() {
        let cache = 4 * 2 * 16 * 4 * 256;
        let share = |memory| Share::of(memory, &config(), 40_000, 256, 24);
        // Everything fits.
        assert_eq!(share(1 << 30), Share { layers: 160_000, sequences: 24 });
        assert_eq!(share(160_000 + 9 * cache), Share { layers: 160_000, sequences: 9 });
        // Too few sequences beside the layers: they are read again for each token.
        assert_eq!(share(160_000 + 8 * cache - 1), Share { layers: 0, sequences: 9 });
        assert_eq!(share(0), Share { layers: 0, sequences: 1 });
    }

    /// A checkpoint of the engine's fixtures.
    fn checkpoint(name: &str) -> Checkpoint {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../novaq-engine/tests/fixtures/logits");
        Checkpoint::open(&std::path::Path::new(fixtures).join(name)).unwrap()
    }

    #[test]
    fn layers_give_what_the_whole_model_does() {
        for name in ["gqa-default", "mqa-linear-bias", "mha-llama3"] {
            let checkpoint = checkpoint(name);
            let whole = checkpoint.model().unwrap();
            let tokens: Vec<u32> = (0..30).map(|i| i * 13 % 101).collect();
            let expected = whole.forward(&tokens, CachePrecision::F32, 30, None).unwrap();
            let mut model = Layered::original(&checkpoint).unwrap();
            let mut streams = Streams::embed(std::slice::from_ref(&tokens), model.last()).unwrap();
            for index in 0..model.parts() {
                streams.advance(&model.part(index).unwrap(), CachePrecision::F32).unwrap();
            }
            let last = model.last();
            let mut cache = last.cache(CachePrecision::F32, 30).unwrap();
            let hidden: Vec<f32> = streams.first().unwrap().to_vec();
            let mut pass = last.begin_with_hidden(&mut cache, &hidden, LogitsFor::All, None).unwrap();
            last.advance(&mut pass, &mut cache, &mut novaq_engine::model::Budget::unlimited(), None);
            assert!(pass.logits() == expected, "{name}");
        }
    }

    #[test]
    fn what_is_kept_does_not_grow_beyond_its_bound() {
        let checkpoint = checkpoint("gqa-default");
        let layer = 4 * checkpoint.layer_weights();
        let mut model = Layered::original(&checkpoint).unwrap().keeping(layer + layer / 2);
        for _ in 0..2 {
            assert!(matches!(model.part(0).unwrap(), Cow::Borrowed(_)));
            assert!(matches!(model.part(1).unwrap(), Cow::Owned(_)));
        }
    }
}
