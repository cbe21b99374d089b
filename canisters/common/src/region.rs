//! Large byte strings in a memory of their own, outside any B-tree: one copy per byte, neighbours stay neighbours.

use ic_stable_structures::Memory;

/// Bytes of a Wasm page.
const PAGE: u64 = 65_536;

/// A memory of raw bytes that grows when something is written beyond its end.
pub struct Region<M: Memory>(M);

/// The memory can't grow as far as a write needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stable memory can't grow to {end} bytes")]
pub struct OutOfMemory {
    /// Bytes that the memory would need.
    pub end: u64,
}

/// A read reaches beyond what was ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bytes {offset}..{offset}+{length} were never written")]
pub struct OutOfRange {
    /// First byte asked for.
    pub offset: u64,
    /// Bytes asked for.
    pub length: u64,
}

impl<M: Memory> Region<M> {
    /// Takes the whole of `memory`.
    pub fn new(memory: M) -> Self {
        Self(memory)
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// When the memory can't grow; nothing is written then.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfMemory> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(OutOfMemory { end: u64::MAX })?;
        let missing = end.div_ceil(PAGE).saturating_sub(self.0.size());
        if missing > 0 && self.0.grow(missing) < 0 {
            return Err(OutOfMemory { end });
        }
        self.0.write(offset, bytes);
        Ok(())
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the range reaches beyond the memory; `buffer` is unchanged then.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let length = buffer.len() as u64;
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.0.size() * PAGE);
        if !inside {
            return Err(OutOfRange { offset, length });
        }
        self.0.read(offset, buffer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_stable_structures::VectorMemory;

    #[test]
    fn reads_back_what_was_written_and_nothing_beyond() {
        let region = Region::new(VectorMemory::default());
        region.write(PAGE - 2, b"abcd").unwrap();
        let mut buffer = [0; 4];
        region.read(PAGE - 2, &mut buffer).unwrap();
        assert_eq!(&buffer, b"abcd");
        assert_eq!(
            region.read(2 * PAGE - 3, &mut buffer),
            Err(OutOfRange { offset: 2 * PAGE - 3, length: 4 })
        );
        assert!(region.read(u64::MAX, &mut buffer).is_err());
        assert!(region.write(u64::MAX, b"x").is_err());
    }
}
