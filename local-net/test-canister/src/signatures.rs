//! Canister signatures, as an identity provider makes them.

use ic_canister_sig_creation::signature_map::{CanisterSigInputs, LABEL_SIG, SignatureMap};
use ic_cdk::{query, update};
use std::cell::RefCell;

thread_local!(static SIGNATURES: RefCell<SignatureMap> = RefCell::default());

/// Prepares a signature of `message` in `domain` under the key with this seed.
#[update]
fn prepare_signature(seed: Vec<u8>, domain: Vec<u8>, message: Vec<u8>) {
    let inputs = CanisterSigInputs { domain: &domain, seed: &seed, message: &message };
    let root = SIGNATURES.with_borrow_mut(|signatures| {
        signatures.add_signature(&inputs);
        ic_certification::labeled_hash(LABEL_SIG, &signatures.root_hash())
    });
    ic_cdk::api::certified_data_set(root);
}

#[query]
fn get_signature(seed: Vec<u8>, domain: Vec<u8>, message: Vec<u8>) -> Result<Vec<u8>, String> {
    let inputs = CanisterSigInputs { domain: &domain, seed: &seed, message: &message };
    SIGNATURES.with_borrow(|s| s.get_signature_as_cbor(&inputs, None)).map_err(|e| e.to_string())
}
