//! A shard file: a header of 24 bytes, then its part of the body.

use super::{ArtifactError, FORMAT_VERSION, Manifest};
use sha2::{Digest, Sha256};

const MAGIC: [u8; 8] = *b"NOVAQSH1";

/// The first bytes of a shard: magic, format version (u32), shard index (u32), payload length (u64), little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardHeader {
    /// Number of the shard, from 0.
    pub index: u32,
    /// Bytes after the header.
    pub payload_bytes: u64,
}

impl ShardHeader {
    /// Length of the header.
    pub const BYTES: usize = 24;

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.index.to_le_bytes());
        out[16..].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out
    }

    /// Reads the header of `shard` and checks that it is the header of shard `index` with the length that is there.
    ///
    /// # Errors
    /// If the magic, version, index or length is off.
    pub fn parse(index: u32, shard: &[u8]) -> Result<Self, ArtifactError> {
        let fail = |reason: String| Err(ArtifactError::Shard { index, reason });
        let Some((header, payload)) = shard.split_first_chunk::<{ Self::BYTES }>() else {
            return fail(format!("{} bytes are too few for a header", shard.len()));
        };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..8] != MAGIC {
            return fail("not a NOVAQ shard (wrong magic)".into());
        }
        if word(8) != FORMAT_VERSION {
            return fail(format!("format version {} is not supported, only {FORMAT_VERSION}", word(8)));
        }
        if word(12) != index {
            return fail(format!("its header says it is shard {}", word(12)));
        }
        let payload_bytes = u64::from(word(16)) | (u64::from(word(20)) << 32);
        if payload_bytes != payload.len() as u64 {
            return fail(format!(
                "its header says {payload_bytes} bytes of payload, there are {}",
                payload.len()
            ));
        }
        Ok(Self { index, payload_bytes })
    }
}

/// Checks that `bytes` is shard `index` of `manifest`: length, SHA-256 and header.
///
/// # Errors
/// What does not match.
pub fn verify_shard(manifest: &Manifest, index: u32, bytes: &[u8]) -> Result<(), ArtifactError> {
    let Some(entry) = manifest.shards.get(index as usize) else {
        return Err(ArtifactError::shard(
            index,
            format!("the manifest has {} shards", manifest.shards.len()),
        ));
    };
    if entry.bytes != bytes.len() as u64 {
        return Err(ArtifactError::shard(
            index,
            format!("{} bytes, the manifest says {}", bytes.len(), entry.bytes),
        ));
    }
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    if hash != entry.sha256 {
        let (got, expected) = (hex::encode(hash), hex::encode(entry.sha256));
        return Err(ArtifactError::shard(index, format!("sha256 is {got}, the manifest says {expected}")));
    }
    ShardHeader::parse(index, bytes).map(|_| ())
}
