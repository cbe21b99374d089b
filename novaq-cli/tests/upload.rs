//! Uploads against a repository that fails now and then: what is stored stays stored, and nothing is sent twice.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candid::Principal;
use ed25519_dalek::SigningKey;
use ic_agent::AgentError;
use indicatif::ProgressBar;
use novaq_cli::artifact_dir::{ArtifactDir, shard_file};
use novaq_cli::commands::sign::sign;
use novaq_cli::commands::upload::{Backoff, Upload, upload};
use novaq_cli::network::{CallError, Repository};
use shared_types::ModelId;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    Check, CheckKind, MissingShardsArgs, MissingShardsPage, ModelError, ModelRecord, Outcome, PutShardArgs,
    PutShardResult, UploadState, Validation, ValidationReport,
};
use tempfile::TempDir;

/// A repository in memory.
struct Repo {
    artifact: Arc<ArtifactDir>,
    stored: Mutex<BTreeSet<u32>>,
    puts: AtomicU32,
    calls: AtomicU32,
    /// Every call whose number is a multiple of this fails on the way.
    fail_every: u32,
    /// Calls after this one fail all the way.
    broken_after: u32,
    in_flight: AtomicU32,
    most_in_flight: AtomicU32,
    /// Whether validation finds something.
    wanting: bool,
}

impl Repo {
    fn new(artifact: &Arc<ArtifactDir>) -> Self {
        Self {
            artifact: Arc::clone(artifact),
            stored: Mutex::default(),
            puts: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            fail_every: u32::MAX,
            broken_after: u32::MAX,
            in_flight: AtomicU32::new(0),
            most_in_flight: AtomicU32::new(0),
            wanting: false,
        }
    }

    fn id(&self) -> ModelId {
        ModelId::new(self.artifact.model_id())
    }

    fn shards(&self) -> u32 {
        self.artifact.manifest().shards.len() as u32
    }

    fn missing(&self) -> u32 {
        self.shards() - self.stored.lock().unwrap().len() as u32
    }

    fn call(&self, method: &'static str) -> Result<(), CallError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if call.is_multiple_of(self.fail_every) || call > self.broken_after {
            return Err(CallError::Agent {
                method,
                source: Box::new(AgentError::TimeoutWaitingForResponse()),
            });
        }
        Ok(())
    }
}

impl Repository for Repo {
    async fn begin_upload(&self, manifest: Vec<u8>) -> Result<UploadState, CallError> {
        self.call("begin_upload")?;
        assert_eq!(manifest, self.artifact.manifest_bytes());
        Ok(UploadState {
            model_id: self.id(),
            status: ModelStatus::Pending,
            shards: self.shards(),
            missing: self.missing(),
            validation: Validation::NotStarted,
        })
    }

    async fn missing_shards(&self, args: MissingShardsArgs) -> Result<MissingShardsPage, CallError> {
        self.call("missing_shards")?;
        // Pages of two, so that there are several.
        let stored = self.stored.lock().unwrap();
        let rest =
            (0..self.shards()).filter(|i| !stored.contains(i) && args.after.is_none_or(|after| *i > after));
        let (indices, next) = shared_types::paging::page(rest, 2, |i| *i);
        Ok(MissingShardsPage { indices, next })
    }

    async fn put_shard(&self, args: PutShardArgs) -> Result<PutShardResult, CallError> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let expected = fs::read(self.artifact.shard_path(args.index)).unwrap();
        assert_eq!(args.bytes.as_slice(), expected);
        self.puts.fetch_add(1, Ordering::SeqCst);
        if self.calls.load(Ordering::SeqCst) >= self.broken_after {
            self.call("put_shard")?;
        }
        // A failure on the way back: the shard is stored, the reply is lost.
        let newly_stored = self.stored.lock().unwrap().insert(args.index);
        self.call("put_shard")?;
        Ok(PutShardResult { newly_stored, missing: self.missing() })
    }

    async fn finish_upload(&self, model_id: ModelId) -> Result<ModelRecord, CallError> {
        self.call("finish_upload")?;
        if self.missing() > 0 {
            let source = ModelError::Incomplete { missing: self.missing() };
            return Err(CallError::Refused { method: "finish_upload", source });
        }
        Ok(ModelRecord {
            model_id,
            name: "synthetic".into(),
            version: "1.0.0".into(),
            license: "CC0-1.0".into(),
            status: ModelStatus::Pending,
            uploader: Principal::anonymous(),
            bytes: self.artifact.manifest().shard_bytes(),
            manifest_bytes: 0,
            shards: self.shards(),
            missing: 0,
            created_at_ns: 0,
            validation: Validation::Running { shards: 0 },
            activated_at_ns: None,
            deprecation: None,
            card: None,
        })
    }

    async fn get_model(&self, model_id: ModelId) -> Result<ModelRecord, CallError> {
        let record = self.finish_upload(model_id).await?;
        let at_ns = 1;
        let validation =
            if self.wanting { Validation::Failed { at_ns } } else { Validation::Passed { at_ns } };
        Ok(ModelRecord { validation, ..record })
    }

    async fn validation_report(&self, model_id: ModelId) -> Result<ValidationReport, CallError> {
        let outcome = Outcome::Failed { reason: "license: is `unspecified`".to_owned() };
        Ok(ValidationReport {
            model_id,
            validator: "test".to_owned(),
            started_at_ns: 0,
            finished_at_ns: Some(1),
            shards: 0,
            bytes: 0,
            instructions: 0,
            messages: 1,
            checks: vec![Check { kind: CheckKind::License, outcome }],
            rows: Vec::new(),
        })
    }
}

const QUICK: Backoff = Backoff { attempts: 4, first: Duration::from_millis(1) };

fn artifact() -> (TempDir, Arc<ArtifactDir>) {
    let folder = tempfile::tempdir().unwrap();
    common::write_artifact(folder.path(), 1536);
    let artifact = ArtifactDir::open(folder.path()).unwrap();
    assert!(artifact.manifest().shards.len() >= 4, "{} shards", artifact.manifest().shards.len());
    (folder, Arc::new(artifact))
}

async fn run(repo: &Arc<Repo>) -> anyhow::Result<Upload> {
    let manifest = repo.artifact.manifest_bytes().to_vec();
    upload(Arc::clone(repo), Arc::clone(&repo.artifact), manifest, 3, QUICK, &ProgressBar::hidden()).await
}

#[tokio::test]
async fn failures_on_the_way_are_tried_again() {
    let (_folder, artifact) = artifact();
    let repo = Arc::new(Repo { fail_every: 3, ..Repo::new(&artifact) });
    let result = run(&repo).await.unwrap();
    assert_eq!((result.status, result.shards), ("pending", repo.shards()));
    assert_eq!(repo.missing(), 0);
    assert!(repo.puts.load(Ordering::SeqCst) > repo.shards(), "some shards were sent again");
    let most = repo.most_in_flight.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at the same time");
}

#[tokio::test]
async fn an_interrupted_upload_goes_on() {
    let (_folder, artifact) = artifact();
    let mut repo = Repo { broken_after: 5, ..Repo::new(&artifact) };
    let error = run(&Arc::new(Repo { broken_after: 0, ..Repo::new(&artifact) })).await.unwrap_err();
    assert_eq!(error.to_string(), "call of `begin_upload` failed");

    let interrupted = Arc::new(repo);
    assert!(run(&interrupted).await.is_err());
    let before = interrupted.missing();
    assert!((1..interrupted.shards()).contains(&before), "{before} are missing");
    let stored = interrupted.stored.lock().unwrap().clone();

    repo = Repo { stored: Mutex::new(stored), ..Repo::new(&artifact) };
    let resumed = Arc::new(repo);
    let result = run(&resumed).await.unwrap();
    assert_eq!(result.uploaded, before);
    assert_eq!(resumed.puts.load(Ordering::SeqCst), before, "what was there is not sent again");

    let again = run(&resumed).await.unwrap();
    assert_eq!((again.uploaded, again.uploaded_bytes), (0, 0));
}

#[tokio::test]
async fn what_validation_finds_is_told() {
    let (_folder, artifact) = artifact();
    let repo = Arc::new(Repo { wanting: true, ..Repo::new(&artifact) });
    let result = run(&repo).await.unwrap();
    assert_eq!(
        (result.validated, result.failures),
        (Some(false), vec!["license: is `unspecified`".to_owned()])
    );
    let result = run(&Arc::new(Repo::new(&artifact))).await.unwrap();
    assert_eq!((result.validated, result.failures), (Some(true), Vec::new()));
}

#[tokio::test]
async fn a_damaged_shard_is_not_sent() {
    let (folder, artifact) = artifact();
    let path = folder.path().join(shard_file(2));
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let repo = Arc::new(Repo::new(&artifact));
    let error = run(&repo).await.unwrap_err();
    assert_eq!(error.to_string(), format!("`{}` is refused", path.display()));
    assert!(!repo.stored.lock().unwrap().contains(&2));
}

#[test]
fn a_signature_keeps_the_id_and_is_not_replaced_by_accident() {
    let (folder, artifact) = artifact();
    let (own, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    sign(folder.path(), &own, false).unwrap();
    sign(folder.path(), &own, false).unwrap();
    let signed = ArtifactDir::open(folder.path()).unwrap();
    assert_eq!(signed.model_id(), artifact.model_id());
    assert!(signed.manifest().signature.unwrap().verifies(&artifact.model_id()));
    let refused = sign(folder.path(), &other, false).unwrap_err().to_string();
    assert!(refused.contains("is signed by the key"), "{refused}");
    let signature = sign(folder.path(), &other, true).unwrap();
    assert_eq!(signature.public_key, other.verifying_key().to_bytes());
}
