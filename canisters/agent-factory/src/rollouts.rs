//! The rollout under way: which agents are next, and what came of those before.
//!
//! The module makes no call. [`Rollouts::next`] walks over the agents, a bounded number at a time, and names those to upgrade;
//! [`Rollouts::upgraded`] hears of the outcome. A stage is done when a whole walk finds none.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::factory::rollout::{
    BeginRolloutArgs, Rollout, RolloutReport, RolloutReportArgs, RolloutState, UpgradeOutcome, UpgradeRecord,
};
use shared_types::factory::{AgentRecord, AgentState, FactoryError};
use shared_types::{Digest, paging};

use crate::agents::Agents;
use crate::memory::Memory;

/// Agents that one look goes over.
pub const WALK: usize = 500;

/// The latest rollout, and where the walk over the agents is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entry {
    rollout: Option<Rollout>,
    /// The agent that the walk has come to.
    at: Option<(Principal, String)>,
    /// Whether this walk has found an agent that is to be looked at again.
    found: bool,
}

/// The latest rollout and its report.
pub struct Rollouts {
    entry: StableCell<Cbor<Entry>, Memory>,
    report: StableBTreeMap<Principal, Cbor<UpgradeRecord>, Memory>,
}

/// An agent to upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its owner.
    pub owner: Principal,
    /// The owner's key.
    pub key: String,
    /// The template it is to get.
    pub template: Digest,
}

impl Rollouts {
    /// Opens what the memories hold.
    pub fn open(entry: Memory, report: Memory) -> Self {
        Self { entry: StableCell::init(entry, Cbor::default()), report: StableBTreeMap::init(report) }
    }

    /// The latest rollout.
    pub fn latest(&self) -> Option<&Rollout> {
        self.entry.get().0.rollout.as_ref()
    }

    /// Begins a rollout from `previous`, the template that new agents get.
    ///
    /// # Errors
    /// [`FactoryError::NoRollout`] while another one has not ended; [`FactoryError::InvalidField`] for the stages.
    pub fn begin(
        &mut self,
        args: BeginRolloutArgs,
        previous: Digest,
        now_ns: u64,
    ) -> Result<Rollout, FactoryError> {
        args.validate().map_err(FactoryError::InvalidField)?;
        if let Some(rollout) = self.latest().filter(|rollout| !rollout.state.has_ended()) {
            let reason = format!("rollout {} is {:?}", rollout.id, rollout.state);
            return Err(FactoryError::NoRollout { reason });
        }
        let rollout = Rollout {
            id: self.latest().map_or(1, |rollout| rollout.id + 1),
            template: args.template,
            previous,
            stages: args.stages,
            stage: 0,
            max_failures: args.max_failures,
            state: RolloutState::Upgrading,
            upgraded: 0,
            failed: 0,
            begun_at_ns: now_ns,
            ended_at_ns: None,
        };
        self.report.clear_new();
        self.set(rollout.clone());
        Ok(rollout)
    }

    /// Goes on to the next stage, or after a halt tries again what failed.
    ///
    /// # Errors
    /// [`FactoryError::NoRollout`] unless a stage is done or the rollout is halted.
    pub fn advance(&mut self) -> Result<Rollout, FactoryError> {
        let mut rollout = self.known()?;
        match rollout.state {
            RolloutState::StageDone => rollout.stage += 1,
            RolloutState::Halted => {
                rollout.failed = 0;
                self.forget_failures();
            }
            state => {
                let reason = format!("rollout {} is {state:?}", rollout.id);
                return Err(FactoryError::NoRollout { reason });
            }
        }
        rollout.state = RolloutState::Upgrading;
        self.set(rollout.clone());
        Ok(rollout)
    }

    /// Brings the agents back to the template of before.
    ///
    /// # Errors
    /// [`FactoryError::NoRollout`] when there is none, or it is being rolled back already.
    pub fn roll_back(&mut self) -> Result<Rollout, FactoryError> {
        let mut rollout = self.known()?;
        if matches!(rollout.state, RolloutState::RollingBack | RolloutState::RolledBack) {
            let reason = format!("rollout {} is {:?}", rollout.id, rollout.state);
            return Err(FactoryError::NoRollout { reason });
        }
        rollout.state = RolloutState::RollingBack;
        (rollout.upgraded, rollout.failed, rollout.ended_at_ns) = (0, 0, None);
        self.forget_failures();
        self.set(rollout.clone());
        Ok(rollout)
    }

    /// Walks on over the agents and names those to upgrade now, at most `most`. `is_busy` says whether somebody works on an agent.
    /// Ends the stage, or the rollback, when a whole walk has found nothing; the rest is the next call's.
    pub fn next(
        &mut self,
        agents: &Agents,
        most: usize,
        is_busy: impl Fn(&AgentRecord) -> bool,
        now_ns: u64,
    ) -> Vec<Wanted> {
        let Entry { rollout: Some(mut rollout), mut at, mut found } = self.entry.get().0.clone() else {
            return Vec::new();
        };
        if !rollout.state.is_active() || most == 0 {
            return Vec::new();
        }
        let template = rollout.target();
        let mut wanted = Vec::new();
        let after = at.as_ref().map(|(owner, key)| (*owner, key.as_str()));
        let page = agents.from(after, WALK);
        let mut ends = page.len() < WALK;
        for record in page {
            if self.is_wanted(&rollout, &record) {
                if wanted.len() == most {
                    ends = false;
                    break;
                }
                found = true;
                if !is_busy(&record) {
                    wanted.push(Wanted { owner: record.owner, key: record.key.clone(), template });
                }
            }
            at = Some((record.owner, record.key));
        }
        if ends {
            if !found {
                rollout.state = match rollout.state {
                    RolloutState::RollingBack => RolloutState::RolledBack,
                    _ if rollout.stage as usize + 1 == rollout.stages.len() => RolloutState::Done,
                    _ => RolloutState::StageDone,
                };
                rollout.ended_at_ns = rollout.state.has_ended().then_some(now_ns);
            }
            (at, found) = (None, false);
        }
        self.entry.set(Cbor(Entry { rollout: Some(rollout), at, found }));
        wanted
    }

    fn is_wanted(&self, rollout: &Rollout, record: &AgentRecord) -> bool {
        let Some(canister) = record.canister else { return false };
        let target = rollout.target();
        let has_failed = self.report.get(&canister).is_some_and(|entry| {
            entry.0.to == target && matches!(entry.0.outcome, UpgradeOutcome::Failed { .. })
        });
        match record.state {
            // It was interrupted: whatever it was to get, it is finished first.
            AgentState::Upgrading { .. } => true,
            AgentState::Running | AgentState::Stopped if has_failed => false,
            AgentState::Running | AgentState::Stopped => match rollout.state {
                RolloutState::RollingBack => record.template == rollout.template,
                _ => record.template != target && rollout.includes(canister),
            },
            // They are as they should be, or fail by themselves; those being created have their template chosen.
            _ => false,
        }
    }

    /// Takes note of what came of an agent's upgrade; too many failures halt the rollout.
    pub fn upgraded(&mut self, upgrade: UpgradeRecord) {
        let Ok(mut rollout) = self.known() else { return };
        if upgrade.to == rollout.target() {
            match upgrade.outcome {
                UpgradeOutcome::Done => rollout.upgraded += 1,
                UpgradeOutcome::Failed { .. } => rollout.failed += 1,
            }
            if rollout.state == RolloutState::Upgrading && rollout.failed > u64::from(rollout.max_failures) {
                rollout.state = RolloutState::Halted;
            }
            let entry = Entry { rollout: Some(rollout), ..self.entry.get().0.clone() };
            self.entry.set(Cbor(entry));
        }
        self.report.insert(upgrade.canister, Cbor(upgrade));
    }

    /// A page of the report.
    pub fn report(&self, args: &RolloutReportArgs) -> RolloutReport {
        let from = args.after.unwrap_or(Principal::management_canister());
        let rest = self.report.range(from..).map(|entry| entry.value().0);
        let rest = rest.filter(|upgrade| Some(upgrade.canister) != args.after);
        let (upgrades, next) = paging::page(rest, args.limit, |upgrade| upgrade.canister);
        RolloutReport { rollout: self.latest().cloned(), upgrades, next }
    }

    fn known(&self) -> Result<Rollout, FactoryError> {
        let missing = || FactoryError::NoRollout { reason: "there was none".to_owned() };
        self.latest().cloned().ok_or_else(missing)
    }

    /// Begins the walk anew.
    fn set(&mut self, rollout: Rollout) {
        self.entry.set(Cbor(Entry { rollout: Some(rollout), at: None, found: false }));
    }

    /// Those that failed are tried again.
    fn forget_failures(&mut self) {
        let failed = |upgrade: &UpgradeRecord| matches!(upgrade.outcome, UpgradeOutcome::Failed { .. });
        let failures: Vec<Principal> = self
            .report
            .values()
            .filter(|upgrade| failed(&upgrade.0))
            .map(|upgrade| upgrade.0.canister)
            .collect();
        for canister in failures {
            self.report.remove(&canister);
        }
    }
}
