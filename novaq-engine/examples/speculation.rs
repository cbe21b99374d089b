//! `cargo xtask bench speculation`: whether a smaller draft model would save instructions.
//!
//! A token's random number depends on the seed and its position alone. So a draft model that samples with the same numbers proposes
//! exactly what the target would draw wherever both distributions put the same token at that number, and the target, which
//! samples at every position itself, keeps its own tokens: exact by construction. What this measures is how often they agree,
//! on text that the target writes from prompts of a real text, and what follows with the costs that `bench chain --json` measured.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use novaq_engine::artifact::{LoadedModel, Loader, Manifest, Shards};
use novaq_engine::generate::{ContextPolicy, Event, Generation, PREFILL_CHUNK, Request};
use novaq_engine::model::{Budget, CachePrecision, Model};
use novaq_engine::sampler::{Sampler, SamplingParams};

/// Tokens of a prompt, and tokens that are written after it.
const PROMPT: usize = 64;
const WRITTEN: usize = 192;
/// Most tokens that a draft proposes before the target looks at them.
const MOST: usize = 8;

fn load(folder: &Path) -> Result<LoadedModel, Box<dyn Error>> {
    let manifest = Manifest::parse(&std::fs::read(folder.join("manifest.json"))?)?;
    let shards: Result<Vec<_>, _> = (0..manifest.shards.len())
        .map(|index| std::fs::read(folder.join(format!("shard-{index:05}.novaq"))))
        .collect();
    Ok(Loader::load(Arc::new(manifest), &Shards(shards?))?)
}

/// For every token that `target` wrote, whether `draft` draws the same after the same text.
fn agreement(
    draft: &Model,
    texts: &[Vec<u32>],
    sampling: &SamplingParams,
) -> Result<Vec<Vec<bool>>, Box<dyn Error>> {
    let vocabulary = draft.config().vocab_size;
    let mut all = Vec::new();
    for text in texts {
        let logits = draft.forward(&text[..text.len() - 1], CachePrecision::Int8, PREFILL_CHUNK, None)?;
        let mut sampler = Sampler::new(sampling.clone())?;
        let mut agrees = Vec::new();
        for position in PROMPT..text.len() {
            let logits = &logits[(position - 1) * vocabulary..][..vocabulary];
            agrees.push(sampler.sample(logits, &text[..position])? == text[position]);
        }
        all.push(agrees);
    }
    Ok(all)
}

/// Tokens per round when `k` are proposed: those up to the first that the target draws otherwise, and that one.
fn tokens_per_round(agreement: &[Vec<bool>], k: usize) -> f64 {
    let (mut tokens, mut rounds) = (0, 0);
    for mut left in agreement.iter().map(Vec::as_slice) {
        while !left.is_empty() {
            let accepted = left.iter().take(k).take_while(|agrees| **agrees).count();
            let taken = (accepted + 1).min(left.len());
            (tokens, rounds, left) = (tokens + taken, rounds + 1, &left[taken..]);
        }
    }
    f64::from(tokens as u32) / f64::from(rounds)
}

/// What a position of a batch that is verified takes, in parts of a token that is decoded: like one of a prompt, with head and
/// sampling. The largest and the smallest of all rows of a context of 256 in what `bench chain --json` wrote.
fn verification(costs: &Path) -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(costs)?)?;
    let find = |of: &serde_json::Value, mode: &str| {
        let same = |row: &&serde_json::Value| {
            row["mode"] == mode
                && ["shape", "bits_per_weight", "context"].iter().all(|key| row[key] == of[key])
        };
        rows.iter().find(same).cloned()
    };
    let number = |value: &serde_json::Value| value.as_f64().ok_or("a number is missing in the costs");
    let mut all = Vec::new();
    for prefill in rows.iter().filter(|row| row["mode"] == "prefill") {
        let Some(decode) = find(prefill, "decode") else { continue };
        let whole = number(&decode["instructions_per_token"])?;
        let more = number(&decode["parts"]["head"])? + number(&decode["parts"]["sampling"])?;
        let name =
            format!("{} at {} bits", prefill["shape"].as_str().unwrap_or("?"), prefill["bits_per_weight"]);
        all.push((name, (number(&prefill["instructions_per_token"])? + more) / whole));
    }
    if all.is_empty() { Err("no shape has both prefill and decode in the costs".into()) } else { Ok(all) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [costs, text, target, drafts @ ..] = &args[..] else {
        return Err("usage: speculation <COSTS.json> <TEXT> <TARGET_DIR> <DRAFT_DIR>…".into());
    };
    let mut out = std::io::stdout();
    let verification = verification(Path::new(costs))?;
    for (shape, part) in &verification {
        writeln!(
            out,
            "a verified position of {shape} takes {part:.2} of a decoded token: at most {:.2} times as fast",
            1.0 / part
        )?;
    }
    let verify = verification.iter().map(|(_, part)| *part).fold(f64::INFINITY, f64::min);

    let LoadedModel { model, tokenizer, .. } = load(Path::new(target))?;
    let tokens = tokenizer.encode_truncated(&std::fs::read_to_string(text)?, 40_000)?;
    let prompts = tokens.chunks_exact(PROMPT).step_by(40).take(12);
    let prompts: Vec<&[u32]> = prompts.collect();
    let work = model.work_per_token(256) as f64;
    writeln!(
        out,
        "\n| draft | temperature | its cost per token | same token | proposed | tokens per round | cost per token |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for temperature in [0.0, 0.8] {
        let sampling = SamplingParams { temperature, top_p: 0.95, seed: 1, ..SamplingParams::default() };
        let mut texts = Vec::new();
        for prompt in &prompts {
            let request = Request {
                prompt: prompt.to_vec(),
                max_tokens: WRITTEN,
                sampling: sampling.clone(),
                stop_tokens: Vec::new(),
                when_full: ContextPolicy::Stop,
                constraint: None,
            };
            let mut generation = Generation::new(&model, request)?;
            while let Event::Token(_) | Event::Paused =
                generation.advance(&model, &mut Budget::unlimited())?
            {}
            texts.push([*prompt, generation.generated()].concat());
        }
        for folder in drafts {
            let draft = load(Path::new(folder))?.model;
            let agrees = agreement(&draft, &texts, &sampling)?;
            let all = agrees.iter().flatten().count() as f64;
            let same = agrees.iter().flatten().filter(|agrees| **agrees).count() as f64 / all;
            let own = draft.work_per_token(256) as f64 / work;
            // The number of proposals that is best for this pair.
            let cost = |k: usize| {
                let tokens = tokens_per_round(&agrees, k);
                (((k + 1) as f64 * verify + k as f64 * own) / tokens, k, tokens)
            };
            let (cost, k, tokens) =
                (1..=MOST).map(cost).fold((f64::INFINITY, 0, 0.0), |a, b| if b.0 < a.0 { b } else { a });
            let name = Path::new(folder)
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            writeln!(
                out,
                "| {name} | {temperature} | {own:.2} | {:.1} % | {k} | {tokens:.2} | {cost:.2} |",
                100.0 * same
            )?;
        }
    }
    Ok(())
}
