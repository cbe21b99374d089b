//! The closing table.

use crate::team::TeamReport;
use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use shared_types::agent::{AgentStatus, JobCounts};
use std::fmt;

/// Instructions of one update message on the Internet Computer.
const MESSAGE_INSTRUCTIONS: f64 = 40e9;

/// What the demo measured. The keys are those of `--json`.
#[derive(Serialize)]
pub struct Report {
    bytes: u64,
    ratio_fp32: f64,
    shards: u32,
    load_seconds: f64,
    load_instructions: u64,
    prompt_tokens: u32,
    tokens: u32,
    messages: u32,
    native_equal: bool,
    instructions: u64,
    instructions_per_token: f64,
    instructions_per_token_and_parameter: f64,
    tokens_per_40b: f64,
    #[serde(flatten)]
    team: TeamReport,
}

impl Report {
    /// Takes `novaq inspect --json`'s figures of the artifact and the agent's of its job.
    pub fn new(
        artifact: &Value,
        agent: &AgentStatus,
        job: &JobCounts,
        native_equal: bool,
        team: TeamReport,
    ) -> anyhow::Result<Self> {
        let load = &agent.load_counts;
        let (Some(from), Some(to)) = (load.started_at_ns, load.finished_at_ns) else {
            anyhow::bail!("the agent has not loaded its model");
        };
        let compression = &artifact["manifest"]["compression"];
        let parameters =
            compression["parameters"].as_f64().context("the artifact does not say its parameters")?;
        let per_token = job.instructions as f64 / f64::from(job.generated_tokens.max(1));
        Ok(Self {
            bytes: compression["bytes"].as_u64().context("the artifact does not say its size")?,
            ratio_fp32: compression["ratio_fp32"].as_f64().context("the artifact does not say its ratio")?,
            shards: load.shards,
            load_seconds: to.saturating_sub(from) as f64 / 1e9,
            load_instructions: load.instructions + load.build_instructions,
            prompt_tokens: job.prompt_tokens,
            tokens: job.generated_tokens,
            messages: job.messages,
            native_equal,
            instructions: job.instructions,
            instructions_per_token: per_token,
            instructions_per_token_and_parameter: per_token / parameters,
            tokens_per_40b: MESSAGE_INSTRUCTIONS / per_token,
            team,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("artifact", format!("{} bytes, {:.1} times smaller than FP32", self.bytes, self.ratio_fp32)),
            ("shards", self.shards.to_string()),
            (
                "load",
                format!(
                    "{:.1} s, {:.1} M instructions",
                    self.load_seconds,
                    self.load_instructions as f64 / 1e6
                ),
            ),
            ("tokens", format!("{} after a prompt of {}", self.tokens, self.prompt_tokens)),
            ("messages", self.messages.to_string()),
            ("equal to the native run", if self.native_equal { "yes" } else { "NO" }.to_string()),
            (
                "instructions per token, prompt included",
                format!("{:.2} M", self.instructions_per_token / 1e6),
            ),
            (
                "instructions per token and parameter",
                format!("{:.2}", self.instructions_per_token_and_parameter),
            ),
            ("tokens per 40 B instructions", format!("{:.0}", self.tokens_per_40b)),
            ("team", self.team.to_string()),
            ("the sixth agent", self.team.sixth_agent.clone()),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<40} {value}")?;
        }
        Ok(())
    }
}
