//! Uniform grids per group of columns with error feedback (GPTQ, <https://arxiv.org/abs/2210.17323>): the baseline that
//! the additive codes are compared with. It is not stored in artifacts.

use ndarray::{Array2, ArrayView1, ArrayView2, s};
use rayon::prelude::*;

use super::fit::tasks;
use super::hessian::{BlockFactors, NotPositiveDefinite};

/// Shares of a group's range that its grid may cover; the one with the least squared error is taken.
const SHRINKS: [f32; 9] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6];

/// A uniform grid: `minimum + step · i`, with `i` from 0 to `levels`.
#[derive(Clone, Copy)]
struct Grid {
    minimum: f32,
    step: f32,
    levels: f32,
}

impl Grid {
    fn new(values: ArrayView1<f32>, bits: u32) -> Self {
        let (low, high) =
            values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
        let levels = ((1u32 << bits) - 1) as f32;
        let grid = |shrink: f32| {
            let (middle, range) = (0.5 * (low + high), shrink * (high - low));
            Self { minimum: middle - 0.5 * range, step: (range / levels).max(f32::MIN_POSITIVE), levels }
        };
        let error = |grid: &Self| values.iter().map(|&x| (x - grid.round(x)).powi(2)).sum::<f32>();
        SHRINKS
            .map(grid)
            .into_iter()
            .min_by(|a, b| error(a).total_cmp(&error(b)))
            .unwrap_or_else(|| grid(1.0))
    }

    fn round(&self, x: f32) -> f32 {
        let level = ((x - self.minimum) / self.step).round().clamp(0.0, self.levels);
        self.minimum + level * self.step
    }
}

/// `w [n, k]` on grids of `2^bits` levels, one per row and `group` columns, for inputs with the damped second moments
/// `h`. With a 16-bit step and minimum per group this takes `bits + 32 / group` bits per weight.
///
/// # Errors
/// When `h` is not positive definite.
pub fn gptq(
    w: ArrayView2<f32>,
    h: ArrayView2<f32>,
    bits: u32,
    group: usize,
) -> Result<Array2<f32>, NotPositiveDefinite> {
    let factors = BlockFactors::new(h, 1)?;
    let (rows, columns) = w.dim();
    let parts: Vec<Vec<f32>> = tasks(rows)
        .into_par_iter()
        .map(|range| {
            let mut out = Array2::<f32>::zeros((range.len(), columns));
            let mut errors = vec![0.0f32; columns];
            for (mut out, r) in out.rows_mut().into_iter().zip(range) {
                let row = w.row(r);
                let grids: Vec<Grid> = (0..columns)
                    .step_by(group)
                    .map(|at| Grid::new(row.slice(s![at..(at + group).min(columns)]), bits))
                    .collect();
                for (i, &column) in factors.order.iter().enumerate() {
                    let shift: f32 =
                        errors[..i].iter().zip(factors.shift[i].iter()).map(|(e, a)| e * a).sum();
                    out[column] = grids[column / group].round(row[column] + shift);
                    errors[i] = row[column] - out[column];
                }
            }
            out.into_raw_vec_and_offset().0
        })
        .collect();
    Ok(Array2::from_shape_vec((rows, columns), parts.concat()).expect("all rows"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::testing::{correlated_hessian, gaussian, output_error};

    #[test]
    fn feedback_beats_rounding_when_inputs_are_correlated() {
        let w = gaussian(48, 64, 1);
        let h = correlated_hessian(64, 2);
        let feedback = gptq(w.view(), h.view(), 3, 32).unwrap();
        let plain = gptq(w.view(), Array2::eye(64).view(), 3, 32).unwrap();
        let (feedback, plain) = (output_error(&w, &feedback, &h), output_error(&w, &plain, &h));
        assert!(feedback < 0.7 * plain, "{feedback} {plain}");
    }

    #[test]
    fn grids_hold_their_levels() {
        let grid = Grid { minimum: -1.0, step: 0.5, levels: 3.0 };
        assert_eq!([-9.0, -0.8, 0.1, 0.4, 9.0].map(|x| grid.round(x)), [-1.0, -1.0, 0.0, 0.5, 0.5]);
    }
}
