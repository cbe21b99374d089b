//! Stable memories in git: only the blocks of a memory that are not zero are kept.

use std::path::PathBuf;

/// Bytes of a block.
const BLOCK: usize = 256;

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")).join(name).with_extension("bin")
}

/// The memory `name`.
///
/// # Panics
/// When there is none, or the file is damaged.
pub fn read(name: &str) -> Vec<u8> {
    let file = std::fs::read(path(name)).unwrap_or_else(|error| panic!("{}: {error}", path(name).display()));
    let (length, blocks) = file.split_first_chunk::<8>().expect("a length");
    let mut memory = vec![0; u64::from_le_bytes(*length) as usize];
    for block in blocks.chunks(4 + BLOCK) {
        let (index, bytes) = block.split_first_chunk::<4>().expect("an index");
        let at = u32::from_le_bytes(*index) as usize * BLOCK;
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }
    memory
}

/// Keeps `memory` as `name`.
///
/// # Panics
/// When the file can't be written.
pub fn write(name: &str, memory: &[u8]) {
    let mut file = (memory.len() as u64).to_le_bytes().to_vec();
    for (index, block) in memory.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.extend_from_slice(&(index as u32).to_le_bytes());
            file.extend_from_slice(block);
        }
    }
    std::fs::write(path(name), file).unwrap_or_else(|error| panic!("{}: {error}", path(name).display()));
}
