//! Assigning codes group by group, each group making up for the errors of the others.

use ndarray::{Array2, ArrayView2, Axis, concatenate, s};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::additive::normal;
use super::beam::{BeamSearch, SearchTables};
use super::fit::{Coded, errors, tasks};
use super::hessian::BlockFactors;

/// Assigns every code anew, group after group in the order of `factors`; each group's target is shifted by the errors
/// of the groups before it.
pub fn assign(w: ArrayView2<f32>, coded: &mut Coded, factors: &BlockFactors, beam: usize) {
    let (books, dim) = (coded.codebooks.books, coded.codebooks.dim);
    let tables: Vec<SearchTables> =
        factors.metric.par_iter().map(|metric| SearchTables::new(&coded.codebooks, metric.view())).collect();
    let parts: Vec<Vec<u8>> = tasks(w.nrows())
        .into_par_iter()
        .map(|range| {
            let mut search = BeamSearch::new(beam);
            let row_codes = w.ncols() / dim * books;
            let mut codes = coded.codes[range.start * row_codes..range.end * row_codes].to_vec();
            // Errors with the groups in the order of quantization.
            let mut e = Array2::<f32>::zeros((range.len(), w.ncols()));
            let mut word = vec![0.0; dim];
            for (i, &group) in factors.order.iter().enumerate() {
                let columns = s![range.clone(), group * dim..(group + 1) * dim];
                let mut target = w.slice(columns).to_owned();
                let (before, mut here) = e.view_mut().split_at(Axis(1), i * dim);
                ndarray::linalg::general_mat_mul(1.0, &before, &factors.shift[i], 1.0, &mut target);
                let weighted = target.dot(&factors.metric[i]);
                for (x, r) in range.clone().enumerate() {
                    let scale = coded.scales[r];
                    let y: Vec<f32> = weighted.row(x).iter().map(|v| v / scale).collect();
                    let at = x * row_codes + group * books;
                    let codes = &mut codes[at..at + books];
                    search.encode(&tables[i], &y, codes);
                    coded.codebooks.decode(codes, &mut word);
                    for j in 0..dim {
                        // The error of the weights themselves, not of the shifted target.
                        here[[x, j]] = w[[r, group * dim + j]] - scale * word[j];
                    }
                }
            }
            codes
        })
        .collect();
    coded.codes = parts.concat();
}

/// `w [n, k]` with errors as [`assign`] leaves them when no vector is hit better or worse than the others: what a group's shifted target
/// is missed by is Gaussian, its mean square `error` times that of the row's weights.
pub fn noisy(w: ArrayView2<f32>, factors: &BlockFactors, error: f64, seed: u64) -> Array2<f32> {
    let (rows, columns) = w.dim();
    let dim = columns / factors.order.len().max(1);
    let parts: Vec<Array2<f32>> = tasks(rows)
        .into_par_iter()
        .map(|range| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(range.start as u64);
            let w = w.slice(s![range, ..]);
            // Errors with the groups in the order of quantization.
            let mut e = Array2::<f32>::zeros(w.dim());
            let sizes: Vec<f32> = w
                .rows()
                .into_iter()
                .map(|row| (error as f32 * row.dot(&row) / columns as f32).sqrt())
                .collect();
            for (i, shift) in factors.shift.iter().enumerate() {
                let (before, mut here) = e.view_mut().split_at(Axis(1), i * dim);
                let mut here = here.slice_mut(s![.., ..dim]);
                for (mut row, size) in here.rows_mut().into_iter().zip(&sizes) {
                    row.mapv_inplace(|_| size * normal(&mut rng));
                }
                ndarray::linalg::general_mat_mul(-1.0, &before, shift, 1.0, &mut here);
            }
            let mut changed = w.to_owned();
            for (i, &group) in factors.order.iter().enumerate() {
                let mut to = changed.slice_mut(s![.., group * dim..(group + 1) * dim]);
                to += &e.slice(s![.., i * dim..(i + 1) * dim]);
            }
            changed
        })
        .collect();
    let views: Vec<_> = parts.iter().map(Array2::view).collect();
    concatenate(Axis(0), &views).expect("parts of one matrix have as many columns")
}

/// Revisits every group once with all other groups fixed, in the true metric `h`; a group's codes change only where
/// that lowers the error, so the loss does not grow.
pub fn revisit(w: ArrayView2<f32>, coded: &mut Coded, h: ArrayView2<f32>, beam: usize) {
    let (books, dim) = (coded.codebooks.books, coded.codebooks.dim);
    let groups = w.ncols() / dim;
    let block = |g: usize| h.slice(s![g * dim..(g + 1) * dim, g * dim..(g + 1) * dim]);
    let tables: Vec<SearchTables> =
        (0..groups).into_par_iter().map(|g| SearchTables::new(&coded.codebooks, block(g))).collect();
    let parts: Vec<Vec<u8>> = tasks(w.nrows())
        .into_par_iter()
        .map(|range| {
            let mut search = BeamSearch::new(beam);
            let row_codes = groups * books;
            let mut codes = coded.codes[range.start * row_codes..range.end * row_codes].to_vec();
            let mut gradient = errors(w, coded, range.clone()).dot(&h);
            let mut step = Array2::<f32>::zeros((range.len(), dim));
            let (mut old, mut new) = (vec![0.0; dim], vec![0.0; dim]);
            for g in 0..groups {
                let metric = block(g);
                step.fill(0.0);
                let mut moved = false;
                for (x, r) in range.clone().enumerate() {
                    let scale = coded.scales[r];
                    let at = x * row_codes + g * books;
                    let codes = &mut codes[at..at + books];
                    coded.codebooks.decode(codes, &mut old);
                    let y: Vec<f32> = (0..dim)
                        .map(|j| {
                            gradient[[x, g * dim + j]] / scale
                                + (0..dim).map(|i| old[i] * metric[[i, j]]).sum::<f32>()
                        })
                        .collect();
                    if search.encode(&tables[g], &y, codes) {
                        coded.codebooks.decode(codes, &mut new);
                        for j in 0..dim {
                            step[[x, j]] = scale * (old[j] - new[j]);
                        }
                        moved = true;
                    }
                }
                if moved {
                    let rows = h.slice(s![g * dim..(g + 1) * dim, ..]);
                    ndarray::linalg::general_mat_mul(1.0, &step, &rows, 1.0, &mut gradient);
                }
            }
            codes
        })
        .collect();
    coded.codes = parts.concat();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::additive::gaussian_codebooks;
    use crate::quantize::fit::loss;
    use crate::quantize::testing::{correlated_hessian, gaussian};

    #[test]
    fn revisiting_never_increases_the_error() {
        let w = gaussian(50, 32, 1);
        let h = correlated_hessian(32, 2);
        let weights = vec![1.0; 50];
        let mut coded = Coded {
            codebooks: gaussian_codebooks(2, 8, 2, 3),
            codes: vec![0; 50 * 4 * 2],
            scales: vec![1.0; 50],
        };
        assign(w.view(), &mut coded, &BlockFactors::new(h.view(), 8).unwrap(), 8);
        let mut before = loss(w.view(), &coded, h.view(), &weights);
        for _ in 0..4 {
            revisit(w.view(), &mut coded, h.view(), 8);
            let after = loss(w.view(), &coded, h.view(), &weights);
            assert!(after <= before * (1.0 + 1e-4), "{before} {after}");
            before = after;
        }
    }

    /// Shaped by feedback, errors of the same vectors cost the outputs less than plain ones; both are as large as they are said to be.
    #[test]
    fn noise_is_as_large_as_asked_for_and_shaped_by_feedback() {
        let (w, h) = (gaussian(400, 32, 5), correlated_hessian(32, 6));
        let output = |e: &Array2<f32>| f64::from((e.dot(&h) * e).sum());
        let factors = BlockFactors::new(h.view(), 8).unwrap();
        let shaped = noisy(w.view(), &factors, 0.1, 7) - &w;
        let expected: f64 = factors.metric.iter().map(|m| f64::from(m.diag().sum())).sum();
        let square = f64::from((&w * &w).sum()) / 32.0;
        assert!((output(&shaped) / (0.1 * square * expected) - 1.0).abs() < 0.05);
        let identity = BlockFactors::new(Array2::eye(32).view(), 8).unwrap();
        let plain = noisy(w.view(), &identity, 0.1, 7) - &w;
        assert!((f64::from((&plain * &plain).sum()) / (0.1 * 32.0 * square) - 1.0).abs() < 0.05);
        assert!(output(&shaped) < 0.7 * output(&plain));
        assert_eq!(noisy(w.view(), &factors, 0.1, 7), shaped + &w);
    }
}
