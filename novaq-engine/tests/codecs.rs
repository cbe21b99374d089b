//! Products of stored matrices: equal to the last bit on all kernels, and close to the decoded matrix's.

use novaq_engine::codec::{
    AqMatrix, Codebooks, DenseMatrix, Fp8Matrix, Input, Int4Matrix, Int8Matrix, LowRankMatrix, Matrix,
    MatrixForm,
};
use novaq_engine::kernel::{Backend, Fold, Packing};
use proptest::prelude::*;
use std::sync::Arc;

/// A repeatable stream of numbers in -1..1.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn aq_matrix(seed: u64, rows: usize, columns: usize, format: (usize, usize), means: bool) -> AqMatrix {
    folded_matrix(seed, rows, columns, format, means, Fold::ONE)
}

fn folded_matrix(
    seed: u64,
    rows: usize,
    columns: usize,
    (codebooks, dimension): (usize, usize),
    means: bool,
    fold: Fold,
) -> AqMatrix {
    let mut next = noise(seed);
    let codewords: Vec<f32> = (0..codebooks * 16 * dimension).map(|_| next()).collect();
    let set = Arc::new(Codebooks::quantize(codebooks, dimension, &codewords).unwrap().with_fold(fold));
    let codes: Vec<u8> =
        (0..rows * set.groups(columns) * codebooks).map(|_| ((next() + 1.0) * 8.0) as u8 & 15).collect();
    let scales: Vec<f32> = (0..rows).map(|_| 0.5 + 0.4 * next()).collect();
    let row_means: Option<Vec<f32>> = means.then(|| (0..rows).map(|_| 0.1 * next()).collect());
    AqMatrix::from_codes(rows, columns, set, &codes, &scales, row_means.as_deref()).unwrap()
}

fn product(matrix: &Matrix, backend: Backend, positions: usize, values: &[f32]) -> Vec<f32> {
    let mut input = Input::default();
    input.reset(positions, matrix.columns()).copy_from_slice(values);
    let mut output = vec![0.0; positions * matrix.rows()];
    matrix.multiply(backend, &mut input, &mut output);
    output
}

/// `matrix` with its codes in `packing`, if it has any.
fn packed(matrix: &Matrix, packing: Packing) -> Matrix {
    match matrix {
        Matrix::Aq(matrix) => {
            let packed = matrix.clone().packed(packing);
            assert_eq!((packed.to_bytes(), packed.codes()), (matrix.to_bytes(), matrix.codes()));
            Matrix::Aq(packed)
        }
        Matrix::LowRank(matrix) => Matrix::LowRank(matrix.clone().packed(packing)),
        matrix => matrix.clone(),
    }
}

/// Checks `matrix` on every kernel, in batches and alone, against its decoded weights. Returns the noise-to-signal
/// power ratio.
fn check(matrix: &Matrix, seed: u64, positions: usize) -> f64 {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let mut next = noise(seed ^ 0x5eed);
    let values: Vec<f32> = (0..positions * columns).map(|_| next() + next() + next()).collect();
    let reference = product(matrix, Backend::Scalar, positions, &values);
    let weights = matrix.decode();
    for packing in Packing::ALL {
        let packed = packed(matrix, packing);
        assert_eq!(packed.decode(), weights, "{packing:?} decodes otherwise");
        for backend in Backend::available() {
            let batch = product(&packed, backend, positions, &values);
            let equal = batch.iter().zip(&reference).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(equal, "{backend:?} differs, {packing:?}");
            for (p, expected) in batch.chunks_exact(rows).enumerate() {
                let alone = product(&packed, backend, 1, &values[p * columns..][..columns]);
                assert_eq!(alone, expected, "position {p} depends on its batch");
            }
        }
    }
    let (mut noise, mut signal) = (0.0f64, 0.0f64);
    for (p, outputs) in reference.chunks_exact(rows).enumerate() {
        let x = &values[p * columns..][..columns];
        for (output, w) in outputs.iter().zip(weights.chunks_exact(columns)) {
            let exact: f64 = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            noise += (exact - f64::from(*output)).powi(2);
            signal += exact.powi(2);
        }
    }
    noise / signal.max(1e-30)
}

/// A random matrix of signs with row scales.
fn binary_matrix(seed: u64, rows: usize, columns: usize) -> AqMatrix {
    let mut next = noise(seed);
    let codes: Vec<u8> = (0..rows * columns.div_ceil(4)).map(|_| ((next() + 1.0) * 7.99) as u8).collect();
    let scales: Vec<f32> = (0..rows).map(|_| 1.0 + 0.5 * next()).collect();
    AqMatrix::from_codes(rows, columns, Arc::new(Codebooks::signs()), &codes, &scales, None).unwrap()
}

/// The codes of signs are the binary numbers of the positive ones.
#[test]
fn four_signs_are_a_nibble() {
    let set = Arc::new(Codebooks::signs());
    let matrix = AqMatrix::from_codes(1, 8, set, &[0b0101, 0b1100], &[0.5], None).unwrap();
    assert_eq!(Matrix::Aq(matrix).decode(), [0.5, -0.5, 0.5, -0.5, -0.5, -0.5, 0.5, 0.5]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn aq_products_agree(
        seed: u64, rows in 1usize..300, columns in 1usize..400, codebooks in 1usize..=8, wide: bool, means: bool,
        positions in 1usize..27, fold in prop::sample::select(&Fold::ALL[..]),
    ) {
        let dimension = if wide { 8 } else { 4 };
        let matrix = folded_matrix(seed, rows, columns, (codebooks, dimension), means, fold);
        let bytes = matrix.to_bytes();
        let set = Codebooks::from_bytes(codebooks, dimension, &matrix.codebooks().to_bytes()).unwrap().with_fold(fold);
        let read = AqMatrix::from_bytes(rows, columns, Arc::new(set), means, &bytes).unwrap();
        prop_assert_eq!(read.to_bytes(), bytes);
        let ratio = check(&Matrix::Aq(read), seed, positions);
        // A sum of few terms can be near zero, so the bound on single cases is loose.
        prop_assert!(ratio < 0.05, "noise-to-signal ratio {}", ratio);
    }

    /// Factors in any codes; binary ones are exact but for their inputs, which the second reads after rounding.
    #[test]
    fn low_rank_products_agree(
        seed: u64, rows in 1usize..300, columns in 1usize..400, rank in 1usize..80, binary: bool, positions in 1usize..4,
    ) {
        let factor = |rows, columns, seed| {
            if binary { binary_matrix(seed, rows, columns) } else { aq_matrix(seed, rows, columns, (3, 8), false) }
        };
        let matrix = LowRankMatrix::new(factor(rank, columns, seed), factor(rows, rank, seed ^ 1)).unwrap();
        let sets = [matrix.first(), matrix.second()].map(|m| Arc::clone(m.codebooks()));
        let bytes = matrix.to_bytes();
        let shape = [rows, rank, columns];
        let read = LowRankMatrix::from_bytes(shape, sets.clone(), &bytes).unwrap();
        prop_assert_eq!(read.to_bytes(), &bytes[..]);
        prop_assert!(LowRankMatrix::from_bytes(shape, sets.clone(), &bytes[1..]).is_err());
        prop_assert!(LowRankMatrix::from_bytes([rows, usize::MAX, columns], sets, &bytes).is_err());
        let ratio = check(&Matrix::LowRank(read), seed, positions);
        prop_assert!(ratio < 0.05, "noise-to-signal ratio {}", ratio);
    }

    #[test]
    fn int8_products_agree(seed: u64, rows in 1usize..80, columns in 1usize..1200, positions in 1usize..4) {
        let mut next = noise(seed);
        let weights: Vec<f32> = (0..rows * columns).map(|_| next()).collect();
        let matrix = Int8Matrix::quantize(rows, columns, &weights).unwrap();
        let read = Int8Matrix::from_bytes(rows, columns, &matrix.to_bytes()).unwrap();
        for (row, weights) in read_rows(&read).zip(weights.chunks_exact(columns)) {
            let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
            prop_assert!(row.iter().zip(weights).all(|(a, b)| (a - b).abs() <= largest * 0.0045));
        }
        let ratio = check(&Matrix::Int8(read), seed, positions);
        prop_assert!(ratio < 1e-5, "noise-to-signal ratio {}", ratio);
    }

    #[test]
    fn int4_products_agree(seed: u64, rows in 1usize..80, columns in 1usize..400, positions in 1usize..4) {
        let mut next = noise(seed);
        let weights: Vec<f32> = (0..rows * columns).map(|_| next()).collect();
        let matrix = Int4Matrix::quantize(rows, columns, &weights).unwrap();
        let bytes = matrix.to_bytes();
        let matrix = Matrix::Int4(Int4Matrix::from_bytes(rows, columns, &bytes).unwrap());
        let decoded = matrix.decode();
        for (row, weights) in decoded.chunks_exact(columns).zip(weights.chunks_exact(columns)) {
            for (group, weights) in row.chunks(32).zip(weights.chunks(32)) {
                let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
                // Half a step; a whole one at the end of the range that has no -(-8).
                prop_assert!(group.iter().zip(weights).all(|(a, b)| (a - b).abs() <= largest * 0.126));
            }
        }
        // Values of the codec are kept: it is ggml's Q4_0.
        let again = Int4Matrix::quantize(rows, columns, &decoded).unwrap();
        prop_assert_eq!(again.to_bytes(), bytes);
        let ratio = check(&matrix, seed, positions);
        prop_assert!(ratio < 1e-5, "noise-to-signal ratio {}", ratio);
    }

    #[test]
    fn fp8_products_agree(seed: u64, rows in 1usize..60, columns in 1usize..400, positions in 1usize..4) {
        let mut next = noise(seed);
        let weights: Vec<f32> = (0..rows * columns).map(|_| next().powi(5)).collect();
        let matrix = Fp8Matrix::quantize(rows, columns, &weights).unwrap();
        let bytes = matrix.to_bytes();
        let matrix = Matrix::Fp8(Fp8Matrix::from_bytes(rows, columns, &bytes).unwrap());
        let decoded = matrix.decode();
        for (row, weights) in decoded.chunks_exact(columns).zip(weights.chunks_exact(columns)) {
            let largest = weights.iter().fold(0.0f32, |a, w| a.max(w.abs()));
            // Half of the last of four bits, or of the smallest value.
            let bound = |w: f32| (w.abs() / 16.0).max(largest / 448.0 / 1024.0) * 1.000_01;
            prop_assert!(row.iter().zip(weights).all(|(a, b)| (a - b).abs() <= bound(*b)));
        }
        let ratio = check(&matrix, seed, positions);
        prop_assert!(ratio < 1e-6, "noise-to-signal ratio {}", ratio);
    }

    #[test]
    fn dense_products_agree(seed: u64, rows in 1usize..60, columns in 1usize..200, positions in 1usize..14) {
        let mut next = noise(seed);
        let weights: Vec<f32> = (0..rows * columns).map(|_| next()).collect();
        let ratio = check(&Matrix::Dense(DenseMatrix::new(rows, columns, weights).unwrap()), seed, positions);
        prop_assert!(ratio < 1e-6, "noise-to-signal ratio {}", ratio);
    }

    #[test]
    fn a_form_takes_what_its_matrices_take(rows in 1usize..300, columns in 1usize..200, codebooks in 1usize..=8, wide: bool) {
        let dimension = if wide { 8 } else { 4 };
        let aq = aq_matrix(1, rows, columns, (codebooks, dimension), false);
        let int8 = Int8Matrix::quantize(rows, columns, &vec![0.5; rows * columns]).unwrap();
        let dense = DenseMatrix::new(rows, columns, vec![0.5; rows * columns]).unwrap();
        let int4 = Int4Matrix::quantize(rows, columns, &vec![0.5; rows * columns]).unwrap();
        let fp8 = Fp8Matrix::quantize(rows, columns, &vec![0.5; rows * columns]).unwrap();
        let rank = 1 + columns / 3;
        let factors = [(rank, columns), (rows, rank)].map(|(n, k)| aq_matrix(1, n, k, (codebooks, dimension), false));
        let [first, second] = factors;
        let low = LowRankMatrix::new(first, second).unwrap();
        let [four, eight] = [int4.to_bytes().len(), fp8.to_bytes().len()];
        let (int8_bytes, low_bytes) = (int8.to_bytes().len(), low.to_bytes().len());
        let stored = [aq.to_bytes().len(), int8_bytes, 4 * rows * columns, four, eight, low_bytes];
        let forms = [
            MatrixForm::Aq { codebooks, dimension },
            MatrixForm::Int8,
            MatrixForm::F32,
            MatrixForm::Int4,
            MatrixForm::Fp8,
            MatrixForm::LowRank { rank, codebooks, dimension },
        ];
        let matrices = [
            Matrix::Aq(aq),
            Matrix::Int8(int8),
            Matrix::Dense(dense),
            Matrix::Int4(int4),
            Matrix::Fp8(fp8),
            Matrix::LowRank(low),
        ];
        for ((form, matrix), stored) in forms.into_iter().zip(&matrices).zip(stored) {
            prop_assert_eq!(form.stored_bytes(rows, columns), Some(stored));
            prop_assert_eq!(form.heap_bytes(rows, columns), matrix.heap_bytes());
            prop_assert_eq!(form.work(rows, columns), matrix.work());
        }
    }

    #[test]
    fn damaged_matrices_are_refused(seed: u64, rows in 1usize..70, columns in 1usize..70, cut in 1usize..40) {
        let matrix = aq_matrix(seed, rows, columns, (3, 8), false);
        let bytes = matrix.to_bytes();
        let cut = cut.min(bytes.len());
        let set = Arc::clone(matrix.codebooks());
        prop_assert!(AqMatrix::from_bytes(rows, columns, Arc::clone(&set), false, &bytes[..bytes.len() - cut]).is_err());
        prop_assert!(AqMatrix::from_bytes(usize::MAX, usize::MAX, Arc::clone(&set), false, &bytes).is_err());
        let mut infinite = bytes.clone();
        infinite[..2].copy_from_slice(&[0x00, 0x7c]);
        prop_assert!(AqMatrix::from_bytes(rows, columns, set, false, &infinite).is_err());

        let int4 = Int4Matrix::quantize(rows, columns, &vec![0.5; rows * columns]).unwrap().to_bytes();
        let shorter = cut.min(int4.len());
        prop_assert!(Int4Matrix::from_bytes(rows, columns, &int4[..int4.len() - shorter]).is_err());
        prop_assert!(Int4Matrix::from_bytes(usize::MAX, usize::MAX, &int4).is_err());
        let infinite = [&[0x00, 0x7c][..], &int4[2..]].concat();
        prop_assert!(Int4Matrix::from_bytes(rows, columns, &infinite).is_err());
        let mut fp8 = Fp8Matrix::quantize(rows, columns, &vec![0.5; rows * columns]).unwrap().to_bytes();
        let shorter = cut.min(fp8.len());
        prop_assert!(Fp8Matrix::from_bytes(rows, columns, &fp8[..fp8.len() - shorter]).is_err());
        prop_assert!(Fp8Matrix::from_bytes(usize::MAX, usize::MAX, &fp8).is_err());
        let infinite = [&f32::INFINITY.to_le_bytes()[..], &fp8[4..]].concat();
        prop_assert!(Fp8Matrix::from_bytes(rows, columns, &infinite).is_err());
        let last = fp8.len() - 1;
        fp8[last] = 0xff;
        prop_assert!(Fp8Matrix::from_bytes(rows, columns, &fp8).is_err(), "the code of no number");
    }
}

fn read_rows(matrix: &Int8Matrix) -> impl Iterator<Item = Vec<f32>> {
    let matrix = Matrix::Int8(matrix.clone());
    (0..matrix.rows()).map(move |row| {
        let mut out = vec![0.0; matrix.columns()];
        matrix.decode_row(row, &mut out);
        out
    })
}

/// The noise that 8-bit tables add must stay far below the quantization error of the codec itself (0.03 to 0.35).
#[test]
fn table_noise_is_small() {
    for fold in Fold::ALL {
        for format in [(2, 4), (2, 8), (3, 8), (4, 8), (6, 8), (8, 8)] {
            let matrix = folded_matrix(7, 256, 1024, format, false, fold);
            let ratio = check(&Matrix::Aq(matrix), 7, 2);
            let entries = fold.entries();
            println!("AQ {format:?}, {entries} averaged: noise-to-signal power ratio {ratio:.1e}");
            // The variance of rounding a table is 1/12 per entry, that of the averages (entries − 1) / 8.
            assert!(
                ratio < 8e-5 * (1.5 * entries as f64 - 0.5),
                "AQ {format:?}, {entries} averaged: {ratio:e}"
            );
        }
    }
}

#[test]
fn inputs_that_are_not_finite_are_not_hidden() {
    for matrix in [
        Matrix::Aq(aq_matrix(1, 32, 16, (4, 8), false)),
        Matrix::Int8(Int8Matrix::quantize(2, 16, &[0.5; 32]).unwrap()),
        Matrix::Int4(Int4Matrix::quantize(2, 16, &[0.5; 32]).unwrap()),
    ] {
        let mut values = vec![1.0; 16];
        values[3] = f32::INFINITY;
        for backend in Backend::available() {
            assert!(product(&matrix, backend, 1, &values).iter().all(|y| y.is_nan()));
        }
    }
}
