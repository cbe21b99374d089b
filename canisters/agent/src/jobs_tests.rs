//! Random operations on the jobs against an obvious model of them.

use std::collections::BTreeMap;

use ic_stable_structures::DefaultMemoryImpl;
use proptest::prelude::*;
use shared_types::agent::{
    ChatRole, FinishReason, GenerationParams, LoadError, MAX_KEY_BYTES, MAX_PROMPT_BYTES,
};

use super::*;
use crate::memory::Memories;

fn open(memory: &DefaultMemoryImpl) -> Jobs {
    let it = Memories::of(memory.clone());
    Jobs::open(it.jobs, it.open_jobs, it.prompts, it.messages, it.tokens, it.keys, it.last_job)
}

fn args(prompt: &str, key: Option<&str>) -> SubmitJobArgs {
    SubmitJobArgs { prompt: prompt.to_owned(), key: key.map(str::to_owned), ..SubmitJobArgs::default() }
}

#[derive(Debug, Clone)]
enum Step {
    Submit { key: Option<u8>, prompt: u8 },
    Slice(u8),
    Finish,
    Trap,
    Cancel(u64),
    FailAll,
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop::option::of(0u8..4), 0u8..2).prop_map(|(key, prompt)| Step::Submit { key, prompt }),
        4 => (0u8..4).prop_map(Step::Slice),
        2 => Just(Step::Finish),
        2 => Just(Step::Trap),
        1 => (1u64..12).prop_map(Step::Cancel),
        1 => Just(Step::FailAll),
        1 => Just(Step::Upgrade),
    ]
}

#[derive(Debug, Clone)]
struct Expected {
    prompt: u8,
    key: Option<u8>,
    tokens: Vec<u32>,
    traps: u32,
    ended: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn jobs_behave_like_their_reference(steps in prop::collection::vec(step(), 1..80)) {
        let memory = DefaultMemoryImpl::default();
        let mut jobs = open(&memory);
        let mut reference: BTreeMap<JobId, Expected> = BTreeMap::new();
        let failure = JobFailure::Load(LoadError::UnknownModel);
        for step in steps {
            let head = reference.iter().find(|(_, job)| !job.ended).map(|(id, _)| *id);
            match step {
                Step::Submit { key, prompt } => {
                    let text = key.map(|key| format!("k{key}"));
                    let result = jobs.submit(args(&format!("p{prompt}"), text.as_deref()), 5);
                    let there = reference.iter().find(|(_, job)| key.is_some() && job.key == key);
                    let open = reference.values().filter(|job| !job.ended).count() as u64;
                    match there {
                        Some((id, job)) if job.prompt == prompt => prop_assert_eq!(result.unwrap().job_id, *id),
                        Some((id, _)) => {
                            let reused = matches!(result, Err(AgentError::KeyReused { job_id, .. }) if job_id == *id);
                            prop_assert!(reused);
                        }
                        None if open >= MAX_OPEN_JOBS => {
                            prop_assert_eq!(result, Err(AgentError::QueueFull { open_jobs: open }));
                        }
                        None => {
                            let id = reference.len() as u64 + 1;
                            prop_assert_eq!(result.unwrap().job_id, id);
                            let new = Expected { prompt, key, tokens: vec![], traps: 0, ended: false };
                            reference.insert(id, new);
                        }
                    }
                }
                Step::Slice(count) => if let Some(id) = head {
                    let job = reference.get_mut(&id).unwrap();
                    jobs.begin_attempt(id);
                    let new: Vec<_> = (0..u32::from(count)).map(|i| (i + 7, format!("<{i}>"))).collect();
                    job.tokens.extend(new.iter().map(|(token, _)| token));
                    job.traps = 0;
                    jobs.slice_done(id, 3, new, 1_000);
                },
                Step::Finish => if let Some(id) = head {
                    jobs.set_state(id, &JobState::Done { reason: FinishReason::MaxTokens }, 9);
                    reference.get_mut(&id).unwrap().ended = true;
                },
                Step::Trap => if let Some(id) = head {
                    let job = reference.get_mut(&id).unwrap();
                    jobs.begin_attempt(id);
                    jobs.trapped(id, "unreachable", 9);
                    job.traps += 1;
                    job.ended = job.traps == MAX_ATTEMPTS;
                },
                Step::Cancel(id) => {
                    let result = jobs.cancel(id, 9);
                    match reference.get_mut(&id) {
                        None => prop_assert_eq!(result, Err(AgentError::UnknownJob { job_id: id })),
                        Some(job) if job.ended => prop_assert_eq!(result, Err(AgentError::JobEnded { job_id: id })),
                        Some(job) => {
                            prop_assert_eq!(result.unwrap().state, JobState::Cancelled);
                            job.ended = true;
                        }
                    }
                }
                Step::FailAll => {
                    jobs.fail_all(&failure, 9);
                    for job in reference.values_mut() {
                        job.ended = true;
                    }
                }
                Step::Upgrade => jobs = open(&memory),
            }
            let head = reference.iter().find(|(_, job)| !job.ended).map(|(id, _)| *id);
            prop_assert_eq!(jobs.head(), head);
            prop_assert_eq!(jobs.len(), reference.len() as u64);
            for (&id, job) in &reference {
                let record = jobs.get(id).unwrap();
                prop_assert_eq!(record.state.is_final(), job.ended);
                prop_assert_eq!(record.finished_at_ns.is_some(), job.ended);
                prop_assert_eq!(jobs.tokens(id), job.tokens.clone());
                prop_assert_eq!(record.counts.generated_tokens as usize, job.tokens.len());
            }
        }
    }
}

#[test]
fn progress_pages_concatenate() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let id = jobs.submit(args("p", None), 0).unwrap().job_id;
    let count = MAX_PROGRESS_TOKENS + 5;
    jobs.slice_done(id, 1, (0..count).map(|i| (i, format!("{i},"))).collect(), 1);
    let mut seen = (Vec::new(), String::new());
    let mut after_token = 0;
    while after_token < count {
        let page = jobs.progress(&JobProgressArgs { job_id: id, after_token }).unwrap();
        assert!(page.next_token > after_token);
        seen.0.extend(page.tokens);
        seen.1.push_str(&page.text);
        after_token = page.next_token;
    }
    assert_eq!(seen.0, (0..count).collect::<Vec<_>>());
    let texts: Vec<String> = (0..count).map(|i| format!("{i},")).collect();
    assert_eq!(seen.1, texts.concat());
    let beyond = jobs.progress(&JobProgressArgs { job_id: id, after_token: u32::MAX }).unwrap();
    assert_eq!((beyond.tokens.len(), beyond.next_token), (0, count));
}

#[test]
fn a_failure_names_the_trap() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let id = jobs.submit(args("p", None), 0).unwrap().job_id;
    for attempt in 1..=MAX_ATTEMPTS {
        assert_eq!(jobs.begin_attempt(id), attempt);
        jobs.trapped(id, "heap out of bounds", 1);
    }
    let reason =
        JobFailure::SliceTrapped { attempts: MAX_ATTEMPTS, message: "heap out of bounds".to_owned() };
    assert_eq!(jobs.get(id).unwrap().state, JobState::Failed { reason });
    assert_eq!(jobs.get(id).unwrap().counts.trapped_slices, MAX_ATTEMPTS);
}

#[test]
fn the_oldest_ended_job_makes_room() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let first = jobs.submit(args("p", Some("first")), 0).unwrap().job_id;
    jobs.slice_done(first, 1, vec![(1, "a".to_owned())], 1);
    for _ in 1..=MAX_STORED_JOBS {
        jobs.set_state(jobs.head().unwrap(), &JobState::Cancelled, 1);
        jobs.submit(args("p", None), 0).unwrap();
    }
    assert_eq!(jobs.len(), MAX_STORED_JOBS);
    assert_eq!(jobs.get(first), Err(AgentError::UnknownJob { job_id: first }));
    assert!(jobs.tokens(first).is_empty() && jobs.input(first) == JobInput::Text(String::new()));
    assert_ne!(jobs.submit(args("p", Some("first")), 0).unwrap().job_id, first, "the key is free again");
}

#[test]
fn a_conversation_is_kept_with_its_job() {
    let memory = DefaultMemoryImpl::default();
    let conversation = |content: &str| SubmitJobArgs {
        messages: Some(vec![ChatMessage { role: ChatRole::User, content: content.to_owned() }]),
        ..args("", Some("talk"))
    };
    let id = open(&memory).submit(conversation("hello"), 0).unwrap().job_id;
    let mut jobs = open(&memory);
    assert_eq!(jobs.input(id), JobInput::Messages(conversation("hello").messages.unwrap()));
    assert_eq!(jobs.submit(conversation("hello"), 1).unwrap().job_id, id);
    let reused = |field: &str| {
        Err(AgentError::KeyReused { key: "talk".to_owned(), job_id: id, field: field.to_owned() })
    };
    assert_eq!(jobs.submit(conversation("goodbye"), 1), reused("messages"));
    assert_eq!(jobs.submit(args("hello", Some("talk")), 1), reused("prompt"));
}

#[test]
fn bad_arguments_name_their_field() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let mut field = |args| match jobs.submit(args, 0) {
        Err(AgentError::InvalidField(error)) => error.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(args("", None)), "prompt");
    assert_eq!(field(args(&"x".repeat(MAX_PROMPT_BYTES + 1), None)), "prompt");
    assert_eq!(field(args("p", Some(""))), "key");
    assert_eq!(field(args("p", Some(&"k".repeat(MAX_KEY_BYTES + 1)))), "key");
    let params = GenerationParams { max_tokens: 0, ..GenerationParams::default() };
    assert_eq!(field(SubmitJobArgs { params, ..args("p", None) }), "params.max_tokens");
}
