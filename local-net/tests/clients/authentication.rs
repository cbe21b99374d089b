//! Who sent a request: every kind of signature and delegation, accepted when it is right and refused when anything in it is
//! changed; canister signatures made by a canister; and which endpoints there are.

use crate::common::pocket::{WASM, builder, install};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use candid::{Encode, Principal};
use ic_agent::Agent;
use ic_canister_sig_creation::CanisterSigPublicKey;
use ic_transport_types::{Delegation, DelegationPermissions, Envelope, EnvelopeContent, SignedDelegation};
use local_net::{
    authentication::{AuthenticationError, authenticate},
    certification::{ED25519_DER_PREFIX, cbor},
};
use p256::pkcs8::EncodePublicKey;
use pocket_ic::{PocketIc, query_candid, update_candid};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::{borrow::Cow, collections::BTreeMap};

/// The network's time in nanoseconds.
const NOW: u64 = 1_800_000_000_000_000_000;
const MINUTE: u64 = 60_000_000_000;

/// Something that signs.
#[derive(Clone, Debug)]
enum Key {
    Ed25519(u8),
    Secp256k1(u8),
    P256(u8),
    WebAuthn(u8),
}

impl Key {
    fn p256(seed: u8) -> p256::ecdsa::SigningKey {
        p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap()
    }

    fn secp256k1(seed: u8) -> k256::ecdsa::SigningKey {
        k256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap()
    }

    /// The DER-encoded public key.
    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(seed) => {
                let key = ed25519_dalek::SigningKey::from_bytes(&[*seed; 32]);
                [ED25519_DER_PREFIX, key.verifying_key().as_bytes()].concat()
            }
            Self::Secp256k1(seed) => {
                Self::secp256k1(*seed).verifying_key().to_public_key_der().unwrap().into_vec()
            }
            Self::P256(seed) => Self::p256(*seed).verifying_key().to_public_key_der().unwrap().into_vec(),
            Self::WebAuthn(seed) => {
                let point = Self::p256(*seed).verifying_key().to_encoded_point(false);
                cose_key(point.x().unwrap(), point.y().unwrap())
            }
        }
    }

    fn sender(&self) -> Principal {
        Principal::self_authenticating(self.public())
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        use p256::ecdsa::signature::Signer;
        match self {
            Self::Ed25519(seed) => {
                ed25519_dalek::SigningKey::from_bytes(&[*seed; 32]).sign(message).to_bytes().to_vec()
            }
            Self::Secp256k1(seed) => {
                let signature: k256::ecdsa::Signature = Self::secp256k1(*seed).sign(message);
                signature.to_bytes().to_vec()
            }
            Self::P256(seed) => {
                let signature: p256::ecdsa::Signature = Self::p256(*seed).sign(message);
                signature.to_bytes().to_vec()
            }
            Self::WebAuthn(seed) => webauthn(&Self::p256(*seed), message),
        }
    }
}

/// The DER form of a COSE key on P-256 (RFC 9053): an algorithm identifier, and the key as a bit string.
fn cose_key(x: &[u8], y: &[u8]) -> Vec<u8> {
    use serde_cbor::Value;
    let bytes = |b: &[u8]| Value::Bytes(b.to_vec());
    let fields = [
        (1, Value::Integer(2)),
        (3, Value::Integer(-7)),
        (-1, Value::Integer(1)),
        (-2, bytes(x)),
        (-3, bytes(y)),
    ];
    let map: BTreeMap<Value, Value> = fields.into_iter().map(|(k, v)| (Value::Integer(k), v)).collect();
    let cose = serde_cbor::to_vec(&Value::Map(map)).unwrap();
    let oid = [0x30, 0x0c, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xb8, 0x43, 0x01, 0x01];
    let bits = [&[0x03, cose.len() as u8 + 1, 0], cose.as_slice()].concat();
    [&[0x30, (oid.len() + bits.len()) as u8], oid.as_slice(), &bits].concat()
}

/// What a security key answers to a challenge, in the form that the Internet Computer takes.
fn webauthn(key: &p256::ecdsa::SigningKey, challenge: &[u8]) -> Vec<u8> {
    use p256::ecdsa::signature::Signer;
    #[derive(serde::Serialize)]
    struct Signed {
        #[serde(with = "serde_bytes")]
        authenticator_data: Vec<u8>,
        client_data_json: String,
        #[serde(with = "serde_bytes")]
        signature: Vec<u8>,
    }
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(challenge);
    let client_data_json =
        format!(r#"{{"type":"webauthn.get","challenge":"{challenge}","origin":"http://localhost"}}"#);
    let authenticator_data = vec![7; 37];
    let signed = [&authenticator_data[..], &Sha256::digest(&client_data_json)[..]].concat();
    let signature: p256::ecdsa::Signature = key.sign(&signed);
    let signature = signature.to_der().as_bytes().to_vec();
    cbor(&Signed { authenticator_data, client_data_json, signature })
}

fn call(sender: Principal) -> EnvelopeContent {
    EnvelopeContent::Call {
        nonce: None,
        ingress_expiry: NOW + MINUTE,
        sender,
        canister_id: target(),
        method_name: "greet".into(),
        arg: b"hello".to_vec(),
        sender_info: None,
    }
}

fn target() -> Principal {
    Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 1, 1])
}

fn signable(content: &EnvelopeContent) -> Vec<u8> {
    [b"\x0Aic-request", content.to_request_id().as_slice()].concat()
}

fn delegation(to: &Key) -> Delegation {
    Delegation { pubkey: to.public(), expiration: NOW + MINUTE, targets: None, permissions: None }
}

fn signed(by: &Key, delegation: Delegation) -> SignedDelegation {
    let signature = by.sign(&delegation.signable());
    SignedDelegation { delegation, signature }
}

/// A request of the first key, signed by the last one of the chain.
fn envelope(keys: &[Key], content: EnvelopeContent, chain: Vec<SignedDelegation>) -> Envelope<'static> {
    let signature = keys.last().unwrap().sign(&signable(&content));
    Envelope {
        content: Cow::Owned(content),
        sender_pubkey: Some(keys[0].public()),
        sender_sig: Some(signature),
        sender_delegation: (!chain.is_empty()).then_some(chain),
    }
}

/// A chain of delegations from each key to the next.
fn chain(keys: &[Key]) -> Vec<SignedDelegation> {
    keys.windows(2).map(|pair| signed(&pair[0], delegation(&pair[1]))).collect()
}

fn check(envelope: &Envelope<'_>) -> Result<(), AuthenticationError> {
    authenticate(envelope, &[0; 133], NOW)
}

fn refused(envelope: &Envelope<'_>) -> String {
    check(envelope).expect_err("the request must be refused").to_string()
}

fn key() -> impl Strategy<Value = Key> {
    (1u8..=200, 0..4).prop_map(|(seed, kind)| match kind {
        0 => Key::Ed25519(seed),
        1 => Key::Secp256k1(seed),
        2 => Key::P256(seed),
        _ => Key::WebAuthn(seed),
    })
}

fn different_keys() -> impl Strategy<Value = Vec<Key>> {
    prop::collection::vec(key(), 1..4).prop_filter("the keys differ", |keys| {
        (1..keys.len()).all(|i| keys[..i].iter().all(|k| k.public() != keys[i].public()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_signed_is_accepted_and_what_is_changed_is_not(
        keys in different_keys(), place in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let right = envelope(&keys, call(keys[0].sender()), chain(&keys));
        prop_assert_eq!(check(&right), Ok(()));

        let change = |bytes: &mut Vec<u8>| {
            let index = place.index(bytes.len());
            bytes[index] ^= 1 << bit;
        };
        let mut wrong = right.clone();
        if let EnvelopeContent::Call { arg, .. } = wrong.content.to_mut() {
            change(arg);
        }
        prop_assert!(check(&wrong).is_err(), "another argument");

        let mut wrong = right.clone();
        change(wrong.sender_pubkey.as_mut().unwrap());
        prop_assert!(check(&wrong).is_err(), "another key");

        if keys.len() > 1 {
            let mut wrong = right.clone();
            change(&mut wrong.sender_delegation.as_mut().unwrap()[0].delegation.pubkey);
            prop_assert!(check(&wrong).is_err(), "another delegated key");
            let mut wrong = right.clone();
            wrong.sender_delegation.as_mut().unwrap()[0].delegation.expiration += 1;
            prop_assert!(check(&wrong).is_err(), "another expiration");
            let mut wrong = right.clone();
            wrong.sender_delegation.as_mut().unwrap().remove(0);
            prop_assert!(check(&wrong).is_err(), "a missing link");
        }
        // In a WebAuthn signature, what the browser reports besides the challenge is free.
        if !matches!(keys.last(), Some(Key::WebAuthn(_))) {
            let mut wrong = right.clone();
            change(wrong.sender_sig.as_mut().unwrap());
            prop_assert!(check(&wrong).is_err(), "another signature");
        }
    }

    #[test]
    fn hostile_bytes_are_refused_without_panic(
        key in any::<Vec<u8>>(), signature in any::<Vec<u8>>(), prefix in 0..4usize,
    ) {
        let prefixes: [&[u8]; 4] = [&[], ED25519_DER_PREFIX, &cose_key(&[1; 32], &[2; 32])[..16], &canister_key(&[])[..17]];
        let key = [prefixes[prefix], &key].concat();
        let envelope = Envelope {
            content: Cow::Owned(call(Principal::self_authenticating(&key))),
            sender_pubkey: Some(key),
            sender_sig: Some(signature),
            sender_delegation: None,
        };
        prop_assert!(check(&envelope).is_err());
    }
}

#[test]
fn requests_have_a_time() {
    let key = [Key::Ed25519(1)];
    let with_expiry = |expiry| {
        let mut content = call(key[0].sender());
        if let EnvelopeContent::Call { ingress_expiry, .. } = &mut content {
            *ingress_expiry = expiry;
        }
        check(&envelope(&key, content, vec![]))
    };
    for expiry in [NOW, NOW + 5 * MINUTE, NOW + 6 * MINUTE] {
        assert_eq!(with_expiry(expiry), Ok(()));
    }
    for expiry in [0, NOW - 1, NOW + 6 * MINUTE + 1, u64::MAX] {
        assert!(matches!(with_expiry(expiry), Err(AuthenticationError::Expiry { .. })), "{expiry}");
    }
}

#[test]
fn the_anonymous_principal_does_not_sign() {
    let bare = Envelope {
        content: Cow::Owned(call(Principal::anonymous())),
        sender_pubkey: None,
        sender_sig: None,
        sender_delegation: None,
    };
    assert_eq!(check(&bare), Ok(()));
    let with_key = Envelope { sender_pubkey: Some(Key::P256(1).public()), ..bare.clone() };
    assert_eq!(check(&with_key), Err(AuthenticationError::SignedAnonymous));
    let sender = Key::P256(1).sender();
    let unsigned = Envelope { content: Cow::Owned(call(sender)), ..bare };
    assert_eq!(check(&unsigned), Err(AuthenticationError::Missing(sender)));
}

#[test]
fn delegations_have_limits() {
    let keys = [Key::Ed25519(1), Key::P256(2)];
    let with = |change: &dyn Fn(&mut Delegation), content: EnvelopeContent| {
        let mut delegation = delegation(&keys[1]);
        change(&mut delegation);
        envelope(&keys, content, vec![signed(&keys[0], delegation)])
    };
    let sender = keys[0].sender();
    let query = EnvelopeContent::Query {
        nonce: None,
        ingress_expiry: NOW + MINUTE,
        sender,
        canister_id: target(),
        method_name: "greet".into(),
        arg: vec![],
        sender_info: None,
    };
    let read = EnvelopeContent::ReadState { ingress_expiry: NOW + MINUTE, sender, paths: vec![] };

    assert_eq!(check(&with(&|d| d.expiration = NOW, call(sender))), Ok(()));
    assert!(refused(&with(&|d| d.expiration = NOW - 1, call(sender))).contains("expired"));

    let here = |d: &mut Delegation| d.targets = Some(vec![Principal::management_canister(), target()]);
    let elsewhere = |d: &mut Delegation| d.targets = Some(vec![Principal::management_canister()]);
    let nowhere = |d: &mut Delegation| d.targets = Some(vec![]);
    let many = |d: &mut Delegation| d.targets = Some(vec![target(); 1_001]);
    for content in [call(sender), query.clone()] {
        assert_eq!(check(&with(&here, content.clone())), Ok(()));
        assert!(refused(&with(&elsewhere, content.clone())).contains("not one of its targets"));
        assert!(refused(&with(&nowhere, content.clone())).contains("not one of its targets"));
        assert!(refused(&with(&many, content)).contains("1001 targets"));
    }
    assert_eq!(check(&with(&elsewhere, read.clone())), Ok(()), "targets are about calls");

    let queries = |d: &mut Delegation| d.permissions = Some(DelegationPermissions::Queries);
    let all = |d: &mut Delegation| d.permissions = Some(DelegationPermissions::All);
    assert!(refused(&with(&queries, call(sender))).contains("queries only"));
    for (change, content) in
        [(&queries as &dyn Fn(&mut Delegation), query), (&queries, read), (&all, call(sender))]
    {
        assert_eq!(check(&with(change, content)), Ok(()));
    }

    let keys: Vec<Key> = (1..=22).map(Key::Ed25519).collect();
    assert_eq!(check(&envelope(&keys[..21], call(sender), chain(&keys[..21]))), Ok(()));
    assert!(refused(&envelope(&keys, call(sender), chain(&keys))).contains("21 delegations"));
    let circle = [Key::Ed25519(1), Key::Ed25519(2), Key::Ed25519(1)];
    assert!(refused(&envelope(&circle, call(sender), chain(&circle))).contains("twice"));
}

fn canister_key(seed: &[u8]) -> Vec<u8> {
    CanisterSigPublicKey::new(target(), seed.to_vec()).to_der()
}

/// A network with a root subnet and another one, and a canister on the latter: its certificates carry a delegation.
fn two_subnets() -> (PocketIc, Principal) {
    let pic = builder().with_nns_subnet().build();
    let subnet = pic.topology().get_app_subnets()[0];
    let canister = pic.create_canister_on_subnet(None, None, subnet);
    pic.add_cycles(canister, 100_000_000_000_000);
    pic.install_canister(canister, WASM.clone(), Encode!().unwrap(), None);
    (pic, canister)
}

/// What the canister signs under the key with this seed.
fn canister_signature(
    pic: &PocketIc,
    canister: Principal,
    seed: &[u8],
    domain: &[u8],
    message: &[u8],
) -> Vec<u8> {
    let args = (seed, domain, message);
    update_candid::<_, ()>(pic, canister, "prepare_signature", args).unwrap();
    query_candid::<_, (Result<Vec<u8>, String>,)>(pic, canister, "get_signature", args).unwrap().0.unwrap()
}

#[test]
fn canisters_sign_for_users() {
    let (mut pic, canister) = two_subnets();
    let url = pic.make_live(None);
    let key = CanisterSigPublicKey::new(canister, b"user 1".to_vec()).to_der();
    let sender = Principal::self_authenticating(&key);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let expiry = pic.get_time().as_nanos_since_unix_epoch() + MINUTE;
    let content = EnvelopeContent::Call {
        nonce: None,
        ingress_expiry: expiry,
        sender,
        canister_id: canister,
        method_name: "put".into(),
        arg: Encode!(&"key", &1u64).unwrap(),
        sender_info: None,
    };
    let send =
        |content: &EnvelopeContent, key: &[u8], signature: Vec<u8>, chain: Option<Vec<SignedDelegation>>| {
            let envelope = Envelope {
                content: Cow::Borrowed(content),
                sender_pubkey: Some(key.to_vec()),
                sender_sig: Some(signature),
                sender_delegation: chain,
            };
            runtime.block_on(async {
                let agent = Agent::builder().with_url(url.clone()).build().unwrap();
                agent.fetch_root_key().await.unwrap();
                agent
                    .update_signed(canister, envelope.encode_bytes())
                    .await
                    .map(|_| ())
                    .map_err(|e| format!("{e:?}"))
            })
        };

    // The canister signs the request itself.
    let id = content.to_request_id();
    let signature = canister_signature(&pic, canister, b"user 1", b"ic-request", id.as_slice());
    send(&content, &key, signature.clone(), None).unwrap();
    let mut other = content.clone();
    if let EnvelopeContent::Call { arg, .. } = &mut other {
        *arg = Encode!(&"key", &2u64).unwrap();
    }
    assert!(send(&other, &key, signature.clone(), None).unwrap_err().contains("400"), "another content");
    let mut broken = signature.clone();
    broken[signature.len() / 2] ^= 1;
    assert!(send(&content, &key, broken, None).unwrap_err().contains("400"), "a broken signature");

    // The canister delegates to a session key, as an identity provider does.
    let session = Key::P256(9);
    let to_session = Delegation { expiration: expiry, ..delegation(&session) };
    let domain = b"ic-request-auth-delegation";
    let signable = to_session.signable();
    let message = &signable[1 + domain.len()..];
    let certificate = canister_signature(&pic, canister, b"user 1", domain, message);
    let chain = vec![SignedDelegation { delegation: to_session, signature: certificate.clone() }];
    let request = session.sign(&self::signable(&other));
    send(&other, &key, request.clone(), Some(chain.clone())).unwrap();
    let another_user = CanisterSigPublicKey::new(canister, b"user 2".to_vec()).to_der();
    let mut stolen = other.clone();
    if let EnvelopeContent::Call { sender, .. } = &mut stolen {
        *sender = Principal::self_authenticating(&another_user);
    }
    let request = session.sign(&self::signable(&stolen));
    assert!(send(&stolen, &another_user, request, Some(chain)).unwrap_err().contains("400"));

    // PocketIC verifies canister signatures too.
    let root = pic.root_key().unwrap();
    pic.verify_canister_signature(signable.clone(), certificate.clone(), key.clone(), root.clone()).unwrap();
    assert!(
        pic.verify_canister_signature(signable.clone(), certificate.clone(), another_user, root).is_err()
    );
    let foreign = [&[0x30u8; 37][..], &[9; 96]].concat();
    assert!(pic.verify_canister_signature(signable, certificate, key, foreign).is_err());
}

#[test]
fn the_endpoints_are_those_of_the_specification() {
    let mut pic = crate::common::pocket::pocket_ic();
    let canister = install(&pic);
    let url = pic.make_live(None);
    let subnet = pic.get_subnet(canister).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let expiry = pic.get_time().as_nanos_since_unix_epoch() + MINUTE;
    let sender = Principal::anonymous();
    let call = |canister_id, method: &str, arg: Vec<u8>| EnvelopeContent::Call {
        nonce: Some(vec![pic.get_time().as_nanos_since_unix_epoch() as u8]),
        ingress_expiry: expiry,
        sender,
        canister_id,
        method_name: method.into(),
        arg,
        sender_info: None,
    };
    let query = |canister_id, method: &str, arg: Vec<u8>| EnvelopeContent::Query {
        nonce: None,
        ingress_expiry: expiry,
        sender,
        canister_id,
        method_name: method.into(),
        arg,
        sender_info: None,
    };
    let read = |paths: &[&[&[u8]]]| EnvelopeContent::ReadState {
        ingress_expiry: expiry,
        sender,
        paths: paths.iter().map(|path| path.iter().map(|l| l.to_vec().into()).collect()).collect(),
    };
    let post = |path: &str, content: &EnvelopeContent| {
        let envelope = Envelope {
            content: Cow::Borrowed(content),
            sender_pubkey: None,
            sender_sig: None,
            sender_delegation: None,
        };
        let request = reqwest::Client::new().post(url.join(path).unwrap()).body(envelope.encode_bytes());
        runtime.block_on(async { request.send().await.unwrap().status().as_u16() })
    };
    let put = call(canister, "put", Encode!(&"key", &1u64).unwrap());
    let get = query(canister, "ticks", Encode!().unwrap());
    let management = Principal::management_canister();
    let status = |id: Principal| {
        let args = ic_management_canister_types::CanisterIdRecord { canister_id: id };
        call(management, "canister_status", Encode!(&args).unwrap())
    };
    let time = read(&[&[b"time"]]);
    let state = read(&[&[b"canister", canister.as_slice(), b"module_hash"]]);
    let requests = read(&[&[b"request_status", &[1; 32]], &[b"request_status", &[2; 32]]]);
    let long = read(&[&[b"time".as_slice(); 128]]);
    let nobody = target();
    for (path, content, expected) in [
        (format!("/api/v2/canister/{canister}/call"), &put, 202),
        (format!("/api/v3/canister/{canister}/call"), &put, 200),
        (format!("/api/v4/canister/{canister}/call"), &put, 200),
        (format!("/api/v5/canister/{canister}/call"), &put, 404),
        (format!("/api/v4/canister/{nobody}/call"), &put, 400),
        (format!("/api/v4/canister/{canister}/call"), &get, 400),
        (format!("/api/v4/subnet/{subnet}/call"), &put, 400),
        (format!("/api/v4/canister/{canister}/call"), &status(canister), 200),
        (format!("/api/v4/canister/{canister}/call"), &status(nobody), 400),
        (format!("/api/v2/canister/{canister}/query"), &get, 200),
        (format!("/api/v3/canister/{canister}/query"), &get, 200),
        (format!("/api/v4/canister/{canister}/query"), &get, 404),
        (format!("/api/v3/canister/{nobody}/query"), &get, 400),
        (format!("/api/v2/canister/{canister}/read_state"), &state, 200),
        (format!("/api/v3/canister/{canister}/read_state"), &state, 200),
        (format!("/api/v3/canister/{nobody}/read_state"), &state, 403),
        (format!("/api/v3/canister/{canister}/read_state"), &requests, 400),
        (format!("/api/v3/canister/{canister}/read_state"), &long, 400),
        (format!("/api/v2/subnet/{subnet}/read_state"), &time, 200),
        (format!("/api/v3/subnet/{subnet}/read_state"), &time, 200),
        (format!("/api/v3/subnet/{subnet}/read_state"), &state, 403),
        (format!("/api/v3/subnet/{subnet}/read_state"), &requests, 403),
        (format!("/api/v3/canister/{canister}/write_state"), &time, 404),
        ("/api/v3/canister/no-principal/query".into(), &get, 400),
    ] {
        assert_eq!(post(&path, content), expected, "{path}");
    }
}
