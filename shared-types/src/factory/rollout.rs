//! Rollouts: how agents get from one template to another.
//!
//! A rollout upgrades agents in stages, each a share of all of them; an agent's canister id says in which share it is, so that the
//! same agents come first each time. A stage that is done waits for an admin (`advance_rollout`). Too many failures halt a rollout, and
//! `roll_back` brings back the template of before. An upgrade that fails leaves the agent as it was.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};

use super::AgentStep;
use crate::digest::Digest;
use crate::field::FieldError;

/// Most stages of a rollout.
pub const MAX_STAGES: usize = 16;

/// Argument of `begin_rollout`, for admins.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct BeginRolloutArgs {
    /// The committed template that agents are to run.
    pub template: Digest,
    /// How many of the agents have it after each stage, in per cent: rising, the last 100; at most [`MAX_STAGES`].
    pub stages: Vec<u32>,
    /// Failed upgrades that are tolerated: one more halts the rollout.
    pub max_failures: u32,
}

impl BeginRolloutArgs {
    /// Checks the stages.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn validate(&self) -> Result<(), FieldError> {
        let rising = self.stages.windows(2).all(|pair| pair[0] < pair[1]);
        let first = self.stages.first().is_some_and(|first| *first > 0);
        if !first || !rising || self.stages.last() != Some(&100) || self.stages.len() > MAX_STAGES {
            let reason = format!("are {:?}: 1 to {MAX_STAGES} rising shares, the last 100", self.stages);
            return Err(FieldError::new("stages", reason));
        }
        Ok(())
    }
}

/// Where a rollout stands.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutState {
    /// Agents of the stage are upgraded.
    Upgrading,
    /// The stage is done; `advance_rollout` begins the next one.
    StageDone,
    /// Too many upgrades failed. `advance_rollout` tries those again and goes on, `roll_back` goes back.
    Halted,
    /// All agents were upgraded, or failed and were tolerated. New agents get the template.
    Done,
    /// Agents get the template of before.
    RollingBack,
    /// All agents have the template of before, or failed to get it.
    RolledBack,
}

impl RolloutState {
    /// Whether agents are being upgraded.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Upgrading | Self::RollingBack)
    }

    /// Whether another rollout may begin.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack)
    }
}

/// A rollout.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Its number, from 1.
    pub id: u64,
    /// The template that agents are to run.
    pub template: Digest,
    /// The template that new agents got before.
    pub previous: Digest,
    /// How many of the agents have the template after each stage, in per cent.
    pub stages: Vec<u32>,
    /// The stage it is at, from 0.
    pub stage: u32,
    /// Failed upgrades that are tolerated.
    pub max_failures: u32,
    /// Where it stands.
    pub state: RolloutState,
    /// Agents that were upgraded (when it is rolled back: brought back) since it took its direction.
    pub upgraded: u64,
    /// Upgrades that failed since then.
    pub failed: u64,
    /// Nanoseconds since 1970.
    pub begun_at_ns: u64,
    /// When it was done or rolled back.
    pub ended_at_ns: Option<u64>,
}

impl Rollout {
    /// The template that agents are brought to now.
    pub fn target(&self) -> Digest {
        match self.state {
            RolloutState::RollingBack | RolloutState::RolledBack => self.previous,
            _ => self.template,
        }
    }

    /// Whether the stage has reached the agent in this canister.
    pub fn includes(&self, canister: Principal) -> bool {
        let hash = Digest::of(canister.as_slice());
        let place = (u32::from_be_bytes([0, 0, hash.as_bytes()[0], hash.as_bytes()[1]]) * 100) >> 16;
        self.stages.get(self.stage as usize).is_some_and(|share| place < *share)
    }
}

/// What came of the upgrade of one agent.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct UpgradeRecord {
    /// The agent's canister.
    pub canister: Principal,
    /// Its owner.
    pub owner: Principal,
    /// The owner's key.
    pub key: String,
    /// The template it had.
    pub from: Digest,
    /// The template it was to get.
    pub to: Digest,
    /// What came of it.
    pub outcome: UpgradeOutcome,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
}

/// What came of an upgrade.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum UpgradeOutcome {
    /// The agent runs the template.
    Done,
    /// The agent runs what it ran before.
    Failed {
        /// What failed.
        step: AgentStep,
        /// The reason as the Internet Computer gave it.
        reason: String,
    },
}

/// Page request of `rollout_report`, for admins.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RolloutReportArgs {
    /// The last canister of the page before.
    pub after: Option<Principal>,
    /// Most upgrades to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `rollout_report`: the latest rollout and its upgrades, ordered by canister.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RolloutReport {
    /// The rollout, if there was one.
    pub rollout: Option<Rollout>,
    /// The last upgrade of each agent that had one.
    pub upgrades: Vec<UpgradeRecord>,
    /// `after` of the next page.
    pub next: Option<Principal>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rollout(stages: &[u32], stage: u32) -> Rollout {
        Rollout {
            id: 1,
            template: Digest::of(b"new"),
            previous: Digest::of(b"old"),
            stages: stages.to_vec(),
            stage,
            max_failures: 0,
            state: RolloutState::Upgrading,
            upgraded: 0,
            failed: 0,
            begun_at_ns: 0,
            ended_at_ns: None,
        }
    }

    proptest! {
        #[test]
        fn stages_hold_those_before(canister in prop::collection::vec(any::<u8>(), 1..29), stage in 0u32..3) {
            let canister = Principal::from_slice(&canister);
            let stages = [10, 50, 100];
            if rollout(&stages, stage).includes(canister) {
                prop_assert!((stage..3).all(|later| rollout(&stages, later).includes(canister)));
            }
            prop_assert!(rollout(&stages, 2).includes(canister));
        }
    }

    #[test]
    fn a_stage_is_about_its_share() {
        let ids = (0u32..10_000).map(|n| Principal::from_slice(&n.to_be_bytes()));
        let first = ids.filter(|id| rollout(&[10, 100], 0).includes(*id)).count();
        assert!((900..1_100).contains(&first), "{first} of 10,000");
    }

    #[test]
    fn stages_rise_to_all() {
        let valid = |stages: &[u32]| {
            let args = BeginRolloutArgs { template: Digest::ZERO, stages: stages.to_vec(), max_failures: 0 };
            args.validate().is_ok()
        };
        assert!(valid(&[100]) && valid(&[1, 10, 100]));
        for stages in [&[][..], &[0, 100], &[50], &[50, 50, 100], &[60, 50, 100], &[50, 101]] {
            assert!(!valid(stages), "{stages:?}");
        }
    }
}
