//! `cargo xtask bench facts`: what remembering and searching takes in an agent, by the number of its facts:
//! instructions by the canister's own counter. Vectors of 384 numbers (the length of small encoders' embeddings) and texts of 12 words are
//! random; a query may use 5 B instructions.

use std::io::Write;

use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, owner};
use shared_types::ModelId;
use shared_types::agent::memory::{Fact, FoundFacts, MAX_REMEMBERED, NewFact, RememberArgs, SearchFactsArgs};
use shared_types::agent::{AgentConfig, AgentError};

const DIMENSIONS: usize = 384;

/// A sequence of numbers that looks random (splitmix64, Steele et al., 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Of length one, nearly.
    fn vector(&mut self) -> Vec<f32> {
        let scale = (3.0 / DIMENSIONS as f32).sqrt();
        (0..DIMENSIONS).map(|_| (self.next() as f32 / u64::MAX as f32 * 2.0 - 1.0) * scale).collect()
    }

    /// Words of 10,000, the first of them often, as in a language: the n-th about 1/n as often as the first (Zipf).
    fn text(&mut self) -> String {
        let word = |random: u64| format!("w{}", 10_000f64.powf(random as f64 / u64::MAX as f64) as u32);
        (0..12).map(|_| word(self.next())).collect::<Vec<_>>().join(" ")
    }
}

fn main() -> anyhow::Result<()> {
    let mut counts: Vec<u64> =
        std::env::args().skip(1).map(|count| count.parse()).collect::<Result<_, _>>()?;
    if counts.is_empty() {
        counts = vec![1_000, 10_000, 100_000];
    }
    let network = Network::new();
    let repository = network.repository();
    let agent = network.agent(repository.id, Artifact::small().id, AgentConfig::default());
    let encoder = Some(ModelId::of(b"random vectors"));
    let mut random = Random(7);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| facts | cycles a fact | by vectors, instructions | by words, instructions | compared by words | stable memory |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    let mut facts = 0;
    for count in counts {
        let (before, first) = (network.pic.cycle_balance(agent.id), facts);
        while facts < count {
            let batch = MAX_REMEMBERED.min((count - facts) as usize);
            let new = (0..batch).map(|_| NewFact { text: random.text(), vector: Some(random.vector()) });
            let args = RememberArgs { facts: new.collect(), encoder };
            let remembered: Result<Vec<Fact>, AgentError> =
                network.update(owner(), agent.id, "remember", (args,));
            facts += remembered?.len() as u64;
        }
        let cycles = (before - network.pic.cycle_balance(agent.id)) / u128::from((facts - first).max(1));
        let search = |text: String, vector: Option<Vec<f32>>| -> anyhow::Result<FoundFacts> {
            let encoder = encoder.filter(|_| vector.is_some());
            let args = SearchFactsArgs { text, vector, encoder, limit: 10 };
            let found: Result<FoundFacts, AgentError> =
                network.query(owner(), agent.id, "search_facts", (args,));
            Ok(found?)
        };
        let by_vectors = search(String::new(), Some(random.vector()))?;
        anyhow::ensure!(by_vectors.compared == facts && by_vectors.facts.len() == 10);
        let by_words = search(random.text(), None)?;
        let millions = |instructions: u64| format!("{:.0} M", instructions as f64 / 1e6);
        writeln!(
            out,
            "| {facts} | {:.1} M | {} | {} | {} | {:.0} MB |",
            cycles as f64 / 1e6,
            millions(by_vectors.instructions),
            millions(by_words.instructions),
            by_words.compared,
            agent.status().stable_bytes as f64 / 1e6,
        )?;
    }
    Ok(())
}
