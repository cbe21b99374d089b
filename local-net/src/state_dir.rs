//! A network's state in a directory, so that it survives a restart.
//!
//! A checkpoint is a folder `checkpoint-N`: `network.cbor` has everything but modules and memories, which are files beside it. It is
//! written under another name and renamed when it is complete, so that a crash leaves the last complete one. A memory that has not
//! changed since the last checkpoint is a hard link to its file there. Modules are compiled, and canisters instantiated, when
//! the checkpoint is opened.

use crate::{
    execution::{GlobalValue, Instance},
    memory::{Memory, Version},
    module,
    network::Network,
    system_api::{EntryPoint, Message},
};
use candid::Principal;
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Format of a checkpoint; another one is refused.
const FORMAT: u32 = 1;
const FOLDER_PREFIX: &str = "checkpoint-";
const UNFINISHED: &str = "unfinished";
const NETWORK_FILE: &str = "network.cbor";

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process uses it.
    #[error("`{0}` is in use by another local-net")]
    InUse(PathBuf),
    /// A file or folder cannot be read or written.
    #[error("`{path}`: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The checkpoint is of another version of this program.
    #[error(
        "`{path}` has format {found}, this local-net reads format {FORMAT}: start with an empty state directory"
    )]
    Format {
        /// The checkpoint's file.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The checkpoint is damaged.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The checkpoint's file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A directory that holds the state of one network, locked for this process.
pub struct StateDir {
    path: PathBuf,
    lock: File,
    /// The number of the newest checkpoint.
    number: u64,
    /// The file in the newest checkpoint of each memory.
    files: BTreeMap<Version, String>,
}

/// What `network.cbor` has.
#[derive(Serialize, Deserialize)]
struct Checkpoint<N> {
    format: u32,
    network: N,
    code: Vec<SavedCode>,
}

/// A canister's code; the module is the file `module-<hash>.wasm`.
#[derive(Serialize, Deserialize)]
struct SavedCode {
    canister: Principal,
    module_hash: [u8; 32],
    globals: Vec<GlobalValue>,
}

/// Reads only the format of a checkpoint.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Closing the file is not enough while a child process, just forked, has it open too.
        let _ = self.lock.unlock();
    }
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, StateError> {
    result.map_err(|source| StateError::Io { path: path.to_owned(), source })
}

fn module_file(hash: &[u8; 32]) -> String {
    format!("module-{}.wasm", hex::encode(hash))
}

impl StateDir {
    /// Opens a directory, which is made if need be, and reads the network in it, if there is one.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: &Path) -> Result<(Self, Option<Network>), StateError> {
        at(path, fs::create_dir_all(path))?;
        let lock_path = path.join("lock");
        let lock = at(&lock_path, File::create(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StateError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(error)) => return at(&lock_path, Err(error)),
        }
        let mut numbers = BTreeSet::new();
        for entry in at(path, fs::read_dir(path))? {
            let name = at(path, entry)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.parse::<u64>().ok());
            numbers.extend(number);
        }
        let mut this = Self { path: path.to_owned(), lock, number: 0, files: BTreeMap::new() };
        let Some(newest) = numbers.last() else { return Ok((this, None)) };
        this.number = *newest;
        let network = this.load()?;
        Ok((this, Some(network)))
    }

    fn checkpoint(&self, number: u64) -> PathBuf {
        self.path.join(format!("{FOLDER_PREFIX}{number}"))
    }

    /// Writes a checkpoint of `network`, then drops the one before.
    ///
    /// # Errors
    /// When a file cannot be written; then the last checkpoint stays.
    pub fn save(&mut self, network: &Network) -> Result<(), StateError> {
        let previous = self.checkpoint(self.number);
        let unfinished = self.path.join(UNFINISHED);
        if unfinished.exists() {
            at(&unfinished, fs::remove_dir_all(&unfinished))?;
        }
        at(&unfinished, fs::create_dir(&unfinished))?;
        let mut code = Vec::new();
        for canister in network.canisters.values() {
            let Some(installed) = &canister.code else { continue };
            let name = module_file(&installed.module.hash);
            let (file, before) = (unfinished.join(&name), previous.join(&name));
            if before.exists() && !file.exists() {
                at(&file, fs::hard_link(&before, &file))?;
            } else if !file.exists() {
                at(&file, fs::write(&file, &installed.module.wasm))?;
            }
            code.push(SavedCode {
                canister: canister.id,
                module_hash: installed.module.hash,
                globals: installed.instance.globals().to_vec(),
            });
        }
        let transfer = Transfer { folder: unfinished.clone(), previous, known: &self.files };
        let (bytes, files) = transfer.save(&Checkpoint { format: FORMAT, network, code })?;
        let file = unfinished.join(NETWORK_FILE);
        at(&file, fs::write(&file, bytes))?;
        let finished = self.checkpoint(self.number + 1);
        at(&finished, fs::rename(&unfinished, &finished))?;
        let previous = self.checkpoint(self.number);
        self.number += 1;
        self.files = files;
        if previous.exists() {
            at(&previous, fs::remove_dir_all(&previous))?;
        }
        Ok(())
    }

    fn load(&mut self) -> Result<Network, StateError> {
        let folder = self.checkpoint(self.number);
        let file = folder.join(NETWORK_FILE);
        let bytes = at(&file, fs::read(&file))?;
        let damaged = |reason: String| StateError::Damaged { path: file.clone(), reason };
        let FormatOnly { format } = ciborium::from_reader(&bytes[..]).map_err(|e| damaged(e.to_string()))?;
        if format != FORMAT {
            return Err(StateError::Format { path: file, found: format });
        }
        let (checkpoint, files) = Transfer::load::<Checkpoint<Network>>(&folder, &bytes).map_err(damaged)?;
        let Checkpoint { mut network, code, .. } = checkpoint;
        self.files = files;
        for SavedCode { canister: id, module_hash, globals } in code {
            let path = folder.join(module_file(&module_hash));
            let wasm = at(&path, fs::read(&path))?;
            let damaged = |reason: String| StateError::Damaged { path: path.clone(), reason };
            let module = module::compile(&wasm).map_err(|e| damaged(e.to_string()))?;
            let environment = network.environment(id).ok_or_else(|| damaged(format!("no canister {id}")))?;
            let canister = network.canister_mut(id).map_err(|e| damaged(e.to_string()))?;
            let message = Message::new(EntryPoint::Start, Principal::management_canister());
            let (heap, stable) = (canister.heap.clone(), canister.stable.clone());
            let mut instance = Instance::resume(&module, heap, stable, environment, message)
                .map_err(|stop| damaged(stop.to_string()))?;
            instance.set_globals(&globals).map_err(damaged)?;
            canister.code = Some(crate::canister::Code { module, instance });
        }
        Ok(network)
    }
}

/// The files of the checkpoint that is being written.
struct Transfer<'a> {
    folder: PathBuf,
    previous: PathBuf,
    known: &'a BTreeMap<Version, String>,
}

thread_local! {
    /// Where memories go while a network is serialised, and come from while it is read: serde has no other way to tell.
    static MEMORIES: RefCell<Memories> = RefCell::default();
}

/// The memories met while a network is serialised or read.
#[derive(Default)]
struct Memories {
    /// The folder to read from.
    folder: PathBuf,
    met: BTreeMap<Version, String>,
    /// The memories to write.
    pending: Vec<(std::sync::Arc<Memory>, String)>,
}

impl Transfer<'_> {
    /// The serialised form of `value`, and the files of its memories, which are written.
    fn save(&self, value: &impl Serialize) -> Result<(Vec<u8>, BTreeMap<Version, String>), StateError> {
        MEMORIES.take();
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).map_err(|e| StateError::Damaged {
            path: self.folder.join(NETWORK_FILE),
            reason: e.to_string(),
        })?;
        let Memories { met, pending, .. } = MEMORIES.take();
        for (memory, name) in pending {
            let path = self.folder.join(&name);
            match self.known.get(&memory.version()) {
                Some(before) => at(&path, fs::hard_link(self.previous.join(before), &path))?,
                None => at(&path, File::create(&path).and_then(|file| memory.save(&file)))?,
            }
        }
        Ok((bytes, met))
    }

    /// The value that was serialised to `bytes`, and the files of its memories.
    fn load<T: for<'a> Deserialize<'a>>(
        folder: &Path,
        bytes: &[u8],
    ) -> Result<(T, BTreeMap<Version, String>), String> {
        MEMORIES.replace(Memories { folder: folder.to_owned(), ..Memories::default() });
        let value = ciborium::from_reader(bytes).map_err(|e| e.to_string());
        let Memories { met, .. } = MEMORIES.take();
        Ok((value?, met))
    }
}

/// How a memory is serialised: as the name of a file beside `network.cbor`.
pub mod memory_file {
    use super::MEMORIES;
    use crate::memory::Memory;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use std::{fs::File, sync::Arc};

    #[derive(Serialize, Deserialize)]
    struct Saved {
        file: String,
        capacity: usize,
    }

    /// Notes that the memory must be written.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(memory: &Arc<Memory>, serializer: S) -> Result<S::Ok, S::Error> {
        let file = MEMORIES.with_borrow_mut(|memories| {
            let name = format!("memory-{}", memories.pending.len());
            memories.met.insert(memory.version(), name.clone());
            memories.pending.push((memory.clone(), name.clone()));
            name
        });
        Saved { file, capacity: memory.capacity() }.serialize(serializer)
    }

    /// Reads the memory's file.
    ///
    /// # Errors
    /// When the file is missing or larger than the memory can be.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Memory>, D::Error> {
        let Saved { file, capacity } = Saved::deserialize(deserializer)?;
        MEMORIES.with_borrow_mut(|memories| {
            let path = memories.folder.join(&file);
            let failed = |e| D::Error::custom(format!("`{}`: {e}", path.display()));
            let memory = Memory::new(capacity).map_err(failed)?;
            File::open(&path).and_then(|file| memory.load(&file)).map_err(failed)?;
            memories.met.insert(memory.version(), file);
            Ok(memory)
        })
    }
}

/// How shared slices are serialised: as their elements.
pub mod shared_slice {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    /// Writes the elements.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Serialize, S: Serializer>(
        slice: &Arc<[T]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        slice.as_ref().serialize(serializer)
    }

    /// Reads the elements.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<[T]>, D::Error> {
        Vec::deserialize(deserializer).map(Into::into)
    }
}

/// How shared values are serialised: as the value.
pub mod shared {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    /// Writes the value.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    /// Reads the value.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}
