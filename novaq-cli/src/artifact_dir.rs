//! An artifact on disk: a folder with `manifest.json` and its shards.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use novaq_engine::artifact::{
    ArtifactError, LoadedEncoder, LoadedModel, Loader, Manifest, ShardSink, ShardSource, verify_shard,
};

use anyhow::Context;

use crate::compress::write_whole;
use crate::output::HintExt;

/// Name of the manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Name of a shard's file.
pub fn shard_file(index: u32) -> String {
    format!("shard-{index:05}.novaq")
}

/// Why a folder is not a usable artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactDirError {
    /// The folder has no manifest.
    #[error("`{}` is not an artifact: it holds no `{MANIFEST_FILE}`", path.display())]
    NoManifest {
        /// The folder.
        path: PathBuf,
    },
    /// A file that the manifest names is missing.
    #[error("`{}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file is damaged, or made by something else.
    #[error("`{}` is refused", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<ArtifactError>,
    },
}

impl ArtifactDirError {
    fn read(path: PathBuf, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            Self::Missing { path }
        } else {
            Self::Read { path, source }
        }
    }

    fn refused(path: PathBuf, source: ArtifactError) -> Self {
        Self::Refused { path, source: Box::new(source) }
    }

    /// What to do about it.
    fn hint(&self) -> String {
        match self {
            Self::NoManifest { path } => {
                format!("`novaq compress <MODEL_DIR> -o {}` makes an artifact", path.display())
            }
            Self::Read { .. } => "check the file's permissions".to_owned(),
            Self::Missing { .. } | Self::Refused { .. } => {
                "copy the artifact again from where it came, or compress the model again".to_owned()
            }
        }
    }
}

/// An artifact whose manifest is valid. Its shards are read when they are needed.
#[derive(Debug)]
pub struct ArtifactDir {
    path: PathBuf,
    manifest: Arc<Manifest>,
    manifest_bytes: Vec<u8>,
    model_id: [u8; 32],
}

impl ArtifactDir {
    /// Reads and validates the manifest in the folder `path`.
    ///
    /// # Errors
    /// If there is none, or it is not valid; with a hint.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_typed(path).map_err(with_hint)
    }

    fn open_typed(path: &Path) -> Result<Self, ArtifactDirError> {
        let file = path.join(MANIFEST_FILE);
        let manifest_bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(ArtifactDirError::NoManifest { path: path.to_owned() });
            }
            Err(source) => return Err(ArtifactDirError::Read { path: file, source }),
        };
        let refused = |source| ArtifactDirError::refused(file.clone(), source);
        let manifest = Manifest::parse(&manifest_bytes).map_err(refused)?;
        let model_id = manifest.id().map_err(refused)?;
        Ok(Self { path: path.to_owned(), manifest: Arc::new(manifest), manifest_bytes, model_id })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The bytes of the manifest's file.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The model's id.
    pub fn model_id(&self) -> [u8; 32] {
        self.model_id
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.manifest_bytes.len() as u64 + self.manifest.shard_bytes()
    }

    /// Where shard `index` is.
    pub fn shard_path(&self, index: u32) -> PathBuf {
        self.path.join(shard_file(index))
    }

    /// Reads shard `index` and checks its length, hash and header.
    ///
    /// # Errors
    /// If it is missing, unreadable or damaged.
    pub fn read_shard(&self, index: u32) -> Result<Vec<u8>, ArtifactDirError> {
        let path = self.shard_path(index);
        let bytes = fs::read(&path).map_err(|error| ArtifactDirError::read(path.clone(), error))?;
        verify_shard(&self.manifest, index, &bytes)
            .map_err(|error| ArtifactDirError::refused(path, error))?;
        Ok(bytes)
    }

    /// Checks every shard; `checked` is told the bytes of each as it is done.
    ///
    /// # Errors
    /// Names all files that are missing or damaged.
    pub fn verify_shards(&self, mut checked: impl FnMut(u64)) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for (index, entry) in (0..).zip(&self.manifest.shards) {
            failed.extend(self.read_shard(index).err());
            checked(entry.bytes);
        }
        match failed.len() {
            0 => Ok(()),
            1 => Err(with_hint(failed.remove(0))),
            count => {
                let mut message = format!("{count} of {} shards are damaged", self.manifest.shards.len());
                // Writing to a String cannot fail.
                for error in &failed {
                    let reason = std::error::Error::source(error).map(|source| format!(" ({source})"));
                    let _ = write!(message, "\n  {error}{}", reason.unwrap_or_default());
                }
                Err(anyhow::anyhow!(message)).hint(|| failed[0].hint())
            }
        }
    }

    /// Checks every shard and loads the decoder.
    ///
    /// # Errors
    /// If the model is an encoder, a file is missing or damaged, or the tensors do not make a model.
    pub fn load(&self) -> anyhow::Result<LoadedModel> {
        self.manifest
            .decoder()
            .with_context(|| format!("`{}` generates no text", self.path.display()))
            .hint(|| "`novaq embed` embeds texts with it".to_owned())?;
        self.verify_shards(|_| ())?;
        Loader::load(Arc::clone(&self.manifest), self).map_err(|error| self.load_error(error))
    }

    /// Checks every shard and loads the encoder.
    ///
    /// # Errors
    /// If the model is a decoder, a file is missing or damaged, or the tensors do not make a model.
    pub fn load_encoder(&self) -> anyhow::Result<LoadedEncoder> {
        self.manifest
            .encoder()
            .with_context(|| format!("`{}` embeds no texts", self.path.display()))
            .hint(|| "`novaq run` generates text with it".to_owned())?;
        self.verify_shards(|_| ())?;
        Loader::load_encoder(Arc::clone(&self.manifest), self).map_err(|error| self.load_error(error))
    }

    /// An error of loading, with the file it concerns.
    pub fn load_error(&self, source: ArtifactError) -> anyhow::Error {
        with_hint(ArtifactDirError::refused(self.path.clone(), source))
    }
}

fn with_hint(error: ArtifactDirError) -> anyhow::Error {
    let hint = error.hint();
    match Err::<std::convert::Infallible, _>(error).hint(|| hint) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

impl ShardSource for ArtifactDir {
    fn read(
        &self,
        index: u32,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut file = File::open(self.shard_path(index))?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buffer)?;
        Ok(())
    }
}

/// Keeps the shards of a new artifact as files of a folder.
pub(crate) struct ShardFiles(pub PathBuf);

impl ShardSink for ShardFiles {
    fn shard(&mut self, index: u32, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(write_whole(&self.0.join(shard_file(index)), bytes)?)
    }
}
