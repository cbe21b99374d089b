//! The model's manifest and shards in stable memory, and how far their loading is.
//!
//! A part is asked for in one message and arrives in another. What was asked is journalled before the await, so that
//! attempts are counted even when a message in between traps or an upgrade cuts it off.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use canister_common::cbor::Cbor;
use canister_common::region::Region;
use ic_stable_structures::{StableBTreeMap, StableCell};
use novaq_engine::artifact::{Loader, Manifest, ShardSource, verify_shard};
use novaq_engine::kernel::Packing;
use serde::{Deserialize, Serialize};
use shared_types::ModelId;
use shared_types::agent::{LoadCounts, LoadError, LoadState};
use shared_types::model::ModelError;

use crate::memory::Memory;

/// Attempts to get one part before loading fails.
pub const MAX_ATTEMPTS: u32 = 5;

/// Nanoseconds to wait after the first attempt that failed; doubled with each further one.
const BACKOFF_NS: u64 = 500_000_000;

/// A part of the model that is asked for in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The manifest.
    Manifest,
    /// The shard with this index.
    Shard(u32),
}

/// How far loading is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LoadRecord {
    state: LoadState,
    counts: LoadCounts,
    /// Bytes of the manifest, once it is there.
    manifest_bytes: Option<u64>,
    /// How often each part that has not arrived was asked for.
    attempts: BTreeMap<Part, u32>,
    /// Nothing is asked for before this time.
    not_before_ns: u64,
}

impl Default for LoadRecord {
    fn default() -> Self {
        Self {
            state: LoadState::NotLoaded,
            counts: LoadCounts::default(),
            manifest_bytes: None,
            attempts: BTreeMap::new(),
            not_before_ns: 0,
        }
    }
}

/// The manifest as the engine knows it, with the place of each shard.
struct Parsed {
    manifest: Arc<Manifest>,
    /// Where each shard file starts in the region.
    offsets: Vec<u64>,
}

/// The model in stable memory.
pub struct ModelStore {
    load: StableCell<Cbor<LoadRecord>, Memory>,
    stored: StableBTreeMap<u32, (), Memory>,
    manifest: Region<Memory>,
    shards: Region<Memory>,
    /// A cache of what `manifest` holds.
    parsed: Option<Parsed>,
}

impl ModelStore {
    /// Opens what the memories hold.
    pub fn open(load: Memory, stored: Memory, manifest: Memory, shards: Memory) -> Self {
        let mut store = Self {
            load: StableCell::init(load, Cbor::default()),
            stored: StableBTreeMap::init(stored),
            manifest: Region::new(manifest),
            shards: Region::new(shards),
            parsed: None,
        };
        // The bytes were checked when they arrived; should this version of the engine refuse them, they are asked for
        // again, and the refusal becomes a `LoadError` instead of a failing upgrade.
        let bytes = store.record().manifest_bytes.and_then(|bytes| store.read_manifest(bytes));
        store.parsed = bytes.and_then(|bytes| Manifest::parse(&bytes).ok()).map(Parsed::new);
        store
    }

    fn record(&self) -> &LoadRecord {
        &self.load.get().0
    }

    fn update(&mut self, change: impl FnOnce(&mut LoadRecord)) {
        let mut record = self.record().clone();
        change(&mut record);
        self.load.set(Cbor(record));
    }

    fn read_manifest(&self, bytes: u64) -> Option<Vec<u8>> {
        let mut buffer = vec![0; usize::try_from(bytes).ok()?];
        self.manifest.read(0, &mut buffer).ok()?;
        Some(buffer)
    }

    /// How far loading is.
    pub fn state(&self) -> &LoadState {
        &self.record().state
    }

    /// What loading took.
    pub fn counts(&self) -> LoadCounts {
        self.record().counts
    }

    /// The manifest, when every shard is there.
    pub fn loaded(&self) -> Option<Arc<Manifest>> {
        let parsed = self.parsed.as_ref().filter(|_| *self.state() == LoadState::Loaded);
        parsed.map(|parsed| Arc::clone(&parsed.manifest))
    }

    /// Bytes that a decoder's weights take, and those of them that have to be in the heap: all outside the layers, and the
    /// largest layer. `None` unless the model is loaded and a decoder.
    pub fn decoder_bytes(&self) -> Option<(u64, u64)> {
        let manifest = self.loaded()?;
        let all: u64 = manifest.tensors.iter().map(|tensor| tensor.section.length).sum();
        let layers = Loader::new(manifest).with_packing(Packing::Nibbles).layer_bytes().ok()?;
        let largest = layers.iter().max().copied().unwrap_or(0);
        Some((all, all.saturating_sub(layers.iter().sum()) + largest))
    }

    /// Begins loading, or begins again after a failure; what is there already is kept.
    pub fn begin(&mut self, now_ns: u64) {
        let unreadable = *self.state() == LoadState::Loaded && self.parsed.is_none();
        if unreadable || matches!(self.state(), LoadState::NotLoaded | LoadState::Failed { .. }) {
            self.update(|record| {
                record.state = LoadState::Loading;
                record.attempts.clear();
                record.not_before_ns = 0;
                record.counts.started_at_ns.get_or_insert(now_ns);
            });
            self.end_if_complete(now_ns);
        }
    }

    /// Loading ends when the manifest and every shard are there.
    fn end_if_complete(&mut self, now_ns: u64) {
        let shards = self.parsed.as_ref().map(|parsed| parsed.offsets.len() as u64);
        if shards == Some(self.stored.len()) {
            self.update(|record| {
                record.state = LoadState::Loaded;
                record.counts.finished_at_ns.get_or_insert(now_ns);
            });
        }
    }

    /// The parts to ask for now: as many as `window` allows beside those in flight.
    pub fn wanted(&self, in_flight: &BTreeSet<Part>, window: u32, now_ns: u64) -> Vec<Part> {
        if *self.state() != LoadState::Loading || now_ns < self.record().not_before_ns {
            return Vec::new();
        }
        let free = (window as usize).saturating_sub(in_flight.len());
        let parts: Vec<Part> = match &self.parsed {
            None => vec![Part::Manifest],
            Some(parsed) => {
                let missing =
                    (0..parsed.offsets.len() as u32).filter(|index| !self.stored.contains_key(index));
                missing.map(Part::Shard).filter(|part| !in_flight.contains(part)).take(free).collect()
            }
        };
        parts.into_iter().filter(|part| !in_flight.contains(part)).collect()
    }

    /// Nanoseconds until parts may be asked for again.
    pub fn pause_ns(&self, now_ns: u64) -> u64 {
        self.record().not_before_ns.saturating_sub(now_ns)
    }

    /// Journals that a part is about to be asked for.
    pub fn asked(&mut self, part: Part) {
        self.update(|record| *record.attempts.entry(part).or_default() += 1);
    }

    /// Takes the manifest.
    ///
    /// # Errors
    /// [`LoadError::WrongContent`] unless it is the manifest of `model_id`; [`LoadError::OutOfStorage`].
    pub fn manifest_arrived(
        &mut self,
        model_id: &ModelId,
        bytes: &[u8],
        now_ns: u64,
    ) -> Result<(), LoadError> {
        let wrong = |reason: String| LoadError::WrongContent { reason };
        let manifest = Manifest::parse(bytes).map_err(|error| wrong(error.to_string()))?;
        let id = manifest.id().map_err(|error| wrong(error.to_string()))?;
        if id != *model_id.as_bytes() {
            return Err(wrong(format!("it is the manifest of {}", ModelId::new(id))));
        }
        let total = bytes.len() as u64 + manifest.shard_bytes();
        self.manifest.write(0, bytes).map_err(|_| LoadError::OutOfStorage { bytes: total })?;
        let parsed = Parsed::new(manifest);
        let shards = parsed.offsets.len() as u32;
        self.parsed = Some(parsed);
        self.update(|record| {
            if record.manifest_bytes.is_none() {
                record.counts.bytes += bytes.len() as u64;
            }
            record.manifest_bytes = Some(bytes.len() as u64);
            record.counts.shards = shards;
            record.attempts.remove(&Part::Manifest);
        });
        self.end_if_complete(now_ns);
        Ok(())
    }

    /// Checks a shard against the manifest and takes it; a shard that is there already is left alone.
    ///
    /// # Errors
    /// [`LoadError::WrongContent`], [`LoadError::OutOfStorage`].
    pub fn shard_arrived(&mut self, index: u32, bytes: &[u8], now_ns: u64) -> Result<(), LoadError> {
        let wrong = |reason: String| LoadError::WrongContent { reason };
        let Some(parsed) = &self.parsed else {
            return Err(wrong("a shard came before the manifest".to_owned()));
        };
        if self.stored.contains_key(&index) {
            return Ok(());
        }
        verify_shard(&parsed.manifest, index, bytes).map_err(|error| wrong(error.to_string()))?;
        let total = parsed.manifest.shard_bytes();
        let offset = parsed.offsets[index as usize];
        self.shards.write(offset, bytes).map_err(|_| LoadError::OutOfStorage { bytes: total })?;
        self.stored.insert(index, ());
        let shards_loaded = self.stored.len() as u32;
        self.update(|record| {
            record.attempts.remove(&Part::Shard(index));
            record.counts.shards_loaded = shards_loaded;
            record.counts.bytes += bytes.len() as u64;
        });
        self.end_if_complete(now_ns);
        Ok(())
    }

    /// Adds what a message of loading used.
    pub fn used(&mut self, instructions: u64) {
        self.update(|record| {
            record.counts.instructions += instructions;
            record.counts.messages += 1;
        });
    }

    /// Stores what building the model in the heap took; `first` begins a new count.
    pub fn built(&mut self, instructions: u64, first: bool) {
        self.update(|record| {
            if first {
                (record.counts.build_instructions, record.counts.build_messages) = (0, 0);
            }
            record.counts.build_instructions += instructions;
            record.counts.build_messages += 1;
        });
    }

    /// What follows from a call without an answer: another attempt after a while, or failure.
    ///
    /// # Errors
    /// [`LoadError::NoAnswer`] after [`MAX_ATTEMPTS`].
    pub fn unanswered(&mut self, part: Part, message: &str, now_ns: u64) -> Result<(), LoadError> {
        let attempts = self.record().attempts.get(&part).copied().unwrap_or(1);
        if attempts >= MAX_ATTEMPTS {
            return Err(LoadError::NoAnswer { attempts, message: message.to_owned() });
        }
        self.update(|record| record.not_before_ns = now_ns + (BACKOFF_NS << attempts));
        Ok(())
    }

    /// Loading has failed; what is there is kept for another try.
    pub fn fail(&mut self, reason: LoadError) {
        self.update(|record| record.state = LoadState::Failed { reason });
    }
}

/// What a refusal by the repository means for loading.
pub fn refusal(error: ModelError) -> LoadError {
    match error {
        ModelError::WrongStatus { status, .. } => LoadError::NotServed { status },
        ModelError::UnknownModel { .. } => LoadError::UnknownModel,
        other => LoadError::WrongContent { reason: other.to_string() },
    }
}

impl Parsed {
    fn new(manifest: Manifest) -> Self {
        let starts = manifest.shards.iter().scan(0, |end, shard| {
            let start = *end;
            *end += shard.bytes;
            Some(start)
        });
        Self { offsets: starts.collect(), manifest: Arc::new(manifest) }
    }
}

impl ShardSource for ModelStore {
    fn read(&self, index: u32, offset: u64, buffer: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        if !self.stored.contains_key(&index) {
            return Err("the shard is not in stable memory".into());
        }
        let parsed = self.parsed.as_ref().ok_or("the manifest is not in stable memory")?;
        let shard = index as usize;
        let inside = offset
            .checked_add(buffer.len() as u64)
            .is_some_and(|end| parsed.manifest.shards.get(shard).is_some_and(|entry| end <= entry.bytes));
        if !inside {
            return Err(format!("no {} bytes at {offset}", buffer.len()).into());
        }
        Ok(self.shards.read(parsed.offsets[shard] + offset, buffer)?)
    }
}
