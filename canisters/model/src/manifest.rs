//! What the repository needs to know from a manifest and from the head of a shard.

use novaq_engine::artifact::{ArtifactError, Manifest, ShardHeader};
use shared_types::model::{MAX_MANIFEST_BYTES, MAX_SHARD_BYTES};
use shared_types::{Digest, FieldError, ModelId};

// The limits that clients see are those of the format.
const _: () = assert!(MAX_SHARD_BYTES == novaq_engine::artifact::MAX_SHARD_BYTES as u64);
const _: () = assert!(MAX_MANIFEST_BYTES == novaq_engine::artifact::MAX_MANIFEST_BYTES as u64);

/// The facts that the repository takes from a manifest, once the engine has parsed and checked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFacts {
    /// SHA-256 of the canonical manifest without its signature.
    pub model_id: ModelId,
    /// Name.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// License.
    pub license: String,
    /// The shard files, by index.
    pub shards: Vec<ShardFacts>,
}

/// A shard file by the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardFacts {
    /// Bytes of the file, header included.
    pub bytes: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
}

/// Parses and checks a manifest.
///
/// # Errors
/// The field that the engine refuses, or `manifest` where it names none.
pub fn read(bytes: &[u8]) -> Result<ManifestFacts, FieldError> {
    let refused = |error: ArtifactError| match error {
        // The engine's name for the whole is a dot.
        ArtifactError::Field { field, reason } if field != "." => FieldError { field, reason },
        other => FieldError::new("manifest", other.to_string()),
    };
    let manifest = Manifest::parse(bytes).map_err(refused)?;
    let model_id = Digest::new(manifest.id().map_err(refused)?);
    let shards = manifest.shards.iter();
    let shards =
        shards.map(|shard| ShardFacts { bytes: shard.bytes, sha256: Digest::new(shard.sha256) }).collect();
    Ok(ManifestFacts {
        model_id,
        name: manifest.name,
        version: manifest.version,
        license: manifest.license,
        shards,
    })
}

/// Checks the header of a shard file.
///
/// # Errors
/// What is wrong with it.
pub fn check_shard_header(index: u32, shard: &[u8]) -> Result<(), String> {
    match ShardHeader::parse(index, shard) {
        Ok(_) => Ok(()),
        Err(ArtifactError::Shard { reason, .. }) => Err(reason),
        Err(other) => Err(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_a_field() {
        assert_eq!(read(b"").unwrap_err().field, "manifest");
        assert_eq!(read(b"{}").unwrap_err().field, "manifest");
        assert_eq!(read(&vec![b' '; MAX_MANIFEST_BYTES as usize + 1]).unwrap_err().field, "manifest");
    }
}
