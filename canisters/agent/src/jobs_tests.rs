//! Random operations on the jobs against an obvious model of them.

use std::collections::BTreeMap;

use ic_stable_structures::DefaultMemoryImpl;
use proptest::prelude::*;
use shared_types::agent::{ChatRole, LoadError, MAX_KEY_BYTES, MAX_PROMPT_BYTES, Priority};

use super::*;
use crate::memory::Memories;

fn open(memory: &DefaultMemoryImpl) -> Jobs {
    let issuer = Issuer { agent: Principal::management_canister(), model_id: ModelId::ZERO };
    Jobs::open(Memories::of(memory.clone()).jobs, issuer)
}

fn owner() -> Principal {
    Principal::from_slice(&[7; 29])
}

/// Submits without a response cache.
fn submit(jobs: &mut Jobs, args: SubmitJobArgs, now_ns: u64) -> Result<JobRecord, AgentError> {
    jobs.submit(args, owner(), 0, now_ns)
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
                    let result = submit(&mut jobs, args(&format!("p{prompt}"), text.as_deref()), 5);
                    let there = reference.iter().find(|(_, job)| key.is_some() && job.key == key);
                    let open = reference.values().filter(|job| !job.ended).count() as u64;
                    match there {
                        Some((id, job)) if job.prompt == prompt => prop_assert_eq!(result.unwrap().job_id, *id),
                        Some((id, _)) => {
                            let reused = matches!(result, Err(AgentError::KeyReused { job_id, .. }) if job_id == *id);
                            prop_assert!(reused);
                        }
                        None if open >= MAX_OPEN_JOBS_PER_CALLER => {
                            prop_assert_eq!(result, Err(AgentError::CallerQueueFull { open_jobs: open }));
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
                    jobs.slice_done(id, new, 1_000);
                },
                Step::Finish => if let Some(id) = head {
                    jobs.set_state(id, &JobState::Done { reason: FinishReason::MaxTokens }, 9);
                    reference.get_mut(&id).unwrap().ended = true;
                },
                Step::Trap => if let Some(id) = head {
                    let job = reference.get_mut(&id).unwrap();
                    jobs.begin_attempt(id);
                    jobs.trapped(id, "unreachable", true, 9);
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
                prop_assert_eq!(record.receipt.is_some(), job.ended);
                if let Some(sequence) = record.receipt {
                    let (receipt, hash) = jobs.receipts().get(sequence).unwrap();
                    prop_assert_eq!(receipt.hash(), hash);
                    prop_assert_eq!(receipt.job_id, id);
                    prop_assert_eq!(receipt.tokens_sha256, hash_tokens(job.tokens.clone()));
                    prop_assert_eq!(receipt.prompt_sha256, Digest::of(format!("p{}", job.prompt).as_bytes()));
                }
                prop_assert_eq!(record.counts.generated_tokens as usize, job.tokens.len());
            }
        }
    }
}

#[test]
fn progress_pages_concatenate() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let id = submit(&mut jobs, args("p", None), 0).unwrap().job_id;
    let count = MAX_PROGRESS_TOKENS + 5;
    jobs.slice_done(id, (0..count).map(|i| (i, format!("{i},"))).collect(), 1);
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
    let id = submit(&mut jobs, args("p", None), 0).unwrap().job_id;
    for attempt in 1..=MAX_ATTEMPTS {
        assert_eq!(jobs.begin_attempt(id), attempt);
        jobs.trapped(id, "heap out of bounds", true, 1);
    }
    let reason =
        JobFailure::SliceTrapped { attempts: MAX_ATTEMPTS, message: "heap out of bounds".to_owned() };
    assert_eq!(jobs.get(id).unwrap().state, JobState::Failed { reason });
    assert_eq!(jobs.get(id).unwrap().counts.trapped_slices, MAX_ATTEMPTS);
}

/// An attempt after which there is less in the heap is no attempt at the same.
#[test]
fn attempts_under_other_conditions_do_not_count() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let id = submit(&mut jobs, args("p", None), 0).unwrap().job_id;
    for _ in 0..2 * MAX_ATTEMPTS {
        assert_eq!(jobs.begin_attempt(id), 1);
        jobs.trapped(id, "no memory", false, 1);
    }
    let record = jobs.get(id).unwrap();
    assert_eq!((record.state, record.counts.trapped_slices), (JobState::Queued, 2 * MAX_ATTEMPTS));
}

#[test]
fn batch_jobs_share_passes_and_others_are_alone() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let of_class = |priority| SubmitJobArgs { priority: Some(priority), ..args("p", None) };
    let submit = |jobs: &mut Jobs, args| jobs.submit(args, owner(), 0, 0).unwrap().job_id;
    let batch: Vec<JobId> = (0..6).map(|_| submit(&mut jobs, of_class(Priority::Batch))).collect();
    let standard = submit(&mut jobs, of_class(Priority::Standard));
    let budget = SubmitJobArgs { max_instructions: Some(9), ..of_class(Priority::Batch) };
    let budget = submit(&mut jobs, budget);
    assert_eq!(jobs.together(batch[0], 1), [batch[0]]);
    assert_eq!(jobs.together(batch[2], 4), [batch[2], batch[0], batch[1], batch[3]]);
    assert_eq!(jobs.together(standard, 8), [standard]);
    assert_eq!(jobs.together(budget, 8), [budget]);
    assert_eq!(jobs.together(batch[0], 8).len(), 6);

    jobs.pause(batch[1], 1).unwrap();
    jobs.cancel(batch[2], 1).unwrap();
    assert_eq!(jobs.together(batch[0], 8), [batch[0], batch[3], batch[4], batch[5]]);
    // The first attempt is with the others, the next one alone.
    jobs.begin_attempt(batch[0]);
    assert_eq!(jobs.together(batch[0], 2), [batch[0], batch[3]]);
    jobs.trapped(batch[0], "unreachable", true, 1);
    jobs.begin_attempt(batch[0]);
    assert_eq!(jobs.together(batch[0], 8), [batch[0]]);
    assert_eq!(jobs.together(batch[3], 8), [batch[3], batch[4], batch[5]]);
}

/// Receipts read all tokens: what ends at once ends over several messages when there are many.
#[test]
fn one_message_ends_a_bounded_number_of_tokens() {
    let memory = DefaultMemoryImpl::default();
    let mut jobs = open(&memory);
    let each = ENDED_TOKENS / 4 + 1;
    let reason = JobFailure::Load(LoadError::UnknownModel);
    for deadline in [false, true] {
        let ids: Vec<JobId> = (0..8)
            .map(|_| {
                let args = SubmitJobArgs { deadline_ns: deadline.then_some(50), ..args("p", None) };
                let id = submit(&mut jobs, args, 0).unwrap().job_id;
                jobs.slice_done(id, (0..each as u32).map(|token| (token, String::new())).collect(), 1);
                id
            })
            .collect();
        let mut messages = 1;
        if deadline {
            while jobs.end_due(60) {
                messages += 1;
            }
        } else {
            jobs.fail_all(&reason, 9);
            assert!(jobs.queue().failing().is_some());
            // A job that comes now is tried, whatever became of those before.
            let late = submit(&mut jobs, args("late", None), 10).unwrap().job_id;
            jobs = open(&memory);
            while jobs.end_due(11) {
                messages += 1;
            }
            messages += 1;
            assert_eq!((jobs.head(), jobs.queue().failing()), (Some(late), None));
            jobs.cancel(late, 12).unwrap();
        }
        assert_eq!(messages, 3, "three jobs in a message");
        for id in ids {
            let record = jobs.get(id).unwrap();
            let expected = if deadline {
                JobState::Done { reason: FinishReason::Deadline }
            } else {
                JobState::Failed { reason: reason.clone() }
            };
            assert_eq!(record.state, expected);
            assert_eq!(jobs.receipts().get(record.receipt.unwrap()).unwrap().0.tokens, each as u32);
        }
    }
}

#[test]
fn the_oldest_ended_job_makes_room() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let first = submit(&mut jobs, args("p", Some("first")), 0).unwrap().job_id;
    jobs.slice_done(first, vec![(1, "a".to_owned())], 1);
    for _ in 1..=MAX_STORED_JOBS {
        jobs.set_state(jobs.head().unwrap(), &JobState::Cancelled, 1);
        submit(&mut jobs, args("p", None), 0).unwrap();
    }
    assert_eq!(jobs.len(), MAX_STORED_JOBS);
    assert_eq!(jobs.get(first), Err(AgentError::UnknownJob { job_id: first }));
    assert!(jobs.tokens(first).is_empty() && jobs.input(first) == JobInput::Text(String::new()));
    assert_ne!(
        submit(&mut jobs, args("p", Some("first")), 0).unwrap().job_id,
        first,
        "the key is free again"
    );
}

#[test]
fn a_conversation_is_kept_with_its_job() {
    let memory = DefaultMemoryImpl::default();
    let conversation = |content: &str| SubmitJobArgs {
        messages: Some(vec![ChatMessage { role: ChatRole::User, content: content.to_owned() }]),
        ..args("", Some("talk"))
    };
    let id = submit(&mut open(&memory), conversation("hello"), 0).unwrap().job_id;
    let mut jobs = open(&memory);
    assert_eq!(jobs.input(id), JobInput::Messages(conversation("hello").messages.unwrap()));
    assert_eq!(submit(&mut jobs, conversation("hello"), 1).unwrap().job_id, id);
    let reused = |field: &str| {
        Err(AgentError::KeyReused { key: "talk".to_owned(), job_id: id, field: field.to_owned() })
    };
    assert_eq!(submit(&mut jobs, conversation("goodbye"), 1), reused("messages"));
    assert_eq!(submit(&mut jobs, args("hello", Some("talk")), 1), reused("prompt"));
}

#[test]
fn bad_arguments_name_their_field() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let mut field = |args| match submit(&mut jobs, args, 5) {
        Err(AgentError::InvalidField(error)) => error.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(args("", None)), "prompt");
    assert_eq!(field(args(&"x".repeat(MAX_PROMPT_BYTES + 1), None)), "prompt");
    assert_eq!(field(args("p", Some(""))), "key");
    assert_eq!(field(args("p", Some(&"k".repeat(MAX_KEY_BYTES + 1)))), "key");
    let params = GenerationParams { max_tokens: 0, ..GenerationParams::default() };
    assert_eq!(field(SubmitJobArgs { params, ..args("p", None) }), "params.max_tokens");
    assert_eq!(field(SubmitJobArgs { max_instructions: Some(0), ..args("p", None) }), "max_instructions");
    assert_eq!(field(SubmitJobArgs { deadline_ns: Some(5), ..args("p", None) }), "deadline_ns");
}

#[test]
fn a_job_that_an_earlier_version_wrote_is_read() {
    #[derive(Serialize, Deserialize)]
    struct OldRecord {
        job_id: JobId,
        key: Option<String>,
        params: GenerationParams,
        state: JobState,
        counts: JobCounts,
        submitted_at_ns: u64,
        started_at_ns: Option<u64>,
        finished_at_ns: Option<u64>,
    }
    #[derive(Serialize, Deserialize)]
    struct OldEntry {
        record: OldRecord,
        attempts: u32,
    }
    let memory = DefaultMemoryImpl::default();
    let it = Memories::of(memory.clone()).jobs;
    let record = OldRecord {
        job_id: 1,
        key: Some("k".to_owned()),
        params: GenerationParams::default(),
        state: JobState::Running,
        counts: JobCounts { generated_tokens: 1, ..JobCounts::default() },
        submitted_at_ns: 3,
        started_at_ns: Some(4),
        finished_at_ns: None,
    };
    let mut entries = StableBTreeMap::init(it.jobs);
    entries.insert(1u64, Cbor(OldEntry { record, attempts: 0 }));
    StableBTreeMap::init(it.queue.open_jobs).insert(1u64, ());
    StableBTreeMap::init(it.prompts).insert(1u64, "p".to_owned());
    StableBTreeMap::init(it.keys).insert("k".to_owned(), 1u64);
    let mut tokens = StableBTreeMap::init(it.tokens);
    tokens.insert((1u64, 0u32), Cbor(TokenEntry { id: 9, text: "x".to_owned() }));
    StableCell::init(it.last_job, 1u64);

    let mut jobs = open(&memory);
    assert_eq!((jobs.head(), jobs.tokens(1)), (Some(1), vec![9]));
    assert_eq!(submit(&mut jobs, args("p", Some("k")), 5).unwrap().job_id, 1, "its key still finds it");
    jobs.set_state(1, &JobState::Done { reason: FinishReason::MaxTokens }, 7);
    let (receipt, _) = jobs.receipts().get(jobs.receipt_of(1).unwrap()).unwrap();
    assert_eq!((receipt.caller, receipt.tokens), (Principal::anonymous(), 1));
}

#[test]
fn keys_belong_to_their_callers() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let mine = submit(&mut jobs, args("p", Some("k")), 0).unwrap().job_id;
    let other = Principal::from_slice(&[8; 29]);
    let theirs = jobs.submit(args("q", Some("k")), other, 0, 0).unwrap().job_id;
    assert_ne!(mine, theirs);
    assert_eq!(submit(&mut jobs, args("p", Some("k")), 0).unwrap().job_id, mine);
}

#[test]
fn the_queue_is_full_for_one_caller_and_for_all() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    for who in 0..2 {
        let caller = Principal::from_slice(&[who; 10]);
        for _ in 0..MAX_OPEN_JOBS_PER_CALLER {
            jobs.submit(args("p", None), caller, 0, 0).unwrap();
        }
        if who == 0 {
            let full = AgentError::CallerQueueFull { open_jobs: MAX_OPEN_JOBS_PER_CALLER };
            assert_eq!(jobs.submit(args("p", None), caller, 0, 0), Err(full));
        }
    }
    assert_eq!(
        submit(&mut jobs, args("p", None), 0),
        Err(AgentError::QueueFull { open_jobs: MAX_OPEN_JOBS })
    );
}

#[test]
fn pausing_keeps_a_job_and_resuming_lets_it_go_on() {
    let memory = DefaultMemoryImpl::default();
    let mut jobs = open(&memory);
    let first = submit(&mut jobs, args("a", None), 0).unwrap().job_id;
    let second = submit(&mut jobs, args("b", None), 0).unwrap().job_id;
    jobs.begin_attempt(first);
    jobs.slice_done(first, vec![(1, "x".to_owned())], 5);
    assert_eq!(jobs.pause(first, 1).unwrap().state, JobState::Paused);
    let mut jobs = open(&memory);
    assert_eq!(jobs.head(), Some(second), "the next one runs meanwhile");
    jobs.fail_all(&JobFailure::Load(LoadError::UnknownModel), 2);
    assert_eq!(jobs.get(first).unwrap().state, JobState::Paused);
    assert_eq!(jobs.resume(first, 3).unwrap().state, JobState::Queued);
    assert_eq!((jobs.head(), jobs.tokens(first)), (Some(first), vec![1]));
    jobs.set_queue_paused(true);
    assert_eq!(open(&memory).head(), None);
    jobs.set_queue_paused(false);
    assert_eq!(jobs.head(), Some(first));
    jobs.cancel(first, 4).unwrap();
    assert_eq!(jobs.pause(first, 5), Err(AgentError::JobEnded { job_id: first }));
    assert_eq!(jobs.resume(99, 5), Err(AgentError::UnknownJob { job_id: 99 }));
}

#[test]
fn a_shortage_of_cycles_shows_and_passes() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let first = submit(&mut jobs, args("a", None), 0).unwrap().job_id;
    let shortage = CyclesShortage { balance: 3, needed: 9 };
    jobs.set_shortage(Some((first, shortage)), 1);
    assert_eq!(jobs.get(first).unwrap().state, JobState::OutOfCycles(shortage));
    assert_eq!(jobs.queue().shortage(), Some((first, shortage)));
    let urgent = SubmitJobArgs { priority: Some(Priority::RealTime), ..args("b", None) };
    let urgent = submit(&mut jobs, urgent, 2).unwrap().job_id;
    assert_eq!(jobs.head(), Some(urgent));
    jobs.set_shortage(Some((urgent, shortage)), 3);
    assert_eq!(jobs.get(first).unwrap().state, JobState::Queued);
    jobs.set_shortage(None, 4);
    assert_eq!((jobs.get(urgent).unwrap().state, jobs.queue().shortage()), (JobState::Queued, None));
    jobs.set_shortage(Some((urgent, shortage)), 5);
    jobs.cancel(urgent, 6).unwrap();
    assert_eq!(jobs.queue().shortage(), None);
}

#[test]
fn a_deadline_ends_a_job_with_its_tokens() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let args = SubmitJobArgs { deadline_ns: Some(10), ..args("a", None) };
    let id = submit(&mut jobs, args, 0).unwrap().job_id;
    jobs.slice_done(id, vec![(1, "x".to_owned())], 5);
    assert!(!jobs.end_due(9));
    assert_eq!(jobs.head(), Some(id));
    assert!(!jobs.end_due(10));
    assert_eq!(jobs.get(id).unwrap().state, JobState::Done { reason: FinishReason::Deadline });
    assert_eq!((jobs.head(), jobs.tokens(id)), (None, vec![1]));
}

#[test]
fn an_answer_is_given_again_until_it_is_too_old() {
    let memory = DefaultMemoryImpl::default();
    let mut jobs = open(&memory);
    let done = JobState::Done { reason: FinishReason::MaxTokens };
    let answer = |jobs: &mut Jobs, prompt: &str, state: &JobState| {
        let id = submit(jobs, args(prompt, None), 0).unwrap().job_id;
        jobs.taken_up(id, &[3, 4], 0);
        jobs.slice_done(id, vec![(1, "x".to_owned()), (2, "y".to_owned())], 5);
        jobs.set_state(id, state, 100);
        id
    };
    let first = answer(&mut jobs, "p", &done);
    let mut jobs = open(&memory);
    let again =
        |jobs: &mut Jobs, prompt: &str, now| jobs.submit(args(prompt, None), owner(), 50, now).unwrap();

    let hit = again(&mut jobs, "p", 149);
    let source = jobs.get(first).unwrap();
    assert_eq!((hit.state.clone(), hit.repeats), (done.clone(), source.receipt));
    assert_eq!((hit.counts.instructions, hit.counts.messages, hit.counts.prompt_tokens), (0, 0, 2));
    let read = JobProgressArgs { job_id: hit.job_id, after_token: 0 };
    let progress = jobs.progress(&read).unwrap();
    assert_eq!((progress.tokens, progress.text.as_str()), (vec![1, 2], "xy"));
    let (mine, _) = jobs.receipts().get(hit.receipt.unwrap()).unwrap();
    let (theirs, _) = jobs.receipts().get(source.receipt.unwrap()).unwrap();
    assert_eq!((mine.instructions, mine.repeats), (0, source.receipt));
    assert_eq!((mine.tokens_sha256, mine.text_sha256), (theirs.tokens_sha256, theirs.text_sha256));
    assert_eq!(mine.prompt_tokens_sha256, theirs.prompt_tokens_sha256);

    // Age counts from the answer that was computed; other prompts, parameters and callers have none.
    assert_eq!(again(&mut jobs, "p", 150).state, JobState::Queued);
    assert_eq!(again(&mut jobs, "other", 149).state, JobState::Queued);
    let params = GenerationParams { seed: 1, ..GenerationParams::default() };
    let seeded = SubmitJobArgs { params, ..args("p", None) };
    assert_eq!(jobs.submit(seeded, owner(), 50, 149).unwrap().state, JobState::Queued);
    let stranger = Principal::from_slice(&[8; 29]);
    assert_eq!(jobs.submit(args("p", None), stranger, 50, 149).unwrap().state, JobState::Queued);
    assert_eq!(submit(&mut jobs, args("p", None), 149).unwrap().state, JobState::Queued, "no cache");

    // What a budget or a failure ended is no answer.
    answer(&mut jobs, "cut", &JobState::Done { reason: FinishReason::MaxInstructions });
    assert_eq!(again(&mut jobs, "cut", 120).state, JobState::Queued);
    answer(&mut jobs, "cancelled", &JobState::Cancelled);
    assert_eq!(again(&mut jobs, "cancelled", 120).state, JobState::Queued);
}

/// What is asked for stays, what is asked for no more leaves first; the age is that of the computation.
#[test]
fn an_answer_stays_as_long_as_it_is_asked_for() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let cache_ns = 10_000;
    let computed = |jobs: &mut Jobs, prompt: &str, now_ns| {
        let id = jobs.submit(args(prompt, None), owner(), cache_ns, now_ns).unwrap().job_id;
        jobs.slice_done(id, vec![(7, prompt.to_owned())], 5);
        jobs.set_state(id, &JobState::Done { reason: FinishReason::EndOfText }, now_ns);
        jobs.get(id).unwrap().receipt
    };
    let first = computed(&mut jobs, "asked for", 1);
    computed(&mut jobs, "forgotten", 1);
    for now_ns in 2..2 + 2 * MAX_STORED_JOBS {
        let repeated = jobs.submit(args("asked for", None), owner(), cache_ns, now_ns).unwrap();
        assert_eq!((repeated.repeats, repeated.state.is_final()), (first, true), "at {now_ns}");
        computed(&mut jobs, &format!("{now_ns}"), now_ns);
    }
    let forgotten = jobs.submit(args("forgotten", None), owner(), cache_ns, 700).unwrap();
    assert_eq!(forgotten.state, JobState::Queued);
    let too_old = jobs.submit(args("asked for", None), owner(), cache_ns, 1 + cache_ns).unwrap();
    assert_eq!((too_old.state, too_old.repeats), (JobState::Queued, None));
    assert!(jobs.answers.len() <= MAX_STORED_JOBS);
}

#[test]
fn an_answer_goes_with_its_job() {
    let mut jobs = open(&DefaultMemoryImpl::default());
    let first = submit(&mut jobs, args("p", None), 0).unwrap().job_id;
    jobs.set_state(first, &JobState::Done { reason: FinishReason::EndOfText }, 1);
    for _ in 0..MAX_STORED_JOBS {
        let id = submit(&mut jobs, args("q", None), 0).unwrap().job_id;
        jobs.set_state(id, &JobState::Cancelled, 1);
    }
    assert_eq!(jobs.answers.len(), 0);
    let job = jobs.submit(args("p", None), owner(), 1_000, 2).unwrap();
    assert_eq!((job.state, job.repeats), (JobState::Queued, None));
}
