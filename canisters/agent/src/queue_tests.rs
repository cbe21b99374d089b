//! The queue against an obvious model of its rule, and the promise that everybody's turn comes.

use ic_stable_structures::DefaultMemoryImpl;
use proptest::prelude::*;

use super::*;
use crate::memory::Memories;

fn open(memory: &DefaultMemoryImpl) -> Queue {
    Queue::open(Memories::of(memory.clone()).jobs.queue)
}

fn caller(who: u8) -> Principal {
    Principal::from_slice(&[who; 10])
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Priority::RealTime), Just(Priority::Standard), Just(Priority::Batch)]
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, Priority),
    /// A slice of the job whose turn it is.
    Slice,
    /// The job whose turn it is ends.
    End,
    Remove(prop::sample::Index),
    Pause(prop::sample::Index, bool),
    PauseAll(bool),
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4, priority()).prop_map(|(who, priority)| Step::Insert(who, priority)),
        4 => Just(Step::Slice),
        5 => Just(Step::End),
        1 => any::<prop::sample::Index>().prop_map(Step::Remove),
        2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(job, paused)| Step::Pause(job, paused)),
        1 => any::<bool>().prop_map(Step::PauseAll),
        1 => Just(Step::Upgrade),
    ]
}

/// A job of the model.
#[derive(Debug, Clone)]
struct Job {
    id: JobId,
    who: u8,
    class: usize,
    /// Turns that began while it waited.
    age: usize,
    paused: bool,
}

/// The rule, told another way: lists of callers in the order in which they come.
#[derive(Debug, Default)]
struct Model {
    jobs: Vec<Job>,
    /// Turns that began since each caller's last one.
    rested: BTreeMap<u8, usize>,
    turn: Option<(JobId, usize)>,
    paused: bool,
}

impl Model {
    fn level(job: &Job) -> usize {
        job.class.saturating_sub(job.age / AGEING_TURNS as usize)
    }

    fn head(&self) -> Option<JobId> {
        let ready: Vec<&Job> = self.jobs.iter().filter(|job| !job.paused && !self.paused).collect();
        if let Some((id, level)) = self.turn
            && ready.iter().any(|job| job.id == id)
            && ready.iter().all(|job| job.class >= level)
        {
            return Some(id);
        }
        let level = ready.iter().map(|job| Self::level(job)).min()?;
        let mut first: Vec<&Job> = ready.into_iter().filter(|job| Self::level(job) == level).collect();
        first.sort_by_key(|job| job.id);
        let waited = |who: u8| {
            let oldest = first.iter().filter(|job| job.who == who).map(|job| job.age).max().unwrap_or(0);
            self.rested.get(&who).copied().unwrap_or(usize::MAX).min(oldest)
        };
        let longest = first.iter().map(|job| waited(job.who)).max()?;
        first.iter().find(|job| waited(job.who) == longest).map(|job| job.id)
    }

    fn begin_turn(&mut self, id: JobId) {
        if self.turn.is_some_and(|(turn, _)| turn == id) {
            return;
        }
        let job = self.jobs.iter().find(|job| job.id == id).unwrap();
        let (who, level) = (job.who, Self::level(job));
        self.turn = Some((id, level));
        self.jobs.iter_mut().for_each(|job| job.age += 1);
        self.rested.values_mut().for_each(|turns| *turns += 1);
        self.rested.insert(who, 0);
    }

    fn remove(&mut self, id: JobId) {
        self.jobs.retain(|job| job.id != id);
        self.turn = self.turn.filter(|(turn, _)| *turn != id);
        let jobs = &self.jobs;
        self.rested.retain(|who, _| jobs.iter().any(|job| job.who == *who));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn turns_are_those_of_the_model(steps in prop::collection::vec(step(), 1..160)) {
        let memory = DefaultMemoryImpl::default();
        let (mut queue, mut model, mut last) = (open(&memory), Model::default(), 0);
        for step in steps {
            let any = |index: &prop::sample::Index| {
                (!model.jobs.is_empty()).then(|| model.jobs[index.index(model.jobs.len())].id)
            };
            match step {
                Step::Insert(who, priority) => {
                    last += 1;
                    queue.insert(last, caller(who), priority, None);
                    let class = class(priority) as usize;
                    model.jobs.push(Job { id: last, who, class, age: 0, paused: false });
                }
                Step::Slice => if let Some(id) = queue.head() {
                    queue.begin_turn(id);
                    model.begin_turn(id);
                    prop_assert_eq!(queue.in_service(), Some(id));
                },
                Step::End => if let Some(id) = queue.head() {
                    queue.begin_turn(id);
                    model.begin_turn(id);
                    queue.remove(id);
                    model.remove(id);
                },
                Step::Remove(index) => if let Some(id) = any(&index) {
                    queue.remove(id);
                    model.remove(id);
                },
                Step::Pause(index, paused) => if let Some(id) = any(&index) {
                    queue.set_job_paused(id, paused);
                    model.jobs.iter_mut().filter(|job| job.id == id).for_each(|job| job.paused = paused);
                },
                Step::PauseAll(paused) => {
                    queue.set_paused(paused);
                    model.paused = paused;
                }
                Step::Upgrade => queue = open(&memory),
            }
            prop_assert_eq!(queue.head(), model.head());
            prop_assert_eq!(queue.len(), model.jobs.len() as u64);
            prop_assert!(queue.state.get().0.served.len() <= model.jobs.len(), "what is kept of callers is bounded");
        }
    }

    /// Whatever comes later, a job runs within a number of turns that its class and the jobs before it give.
    #[test]
    fn nobody_starves(
        before in prop::collection::vec((0u8..6, priority()), 0..12),
        patient in priority(),
        later in prop::collection::vec((0u8..40, priority(), any::<bool>()), 400),
    ) {
        let mut queue = open(&DefaultMemoryImpl::default());
        let mut last = 0;
        for (who, priority) in &before {
            last += 1;
            queue.insert(last, caller(*who), *priority, None);
        }
        last += 1;
        let waits = last;
        queue.insert(waits, caller(200), patient, None);
        let mut turns = 0;
        let mut later = later.into_iter();
        loop {
            let head = queue.head().unwrap();
            queue.begin_turn(head);
            if head == waits {
                break;
            }
            turns += 1;
            // Each turn is followed by a new job, often of a new caller and of the highest class.
            let (who, priority, urgent) = later.next().unwrap();
            last += 1;
            queue.insert(last, caller(who), if urgent { Priority::RealTime } else { priority }, None);
            queue.remove(head);
        }
        // Once it has risen to level 0, each of the other callers that wait by then comes before it at most once.
        let bound = class(patient) * AGEING_TURNS + before.len() as u64 + class(patient) * AGEING_TURNS + 2;
        prop_assert!(turns <= bound, "{turns} turns, {bound} expected at most");
    }
}

#[test]
fn a_job_of_a_higher_class_interrupts_and_one_of_the_same_does_not() {
    let mut queue = open(&DefaultMemoryImpl::default());
    queue.insert(1, caller(1), Priority::Batch, None);
    queue.begin_turn(1);
    queue.insert(2, caller(2), Priority::Batch, None);
    assert_eq!(queue.head(), Some(1));
    queue.insert(3, caller(2), Priority::Standard, None);
    assert_eq!(queue.head(), Some(3));
    assert_eq!(queue.in_service(), Some(1), "until the turn of the other one begins");
    queue.begin_turn(3);
    queue.insert(4, caller(1), Priority::RealTime, None);
    assert_eq!(queue.head(), Some(4));
    for next in [4, 3, 1, 2] {
        assert_eq!(queue.head(), Some(next));
        queue.begin_turn(next);
        queue.remove(next);
    }
    assert!(queue.is_empty());
}

#[test]
fn open_jobs_of_an_earlier_version_come_in() {
    let memory = DefaultMemoryImpl::default();
    let mut old: StableBTreeMap<JobId, (), Memory> =
        StableBTreeMap::init(Memories::of(memory.clone()).jobs.queue.open_jobs);
    old.insert(4, ());
    old.insert(9, ());
    let queue = open(&memory);
    assert_eq!((queue.len(), queue.head()), (2, Some(4)));
    assert_eq!(open(&memory).len(), 2, "once");
}

#[test]
fn deadlines_pass() {
    let mut queue = open(&DefaultMemoryImpl::default());
    queue.insert(1, caller(1), Priority::Standard, Some(10));
    queue.insert(2, caller(1), Priority::Standard, Some(20));
    queue.insert(3, caller(1), Priority::Standard, None);
    queue.set_job_paused(1, true);
    assert!(queue.overdue(9).is_empty());
    assert_eq!(queue.overdue(10), [1]);
    assert_eq!(queue.overdue(u64::MAX), [1, 2]);
}
