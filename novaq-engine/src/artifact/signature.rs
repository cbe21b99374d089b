//! Signatures of manifests: ed25519 (RFC 8032) over the model's id.

#[cfg(feature = "signature")]
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Who vouches for a model: a key, and its signature of [`Signature::message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The ed25519 public key.
    #[serde(with = "hex::serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = "^[0-9a-f]{64}$")))]
    pub public_key: [u8; 32],
    /// The signature.
    #[serde(with = "hex::serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", regex(pattern = "^[0-9a-f]{128}$")))]
    pub signature: [u8; 64],
}

impl Signature {
    /// What is signed: `novaq-manifest-1`, a line feed, and the model's id. The words keep a signature of something else from
    /// being one of a model.
    pub fn message(model_id: &[u8; 32]) -> Vec<u8> {
        [b"novaq-manifest-1\n".as_slice(), model_id].concat()
    }

    /// Signs the model `model_id`.
    #[cfg(feature = "signature")]
    pub fn new(key: &SigningKey, model_id: &[u8; 32]) -> Self {
        let signature = key.sign(&Self::message(model_id));
        Self { public_key: key.verifying_key().to_bytes(), signature: signature.to_bytes() }
    }

    /// Whether the key signed the model `model_id`.
    #[cfg(feature = "signature")]
    pub fn verifies(&self, model_id: &[u8; 32]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.public_key) else { return false };
        key.verify_strict(&Self::message(model_id), &self.signature.into()).is_ok()
    }
}
