//! Threshold ECDSA and Schnorr: what a canister gets signed is verified with libraries that know nothing of this network.

use crate::common::pocket::{install, pocket_ic};
use candid::{CandidType, Encode, Principal, decode_one};
use ed25519_dalek::Verifier;
use ic_management_canister_types as types;
use k256::ecdsa::signature::hazmat::PrehashVerifier;
use pocket_ic::PocketIc;
use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use types::{EcdsaCurve, EcdsaKeyId, SchnorrAlgorithm, SchnorrAux, SchnorrKeyId};

/// More cycles than any signature costs.
const ENOUGH: u128 = 30_000_000_000;
const KEYS: [&str; 3] = ["key_1", "test_key_1", "dfx_test_key"];

/// A network with two canisters.
struct Net {
    pic: PocketIc,
    canisters: [Principal; 2],
}

impl Net {
    fn new() -> Self {
        let pic = pocket_ic();
        let canisters = [install(&pic), install(&pic)];
        Self { pic, canisters }
    }

    /// Lets a canister call the management canister: its answer, and the cycles it cost.
    fn manage<T: CandidType + for<'a> Deserialize<'a>>(
        &self,
        canister: Principal,
        method: &str,
        args: &impl CandidType,
    ) -> (Result<T, (u32, String)>, u128) {
        let argument = Encode!(&method, &Encode!(args).unwrap(), &ENOUGH).unwrap();
        let reply = self.pic.update_call(canister, Principal::anonymous(), "manage", argument).unwrap();
        let (answer, refunded): (Result<Vec<u8>, (u32, String)>, u128) = candid::decode_args(&reply).unwrap();
        (answer.map(|reply| decode_one(&reply).unwrap()), ENOUGH - refunded)
    }

    fn ecdsa_key(
        &self,
        canister: Principal,
        name: &str,
        path: &[Vec<u8>],
        owner: Option<Principal>,
    ) -> types::EcdsaPublicKeyResult {
        let args = types::EcdsaPublicKeyArgs {
            canister_id: owner,
            derivation_path: path.to_vec(),
            key_id: ecdsa(name),
        };
        let (key, cost) = self.manage(canister, "ecdsa_public_key", &args);
        assert_eq!(cost, 0, "public keys are free");
        key.unwrap()
    }

    fn schnorr_key(
        &self,
        canister: Principal,
        key_id: SchnorrKeyId,
        path: &[Vec<u8>],
    ) -> types::SchnorrPublicKeyResult {
        let args = types::SchnorrPublicKeyArgs { canister_id: None, derivation_path: path.to_vec(), key_id };
        self.manage(canister, "schnorr_public_key", &args).0.unwrap()
    }

    fn sign_schnorr(
        &self,
        key_id: SchnorrKeyId,
        path: &[Vec<u8>],
        message: &[u8],
        aux: Option<SchnorrAux>,
    ) -> Result<Vec<u8>, (u32, String)> {
        let args = types::SignWithSchnorrArgs {
            message: message.to_vec(),
            derivation_path: path.to_vec(),
            key_id,
            aux,
        };
        let (signed, _) =
            self.manage::<types::SignWithSchnorrResult>(self.canisters[0], "sign_with_schnorr", &args);
        signed.map(|s| s.signature)
    }
}

fn ecdsa(name: &str) -> EcdsaKeyId {
    EcdsaKeyId { curve: EcdsaCurve::Secp256k1, name: name.into() }
}

fn schnorr(algorithm: SchnorrAlgorithm, name: &str) -> SchnorrKeyId {
    SchnorrKeyId { algorithm, name: name.into() }
}

fn verifies_ecdsa(public_key: &[u8], digest: &[u8], signature: &[u8]) -> bool {
    let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(public_key).unwrap();
    key.verify_prehash(digest, &k256::ecdsa::Signature::from_slice(signature).unwrap()).is_ok()
}

fn verifies_ed25519(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = ed25519_dalek::VerifyingKey::from_bytes(public_key.try_into().unwrap()).unwrap();
    key.verify(message, &ed25519_dalek::Signature::from_slice(signature).unwrap()).is_ok()
}

fn paths() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5)
}

thread_local!(static NET: Net = Net::new());

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn ecdsa_signatures_verify_under_their_own_key_only(
        path in paths(), other in paths(), message in any::<Vec<u8>>(), name in 0..KEYS.len(),
    ) {
        prop_assume!(path != other);
        NET.with(|net| {
            let [canister, stranger] = net.canisters;
            let digest = Sha256::digest(&message).to_vec();
            let args = types::SignWithEcdsaArgs {
                message_hash: digest.clone(),
                derivation_path: path.clone(),
                key_id: ecdsa(KEYS[name]),
            };
            let (signed, cost) =
                net.manage::<types::SignWithEcdsaResult>(canister, "sign_with_ecdsa", &args);
            let signature = signed.unwrap().signature;
            assert_eq!(cost, if name == 0 { 26_153_846_153 } else { 10_000_000_000 });
            let key = net.ecdsa_key(canister, KEYS[name], &path, None);
            assert!(verifies_ecdsa(&key.public_key, &digest, &signature));
            assert_eq!(net.ecdsa_key(stranger, KEYS[name], &path, Some(canister)), key);
            let others = [
                net.ecdsa_key(canister, KEYS[name], &other, None),
                net.ecdsa_key(canister, KEYS[(name + 1) % KEYS.len()], &path, None),
                net.ecdsa_key(stranger, KEYS[name], &path, None),
            ];
            for other in others {
                assert!(!verifies_ecdsa(&other.public_key, &digest, &signature));
                assert_ne!(other.chain_code, key.chain_code);
            }
        });
    }

    #[test]
    fn schnorr_signatures_verify_under_their_own_key_only(
        path in paths(), other in paths(), message in any::<Vec<u8>>(), name in 0..KEYS.len(), tweak in any::<[u8; 32]>(),
    ) {
        prop_assume!(path != other);
        NET.with(|net| {
            let canister = net.canisters[0];
            let ed25519 = schnorr(SchnorrAlgorithm::Ed25519, KEYS[name]);
            let signature = net.sign_schnorr(ed25519.clone(), &path, &message, None).unwrap();
            let key = net.schnorr_key(canister, ed25519.clone(), &path).public_key;
            assert!(verifies_ed25519(&key, &message, &signature));
            assert!(!verifies_ed25519(&net.schnorr_key(canister, ed25519, &other).public_key, &message, &signature));

            let bip340 = schnorr(SchnorrAlgorithm::Bip340secp256k1, KEYS[name]);
            let public = |path: &[Vec<u8>]| {
                let key = net.schnorr_key(canister, bip340.clone(), path).public_key;
                ic_secp256k1::PublicKey::deserialize_sec1(&key).unwrap()
            };
            let signature = net.sign_schnorr(bip340.clone(), &path, &message, None).unwrap();
            assert!(public(&path).verify_bip340_signature(&message, &signature));
            assert!(!public(&other).verify_bip340_signature(&message, &signature));
            for root in [vec![], tweak.to_vec()] {
                let aux = SchnorrAux::Bip341(types::Bip341 { merkle_root_hash: root.clone() });
                let signature = net.sign_schnorr(bip340.clone(), &path, &message, Some(aux)).unwrap();
                assert!(public(&path).verify_bip341_signature(&message, &signature, &root));
                assert!(!public(&path).verify_bip340_signature(&message, &signature));
            }
        });
    }

    /// Whoever has a public key and its chain code derives the keys below it.
    #[test]
    fn public_keys_are_derived_from_public_keys(path in paths()) {
        NET.with(|net| {
            let canister = net.canisters[0];
            let (root, leaf) = (net.ecdsa_key(canister, "key_1", &[], None), net.ecdsa_key(canister, "key_1", &path, None));
            let indices = path.iter().cloned().map(ic_secp256k1::DerivationIndex).collect();
            let (derived, chain_code) = ic_secp256k1::PublicKey::deserialize_sec1(&root.public_key)
                .unwrap()
                .derive_subkey_with_chain_code(
                    &ic_secp256k1::DerivationPath::new(indices),
                    &root.chain_code.try_into().unwrap(),
                );
            assert_eq!(derived.serialize_sec1(true), leaf.public_key);
            assert_eq!(chain_code.to_vec(), leaf.chain_code);

            let ed25519 = schnorr(SchnorrAlgorithm::Ed25519, "key_1");
            let (root, leaf) = (net.schnorr_key(canister, ed25519.clone(), &[]), net.schnorr_key(canister, ed25519, &path));
            let indices = path.iter().cloned().map(ic_ed25519::DerivationIndex).collect();
            let (derived, chain_code) = ic_ed25519::PublicKey::deserialize_raw(&root.public_key)
                .unwrap()
                .derive_subkey_with_chain_code(
                    &ic_ed25519::DerivationPath::new(indices),
                    &root.chain_code.try_into().unwrap(),
                );
            assert_eq!(derived.serialize_raw().to_vec(), leaf.public_key);
            assert_eq!(chain_code.to_vec(), leaf.chain_code);
        });
    }
}

#[test]
fn unknown_keys_and_bad_arguments_are_refused() {
    let net = Net::new();
    let canister = net.canisters[0];
    let public_key = |key_id, path: Vec<Vec<u8>>| {
        let args = types::EcdsaPublicKeyArgs { canister_id: None, derivation_path: path, key_id };
        net.manage::<types::EcdsaPublicKeyResult>(canister, "ecdsa_public_key", &args).0.unwrap_err()
    };
    let (code, text) = public_key(ecdsa("key_2"), vec![]);
    assert_eq!(code, 4);
    assert!(
        text.contains("Requested unknown or disabled threshold key: ecdsa:Secp256k1:key_2, existing enabled keys: [ecdsa:Secp256k1:dfx_test_key, "),
        "{text}"
    );
    let (_, text) = public_key(EcdsaKeyId { curve: EcdsaCurve::Secp256r1, name: "key_1".into() }, vec![]);
    assert!(text.contains("secp256r1"), "{text}");
    let (_, text) = public_key(ecdsa("key_1"), vec![vec![]; 256]);
    assert!(text.contains("256 components"), "{text}");

    let sign = |message_hash: Vec<u8>, name: &str| {
        let args = types::SignWithEcdsaArgs { message_hash, derivation_path: vec![], key_id: ecdsa(name) };
        net.manage::<types::SignWithEcdsaResult>(canister, "sign_with_ecdsa", &args)
    };
    let (refused, cost) = sign(vec![0; 31], "key_1");
    assert!(refused.unwrap_err().1.contains("32 bytes, not of 31"));
    assert_eq!(cost, 0);
    assert_eq!(sign(vec![0; 32], "secret_key").1, 0);

    let bip340 = schnorr(SchnorrAlgorithm::Bip340secp256k1, "key_1");
    let aux = |n| Some(SchnorrAux::Bip341(types::Bip341 { merkle_root_hash: vec![0; n] }));
    let (_, text) = net.sign_schnorr(bip340, &[], b"message", aux(31)).unwrap_err();
    assert!(text.contains("31 bytes; it must have 0 or 32"), "{text}");
    let ed25519 = schnorr(SchnorrAlgorithm::Ed25519, "key_1");
    let (_, text) = net.sign_schnorr(ed25519, &[], b"message", aux(32)).unwrap_err();
    assert!(text.contains("not supported for ed25519"), "{text}");

    let args = types::SignWithEcdsaArgs {
        message_hash: vec![0; 32],
        derivation_path: vec![],
        key_id: ecdsa("key_1"),
    };
    let argument = Encode!(&"sign_with_ecdsa", &Encode!(&args).unwrap(), &5u128).unwrap();
    let reply = net.pic.update_call(canister, Principal::anonymous(), "manage", argument).unwrap();
    let (answer, refunded): (Result<Vec<u8>, (u32, String)>, u128) = candid::decode_args(&reply).unwrap();
    let expected = "sign_with_ecdsa request sent with 5 cycles, but 26153846153 cycles are required.";
    assert_eq!(answer.unwrap_err(), (4, expected.to_owned()));
    assert_eq!(refunded, 5);
}

#[test]
fn the_cycles_that_ic_cdk_attaches_are_enough() {
    let net = Net::new();
    let canister = net.canisters[0];
    let sign = |name: &str| {
        let argument = Encode!(&name, &vec![5u8; 32]).unwrap();
        let reply = net.pic.update_call(canister, Principal::anonymous(), "sign", argument).unwrap();
        decode_one::<Result<Vec<u8>, String>>(&reply).unwrap()
    };
    for name in KEYS {
        let key = net.ecdsa_key(canister, name, &[], None).public_key;
        assert!(verifies_ecdsa(&key, &[5; 32], &sign(name).unwrap()));
    }
    assert!(sign("key_2").unwrap_err().contains("invalid key name"), "{:?}", sign("key_2"));
}

#[test]
fn every_network_has_its_own_keys() {
    let keys = [Net::new(), Net::new()].map(|net| net.ecdsa_key(net.canisters[0], "key_1", &[], None));
    assert_ne!(keys[0].public_key, keys[1].public_key);
}
