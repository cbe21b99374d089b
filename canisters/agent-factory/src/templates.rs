//! Agent templates: Wasm modules, uploaded in chunks and known by their hash.

use canister_common::cbor::Cbor;
use canister_common::extents::Extents;
use canister_common::region::Region;
use ic_stable_structures::StableBTreeMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shared_types::factory::{
    BeginTemplateArgs, FactoryError, ListTemplatesArgs, MAX_TEMPLATE_BYTES, MAX_VERSION_BYTES,
    PutTemplateChunkArgs, TEMPLATE_CHUNK_BYTES, Template, TemplatePage,
};
use shared_types::{Digest, FieldError, paging};

use crate::memory::Memory;

/// A template and where its bytes are.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TemplateEntry {
    template: Template,
    offset: u64,
    /// Hashes of its chunks, while all of them are in the factory's chunk store.
    #[serde(default)]
    in_chunk_store: Option<Vec<Digest>>,
}

/// Most chunks in a canister's chunk store (`upload_chunk` of the interface specification: 100 MiB in chunks of 1 MiB).
const CHUNK_STORE_CHUNKS: usize = 100;

/// The templates.
pub struct Templates {
    entries: StableBTreeMap<[u8; 32], Cbor<TemplateEntry>, Memory>,
    extents: Extents<Memory>,
    region: Region<Memory>,
}

impl Templates {
    /// Opens the templates that the memories hold.
    pub fn open(entries: Memory, extents: Memory, bytes: Memory) -> Self {
        Self {
            entries: StableBTreeMap::init(entries),
            extents: Extents::init(extents),
            region: Region::new(bytes),
        }
    }

    /// Announces a template, or finds the one announced before.
    ///
    /// # Errors
    /// [`FactoryError::InvalidField`] for a size or version out of range.
    pub fn begin(&mut self, args: BeginTemplateArgs) -> Result<Template, FactoryError> {
        if let Some(Cbor(entry)) = self.entries.get(args.sha256.as_bytes()) {
            return Ok(entry.template);
        }
        FieldError::check_text("version", &args.version, MAX_VERSION_BYTES)
            .map_err(FactoryError::InvalidField)?;
        if args.bytes == 0 || args.bytes > MAX_TEMPLATE_BYTES {
            let reason = format!("is {}, not within 1..={MAX_TEMPLATE_BYTES}", args.bytes);
            return Err(FactoryError::InvalidField(FieldError::new("bytes", reason)));
        }
        let chunks = args.bytes.div_ceil(TEMPLATE_CHUNK_BYTES) as u32;
        let template = Template {
            sha256: args.sha256,
            bytes: args.bytes,
            version: args.version,
            missing_chunks: (0..chunks).collect(),
            committed_at_ns: None,
        };
        let offset = self.extents.allocate(args.bytes).map_err(|full| out_of_room(&full))?;
        self.put(TemplateEntry { template: template.clone(), offset, in_chunk_store: None });
        Ok(template)
    }

    /// Stores a chunk.
    ///
    /// # Errors
    /// [`FactoryError::UnknownTemplate`]; [`FactoryError::InvalidField`] for a wrong index or length, or when the
    /// template is committed and its bytes can't change any more.
    pub fn put_chunk(&mut self, args: &PutTemplateChunkArgs) -> Result<Template, FactoryError> {
        let mut entry = self.entry(&args.sha256)?;
        let invalid =
            |field: &str, reason: String| Err(FactoryError::InvalidField(FieldError::new(field, reason)));
        if entry.template.committed_at_ns.is_some() {
            return invalid("sha256", "is committed: its bytes can't change".to_owned());
        }
        let start = u64::from(args.index) * TEMPLATE_CHUNK_BYTES;
        if start >= entry.template.bytes {
            return invalid(
                "index",
                format!("is {}, beyond the template's {} bytes", args.index, entry.template.bytes),
            );
        }
        let expected = TEMPLATE_CHUNK_BYTES.min(entry.template.bytes - start);
        if args.bytes.len() as u64 != expected {
            return invalid(
                "bytes",
                format!("has {} bytes, chunk {} has {expected}", args.bytes.len(), args.index),
            );
        }
        self.region.write(entry.offset + start, &args.bytes).map_err(|full| out_of_room(&full))?;
        entry.template.missing_chunks.retain(|index| *index != args.index);
        self.put(entry.clone());
        Ok(entry.template)
    }

    /// Checks the hash of the whole and makes the template the one that new agents get.
    ///
    /// # Errors
    /// [`FactoryError::UnknownTemplate`], [`FactoryError::TemplateIncomplete`], [`FactoryError::WrongTemplateHash`]: the
    /// upload is dropped then, since nobody can tell which chunk is wrong.
    pub fn commit(&mut self, sha256: &Digest, now_ns: u64) -> Result<Template, FactoryError> {
        let mut entry = self.entry(sha256)?;
        if entry.template.committed_at_ns.is_some() {
            return Ok(entry.template);
        }
        let missing = entry.template.missing_chunks.len() as u32;
        if missing > 0 {
            return Err(FactoryError::TemplateIncomplete { sha256: *sha256, missing });
        }
        let mut hasher = Sha256::new();
        for chunk in self.chunks(sha256)? {
            hasher.update(&chunk);
        }
        let actual = Digest::new(hasher.finalize().into());
        if actual != *sha256 {
            self.entries.remove(sha256.as_bytes());
            self.extents.release(entry.offset, entry.template.bytes);
            return Err(FactoryError::WrongTemplateHash { expected: *sha256, actual });
        }
        entry.template.committed_at_ns = Some(now_ns);
        self.put(entry.clone());
        Ok(entry.template)
    }

    /// The committed template with this hash, or without one the template committed last.
    ///
    /// # Errors
    /// [`FactoryError::UnknownTemplate`], [`FactoryError::TemplateIncomplete`], [`FactoryError::NoTemplate`].
    pub fn committed(&self, sha256: Option<&Digest>) -> Result<Template, FactoryError> {
        if let Some(sha256) = sha256 {
            let template = self.entry(sha256)?.template;
            let missing = template.missing_chunks.len() as u32;
            return match template.committed_at_ns {
                Some(_) => Ok(template),
                None => Err(FactoryError::TemplateIncomplete { sha256: *sha256, missing }),
            };
        }
        let committed = self.entries.values().map(|entry| entry.0.template);
        committed
            .filter(|template| template.committed_at_ns.is_some())
            .max_by_key(|template| template.committed_at_ns)
            .ok_or(FactoryError::NoTemplate)
    }

    /// The template's bytes in chunks of [`TEMPLATE_CHUNK_BYTES`].
    ///
    /// # Errors
    /// [`FactoryError::UnknownTemplate`].
    pub fn chunks(&self, sha256: &Digest) -> Result<impl Iterator<Item = Vec<u8>>, FactoryError> {
        let entry = self.entry(sha256)?;
        let starts = (0..entry.template.bytes).step_by(TEMPLATE_CHUNK_BYTES as usize);
        Ok(starts.map(move |start| {
            let mut chunk = vec![0; TEMPLATE_CHUNK_BYTES.min(entry.template.bytes - start) as usize];
            self.region
                .read(entry.offset + start, &mut chunk)
                .expect("a template's chunks lie inside the region");
            chunk
        }))
    }

    /// Hashes of the template's chunks, if all of them are in the factory's chunk store.
    ///
    /// # Errors
    /// [`FactoryError::UnknownTemplate`].
    pub fn in_chunk_store(&self, sha256: &Digest) -> Result<Option<Vec<Digest>>, FactoryError> {
        Ok(self.entry(sha256)?.in_chunk_store)
    }

    /// Takes note that all chunks of a template are in the chunk store, or (`None`) that they have to be put there again: the
    /// store is no part of the factory's memory, and whoever controls the factory can empty it.
    ///
    /// # Errors
    /// [`FactoryError::UnknownTemplate`].
    pub fn set_in_chunk_store(
        &mut self,
        sha256: &Digest,
        chunks: Option<Vec<Digest>>,
    ) -> Result<(), FactoryError> {
        let entry = self.entry(sha256)?;
        self.put(TemplateEntry { in_chunk_store: chunks, ..entry });
        Ok(())
    }

    /// Whether the chunk store has room for a template beside those that are in it.
    ///
    /// # Errors
    /// [`FactoryError::UnknownTemplate`].
    pub fn fits_chunk_store(&self, sha256: &Digest) -> Result<bool, FactoryError> {
        let chunks = self.entry(sha256)?.template.bytes.div_ceil(TEMPLATE_CHUNK_BYTES) as usize;
        let stored = self.entries.values().filter_map(|entry| Some(entry.0.in_chunk_store?.len()));
        Ok(stored.sum::<usize>() + chunks <= CHUNK_STORE_CHUNKS)
    }

    /// Takes note that the chunk store is empty.
    pub fn chunk_store_cleared(&mut self) {
        let stored: Vec<TemplateEntry> = self.entries.values().map(|entry| entry.0).collect();
        for entry in stored.into_iter().filter(|entry| entry.in_chunk_store.is_some()) {
            self.put(TemplateEntry { in_chunk_store: None, ..entry });
        }
    }

    /// A page of the templates.
    pub fn list(&self, args: &ListTemplatesArgs) -> TemplatePage {
        let from = args.after.map_or([0; 32], |after| *after.as_bytes());
        let rest = self.entries.range(from..).map(|entry| entry.value().0.template);
        let rest = rest.filter(|template| Some(template.sha256) != args.after);
        let (templates, next) = paging::page(rest, args.limit, |template| template.sha256);
        TemplatePage { templates, next }
    }

    fn entry(&self, sha256: &Digest) -> Result<TemplateEntry, FactoryError> {
        let entry = self.entries.get(sha256.as_bytes());
        entry.map(|entry| entry.0).ok_or(FactoryError::UnknownTemplate { sha256: *sha256 })
    }

    fn put(&mut self, entry: TemplateEntry) {
        self.entries.insert(*entry.template.sha256.as_bytes(), Cbor(entry));
    }
}

fn out_of_room(error: &impl ToString) -> FactoryError {
    FactoryError::InvalidField(FieldError::new("bytes", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memories;
    use ic_stable_structures::DefaultMemoryImpl;
    use serde_bytes::ByteBuf;

    fn templates() -> Templates {
        let memories = Memories::of(DefaultMemoryImpl::default());
        Templates::open(memories.templates, memories.extents, memories.bytes)
    }

    fn announce(templates: &mut Templates, wasm: &[u8]) -> Template {
        let args = BeginTemplateArgs {
            sha256: Digest::of(wasm),
            bytes: wasm.len() as u64,
            version: "1.0.0".to_owned(),
        };
        templates.begin(args).unwrap()
    }

    fn chunk(wasm: &[u8], index: u32) -> PutTemplateChunkArgs {
        let bytes = wasm.chunks(TEMPLATE_CHUNK_BYTES as usize).nth(index as usize).unwrap();
        PutTemplateChunkArgs { sha256: Digest::of(wasm), index, bytes: ByteBuf::from(bytes) }
    }

    fn wasm(fill: u8) -> Vec<u8> {
        (0..TEMPLATE_CHUNK_BYTES * 2 + 100).map(|i| (i % 251) as u8 ^ fill).collect()
    }

    #[test]
    fn chunks_in_any_order_make_the_template() {
        let (mut templates, wasm) = (templates(), wasm(0));
        let sha256 = announce(&mut templates, &wasm).sha256;
        assert_eq!(templates.put_chunk(&chunk(&wasm, 2)).unwrap().missing_chunks, [0, 1]);
        assert_eq!(templates.put_chunk(&chunk(&wasm, 0)).unwrap().missing_chunks, [1]);
        assert_eq!(
            templates.commit(&sha256, 7).unwrap_err(),
            FactoryError::TemplateIncomplete { sha256, missing: 1 }
        );
        assert_eq!(templates.committed(None).unwrap_err(), FactoryError::NoTemplate);
        assert_eq!(announce(&mut templates, &wasm).missing_chunks, [1], "a resumed upload sees the gap");
        templates.put_chunk(&chunk(&wasm, 1)).unwrap();
        assert_eq!(templates.commit(&sha256, 7).unwrap().committed_at_ns, Some(7));
        assert_eq!(
            templates.commit(&sha256, 9).unwrap().committed_at_ns,
            Some(7),
            "committing is idempotent"
        );
        assert_eq!(templates.chunks(&sha256).unwrap().collect::<Vec<_>>().concat(), wasm);
        assert!(matches!(templates.put_chunk(&chunk(&wasm, 1)), Err(FactoryError::InvalidField(_))));
    }

    #[test]
    fn the_last_committed_is_the_default() {
        let mut templates = templates();
        for (fill, now_ns) in [(1, 20), (2, 30), (3, 10)] {
            let wasm = wasm(fill);
            announce(&mut templates, &wasm);
            (0..3).for_each(|index| drop(templates.put_chunk(&chunk(&wasm, index)).unwrap()));
            templates.commit(&Digest::of(&wasm), now_ns).unwrap();
        }
        assert_eq!(templates.committed(None).unwrap().sha256, Digest::of(&wasm(2)));
        assert_eq!(templates.committed(Some(&Digest::of(&wasm(3)))).unwrap().committed_at_ns, Some(10));
        assert_eq!(templates.list(&ListTemplatesArgs { after: None, limit: 2 }).templates.len(), 2);
    }

    #[test]
    fn wrong_chunks_are_refused() {
        let (mut templates, wasm) = (templates(), wasm(0));
        let sha256 = announce(&mut templates, &wasm).sha256;
        let field = |error| match error {
            FactoryError::InvalidField(error) => error.field,
            other => panic!("{other}"),
        };
        let short = PutTemplateChunkArgs { sha256, index: 0, bytes: ByteBuf::from(vec![0; 5]) };
        assert_eq!(field(templates.put_chunk(&short).unwrap_err()), "bytes");
        let beyond = PutTemplateChunkArgs { index: 3, ..short };
        assert_eq!(field(templates.put_chunk(&beyond).unwrap_err()), "index");
        let empty = BeginTemplateArgs { sha256: Digest::ZERO, bytes: 0, version: "1".to_owned() };
        assert_eq!(field(templates.begin(empty.clone()).unwrap_err()), "bytes");
        let huge = BeginTemplateArgs { bytes: MAX_TEMPLATE_BYTES + 1, ..empty.clone() };
        assert_eq!(field(templates.begin(huge).unwrap_err()), "bytes");
        let unnamed = BeginTemplateArgs { bytes: 1, version: String::new(), ..empty };
        assert_eq!(field(templates.begin(unnamed).unwrap_err()), "version");
    }

    #[test]
    fn chunks_with_another_hash_are_dropped() {
        let (mut templates, wasm) = (templates(), wasm(0));
        let sha256 = announce(&mut templates, &wasm).sha256;
        for index in 0..3 {
            let mut chunk = chunk(&wasm, index);
            chunk.bytes[9] ^= u8::from(index == 1);
            templates.put_chunk(&chunk).unwrap();
        }
        assert!(
            matches!(templates.commit(&sha256, 1), Err(FactoryError::WrongTemplateHash { expected, .. }) if expected == sha256)
        );
        assert_eq!(templates.commit(&sha256, 1).unwrap_err(), FactoryError::UnknownTemplate { sha256 });
        assert_eq!(templates.extents.end(), 0, "the space is free again");
    }
}
