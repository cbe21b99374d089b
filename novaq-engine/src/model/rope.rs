//! Rotary position embedding (Su et al., 2021), the half-split form of Hugging Face checkpoints.

use super::RopeScaling;
use std::f64::consts::PI;
use std::ops::Range;

/// Inverse frequencies of a rotary embedding.
#[derive(Clone, Debug)]
pub struct Rope {
    inverse_frequencies: Vec<f32>,
}

impl Rope {
    /// That of heads of `head_dim`, with frequencies from 1 to almost `1 / theta` that `scaling` stretches.
    pub fn new(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Self {
        let half = head_dim / 2;
        let frequency = |i: usize| {
            let plain = 1.0 / libm::pow(theta, (2 * i) as f64 / head_dim as f64);
            match *scaling {
                RopeScaling::Default => plain,
                RopeScaling::Linear { factor } => plain / factor,
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings,
                } => {
                    let original = original_max_position_embeddings as f64;
                    let wavelength = 2.0 * PI / plain;
                    if wavelength < original / high_freq_factor {
                        plain
                    } else if wavelength > original / low_freq_factor {
                        plain / factor
                    } else {
                        let smooth =
                            (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * plain / factor + smooth * plain
                    }
                }
            }
        };
        Self { inverse_frequencies: (0..half).map(|i| frequency(i) as f32).collect() }
    }

    /// Radians by which each of the `head_dim / 2` pairs turns from one position to the next.
    pub fn inverse_frequencies(&self) -> &[f32] {
        &self.inverse_frequencies
    }
}

/// Cosines and sines of positions, `[positions, head_dim / 2]` each.
#[derive(Debug, Default)]
pub(super) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.cos.clear();
        self.sin.clear();
    }

    /// Adds those of `positions`.
    pub(super) fn extend(&mut self, rope: &Rope, positions: Range<usize>) {
        for position in positions {
            for &frequency in &rope.inverse_frequencies {
                let (sin, cos) = libm::sincosf(position as f32 * frequency);
                self.cos.push(cos);
                self.sin.push(sin);
            }
        }
    }

    /// Rotates one head by the angles at `index`: `(x[i], x[i + half])` by the angle of frequency `i`.
    pub(super) fn rotate(&self, index: usize, head: &mut [f32]) {
        let half = head.len() / 2;
        let (first, second) = head.split_at_mut(half);
        let angles = self.cos[index * half..].iter().zip(&self.sin[index * half..]);
        for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}
