//! The cache of the hub's own clients: blobs under the hashes of their contents, snapshots of commits that link to them,
//! and the commits that revisions stood for (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;

/// The part of the cache that belongs to one repository.
pub(super) struct Cache(PathBuf);

impl Cache {
    /// The cache of `repository`, in the folder that the hub's clients use: `HF_HUB_CACHE`, `HF_HOME/hub` or
    /// `~/.cache/huggingface/hub`.
    pub(super) fn of(repository: &str) -> anyhow::Result<Self> {
        let root = match std::env::var_os("HF_HUB_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => home()?.join("hub"),
        };
        Ok(Self(root.join(format!("models--{}", repository.replace('/', "--")))))
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.0.join("snapshots").join(commit)
    }

    /// Where the file `name` of a commit is.
    pub(super) fn place(&self, commit: &str, name: &str) -> Result<PathBuf, String> {
        // Names come from elsewhere: they must not lead out of the folder.
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || name.is_empty() {
            return Err(format!("`{name}` is no name of a file"));
        }
        Ok(self.snapshot(commit).join(name))
    }

    /// Where a blob is.
    pub(super) fn blob(&self, name: &str) -> PathBuf {
        self.0.join("blobs").join(name)
    }

    /// Where a blob is as long as it is not complete; its folder is made.
    pub(super) fn incomplete(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.blob(&format!("{name}.incomplete"));
        make_folder_of(&path)?;
        Ok(path)
    }

    /// Makes `place` in a snapshot the file `blob`: a relative link, or a copy where there are no links.
    pub(super) fn link(&self, blob: &Path, place: &Path) -> anyhow::Result<()> {
        make_folder_of(place)?;
        let linked = self.link_or_copy(blob, place);
        linked.with_context(|| format!("`{}` can't be written", place.display()))
    }

    #[cfg(unix)]
    fn link_or_copy(&self, blob: &Path, place: &Path) -> std::io::Result<()> {
        let up = place.strip_prefix(&self.0).map_or(0, |inside| inside.components().count() - 1);
        let inside = blob.strip_prefix(&self.0).unwrap_or(blob);
        let target: PathBuf = std::iter::repeat_n(Path::new(".."), up).chain([inside]).collect();
        std::os::unix::fs::symlink(target, place)
    }

    #[cfg(not(unix))]
    fn link_or_copy(&self, blob: &Path, place: &Path) -> std::io::Result<()> {
        // Copied under another name first, so that a copy that was cut off is not taken for the file.
        let unfinished = self.blob("copy.unfinished");
        fs::copy(blob, &unfinished)?;
        fs::rename(unfinished, place)
    }

    /// The commit that `revision` stood for when it was last asked for.
    pub(super) fn reference(&self, revision: &str) -> Option<String> {
        if revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.0.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned())
    }

    /// Keeps the commit that `revision` stands for.
    pub(super) fn set_reference(&self, revision: &str, commit: &str) -> anyhow::Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.0.join("refs").join(revision);
        make_folder_of(&path)?;
        fs::write(&path, commit).with_context(|| format!("`{}` can't be written", path.display()))
    }
}

/// The folder of the hub's clients.
fn home() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os("HF_HOME") {
        return Ok(home.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    Ok(cache.context("there is no home folder; set HF_HOME")?.join("huggingface"))
}

/// The token to ask the hub with: `HF_TOKEN`, or what `hf auth login` has stored.
pub(super) fn token() -> Option<String> {
    let from_file = || {
        let path = std::env::var_os("HF_TOKEN_PATH").map(PathBuf::from);
        fs::read_to_string(path.or_else(|| Some(home().ok()?.join("token")))?).ok()
    };
    let token = std::env::var("HF_TOKEN").ok().or_else(from_file)?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Makes the folder that `path` is in.
pub(super) fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).with_context(|| format!("`{}` can't be made", folder.display()))
}
