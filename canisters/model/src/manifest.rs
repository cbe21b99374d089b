//! What the repository needs to know from a manifest and from the head of a shard.

use novaq_engine::artifact::{ArtifactError, Manifest, ShardHeader};
use serde_bytes::ByteBuf;
use shared_types::model::{Capability, MAX_MANIFEST_BYTES, MAX_SHARD_BYTES, ModelCard, Quality};
use shared_types::{Digest, FieldError, ModelId};

// The limits that clients see are those of the format.
const _: () = assert!(MAX_SHARD_BYTES == novaq_engine::artifact::MAX_SHARD_BYTES as u64);
const _: () = assert!(MAX_MANIFEST_BYTES == novaq_engine::artifact::MAX_MANIFEST_BYTES as u64);

/// The facts that the repository takes from a manifest, once the engine has parsed and checked it.
#[derive(Clone, Debug, PartialEq)]
pub struct ManifestFacts {
    /// SHA-256 of the canonical manifest without its signature.
    pub model_id: ModelId,
    /// Name.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// License.
    pub license: String,
    /// What the catalogue shows.
    pub card: Option<ModelCard>,
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
    let card = Some(card(&manifest));
    let shards = manifest.shards.iter();
    let shards =
        shards.map(|shard| ShardFacts { bytes: shard.bytes, sha256: Digest::new(shard.sha256) }).collect();
    Ok(ManifestFacts {
        model_id,
        name: manifest.name,
        version: manifest.version,
        license: manifest.license,
        card,
        shards,
    })
}

/// Longest text of a card, in bytes: a page of a hundred cards has to fit in a reply.
const MAX_CARD_TEXT_BYTES: usize = 512;

/// The beginning of `text` that a card has room for.
fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_CARD_TEXT_BYTES)].to_owned()
}

/// What the catalogue shows of a model.
pub fn card(manifest: &Manifest) -> ModelCard {
    let capabilities = match (&manifest.encoder, &manifest.chat_template) {
        (Some(_), _) => vec![Capability::Embed],
        (None, Some(_)) => vec![Capability::Generate, Capability::Chat],
        (None, None) => vec![Capability::Generate],
    };
    let context = manifest.config.as_ref().map(|config| config.max_position_embeddings);
    let context = context.or(manifest.encoder.as_ref().map(|config| config.max_seq_length));
    let predictions = manifest.verification.as_ref().map(|it| Quality::Predictions {
        text: short(&it.text),
        tokens: it.tokens,
        perplexity: it.perplexity,
        perplexity_original: it.perplexity_original,
        kl: it.kl,
        top1_agreement: it.top1_agreement,
    });
    let embeddings = manifest.similarity.as_ref().map(|it| Quality::Embeddings {
        text: short(&it.text),
        texts: it.texts,
        mean_cosine: it.mean_cosine,
        min_cosine: it.min_cosine,
    });
    ModelCard {
        architecture: manifest.architecture.clone(),
        capabilities,
        tags: manifest.tags.clone(),
        origin: manifest.origin.repository.clone(),
        revision: manifest.origin.revision.as_deref().map(short),
        parameters: manifest.compression.parameters,
        bits_per_weight_body: manifest.compression.bits_per_weight_body,
        bits_per_weight_file: manifest.compression.bits_per_weight_file,
        ratio_fp32: manifest.compression.ratio_fp32,
        quality: predictions.or(embeddings),
        context_tokens: context.unwrap_or_default() as u64,
        heap_bytes: manifest.estimates.heap_bytes,
        cache_bytes_per_token: manifest.estimates.cache_bytes_per_token,
        instructions_per_token: manifest.estimates.instructions_per_token,
        signed_by: manifest.signature.map(|signature| ByteBuf::from(signature.public_key)),
    }
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
