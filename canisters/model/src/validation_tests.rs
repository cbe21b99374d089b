//! Real artifacts, and ones with one thing wrong.

use ed25519_dalek::SigningKey;
use ic_stable_structures::DefaultMemoryImpl;
use novaq_engine::artifact::{Loader, Shards, Signature};
use novaq_engine::kernel::Fold;
use novaq_engine::model::{Config, RopeScaling, Variant};
use novaq_engine::synth::{self, Format, Synthetic};
use shared_types::model::{Policy, ProposalAction, RoleGrant};
use std::sync::Arc;

use super::*;
use crate::memory::Memories;

const ADMIN: Principal = Principal::from_slice(&[1]);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The principal of the identity with this key.
fn identity(key: &SigningKey) -> Principal {
    Principal::self_authenticating([&DER_HEAD[..], &key.verifying_key().to_bytes()].concat())
}

fn context(caller: Principal) -> CallContext {
    CallContext { caller, now_ns: 77 }
}

/// A small model of additive and low-rank codes, unsigned.
fn artifact(low_rank: bool) -> (Manifest, Vec<Vec<u8>>) {
    synthesize(synthetic(low_rank))
}

fn synthetic(low_rank: bool) -> Synthetic {
    let config = Config {
        // Makes a second shard.
        vocab_size: 30_000,
        hidden_size: 64,
        intermediate_size: 160,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 32,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        variant: Variant::default(),
    };
    let body = if low_rank {
        Format::LowRank { rank: 20 }
    } else {
        Format::Aq { codebooks: 4, dimension: 8, fold: Fold::ONE }
    };
    let tokenizer = synth::tokenizer(config.vocab_size).unwrap().to_bytes();
    Synthetic { config, body, embedding: Format::Int8, seed: 4, tokenizer }
}

fn synthesize(synthetic: Synthetic) -> (Manifest, Vec<Vec<u8>>) {
    let mut shards = Vec::new();
    let manifest = synthetic.write(&mut shards).unwrap();
    assert_eq!(shards.len(), 2);
    (manifest, shards)
}

fn sign(manifest: Manifest, key: &SigningKey) -> Manifest {
    let signature = Some(Signature::new(key, &manifest.id().unwrap()));
    Manifest { signature, ..manifest }
}

fn installed(uploader: Principal) -> Repository {
    let mut repository = Repository::open(Memories::of(DefaultMemoryImpl::default()));
    repository.install(&context(ADMIN), vec![ADMIN], Vec::new(), Policy::default());
    let grant = RoleGrant { principal: uploader, role: Role::Uploader };
    repository.propose(&context(ADMIN), ProposalAction::GrantRole(grant)).unwrap();
    repository
}

/// Uploads and validates with a meter that counts `steps` steps a message; returns the report.
fn validated(
    repository: &mut Repository,
    uploader: Principal,
    manifest: &Manifest,
    shards: &[Vec<u8>],
    damage: impl FnOnce(&mut Repository, &ModelId),
) -> ValidationReport {
    let bytes = manifest.to_bytes().unwrap();
    let id = repository.begin_upload(&context(uploader), &bytes).unwrap().model_id;
    for (index, shard) in shards.iter().enumerate() {
        repository.put_shard(&context(uploader), &id, index as u32, shard).unwrap();
    }
    damage(repository, &id);
    repository.finish_upload(&context(uploader), &id).unwrap();
    let mut messages = 0;
    loop {
        messages += 1;
        // Each look at the meter is an instruction, so that a message does few steps.
        let count = std::cell::Cell::new(0);
        let meter = || count.replace(count.get() + 1);
        if !repository.validate(&context(ADMIN), &meter, 3) {
            break;
        }
    }
    let report = repository.validation_report(&context(uploader), &id).unwrap();
    assert_eq!(report.messages, messages, "{report:?}");
    assert_eq!(report.finished_at_ns, Some(77));
    let record = repository.get_model(&context(uploader), &id).unwrap();
    assert_eq!(matches!(record.validation, Validation::Passed { .. }), report.passed());
    report
}

fn outcome_of(report: &ValidationReport, kind: CheckKind) -> Outcome {
    report.checks.iter().find(|check| check.kind == kind).map(|check| check.outcome.clone()).unwrap()
}

#[test]
fn a_whole_model_passes_in_slices_and_its_rows_are_those_of_the_engine() {
    for low_rank in [false, true] {
        let (key, (manifest, shards)) = (key(5), artifact(low_rank));
        let manifest = sign(manifest, &key);
        let mut repository = installed(identity(&key));
        let report = validated(&mut repository, identity(&key), &manifest, &shards, |_, _| {});
        assert!(report.passed(), "{report:?}");
        assert_eq!(report.checks.len(), 8);
        assert_eq!((report.shards, report.bytes), (2, manifest.shard_bytes()));
        assert!(report.messages > 1 && report.rows.len() >= 8);
        let source = Shards(shards);
        let mut loader = Loader::new(Arc::new(manifest.clone()));
        for row in &report.rows {
            let index = manifest.tensors.iter().position(|tensor| tensor.name == row.tensor).unwrap();
            let values = loader.decode(index, &source).unwrap();
            let columns = row.columns as usize;
            let values = &values[row.row as usize * columns..][..columns];
            assert_eq!(*row, decoded(&row.tensor, row.row as usize, values));
        }
    }
}

#[test]
fn what_is_wrong_is_named_and_can_not_be_proposed() {
    let (own, other) = (key(5), key(6));
    let uploader = identity(&own);
    let (manifest, shards) = artifact(false);
    let failure = |manifest: &Manifest, kind: CheckKind, damage: fn(&mut Repository, &ModelId)| {
        let mut repository = installed(uploader);
        let report = validated(&mut repository, uploader, manifest, &shards, damage);
        let Outcome::Failed { reason } = outcome_of(&report, kind) else { panic!("{report:?}") };
        let propose = ProposalAction::Activate { model_id: report.model_id };
        let refused = repository.propose(&context(ADMIN), propose).unwrap_err();
        assert!(matches!(refused, ModelError::ValidationFailed { .. }), "{refused}");
        reason
    };
    let nothing: fn(&mut Repository, &ModelId) = |_, _| {};
    let reason = failure(&manifest, CheckKind::Signature, nothing);
    assert_eq!(reason, "signature: is missing, and the policy wants one");
    // Signed by somebody who is not the uploader: whoever replays another's signature has this.
    let reason = failure(&sign(manifest.clone(), &other), CheckKind::Signature, nothing);
    assert!(reason.starts_with("signature: its key is not one of the uploader"), "{reason}");
    // A signature of another model.
    let replayed = Some(Signature::new(&own, &[1; 32]));
    let forged = Manifest { signature: replayed, ..manifest.clone() };
    assert_eq!(failure(&forged, CheckKind::Signature, nothing), "signature: is not one of this model");

    let signed = sign(manifest.clone(), &own);
    let reason = failure(&signed, CheckKind::Shards, |repository, id| {
        let entry = repository.entry(id).unwrap();
        let (_, shard) = repository.shard(&entry.record, 1).unwrap();
        repository.region.write(shard.offset + 30, b"other bytes").unwrap();
    });
    assert!(reason.starts_with("shard 1: its SHA-256 is "), "{reason}");
    let reason = failure(&signed, CheckKind::Manifest, |repository, id| {
        let offset = repository.entry(id).unwrap().offset;
        repository.region.write(offset, b"{ ").unwrap();
    });
    assert!(reason.starts_with("manifest"), "{reason}");

    let nameless =
        sign(Manifest { license: NO_LICENSE.to_owned(), ..manifest.clone() }.recounted().unwrap(), &own);
    assert_eq!(failure(&nameless, CheckKind::License, nothing), "license: is `unspecified`");
    let mut layers = manifest;
    layers.tensors.retain(|tensor| tensor.name != "model.norm.weight");
    let reason = failure(&sign(layers.recounted().unwrap(), &own), CheckKind::Architecture, nothing);
    assert_eq!(reason, "tensor `model.norm.weight` is missing");
}

#[test]
fn a_tokenizer_that_is_none_or_another_models_is_found() {
    let key = key(5);
    let reason = |tokenizer: Vec<u8>| {
        let (manifest, shards) = synthesize(Synthetic { tokenizer, ..synthetic(false) });
        let mut repository = installed(identity(&key));
        let report = validated(&mut repository, identity(&key), &sign(manifest, &key), &shards, |_, _| {});
        let Outcome::Failed { reason } = outcome_of(&report, CheckKind::Tokenizer) else {
            panic!("{report:?}")
        };
        reason
    };
    let whole = synth::tokenizer(30_000).unwrap().to_bytes();
    assert!(reason(whole[..whole.len() - 1].to_vec()).ends_with("the bytes end before it does"));
    let more = reason(synth::tokenizer(30_001).unwrap().to_bytes());
    assert_eq!(more, "the tokenizer has 30001 tokens, the model knows 30000");
}

#[test]
fn a_validation_that_traps_ends_and_lets_others_have_their_turn() {
    let key = key(5);
    let mut repository = installed(identity(&key));
    let (manifest, shards) = artifact(false);
    let manifest = sign(manifest, &key);
    let bytes = manifest.to_bytes().unwrap();
    let id = repository.begin_upload(&context(identity(&key)), &bytes).unwrap().model_id;
    for (index, shard) in shards.iter().enumerate() {
        repository.put_shard(&context(identity(&key)), &id, index as u32, shard).unwrap();
    }
    repository.finish_upload(&context(identity(&key)), &id).unwrap();
    let running = |repository: &Repository| repository.status().validations;
    repository.slice_trapped(&context(ADMIN));
    assert_eq!(running(&repository), 1);
    repository.slice_trapped(&context(ADMIN));
    assert_eq!(running(&repository), 0);
    let report = repository.validation_report(&context(identity(&key)), &id).unwrap();
    let reason = "the canister trapped 2 times on the way".to_owned();
    assert_eq!(outcome_of(&report, CheckKind::Manifest), Outcome::Failed { reason });
    // Nothing is left that could trap.
    repository.slice_trapped(&context(ADMIN));
    // Whoever thinks better of it has it validated again.
    repository.finish_upload(&context(identity(&key)), &id).unwrap();
    assert!(!repository.validate(&context(ADMIN), &|| 0, 1));
    assert!(repository.validation_report(&context(identity(&key)), &id).unwrap().passed());
}

#[test]
fn an_auditor_has_an_active_model_read_again() {
    let key = key(5);
    let (manifest, shards) = artifact(false);
    let mut repository = installed(identity(&key));
    let report = validated(&mut repository, identity(&key), &sign(manifest, &key), &shards, |_, _| {});
    let id = report.model_id;
    repository.propose(&context(ADMIN), ProposalAction::Activate { model_id: id }).unwrap();
    let auditor = Principal::from_slice(&[8]);
    let refused = ModelError::Unauthorized { required: Role::Auditor };
    assert_eq!(repository.revalidate(&context(auditor), &id), Err(refused));
    let grant = RoleGrant { principal: auditor, role: Role::Auditor };
    repository.propose(&context(ADMIN), ProposalAction::GrantRole(grant)).unwrap();
    let before = repository.get_model(&context(auditor), &id).unwrap();
    repository.revalidate(&context(auditor), &id).unwrap();
    assert_eq!(repository.revalidate(&context(auditor), &id), Err(ModelError::ValidationRunning));
    assert!(!repository.validate(&context(ADMIN), &|| 0, 1));
    assert!(repository.validation_report(&context(auditor), &id).unwrap().passed());
    assert_eq!(repository.get_model(&context(auditor), &id).unwrap(), before);
}
