//! `novaq upload`: brings an artifact into the model repository.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args as ClapArgs;
use indicatif::ProgressBar;
use novaq_engine::artifact::Signature;
use serde::Serialize;
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{MissingShardsArgs, ModelRecord, Outcome, PutShardArgs, Validation};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::sign::signed;
use crate::artifact_dir::ArtifactDir;
use crate::network::{self, CallError, ModelCanister, NetworkArgs, Repository};
use crate::output::HintExt;
use crate::{output, say};

/// Time between two looks at a validation.
const VALIDATION_POLL: Duration = Duration::from_millis(500);

/// Time without progress after which a validation is given up.
const VALIDATION_PATIENCE: Duration = Duration::from_mins(5);

/// Upload an artifact to a model repository, signed by the identity, and have it validated. Interrupted uploads go on where they
/// stopped, from whatever machine.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    #[command(flatten)]
    network: NetworkArgs,

    /// PEM file of the ed25519 key to sign an artifact with that is not signed yet; by default the identity's, if it is one.
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,

    /// Shards on their way at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What an upload did.
#[derive(Debug, PartialEq, Serialize)]
pub struct Upload {
    /// The model's id, in hexadecimal.
    pub model_id: String,
    /// The repository that it went to, if not the one that was asked.
    pub elsewhere: Option<String>,
    /// `pending`, `active` or `deprecated`.
    pub status: &'static str,
    /// Whether validation passed; `None` where there was none, since the model was there.
    pub validated: Option<bool>,
    /// What validation found wrong.
    pub failures: Vec<String>,
    /// Shards of the model.
    pub shards: u32,
    /// Shards that were stored by this run.
    pub uploaded: u32,
    /// Bytes of these.
    pub uploaded_bytes: u64,
    /// Seconds that storing them took.
    pub seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// If the artifact is damaged, or the repository cannot be reached, refuses it or finds it wanting.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let artifact = Arc::new(ArtifactDir::open(&args.artifact)?);
    let manifest = signed_manifest(&artifact, args)?;
    let checked = output::progress_bytes(artifact.manifest().shard_bytes(), "Checking");
    artifact.verify_shards(|bytes| checked.inc(bytes))?;
    checked.finish_and_clear();

    let runtime = tokio::runtime::Runtime::new().context("the asynchronous runtime cannot start")?;
    let upload = runtime.block_on(async {
        let first = ModelCanister::connect(&args.network).await?;
        let asked = first.id();
        let bytes = artifact.manifest().shard_bytes() + manifest.len() as u64;
        let canister = Arc::new(first.repository_for(ModelId::new(artifact.model_id()), bytes).await?);
        let repository = canister.id();
        let bar = output::progress_bytes(artifact.manifest().shard_bytes(), "Uploading");
        let jobs = usize::from(args.jobs);
        let result = upload(canister, Arc::clone(&artifact), manifest, jobs, Backoff::default(), &bar).await;
        bar.finish_and_clear();
        let elsewhere = (repository != asked).then(|| repository.to_text());
        result.map(|upload| Upload { elsewhere, ..upload })
    });
    let upload = upload.map_err(network::with_hint)?;
    if args.json {
        output::json(&upload)?;
    } else {
        print(&upload);
    }
    if upload.validated == Some(false) {
        return Err(anyhow::anyhow!("{}", upload.failures.join("; ")).context("validation failed"))
            .hint(|| format!("`novaq models report {}` shows every check", upload.model_id));
    }
    Ok(())
}

fn print(upload: &Upload) {
    say!("Model id: {}", upload.model_id);
    if let Some(repository) = &upload.elsewhere {
        say!("Repository: {repository}, which has the room");
    }
    if upload.uploaded == 0 {
        say!("Uploaded: nothing, the repository has all shards");
    } else {
        let uploaded = output::counted(upload.uploaded.into(), "shard");
        let speed = output::bytes((upload.uploaded_bytes as f64 / upload.seconds.max(1e-3)) as u64);
        let size = output::bytes(upload.uploaded_bytes);
        say!("Uploaded: {uploaded} of {} ({size}, {speed} per second)", upload.shards);
    }
    match upload.validated {
        Some(true) => say!("Validation: passed"),
        Some(false) => say!("Validation: failed"),
        None => {}
    }
    say!("Status: {}", upload.status);
    if upload.status == "pending" && upload.validated == Some(true) {
        let elsewhere = upload.elsewhere.as_ref().map(|repository| format!(" --canister {repository}"));
        say!("Next: `novaq models activate {}{}`", upload.model_id, elsewhere.unwrap_or_default());
    }
}

/// The manifest's bytes, signed if there is a key to sign with.
fn signed_manifest(artifact: &ArtifactDir, args: &Args) -> anyhow::Result<Vec<u8>> {
    let manifest = artifact.manifest();
    let key = match (&args.sign, args.network.identity()) {
        _ if manifest.signature.is_some() => None,
        (Some(path), _) => Some(network::read_signing_key(path)?),
        // Other kinds of identities upload what is signed already, or what need not be.
        (None, Some(path)) => network::read_signing_key(path).ok(),
        (None, None) => None,
    };
    match key {
        Some(key) => signed(manifest, Signature::new(&key, &artifact.model_id())),
        None => Ok(artifact.manifest_bytes().to_vec()),
    }
}

/// How long to wait before a call is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// The first pause; each one after it is twice as long.
    pub first: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { attempts: 6, first: Duration::from_millis(500) }
    }
}

impl Backoff {
    /// Tries `call` until it succeeds, fails for good, or the attempts are used up.
    async fn retry<T, F: Future<Output = Result<T, CallError>>>(
        self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, CallError> {
        let mut pause = self.first;
        for attempt in 1.. {
            match call().await {
                Err(error) if error.is_transient() && attempt < self.attempts => {
                    tracing::info!(%error, attempt, "trying again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        unreachable!("the last attempt returns")
    }
}

/// Uploads what the repository lacks, at most `jobs` shards at a time, and waits for the validation; `manifest` has the bytes of
/// the artifact's manifest, with a signature or without, and `bar` counts the bytes that are there.
///
/// # Errors
/// If a shard is damaged, or a call fails for good. What was stored stays stored.
pub async fn upload<R: Repository + 'static>(
    repository: Arc<R>,
    artifact: Arc<ArtifactDir>,
    manifest: Vec<u8>,
    jobs: usize,
    backoff: Backoff,
    bar: &ProgressBar,
) -> anyhow::Result<Upload> {
    let state = backoff.retry(|| repository.begin_upload(manifest.clone())).await?;
    let model_id = state.model_id;
    anyhow::ensure!(
        *model_id.as_bytes() == artifact.model_id(),
        "the repository computes another id ({model_id}) than this version of novaq"
    );
    let mut upload = Upload {
        model_id: model_id.to_string(),
        elsewhere: None,
        status: status_name(state.status),
        validated: None,
        failures: Vec::new(),
        shards: state.shards,
        uploaded: 0,
        uploaded_bytes: 0,
        seconds: 0.0,
    };
    if state.status == ModelStatus::Pending {
        let missing = missing_shards(&*repository, model_id, backoff).await?;
        let bytes_of =
            |index: u32| artifact.manifest().shards.get(index as usize).map_or(0, |shard| shard.bytes);
        let missing_bytes: u64 = missing.iter().map(|&index| bytes_of(index)).sum();
        bar.inc(artifact.manifest().shard_bytes().saturating_sub(missing_bytes));
        let begin = Instant::now();
        let permits = Arc::new(Semaphore::new(jobs));
        let mut tasks = JoinSet::new();
        for index in missing {
            let (repository, artifact, permits) =
                (Arc::clone(&repository), Arc::clone(&artifact), Arc::clone(&permits));
            tasks.spawn(async move {
                let _permit = permits.acquire_owned().await.context("the upload was given up")?;
                let bytes = ByteBuf::from(artifact.read_shard(index)?);
                let len = bytes.len() as u64;
                let args = PutShardArgs { model_id, index, bytes };
                let result =
                    backoff.retry(|| repository.put_shard(args.clone())).await.with_context(|| {
                        format!("shard `{}` was not stored", artifact.shard_path(index).display())
                    })?;
                anyhow::Ok((len, result.newly_stored))
            });
        }
        while let Some(task) = tasks.join_next().await {
            let (bytes, newly_stored) = task.context("an upload task failed")??;
            bar.inc(bytes);
            if newly_stored {
                upload.uploaded += 1;
                upload.uploaded_bytes += bytes;
            }
        }
        upload.seconds = begin.elapsed().as_secs_f64();
        let record = backoff.retry(|| repository.finish_upload(model_id)).await?;
        let record = wait_for_validation(&*repository, record, backoff).await?;
        upload.status = status_name(record.status);
        let passed = matches!(record.validation, Validation::Passed { .. });
        upload.validated = Some(passed);
        if !passed {
            let report = backoff.retry(|| repository.validation_report(model_id)).await?;
            upload.failures = failures(report.checks.into_iter().map(|check| check.outcome));
        }
    }
    Ok(upload)
}

/// What is wrong, one reason per check that failed.
fn failures(outcomes: impl Iterator<Item = Outcome>) -> Vec<String> {
    outcomes
        .filter_map(|outcome| if let Outcome::Failed { reason } = outcome { Some(reason) } else { None })
        .collect()
}

/// Waits until the canister has validated the model.
async fn wait_for_validation<R: Repository>(
    repository: &R,
    mut record: ModelRecord,
    backoff: Backoff,
) -> anyhow::Result<ModelRecord> {
    let mut moved = (Instant::now(), record.validation);
    while matches!(record.validation, Validation::Running { .. }) {
        anyhow::ensure!(
            moved.0.elapsed() < VALIDATION_PATIENCE,
            "the repository does not go on with the validation"
        );
        tokio::time::sleep(VALIDATION_POLL).await;
        record = backoff.retry(|| repository.get_model(record.model_id)).await?;
        if record.validation != moved.1 {
            moved = (Instant::now(), record.validation);
        }
    }
    Ok(record)
}

/// All shards that the repository does not have, in rising order.
async fn missing_shards<R: Repository>(
    repository: &R,
    model_id: ModelId,
    backoff: Backoff,
) -> Result<Vec<u32>, CallError> {
    let mut missing = Vec::new();
    let mut after = None;
    loop {
        let args = MissingShardsArgs { model_id, after, limit: shared_types::paging::MAX_PAGE };
        let page = backoff.retry(|| repository.missing_shards(args.clone())).await?;
        missing.extend(page.indices);
        after = page.next;
        if after.is_none() {
            return Ok(missing);
        }
    }
}

/// A status as it is printed.
pub(super) fn status_name(status: ModelStatus) -> &'static str {
    match status {
        ModelStatus::Pending => "pending",
        ModelStatus::Active => "active",
        ModelStatus::Deprecated => "deprecated",
    }
}
