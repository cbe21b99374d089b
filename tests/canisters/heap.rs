//! The agent's heap: layers that come from stable memory, jobs that share passes, caches that are kept.

use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, admin};
use ohms_tests::wasm::Canister;
use shared_types::agent::{
    AgentConfig, ContextPolicy, FinishReason, GenerationParams, HeapUse, JobCounts, JobId, JobState,
    Priority, SubmitJobArgs,
};

const PROMPT: &str = "Once upon a time there was a fox";

fn params(max_tokens: u32) -> GenerationParams {
    GenerationParams { max_tokens, temperature: 0.9, top_k: Some(50), seed: 7, ..GenerationParams::default() }
}

fn agent<'a>(network: &'a Network, artifact: &Artifact, config: AgentConfig) -> Agent<'a> {
    let repository = network.repository();
    repository.publish(artifact);
    network.agent(repository.id, artifact.id, config)
}

fn heap(agent: &Agent) -> HeapUse {
    agent.status().heap.expect("this version says it")
}

/// Empties the heap by an upgrade, and lets it grow by so many bytes.
fn limit_memory(network: &Network, agent: &Agent, bytes: u64) {
    network.upgrade(agent.id, Canister::Agent);
    let settings = pocket_ic::CanisterSettings {
        wasm_memory_limit: Some((agent.status().heap_bytes + bytes).into()),
        ..pocket_ic::CanisterSettings::default()
    };
    network.pic.update_canister_settings(agent.id, Some(admin()), settings).expect("settings");
}

fn run(agent: &Agent, args: SubmitJobArgs) -> JobCounts {
    agent.wait(agent.submit_args(args).expect("accepted").job_id).job.counts
}

#[test]
fn a_model_larger_than_the_heap_gives_the_same_tokens() {
    let network = Network::new();
    let artifact = Artifact::layered();
    let expected = artifact.generate(PROMPT, &params(6));
    for (layers, heap_bytes) in [(8, None), (5, Some(5)), (1, Some(0))] {
        let largest = 212_000;
        let heap_bytes = heap_bytes.map(|layers| 600_000 + layers * largest);
        let config =
            AgentConfig { heap_bytes: heap_bytes.map(|bytes| bytes.max(1 << 20)), ..AgentConfig::default() };
        let agent = agent(&network, &artifact, config);
        let done = agent.wait(agent.submit(PROMPT, &params(6)));
        assert_eq!((&done.tokens, &done.text), (&expected.0, &expected.1), "{layers} layers");
        let heap = heap(&agent);
        assert_eq!((heap.layers, heap.shortages), (8, 0));
        assert!(heap.layers_in_heap <= layers.max(3), "{heap:?}");
        assert_eq!(heap.layers_brought > 8, layers < 8, "{heap:?}");
        let draft = agent.submit(PROMPT, &params(6));
        network.pic.tick();
        if let Ok(draft) = agent.draft(draft, Some(2)) {
            assert!(expected.0[draft.first_token as usize..].starts_with(&draft.tokens));
        }
    }
}

/// The heap may not grow as far as the model wants: the agent gets along with less, and the job does not fail.
#[test]
fn a_heap_that_may_not_grow_is_made_do_with() {
    let network = Network::new();
    let artifact = Artifact::large_layers();
    let expected = artifact.generate(PROMPT, &params(3));
    let agent = agent(&network, &artifact, AgentConfig::default());
    let first = agent.wait(agent.submit(PROMPT, &params(3)));
    assert_eq!((first.tokens, heap(&agent).shortages), (expected.0.clone(), 0));
    let all = heap(&agent).weight_bytes;
    limit_memory(&network, &agent, all * 6 / 10);
    let done = agent.wait(agent.submit(PROMPT, &params(3)));
    assert_eq!(
        (done.job.state, &done.tokens),
        (JobState::Done { reason: FinishReason::MaxTokens }, &expected.0)
    );
    let short = heap(&agent);
    assert!(
        short.shortages > 0 && short.budget_bytes < all && short.layers_in_heap < short.layers,
        "{short:?}"
    );
    assert!(done.job.counts.trapped_slices > 0, "{:?}", done.job.counts);
}

/// With room for the codes in nibbles alone, all layers stay in the heap.
#[test]
fn codes_are_packed_before_layers_leave_the_heap() {
    let network = Network::new();
    let artifact = Artifact::large_codes();
    let expected = artifact.generate(PROMPT, &params(3));
    let agent = agent(&network, &artifact, AgentConfig::default());
    let first = agent.wait(agent.submit(PROMPT, &params(3)));
    assert_eq!((first.tokens, heap(&agent).shortages), (expected.0.clone(), 0));
    let all = heap(&agent).weight_bytes;
    limit_memory(&network, &agent, all * 8 / 10);
    let done = agent.wait(agent.submit(PROMPT, &params(3)));
    assert_eq!(
        (done.job.state, &done.tokens),
        (JobState::Done { reason: FinishReason::MaxTokens }, &expected.0)
    );
    let short = heap(&agent);
    assert_eq!((short.shortages, short.layers_in_heap), (1, short.layers), "{short:?}");
    assert!(short.weight_bytes * 10 < all * 7, "{short:?} of {all}");
}

#[test]
fn batch_jobs_share_their_passes_and_keep_their_tokens() {
    let network = Network::new();
    let artifact = Artifact::small();
    let repository = network.repository();
    repository.publish(artifact);
    let prompts = ["A crow", "A hare and a tortoise", "The king", "Once"];
    let run = |batch_width| {
        let config = AgentConfig { batch_width: Some(batch_width), ..AgentConfig::default() };
        let agent = network.agent(repository.id, artifact.id, config);
        agent.wait(agent.submit(PROMPT, &params(1)));
        let of_class = |prompt: &str, params| SubmitJobArgs {
            prompt: prompt.to_owned(),
            params,
            priority: Some(Priority::Batch),
            ..SubmitJobArgs::default()
        };
        let ids = prompts.map(|prompt| agent.submit_args(of_class(prompt, params(20))).unwrap().job_id);
        let mut instructions = 0;
        for (job_id, prompt) in ids.into_iter().zip(prompts) {
            let done = agent.wait(job_id);
            assert_eq!((done.tokens, done.text), artifact.generate(prompt, &params(20)), "{prompt}");
            instructions += done.job.counts.instructions;
        }
        instructions
    };
    let (alone, together) = (run(1), run(4));
    assert!(together < alone, "{together} together, {alone} alone");
}

#[test]
fn a_prompt_that_begins_alike_is_not_computed_again() {
    let network = Network::new();
    let artifact = Artifact::small();
    let agent = agent(&network, artifact, AgentConfig::default());
    let long = format!("{PROMPT}, who had a house in the wood and a hare for a neighbour. ");
    let job = |end: &str, priority| SubmitJobArgs {
        prompt: format!("{long}{end}"),
        params: params(2),
        priority: Some(priority),
        ..SubmitJobArgs::default()
    };
    let first = run(&agent, job("One day", Priority::Standard));
    let second = run(&agent, job("The hare", Priority::Standard));
    assert_eq!(first.reused_tokens, None);
    let reused = second.reused_tokens.expect("the same beginning");
    assert!(reused + 5 > first.prompt_tokens, "{reused} of {}", first.prompt_tokens);
    assert!(second.instructions * 2 < first.instructions, "{second:?} {first:?}");
    let kept = heap(&agent);
    assert!(kept.kept_caches == 2 && kept.kept_bytes > 0, "{kept:?}");
    network.upgrade(agent.id, Canister::Agent);
    assert_eq!(heap(&agent).kept_caches, 0, "an upgrade loses what was kept");
    assert_eq!(run(&agent, job("The hare", Priority::Standard)).reused_tokens, None);
}

#[test]
fn a_context_that_moves_on_gives_the_native_tokens() {
    let network = Network::new();
    let artifact = Artifact::with_template("{{ messages[0].content }}", 256);
    let agent = agent(&network, &artifact, AgentConfig::default());
    let shift = GenerationParams { when_full: Some(ContextPolicy::Shift { keep: 8 }), ..params(600) };
    let job_id: JobId = agent.submit(PROMPT, &shift);
    agent.wait_for_tokens(job_id, 300);
    network.upgrade(agent.id, Canister::Agent);
    let done = agent.wait(job_id);
    assert_eq!(
        (done.tokens.len(), &done.job.state),
        (600, &JobState::Done { reason: FinishReason::MaxTokens })
    );
    assert_eq!((done.tokens, done.text), artifact.generate(PROMPT, &shift));
}
