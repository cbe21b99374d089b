//! Who sent a request: signatures, delegations and expiry (interface specification, "Authentication").

use crate::{certification::ED25519_DER_PREFIX, limits};
use candid::Principal;
use ic_transport_types::{DelegationPermissions, Envelope, EnvelopeContent, SignedDelegation};

/// Domain separator of a request's signature.
const REQUEST_DOMAIN: &[u8] = b"\x0Aic-request";
/// Longest chain of delegations.
const MAX_DELEGATIONS: usize = 20;
/// Most targets of one delegation.
const MAX_TARGETS: usize = 1_000;
/// Longest nonce in bytes.
const MAX_NONCE: usize = 32;
/// DER of the object identifier 1.3.6.1.4.1.56387.1.2, which marks the keys of canister signatures.
const CANISTER_SIGNATURE_OID: &[u8] =
    &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xb8, 0x43, 0x01, 0x02];

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// The expiry lies in the past or too far in the future.
    #[error(
        "Invalid request expiry: specified ingress_expiry {expiry} is not within the expected interval: from {now} to {latest}"
    )]
    Expiry {
        /// The request's expiry.
        expiry: u64,
        /// The network's time.
        now: u64,
        /// The latest allowed expiry.
        latest: u64,
    },
    /// An anonymous request has a key or signature.
    #[error("An anonymous request must not have a public key, signature or delegation")]
    SignedAnonymous,
    /// A request of somebody else than the anonymous principal has no key or signature.
    #[error("Missing signature of {0}")]
    Missing(Principal),
    /// The key belongs to another principal.
    #[error("The public key does not belong to the sender {0}")]
    WrongKey(Principal),
    /// The signature is wrong.
    #[error("Invalid signature: {0}")]
    Signature(String),
    /// A delegation cannot be used for this request.
    #[error("Invalid delegation: {0}")]
    Delegation(String),
    /// The nonce is too long.
    #[error("The nonce has {0} bytes, more than {MAX_NONCE}")]
    Nonce(usize),
}

/// Checks that `envelope` was made by its sender and is valid at `now` (nanoseconds since 1970).
///
/// # Errors
/// Says what is wrong.
pub fn authenticate(envelope: &Envelope<'_>, root_key: &[u8], now: u64) -> Result<(), AuthenticationError> {
    let content = envelope.content.as_ref();
    let latest = now.saturating_add(limits::INGRESS_TTL + limits::PERMITTED_DRIFT);
    let expiry = content.ingress_expiry();
    if expiry < now || expiry > latest {
        return Err(AuthenticationError::Expiry { expiry, now, latest });
    }
    if let EnvelopeContent::Call { nonce: Some(nonce), .. }
    | EnvelopeContent::Query { nonce: Some(nonce), .. } = content
        && nonce.len() > MAX_NONCE
    {
        return Err(AuthenticationError::Nonce(nonce.len()));
    }
    let sender = *content.sender();
    if sender == Principal::anonymous() {
        let bare = envelope.sender_pubkey.is_none()
            && envelope.sender_sig.is_none()
            && envelope.sender_delegation.is_none();
        return if bare { Ok(()) } else { Err(AuthenticationError::SignedAnonymous) };
    }
    let (Some(key), Some(signature)) = (&envelope.sender_pubkey, &envelope.sender_sig) else {
        return Err(AuthenticationError::Missing(sender));
    };
    if Principal::self_authenticating(key) != sender {
        return Err(AuthenticationError::WrongKey(sender));
    }
    let delegations = envelope.sender_delegation.as_deref().unwrap_or_default();
    let key = follow_delegations(key, delegations, content, root_key, now)?;
    let message = [REQUEST_DOMAIN, content.to_request_id().as_slice()].concat();
    verify(key, &message, signature, root_key).map_err(AuthenticationError::Signature)
}

/// Checks the chain from `key`; returns the key that must have signed the request.
fn follow_delegations<'a>(
    mut key: &'a [u8],
    delegations: &'a [SignedDelegation],
    content: &EnvelopeContent,
    root_key: &[u8],
    now: u64,
) -> Result<&'a [u8], AuthenticationError> {
    let wrong = |reason: String| Err(AuthenticationError::Delegation(reason));
    if delegations.len() > MAX_DELEGATIONS {
        return wrong(format!("{} delegations are more than {MAX_DELEGATIONS}", delegations.len()));
    }
    let (targets, is_call) = match content {
        EnvelopeContent::Call { canister_id, .. } => (vec![*canister_id], true),
        EnvelopeContent::Query { canister_id, .. } => (vec![*canister_id], false),
        EnvelopeContent::ReadState { .. } => (Vec::new(), false),
    };
    for signed in delegations {
        let delegation = &signed.delegation;
        if delegation.expiration < now {
            return wrong(format!("it expired at {}", delegation.expiration));
        }
        if let Some(allowed) = &delegation.targets {
            if allowed.len() > MAX_TARGETS {
                return wrong(format!("{} targets are more than {MAX_TARGETS}", allowed.len()));
            }
            if let Some(target) = targets.iter().find(|target| !allowed.contains(target)) {
                return wrong(format!("canister {target} is not one of its targets"));
            }
        }
        if is_call && delegation.permissions == Some(DelegationPermissions::Queries) {
            return wrong("it allows queries only".into());
        }
        if let Err(reason) = verify(key, &delegation.signable(), &signed.signature, root_key) {
            return wrong(reason);
        }
        key = &delegation.pubkey;
    }
    Ok(key)
}

/// Verifies a signature with a DER-encoded key: Ed25519, ECDSA on secp256k1 or P-256, or a canister's.
fn verify(key: &[u8], message: &[u8], signature: &[u8], root_key: &[u8]) -> Result<(), String> {
    if let Some(bytes) = key.strip_prefix(ED25519_DER_PREFIX) {
        return verify_ed25519(bytes, message, signature);
    }
    if key.windows(CANISTER_SIGNATURE_OID.len()).take(8).any(|w| w == CANISTER_SIGNATURE_OID) {
        return verify_canister_signature(key, message, signature, root_key);
    }
    verify_secp256k1(key, message, signature).or_else(|_| verify_p256(key, message, signature))
}

fn verify_ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), String> {
    let key = <&[u8; 32]>::try_from(key).map_err(|_| "an Ed25519 key has 32 bytes".to_owned())?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|e| e.to_string())?;
    let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|e| e.to_string())?;
    key.verify_strict(message, &signature).map_err(|_| "the Ed25519 signature does not match".into())
}

fn verify_secp256k1(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), String> {
    use k256::{
        ecdsa::{Signature, VerifyingKey, signature::Verifier},
        pkcs8::DecodePublicKey,
    };
    let key = VerifyingKey::from_public_key_der(key).map_err(|_| "unknown kind of public key".to_owned())?;
    let signature = Signature::from_slice(signature).map_err(|e| e.to_string())?;
    let signature = signature.normalize_s().unwrap_or(signature);
    key.verify(message, &signature).map_err(|_| "the secp256k1 signature does not match".into())
}

fn verify_p256(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), String> {
    use p256::{
        ecdsa::{Signature, VerifyingKey, signature::Verifier},
        pkcs8::DecodePublicKey,
    };
    let key = VerifyingKey::from_public_key_der(key).map_err(|_| "unknown kind of public key".to_owned())?;
    let signature = Signature::from_slice(signature).map_err(|e| e.to_string())?;
    key.verify(message, &signature).map_err(|_| "the ECDSA signature does not match".into())
}

fn verify_canister_signature(
    key: &[u8],
    message: &[u8],
    signature: &[u8],
    root_key: &[u8],
) -> Result<(), String> {
    let raw_root_key = &root_key[root_key.len().saturating_sub(96)..];
    ic_signature_verification::verify_canister_sig(message, signature, key, raw_root_key)
}
