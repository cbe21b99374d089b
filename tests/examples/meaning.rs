//! `cargo xtask bench meaning -- <ARTIFACT>`: the coordinator's labelled instructions, by its rules and by what an encoder says.
//!
//! The artifact is an encoder's, as `novaq compress` writes it. An instruction is right by the rules when they find the very roles of its label, and by
//! the encoder when the role that is nearest in meaning is one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_engine::artifact::LoadedEncoder;
use ohms_coordinator::{analysis, meaning, roles};
use serde::Deserialize;

/// A line of `canisters/coordinator/instructions`.
#[derive(Deserialize)]
struct Labelled {
    text: String,
    roles: BTreeSet<String>,
}

fn main() -> anyhow::Result<()> {
    let artifact = std::env::args().nth(1).context("name the folder of an encoder's artifact")?;
    let LoadedEncoder { encoder, tokenizer } = ArtifactDir::open(Path::new(&artifact))?.load_encoder()?;
    let embed = |text: &str| -> anyhow::Result<Vec<f32>> {
        Ok(encoder.embed(&tokenizer.encode_truncated(text, encoder.config().max_seq_length)?)?)
    };
    let own = BTreeMap::new();
    let mut by_role = Vec::new();
    for role in roles::of(&own) {
        by_role.push((role.name.clone(), embed(&meaning::text_of(role))?));
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| instructions | that ask for a role | right by the rules | nearest in meaning is right |"
    )?;
    writeln!(out, "|---|---:|---:|---:|")?;
    for (name, lines) in [
        ("tuned on", include_str!("../../canisters/coordinator/instructions/tuning.jsonl")),
        ("kept apart", include_str!("../../canisters/coordinator/instructions/held-out.jsonl")),
    ] {
        let (mut all, mut by_rules, mut by_meaning) = (0, 0, 0);
        for line in lines.lines() {
            let Labelled { text, roles } = serde_json::from_str(line).with_context(|| line.to_owned())?;
            if roles.is_empty() {
                continue;
            }
            let found = analysis::analyse(&text, &own, 100);
            let found: BTreeSet<String> = found
                .clauses
                .iter()
                .filter(|_| found.questions.is_empty())
                .map(|it| it.role.clone())
                .collect();
            let vector = embed(&text)?;
            let nearest = meaning::nearest(&vector, by_role.iter().map(|(role, known)| (role, &known[..])));
            all += 1;
            by_rules += usize::from(found == roles);
            by_meaning += usize::from(nearest.first().is_some_and(|it| roles.contains(&it.role)));
        }
        writeln!(out, "| {name} | {all} | {by_rules} | {by_meaning} |")?;
    }
    Ok(())
}
