//! `cargo xtask bench chain`: instructions per token inside a canister, pages included, for shapes of published models with
//! random weights, and where they go.

use std::io::Write;

use anyhow::Context;
use candid::Principal;
use kernel_canister::chain::{Counts, Spec};
use novaq_engine::synth::{config_like, shape_names};
use ohms_tests::network::{Network, admin};
use ohms_tests::wasm::Canister;
use serde::Serialize;

/// What a message on the Internet Computer may use (`shared-types`' limits have the source).
const MESSAGE: f64 = 40e9;

/// Positions of a pass over a prompt, as the engine cuts them.
const CHUNK: u32 = novaq_engine::generate::PREFILL_CHUNK as u32;

const PARTS: [&str; 7] = ["products", "tables", "attention", "head", "rest", "sampling", "pages"];

#[derive(Serialize)]
struct Row {
    shape: String,
    bits_per_weight: f64,
    embedding_bits_per_weight: f64,
    parameters: u64,
    context: u32,
    mode: &'static str,
    instructions_per_token: f64,
    instructions_per_token_and_parameter: f64,
    tokens_per_40b: u64,
    parts: serde_json::Map<String, serde_json::Value>,
}

struct Bench<'a> {
    network: &'a Network,
    canister: Principal,
    /// Cycles of a message that does nothing.
    idle: u128,
}

impl Bench<'_> {
    /// The canister's counts and the instructions that it was charged for.
    fn advance(&self, positions: u32, chunk: u32, sample: bool) -> anyhow::Result<(Counts, f64)> {
        let before = self.network.pic.cycle_balance(self.canister);
        let counts: Result<Counts, String> =
            self.network.update(admin(), self.canister, "advance", (positions, chunk, sample));
        let counts = counts.map_err(anyhow::Error::msg)?;
        let charged = before - self.network.pic.cycle_balance(self.canister);
        Ok((counts, charged.saturating_sub(self.idle) as f64))
    }

    /// Measures messages of two lengths: their difference is what positions take, the rest what the message takes.
    fn row(
        &self,
        spec: &Spec,
        mode: &'static str,
        context: u32,
        [few, many]: [u32; 2],
    ) -> anyhow::Result<Row> {
        let (chunk, sample) = if mode == "decode" { (1, true) } else { (CHUNK, false) };
        let (first, first_charged) = self.advance(few, chunk, sample)?;
        let (second, charged) = self.advance(many, chunk, sample)?;
        let more = f64::from(many - few);
        let per_token = (charged - first_charged) / more;
        let per_message = (charged - per_token * f64::from(many)).max(0.0);
        let tokens = ((MESSAGE - per_message) / per_token).floor();
        let instructions = per_token + per_message / tokens;
        let counted =
            |counts: &Counts| -> Vec<u64> { counts.parts.iter().copied().chain([counts.sampling]).collect() };
        let mut parts: Vec<f64> = counted(&second)
            .iter()
            .zip(counted(&first))
            .map(|(b, a)| (*b as f64 - a as f64) / more)
            .collect();
        parts.push(instructions - parts.iter().sum::<f64>());
        let config = config_like(&spec.shape).expect("the canister knows it");
        let parameters = config.parameters();
        Ok(Row {
            shape: spec.shape.clone(),
            bits_per_weight: spec.bits,
            embedding_bits_per_weight: spec.embedding_bits,
            parameters,
            context,
            mode,
            instructions_per_token: instructions.round(),
            instructions_per_token_and_parameter: (instructions / parameters as f64 * 1e4).round() / 1e4,
            tokens_per_40b: tokens as u64,
            parts: PARTS
                .iter()
                .zip(parts)
                .map(|(name, part)| ((*name).to_owned(), part.round().into()))
                .collect(),
        })
    }
}

fn main() -> anyhow::Result<()> {
    let mut json = None;
    let mut shapes = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--json" {
            json = Some(args.next().context("`--json` wants a file")?);
        } else {
            let names: Vec<&str> = shape_names().collect();
            anyhow::ensure!(names.contains(&&*arg), "`{arg}` is no shape; there are {}", names.join(", "));
            shapes.push(arg);
        }
    }
    if shapes.is_empty() {
        shapes = ["smollm2-135m", "qwen3-0.6b"].map(str::to_owned).to_vec();
    }
    let network = Network::new();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| shape | bits | context | mode | instructions per token | per parameter | tokens per 40 B | {} |",
        PARTS.join(" | ")
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|{}", "---|".repeat(PARTS.len()))?;
    let mut rows = Vec::new();
    for shape in &shapes {
        for bits in [2.0, 1.5] {
            let canister = network.install(Canister::Kernels, ());
            let spec = Spec { shape: shape.clone(), bits, embedding_bits: 3.0, context: 1_100 };
            let loaded: Result<u64, String> = network.update(admin(), canister, "load", (spec.clone(),));
            loaded.map_err(anyhow::Error::msg)?;
            // The first message of all grows the heap.
            let mut bench = Bench { network: &network, canister, idle: 0 };
            bench.advance(0, 1, false)?;
            bench.idle = bench.advance(0, 1, false)?.1 as u128;
            let mut add = |row: Row| -> anyhow::Result<()> {
                let part =
                    |name: &&str| row.parts.get(*name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
                let parts = PARTS.iter().map(|name| format!("{:.2} M", part(name) / 1e6));
                let parts: Vec<String> = parts.collect();
                writeln!(
                    out,
                    "| {} | {} | {} | {} | {:.1} M | {:.3} | {} | {} |",
                    row.shape,
                    row.bits_per_weight,
                    row.context,
                    row.mode,
                    row.instructions_per_token / 1e6,
                    row.instructions_per_token_and_parameter,
                    row.tokens_per_40b,
                    parts.join(" | ")
                )?;
                rows.push(row);
                Ok(())
            };
            bench.advance(CHUNK, CHUNK, false)?;
            add(bench.row(&spec, "prefill", 256, [CHUNK, 208])?)?;
            add(bench.row(&spec, "decode", 256, [2, 30])?)?;
            for _ in 0..(1_024 - 256 - 32) / CHUNK {
                bench.advance(CHUNK, CHUNK, false)?;
            }
            add(bench.row(&spec, "decode", 1_024, [2, 30])?)?;
        }
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_vec_pretty(&rows)?)?;
    }
    Ok(())
}
