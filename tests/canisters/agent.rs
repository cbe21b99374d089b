//! The agent: loading, generating, and everything that may interrupt it.

use candid::Principal;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, admin, owner};
use ohms_tests::wasm::Canister;
use shared_types::agent::{
    AgentConfig, AgentError, FinishReason, GenerationParams, JobFailure, JobRecord, JobState, LoadError,
    LoadState, SubmitJobArgs,
};
use shared_types::lifecycle::ModelStatus;

const PROMPT: &str = "Once upon a time there was a fox";

fn params(max_tokens: u32) -> GenerationParams {
    GenerationParams {
        max_tokens,
        temperature: 0.9,
        top_k: Some(50),
        top_p: Some(0.95),
        seed: 7,
        ..GenerationParams::default()
    }
}

/// Slices short enough that a job takes many of them.
fn short_slices() -> AgentConfig {
    AgentConfig { slice_instructions: 60_000_000, load_window: 2, ..AgentConfig::default() }
}

/// Executes rounds until some shards, but not all, are in the agent.
fn wait_until_half_loaded(network: &Network, agent: &Agent, shards: u32) {
    network.wait_for("half a load", || {
        let loaded = agent.status().load_counts.shards_loaded;
        assert!(loaded < shards, "the load must be caught in the middle");
        (loaded > 0).then_some(())
    });
}

#[test]
fn tokens_come_in_slices_and_equal_the_native_engine() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, short_slices());
    let job_id = agent.submit(PROMPT, &params(24));

    // Read as an owner does: only what is new each time.
    let (mut tokens, mut text, mut replies) = (Vec::new(), String::new(), 0);
    let job = network.wait_for("the end of the job", || {
        let progress = agent.progress(job_id, tokens.len() as u32);
        replies += u32::from(!progress.tokens.is_empty());
        tokens.extend(progress.tokens);
        text.push_str(&progress.text);
        progress.job.state.is_final().then_some(progress.job)
    });
    assert_eq!(job.state, JobState::Done { reason: FinishReason::MaxTokens });
    assert_eq!((tokens, text), artifact.generate(PROMPT, &params(24)));
    assert!(replies > 3, "tokens were readable while others were still to come, not {replies} times");
    assert_eq!(job.counts.generated_tokens, 24);
    assert!(job.counts.messages > 3 && job.counts.instructions > 24 * 1_000_000, "{:?}", job.counts);
    assert_eq!(job.counts.trapped_slices, 0);

    let status = agent.status();
    let bytes = artifact.manifest_bytes.len() + artifact.shards.iter().map(Vec::len).sum::<usize>();
    assert_eq!((status.load, status.load_counts.bytes), (LoadState::Loaded, bytes as u64));
    assert!(
        status.in_heap && status.load_counts.instructions > 0 && status.load_counts.build_instructions > 0
    );

    // The same key is the same job; another prompt under it is refused.
    let args = SubmitJobArgs {
        prompt: PROMPT.to_owned(),
        params: params(1),
        key: Some("k".to_owned()),
        ..SubmitJobArgs::default()
    };
    let submit = |args: SubmitJobArgs| -> Result<JobRecord, AgentError> {
        network.update(owner(), agent.id, "submit_job", (args,))
    };
    let first = submit(args.clone()).unwrap();
    assert_eq!(submit(args.clone()).unwrap().job_id, first.job_id);
    let other = SubmitJobArgs { prompt: "another".to_owned(), ..args };
    assert!(matches!(submit(other), Err(AgentError::KeyReused { field, .. }) if field == "prompt"));
}

#[test]
fn an_upgrade_in_the_middle_of_a_job_changes_no_token() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, short_slices());
    let job_id = agent.submit(PROMPT, &params(20));
    let mut before = Vec::new();
    for stop in [3, 11] {
        let progress = agent.wait_for_tokens(job_id, stop);
        assert!(!progress.job.state.is_final(), "the upgrade must come in the middle");
        before = progress.tokens;
        network.upgrade(agent.id, Canister::Agent);
        let kept = agent.progress(job_id, 0).tokens;
        assert!(kept.starts_with(&before), "tokens survive the upgrade");
    }
    let done = agent.wait(job_id);
    assert_eq!(done.job.state, JobState::Done { reason: FinishReason::MaxTokens });
    assert!(done.tokens.starts_with(&before));
    assert_eq!((done.tokens, done.text), artifact.generate(PROMPT, &params(20)));
}

#[test]
fn loading_survives_an_upgrade_and_ends_with_a_reason_when_the_model_is_deprecated() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = &Artifact::large();
    repository.publish(artifact);
    let shards = artifact.shards.len() as u32;
    let config = AgentConfig { load_window: 2, ..AgentConfig::default() };

    // Two agents that load at the same time take more instructions than a round has.
    let upgraded = network.agent(repository.id, artifact.id, config.clone());
    let other = network.agent(repository.id, artifact.id, config.clone());
    other.submit(PROMPT, &params(1));
    let job_id = upgraded.submit(PROMPT, &params(2));
    wait_until_half_loaded(&network, &upgraded, shards);
    let before = upgraded.status().load_counts;
    network.upgrade(upgraded.id, Canister::Agent);
    assert!(upgraded.status().load_counts.shards_loaded >= before.shards_loaded);
    let done = upgraded.wait(job_id);
    assert_eq!(done.tokens, artifact.generate(PROMPT, &params(2)).0);
    // The manifest and each shard came once: the canister was stopped first, so that no answer was lost.
    assert_eq!(upgraded.status().load_counts.messages, shards + 1);

    let late = network.agent(repository.id, artifact.id, config.clone());
    let other = network.agent(repository.id, artifact.id, config);
    other.submit(PROMPT, &params(1));
    let job_id = late.submit(PROMPT, &params(2));
    wait_until_half_loaded(&network, &late, shards);
    repository.deprecate(admin(), artifact.id, "withdrawn").unwrap();
    let reason = LoadError::NotServed { status: ModelStatus::Deprecated };
    let failed = late.wait(job_id);
    assert_eq!(failed.job.state, JobState::Failed { reason: JobFailure::Load(reason.clone()) });
    assert_eq!(late.status().load, LoadState::Failed { reason: reason.clone() });
    // The agent stays usable: the next job asks again and hears the same.
    let again = late.wait(late.submit(PROMPT, &params(2)));
    assert_eq!(again.job.state, JobState::Failed { reason: JobFailure::Load(reason) });
    // An agent that holds every shard goes on with what it has.
    let job = upgraded.wait(upgraded.submit("A crow", &params(1)));
    assert_eq!(job.tokens, artifact.generate("A crow", &params(1)).0);
}

#[test]
fn a_missing_or_silent_repository_is_named() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    let unknown = network.agent(repository.id, artifact.id, AgentConfig::default());
    let job = unknown.wait(unknown.submit(PROMPT, &params(1)));
    assert_eq!(job.job.state, JobState::Failed { reason: JobFailure::Load(LoadError::UnknownModel) });

    // A principal that is no canister never answers with a manifest.
    let nobody = network.agent(Principal::from_slice(&[9; 10]), artifact.id, AgentConfig::default());
    let job = nobody.wait(nobody.submit(PROMPT, &params(1)));
    let silent = matches!(
        job.job.state,
        JobState::Failed { reason: JobFailure::Load(LoadError::NoAnswer { attempts: 5, .. }) }
    );
    assert!(silent, "{:?}", job.job.state);
}

#[test]
fn a_slice_that_traps_is_repeated_and_then_fails_its_job_only() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, AgentConfig::default());
    let loaded: Result<LoadState, AgentError> = network.update(owner(), agent.id, "load_model", ());
    loaded.unwrap();
    network.wait_for("the load", || (agent.status().load == LoadState::Loaded).then_some(()));

    // With a heap too small for the model, building it traps. This is a trap as any other: the message is rolled back.
    // The upgrade empties the heap, which loading has made larger.
    network.upgrade(agent.id, Canister::Agent);
    limit_heap(&network, &agent, agent.status().heap_bytes + (1 << 20));
    let job = agent.wait(agent.submit(PROMPT, &params(2)));
    let trapped =
        matches!(&job.job.state, JobState::Failed { reason: JobFailure::SliceTrapped { attempts: 3, .. } });
    assert!(trapped, "{:?}", job.job.state);
    // Those before them made do with less of the heap each, which does not count as an attempt at the same.
    let (trapped, heap) = (job.job.counts.trapped_slices, agent.status().heap.unwrap());
    assert!(trapped > 3 && trapped == heap.shortages, "{trapped} {heap:?}");

    limit_heap(&network, &agent, 3 << 30);
    let job = agent.wait(agent.submit(PROMPT, &params(2)));
    assert_eq!(job.tokens, artifact.generate(PROMPT, &params(2)).0, "the agent stays usable");
}

fn limit_heap(network: &Network, agent: &Agent, bytes: u64) {
    let settings = pocket_ic::CanisterSettings {
        wasm_memory_limit: Some(bytes.into()),
        ..pocket_ic::CanisterSettings::default()
    };
    network.pic.update_canister_settings(agent.id, Some(admin()), settings).expect("settings");
}

#[test]
fn a_cancelled_job_ends_and_the_next_one_runs() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::shared();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, short_slices());
    let long = agent.submit(PROMPT, &params(200));
    let next = agent.submit("A crow", &params(2));
    agent.wait_for_tokens(long, 2);
    let cancelled: Result<JobRecord, AgentError> = network.update(owner(), agent.id, "cancel_job", (long,));
    assert_eq!(cancelled.unwrap().state, JobState::Cancelled);
    let tokens = agent.progress(long, 0).tokens;
    assert!(tokens.len() >= 2, "the tokens so far stay readable");
    assert_eq!(agent.wait(next).tokens, artifact.generate("A crow", &params(2)).0);
    assert_eq!(agent.progress(long, 0).tokens, tokens);
    let again: Result<JobRecord, AgentError> = network.update(owner(), agent.id, "cancel_job", (long,));
    assert_eq!(again, Err(AgentError::JobEnded { job_id: long }));
}
