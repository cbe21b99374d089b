//! Validation: everything about a stored model is looked at again, in slices, before anybody may propose it.

use canister_common::cbor::{Cbor, Extensible};
use novaq_engine::artifact::{ArtifactError, Manifest, ShardHeader, ShardSource, decode_row, read_tokenizer};
use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    AuditEvent, Check, CheckKind, DecodedRow, ModelError, ModelRecord, Outcome, Role, Validation,
    ValidationReport,
};
use shared_types::{Digest, ModelId};
use std::collections::BTreeSet;
use std::error::Error;

use candid::Principal;

use crate::guards::CallContext;
use crate::repository::{ModelEntry, Repository};

/// Instructions after which a slice takes no further step; a step is at most a manifest, a shard, a handful of rows or a tokenizer.
pub const SLICE_INSTRUCTIONS: u64 = 2_000_000_000;

/// Tensors of which a row is decoded, spread over the model, beside the first of each codec.
const DECODED_TENSORS: usize = 8;

/// Slices of a validation that may trap; after that many it ends.
const MAX_TRAPS: u32 = 2;

/// What `novaq compress` writes where nobody knows the licence.
const NO_LICENSE: &str = "unspecified";

/// The head of an ed25519 public key in DER (RFC 8410), of which the principal of an identity is the hash.
const DER_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A validation under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    report: ValidationReport,
    next: Step,
    /// Slices that trapped.
    #[serde(default)]
    traps: u32,
}

/// What a validation does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Manifest,
    Shard(u32),
    Rows,
    Tokenizer,
    Done,
}

impl Step {
    /// What the step looks at.
    fn kind(self) -> CheckKind {
        match self {
            Self::Manifest => CheckKind::Manifest,
            Self::Shard(_) => CheckKind::Shards,
            Self::Rows => CheckKind::Rows,
            Self::Tokenizer | Self::Done => CheckKind::Tokenizer,
        }
    }
}

impl Job {
    fn checked(&mut self, kind: CheckKind, outcome: Outcome) {
        self.report.checks.push(Check { kind, outcome });
    }
}

fn failed(reason: impl ToString) -> Outcome {
    Outcome::Failed { reason: reason.to_string() }
}

fn skipped(reason: &str) -> Outcome {
    Outcome::Skipped { reason: reason.to_owned() }
}

fn outcome<T>(result: Result<T, impl ToString>) -> Outcome {
    result.map_or_else(failed, |_| Outcome::Passed)
}

impl Repository {
    /// Puts a complete model in line.
    pub(crate) fn begin_validation(
        &mut self,
        context: &CallContext,
        mut entry: Extensible<ModelEntry>,
    ) -> ModelRecord {
        let model_id = entry.record.model_id;
        let report = ValidationReport {
            model_id,
            validator: crate::lifecycle::VERSION.to_owned(),
            started_at_ns: context.now_ns,
            finished_at_ns: None,
            shards: 0,
            bytes: 0,
            instructions: 0,
            messages: 0,
            checks: Vec::new(),
            rows: Vec::new(),
        };
        self.validations.insert(*model_id.as_bytes(), Cbor(Job { report, next: Step::Manifest, traps: 0 }));
        if entry.record.status == ModelStatus::Pending {
            entry.record.validation = Validation::Running { shards: 0 };
            self.put_entry(entry.clone());
        }
        entry.into_inner().record
    }

    /// Has a model whose shards are all there validated again: what is stored is read again. Of a model that is no longer Pending
    /// only the report changes.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`] unless the caller is an auditor or an admin; [`ModelError::UnknownModel`],
    /// [`ModelError::Incomplete`], [`ModelError::ValidationRunning`].
    pub fn revalidate(&mut self, context: &CallContext, model_id: &ModelId) -> Result<(), ModelError> {
        self.roles.require(context.caller, Role::Auditor)?;
        let entry = self.entry(model_id)?;
        if entry.record.missing > 0 {
            return Err(ModelError::Incomplete { missing: entry.record.missing });
        }
        if self.validations.contains_key(model_id.as_bytes()) {
            return Err(ModelError::ValidationRunning);
        }
        self.begin_validation(context, entry);
        Ok(())
    }

    /// Works on the validations under way until `meter`, the message's instructions so far, reaches `budget`; returns whether
    /// there is more to do.
    pub fn validate(&mut self, context: &CallContext, meter: &dyn Fn() -> u64, budget: u64) -> bool {
        while let Some((key, Cbor(mut job))) = self.validations.first_key_value() {
            let begin = meter();
            if begin >= budget {
                return true;
            }
            while job.next != Step::Done && meter() < budget {
                job.next = self.step(&mut job);
            }
            job.report.instructions += meter().saturating_sub(begin);
            job.report.messages += 1;
            if job.next == Step::Done {
                self.end_validation(context, job.report);
            } else {
                self.show_progress(&job.report);
                self.validations.insert(key, Cbor(job));
            }
        }
        false
    }

    /// The message of a slice has trapped, of the validation whose turn it was. Of one that does so again and again there is nothing more to
    /// hope for: it ends, so that those behind it have their turn.
    pub fn slice_trapped(&mut self, context: &CallContext) {
        let Some((key, Cbor(mut job))) = self.validations.first_key_value() else { return };
        job.traps += 1;
        if job.traps < MAX_TRAPS {
            self.validations.insert(key, Cbor(job));
            return;
        }
        let reason = format!("the canister trapped {} times on the way", job.traps);
        job.checked(job.next.kind(), failed(reason));
        self.end_validation(context, job.report);
    }

    fn show_progress(&mut self, report: &ValidationReport) {
        if let Ok(mut entry) = self.entry(&report.model_id)
            && entry.record.status == ModelStatus::Pending
        {
            entry.record.validation = Validation::Running { shards: report.shards };
            self.put_entry(entry);
        }
    }

    pub(crate) fn end_validation(&mut self, context: &CallContext, mut report: ValidationReport) {
        let at_ns = context.now_ns;
        report.finished_at_ns = Some(at_ns);
        let (model_id, passed) = (report.model_id, report.passed());
        self.validations.remove(model_id.as_bytes());
        if let Ok(mut entry) = self.entry(&model_id)
            && entry.record.status == ModelStatus::Pending
        {
            entry.record.validation =
                if passed { Validation::Passed { at_ns } } else { Validation::Failed { at_ns } };
            self.put_entry(entry);
        }
        let hash = report.hash();
        self.reports.insert(*model_id.as_bytes(), Cbor(report));
        self.record(context, AuditEvent::Validated { model_id, passed, report: hash });
    }

    /// What validation has found, or has found so far.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`], [`ModelError::WrongStatus`] for a Pending model of somebody else,
    /// [`ModelError::NotValidated`].
    pub fn validation_report(
        &self,
        context: &CallContext,
        model_id: &ModelId,
    ) -> Result<ValidationReport, ModelError> {
        self.visible(context, model_id)?;
        let key = model_id.as_bytes();
        let running = self.validations.get(key).map(|job| job.0.report);
        running.or_else(|| self.reports.get(key).map(|report| report.0)).ok_or(ModelError::NotValidated)
    }

    /// Why the model's last validation failed.
    pub(crate) fn first_failure(&self, model_id: &ModelId) -> Option<String> {
        let Cbor(report) = self.reports.get(model_id.as_bytes())?;
        report.checks.into_iter().find_map(|check| match check.outcome {
            Outcome::Failed { reason } => Some(reason),
            Outcome::Passed | Outcome::Skipped { .. } => None,
        })
    }

    /// Does the job's next step; returns the one after it.
    fn step(&self, job: &mut Job) -> Step {
        let Ok(entry) = self.entry(&job.report.model_id) else { return Step::Done };
        match job.next {
            Step::Manifest => self.check_manifest(job, &entry),
            Step::Shard(index) => self.check_shard(job, &entry.record, index),
            Step::Rows => {
                let outcome = self.check_rows(job, &entry);
                job.checked(CheckKind::Rows, outcome);
                Step::Tokenizer
            }
            Step::Tokenizer => {
                job.checked(CheckKind::Tokenizer, outcome(self.check_tokenizer(&entry)));
                Step::Done
            }
            Step::Done => Step::Done,
        }
    }

    fn check_manifest(&self, job: &mut Job, entry: &ModelEntry) -> Step {
        let record = &entry.record;
        let manifest = match self.stored_manifest(entry) {
            Ok(manifest) => manifest,
            Err(error) => {
                job.checked(CheckKind::Manifest, failed(error));
                return Step::Done;
            }
        };
        job.checked(CheckKind::Manifest, Outcome::Passed);
        let licensed = manifest.license != NO_LICENSE;
        let license = if licensed { Outcome::Passed } else { failed(format!("license: is `{NO_LICENSE}`")) };
        job.checked(CheckKind::License, license);
        let version = if record.status == ModelStatus::Pending {
            outcome(self.check_version(record))
        } else {
            skipped("the model was activated before")
        };
        job.checked(CheckKind::Version, version);
        job.checked(CheckKind::Signature, self.check_signature(&manifest, record));
        job.checked(CheckKind::Architecture, outcome(manifest.check_tensors()));
        Step::Shard(0)
    }

    /// The model's manifest as it is stored.
    fn stored_manifest(&self, entry: &ModelEntry) -> Result<Manifest, ArtifactError> {
        let manifest = Manifest::parse(&self.bytes(entry.offset, entry.record.manifest_bytes))?;
        let id = Digest::new(manifest.id()?);
        if id == entry.record.model_id {
            Ok(manifest)
        } else {
            Err(ArtifactError::Field { field: ".".to_owned(), reason: format!("it is the manifest of {id}") })
        }
    }

    /// Checks that the version is greater than any of the name that was ever Active.
    ///
    /// # Errors
    /// [`ModelError::VersionNotGreater`].
    pub(crate) fn check_version(&self, record: &ModelRecord) -> Result<(), ModelError> {
        let Some(latest) = self.greatest_version(&record.name) else { return Ok(()) };
        // Manifests with another form of version are refused; should one be stored, it is not greater.
        let greater = match (Version::parse(&record.version), Version::parse(&latest)) {
            (Ok(version), Ok(latest)) => version.cmp_precedence(&latest).is_gt(),
            (version, _) => version.is_ok(),
        };
        if greater {
            Ok(())
        } else {
            Err(ModelError::VersionNotGreater { version: record.version.clone(), latest })
        }
    }

    fn check_signature(&self, manifest: &Manifest, record: &ModelRecord) -> Outcome {
        let Some(signature) = &manifest.signature else {
            return if self.policy().require_signature {
                failed("signature: is missing, and the policy wants one")
            } else {
                skipped("the manifest has none, and the policy does not want one")
            };
        };
        if !signature.verifies(record.model_id.as_bytes()) {
            return failed("signature: is not one of this model");
        }
        let key = &signature.public_key;
        let own = Principal::self_authenticating([&DER_HEAD[..], key].concat());
        if own == record.uploader || self.keys.uploader(key) == Some(record.uploader) {
            Outcome::Passed
        } else {
            failed(format!("signature: its key is not one of the uploader {}", record.uploader))
        }
    }

    fn check_shard(&self, job: &mut Job, record: &ModelRecord, index: u32) -> Step {
        if index >= record.shards {
            job.checked(CheckKind::Shards, Outcome::Passed);
            return Step::Rows;
        }
        let checked = self.shard(record, index).map_err(|error| error.to_string()).and_then(|(_, shard)| {
            let bytes = self.bytes(shard.offset, shard.bytes);
            let actual = Digest::of(&bytes);
            if actual != shard.sha256 {
                return Err(format!("its SHA-256 is {actual}, the manifest says {}", shard.sha256));
            }
            ShardHeader::parse(index, &bytes).map(|_| shard.bytes).map_err(|error| error.to_string())
        });
        match checked {
            Ok(bytes) => {
                job.report.shards += 1;
                job.report.bytes += bytes;
                Step::Shard(index + 1)
            }
            Err(reason) => {
                job.checked(CheckKind::Shards, failed(format!("shard {index}: {reason}")));
                Step::Done
            }
        }
    }

    fn check_tokenizer(&self, entry: &ModelEntry) -> Result<(), String> {
        let manifest = self.stored_manifest(entry).map_err(|error| error.to_string())?;
        let source = StoredShards { repository: self, record: &entry.record };
        let tokenizer = read_tokenizer(&manifest, &source).map_err(|error| error.to_string())?;
        let known = match manifest.decoder() {
            Ok(config) => config.vocab_size,
            Err(_) => manifest.encoder().map_err(|error| error.to_string())?.vocab_size,
        };
        let tokens = tokenizer.vocab_size();
        if tokens > known {
            return Err(format!("the tokenizer has {tokens} tokens, the model knows {known}"));
        }
        Ok(())
    }

    /// Decodes rows of tensors of every codec.
    fn check_rows(&self, job: &mut Job, entry: &ModelEntry) -> Outcome {
        let manifest = match self.stored_manifest(entry) {
            Ok(manifest) => manifest,
            Err(error) => return failed(error),
        };
        let source = StoredShards { repository: self, record: &entry.record };
        for index in tensors_to_decode(&manifest) {
            let tensor = &manifest.tensors[index];
            let rows = if tensor.shape.len() == 2 { tensor.shape[0] } else { 1 };
            let row = row_to_decode(&job.report.model_id, rows);
            match decode_row(&manifest, index, row, &source) {
                Ok(values) => job.report.rows.push(decoded(&tensor.name, row, &values)),
                Err(error) => return failed(format!("row {row} of `{}`: {error}", tensor.name)),
            }
        }
        Outcome::Passed
    }
}

/// Tensors of which a row is decoded: the first of each codec, and some spread over the model.
fn tensors_to_decode(manifest: &Manifest) -> BTreeSet<usize> {
    let last = manifest.tensors.len().saturating_sub(1);
    let mut codecs = Vec::new();
    let first_of_codec = manifest.tensors.iter().enumerate().filter(|(_, tensor)| {
        let codec = std::mem::discriminant(&tensor.codec);
        let new = !codecs.contains(&codec);
        codecs.push(codec);
        new
    });
    let mut chosen: BTreeSet<usize> = first_of_codec.map(|(index, _)| index).collect();
    if !manifest.tensors.is_empty() {
        chosen.extend((0..DECODED_TENSORS).map(|part| part * last / (DECODED_TENSORS - 1)));
    }
    chosen
}

/// A row that nobody can choose without choosing the model's id.
fn row_to_decode(model_id: &ModelId, rows: usize) -> usize {
    let head = model_id.as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
    (head % rows.max(1) as u64) as usize
}

fn decoded(tensor: &str, row: usize, values: &[f32]) -> DecodedRow {
    let mut hasher = Sha256::new();
    let mut squares = 0.0;
    for value in values {
        hasher.update(value.to_le_bytes());
        squares += f64::from(*value) * f64::from(*value);
    }
    DecodedRow {
        tensor: tensor.to_owned(),
        row: row as u64,
        columns: values.len() as u64,
        rms: (squares / values.len().max(1) as f64).sqrt(),
        sha256: Digest::new(hasher.finalize().into()),
    }
}

/// The shards of a model as they are stored.
struct StoredShards<'a> {
    repository: &'a Repository,
    record: &'a ModelRecord,
}

impl ShardSource for StoredShards<'_> {
    fn read(&self, index: u32, offset: u64, buffer: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (_, shard) = self.repository.shard(self.record, index)?;
        let inside = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= shard.bytes);
        if !inside {
            return Err(format!("{} bytes at {offset} are not inside the shard", buffer.len()).into());
        }
        Ok(self.repository.region.read(shard.offset + offset, buffer)?)
    }
}

#[cfg(test)]
#[path = "validation_tests.rs"]
mod tests;
