//! `cargo xtask bench meaning -- <ARTIFACT>...`: the coordinator's labelled instructions, by its rules and by what models say.
//!
//! Artifacts are as `novaq compress` writes them. An instruction is right by the rules when they find the very roles of its label; by an encoder when
//! the role that is nearest in meaning is one of them; by a model that converses when what it proposes has the very roles of the label.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_engine::artifact::{LoadedEncoder, LoadedModel};
use novaq_engine::chat::Message;
use novaq_engine::model::Budget;
use novaq_engine::text::TextGeneration;
use ohms_coordinator::proposal::{self, Proposal};
use ohms_coordinator::{analysis, meaning, roles};
use serde::Deserialize;

/// A line of `canisters/coordinator/instructions`.
#[derive(Deserialize)]
struct Labelled {
    text: String,
    roles: BTreeSet<String>,
}

/// What says which roles an instruction asks for.
enum Judge {
    Rules,
    Encoder(Box<LoadedEncoder>, Vec<(String, Vec<f32>)>),
    Language(Box<LoadedModel>),
}

impl Judge {
    /// Reads an artifact.
    fn open(folder: &str) -> anyhow::Result<Self> {
        let artifact = ArtifactDir::open(Path::new(folder))?;
        if artifact.manifest().encoder.is_none() {
            return Ok(Self::Language(Box::new(artifact.load()?)));
        }
        let loaded = artifact.load_encoder()?;
        let own = BTreeMap::new();
        let vector = |role| anyhow::Ok(embed(&loaded, &meaning::text_of(role))?);
        let by_role = roles::of(&own).into_iter().map(|role| Ok((role.name.clone(), vector(role)?)));
        let by_role = by_role.collect::<anyhow::Result<_>>()?;
        Ok(Self::Encoder(Box::new(loaded), by_role))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Rules => "right by the rules",
            Self::Encoder(..) => "nearest in meaning is right",
            Self::Language(_) => "proposed by the language model",
        }
    }

    fn is_right(&self, text: &str, labelled: &BTreeSet<String>) -> anyhow::Result<bool> {
        let own = BTreeMap::new();
        Ok(match self {
            Self::Rules => {
                let found = analysis::analyse(text, &own, 100);
                let clauses = found.clauses.iter().filter(|_| found.questions.is_empty());
                clauses.map(|it| it.role.clone()).collect::<BTreeSet<_>>() == *labelled
            }
            Self::Encoder(loaded, by_role) => {
                let known = by_role.iter().map(|(role, known)| (role, &known[..]));
                let nearest = meaning::nearest(&embed(loaded, text)?, known);
                nearest.first().is_some_and(|it| labelled.contains(&it.role))
            }
            Self::Language(loaded) => {
                let proposed = Proposal::read(&answer(loaded, text)?);
                proposed.is_some_and(|it| it.roles().map(str::to_owned).collect::<BTreeSet<_>>() == *labelled)
            }
        })
    }
}

fn embed(loaded: &LoadedEncoder, text: &str) -> anyhow::Result<Vec<f32>> {
    let LoadedEncoder { encoder, tokenizer } = loaded;
    Ok(encoder.embed(&tokenizer.encode_truncated(text, encoder.config().max_seq_length)?)?)
}

/// What the model answers, as the coordinator asks it.
fn answer(loaded: &LoadedModel, instruction: &str) -> anyhow::Result<String> {
    let own = BTreeMap::new();
    let roles = roles::of(&own);
    let messages = proposal::messages(instruction, roles.iter().copied());
    let messages: Vec<Message> = messages.into_iter().map(Message::from).collect();
    let params = proposal::params(proposal::schema(roles.iter().copied()));
    let request = params.request(loaded, loaded.encode_messages(&messages)?)?;
    let mut text = TextGeneration::new(loaded, request, &[])?;
    while text.finished().is_none() {
        text.advance(loaded, &mut Budget::unlimited())?;
    }
    Ok(text.text().to_owned())
}

fn main() -> anyhow::Result<()> {
    let mut judges = vec![Judge::Rules];
    for folder in std::env::args().skip(1) {
        judges.push(Judge::open(&folder).context(folder)?);
    }
    let mut out = std::io::stdout().lock();
    let names: Vec<&str> = judges.iter().map(Judge::name).collect();
    writeln!(out, "| instructions | that ask for a role | {} |", names.join(" | "))?;
    writeln!(out, "|---|---:|{}", "---:|".repeat(names.len()))?;
    for (name, lines) in [
        ("tuned on", include_str!("../../canisters/coordinator/instructions/tuning.jsonl")),
        ("kept apart", include_str!("../../canisters/coordinator/instructions/held-out.jsonl")),
    ] {
        let (mut all, mut right) = (0, vec![0; judges.len()]);
        for line in lines.lines() {
            let Labelled { text, roles } = serde_json::from_str(line).with_context(|| line.to_owned())?;
            if roles.is_empty() {
                continue;
            }
            all += 1;
            for (judge, right) in judges.iter().zip(&mut right) {
                *right += usize::from(judge.is_right(&text, &roles)?);
            }
        }
        let right: Vec<String> = right.iter().map(usize::to_string).collect();
        writeln!(out, "| {name} | {all} | {} |", right.join(" | "))?;
        out.flush()?;
    }
    Ok(())
}
