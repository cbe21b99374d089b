//! Memory and processor time that a process has used, as the system counts them.

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Most memory resident at a time, in bytes. Mapped files count as far as they were read.
    pub peak_memory: u64,
    /// Time of all its threads on a processor, in seconds.
    pub processor_seconds: f64,
}

impl Usage {
    /// This process; `None` where the system does not say.
    pub fn of_this_process() -> Option<Self> {
        #[cfg(unix)]
        return Self::read(libc::RUSAGE_SELF);
        #[cfg(not(unix))]
        None
    }

    /// The largest of the child processes that have ended, and the time of all of them; `None` where the system does not
    /// say.
    pub fn of_children() -> Option<Self> {
        #[cfg(unix)]
        return Self::read(libc::RUSAGE_CHILDREN);
        #[cfg(not(unix))]
        None
    }

    #[cfg(unix)]
    fn read(who: libc::c_int) -> Option<Self> {
        // SAFETY: `rusage` is plain integers, of which zeros are a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a `rusage` that may be written to.
        if unsafe { libc::getrusage(who, &raw mut usage) } != 0 {
            return None;
        }
        // Linux counts in KiB, macOS in bytes.
        let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + 1e-6 * time.tv_usec as f64;
        Some(Self {
            peak_memory: u64::try_from(usage.ru_maxrss).ok()? * unit,
            processor_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn memory_that_is_used_is_counted() {
        let block = vec![1u8; 256 << 20];
        let usage = Usage::of_this_process().unwrap();
        assert!(usage.peak_memory > 256 << 20 && usage.processor_seconds > 0.0, "{usage:?}");
        assert_eq!(block[block.len() / 2], 1);
    }
}
