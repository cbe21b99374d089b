//! Sampling: which token follows, given the logits.
//!
//! The order is that of Hugging Face transformers: logit bias, repetition penalty, temperature, top-k, top-p, min-p. All
//! sums run in one fixed order and `exp` is the kernels', so that every target draws the same token. A draw
//! depends on the parameters, the seed and the tokens so far only: a job that resumes needs no saved state.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, RangeInclusive};

use crate::constraint::Following;
use crate::kernel::Backend;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Most tokens whose logits can be biased.
pub const MAX_LOGIT_BIASES: usize = 1_024;

/// What can be added to a logit at most, up or down.
pub const MAX_LOGIT_BIAS: f32 = 1_000.0;

/// Smallest and largest repetition penalty.
pub const REPETITION_PENALTIES: RangeInclusive<f32> = 0.01..=100.0;

/// How to sample.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Only this many most probable tokens are considered; 0 considers all.
    pub top_k: u32,
    /// Only the most probable tokens that together reach this probability are considered; 1 considers all.
    pub top_p: f32,
    /// Only tokens at least this probable relative to the most probable one are considered; 0 considers all
    /// (`MinPLogitsWarper` of transformers; <https://arxiv.org/abs/2407.01082>).
    pub min_p: f32,
    /// Divides the positive logits of tokens that occur before, prompt included, and multiplies the negative ones; 1
    /// changes nothing (`RepetitionPenaltyLogitsProcessor` of transformers; <https://arxiv.org/abs/1909.05858>).
    pub repetition_penalty: f32,
    /// How many tokens at the end of the text the penalty looks at; 0 for all.
    pub repetition_window: u32,
    /// Ids of tokens and what is added to their logits, each token once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Equal seeds draw equal tokens.
    pub seed: u64,
}

impl Default for SamplingParams {
    /// The most probable token, always.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 0,
            logit_bias: Vec::new(),
            seed: 0,
        }
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
    /// If the temperature is negative or not finite, top-p is not in (0, 1], min-p not in [0, 1], the penalty not
    /// within [`REPETITION_PENALTIES`], or there are too many, too large or repeated logit biases.
    pub fn validate(&self) -> Result<(), SamplingError> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            let reason = format!("{} is not a finite number of at least 0", self.temperature);
            return Err(SamplingError { field: "temperature", reason });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let reason = format!("{} is not above 0 and at most 1", self.top_p);
            return Err(SamplingError { field: "top_p", reason });
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            let reason = format!("{} is not within 0 and 1", self.min_p);
            return Err(SamplingError { field: "min_p", reason });
        }
        if !REPETITION_PENALTIES.contains(&self.repetition_penalty) {
            let (least, most) = (REPETITION_PENALTIES.start(), REPETITION_PENALTIES.end());
            let reason = format!("{} is not within {least} and {most}", self.repetition_penalty);
            return Err(SamplingError { field: "repetition_penalty", reason });
        }
        self.validate_logit_bias().map_err(|reason| SamplingError { field: "logit_bias", reason })
    }

    fn validate_logit_bias(&self) -> Result<(), String> {
        if self.logit_bias.len() > MAX_LOGIT_BIASES {
            return Err(format!("{} tokens, at most {MAX_LOGIT_BIASES} are allowed", self.logit_bias.len()));
        }
        let mut seen = BTreeSet::new();
        for (token, bias) in &self.logit_bias {
            if !(-MAX_LOGIT_BIAS..=MAX_LOGIT_BIAS).contains(bias) {
                return Err(format!(
                    "{bias} for token {token} is not within -{MAX_LOGIT_BIAS} and {MAX_LOGIT_BIAS}"
                ));
            }
            if !seen.insert(token) {
                return Err(format!("token {token} is there twice"));
            }
        }
        Ok(())
    }

    /// Checks that every token that is named is one of a vocabulary.
    ///
    /// # Errors
    /// If the logit of a token that does not exist is to be changed.
    pub fn validate_vocabulary(&self, vocab_size: usize) -> Result<(), SamplingError> {
        match self.logit_bias.iter().find(|&&(token, _)| token as usize >= vocab_size) {
            Some((token, _)) => {
                let reason = format!("there is no token {token}, the vocabulary has {vocab_size}");
                Err(SamplingError { field: "logit_bias", reason })
            }
            None => Ok(()),
        }
    }
}

/// Draws tokens with fixed parameters; keeps its buffers between calls, nothing else.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    backend: Backend,
    /// Probabilities relative to that of the most probable token.
    weights: Vec<f32>,
    /// Tokens of nearly the same probability, the last of which is looked for.
    members: Vec<u32>,
    /// Logits with bias and penalty, where there is any.
    adjusted: Vec<f32>,
    /// A bit for each token of the vocabulary: whether it was penalized.
    penalized: Vec<u64>,
    /// What the text has to follow.
    constraint: Option<Following>,
    /// Logits of the tokens that it leaves.
    left: Vec<f32>,
}

/// The least probable of the tokens that may be drawn: those are the ones of a larger weight, and of an equal one those whose
/// id is not higher.
#[derive(Debug, Clone, Copy)]
struct Floor {
    /// The weight's bits: weights are not negative, so that these have the same order, and are compared at less cost.
    bits: u32,
    id: u32,
}

impl Floor {
    const NONE: Self = Self { bits: 0, id: u32::MAX };

    fn keeps(self, id: u32, bits: u32) -> bool {
        bits > self.bits || (bits == self.bits && id <= self.id)
    }
}

impl Sampler {
    /// A sampler with these parameters.
    ///
    /// # Errors
    /// If a parameter is out of its range.
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        let (weights, members) = (Vec::new(), Vec::new());
        let (adjusted, penalized, left) = (Vec::new(), Vec::new(), Vec::new());
        let backend = Backend::detect();
        Ok(Self { params, backend, weights, members, adjusted, penalized, constraint: None, left })
    }

    /// The same for a text that has to follow `constraint` from its first token on.
    #[must_use]
    pub(crate) fn constrained(self, constraint: Option<Following>) -> Self {
        Self { constraint, ..self }
    }

    /// Takes note of a token that follows, by which the constraint goes on.
    pub(crate) fn push(&mut self, token: u32) {
        if let Some(constraint) = &mut self.constraint {
            constraint.push(token);
        }
    }

    /// Draws from all tokens from now on.
    pub(crate) fn forget_constraint(&mut self) {
        self.constraint = None;
    }

    /// Whether the constraint leaves nothing that could follow a complete text.
    pub(crate) fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Following::is_complete)
    }

    /// The parameters of this sampler.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Draws the token that follows `tokens`, prompt included, from its `logits` (`[vocabulary]`).
    ///
    /// # Errors
    /// If there are no logits, one of them is not finite, or a token has none.
    pub fn sample(&mut self, logits: &[f32], tokens: &[u32]) -> Result<u32, SamplingError> {
        let max = self.backend.largest(logits);
        if max.is_nan()
            && let Some(id) = logits.iter().position(|logit| !logit.is_finite())
        {
            let reason = format!("the one of token {id} is {}", logits[id]);
            return Err(SamplingError { field: "logits", reason });
        }
        if logits.is_empty() {
            return Err(SamplingError { field: "logits", reason: "there are none".to_owned() });
        }
        let position = tokens.len() as u64;
        if self.params.logit_bias.is_empty() && self.params.repetition_penalty == 1.0 {
            return self.choose_allowed(logits, max, position);
        }
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let result = self.adjust(logits, tokens, &mut adjusted);
        let chosen =
            result.and_then(|()| self.choose_allowed(&adjusted, self.backend.largest(&adjusted), position));
        self.adjusted = adjusted;
        chosen
    }

    /// [`Self::choose`] among the tokens that the constraint leaves, as if there were no others.
    fn choose_allowed(&mut self, logits: &[f32], max: f32, position: u64) -> Result<u32, SamplingError> {
        let Some(mut constraint) = self.constraint.take() else {
            return Ok(self.choose(logits, max, position));
        };
        let allowed = constraint.allowed();
        let mut left = std::mem::take(&mut self.left);
        left.clear();
        left.extend(allowed.iter().map_while(|&id| logits.get(id as usize)));
        let chosen = if left.is_empty() {
            let reason = "no token of the vocabulary continues the text".to_owned();
            Err(SamplingError { field: "json_schema", reason })
        } else {
            let max = self.backend.largest(&left);
            Ok(allowed[self.choose(&left, max, position) as usize])
        };
        self.left = left;
        self.constraint = Some(constraint);
        chosen
    }

    /// Fills `adjusted` with the logits as bias and penalty leave them, all of them finite.
    fn adjust(
        &mut self,
        logits: &[f32],
        tokens: &[u32],
        adjusted: &mut Vec<f32>,
    ) -> Result<(), SamplingError> {
        self.params.validate_vocabulary(logits.len())?;
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        for &(token, bias) in &self.params.logit_bias {
            let logit = &mut adjusted[token as usize];
            *logit = (*logit + bias).clamp(f32::MIN, f32::MAX);
        }
        let penalty = self.params.repetition_penalty;
        if penalty == 1.0 {
            return Ok(());
        }
        let window = match self.params.repetition_window as usize {
            0 => tokens,
            window => &tokens[tokens.len().saturating_sub(window)..],
        };
        self.penalized.clear();
        self.penalized.resize(logits.len().div_ceil(64), 0);
        for &token in window {
            let Some(logit) = adjusted.get_mut(token as usize) else {
                let reason = format!("token {token} of the text has none");
                return Err(SamplingError { field: "logits", reason });
            };
            let bit = 1 << (token % 64);
            let word = &mut self.penalized[token as usize / 64];
            if *word & bit == 0 {
                *word |= bit;
                let changed = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
                *logit = changed.clamp(f32::MIN, f32::MAX);
            }
        }
        Ok(())
    }

    /// Draws the token at `position` from logits that are final and finite; `max` is the largest.
    fn choose(&mut self, logits: &[f32], max: f32, position: u64) -> u32 {
        if self.params.temperature == 0.0 {
            return logits.iter().position(|logit| *logit == max).unwrap_or_default() as u32;
        }
        let (floor, mass) = self.weigh(logits, max);
        self.draw(floor, uniform(self.params.seed, position) * mass)
    }

    /// Fills `weights`, and returns what top-k, top-p and min-p leave of them, with the weights of that together.
    fn weigh(&mut self, logits: &[f32], max: f32) -> (Floor, f64) {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        self.weights.clear();
        self.weights.extend(logits.iter().map(|logit| (logit - max) / temperature));
        let total = self.backend.softmax_numerators(&mut self.weights);
        let mut left = (Floor::NONE, f64::from(total));
        if top_k > 0 && (top_k as usize) < logits.len() {
            left = self.cut(left.0, |count, _| count >= top_k).unwrap_or(left);
        }
        if top_p < 1.0 {
            let wanted = f64::from(top_p) * left.1;
            // All weights below this together are less than what may be missing; rounding is allowed for.
            let negligible = 0.99 * (left.1 - wanted) / self.weights.len() as f64;
            let (floor, mass) = left;
            let bits = (negligible as f32).to_bits();
            let skipping = if bits > floor.bits { Floor { bits, id: u32::MAX } } else { floor };
            left = self.cut(skipping, |_, mass| mass >= wanted).unwrap_or((floor, mass));
        }
        // The most probable token has the weight 1, so one is always left.
        if min_p.to_bits() > left.0.bits {
            let floor = Floor { bits: min_p.to_bits(), id: u32::MAX };
            let mut mass = 0.0;
            self.backend.for_each_at_least(&self.weights, min_p, |_, weight| {
                mass += f64::from(weight);
                ControlFlow::Continue(())
            });
            left = (floor, mass);
        }
        left
    }

    /// What is left of the tokens above a floor if only as many are kept, the most probable first, as are enough: `is_enough`
    /// judges their number and their weights together. `None`, if all are not.
    ///
    /// Weights are ordered as their bits: ten of these at a time are counted, from the highest on.
    fn cut(&mut self, floor: Floor, is_enough: impl Fn(u32, f64) -> bool) -> Option<(Floor, f64)> {
        const BITS: u32 = 10;
        const BUCKETS: usize = 1 << BITS;
        let (mut count, mut sum) = (0, 0.0);
        // Walks down the buckets to the one in which there is enough.
        let mut crossing = |counts: &[u32; BUCKETS], sums: &[f64; BUCKETS]| {
            for bucket in (0..BUCKETS).rev() {
                if is_enough(count + counts[bucket], sum + sums[bucket]) {
                    return Some(bucket as u32);
                }
                count += counts[bucket];
                sum += sums[bucket];
            }
            None
        };
        let (mut counts, mut sums) = ([0u32; BUCKETS], [0.0f64; BUCKETS]);
        let (weights, least) = (&self.weights, f32::from_bits(floor.bits));
        self.backend.for_each_at_least(weights, least, |id, weight| {
            if floor.keeps(id, weight.to_bits()) {
                let bucket = (weight.to_bits() >> (2 * BITS)) as usize % BUCKETS;
                counts[bucket] += 1;
                sums[bucket] += f64::from(weight);
            }
            ControlFlow::Continue(())
        });
        let mut prefix = crossing(&counts, &sums)?;
        self.members.clear();
        let members = &mut self.members;
        let least = least.max(f32::from_bits(prefix << (2 * BITS)));
        self.backend.for_each_at_least(weights, least, |id, weight| {
            if weight.to_bits() >> (2 * BITS) == prefix && floor.keeps(id, weight.to_bits()) {
                members.push(id);
            }
            ControlFlow::Continue(())
        });
        for shift in [BITS, 0] {
            counts.fill(0);
            sums.fill(0.0);
            for &id in &self.members {
                let weight = weights[id as usize];
                let bucket = (weight.to_bits() >> shift) as usize % BUCKETS;
                counts[bucket] += 1;
                sums[bucket] += f64::from(weight);
            }
            let bucket = crossing(&counts, &sums)?;
            prefix = prefix << BITS | bucket;
            self.members.retain(|&id| weights[id as usize].to_bits() >> shift == prefix);
        }
        for &id in &self.members {
            count += 1;
            sum += f64::from(f32::from_bits(prefix));
            if is_enough(count, sum) {
                return Some((Floor { bits: prefix, id }, sum));
            }
        }
        None
    }

    /// The token above `floor` with which the weights of these, in the order of the ids, exceed `wanted`.
    fn draw(&self, floor: Floor, wanted: f64) -> u32 {
        let mut sum = 0.0;
        let mut last = 0;
        self.backend.for_each_at_least(&self.weights, f32::from_bits(floor.bits), |id, weight| {
            if floor.keeps(id, weight.to_bits()) {
                sum += f64::from(weight);
                last = id;
                if sum > wanted {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
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
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        // Few distinct values, so that there are ties.
        prop_oneof![vec(-30.0..30.0f32, 1..300), vec((-4..4i8).prop_map(f32::from), 1..300)]
    }

    /// Ids of what may be drawn, the most probable first.
    fn kept(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(params.clone()).unwrap();
        let (floor, _) = sampler.weigh(logits, logits.iter().copied().fold(f32::MIN, f32::max));
        let weights = sampler.weights;
        let mut kept: Vec<u32> =
            (0..logits.len() as u32).filter(|&id| floor.keeps(id, weights[id as usize].to_bits())).collect();
        kept.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        kept
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
            prop_assert_eq!(kept(&params, &logits).into_iter().collect::<BTreeSet<_>>(), expected);
        }

        #[test]
        fn top_p_keeps_the_smallest_set_that_reaches_p(
            logits in logits(),
            top_p in 0.01..0.999f32,
            temperature in 0.1..3.0f32,
            top_k in 0..350u32,
        ) {
            let params = SamplingParams { temperature, top_k, top_p, ..SamplingParams::default() };
            let mut order = sorted_ids(&logits);
            if top_k > 0 {
                order.truncate(top_k as usize);
            }
            let weight = |id: u32| ((f64::from(logits[id as usize]) - 30.0) / f64::from(temperature)).exp();
            let total: f64 = order.iter().map(|&id| weight(id)).sum();
            let kept = kept(&params, &logits);
            prop_assert_eq!(&kept[..], &order[..kept.len()]);
            let mass = |ids: &[u32]| ids.iter().map(|&id| weight(id)).sum::<f64>() / total;
            prop_assert!(mass(&kept) >= f64::from(top_p) - 1e-4);
            prop_assert!(kept.len() == 1 || mass(&kept[..kept.len() - 1]) < f64::from(top_p) + 1e-4);
        }

        #[test]
        fn what_is_drawn_was_kept(
            logits in logits(), top_k in 0..20u32, top_p in 0.1..1.0f32, min_p in 0.0..1.0f32, seed: u64,
            position in 0..1_000usize,
        ) {
            let params =
                SamplingParams { temperature: 0.8, top_k, top_p, min_p, seed, ..SamplingParams::default() };
            let drawn = Sampler::new(params.clone()).unwrap().sample(&logits, &vec![0; position]).unwrap();
            prop_assert!(kept(&params, &logits).contains(&drawn));
        }

        #[test]
        fn min_p_keeps_what_is_probable_enough(
            logits in logits(), min_p in 0.001..1.0f32, temperature in 0.1..3.0f32,
        ) {
            let params = SamplingParams { temperature, min_p, ..SamplingParams::default() };
            let kept = kept(&params, &logits);
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            for (id, logit) in (0..).zip(&logits) {
                let relative = ((f64::from(*logit) - f64::from(max)) / f64::from(temperature)).exp();
                if (relative - f64::from(min_p)).abs() > 1e-9 {
                    prop_assert_eq!(kept.contains(&id), relative > f64::from(min_p));
                }
            }
            prop_assert!(kept.contains(&sorted_ids(&logits)[0]));
        }

        /// The obvious implementation of bias and penalty, and a sampler that has worked before: there is no state.
        #[test]
        fn bias_and_penalty_change_the_logits(
            logits in vec(-30.0..30.0f32, 40),
            tokens in vec(0..40u32, 0..60),
            biases in prop::collection::btree_map(0..40u32, -50.0..50.0f32, 0..10),
            penalty in 0.5..2.0f32,
            repetition_window in 0..70u32,
            temperature in prop_oneof![Just(0.0f32), Just(0.8)],
            seed: u64,
        ) {
            let mut expected = logits.clone();
            for (token, bias) in &biases {
                expected[*token as usize] += bias;
            }
            let seen = tokens.len().saturating_sub(if repetition_window == 0 { 100 } else { repetition_window as usize });
            for token in tokens[seen..].iter().collect::<BTreeSet<_>>() {
                let logit = &mut expected[*token as usize];
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
            let plain = SamplingParams { temperature, seed, ..SamplingParams::default() };
            let params = SamplingParams {
                repetition_penalty: penalty,
                repetition_window,
                logit_bias: biases.into_iter().collect(),
                ..plain.clone()
            };
            let drawn = Sampler::new(plain).unwrap().sample(&expected, &tokens).unwrap();
            let mut sampler = Sampler::new(params).unwrap();
            sampler.sample(&expected, &[1, 2, 3]).unwrap();
            prop_assert_eq!(sampler.sample(&logits, &tokens).unwrap(), drawn);
        }

        #[test]
        fn temperature_0_is_greedy(logits in logits(), top_k in 0..20u32, seed: u64) {
            let params = SamplingParams { top_k, top_p: 0.5, seed, ..SamplingParams::default() };
            let drawn = Sampler::new(params.clone()).unwrap().sample(&logits, &[0; 3]).unwrap();
            prop_assert_eq!(drawn, sorted_ids(&logits)[0]);
            let cold = SamplingParams { temperature: f32::MIN_POSITIVE, top_k: 1, ..params };
            prop_assert_eq!(Sampler::new(cold).unwrap().sample(&logits, &[0; 3]).unwrap(), drawn);
        }

        #[test]
        fn logits_that_are_not_finite_are_refused(
            mut logits in logits(), at: prop::sample::Index,
            bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ) {
            let at = at.index(logits.len());
            logits[at] = bad;
            let error = Sampler::new(SamplingParams::default()).unwrap().sample(&logits, &[]).unwrap_err();
            prop_assert_eq!(error.to_string(), format!("sampling `logits`: the one of token {at} is {bad}"));
        }
    }

    #[derive(serde::Deserialize)]
    struct Reference {
        temperature: f32,
        top_k: u32,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        repetition_window: u32,
        logit_bias: Vec<(u32, f32)>,
        logits: Vec<f32>,
        tokens: Vec<u32>,
        probabilities: std::collections::BTreeMap<u32, f64>,
    }

    #[test]
    fn probabilities_are_those_of_transformers() {
        let cases: Vec<Reference> =
            serde_json::from_str(include_str!("../tests/fixtures/sampling.json")).unwrap();
        assert_eq!(cases.len(), 48);
        for case in cases {
            let mut sampler = Sampler::new(SamplingParams {
                temperature: case.temperature,
                top_k: case.top_k,
                top_p: case.top_p,
                min_p: case.min_p,
                repetition_penalty: case.repetition_penalty,
                repetition_window: case.repetition_window,
                logit_bias: case.logit_bias,
                seed: 0,
            })
            .unwrap();
            let mut adjusted = Vec::new();
            sampler.adjust(&case.logits, &case.tokens, &mut adjusted).unwrap();
            let max = adjusted.iter().copied().fold(f32::MIN, f32::max);
            let (floor, _) = sampler.weigh(&adjusted, max);
            let kept = (0..).zip(&sampler.weights).filter(|&(id, weight)| floor.keeps(id, weight.to_bits()));
            let weights: Vec<(u32, f64)> = kept.map(|(id, &weight)| (id, f64::from(weight))).collect();
            let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
            // The fixture has seven digits.
            for (id, weight) in &weights {
                let expected = case.probabilities.get(id);
                assert!(
                    expected.is_some_and(|p| (p - weight / total).abs() < 1e-6),
                    "{id}: {weight} {expected:?}"
                );
            }
            assert_eq!(weights.len(), case.probabilities.len());
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let params = SamplingParams { temperature: 2.0, seed: 7, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params).unwrap();
        let logits = [2.0 * 0.1f32.ln(), 2.0 * 0.2f32.ln(), 2.0 * 0.7f32.ln()];
        let mut counts = [0; 3];
        let before = vec![0; 20_000];
        for position in 0..20_000 {
            counts[sampler.sample(&logits, &before[..position]).unwrap() as usize] += 1;
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
        for min_p in [-0.1, 1.5, f32::NAN] {
            let params = SamplingParams { min_p, ..SamplingParams::default() };
            assert_eq!(params.validate().unwrap_err().field, "min_p");
        }
        for repetition_penalty in [0.0, -1.0, 101.0, f32::NAN] {
            let params = SamplingParams { repetition_penalty, ..SamplingParams::default() };
            assert_eq!(params.validate().unwrap_err().field, "repetition_penalty");
        }
        let biased = |logit_bias| SamplingParams { logit_bias, ..SamplingParams::default() };
        for logit_bias in [vec![(1, f32::NAN)], vec![(1, 1_001.0)], vec![(1, 0.0), (1, 2.0)]] {
            assert_eq!(biased(logit_bias).validate().unwrap_err().field, "logit_bias");
        }
        let many: Vec<(u32, f32)> = (0..=MAX_LOGIT_BIASES as u32).map(|token| (token, 1.0)).collect();
        assert_eq!(biased(many[1..].to_vec()).validate(), Ok(()));
        assert_eq!(biased(many).validate().unwrap_err().field, "logit_bias");
        let mut sampler = Sampler::new(biased(vec![(3, 1.0)])).unwrap();
        assert_eq!(sampler.sample(&[1.0; 3], &[]).unwrap_err().field, "logit_bias");
        let penalty = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
        assert_eq!(Sampler::new(penalty).unwrap().sample(&[1.0], &[1]).unwrap_err().field, "logits");
        let mut sampler = Sampler::new(SamplingParams::default()).unwrap();
        assert_eq!(sampler.sample(&[], &[]).unwrap_err().field, "logits");
    }
}
