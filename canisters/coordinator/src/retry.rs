//! When something that failed is tried again.

use shared_types::Digest;
use shared_types::coordinator::CoordinatorConfig;

/// Nanoseconds to wait after `failures` failures in a row: doubling from `backoff_ns` to at most `max_backoff_ns`, of which a part
/// between a half and the whole is chosen by the seed and what it is for ("equal jitter"), so that what failed together does not
/// come back together.
pub fn backoff_ns(config: &CoordinatorConfig, seed: u64, what: &str, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(32);
    let longest = config.backoff_ns.saturating_mul(1 << doublings).min(config.max_backoff_ns);
    let half = longest / 2;
    half + chance(seed, &format!("{what}/{failures}")) % (longest - half + 1)
}

/// A number that follows from the seed and what it is for.
pub fn chance(seed: u64, what: &str) -> u64 {
    let mut preimage = seed.to_le_bytes().to_vec();
    preimage.extend_from_slice(what.as_bytes());
    let digest = Digest::of(&preimage);
    let first: [u8; 8] = std::array::from_fn(|at| digest.as_bytes()[at]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_double_within_their_bounds(seed in any::<u64>(), failures in 1u32..100) {
            let config = CoordinatorConfig::default();
            let longest = (config.backoff_ns << (failures - 1).min(20)).min(config.max_backoff_ns);
            let wait = backoff_ns(&config, seed, "task", failures);
            prop_assert!(wait >= longest / 2 && wait <= longest);
            prop_assert_eq!(wait, backoff_ns(&config, seed, "task", failures));
        }
    }

    #[test]
    fn tasks_do_not_come_back_together() {
        let config = CoordinatorConfig::default();
        let waits: std::collections::BTreeSet<u64> =
            (0..100).map(|task| backoff_ns(&config, 7, &format!("task {task}"), 3)).collect();
        assert!(waits.len() > 90);
    }
}
