use super::*;
use std::collections::BTreeMap;

use candid::Principal;
use ic_stable_structures::DefaultMemoryImpl;
use proptest::prelude::*;
use shared_types::agent::{GenerationParams, JobCounts, JobState, Priority};

use crate::memory::Memories;

const RUN: (u32, u32) = (7, 5);

fn job(job_id: JobId, now_ns: u64) -> JobRecord {
    let counts = JobCounts { prompt_tokens: RUN.0, generated_tokens: RUN.1, ..JobCounts::default() };
    JobRecord {
        job_id,
        caller: Principal::anonymous(),
        key: None,
        priority: Priority::Standard,
        max_instructions: None,
        deadline_ns: None,
        params: GenerationParams::default(),
        state: JobState::Cancelled,
        counts,
        submitted_at_ns: 0,
        started_at_ns: None,
        finished_at_ns: Some(now_ns),
        receipt: None,
        repeats: None,
    }
}

fn open(memory: &DefaultMemoryImpl) -> Quota {
    Quota::open(Memories::of(memory.clone()).jobs.quota)
}

#[test]
fn the_most_that_a_job_takes_covers_prompt_and_answer() {
    assert_eq!(most_tokens(10, 0, None, 5), 10 + TEMPLATE_TOKENS + 5);
    assert_eq!(most_tokens(10_000, 3, Some(256), 5), 256 + 5);
    assert_eq!(most_tokens(usize::MAX, 0, Some(256), u32::MAX), 256 + u64::from(u32::MAX));
}

#[test]
fn a_reservation_that_is_not_answered_is_given_up_and_one_that_may_be_held_is_settled() {
    let memory = DefaultMemoryImpl::default();
    let mut quota = open(&memory);
    quota.want(1, 100, 0);
    let mut now = 0;
    for attempt in 1..=MAX_RESERVE_ATTEMPTS {
        assert_eq!(quota.due(|_| false, now), [1]);
        assert!(matches!(quota.begin(1), Some(Due::Reserve { tokens: 100, .. })));
        let verdict = quota.failed(1, "no answer".to_owned(), now);
        let refused = Verdict::Refused("no answer".to_owned());
        assert_eq!(verdict == refused, attempt == MAX_RESERVE_ATTEMPTS, "attempt {attempt}");
        assert!(quota.due(|_| false, now).is_empty(), "it waits");
        now += MAX_BACKOFF_NS;
    }
    // The job has failed; one of the calls may have reserved.
    quota.job_ended(&job(1, now), now);
    assert!(matches!(quota.begin(1), Some(Due::Reserve { .. })));
    assert_eq!(quota.reserved(1, 9, now), Verdict::Nothing);
    let Some(Due::Settle(9, usage)) = quota.begin(1) else { panic!("it is to be settled") };
    assert_eq!(usage.tokens(), u64::from(RUN.0 + RUN.1));
    // `econ` is gone for good: it is forgotten there as well.
    while !quota.is_empty() {
        quota.failed(1, "no answer".to_owned(), now);
        now += 3_600 * SECOND;
        assert!(now < 4 * REMEMBERED_NS, "it is kept for ever");
    }
}

/// `econ` as it is: by key, what was reserved and what was settled.
#[derive(Default)]
struct Econ {
    reserved: BTreeMap<JobId, u64>,
    settled: BTreeMap<u64, u64>,
    refuses: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Want,
    End(u64),
    /// A call of the job at this position, and whether it arrives and its answer does.
    Call(usize, bool, bool),
    Refuse(bool),
    Wait(u64),
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Want),
        3 => (1u64..8).prop_map(Step::End),
        12 => (0usize..8, any::<bool>(), any::<bool>()).prop_map(|(at, arrives, answered)| Step::Call(at, arrives, answered)),
        1 => any::<bool>().prop_map(Step::Refuse),
        2 => (1u64..200).prop_map(Step::Wait),
        1 => Just(Step::Upgrade),
    ]
}

proptest! {
    /// A job runs only while its reservation holds, and whatever was reserved is settled, once, with what the job took.
    #[test]
    fn what_is_held_is_settled_whatever_is_lost(steps in prop::collection::vec(step(), 0..120)) {
        let memory = DefaultMemoryImpl::default();
        let (mut quota, mut econ) = (open(&memory), Econ::default());
        let (mut now, mut last) = (1u64, 0u64);
        // Jobs that have not ended: whether they may run.
        let mut jobs: BTreeMap<JobId, bool> = BTreeMap::new();
        let call = |quota: &mut Quota, econ: &mut Econ, jobs: &mut BTreeMap<JobId, bool>, job_id: JobId, arrives: bool, answered: bool, now: u64| {
            let Some(due) = quota.begin(job_id) else { return };
            let answer = match due {
                Due::Reserve { .. } if econ.refuses && !econ.reserved.contains_key(&job_id) => Err("refused"),
                Due::Reserve { .. } => {
                    if arrives {
                        let next = econ.reserved.len() as u64;
                        econ.reserved.entry(job_id).or_insert(next);
                    }
                    Ok(econ.reserved.get(&job_id).copied())
                }
                Due::Settle(reservation, usage) => {
                    if arrives {
                        let settled = *econ.settled.entry(reservation).or_insert(usage.tokens());
                        assert_eq!(settled, usage.tokens());
                    }
                    Err("settled")
                }
            };
            let verdict = if arrives && answered {
                match answer {
                    Ok(Some(reservation)) => quota.reserved(job_id, reservation, now),
                    Ok(None) => Verdict::Nothing,
                    Err(reason) => quota.over(job_id, reason.to_owned()),
                }
            } else {
                quota.failed(job_id, "lost".to_owned(), now)
            };
            match verdict {
                Verdict::Nothing => {}
                Verdict::Funded(_) => {
                    assert!(econ.reserved.contains_key(&job_id));
                    assert_eq!(jobs.insert(job_id, true), Some(false), "an open job is funded once");
                }
                Verdict::Refused(_) => {
                    assert_eq!(jobs.remove(&job_id), Some(false), "a job that runs is not refused");
                    quota.job_ended(&job(job_id, now), now);
                }
            }
        };
        for step in steps {
            match step {
                Step::Want => {
                    last += 1;
                    quota.want(last, 100, now);
                    jobs.insert(last, false);
                }
                Step::End(job_id) => {
                    if jobs.remove(&job_id).is_some() {
                        quota.job_ended(&job(job_id, now), now);
                    }
                }
                Step::Call(at, arrives, answered) => {
                    let due = quota.due(|_| false, now);
                    if let Some(job_id) = due.get(at % due.len().max(1)) {
                        call(&mut quota, &mut econ, &mut jobs, *job_id, arrives, answered, now);
                    }
                }
                Step::Refuse(refuses) => econ.refuses = refuses,
                Step::Wait(seconds) => now += seconds * SECOND,
                Step::Upgrade => quota = open(&memory),
            }
        }
        for job_id in std::mem::take(&mut jobs).into_keys() {
            quota.job_ended(&job(job_id, now), now);
        }
        for _ in 0..1_000 {
            for job_id in quota.due(|_| false, now) {
                call(&mut quota, &mut econ, &mut jobs, job_id, true, true, now);
            }
            now += MAX_BACKOFF_NS;
        }
        prop_assert!(quota.is_empty() && !quota.is_busy());
        for reservation in econ.reserved.values() {
            prop_assert!(econ.settled.contains_key(reservation), "reservation {reservation} is settled");
        }
    }
}
