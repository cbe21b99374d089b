//! `cargo xtask bench agent`: what an agent's jobs take, in a canister, by how they share passes, layers and caches, and what
//! embeddings take. Instructions are those of the jobs' records, the canister's own counter; models have random weights.

use std::io::Write;

use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, Repository, owner};
use shared_types::agent::{
    AgentConfig, AgentError, EmbedArgs, Embeddings, GenerationParams, HeapUse, JobCounts, LoadState,
    MAX_SLICE_INSTRUCTIONS, Priority, SubmitJobArgs,
};

const SHAPE: &str = "smollm2-135m";

fn params(max_tokens: u32) -> GenerationParams {
    // Random weights give nearly equal logits: the temperature makes them about as peaked as a real model's.
    GenerationParams {
        max_tokens,
        temperature: 0.25,
        top_p: Some(0.95),
        seed: 7,
        ..GenerationParams::default()
    }
}

fn config() -> AgentConfig {
    AgentConfig { slice_instructions: MAX_SLICE_INSTRUCTIONS, ..AgentConfig::default() }
}

fn job(prompt: &str, max_tokens: u32, priority: Priority) -> SubmitJobArgs {
    SubmitJobArgs {
        prompt: prompt.to_owned(),
        params: params(max_tokens),
        priority: Some(priority),
        ..SubmitJobArgs::default()
    }
}

fn run(agent: &Agent, args: SubmitJobArgs) -> anyhow::Result<JobCounts> {
    Ok(agent.wait(agent.submit_args(args)?.job_id).job.counts)
}

/// Instructions of `count` jobs of class batch, each with its own prompt, that begin at the same time.
fn together(network: &Network, agent: &Agent, count: usize, max_tokens: u32) -> anyhow::Result<u64> {
    let queue = |method: &str| -> Result<(), AgentError> { network.update(owner(), agent.id, method, ()) };
    queue("pause_queue")?;
    let prompts = (0..count).map(|i| format!("{i} prompts share"));
    let jobs: Vec<_> = prompts
        .map(|prompt| agent.submit_args(job(&prompt, max_tokens, Priority::Batch)))
        .collect::<Result<_, _>>()?;
    queue("resume_queue")?;
    Ok(jobs.iter().map(|record| agent.wait(record.job_id).job.counts.instructions).sum())
}

fn millions(instructions: u64) -> String {
    format!("{:.1} M", instructions as f64 / 1e6)
}

fn heap(agent: &Agent) -> HeapUse {
    agent.status().heap.unwrap_or_default()
}

/// The network with a model, and where the tables go.
struct Bench<'a> {
    network: &'a Network,
    repository: Repository<'a>,
    artifact: Artifact,
    out: std::io::Stdout,
}

impl<'a> Bench<'a> {
    /// An agent that has its model in the heap.
    fn agent(&self, config: AgentConfig) -> anyhow::Result<Agent<'a>> {
        let agent = self.network.agent(self.repository.id, self.artifact.id, config);
        run(&agent, job("warm", 1, Priority::Standard))?;
        Ok(agent)
    }

    fn shared_passes(&mut self) -> anyhow::Result<()> {
        writeln!(
            self.out,
            "| jobs that share passes ({SHAPE}, 2 bits) | instructions per token |\n|---|---|"
        )?;
        for width in [1u32, 2, 4, 8] {
            let agent = self.agent(AgentConfig { batch_width: Some(width), ..config() })?;
            let (jobs, few, many) = (width as usize, 2, 10);
            // Prompts that were computed before, so that the difference is decoding alone.
            together(self.network, &agent, jobs, few)?;
            let (second, third) =
                (together(self.network, &agent, jobs, many)?, together(self.network, &agent, jobs, few)?);
            let per_token = (second - third) / (jobs as u64 * u64::from(many - few));
            writeln!(self.out, "| {width} | {} |", millions(per_token))?;
        }
        Ok(())
    }

    fn heap_budgets(&mut self) -> anyhow::Result<()> {
        writeln!(
            self.out,
            "\n| heap budget | layers in the heap | brought per token | instructions per token |\n|---|---|---|---|"
        )?;
        let all = heap(&self.agent(config())?);
        for heap_bytes in [None, Some(36 << 20), Some(30 << 20), Some(24 << 20)] {
            let agent = self.agent(AgentConfig { heap_bytes, ..config() })?;
            run(&agent, job("A tale of", 2, Priority::Standard))?;
            let before = heap(&agent);
            let more = run(&agent, job("A tale of", 6, Priority::Standard))?;
            let after = heap(&agent);
            let again = run(&agent, job("A tale of", 2, Priority::Standard))?;
            writeln!(
                self.out,
                "| {:.1} MB of {:.1} | {} of {} | {:.1} | {} |",
                after.budget_bytes.min(all.weight_bytes) as f64 / 1e6,
                all.weight_bytes as f64 / 1e6,
                after.layers_in_heap,
                after.layers,
                (after.layers_brought - before.layers_brought) as f64 / 6.0,
                millions((more.instructions - again.instructions) / 4),
            )?;
        }
        Ok(())
    }

    fn beginnings(&mut self) -> anyhow::Result<()> {
        let agent = self.agent(config())?;
        let long = "A fox and a hare went to the king to ask him who of them was the wiser one. ";
        writeln!(
            self.out,
            "\n| prompt | tokens | taken over | instructions with 2 tokens |\n|---|---|---|---|"
        )?;
        for (name, end) in [("first", "The fox"), ("another end of it", "The hare")] {
            let counts = run(&agent, job(&format!("{long}{end}"), 2, Priority::Standard))?;
            let (tokens, reused) = (counts.prompt_tokens, counts.reused_tokens.unwrap_or(0));
            writeln!(self.out, "| {name} | {tokens} | {reused} | {} |", millions(counts.instructions))?;
        }
        Ok(())
    }

    /// What holding a text to a schema takes: where few tokens may follow, and inside of a text, where nearly all of them may.
    fn schemas(&mut self) -> anyhow::Result<()> {
        let agent = self.agent(config())?;
        writeln!(
            self.out,
            "\n| held to | instructions of the job with 2 tokens | per token |\n|---|---|---|"
        )?;
        let digits = r#"{"type": "integer"}"#;
        let text = r#"{"type": "string", "minLength": 64}"#;
        for (name, schema) in [("nothing", None), ("a number", Some(digits)), ("a text", Some(text))] {
            let counts = |max_tokens: u32| {
                let mut args = job("A tale of", max_tokens, Priority::Standard);
                args.params.json_schema = schema.map(str::to_owned);
                run(&agent, args)
            };
            counts(2)?;
            let (few, many) = (counts(2)?, counts(10)?);
            let tokens = u64::from(many.generated_tokens - few.generated_tokens).max(1);
            let per_token = (many.instructions - few.instructions) / tokens;
            writeln!(self.out, "| {name} | {} | {} |", millions(few.instructions), millions(per_token))?;
        }
        Ok(())
    }

    fn caches(&mut self) -> anyhow::Result<()> {
        writeln!(self.out, "\n| tokens allowed | tokens used | bytes of the cache |\n|---|---|---|")?;
        for allowed in [50u32, 2_048] {
            let agent = self.agent(AgentConfig { slice_instructions: 500_000_000, ..config() })?;
            let before = heap(&agent).kept_bytes;
            let record = agent.submit_args(job("A", allowed, Priority::Standard))?;
            let used = agent.wait_for_tokens(record.job_id, 48).next_token;
            let now = heap(&agent);
            writeln!(self.out, "| {allowed} | {used} | {} |", now.cache_bytes + now.kept_bytes - before)?;
        }
        Ok(())
    }

    /// What the end of a job takes: its receipt reads all tokens.
    fn ends(&mut self) -> anyhow::Result<()> {
        let artifact = Artifact::long_context();
        let repository = self.network.repository();
        repository.publish(&artifact);
        let agent = self.network.agent(repository.id, artifact.id, AgentConfig::default());
        writeln!(self.out, "\n| tokens of a job that is cancelled | instructions |\n|---|---|")?;
        for tokens in [1, 1_500] {
            let record = agent.submit_args(job("A", 2_000, Priority::Standard))?;
            agent.wait_for_tokens(record.job_id, tokens);
            agent.on_job("pause_job", record.job_id)?;
            let tokens = agent.progress(record.job_id, 0).next_token;
            let before = self.network.pic.cycle_balance(agent.id);
            agent.on_job("cancel_job", record.job_id)?;
            let used = before - self.network.pic.cycle_balance(agent.id);
            writeln!(self.out, "| {tokens} | {} |", millions(used as u64))?;
        }
        Ok(())
    }

    fn embeddings(&mut self) -> anyhow::Result<()> {
        let encoder = Artifact::minilm();
        let repository = self.network.repository();
        repository.publish(&encoder);
        let agent = self.network.agent(repository.id, encoder.id, config());
        let embed = |texts: Vec<String>| -> Result<Embeddings, AgentError> {
            self.network.update(owner(), agent.id, "embed", (EmbedArgs { texts },))
        };
        let loading = embed(vec!["a".to_owned()]);
        anyhow::ensure!(loading.is_err(), "nothing is loaded yet");
        self.network.wait_for("the load", || (agent.status().load == LoadState::Loaded).then_some(()));
        embed(vec!["a".to_owned()])?;
        writeln!(
            self.out,
            "\n| tokens of a text (shape of all-MiniLM-L6-v2, 3 bits) | instructions |\n|---|---|"
        )?;
        for words in [4usize, 16, 64, 400] {
            let found = embed(vec!["a fox ".repeat(words)])?;
            writeln!(self.out, "| {} | {} |", found.embeddings[0].tokens, millions(found.instructions))?;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::like(SHAPE, 2.0);
    repository.publish(&artifact);
    let mut bench = Bench { network: &network, repository, artifact, out: std::io::stdout() };
    bench.shared_passes()?;
    bench.heap_budgets()?;
    bench.beginnings()?;
    bench.schemas()?;
    bench.caches()?;
    bench.ends()?;
    bench.embeddings()
}
