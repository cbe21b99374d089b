//! The life of an agent: Registered → Staged → Active ⇄ Paused → Deprecated → Archived, and who may do what in each phase.

use candid::CandidType;
use serde::{Deserialize, Serialize};

/// Where an agent is in its life. The order of the variants is the order of life.
#[derive(
    CandidType, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum AgentPhase {
    /// It exists and is being set up; it takes no jobs.
    Registered,
    /// Its owner tries it; the coordinator may not use it yet.
    Staged,
    /// It works. What an agent begins as, unless its installation says otherwise.
    #[default]
    Active,
    /// It takes no new jobs, and those that wait rest.
    Paused,
    /// It finishes what it has and takes nothing new; its configuration and memory stay as they are.
    Deprecated,
    /// It is read, exported and emptied, and does nothing more.
    Archived,
}

/// What a caller is to an agent.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentRole {
    /// Whom it obeys.
    Owner,
    /// Who may submit jobs beside the owner.
    Coordinator,
    /// A controller of its canister, usually the factory.
    Controller,
}

/// What is done with an agent.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentOperation {
    /// Reading jobs, receipts, memory, payments and the profile; the coordinator reads its own jobs.
    Read,
    /// Reading `status`.
    Inspect,
    /// Changing the profile, the coordinator, ledgers and limits.
    Configure,
    /// Loading the model.
    Load,
    /// Submitting jobs, talking, embedding.
    Submit,
    /// Cancelling jobs; the coordinator cancels its own.
    Cancel,
    /// Pausing jobs and the queue, and letting them go on.
    Schedule,
    /// Adding to memory.
    Remember,
    /// Taking from memory.
    Erase,
    /// Paying others, or asking the owner to approve it.
    Pay,
    /// Deciding on payments that wait for it.
    Approve,
    /// Sending tokens to the owner.
    Withdraw,
    /// Moving on to another phase.
    Advance,
    /// Sending cycles and tokens back before deletion.
    Return,
}

impl AgentPhase {
    /// All phases, in the order of life.
    pub const ALL: [Self; 6] =
        [Self::Registered, Self::Staged, Self::Active, Self::Paused, Self::Deprecated, Self::Archived];

    /// Whether a caller of this role may do this in this phase. Everybody else may do nothing in any.
    pub fn allows(self, role: AgentRole, operation: AgentOperation) -> bool {
        phases(role, operation).contains(&self)
    }

    /// Whether the owner may move the agent from this phase to `next`.
    pub fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Registered, Self::Staged)
                | (Self::Staged | Self::Paused, Self::Active)
                | (Self::Active, Self::Paused)
                | (Self::Registered | Self::Staged | Self::Active | Self::Paused, Self::Deprecated)
                | (Self::Deprecated, Self::Archived)
        )
    }
}

impl AgentRole {
    /// Whether the role may do this in any phase.
    pub fn ever(self, operation: AgentOperation) -> bool {
        !phases(self, operation).is_empty()
    }
}

/// The table: in which phases a role may do something.
#[expect(clippy::match_same_arms, reason = "a row for each role and what it may do")]
fn phases(role: AgentRole, operation: AgentOperation) -> &'static [AgentPhase] {
    use AgentOperation as Op;
    use AgentPhase::{Active, Deprecated, Paused, Registered, Staged};
    match (role, operation) {
        (AgentRole::Owner, Op::Read | Op::Inspect | Op::Erase | Op::Withdraw) => &AgentPhase::ALL,
        (AgentRole::Owner, Op::Configure | Op::Load | Op::Remember) => &[Registered, Staged, Active, Paused],
        (AgentRole::Owner, Op::Submit) => &[Staged, Active],
        (AgentRole::Owner, Op::Schedule) => &[Staged, Active, Paused],
        (AgentRole::Owner, Op::Cancel) => &[Staged, Active, Paused, Deprecated],
        (AgentRole::Owner, Op::Pay) => &[Active],
        (AgentRole::Owner, Op::Approve) => &[Active, Paused, Deprecated],
        (AgentRole::Owner, Op::Advance) => &[Registered, Staged, Active, Paused, Deprecated],
        (AgentRole::Coordinator, Op::Submit | Op::Pay) => &[Active],
        (AgentRole::Coordinator, Op::Read | Op::Cancel) => &[Active, Paused, Deprecated],
        (AgentRole::Controller, Op::Inspect | Op::Return) => &AgentPhase::ALL,
        (AgentRole::Owner, Op::Return)
        | (
            AgentRole::Coordinator,
            Op::Inspect
            | Op::Configure
            | Op::Load
            | Op::Schedule
            | Op::Remember
            | Op::Erase
            | Op::Approve
            | Op::Withdraw
            | Op::Advance
            | Op::Return,
        )
        | (
            AgentRole::Controller,
            Op::Read
            | Op::Configure
            | Op::Load
            | Op::Submit
            | Op::Cancel
            | Op::Schedule
            | Op::Remember
            | Op::Erase
            | Op::Pay
            | Op::Approve
            | Op::Withdraw
            | Op::Advance,
        ) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    const OPERATIONS: [AgentOperation; 14] = [
        AgentOperation::Read,
        AgentOperation::Inspect,
        AgentOperation::Configure,
        AgentOperation::Load,
        AgentOperation::Submit,
        AgentOperation::Cancel,
        AgentOperation::Schedule,
        AgentOperation::Remember,
        AgentOperation::Erase,
        AgentOperation::Pay,
        AgentOperation::Approve,
        AgentOperation::Withdraw,
        AgentOperation::Advance,
        AgentOperation::Return,
    ];

    proptest! {
        #[test]
        fn rights_follow_from_life(phase in select(&AgentPhase::ALL[..]), operation in select(&OPERATIONS[..])) {
            use AgentOperation as Op;
            let owner = phase.allows(AgentRole::Owner, operation);
            let coordinator = phase.allows(AgentRole::Coordinator, operation);
            let controller = phase.allows(AgentRole::Controller, operation);
            // The coordinator has no right that the owner has not.
            prop_assert!(owner || !coordinator);
            // A controller reads nothing of the owner's and gives nobody orders.
            prop_assert_eq!(controller, matches!(operation, Op::Inspect | Op::Return));
            // The owner always reads, takes back what is his, and goes on, to the end.
            if matches!(operation, Op::Read | Op::Inspect | Op::Erase | Op::Withdraw) {
                prop_assert!(owner);
            }
            // Nothing new begins before the agent is staged, in a pause, or after its end.
            if matches!(operation, Op::Submit | Op::Pay) && !matches!(phase, AgentPhase::Staged | AgentPhase::Active) {
                prop_assert!(!owner && !coordinator);
            }
            // What has been withdrawn from use does not change any more.
            if phase >= AgentPhase::Deprecated && matches!(operation, Op::Configure | Op::Load | Op::Remember | Op::Schedule) {
                prop_assert!(!owner);
            }
            if phase == AgentPhase::Archived {
                prop_assert!(!coordinator);
            }
        }

        #[test]
        fn a_life_goes_one_way(steps in prop::collection::vec(select(&AgentPhase::ALL[..]), 0..40)) {
            let mut phase = AgentPhase::Registered;
            for next in steps {
                if phase.may_become(next) {
                    let resumes = (phase, next) == (AgentPhase::Paused, AgentPhase::Active);
                    prop_assert!(next > phase || resumes, "{:?} became {:?}", phase, next);
                    phase = next;
                }
            }
            // Its end is always within reach, and is the end.
            let ends = phase == AgentPhase::Archived
                || phase.may_become(AgentPhase::Archived)
                || phase.may_become(AgentPhase::Deprecated);
            prop_assert!(ends);
            prop_assert!(AgentPhase::ALL.iter().all(|next| !AgentPhase::Archived.may_become(*next)));
        }
    }
}
