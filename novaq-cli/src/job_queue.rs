//! A queue of jobs in a folder. It survives a kill at any time: a job goes on from the tokens that it has.
//!
//! A job is three files: `job-N.json`, which is only ever replaced whole; `job-N.tokens`, to which each token is appended;
//! and `job-N.lock`, which is locked by the process that works on the job or changes it. The system lifts a lock when
//! its process ends, however it ends. `last` has the number given last, under the lock of the file `lock`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::compress::write_whole;
use crate::generation::{Input, Options};
use crate::output::HintExt;

/// Most jobs of a queue.
pub const MAX_JOBS: usize = 10_000;

/// Longest file of a job in bytes.
const MAX_JOB_BYTES: u64 = 16 << 20;

/// Bytes of a token in its file: the id, and its complement, by which a torn or damaged entry is known.
const TOKEN_BYTES: usize = 8;

/// Number of a job, from 1.
pub type JobId = u64;

/// What is to be generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The artifact's folder.
    pub model: PathBuf,
    /// The id of the model that was there when the job was added.
    pub model_id: String,
    /// Jobs with a higher one are worked on first.
    pub priority: i32,
    /// What the text goes on from.
    pub input: Input,
    /// How tokens are chosen, and where the text ends.
    pub options: Options,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// To be worked on.
    Queued,
    /// Finished.
    Done {
        /// Tokens of the prompt.
        prompt_tokens: Vec<u32>,
        /// The text that was generated.
        text: String,
        /// Why it ended.
        finish_reason: String,
    },
    /// It can't be generated.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A job as its file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What is to be generated.
    pub task: Task,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
}

/// A queue of jobs in a folder.
#[derive(Debug)]
pub struct JobQueue {
    path: PathBuf,
}

/// A job that nobody else works on or changes for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    /// The job as it was when it was claimed.
    pub job: Job,
    _lock: File,
}

impl JobQueue {
    /// The queue in an existing folder.
    ///
    /// # Errors
    /// If there is no queue; with a hint.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if !path.join("lock").is_file() {
            let none = anyhow::anyhow!("`{}` is not a queue of jobs", path.display());
            return Err(none).hint(|| "`novaq jobs add` makes one".to_owned());
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The queue in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// If the folder can't be made, or has other files in it.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let at = || format!("`{}` can't be made", path.display());
        fs::create_dir_all(path).with_context(at)?;
        if !path.join("lock").is_file() {
            if fs::read_dir(path).with_context(at)?.next().is_some() {
                bail!("`{}` is not empty and not a queue of jobs", path.display());
            }
            open_lock(&path.join("lock"))?;
        }
        Self::open(path)
    }

    fn file(&self, id: JobId, extension: &str) -> PathBuf {
        self.path.join(format!("job-{id:08}.{extension}"))
    }

    /// Numbers of all jobs, ascending.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn ids(&self) -> anyhow::Result<Vec<JobId>> {
        let unreadable = || format!("`{}` cannot be read", self.path.display());
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(unreadable)? {
            let name = entry.with_context(unreadable)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix("job-")?.strip_suffix(".json"));
            ids.extend(id.and_then(|id| id.parse::<JobId>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Adds a job; returns its number.
    ///
    /// # Errors
    /// If the queue is full, or can't be written.
    pub fn add(&self, task: Task) -> anyhow::Result<JobId> {
        let lock = open_lock(&self.path.join("lock"))?;
        lock.lock().context("the queue can't be locked")?;
        let ids = self.ids()?;
        if ids.len() >= MAX_JOBS {
            return Err(anyhow::anyhow!("the queue has {MAX_JOBS} jobs, the most allowed"))
                .hint(|| "`novaq jobs remove` makes room".to_owned());
        }
        let counter = self.path.join("last");
        let last = match fs::read_to_string(&counter) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                return Err(error).with_context(|| format!("`{}` cannot be read", counter.display()));
            }
        };
        let id = last.max(ids.last().copied().unwrap_or(0)) + 1;
        let job = Job { id, task, state: State::Queued };
        let json = serde_json::to_vec_pretty(&job)?;
        if json.len() as u64 > MAX_JOB_BYTES {
            bail!("the job has {} bytes, at most {MAX_JOB_BYTES} are allowed", json.len());
        }
        write_whole(&counter, format!("{id}\n").as_bytes())?;
        write_whole(&self.file(id, "json"), &json)?;
        Ok(id)
    }

    /// A job.
    ///
    /// # Errors
    /// If there is none of this number, or its file is damaged.
    pub fn job(&self, id: JobId) -> anyhow::Result<Job> {
        match self.find(id)? {
            Some(job) => Ok(job),
            None => Err(anyhow::anyhow!("there is no job {id}"))
                .hint(|| format!("`novaq jobs list {}` lists them", self.path.display())),
        }
    }

    fn find(&self, id: JobId) -> anyhow::Result<Option<Job>> {
        let path = self.file(id, "json");
        let refused = |reason: String| anyhow::anyhow!("`{}` is not a job: {reason}", path.display());
        let unreadable = || format!("`{}` cannot be read", path.display());
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata if metadata.as_ref().is_ok_and(|metadata| metadata.len() > MAX_JOB_BYTES) => {
                return Err(refused(format!("it has more than {MAX_JOB_BYTES} bytes")));
            }
            _ => {}
        }
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.with_context(unreadable)?,
        };
        let job: Job = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if job.id != id {
            return Err(refused(format!("it says it is job {}", job.id)));
        }
        Ok(Some(job))
    }

    /// All jobs, in the order in which they are worked on.
    ///
    /// # Errors
    /// If one is damaged.
    pub fn jobs(&self) -> anyhow::Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for id in self.ids()? {
            jobs.extend(self.find(id)?);
        }
        jobs.sort_by_key(|job| (std::cmp::Reverse(job.task.priority), job.id));
        Ok(jobs)
    }

    /// Takes a job for this process alone; `None` if another one has it, or it is no longer there.
    ///
    /// # Errors
    /// If the job is damaged, or can't be locked.
    pub fn claim(&self, id: JobId) -> anyhow::Result<Option<Claim>> {
        let path = self.file(id, "lock");
        let lock = open_lock(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("`{}` can't be locked", path.display()));
            }
        }
        let Some(job) = self.find(id)? else {
            // Removed since it was listed.
            let _ = fs::remove_file(path);
            return Ok(None);
        };
        Ok(Some(Claim { job, _lock: lock }))
    }

    /// Whether a process works on the job at this moment.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn in_work(&self, id: JobId) -> anyhow::Result<bool> {
        let path = self.file(id, "lock");
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("`{}` cannot be read", path.display())),
            Ok(lock) => Ok(matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))),
        }
    }

    /// Tokens that the job has so far.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn tokens(&self, id: JobId) -> anyhow::Result<Vec<u32>> {
        let path = self.file(id, "tokens");
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            bytes => bytes.with_context(|| format!("`{}` cannot be read", path.display()))?,
        };
        // What follows a damaged entry is generated again.
        let entries = bytes.as_chunks::<TOKEN_BYTES>().0.iter().map(|&entry| u64::from_le_bytes(entry));
        let whole = entries.map(|entry| (entry as u32, (entry >> 32) as u32));
        Ok(whole.take_while(|(token, check)| *token == !check).map(|(token, _)| token).collect())
    }

    /// Removes a job with its tokens.
    ///
    /// # Errors
    /// If a file can't be removed.
    pub fn remove(&self, claim: &Claim) -> anyhow::Result<()> {
        for extension in ["json", "tokens", "lock"] {
            let path = self.file(claim.job.id, extension);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("`{}` can't be removed", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the job's next tokens go, behind the `kept` first ones.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn append(&self, claim: &Claim, kept: usize) -> anyhow::Result<TokenFile> {
        let path = self.file(claim.job.id, "tokens");
        let open = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            file.set_len((kept * TOKEN_BYTES) as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok::<_, io::Error>(file)
        };
        let file = open().with_context(|| format!("`{}` can't be written", path.display()))?;
        Ok(TokenFile { file, path: path.clone() })
    }

    /// Stores where the job stands.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn set_state(&self, claim: &mut Claim, state: State) -> anyhow::Result<()> {
        claim.job.state = state;
        write_whole(&self.file(claim.job.id, "json"), &serde_json::to_vec_pretty(&claim.job)?)
    }
}

/// The tokens of a job that is worked on.
#[derive(Debug)]
pub struct TokenFile {
    file: File,
    path: PathBuf,
}

impl TokenFile {
    /// Appends a token.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn push(&mut self, token: u32) -> anyhow::Result<()> {
        let entry = u64::from(token) | (u64::from(!token) << 32);
        let written = self.file.write_all(&entry.to_le_bytes());
        written.with_context(|| format!("`{}` can't be written", self.path.display()))
    }
}

fn open_lock(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("`{}` can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;

    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        options: Options,
    }

    fn task(priority: i32) -> Task {
        Task {
            model: PathBuf::from("/models/tales"),
            model_id: "ab".repeat(32),
            priority,
            input: Input::Prompt("Once".to_owned()),
            options: Defaults::parse_from(["novaq"]).options,
        }
    }

    #[test]
    fn jobs_come_by_priority_and_numbers_are_not_reused() {
        let folder = tempfile::tempdir().unwrap();
        let queue = JobQueue::create(&folder.path().join("queue")).unwrap();
        let ids: Vec<JobId> = [0, 5, 0, -1].map(|priority| queue.add(task(priority)).unwrap()).to_vec();
        assert_eq!(ids, [1, 2, 3, 4]);
        let order = |queue: &JobQueue| queue.jobs().unwrap().iter().map(|job| job.id).collect::<Vec<_>>();
        assert_eq!(order(&queue), [2, 1, 3, 4]);
        queue.remove(&queue.claim(4).unwrap().unwrap()).unwrap();
        let queue = JobQueue::open(&folder.path().join("queue")).unwrap();
        assert_eq!(queue.add(task(9)).unwrap(), 5);
        assert_eq!(order(&queue), [5, 2, 1, 3]);
        assert!(queue.job(4).unwrap_err().to_string().contains("there is no job 4"));
    }

    #[test]
    fn a_job_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        let queue = JobQueue::create(folder.path()).unwrap();
        let id = queue.add(task(0)).unwrap();
        assert!(!queue.in_work(id).unwrap());
        let claim = queue.claim(id).unwrap().unwrap();
        assert!(queue.claim(id).unwrap().is_none() && queue.in_work(id).unwrap());
        drop(claim);
        assert!(!queue.in_work(id).unwrap());
        queue.remove(&queue.claim(id).unwrap().unwrap()).unwrap();
        assert!(queue.claim(id).unwrap().is_none());
    }

    #[test]
    fn another_folder_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        assert!(JobQueue::create(folder.path()).is_err() && JobQueue::open(folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn torn_and_damaged_tokens_are_generated_again(
            tokens in prop::collection::vec(any::<u32>(), 1..20),
            cut in any::<prop::sample::Index>(),
            flipped in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let queue = JobQueue::create(folder.path()).unwrap();
            let claim = queue.claim(queue.add(task(0)).unwrap()).unwrap().unwrap();
            let mut file = queue.append(&claim, 0).unwrap();
            for &token in &tokens {
                file.push(token).unwrap();
            }
            prop_assert_eq!(&queue.tokens(1).unwrap(), &tokens);
            let path = queue.file(1, "tokens");
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(cut.index(bytes.len()) + 1);
            let mut whole = bytes.len() / TOKEN_BYTES;
            if let Some(at) = flipped.map(|at| at.index(bytes.len())) {
                bytes[at] ^= 16;
                whole = whole.min(at / TOKEN_BYTES);
            }
            fs::write(&path, bytes).unwrap();
            prop_assert_eq!(queue.tokens(1).unwrap(), &tokens[..whole]);
            queue.append(&claim, whole).unwrap().push(7).unwrap();
            prop_assert_eq!(queue.tokens(1).unwrap(), [&tokens[..whole], &[7]].concat());
        }
    }
}
