//! Canister memory that a message can change and undo.
//!
//! A memfd holds the committed bytes. A private mapping of it holds the changes of the running message: it is what
//! the canister sees. Committing writes the changed pages to the memfd, undoing drops them. Which pages were
//! touched and which were changed is asked of `/proc/self/pagemap`: the mapping's pages are dropped before each message, so
//! a page that is present afterwards was accessed, and one that is not the file's own was written.
//!
//! A read fault may map the neighbours of a page as well, but never beyond the aligned 64 KiB around it
//! (`fault_around_bytes`), which is the unit of accounting: the mapping starts on such a boundary.

use crate::{
    costs::{OS_PAGE, PageCount, WASM_PAGE},
    limits,
};
use std::{
    cell::RefCell,
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Bytes behind a heap whose access traps; wasmtime leaves out bounds checks because of them.
pub const GUARD_BYTES: usize = 64 << 20;

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// The number of the next memory.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

static PAGEMAP: LazyLock<File> =
    LazyLock::new(|| File::open("/proc/self/pagemap").expect("/proc/self/pagemap is readable on Linux"));

/// Memory with one level of undo: the bytes of the last commit and the changes since.
pub struct Memory {
    file: File,
    reservation: *mut libc::c_void,
    reserved: usize,
    base: *mut u8,
    capacity: usize,
    /// Bytes that are mapped now.
    len: AtomicUsize,
    /// Bytes at the last commit.
    committed: AtomicUsize,
    /// No other memory of this process has this number.
    id: u64,
    /// Counts the commits that changed something.
    changes: AtomicU64,
}

/// A state of a memory's committed content, as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    memory: u64,
    changes: u64,
}

// SAFETY: the mapping belongs to this value. A canister and the host take turns: a message runs on one thread, which holds
// the network exclusively.
unsafe impl Send for Memory {}
// SAFETY: as above; shared references are used from the thread that runs the message.
unsafe impl Sync for Memory {}

impl Memory {
    /// An empty memory that can grow to `capacity` bytes, with [`GUARD_BYTES`] behind it.
    ///
    /// # Errors
    /// When the system has no address space or file descriptor left.
    pub fn new(capacity: usize) -> io::Result<Arc<Self>> {
        let reserved = capacity + GUARD_BYTES + WASM_PAGE;
        // SAFETY: both calls take no pointer of ours; their results are checked.
        let (fd, reservation) = unsafe {
            let fd = libc::memfd_create(c"canister".as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            (File::from_raw_fd(fd), map_inaccessible(std::ptr::null_mut(), reserved, 0)?)
        };
        let base = reservation.cast::<u8>().map_addr(|a| a.next_multiple_of(WASM_PAGE));
        Ok(Arc::new(Self {
            file: fd,
            reservation,
            reserved,
            base,
            capacity,
            len: AtomicUsize::new(0),
            committed: AtomicUsize::new(0),
            id: NEXT_ID.fetch_add(1, Relaxed),
            changes: AtomicU64::new(0),
        }))
    }

    /// Bytes the memory has now.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Whether the memory has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows to `new` bytes (a multiple of 64 KiB); false when that exceeds the capacity or the system's memory.
    pub fn grow(&self, new: usize) -> bool {
        let old = self.len();
        if new <= old {
            return true;
        }
        if new > self.capacity || self.file.set_len(new as u64).is_err() {
            return false;
        }
        // SAFETY: [old, new) lies in our reservation, and the file has just been extended to cover it.
        let mapped = unsafe {
            libc::mmap(
                self.base.add(old).cast(),
                new - old,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                self.file.as_raw_fd(),
                old as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        self.len.store(new, Relaxed);
        true
    }

    /// The bytes at `range`, or `None` when it leaves the memory.
    pub fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        // SAFETY: the range is mapped; nothing else writes while the host reads (see `Sync`).
        Some(unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.len()) })
    }

    /// Writes `bytes` at `offset`; false when they do not fit.
    #[must_use]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        match offset.checked_add(bytes.len()) {
            Some(end) if end <= self.len() => {
                // SAFETY: the destination is mapped and lies in our mapping, which no safe slice of `bytes` overlaps:
                // `bytes` is either the host's or another memory's.
                unsafe { std::ptr::copy(bytes.as_ptr(), self.base.add(offset), bytes.len()) };
                true
            }
            _ => false,
        }
    }

    /// The pages touched since the last commit or undoing, for memory that only this message uses.
    pub fn scan(&self) -> PageScan {
        let (start, end) = (self.base.addr(), self.base.addr() + self.len());
        scan_by_ioctl(start, end).unwrap_or_else(|| scan_entries(start, end))
    }

    /// Makes all changes permanent; `scan` was taken after the last of them.
    ///
    /// # Errors
    /// When the system has no memory left for them.
    pub fn commit(&self, scan: &PageScan) -> io::Result<()> {
        scan.private_ranges().try_for_each(|range| self.write_back(range))?;
        self.commit_len();
        self.drop_pages(0..self.len());
        Ok(())
    }

    /// Makes the changes in `pages` (and a change of the length) permanent. Only these pages were written.
    ///
    /// # Errors
    /// When the system has no memory left for them.
    pub fn commit_pages(&self, pages: &PageSet) -> io::Result<()> {
        for page in pages.iter() {
            let range = page * WASM_PAGE..(page + 1) * WASM_PAGE;
            self.write_back(range.clone())?;
            self.drop_pages(range);
        }
        self.commit_len();
        Ok(())
    }

    fn commit_len(&self) {
        let len = self.len();
        if self.committed.swap(len, Relaxed) != len {
            self.changes.fetch_add(1, Relaxed);
        }
    }

    fn write_back(&self, range: Range<usize>) -> io::Result<()> {
        self.changes.fetch_add(1, Relaxed);
        // SAFETY: the range is mapped, and only read.
        let bytes = unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.len()) };
        self.file.write_all_at(bytes, range.start as u64)
    }

    /// Undoes everything since the last commit.
    pub fn roll_back(&self) {
        self.shrink(self.committed.load(Relaxed));
        self.drop_pages(0..self.len());
    }

    /// Copies the committed content of `source` to this memory, which is empty.
    ///
    /// # Errors
    /// When `source` does not fit, or the system has no memory left.
    pub fn copy_from(&self, source: &Self) -> io::Result<()> {
        let len = source.committed.load(Relaxed);
        if !self.grow(len) {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, format!("{len} bytes do not fit")));
        }
        copy_data(&source.file, &self.file, len)?;
        self.committed.store(len, Relaxed);
        self.changes.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Writes the committed content to an empty `file`; what is zero stays a hole in it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, file: &File) -> io::Result<()> {
        let len = self.committed.load(Relaxed);
        file.set_len(len as u64)?;
        copy_data(&self.file, file, len)
    }

    /// Reads the content of `file` to this memory, which is empty.
    ///
    /// # Errors
    /// When it cannot be read, does not fit, or the system has no memory left.
    pub fn load(&self, file: &File) -> io::Result<()> {
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if !len.is_multiple_of(WASM_PAGE) || !self.grow(len) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes do not fit")));
        }
        copy_data(file, &self.file, len)?;
        self.committed.store(len, Relaxed);
        Ok(())
    }

    /// Which memory this is, and how often its committed content has changed.
    pub fn version(&self) -> Version {
        Version { memory: self.id, changes: self.changes.load(Relaxed) }
    }

    /// Bytes to which it can grow.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes the memory empty; this cannot be undone.
    pub fn clear(&self) {
        self.shrink(0);
        self.commit_len();
    }

    fn shrink(&self, keep: usize) {
        let len = self.len();
        if keep >= len {
            return;
        }
        // SAFETY: [keep, len) is mapped by us, and nothing refers to it between messages.
        unsafe { map_inaccessible(self.base.add(keep).cast(), len - keep, libc::MAP_FIXED) }
            .expect("replacing our own mapping does not need address space");
        self.file.set_len(keep as u64).expect("a memfd can always shrink");
        self.len.store(keep, Relaxed);
    }

    /// Drops pages of the mapping, so that the file's pages show again.
    fn drop_pages(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        // SAFETY: the range is mapped by us, and no slice of it lives between messages.
        unsafe { libc::madvise(self.base.add(range.start).cast(), range.len(), libc::MADV_DONTNEED) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.reservation, self.reserved) };
    }
}

/// Copies the first `len` bytes of a file to another one, which is empty, without its holes.
fn copy_data(source: &File, target: &File, len: usize) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while let Some(start) = seek(source, at, libc::SEEK_DATA)?.filter(|start| *start < len) {
        at = seek(source, start, libc::SEEK_HOLE)?.unwrap_or(len).min(len);
        for from in (start..at).step_by(COPY_BYTES) {
            let part = &mut buffer[..COPY_BYTES.min(at - from)];
            source.read_exact_at(part, from as u64)?;
            target.write_all_at(part, from as u64)?;
        }
    }
    Ok(())
}

/// Where data (`SEEK_DATA`) or a hole (`SEEK_HOLE`) begins in `file` at or after `at`; `None` at the end.
fn seek(file: &File, at: usize, whence: libc::c_int) -> io::Result<Option<usize>> {
    // SAFETY: the descriptor is open; its position is used for nothing else.
    let found = unsafe { libc::lseek(file.as_raw_fd(), at as libc::off_t, whence) };
    match usize::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Reserves address space without memory.
///
/// # Safety
/// With `MAP_FIXED` the range must be ours.
unsafe fn map_inaccessible(
    at: *mut libc::c_void,
    len: usize,
    flags: libc::c_int,
) -> io::Result<*mut libc::c_void> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the caller's promise.
    let mapped = unsafe { libc::mmap(at, len, libc::PROT_NONE, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapped) }
}

/// The argument of `PAGEMAP_SCAN` (Linux 6.7, `include/uapi/linux/fs.h`).
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Pages that follow each other and are of the same categories; an entry of the result of `PAGEMAP_SCAN`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ScanRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// Regions that one call returns at most.
const SCAN_REGIONS: usize = 512;

/// The touched pages between two addresses. The kernel skips what is not mapped, so that it takes no time for each page of a large
/// heap. `None` when the kernel is too old.
fn scan_by_ioctl(start: usize, end: usize) -> Option<PageScan> {
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    if IS_MISSING.load(Relaxed) {
        return None;
    }
    let mut runs = Vec::new();
    let mut regions = [ScanRegion::default(); SCAN_REGIONS];
    let mut at = start as u64;
    while at < end as u64 {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start: at,
            end: end as u64,
            regions: regions.as_mut_ptr().expose_provenance() as u64,
            regions_len: SCAN_REGIONS as u64,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_FILE | PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArgument::default()
        };
        // SAFETY: the argument has the size it says, and the kernel writes at most `SCAN_REGIONS` regions to the array.
        let found = unsafe { libc::ioctl(PAGEMAP.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
        let Ok(found) = usize::try_from(found) else {
            IS_MISSING.store(true, Relaxed);
            return None;
        };
        runs.extend(regions[..found].iter().map(|region| PageRun {
            pages: (region.start as usize - start) / OS_PAGE..(region.end as usize - start) / OS_PAGE,
            private: region.categories & PAGE_IS_FILE == 0,
        }));
        at = argument.walk_end;
    }
    Some(PageScan(runs))
}

/// The touched pages between two addresses, from an entry for each page (Linux,
/// `Documentation/admin-guide/mm/pagemap.rst`).
fn scan_entries(start: usize, end: usize) -> PageScan {
    let mut entries = vec![0u8; (end - start) / OS_PAGE * 8];
    PAGEMAP
        .read_exact_at(&mut entries, (start / OS_PAGE * 8) as u64)
        .expect("the mapping's part of the pagemap is readable");
    let entries =
        entries.chunks_exact(8).map(|e| u64::from_le_bytes(e.try_into().expect("chunks of 8 bytes")));
    // In memory or swapped out; and whether it is not a page of the file, but a private copy.
    let states: Vec<(bool, bool)> = entries.map(|e| (e >> 62 != 0, e >> 61 & 1 == 0)).collect();
    let mut at = 0;
    let runs = states.chunk_by(|a, b| a == b).filter_map(|run| {
        let first = at;
        at += run.len();
        let (present, private) = run[0];
        present.then_some(PageRun { pages: first..at, private })
    });
    PageScan(runs.collect())
}

/// OS pages of a memory that follow each other, by number: all accessed, and all private copies or none.
#[derive(Debug, PartialEq, Eq)]
struct PageRun {
    pages: Range<usize>,
    private: bool,
}

/// The accessed OS pages of a memory at one moment, in ascending order.
#[derive(Debug)]
pub struct PageScan(Vec<PageRun>);

impl PageScan {
    /// The 64 KiB pages that were accessed and written.
    pub fn count(&self) -> PageCount {
        let count = |runs: &mut dyn Iterator<Item = &PageRun>| {
            let mut next = 0;
            runs.fold(0, |sum, run| {
                let (first, end) =
                    (run.pages.start * OS_PAGE / WASM_PAGE, (run.pages.end * OS_PAGE).div_ceil(WASM_PAGE));
                let new = end - first.max(next);
                next = end;
                sum + new as u64
            })
        };
        PageCount {
            accessed: count(&mut self.0.iter()),
            written: count(&mut self.0.iter().filter(|run| run.private)),
        }
    }

    /// Runs of pages that differ from the file, as byte ranges.
    fn private_ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let private = self.0.iter().filter(|run| run.private);
        private.map(|run| run.pages.start * OS_PAGE..run.pages.end * OS_PAGE)
    }
}

/// A set of 64 KiB pages, by index.
#[derive(Clone, Debug, Default)]
pub struct PageSet {
    bits: Vec<u64>,
    len: u64,
}

impl PageSet {
    /// Adds the pages that hold the bytes of `range`; returns how many are new.
    pub fn insert_range(&mut self, range: Range<usize>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (first, last) = (range.start / WASM_PAGE, (range.end - 1) / WASM_PAGE);
        if self.bits.len() <= last / 64 {
            self.bits.resize(last / 64 + 1, 0);
        }
        let before = self.len;
        for page in first..=last {
            let (word, bit) = (&mut self.bits[page / 64], 1u64 << (page % 64));
            self.len += u64::from(*word & bit == 0);
            *word |= bit;
        }
        self.len - before
    }

    /// Number of pages.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Removes all pages.
    pub fn clear(&mut self) {
        self.bits.clear();
        self.len = 0;
    }

    /// The pages in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.bits.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(i, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i * 64 + bit)
        })
    }
}

thread_local! {
    /// The memory that the next instantiated module gets: wasmtime's interface passes no context.
    static NEXT: RefCell<Option<Arc<Memory>>> = const { RefCell::new(None) };
}

/// Makes the next module that this thread instantiates use `memory` as its heap.
pub fn provide_heap(memory: Arc<Memory>) {
    NEXT.set(Some(memory));
}

/// Gives instances the memory passed to [`provide_heap`].
pub struct HeapCreator;

struct Heap(Arc<Memory>);

// SAFETY: the mapping has `capacity` bytes plus a guard and never moves.
unsafe impl LinearMemory for Heap {
    fn byte_size(&self) -> usize {
        self.0.len()
    }

    fn byte_capacity(&self) -> usize {
        self.0.capacity
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if self.0.grow(new_size) { Ok(()) } else { Err(wasmtime::Error::msg("out of memory")) }
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.base
    }
}

// SAFETY: the memory that is handed out fulfils the reservation and guard that were asked for, which is checked.
unsafe impl MemoryCreator for HeapCreator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let memory = NEXT.take().ok_or("no heap was provided")?;
        if reserved.unwrap_or(0) > memory.capacity || guard > GUARD_BYTES {
            return Err(format!("the heap's reservation is too small for {reserved:?} + {guard} bytes"));
        }
        if !memory.grow(minimum) {
            return Err(format!("no memory for {minimum} bytes of heap"));
        }
        Ok(Box::new(Heap(memory)))
    }
}

/// A heap of the largest size wasm32 allows.
///
/// # Errors
/// When the system has no address space left.
pub fn new_heap() -> io::Result<Arc<Memory>> {
    Memory::new(limits::HEAP_BYTES as usize)
}

/// A stable memory of the largest size this network allows.
///
/// # Errors
/// When the system has no address space left.
pub fn new_stable() -> io::Result<Arc<Memory>> {
    Memory::new(limits::STABLE_BYTES as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes of the memories tried here.
    const CAPACITY: usize = 8 * WASM_PAGE;

    #[derive(Clone, Debug)]
    enum Step {
        Grow(usize),
        Write(usize, u8),
        Read(usize),
        Commit,
        CommitWritten,
        RollBack,
        Clear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (1..=8usize).prop_map(|pages| Step::Grow(pages * WASM_PAGE)),
            6 => (0..CAPACITY, any::<u8>()).prop_map(|(at, byte)| Step::Write(at, byte)),
            3 => (0..CAPACITY).prop_map(Step::Read),
            1 => Just(Step::Commit),
            1 => Just(Step::CommitWritten),
            2 => Just(Step::RollBack),
            1 => Just(Step::Clear),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// The obvious implementation: two vectors, and the sets of touched pages.
    #[derive(Default)]
    struct Model {
        now: Vec<u8>,
        committed: Vec<u8>,
        accessed: PageSet,
        written: PageSet,
    }

    impl Model {
        fn settle(&mut self) {
            self.accessed.clear();
            self.written.clear();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn memory_is_like_two_vectors(steps in steps()) {
            let memory = Memory::new(CAPACITY).unwrap();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Grow(len) => {
                        prop_assert!(memory.grow(len));
                        model.now.resize(len.max(model.now.len()), 0);
                    }
                    Step::Write(at, byte) => {
                        let fits = at < model.now.len();
                        prop_assert_eq!(memory.write(at, &[byte]), fits);
                        if fits {
                            model.now[at] = byte;
                            model.accessed.insert_range(at..at + 1);
                            model.written.insert_range(at..at + 1);
                        }
                    }
                    Step::Read(at) => {
                        prop_assert_eq!(memory.get(at..at + 1).map(|b| b[0]), model.now.get(at).copied());
                        if at < model.now.len() {
                            model.accessed.insert_range(at..at + 1);
                        }
                    }
                    Step::Commit => {
                        memory.commit(&memory.scan()).unwrap();
                        model.committed = model.now.clone();
                        model.settle();
                    }
                    Step::CommitWritten => {
                        memory.commit_pages(&model.written).unwrap();
                        memory.roll_back();
                        model.committed = model.now.clone();
                        model.settle();
                    }
                    Step::RollBack => {
                        memory.roll_back();
                        model.now = model.committed.clone();
                        model.settle();
                    }
                    Step::Clear => {
                        memory.clear();
                        model = Model::default();
                    }
                }
                let count = PageCount { accessed: model.accessed.len(), written: model.written.len() };
                prop_assert_eq!(memory.scan().count(), count);
                let entries = scan_entries(memory.base.addr(), memory.base.addr() + memory.len());
                prop_assert_eq!(entries.count(), count);
                let ranges = |scan: &PageScan| scan.private_ranges().collect::<Vec<_>>();
                prop_assert_eq!(ranges(&entries), ranges(&memory.scan()));
                prop_assert_eq!(memory.len(), model.now.len());
            }
            prop_assert_eq!(memory.get(0..memory.len()).unwrap(), &model.now[..]);
            let copy = Memory::new(memory.len()).unwrap();
            copy.copy_from(&memory).unwrap();
            prop_assert_eq!(copy.get(0..copy.len()).unwrap(), &model.committed[..]);
            let file = tempfile::tempfile().unwrap();
            memory.save(&file).unwrap();
            let loaded = Memory::new(CAPACITY).unwrap();
            loaded.load(&file).unwrap();
            prop_assert_eq!(loaded.get(0..loaded.len()).unwrap(), &model.committed[..]);
            prop_assert_eq!(memory.get(0..memory.len()).unwrap(), &model.now[..]);
        }
    }
}
