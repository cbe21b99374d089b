//! Certified data of canisters: a part of a hash tree, and the certificate of its root.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use candid::Principal;
use ic_cbor::{CertificateToCbor, HashTreeToCbor};
use ic_certificate_verification::VerifyCertificate;
use ic_certification::{Certificate, HashTree, LookupResult};

/// Age of a certificate, on either side of this machine's clock, up to which an answer is fresh: what the Internet Computer's clients
/// allow.
const FRESH: Duration = Duration::from_mins(5);

/// A proof that proves something else.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct ProofError {
    /// The part of the proof.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The part of a canister's hash tree that a proof shows, its root certified.
#[derive(Debug)]
pub struct CertifiedTree(HashTree);

impl CertifiedTree {
    /// Checks a proof, however old it is.
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn new(
        canister: Principal,
        root_key: &[u8],
        certificate: &[u8],
        witness: &[u8],
    ) -> Result<Self, ProofError> {
        Self::verified(canister, root_key, certificate, witness, (u128::MAX, u128::MAX))
    }

    /// Checks a proof of how things are now.
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn fresh(
        canister: Principal,
        root_key: &[u8],
        certificate: &[u8],
        witness: &[u8],
    ) -> Result<Self, ProofError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::verified(canister, root_key, certificate, witness, (now.as_nanos(), FRESH.as_nanos()))
    }

    fn verified(
        canister: Principal,
        root_key: &[u8],
        certificate: &[u8],
        witness: &[u8],
        (now, offset): (u128, u128),
    ) -> Result<Self, ProofError> {
        let error = |field, reason: String| ProofError { field, reason };
        let certificate =
            Certificate::from_cbor(certificate).map_err(|e| error("certificate", e.to_string()))?;
        certificate
            .verify(canister.as_slice(), root_key, &now, &offset)
            .map_err(|e| error("certificate", e.to_string()))?;
        let witness = HashTree::from_cbor(witness).map_err(|e| error("witness", e.to_string()))?;
        let path = [b"canister".as_slice(), canister.as_slice(), b"certified_data"];
        let LookupResult::Found(root) = certificate.tree.lookup_path(path) else {
            return Err(error("certificate", format!("it says nothing of the canister {canister}")));
        };
        if root != witness.digest() {
            return Err(error("witness", "the certificate is of another hash tree".to_owned()));
        }
        Ok(Self(witness))
    }

    /// What stands at `path`.
    pub fn get(&self, path: &[&[u8]]) -> Option<&[u8]> {
        match self.0.lookup_path(path) {
            LookupResult::Found(value) => Some(value),
            _ => None,
        }
    }

    /// Checks that `value` stands at `path`.
    ///
    /// # Errors
    /// If something else does, or the proof does not say.
    pub fn expect(&self, path: &[&[u8]], value: &[u8]) -> Result<(), ProofError> {
        let name = || {
            let labels = path.iter().map(|label| match std::str::from_utf8(label) {
                Ok(text) if !text.contains(char::is_control) => text.to_owned(),
                _ => hex::encode(label),
            });
            labels.collect::<Vec<_>>().join("/")
        };
        match self.get(path) {
            Some(certified) if certified == value => Ok(()),
            Some(certified) => {
                let reason = format!("it certifies something else of {}: {}", name(), hex::encode(certified));
                Err(ProofError { field: "witness", reason })
            }
            None => Err(ProofError { field: "witness", reason: format!("it says nothing of {}", name()) }),
        }
    }
}
