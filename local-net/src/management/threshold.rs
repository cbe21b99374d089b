//! Threshold ECDSA and Schnorr, with keys that this network alone holds.
//!
//! Keys are derived as on the Internet Computer: from a master key by the caller's canister id and the derivation path.
//! The master keys come from the network's seed, so the same network has the same keys in every run, and nobody else has.

use super::{Outcome, decode, encode, take_fee};
use crate::{
    network::{Network, SubnetIndex},
    reject::{ErrorCode, Reject, Response},
};
use candid::Principal;
use ic_management_canister_types as types;
use types::{EcdsaCurve, SchnorrAlgorithm, SchnorrAux};

/// Components of a derivation path (interface specification, `ecdsa_public_key`).
const MAX_PATH: usize = 255;
/// Bytes of a digest that ECDSA signs.
const DIGEST_BYTES: usize = 32;

/// The names of the keys: those of the Internet Computer, and the one that local networks have always had.
pub const THRESHOLD_KEYS: [&str; 3] = ["dfx_test_key", "key_1", "test_key_1"];

/// The seed of a master key; `algorithm` and `name` as the replica writes key ids.
fn master_seed(seed: [u8; 32], algorithm: &str, name: &str) -> Vec<u8> {
    [&seed, algorithm.as_bytes(), b":", name.as_bytes()].concat()
}

fn invalid(message: String) -> Reject {
    Reject::new(ErrorCode::CanisterRejectedMessage, message)
}

fn check_key(algorithm: &str, name: &str) -> Result<(), Reject> {
    if THRESHOLD_KEYS.contains(&name) {
        return Ok(());
    }
    let known = THRESHOLD_KEYS.map(|name| format!("{algorithm}:{name}"));
    Err(invalid(format!(
        "Requested unknown or disabled threshold key: {algorithm}:{name}, existing enabled keys: [{}]",
        known.join(", ")
    )))
}

fn check_path(path: &[Vec<u8>]) -> Result<(), Reject> {
    if path.len() > MAX_PATH {
        return Err(invalid(format!(
            "the derivation path has {} components, more than {MAX_PATH}",
            path.len()
        )));
    }
    Ok(())
}

fn ecdsa_name(key: &types::EcdsaKeyId) -> Result<&'static str, Reject> {
    match key.curve {
        EcdsaCurve::Secp256k1 => Ok("ecdsa:Secp256k1"),
        EcdsaCurve::Secp256r1 => Err(invalid("secp256r1 is not a supported curve".into())),
    }
}

fn schnorr_name(algorithm: SchnorrAlgorithm) -> &'static str {
    match algorithm {
        SchnorrAlgorithm::Bip340secp256k1 => "schnorr:Bip340Secp256k1",
        SchnorrAlgorithm::Ed25519 => "schnorr:Ed25519",
    }
}

impl Network {
    /// A key on secp256k1 and its chain code.
    fn secp256k1_key(
        &self,
        algorithm: &str,
        name: &str,
        canister: Principal,
        path: &[Vec<u8>],
    ) -> (ic_secp256k1::PrivateKey, [u8; 32]) {
        let path = ic_secp256k1::DerivationPath::from_canister_id_and_path(canister.as_slice(), path);
        ic_secp256k1::PrivateKey::generate_from_seed(&master_seed(self.seed, algorithm, name))
            .derive_subkey(&path)
    }

    fn ed25519_key(
        &self,
        name: &str,
        canister: Principal,
        path: &[Vec<u8>],
    ) -> (ic_ed25519::DerivedPrivateKey, [u8; 32]) {
        let algorithm = schnorr_name(SchnorrAlgorithm::Ed25519);
        let path = ic_ed25519::DerivationPath::from_canister_id_and_path(canister.as_slice(), path);
        ic_ed25519::PrivateKey::generate_from_seed(&master_seed(self.seed, algorithm, name))
            .derive_subkey(&path)
    }

    pub(super) fn ecdsa_public_key(&self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::EcdsaPublicKeyArgs = decode(argument)?;
        let algorithm = ecdsa_name(&args.key_id)?;
        check_key(algorithm, &args.key_id.name)?;
        check_path(&args.derivation_path)?;
        let owner = args.canister_id.unwrap_or(caller);
        let (key, chain_code) =
            self.secp256k1_key(algorithm, &args.key_id.name, owner, &args.derivation_path);
        encode(types::EcdsaPublicKeyResult {
            public_key: key.public_key().serialize_sec1(true),
            chain_code: chain_code.to_vec(),
        })
    }

    pub(super) fn sign_with_ecdsa(
        &self,
        caller: Principal,
        argument: &[u8],
        cycles: u128,
        subnet: SubnetIndex,
    ) -> Result<Outcome, Reject> {
        let args: types::SignWithEcdsaArgs = decode(argument)?;
        let algorithm = ecdsa_name(&args.key_id)?;
        check_key(algorithm, &args.key_id.name)?;
        check_path(&args.derivation_path)?;
        let fee = self.subnets()[subnet].fees().threshold_signature(&args.key_id.name);
        let refund = take_fee("sign_with_ecdsa", fee, cycles)?;
        if args.message_hash.len() != DIGEST_BYTES {
            return Err(invalid(format!(
                "sign_with_ecdsa needs a message hash of {DIGEST_BYTES} bytes, not of {}",
                args.message_hash.len()
            )));
        }
        let (key, _) = self.secp256k1_key(algorithm, &args.key_id.name, caller, &args.derivation_path);
        let signature = key.sign_digest_with_ecdsa(&args.message_hash).to_vec();
        Ok(Outcome::Answered { response: encode(types::SignWithEcdsaResult { signature }), refund })
    }

    pub(super) fn schnorr_public_key(&self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::SchnorrPublicKeyArgs = decode(argument)?;
        let (algorithm, name) = (schnorr_name(args.key_id.algorithm), &args.key_id.name);
        check_key(algorithm, name)?;
        check_path(&args.derivation_path)?;
        let owner = args.canister_id.unwrap_or(caller);
        let (public_key, chain_code) = match args.key_id.algorithm {
            SchnorrAlgorithm::Bip340secp256k1 => {
                let (key, code) = self.secp256k1_key(algorithm, name, owner, &args.derivation_path);
                (key.public_key().serialize_sec1(true), code)
            }
            SchnorrAlgorithm::Ed25519 => {
                let (key, code) = self.ed25519_key(name, owner, &args.derivation_path);
                (key.public_key().serialize_raw().to_vec(), code)
            }
        };
        encode(types::SchnorrPublicKeyResult { public_key, chain_code: chain_code.to_vec() })
    }

    pub(super) fn sign_with_schnorr(
        &self,
        caller: Principal,
        argument: &[u8],
        cycles: u128,
        subnet: SubnetIndex,
    ) -> Result<Outcome, Reject> {
        let args: types::SignWithSchnorrArgs = decode(argument)?;
        let (algorithm, name) = (schnorr_name(args.key_id.algorithm), &args.key_id.name);
        check_key(algorithm, name)?;
        check_path(&args.derivation_path)?;
        let fee = self.subnets()[subnet].fees().threshold_signature(name);
        let refund = take_fee("sign_with_schnorr", fee, cycles)?;
        let path = &args.derivation_path;
        let signature = match (args.key_id.algorithm, &args.aux) {
            (SchnorrAlgorithm::Bip340secp256k1, None) => self
                .secp256k1_key(algorithm, name, caller, path)
                .0
                .sign_message_with_bip340_no_rng(&args.message),
            (SchnorrAlgorithm::Bip340secp256k1, Some(SchnorrAux::Bip341(tweak))) => self
                .secp256k1_key(algorithm, name, caller, path)
                .0
                .sign_message_with_bip341_no_rng(&args.message, &tweak.merkle_root_hash)
                .map_err(|_| {
                    invalid(format!(
                        "the merkle root hash of `bip341` has {} bytes; it must have 0 or 32",
                        tweak.merkle_root_hash.len()
                    ))
                })?,
            (SchnorrAlgorithm::Ed25519, None) => {
                self.ed25519_key(name, caller, path).0.sign_message(&args.message)
            }
            (SchnorrAlgorithm::Ed25519, Some(_)) => {
                return Err(invalid("`aux` is not supported for ed25519".into()));
            }
        };
        let reply = types::SignWithSchnorrResult { signature: signature.to_vec() };
        Ok(Outcome::Answered { response: encode(reply), refund })
    }
}
