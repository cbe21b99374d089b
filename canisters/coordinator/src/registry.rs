//! Agents: which one gets a task, and what its runs say about it.

use shared_types::coordinator::{
    AgentState, Breaker, BreakerState, CoordinatorConfig, Health, Measures, Preference, RegisteredAgent,
    RunCounts,
};

/// Runs over which measures are averaged.
const WINDOW: u64 = 8;

/// The moving average after another value; the first value is the average.
fn average(before: u64, value: u64) -> u64 {
    if before == 0 {
        return value.max(1);
    }
    let moved = i128::from(before) + (i128::from(value) - i128::from(before)) / i128::from(WINDOW);
    u64::try_from(moved.max(1)).unwrap_or(u64::MAX)
}

fn average_permille(before: u32, permille: u32) -> u32 {
    (i64::from(before) + (i64::from(permille) - i64::from(before)) / WINDOW as i64) as u32
}

/// Enters a completed task.
pub fn succeeded(agent: &mut RegisteredAgent, used: RunCounts, elapsed_ns: u64) {
    let tokens = used.tokens();
    let Measures { completed, tokens: all, ns_per_token, instructions_per_token, quality_permille, .. } =
        &mut agent.measures;
    *completed += 1;
    *all = all.saturating_add(tokens);
    *ns_per_token = average(*ns_per_token, elapsed_ns / tokens.max(1));
    *instructions_per_token = average(*instructions_per_token, used.instructions / tokens.max(1));
    *quality_permille = average_permille(*quality_permille, 1_000);
    agent.breaker = Breaker::default();
}

/// Enters an attempt that failed by the agent's fault.
pub fn failed(agent: &mut RegisteredAgent) {
    agent.measures.failed += 1;
    agent.measures.quality_permille = average_permille(agent.measures.quality_permille, 0);
    agent.breaker.failures = agent.breaker.failures.saturating_add(1);
}

/// Enters a rating of 1 to 5.
pub fn rated(agent: &mut RegisteredAgent, stars: u8) {
    let permille = (u32::from(stars).clamp(1, 5) - 1) * 250;
    agent.measures.quality_permille = average_permille(agent.measures.quality_permille, permille);
}

/// Until when the breaker opens, if it does: after so many failures in a row, and again when the task that should close it failed.
pub fn opens_until(agent: &RegisteredAgent, config: &CoordinatorConfig, now_ns: u64) -> Option<u64> {
    let opens = match agent.breaker.state {
        BreakerState::Closed => agent.breaker.failures >= config.breaker_failures,
        BreakerState::HalfOpen => agent.load == 0,
        BreakerState::Open(_) => false,
    };
    let doubled = config.breaker_ns.saturating_mul(1 << agent.breaker.opened.min(6));
    opens.then(|| now_ns.saturating_add(doubled))
}

/// What breaker and measures say.
pub fn health(agent: &RegisteredAgent) -> Health {
    match agent.breaker {
        Breaker { state: BreakerState::Open(_), .. } => Health::Unavailable,
        Breaker { failures, .. } if failures > 0 => Health::Degraded,
        _ if agent.heard_at_ns.is_some() => Health::Healthy,
        _ => Health::Unknown,
    }
}

/// Whether an agent may get a task now.
pub fn is_available(agent: &RegisteredAgent, config: &CoordinatorConfig, now_ns: u64) -> bool {
    let ready = matches!(agent.state, AgentState::Ready(_));
    ready
        && match agent.breaker.state {
            BreakerState::Closed => agent.load < config.max_jobs_per_agent,
            BreakerState::Open(until) => until <= now_ns && agent.load == 0,
            BreakerState::HalfOpen => agent.load == 0,
        }
}

/// Of the agents that are available, the one that a task goes to. `avoid` names one that has just failed with it, which is
/// taken only when there is no other. Equal ones are told apart by their names, so that the same state gives the same choice.
pub fn choose<'a>(
    candidates: impl Iterator<Item = &'a RegisteredAgent>,
    capabilities: &[String],
    avoid: Option<&str>,
    preference: Preference,
) -> Option<&'a RegisteredAgent> {
    candidates.min_by_key(|agent| {
        let misses = capabilities.iter().filter(|tag| !agent.capabilities.contains(tag)).count();
        let Measures { ns_per_token, instructions_per_token, quality_permille, .. } = agent.measures;
        let faults = u64::from(1_000 - quality_permille.min(1_000));
        let wanted = match preference {
            Preference::Balanced | Preference::Privacy => 0,
            Preference::Cost => instructions_per_token,
            Preference::Speed => ns_per_token.saturating_mul(u64::from(agent.load) + 1),
            Preference::Quality => faults,
        };
        (
            avoid == Some(agent.name.as_str()),
            misses,
            wanted,
            agent.load,
            faults,
            ns_per_token,
            instructions_per_token,
            &agent.name,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candid::Principal;
    use proptest::prelude::*;
    use shared_types::ModelId;

    fn agent(name: &str) -> RegisteredAgent {
        RegisteredAgent {
            name: name.to_owned(),
            role: "writer".to_owned(),
            capabilities: Vec::new(),
            model_id: ModelId::ZERO,
            chats: false,
            project: 1,
            state: AgentState::Ready(Principal::management_canister()),
            breaker: Breaker::default(),
            load: 0,
            heard_at_ns: None,
            measures: Measures { quality_permille: 1_000, ..Measures::default() },
            health: Health::Unknown,
        }
    }

    #[test]
    fn each_preference_has_its_agent() {
        let [mut cheap, mut fast, mut good] = ["cheap", "fast", "good"].map(agent);
        cheap.measures =
            Measures { instructions_per_token: 1, ns_per_token: 9, quality_permille: 500, ..cheap.measures };
        fast.measures =
            Measures { instructions_per_token: 9, ns_per_token: 1, quality_permille: 500, ..fast.measures };
        good.measures =
            Measures { instructions_per_token: 5, ns_per_token: 5, quality_permille: 900, ..good.measures };
        good.capabilities = vec!["language:rust".to_owned()];
        let all = [cheap, fast, good];
        let choice = |wanted: &[String], avoid, preference| {
            choose(all.iter(), wanted, avoid, preference).map(|agent| agent.name.as_str())
        };
        assert_eq!(choice(&[], None, Preference::Cost), Some("cheap"));
        assert_eq!(choice(&[], None, Preference::Speed), Some("fast"));
        assert_eq!(choice(&[], None, Preference::Quality), Some("good"));
        assert_ne!(choice(&[], Some("fast"), Preference::Speed), Some("fast"), "failover");
        assert_eq!(choice(&["language:rust".to_owned()], None, Preference::Cost), Some("good"));
        assert_eq!(choose([].iter(), &[], None, Preference::Cost), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin,
        Succeed,
        Fail,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Begin),
            1 => Just(Step::Succeed),
            3 => Just(Step::Fail),
            2 => (0u64..200).prop_map(|seconds| Step::Wait(seconds * 1_000_000_000)),
        ]
    }

    proptest! {
        /// Closed, open, half open: an open breaker lets nothing through, a half-open one a single task.
        #[test]
        fn the_breaker_does_what_it_says(steps in prop::collection::vec(step(), 0..100)) {
            let config = CoordinatorConfig::default();
            let (mut agent, mut now) = (agent("a"), 1u64);
            for step in steps {
                match step {
                    Step::Begin if is_available(&agent, &config, now) => {
                        if let BreakerState::Open(until) = agent.breaker.state {
                            prop_assert!(until <= now && agent.load == 0);
                            agent.breaker.state = BreakerState::HalfOpen;
                        }
                        agent.load += 1;
                    }
                    Step::Succeed if agent.load > 0 => {
                        agent.load -= 1;
                        let used = RunCounts { generated_tokens: 10, ..RunCounts::default() };
                        succeeded(&mut agent, used, 10);
                        prop_assert_eq!(agent.breaker, Breaker::default());
                    }
                    Step::Fail if agent.load > 0 => {
                        agent.load -= 1;
                        failed(&mut agent);
                        if let Some(until) = opens_until(&agent, &config, now) {
                            agent.breaker.state = BreakerState::Open(until);
                            agent.breaker.opened += 1;
                            prop_assert!(!is_available(&agent, &config, now));
                        }
                    }
                    Step::Wait(nanos) => now += nanos,
                    _ => {}
                }
                prop_assert!(agent.load <= config.max_jobs_per_agent);
                if agent.breaker.state == BreakerState::Closed {
                    prop_assert!(agent.breaker.failures < config.breaker_failures || agent.load > 0);
                }
            }
        }
    }
}
