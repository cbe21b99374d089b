//! Rotary position embedding (Su et al., 2021), the half-split form of Hugging Face checkpoints.

use super::{Config, RopeScaling};
use std::f64::consts::PI;

/// Inverse frequencies of a model's rotary embedding.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    inverse_frequencies: Vec<f32>,
}

impl Rope {
    pub(super) fn new(config: &Config) -> Self {
        let half = config.head_dim / 2;
        let frequency = |i: usize| {
            let plain = 1.0 / libm::pow(config.rope_theta, (2 * i) as f64 / config.head_dim as f64);
            match config.rope_scaling {
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

    /// Cosines and sines of `position`, `head_dim / 2` each.
    pub(super) fn angles(&self, position: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        for &frequency in &self.inverse_frequencies {
            let (s, c) = libm::sincosf(position as f32 * frequency);
            cos.push(c);
            sin.push(s);
        }
    }
}

/// Rotates one head: `(x[i], x[i + half])` by the angle of frequency `i`.
pub(super) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}
