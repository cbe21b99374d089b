//! Models of the Hugging Face Hub, downloaded to the hub's own cache.
//!
//! Not by the `hf-hub` crate: its version 1.0.0 checks no hashes, begins an interrupted file from its start, and brings the
//! client of a storage protocol that the plain downloads here don't need.

mod cache;
mod transfer;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::checkpoint::has_whole_header;
use crate::output::{HintExt, progress_bytes};
use cache::Cache;
use transfer::{Client, File, Hash};

/// What stands before the name of a model on the hub.
const SCHEME: &str = "hf:";

/// A model on the hub: `hf:OWNER/NAME`, a revision after `@`, a GGUF file of it as `hf:OWNER/NAME/FILE.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// The GGUF file that is the model.
    pub file: Option<String>,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "`{text}` is no model of the hub: write `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION` or `hf:OWNER/NAME/FILE.gguf`"
            )
        };
        let name = text.strip_prefix(SCHEME).ok_or_else(refused)?;
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let parts: Vec<&str> = name.split('/').collect();
        let plain = |part: &&str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.chars().all(allowed) && !part.starts_with('.')
        };
        let revision_is_plain = revision.split('/').all(|part| plain(&part));
        if parts.len() < 2 || !parts.iter().all(plain) || !revision_is_plain {
            return Err(refused());
        }
        let file = match parts[2..].join("/") {
            file if file.is_empty() => None,
            file if Path::new(&file).extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) => {
                Some(file)
            }
            _ => return Err(refused()),
        };
        Ok(Self { repository: parts[..2].join("/"), revision: revision.to_owned(), file })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        Ok(())
    }
}

fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// A model that was typed: a path, or one of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder or a file.
    Path(PathBuf),
    /// A model of the hub.
    Hub(Reference),
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(SCHEME) { text.parse().map(Self::Hub) } else { Ok(Self::Path(text.into())) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Hub(reference) => reference.fmt(f),
        }
    }
}

impl Location {
    /// Where the model is on this machine; one of the hub is downloaded as far as it is not there yet.
    ///
    /// # Errors
    /// If the hub does not give it, or there is no room for it.
    pub fn fetch(&self) -> anyhow::Result<Fetched> {
        self.fetch_weights(Weights::Whole)
    }

    /// As [`Self::fetch`], but of weights that are not there yet only what says where each tensor is: files of the right
    /// lengths, in a folder that goes with the result, whose tensors can't be read.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_headers(&self) -> anyhow::Result<Fetched> {
        self.fetch_weights(Weights::Headers)
    }

    fn fetch_weights(&self, weights: Weights) -> anyhow::Result<Fetched> {
        match self {
            Self::Path(path) => Ok(Fetched { path: path.clone(), origin: None, headers: None }),
            Self::Hub(reference) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(download(reference, weights))
            }
        }
    }
}

/// How much of the files with the weights is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    Whole,
    Headers,
}

/// A model on this machine.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What to open as a checkpoint.
    pub path: PathBuf,
    /// Where it comes from, if from the hub.
    pub origin: Option<Origin>,
    /// The folder that `path` is in, if it holds headers alone; it is removed with the last copy of this.
    pub headers: Option<Arc<TempDir>>,
}

/// A commit of a repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `OWNER/NAME`.
    pub repository: String,
    /// The commit.
    pub revision: String,
}

/// What the hub says about a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// A file of a revision.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The tensors' files by the tensors' names, as `model.safetensors.index.json` has them.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Bytes that a safetensors file begins with: how long its header is.
const LENGTH: u64 = 8;

/// Most bytes of a header; what the `safetensors` crate accepts.
const LONGEST_HEADER: u64 = 100_000_000;

/// Bytes of a GGUF file that are asked for first. The tokenizer is among them.
const FIRST_PART: u64 = 1 << 20;

/// Downloads what `reference` names, of the weights as much as is wanted, and returns where it is.
async fn download(reference: &Reference, weights: Weights) -> anyhow::Result<Fetched> {
    let client = Client::from_environment()?;
    let cache = Cache::of(&reference.repository)?;
    let revision = match client.json::<Revision>(&revision_path(reference)).await {
        Ok(revision) => revision,
        Err(error) => return offline(reference, &cache, error),
    };
    // It becomes a part of paths.
    if revision.sha.len() != 40 || !revision.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(anyhow!("the hub gives `{}` as the commit of {reference}", revision.sha));
    }
    let names: BTreeSet<&str> = revision.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let fetch =
        Fetch { client: &client, cache: &cache, repository: &reference.repository, commit: &revision.sha };
    let path = if let Some(file) = &reference.file {
        if !names.contains(file.as_str()) {
            let others: Vec<String> = names.iter().filter(|n| is_gguf(n)).map(|n| format!("`{n}`")).collect();
            return Err(anyhow!("{reference} has no file `{file}`")).hint(|| match others.len() {
                0 => "it has no GGUF files; leave the file out".to_owned(),
                _ => format!("it has {}", others.join(", ")),
            });
        }
        if weights == Weights::Headers && !fetch.has(file) {
            return fetch.header_of_gguf(file).await;
        }
        fetch.file(file).await?
    } else {
        let files = fetch.descriptions(reference, &names).await?;
        if weights == Weights::Headers && !files.iter().all(|file| fetch.has(file)) {
            return fetch.headers(&names, &files).await;
        }
        for name in &files {
            fetch.file(name).await?;
        }
        cache.snapshot(&revision.sha)
    };
    cache.set_reference(&reference.revision, &revision.sha)?;
    let origin = Origin { repository: reference.repository.clone(), revision: revision.sha };
    Ok(Fetched { path, origin: Some(origin), headers: None })
}

/// The path of the hub's interface that describes a revision.
fn revision_path(reference: &Reference) -> String {
    format!("/api/models/{}/revision/{}", reference.repository, reference.revision.replace('/', "%2F"))
}

/// What an earlier download left, where the hub can't be reached.
fn offline(reference: &Reference, cache: &Cache, error: transfer::Error) -> anyhow::Result<Fetched> {
    let cached = cache.reference(&reference.revision).filter(|_| error.is_unreachable());
    let found = cached.and_then(|commit| {
        let folder = cache.snapshot(&commit);
        let path = reference.file.as_ref().map_or_else(|| folder.clone(), |file| folder.join(file));
        path.exists().then_some((path, commit))
    });
    match found {
        Some((path, commit)) => {
            tracing::warn!("{error}; {reference} is taken from the cache, as of commit {commit}");
            let origin = Origin { repository: reference.repository.clone(), revision: commit };
            Ok(Fetched { path, origin: Some(origin), headers: None })
        }
        None => Err(error.hinted(&reference.to_string())),
    }
}

/// Brings files of one commit to the cache.
struct Fetch<'a> {
    client: &'a Client,
    cache: &'a Cache,
    repository: &'a str,
    commit: &'a str,
}

impl Fetch<'_> {
    /// Brings all but the weights of a checkpoint in Hugging Face's layout; returns the files that have these.
    async fn descriptions(
        &self,
        reference: &Reference,
        names: &BTreeSet<&str>,
    ) -> anyhow::Result<BTreeSet<String>> {
        let weights: BTreeSet<String> = if names.contains(INDEX) {
            let path = self.file(INDEX).await?;
            let bytes =
                std::fs::read(&path).with_context(|| format!("`{}` can't be read", path.display()))?;
            let index: Index = serde_json::from_slice(&bytes)
                .with_context(|| format!("`{}` is not valid", path.display()))?;
            index.weight_map.into_values().collect()
        } else if names.contains(SINGLE) {
            BTreeSet::from([SINGLE.to_owned()])
        } else {
            return Err(anyhow!("{reference} has neither `{SINGLE}` nor `{INDEX}`")).hint(|| {
                match names.iter().find(|name| is_gguf(name)) {
                    Some(file) => {
                        format!("name one of its GGUF files, as `{SCHEME}{}/{file}`", self.repository)
                    }
                    None => "convert its weights to safetensors first".to_owned(),
                }
            });
        };
        // Small files first: what is wrong with them shows before the weights are here.
        for name in names.iter().filter(|name| is_described_by(name)) {
            self.file(name).await?;
        }
        Ok(weights)
    }

    /// Where the file `name` is in the snapshot, there or not.
    fn place(&self, name: &str) -> anyhow::Result<PathBuf> {
        self.cache.place(self.commit, name).map_err(|e| anyhow!(e))
    }

    /// Whether the file `name` is in the cache.
    fn has(&self, name: &str) -> bool {
        self.place(name).is_ok_and(|place| place.exists())
    }

    /// What the hub says about the file `name`.
    async fn describe(&self, name: &str) -> anyhow::Result<File> {
        let url = format!("/{}/resolve/{}/{name}", self.repository, self.commit);
        self.client.describe(&url).await.map_err(|e| e.hinted(self.repository))
    }

    /// The bytes of `file` in `range`.
    async fn part(&self, file: &File, range: Range<u64>) -> anyhow::Result<Vec<u8>> {
        self.client.part(file, range).await.map_err(|e| e.hinted(self.repository))
    }

    /// A folder with the described files `names` and the headers of `weights`.
    async fn headers(&self, names: &BTreeSet<&str>, weights: &BTreeSet<String>) -> anyhow::Result<Fetched> {
        let folder = tempfile::tempdir().context("there is no folder for the headers")?;
        for name in names.iter().filter(|name| is_described_by(name)) {
            let to = folder.path().join(name);
            cache::make_folder_of(&to)?;
            std::fs::copy(self.place(name)?, &to)
                .with_context(|| format!("`{}` can't be written", to.display()))?;
        }
        for name in weights {
            let context = || format!("the header of `{name}` of {} can't be downloaded", self.repository);
            // The name comes from elsewhere, so it is checked as one of the snapshot.
            self.place(name).with_context(context)?;
            self.header(name, &folder.path().join(name)).await.with_context(context)?;
        }
        Ok(self.headers_in(folder, None))
    }

    /// Makes `to` a file with the header of the safetensors file `name`, and nothing behind it.
    async fn header(&self, name: &str, to: &Path) -> anyhow::Result<()> {
        let file = self.describe(name).await?;
        ensure!(file.bytes >= LENGTH, "a file of {} bytes has no header", file.bytes);
        let mut bytes = self.part(&file, 0..LENGTH).await?;
        let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        let most = LONGEST_HEADER.min(file.bytes - LENGTH);
        ensure!(
            (1..=most).contains(&length),
            "a header of {length} bytes is none of a safetensors file with {} bytes",
            file.bytes
        );
        bytes.extend(self.part(&file, LENGTH..LENGTH + length).await?);
        write_head(to, &bytes, file.bytes)
    }

    /// A folder with the header of the GGUF file `name`. How long it is shows when all of it is there.
    async fn header_of_gguf(&self, name: &str) -> anyhow::Result<Fetched> {
        let context = || format!("the header of `{name}` of {} can't be downloaded", self.repository);
        let folder = tempfile::tempdir().context("there is no folder for the headers")?;
        let path = folder.path().join(Path::new(name).file_name().unwrap_or_default());
        let file = self.describe(name).await.with_context(context)?;
        let mut bytes = Vec::new();
        loop {
            let there = bytes.len() as u64;
            let next = (2 * there).clamp(FIRST_PART, LONGEST_HEADER).min(file.bytes);
            if next > there {
                bytes.extend(self.part(&file, there..next).await.with_context(context)?);
            }
            write_head(&path, &bytes, next)?;
            // What is wrong with a header that does not end shows where it is opened.
            if has_whole_header(&path) || next == file.bytes.min(LONGEST_HEADER) {
                write_head(&path, &bytes, file.bytes)?;
                return Ok(self.headers_in(folder, Some(path)));
            }
        }
    }

    /// Headers of this commit, in `folder` or at a `path` in it.
    fn headers_in(&self, folder: TempDir, path: Option<PathBuf>) -> Fetched {
        let origin = Origin { repository: self.repository.to_owned(), revision: self.commit.to_owned() };
        let path = path.unwrap_or_else(|| folder.path().to_owned());
        Fetched { path, origin: Some(origin), headers: Some(Arc::new(folder)) }
    }

    /// One file; returns where it is in the snapshot.
    async fn file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let context = || format!("`{name}` of {} can't be downloaded", self.repository);
        let place = self.place(name).with_context(context)?;
        if place.exists() {
            return Ok(place);
        }
        let file = self.describe(name).await.with_context(context)?;
        let blob = self.cache.blob(&file.name);
        if !blob.exists() {
            self.blob(name, &file, &blob).await.with_context(context)?;
        }
        self.cache.link(&blob, &place).with_context(context)?;
        Ok(place)
    }

    /// Downloads the blob of `file` and checks it.
    async fn blob(&self, name: &str, file: &File, blob: &Path) -> anyhow::Result<()> {
        let incomplete = self.cache.incomplete(&file.name)?;
        let bar = progress_bytes(file.bytes, "Downloading").with_message(name.to_owned());
        self.client
            .download(file, &incomplete, |bytes| bar.set_position(bytes))
            .await
            .map_err(|e| e.hinted(self.repository))?;
        bar.finish_and_clear();
        if let Some(expected) = &file.hash
            && !Hash::matches(expected, &incomplete)?
        {
            let _ = std::fs::remove_file(&incomplete);
            return Err(anyhow!("what came is not what the hub announced: its hash is not {expected}"))
                .hint(|| "run the same command again; the bytes that came are thrown away".to_owned());
        }
        std::fs::rename(&incomplete, blob).with_context(|| format!("`{}` can't be written", blob.display()))
    }
}

/// Makes `path` a file of `length` bytes that begins with `head`; the rest is a hole.
fn write_head(path: &Path, head: &[u8], length: u64) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        std::fs::write(path, head)?;
        std::fs::OpenOptions::new().write(true).open(path)?.set_len(length)
    };
    write().with_context(|| format!("`{}` can't be written", path.display()))
}

/// Whether a file says something about the model and is no weights.
fn is_described_by(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    let text = matches!(extension, Some("json" | "jinja" | "txt" | "model"));
    let root = !name.contains('/');
    root && (text || name == "README.md") || name.ends_with("/config.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_parsed() {
        let reference = |text: &str| text.parse::<Reference>();
        let expected = |repository: &str, revision: &str, file: Option<&str>| {
            Ok(Reference {
                repository: repository.to_owned(),
                revision: revision.to_owned(),
                file: file.map(str::to_owned),
            })
        };
        assert_eq!(reference("hf:a/b-1.5"), expected("a/b-1.5", "main", None));
        assert_eq!(reference("hf:a/b@v1"), expected("a/b", "v1", None));
        assert_eq!(reference("hf:a/b@refs/pr/1"), expected("a/b", "refs/pr/1", None));
        assert_eq!(reference("hf:a/b/q4/c.gguf@x"), expected("a/b", "x", Some("q4/c.gguf")));
        for text in [
            "a/b",
            "hf:a",
            "hf:a/",
            "hf:../b",
            "hf:a/b@",
            "hf:a/b@../x",
            "hf:a/b/c.bin",
            "hf:a/b/../c.gguf",
            "hf:a b/c",
        ] {
            assert!(reference(text).is_err(), "{text}");
        }
        assert_eq!("model".parse(), Ok(Location::Path("model".into())));
    }

    #[test]
    fn descriptions_are_told_from_weights() {
        let wanted = [
            "config.json",
            "tokenizer.model",
            "vocab.txt",
            "chat_template.jinja",
            "README.md",
            "1_Pooling/config.json",
        ];
        assert!(wanted.iter().all(|name| is_described_by(name)));
        let unwanted =
            ["model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "a/b.txt", "LICENSE", "x.gguf"];
        assert!(!unwanted.iter().any(|name| is_described_by(name)));
    }
}
