//! A decoder in the heap whose layers come from stable memory and leave again.

use novaq_engine::artifact::{ArtifactError, LoadedModel, Loader};

use crate::heap::Places;
use crate::store::ModelStore;

/// The model, as far as it is in the heap: embedding, head and tokenizer always, layers as there is room.
pub struct Decoder {
    loaded: LoadedModel,
    loader: Loader,
    places: Places,
    /// Bytes of embedding and head.
    vocabulary_bytes: u64,
}

impl Decoder {
    /// The model that `loader` has loaded without its layers.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen, or the tokenizer does not decode.
    pub fn new(mut loader: Loader, store: &ModelStore) -> Result<Self, ArtifactError> {
        let loaded = loader.finish(store)?;
        let places = Places::new(loader.layer_bytes()?);
        let vocabulary_bytes = loaded.model.heap_bytes() as u64;
        Ok(Self { loaded, loader, places, vocabulary_bytes })
    }

    /// The model with the layers that are there.
    pub fn loaded(&self) -> &LoadedModel {
        &self.loaded
    }

    /// The places of the layers.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Bytes of the weights in the heap.
    pub fn weight_bytes(&self) -> u64 {
        self.vocabulary_bytes + self.places.bytes()
    }

    /// Bytes of all weights.
    pub fn all_bytes(&self) -> u64 {
        (0..self.places.len()).map(|layer| self.places.bytes_of(layer)).sum::<u64>() + self.vocabulary_bytes
    }

    /// Bytes that have to be there: those of embedding, head and the largest layer.
    pub fn least_bytes(&self) -> u64 {
        self.vocabulary_bytes + self.places.largest()
    }

    /// Whether a pass that comes to `layer` can go on; it can where only the head is left.
    pub fn has(&self, layer: usize) -> bool {
        layer >= self.places.len() || self.loaded.model.has_layer(layer)
    }

    /// Brings `layer` from stable memory.
    ///
    /// # Errors
    /// If its sections can't be read or decoded, or there is no memory.
    pub fn bring(&mut self, layer: usize, store: &ModelStore) -> Result<(), ArtifactError> {
        let weights = self.loader.layer(layer, store)?;
        self.places.came(layer, weights.heap_bytes() as u64);
        self.loaded.model.put_layer(layer, weights);
        Ok(())
    }

    /// Gives layers up until all weights together take at most `bytes`, those first that are used last when `next` comes
    /// next, which itself stays; or until there is none left to give up.
    pub fn give_up(&mut self, bytes: u64, next: usize) {
        while self.weight_bytes() > bytes
            && let Some(layer) = self.places.farthest(next)
        {
            self.loaded.model.take_layer(layer);
            self.places.left(layer);
        }
    }
}
