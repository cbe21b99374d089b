//! Assigning codes group by group, each group making up for the errors of the others.

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

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
}
