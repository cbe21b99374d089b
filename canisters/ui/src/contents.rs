//! Contents of files by their SHA-256. A content that several files or batches share is kept once.

use std::collections::BTreeSet;

use canister_common::cbor::Cbor;
use canister_common::extents::Extents;
use canister_common::region::Region;
use ic_stable_structures::StableBTreeMap;
use serde::{Deserialize, Serialize};
use shared_types::Digest;
use shared_types::ui::{ChunkKey, UiError};

use crate::memory::Memory;

/// A content.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    /// Where it starts in the region.
    offset: u64,
    bytes: u64,
    /// Chunks that have not arrived, in rising order.
    missing: Vec<u32>,
}

/// All contents.
pub struct Contents {
    entries: StableBTreeMap<[u8; 32], Cbor<Content>, Memory>,
    extents: Extents<Memory>,
    region: Region<Memory>,
    chunk_bytes: u64,
}

impl Contents {
    /// Opens what the memories hold; chunks have `chunk_bytes`.
    pub fn open(entries: Memory, extents: Memory, bytes: Memory, chunk_bytes: u64) -> Self {
        Self {
            entries: StableBTreeMap::init(entries),
            extents: Extents::init(extents),
            region: Region::new(bytes),
            chunk_bytes,
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> u64 {
        self.entries.values().map(|content| content.0.bytes).sum()
    }

    /// Bytes of a content, if it is known.
    pub fn length(&self, sha256: &Digest) -> Option<u64> {
        self.entries.get(sha256.as_bytes()).map(|content| content.0.bytes)
    }

    /// Makes room for a content; nothing changes when it is there.
    ///
    /// # Errors
    /// [`UiError::OutOfStorage`].
    pub fn reserve(&mut self, sha256: &Digest, bytes: u64) -> Result<(), UiError> {
        if self.entries.contains_key(sha256.as_bytes()) {
            return Ok(());
        }
        let out_of_storage = UiError::OutOfStorage { requested: bytes };
        let offset = self.extents.allocate(bytes).map_err(|_| out_of_storage)?;
        let missing = (0..bytes.div_ceil(self.chunk_bytes) as u32).collect();
        self.entries.insert(*sha256.as_bytes(), Cbor(Content { offset, bytes, missing }));
        Ok(())
    }

    /// Chunks of a content that have not arrived, in rising order.
    pub fn missing(&self, sha256: &Digest) -> Vec<u32> {
        self.entries.get(sha256.as_bytes()).map(|content| content.0.missing).unwrap_or_default()
    }

    /// Stores a chunk; one that is there changes nothing. With the last one, the content is checked.
    ///
    /// # Errors
    /// [`UiError::WrongChunkLength`], [`UiError::OutOfStorage`], and [`UiError::WrongFileHash`], after which all chunks of the
    /// content are missing. `None` if no content has this chunk.
    pub fn put(&mut self, chunk: ChunkKey, bytes: &[u8]) -> Option<Result<(), UiError>> {
        let content = self.entries.get(chunk.sha256.as_bytes())?.0;
        let start = u64::from(chunk.index) * self.chunk_bytes;
        if start >= content.bytes {
            return None;
        }
        Some(self.put_into(content, chunk, start, bytes))
    }

    fn put_into(
        &mut self,
        mut content: Content,
        chunk: ChunkKey,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), UiError> {
        let expected = (content.bytes - start).min(self.chunk_bytes);
        let actual = bytes.len() as u64;
        if actual != expected {
            return Err(UiError::WrongChunkLength { chunk, expected, actual });
        }
        let Ok(at) = content.missing.binary_search(&chunk.index) else { return Ok(()) };
        self.region
            .write(content.offset + start, bytes)
            .map_err(|_| UiError::OutOfStorage { requested: expected })?;
        content.missing.remove(at);
        let mut result = Ok(());
        if content.missing.is_empty() {
            let actual = Digest::of(&self.read(&content));
            if actual != chunk.sha256 {
                content.missing = (0..content.bytes.div_ceil(self.chunk_bytes) as u32).collect();
                result = Err(UiError::WrongFileHash { expected: chunk.sha256, actual });
            }
        }
        self.entries.insert(*chunk.sha256.as_bytes(), Cbor(content));
        result
    }

    fn read(&self, content: &Content) -> Vec<u8> {
        let mut bytes = vec![0; content.bytes as usize];
        // A content without missing chunks was written to its end; an empty one has nothing to read.
        if !bytes.is_empty() {
            self.region.read(content.offset, &mut bytes).expect("the content was written");
        }
        bytes
    }

    /// The bytes of a content whose chunks have all arrived.
    pub fn get(&self, sha256: &Digest) -> Option<Vec<u8>> {
        let content = self.entries.get(sha256.as_bytes())?.0;
        content.missing.is_empty().then(|| self.read(&content))
    }

    /// Drops every content that is not in `used`.
    pub fn retain(&mut self, used: &BTreeSet<Digest>) {
        let unused: Vec<[u8; 32]> =
            self.entries.keys().filter(|key| !used.contains(&Digest::new(*key))).collect();
        for key in unused {
            if let Some(Cbor(content)) = self.entries.remove(&key) {
                self.extents.release(content.offset, content.bytes);
            }
        }
    }
}
