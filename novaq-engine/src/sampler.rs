//! Sampling: which token follows, given the logits.
//!
//! The order is that of Hugging Face transformers: temperature, top-k, top-p. All sums run in one fixed order and `exp`
//! comes from the `libm` crate, so that every target draws the same token. Randomness depends on the seed and the
//! token's position only: a job that resumes at a position needs no saved state.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How to sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Only this many most probable tokens are considered; 0 considers all.
    pub top_k: u32,
    /// Only the most probable tokens that together reach this probability are considered; 1 considers all.
    pub top_p: f32,
    /// Equal seeds draw equal tokens.
    pub seed: u64,
}

impl Default for SamplingParams {
    /// The most probable token, always.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Why a token cannot be sampled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sampling `{field}`: {reason}")]
pub struct SamplingError {
    /// The parameter, or `logits`.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl SamplingParams {
    /// Checks that every parameter is in its range.
    ///
    /// # Errors
    /// If the temperature is negative or not finite, or top-p is not in (0, 1].
    pub fn validate(&self) -> Result<(), SamplingError> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            let reason = format!("{} is not a finite number of at least 0", self.temperature);
            return Err(SamplingError { field: "temperature", reason });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let reason = format!("{} is not above 0 and at most 1", self.top_p);
            return Err(SamplingError { field: "top_p", reason });
        }
        Ok(())
    }
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// From the most to the least probable; of equals the lowest id comes first.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature of sort_by's comparison")]
    fn order(a: &Self, b: &Self) -> std::cmp::Ordering {
        b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
    }
}

/// Draws tokens with fixed parameters; keeps its buffer between calls.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    candidates: Vec<Candidate>,
}

/// The nucleus is looked for among this many candidates first, then among four times as many.
const FIRST_NUCLEUS: usize = 64;

impl Sampler {
    /// A sampler with these parameters.
    ///
    /// # Errors
    /// If a parameter is out of its range.
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        Ok(Self { params, candidates: Vec::new() })
    }

    /// The parameters of this sampler.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Draws the token at `position` of a sequence from its `logits` (`[vocabulary]`).
    ///
    /// # Errors
    /// If there are no logits, or one of them is not finite.
    pub fn sample(&mut self, logits: &[f32], position: u64) -> Result<u32, SamplingError> {
        if let Some(id) = logits.iter().position(|logit| !logit.is_finite()) {
            let reason = format!("the one of token {id} is {}", logits[id]);
            return Err(SamplingError { field: "logits", reason });
        }
        let mut best = 0;
        for (id, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = id;
            }
        }
        let Some(&max) = logits.get(best) else {
            return Err(SamplingError { field: "logits", reason: "there are none".to_owned() });
        };
        if self.params.temperature == 0.0 {
            return Ok(best as u32);
        }
        self.keep(logits, max);
        Ok(self.draw(max, uniform(self.params.seed, position)))
    }

    /// The probability of a logit, relative to that of the highest.
    fn weight(&self, logit: f32, max: f32) -> f64 {
        libm::exp((f64::from(logit) - f64::from(max)) / f64::from(self.params.temperature))
    }

    /// Fills `candidates` with what top-k and top-p leave. They are in the order of the ids if both are off, otherwise in
    /// the order of their probability.
    fn keep(&mut self, logits: &[f32], max: f32) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }));
        let top_k = self.params.top_k as usize;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, Candidate::order);
            candidates.truncate(top_k);
            candidates.sort_unstable_by(Candidate::order);
        }
        if self.params.top_p < 1.0 {
            // Summed in the order of the candidates, which is the same on every target.
            let total: f64 = candidates.iter().map(|candidate| self.weight(candidate.logit, max)).sum();
            let wanted = f64::from(self.params.top_p) * total;
            let mut sorted = FIRST_NUCLEUS;
            let nucleus = loop {
                if sorted < candidates.len() {
                    candidates.select_nth_unstable_by(sorted - 1, Candidate::order);
                }
                sorted = sorted.min(candidates.len());
                candidates[..sorted].sort_unstable_by(Candidate::order);
                let mut sum = 0.0;
                let reached = candidates[..sorted].iter().position(|candidate| {
                    sum += self.weight(candidate.logit, max);
                    sum >= wanted
                });
                match reached {
                    Some(last) => break last + 1,
                    None if sorted == candidates.len() => break sorted,
                    None => sorted *= 4,
                }
            };
            candidates.truncate(nucleus);
        }
        self.candidates = candidates;
    }

    /// Draws from the candidates by a number in [0, 1).
    fn draw(&self, max: f32, uniform: f64) -> u32 {
        let total: f64 = self.candidates.iter().map(|candidate| self.weight(candidate.logit, max)).sum();
        let wanted = uniform * total;
        let mut sum = 0.0;
        let mut last = 0;
        for candidate in &self.candidates {
            let weight = self.weight(candidate.logit, max);
            sum += weight;
            if sum > wanted {
                return candidate.id;
            }
            if weight > 0.0 {
                last = candidate.id;
            }
        }
        last
    }
}

/// A number in [0, 1) of 53 bits: the two words of the `ChaCha8` stream of `seed` that belong to `position`.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut stream = ChaCha8Rng::from_seed(key);
    stream.set_word_pos(2 * u128::from(position));
    (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that there are ties.
        prop_oneof![vec(-30.0..30.0f32, 1..300), vec((-4..4i8).prop_map(f32::from), 1..300)]
    }

    fn kept(params: SamplingParams, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(params).unwrap();
        sampler.keep(logits, logits.iter().copied().fold(f32::MIN, f32::max));
        sampler.candidates.iter().map(|candidate| candidate.id).collect()
    }

    fn sorted_ids(logits: &[f32]) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        ids
    }

    proptest! {
        #[test]
        fn top_k_keeps_the_k_best(logits in logits(), top_k in 1..350u32) {
            let params = SamplingParams { temperature: 1.0, top_k, ..SamplingParams::default() };
            let expected: BTreeSet<u32> = sorted_ids(&logits).into_iter().take(top_k as usize).collect();
            prop_assert_eq!(kept(params, &logits).into_iter().collect::<BTreeSet<_>>(), expected);
        }

        #[test]
        fn top_p_keeps_the_smallest_set_that_reaches_p(
            logits in logits(),
            top_p in 0.01..0.999f32,
            temperature in 0.1..3.0f32,
            top_k in 0..350u32,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, seed: 0 };
            let mut order = sorted_ids(&logits);
            if top_k > 0 {
                order.truncate(top_k as usize);
            }
            let weight = |id: u32| ((f64::from(logits[id as usize]) - 30.0) / f64::from(temperature)).exp();
            let total: f64 = order.iter().map(|&id| weight(id)).sum();
            let kept = kept(params, &logits);
            prop_assert_eq!(&kept[..], &order[..kept.len()]);
            let mass = |ids: &[u32]| ids.iter().map(|&id| weight(id)).sum::<f64>() / total;
            prop_assert!(mass(&kept) >= f64::from(top_p) - 1e-4);
            prop_assert!(kept.len() == 1 || mass(&kept[..kept.len() - 1]) < f64::from(top_p) + 1e-4);
        }

        #[test]
        fn what_is_drawn_was_kept(
            logits in logits(), top_k in 0..20u32, top_p in 0.1..1.0f32, seed: u64, position: u64,
        ) {
            let params = SamplingParams { temperature: 0.8, top_k, top_p, seed };
            let drawn = Sampler::new(params).unwrap().sample(&logits, position).unwrap();
            prop_assert!(kept(params, &logits).contains(&drawn));
            // A fresh sampler and one that has worked draw alike: there is no state.
            let mut used = Sampler::new(params).unwrap();
            used.sample(&logits, position.wrapping_add(1)).unwrap();
            prop_assert_eq!(used.sample(&logits, position).unwrap(), drawn);
        }

        #[test]
        fn temperature_0_is_greedy(logits in logits(), top_k in 0..20u32, seed: u64) {
            let params = SamplingParams { temperature: 0.0, top_k, top_p: 0.5, seed };
            let drawn = Sampler::new(params).unwrap().sample(&logits, 3).unwrap();
            prop_assert_eq!(drawn, sorted_ids(&logits)[0]);
            let cold = SamplingParams { temperature: f32::MIN_POSITIVE, top_k: 1, ..params };
            prop_assert_eq!(Sampler::new(cold).unwrap().sample(&logits, 3).unwrap(), drawn);
        }

        #[test]
        fn logits_that_are_not_finite_are_refused(
            mut logits in logits(), at: prop::sample::Index,
            bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ) {
            let at = at.index(logits.len());
            logits[at] = bad;
            let error = Sampler::new(SamplingParams::default()).unwrap().sample(&logits, 0).unwrap_err();
            prop_assert_eq!(error.to_string(), format!("sampling `logits`: the one of token {at} is {bad}"));
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let params = SamplingParams { temperature: 2.0, seed: 7, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params).unwrap();
        let logits = [2.0 * 0.1f32.ln(), 2.0 * 0.2f32.ln(), 2.0 * 0.7f32.ln()];
        let mut counts = [0; 3];
        for position in 0..20_000 {
            counts[sampler.sample(&logits, position).unwrap() as usize] += 1;
        }
        // Within four standard deviations of the binomial distribution.
        for (count, probability) in counts.into_iter().zip([0.1f64, 0.2, 0.7]) {
            let deviation = (20_000.0 * probability * (1.0 - probability)).sqrt();
            assert!((f64::from(count) - 20_000.0 * probability).abs() < 4.0 * deviation, "{counts:?}");
        }
    }

    /// These numbers are part of the format of receipts: a replay must draw the same tokens in ten years.
    #[test]
    fn the_random_numbers_are_fixed() {
        let drawn: Vec<u64> =
            [(0, 0), (0, 1), (1, 0), (1, 1 << 40)].map(|(s, p)| (uniform(s, p) * 1e9) as u64).to_vec();
        assert_eq!(drawn, [836_919_756, 631_424_494, 381_489_413, 769_099_564]);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let params = SamplingParams { temperature: -1.0, ..SamplingParams::default() };
        assert_eq!(params.validate().unwrap_err().field, "temperature");
        for top_p in [0.0, 1.5, f32::NAN] {
            let params = SamplingParams { top_p, ..SamplingParams::default() };
            assert_eq!(params.validate().unwrap_err().field, "top_p");
        }
        assert_eq!(
            Sampler::new(SamplingParams::default()).unwrap().sample(&[], 0).unwrap_err().field,
            "logits"
        );
    }
}
