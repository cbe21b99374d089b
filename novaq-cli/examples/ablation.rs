//! Prints what each way to normalise weights before they are coded does to quality:
//! `cargo run --example ablation -- <MODEL_DIR>`.
//!
//! Every row has the same codes, the same embedding at 4 bits, and is measured on the same text that the model wrote.
//! All of it in floats: a way that does not pay needs no place in the artifact.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use novaq_cli::checkpoint::{Checkpoint, dense};
use novaq_cli::compress::baseline::in_floats;
use novaq_cli::compress::{HELD_OUT, default_calibration_tokens};
use novaq_cli::evaluate::{compare, text};
use novaq_cli::layered::Layered;
use novaq_cli::quantize::additive::{Effort, gaussian_codebooks, quantize};
use novaq_cli::quantize::beam::Codebooks;
use novaq_cli::quantize::hessian::damped;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tokens to measure on.
const TOKENS: usize = 40_960;

/// Damping of the Hessian, as `novaq compress` has it.
const DAMPING: f32 = 0.01;

/// Share of the rows that are kept as they are, in 16 bits, where outlying rows are.
const OUTLIERS: f64 = 0.01;

#[derive(Parser)]
struct Args {
    /// Folder of the checkpoint.
    model: PathBuf,

    /// Codebooks of 16 over vectors of 8 weights: half a bit per weight each.
    #[arg(long, default_value_t = 4)]
    books: usize,
}

/// What is done to a matrix before it is coded, and undone after.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Nothing,
    RowMeans,
    ChannelScales(f32),
    OutlierRows,
    Hadamard,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::Nothing,
        Self::RowMeans,
        Self::ChannelScales(0.25),
        Self::ChannelScales(0.5),
        Self::OutlierRows,
        Self::Hadamard,
    ];

    fn words(self) -> String {
        match self {
            Self::Nothing => "row scales alone".to_owned(),
            Self::RowMeans => "row means".to_owned(),
            Self::ChannelScales(power) => format!("input channels scaled by their size to the power {power}"),
            Self::OutlierRows => "1 % of the rows in 16 bits".to_owned(),
            Self::Hadamard => "random block Hadamard rotation".to_owned(),
        }
    }

    /// Bits that it adds per weight of a matrix `[n, k]`; channel scales are folded into the norm before, or cost 16 bits
    /// per column.
    fn bits(self, (n, k): (usize, usize)) -> f64 {
        match self {
            Self::Nothing | Self::Hadamard => 0.0,
            Self::RowMeans => 16.0 / k as f64,
            Self::ChannelScales(_) => 16.0 / n as f64,
            Self::OutlierRows => 16.0 * OUTLIERS,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let Args { model, books } = Args::parse();
    let checkpoint = Checkpoint::open(&model)?;
    let mut original = Layered::original(&checkpoint)?.keeping(u64::MAX);
    let count = TOKENS / text::SEQUENCE_TOKENS;
    let held_out = text::sample(&mut original, &text::seeds(1 ^ HELD_OUT, count), count, |_| {})?;
    let count = default_calibration_tokens(&checkpoint).div_ceil(text::SEQUENCE_TOKENS);
    let sequences = text::sample(&mut original, &text::seeds(0, count), count, |_| {})?;

    let tokens = checkpoint.matrix("model.embed_tokens.weight")?;
    let start = gaussian_codebooks(8, 8, 10, 0);
    let ones = vec![1.0; tokens.nrows()];
    let eye = Array2::eye(tokens.ncols());
    let tokens = quantize(tokens.view(), eye.view(), &ones, &start, Effort::default())?.decode();
    let tokens = dense(tokens)?;

    let start = gaussian_codebooks(books, 8, 10, 0);
    println!("| {} bits, and | bits more, at most | KL | perplexity ratio |", books as f64 / 2.0);
    println!("|---|---|---|---|");
    for way in Way::ALL {
        let most = std::cell::Cell::new(0.0f64);
        let compressed = in_floats(&checkpoint, &sequences, &tokens, |w, h| {
            most.set(most.get().max(way.bits(w.dim())));
            coded(way, w, h, &start)
        })?;
        let mut compressed = compressed;
        let measured = compare(&mut Layered::original(&checkpoint)?, &mut compressed, &held_out)?;
        let ratio = measured.perplexity / measured.perplexity_original;
        println!("| {} | {:.2} | {:.4} | {ratio:.3} |", way.words(), most.get(), measured.kl);
    }
    Ok(())
}

/// `w [n, k]` after coding it in the given way for inputs with the second moments `h [k, k]`.
fn coded(way: Way, w: ArrayView2<f32>, h: ArrayView2<f32>, start: &Codebooks) -> anyhow::Result<Array2<f32>> {
    let code = |w: ArrayView2<f32>, h: Array2<f32>| -> anyhow::Result<Array2<f32>> {
        let h = damped(h, DAMPING);
        Ok(quantize(w, h.view(), &vec![1.0; w.nrows()], start, Effort::default())?.decode())
    };
    match way {
        Way::Nothing => code(w, h.to_owned()),
        Way::RowMeans => {
            let means = w.mean_axis(Axis(1)).context("a matrix without columns")?.insert_axis(Axis(1));
            Ok(code((&w - &means).view(), h.to_owned())? + &means)
        }
        Way::ChannelScales(power) => {
            let sizes = h.diag().mapv(|x| x.max(f32::MIN_POSITIVE).powf(0.5 * power));
            let scales: Array1<f32> = &sizes / sizes.mean().context("a matrix without columns")?;
            let metric = &h / &scales / scales.view().insert_axis(Axis(1));
            Ok(code((&w * &scales).view(), metric)? / &scales)
        }
        Way::OutlierRows => {
            let mut coded = code(w, h.to_owned())?;
            let errors = &w - &coded;
            let errors = (errors.dot(&h) * &errors).sum_axis(Axis(1));
            let mut rows: Vec<usize> = (0..w.nrows()).collect();
            rows.sort_by(|&a, &b| errors[b].total_cmp(&errors[a]));
            for &row in &rows[..(OUTLIERS * rows.len() as f64).ceil() as usize] {
                coded.row_mut(row).assign(&w.row(row));
            }
            Ok(coded)
        }
        Way::Hadamard => {
            let rotation = hadamard(w.ncols());
            let metric = rotation.t().dot(&h).dot(&rotation);
            Ok(code(w.dot(&rotation).view(), metric)?.dot(&rotation.t()))
        }
    }
}

/// Hadamard matrices of the largest power of two that divides `k`, along the diagonal, with random signs of the rows.
fn hadamard(k: usize) -> Array2<f32> {
    let size = 1 << k.trailing_zeros();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut rotation = Array2::zeros((k, k));
    for first in (0..k).step_by(size) {
        for i in 0..size {
            let sign = if rng.random() { 1.0 } else { -1.0 };
            let mut row = rotation.slice_mut(s![first + i, first..first + size]);
            for (j, x) in row.iter_mut().enumerate() {
                let parity = (i & j).count_ones() % 2;
                *x = sign * if parity == 0 { 1.0 } else { -1.0 } / (size as f32).sqrt();
            }
        }
    }
    rotation
}
