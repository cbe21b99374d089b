//! Who sent a request: signatures, delegations and expiry (interface specification, "Authentication").
//!
//! Signatures are Ed25519, ECDSA on P-256 and secp256k1, those of security keys (WebAuthn with ECDSA on P-256; RSA is not there), and
//! canisters'.

use crate::{certification::ED25519_DER_PREFIX, limits};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use candid::Principal;
use ic_transport_types::{DelegationPermissions, Envelope, EnvelopeContent, SignedDelegation};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

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

/// DER of the object identifier 1.3.6.1.4.1.56387.1.1, which marks keys in COSE form: those of security keys.
const COSE_KEY_OID: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xb8, 0x43, 0x01, 0x01];

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
    let mut keys = BTreeSet::from([key]);
    for signed in delegations {
        let delegation = &signed.delegation;
        if !keys.insert(&delegation.pubkey) {
            return wrong(format!("the chain contains the key {} twice", hex::encode(&delegation.pubkey)));
        }
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

/// Verifies a signature with a DER-encoded key, for canisters' signatures under the DER-encoded `root_key`.
fn verify(key: &[u8], message: &[u8], signature: &[u8], root_key: &[u8]) -> Result<(), String> {
    if let Some(bytes) = key.strip_prefix(ED25519_DER_PREFIX) {
        return verify_ed25519(bytes, message, signature);
    }
    // The identifier follows the lengths of two sequences.
    let marked = |oid: &[u8]| key.windows(oid.len()).take(8).any(|window| window == oid);
    if marked(CANISTER_SIGNATURE_OID) {
        return verify_canister_signature(key, message, signature, root_key);
    }
    if marked(COSE_KEY_OID) {
        return verify_webauthn(key, message, signature);
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

/// A signature of a security key, in CBOR (interface specification, "Web Authentication").
#[derive(Deserialize)]
struct WebAuthnSignature {
    #[serde(with = "serde_bytes")]
    authenticator_data: Vec<u8>,
    client_data_json: String,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

/// What the browser signed, as far as it matters here.
#[derive(Deserialize)]
struct ClientData {
    challenge: String,
}

fn verify_webauthn(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), String> {
    use p256::ecdsa::{Signature, signature::Verifier};
    let key = cose_key(key)?;
    let signed: WebAuthnSignature =
        serde_cbor::from_slice(signature).map_err(|e| format!("not a WebAuthn signature in CBOR: {e}"))?;
    let client_data: ClientData =
        serde_json::from_str(&signed.client_data_json).map_err(|e| format!("client_data_json: {e}"))?;
    let challenge = BASE64_URL_SAFE_NO_PAD
        .decode(client_data.challenge.trim_end_matches('='))
        .map_err(|e| format!("client_data_json: challenge: {e}"))?;
    if challenge != message {
        return Err("the security key signed another challenge".into());
    }
    let signature = Signature::from_der(&signed.signature).map_err(|e| e.to_string())?;
    let client_hash = Sha256::digest(&signed.client_data_json);
    let message = [&signed.authenticator_data[..], &client_hash[..]].concat();
    key.verify(&message, &signature).map_err(|_| "the security key's signature does not match".into())
}

/// The key on P-256 in a DER-encoded COSE key (RFC 9053, section 7.1.1).
fn cose_key(der: &[u8]) -> Result<p256::ecdsa::VerifyingKey, String> {
    use serde_cbor::Value;
    let start = der.windows(COSE_KEY_OID.len()).position(|window| window == COSE_KEY_OID);
    let bits = &der[start.map_or(0, |start| start + COSE_KEY_OID.len())..];
    // A bit string of less than 128 bytes without unused bits, which a key on P-256 is.
    let [0x03, 1..=0x7f, 0, cose @ ..] = bits else {
        return Err("the COSE key is not one on P-256".into());
    };
    let Ok(Value::Map(fields)) = serde_cbor::from_slice(cose) else {
        return Err("the COSE key is no map in CBOR".into());
    };
    let field = |label: i128| fields.get(&Value::Integer(label));
    let is = |label, value| field(label) == Some(&Value::Integer(value));
    // Key type EC2, algorithm ES256, curve P-256.
    let (true, Some(Value::Bytes(x)), Some(Value::Bytes(y))) =
        (is(1, 2) && is(3, -7) && is(-1, 1), field(-2), field(-3))
    else {
        return Err("the COSE key is not one for ECDSA on P-256".into());
    };
    let point = [&[4], x.as_slice(), y].concat();
    p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).map_err(|e| e.to_string())
}

/// Verifies a canister's signature; all keys are DER-encoded.
///
/// # Errors
/// Says what is wrong.
pub fn verify_canister_signature(
    key: &[u8],
    message: &[u8],
    signature: &[u8],
    root_key: &[u8],
) -> Result<(), String> {
    let raw_root_key = &root_key[root_key.len().saturating_sub(96)..];
    ic_signature_verification::verify_canister_sig(message, signature, key, raw_root_key)
}
