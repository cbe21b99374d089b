//! The queue: drafts, classes, pauses, budgets, cycles and slices of every size.

use std::time::Duration;

use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, admin, owner};
use ohms_tests::wasm::Canister;
use shared_types::agent::{
    AgentConfig, AgentError, FinishReason, GenerationParams, JobCounts, JobFailure, JobState, LoadState,
    LogitBias, MAX_SLICE_INSTRUCTIONS, MIN_SLICE_INSTRUCTIONS, Priority, SubmitJobArgs,
};

const PROMPT: &str = "Once upon a time there was a fox";

fn params(max_tokens: u32) -> GenerationParams {
    GenerationParams { max_tokens, temperature: 0.9, top_k: Some(50), seed: 7, ..GenerationParams::default() }
}

fn short_slices() -> AgentConfig {
    AgentConfig { slice_instructions: 60_000_000, load_window: 2, ..AgentConfig::default() }
}

fn job(prompt: &str, max_tokens: u32) -> SubmitJobArgs {
    SubmitJobArgs { prompt: prompt.to_owned(), params: params(max_tokens), ..SubmitJobArgs::default() }
}

fn agent(network: &Network, config: AgentConfig) -> Agent<'_> {
    let repository = network.repository();
    repository.publish(Artifact::shared());
    network.agent(repository.id, Artifact::shared().id, config)
}

#[test]
fn a_draft_says_what_the_certified_run_will() {
    let network = Network::new();
    let agent = agent(&network, short_slices());
    let (expected, text) = Artifact::shared().generate(PROMPT, &params(40));
    let job_id = agent.submit(PROMPT, &params(40));
    assert_eq!(agent.draft(job_id, Some(1)), Err(AgentError::NotInHeap));
    assert!(matches!(agent.draft(job_id, Some(0)), Err(AgentError::InvalidField(_))));
    agent.wait_for_tokens(job_id, 3);

    let before = agent.progress(job_id, 0);
    let draft = agent.draft(job_id, Some(5)).unwrap();
    let at = before.next_token as usize;
    assert_eq!((draft.first_token as usize, draft.slices), (at, before.job.counts.messages));
    assert_eq!(draft.tokens, expected[at..at + 5]);
    assert!(text.starts_with(&(before.text + &draft.text)));
    assert_eq!(agent.draft(job_id, Some(5)).unwrap(), draft, "a draft leaves no trace");

    // The state moves on: the next draft begins later, and the first one is certified by then.
    agent.wait_for_tokens(job_id, draft.first_token + 4);
    let after = agent.progress(job_id, 0);
    let moved = agent.draft(job_id, None).unwrap();
    assert!(moved.first_token > draft.first_token && moved.slices > draft.slices);
    assert!(after.next_token >= moved.first_token);
    let certified = &after.tokens[at..];
    let both = certified.len().min(draft.tokens.len());
    assert!(both >= 4);
    assert_eq!(certified[..both], draft.tokens[..both]);
    // Without a limit it goes as far as a query may.
    let from = moved.first_token as usize;
    assert_eq!((&moved.tokens[..], moved.finished), (&expected[from..], Some(FinishReason::MaxTokens)));
    assert!(moved.instructions < 5_000_000_000);
    assert_eq!(agent.wait(job_id).tokens, expected);
    assert_eq!(agent.draft(job_id, None), Err(AgentError::JobEnded { job_id }));

    // A job that waits has a draft too, from its beginning.
    let waits = agent.submit_args(job("A crow", 400)).unwrap().job_id;
    let first = agent.draft(waits, Some(2)).unwrap();
    assert_eq!(
        first.tokens,
        Artifact::shared().generate("A crow", &params(400)).0[first.first_token as usize..][..2]
    );
}

#[test]
fn a_draft_stops_within_the_limit_of_a_query() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = &Artifact::large();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, AgentConfig::default());
    let job_id = agent.submit(PROMPT, &params(200));
    agent.wait_for_tokens(job_id, 1);
    let draft = agent.draft(job_id, None).unwrap();
    assert_eq!(draft.finished, None, "the end is out of reach");
    assert!(!draft.tokens.is_empty() && draft.instructions <= 4_500_000_000, "{draft:?}");
    agent.on_job("cancel_job", job_id).unwrap();
}

#[test]
fn urgent_jobs_come_first_and_paused_ones_not_at_all() {
    let network = Network::new();
    let agent = agent(&network, short_slices());
    let expected = |prompt, count| Artifact::shared().generate(prompt, &params(count)).0;
    let slow =
        agent.submit_args(SubmitJobArgs { priority: Some(Priority::Batch), ..job(PROMPT, 30) }).unwrap();
    agent.wait_for_tokens(slow.job_id, 2);
    let urgent = SubmitJobArgs { priority: Some(Priority::RealTime), ..job("A crow", 4) };
    let urgent = agent.submit_args(urgent).unwrap().job_id;
    assert_eq!(agent.wait(urgent).tokens, expected("A crow", 4));
    let interrupted = agent.progress(slow.job_id, 0);
    assert!(!interrupted.job.state.is_final(), "it was interrupted");

    // Paused at any slice, over an upgrade, it goes on where it was.
    assert_eq!(agent.on_job("pause_job", slow.job_id).unwrap().state, JobState::Paused);
    let kept = agent.progress(slow.job_id, 0).tokens;
    let next = agent.submit_args(job("A hare", 3)).unwrap().job_id;
    assert_eq!(agent.wait(next).tokens, expected("A hare", 3));
    network.upgrade(agent.id, Canister::Agent);
    for _ in 0..20 {
        network.pic.tick();
    }
    // A slice that was under way when the pause came may have added its tokens.
    let paused = agent.progress(slow.job_id, 0);
    assert_eq!(paused.job.state, JobState::Paused);
    assert!(paused.tokens.starts_with(&kept) && paused.tokens.len() < 30);
    agent.on_job("resume_job", slow.job_id).unwrap();
    assert_eq!(agent.wait(slow.job_id).tokens, expected(PROMPT, 30));

    let paused: Result<(), AgentError> = network.update(owner(), agent.id, "pause_queue", ());
    paused.unwrap();
    assert!(agent.status().paused);
    let waits = agent.submit_args(job("A fox", 2)).unwrap().job_id;
    for _ in 0..20 {
        network.pic.tick();
    }
    assert_eq!(agent.progress(waits, 0).job.state, JobState::Queued);
    let resumed: Result<(), AgentError> = network.update(owner(), agent.id, "resume_queue", ());
    resumed.unwrap();
    assert_eq!(agent.wait(waits).tokens, expected("A fox", 2));
}

#[test]
fn budgets_end_a_job_with_its_tokens() {
    let network = Network::new();
    let agent = agent(&network, short_slices());
    let expected = Artifact::shared().generate(PROMPT, &params(200)).0;
    let budget = SubmitJobArgs { max_instructions: Some(400_000_000), ..job(PROMPT, 200) };
    let cut = agent.wait(agent.submit_args(budget).unwrap().job_id);
    assert_eq!(cut.job.state, JobState::Done { reason: FinishReason::MaxInstructions });
    assert!(!cut.tokens.is_empty() && expected.starts_with(&cut.tokens) && cut.tokens.len() < 200);
    let used = cut.job.counts.instructions;
    assert!((200_000_000..420_000_000).contains(&used), "{used}");

    let now = network.pic.get_time().as_nanos_since_unix_epoch();
    let late = SubmitJobArgs { deadline_ns: Some(now + 8_000_000_000), ..job(PROMPT, 200) };
    let late = agent.wait(agent.submit_args(late).unwrap().job_id);
    assert_eq!(late.job.state, JobState::Done { reason: FinishReason::Deadline });
    assert!(expected.starts_with(&late.tokens) && late.tokens.len() < 200);
    let past = SubmitJobArgs { deadline_ns: Some(now), ..job(PROMPT, 1) };
    assert!(
        matches!(agent.submit_args(past), Err(AgentError::InvalidField(error)) if error.field == "deadline_ns")
    );
}

#[test]
fn without_cycles_the_queue_stops_says_so_and_goes_on_after_a_top_up() {
    let network = Network::new();
    let repository = network.repository();
    repository.publish(Artifact::shared());
    let agent = network.agent(repository.id, Artifact::shared().id, short_slices());
    let first = agent.wait(agent.submit(PROMPT, &params(3)));
    assert_eq!(first.job.state, JobState::Done { reason: FinishReason::MaxTokens });

    // A freezing threshold so long that what is left above it is less than a slice may cost.
    let frozen = |seconds: u64| {
        let settings = pocket_ic::CanisterSettings {
            freezing_threshold: Some(seconds.into()),
            ..pocket_ic::CanisterSettings::default()
        };
        network.pic.update_canister_settings(agent.id, Some(admin()), settings).expect("settings");
    };
    let status = network.pic.canister_status(agent.id, Some(admin())).unwrap();
    let per_day: u128 = status.idle_cycles_burned_per_day.0.try_into().unwrap();
    let balance = network.pic.cycle_balance(agent.id);
    let spare = 110_000_000_000;
    frozen(((balance - spare) * 86_400 / per_day) as u64);
    let job_id = agent.submit(PROMPT, &params(4));
    let shortage = network.wait_patiently("a shortage of cycles", || agent.status().out_of_cycles);
    assert!(shortage.balance < shortage.needed, "{shortage:?}");
    assert_eq!(agent.progress(job_id, 0).job.state, JobState::OutOfCycles(shortage));
    for _ in 0..30 {
        network.pic.advance_time(Duration::from_secs(10));
        network.pic.tick();
    }
    assert!(matches!(agent.progress(job_id, 0).job.state, JobState::OutOfCycles(_)));

    // A job that is paused waits for its owner, not for cycles.
    agent.on_job("pause_job", job_id).unwrap();
    network.pic.tick();
    network.pic.tick();
    assert_eq!(agent.status().out_of_cycles, None);
    agent.on_job("resume_job", job_id).unwrap();
    network.wait_patiently("the shortage again", || agent.status().out_of_cycles);

    network.pic.add_cycles(agent.id, 1_000_000_000_000);
    let done = network.wait_patiently("the end of the job", || {
        agent.try_progress(job_id, 0).filter(|progress| progress.job.state.is_final())
    });
    assert_eq!(done.tokens, Artifact::shared().generate(PROMPT, &params(4)).0);
    assert_eq!((agent.status().out_of_cycles, done.job.counts.trapped_slices), (None, 0));
}

#[test]
fn a_prompt_near_the_context_window_never_meets_the_limit() {
    let artifact = &Artifact::long_context();
    let loaded = artifact.load();
    // As many tokens as leave room for four.
    let mut prompt = "Once upon a time ".repeat(500);
    let tokens = |prompt: &str| loaded.tokenizer.encode_prompt(prompt, None).unwrap().len();
    while tokens(&prompt) > 2_044 {
        prompt.truncate(prompt.trim_end().rfind(' ').unwrap() + 1);
    }
    let expected = artifact.generate(&prompt, &params(100));
    let network = Network::new();
    let repository = network.repository();
    repository.publish(artifact);
    for slice_instructions in [MIN_SLICE_INSTRUCTIONS, 700_000_000, MAX_SLICE_INSTRUCTIONS] {
        let config = AgentConfig { slice_instructions, ..AgentConfig::default() };
        let agent = network.agent(repository.id, artifact.id, config);
        let job_id = agent.submit(&prompt, &params(100));
        let mut before = JobCounts::default();
        let done = network.wait_for("the end of the job", || {
            let progress = agent.progress(job_id, 0);
            let counts = progress.job.counts;
            let slices = u64::from(counts.messages - before.messages);
            let used = counts.instructions - before.instructions;
            // The first slice reads the prompt, which is no step of the engine.
            let most = slices * slice_instructions + if before.messages == 0 { 50_000_000 } else { 0 };
            assert!(used <= most, "{used} instructions in {slices} slices at {counts:?}");
            before = counts;
            progress.job.state.is_final().then_some(progress)
        });
        assert_eq!(done.job.state, JobState::Done { reason: FinishReason::ContextFull });
        assert_eq!((&done.tokens, &done.text), (&expected.0, &expected.1));
        let counts = done.job.counts;
        assert_eq!(counts.trapped_slices, 0);
        assert!(counts.prompt_tokens > 2_000, "{counts:?}");
        let several = counts.instructions > slice_instructions;
        assert_eq!(counts.messages > 1, several, "{counts:?}");
    }
}

#[test]
fn bad_input_is_refused_or_fails_with_its_reason_and_the_agent_stays_usable() {
    let network = Network::new();
    let agent = agent(&network, short_slices());
    let loaded: Result<LoadState, AgentError> = network.update(owner(), agent.id, "load_model", ());
    loaded.unwrap();
    let field = |args| match agent.submit_args(args) {
        Err(AgentError::InvalidField(error)) => error.field,
        other => panic!("{other:?}"),
    };
    let with = |change: fn(&mut GenerationParams)| {
        let mut args = job(PROMPT, 2);
        change(&mut args.params);
        args
    };
    assert_eq!(field(job("", 2)), "prompt");
    assert_eq!(field(job(&"x".repeat(70_000), 2)), "prompt");
    assert_eq!(field(with(|params| params.max_tokens = 0)), "params.max_tokens");
    assert_eq!(field(with(|params| params.temperature = f32::NAN)), "params.temperature");
    assert_eq!(field(with(|params| params.top_k = Some(0))), "params.top_k");
    assert_eq!(field(with(|params| params.top_p = Some(-0.5))), "params.top_p");
    assert_eq!(field(SubmitJobArgs { max_instructions: Some(0), ..job(PROMPT, 2) }), "max_instructions");
    for job_id in [0, 7, u64::MAX - 1] {
        let unknown = AgentError::UnknownJob { job_id };
        for method in ["cancel_job", "pause_job", "resume_job"] {
            assert_eq!(agent.on_job(method, job_id), Err(unknown.clone()), "{method}");
        }
        assert_eq!(agent.draft(job_id, None), Err(unknown));
    }
    let long = agent.wait(agent.submit(&"fox ".repeat(1_000), &params(2)));
    let too_long = matches!(
        long.job.state,
        JobState::Failed { reason: JobFailure::PromptTooLong { context: 256, tokens: 257.. } }
    );
    assert!(too_long, "{:?}", long.job.state);
    // A token that the vocabulary has not.
    let unknown = with(|params| params.logit_bias = Some(vec![LogitBias { token: u32::MAX, bias: 1.0 }]));
    let unknown = agent.wait(agent.submit_args(unknown).unwrap().job_id).job.state;
    assert!(matches!(unknown, JobState::Failed { reason: JobFailure::Engine { .. } }), "{unknown:?}");
    // The highest seed and a control character are as good as any other.
    let odd = SubmitJobArgs {
        prompt: "\u{0}\u{1F98A}".to_owned(),
        params: GenerationParams { seed: u64::MAX, ..params(2) },
        ..SubmitJobArgs::default()
    };
    let expected = Artifact::shared().generate(&odd.prompt, &odd.params).0;
    assert_eq!(agent.wait(agent.submit_args(odd).unwrap().job_id).tokens, expected);
}

#[test]
fn pause_upgrade_resume_and_cancel_at_any_slice() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::small();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, short_slices());
    let expected = artifact.generate(PROMPT, &params(24)).0;
    agent.wait(agent.submit(PROMPT, &params(1)));
    for rounds in 0..6 {
        let job_id = agent.submit(PROMPT, &params(24));
        for _ in 0..rounds {
            network.pic.tick();
        }
        let Ok(paused) = agent.on_job("pause_job", job_id) else {
            assert_eq!(agent.progress(job_id, 0).tokens, expected, "it had ended");
            continue;
        };
        assert_eq!(paused.state, JobState::Paused);
        if rounds % 2 == 0 {
            network.upgrade(agent.id, Canister::Agent);
        }
        agent.on_job("resume_job", job_id).unwrap();
        network.pic.tick();
        let Ok(paused) = agent.on_job("pause_job", job_id) else { continue };
        assert_eq!(paused.state, JobState::Paused);
        assert_eq!(agent.on_job("pause_job", job_id).unwrap().state, JobState::Paused, "once is enough");
        if rounds % 3 == 0 {
            assert_eq!(agent.on_job("cancel_job", job_id).unwrap().state, JobState::Cancelled);
            let kept = agent.progress(job_id, 0).tokens;
            assert!(expected.starts_with(&kept));
            assert_eq!(agent.on_job("resume_job", job_id), Err(AgentError::JobEnded { job_id }));
        } else {
            agent.on_job("resume_job", job_id).unwrap();
            let done = agent.wait(job_id);
            assert_eq!((done.tokens, done.job.counts.trapped_slices), (expected.clone(), 0));
        }
    }
    let done = agent.wait(agent.submit(PROMPT, &params(24)));
    assert_eq!(done.tokens, expected);
}
