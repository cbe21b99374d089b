//! Adam: Kingma and Ba, 2015, <https://arxiv.org/abs/1412.6980>.

use rayon::prelude::*;

const BETA1: f32 = 0.9;
/// Shorter than the usual 0.999: a refinement has few hundred steps, and codes that change shift the gradients.
const BETA2: f32 = 0.95;
const EPSILON: f32 = 1e-12;

/// Numbers that one parallel task updates.
const CHUNK: usize = 1 << 14;

/// Numbers that are trained, with the running moments of their gradients.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trained {
    /// The numbers themselves.
    pub(super) values: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Trained {
    pub(super) fn new(values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self { values, mean: zeros.clone(), square: zeros }
    }

    /// Takes step number `step`, counted from one, of size `rate` against `gradient`.
    pub(super) fn step(&mut self, gradient: &[f32], rate: f32, step: usize) {
        let power = i32::try_from(step).unwrap_or(i32::MAX);
        let (first, second) = (1.0 - BETA1.powi(power), 1.0 - BETA2.powi(power));
        let moments = self.mean.par_chunks_mut(CHUNK).zip(self.square.par_chunks_mut(CHUNK));
        let values = self.values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        values.zip(moments).for_each(|((values, gradient), (mean, square))| {
            for (((x, &g), m), v) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
                *m += (1.0 - BETA1) * (g - *m);
                *v += (1.0 - BETA2) * (g * g - *v);
                *x -= rate * (*m / first) / ((*v / second).sqrt() + EPSILON);
            }
        });
    }

    /// The numbers and their moments, to be stored.
    pub(super) fn parts(&self) -> [&[f32]; 3] {
        [&self.values, &self.mean, &self.square]
    }

    /// What [`Self::parts`] gave, if the lengths are those of `self`.
    pub(super) fn restore(&mut self, parts: [Vec<f32>; 3]) -> Result<(), String> {
        let len = self.values.len();
        if let Some(part) = parts.iter().find(|part| part.len() != len) {
            return Err(format!("{} numbers in place of {len}", part.len()));
        }
        [self.values, self.mean, self.square] = parts;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first step goes by the sign of the gradient alone, whatever its size.
    #[test]
    fn the_first_step_is_as_long_as_the_rate() {
        let mut trained = Trained::new(vec![1.0; 3]);
        trained.step(&[1e-6, -40.0, 0.0], 0.25, 1);
        for (value, expected) in trained.values.iter().zip([0.75, 1.25, 1.0]) {
            assert!((value - expected).abs() < 1e-4, "{value} {expected}");
        }
    }

    #[test]
    fn a_parabola_is_descended() {
        let mut trained = Trained::new(vec![4.0, -2.0]);
        for step in 1..=400 {
            let gradient: Vec<f32> = trained.values.iter().map(|x| 2.0 * (x - 1.0)).collect();
            trained.step(&gradient, 0.05, step);
        }
        assert!(trained.values.iter().all(|x| (x - 1.0).abs() < 0.02), "{:?}", trained.values);
    }
}
