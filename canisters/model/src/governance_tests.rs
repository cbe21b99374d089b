//! Random proposals and votes against an obvious model of them.

use std::collections::BTreeSet;

use ic_stable_structures::DefaultMemoryImpl;
use proptest::prelude::*;
use shared_types::model::ListProposalsArgs;

use super::*;
use crate::memory::Memories;

fn principal(who: u8) -> Principal {
    Principal::from_slice(&[who, 1])
}

#[derive(Debug, Clone)]
enum Action {
    Grant(u8),
    Revoke(u8),
    Threshold(u32),
}

impl Action {
    fn proposal(&self) -> ProposalAction {
        let grant = |who: u8| RoleGrant { principal: principal(who), role: Role::Admin };
        match *self {
            Self::Grant(who) => ProposalAction::GrantRole(grant(who)),
            Self::Revoke(who) => ProposalAction::RevokeRole(grant(who)),
            Self::Threshold(approvals) => {
                ProposalAction::SetPolicy(Policy { approvals, ..Policy::default() })
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Propose(u8, Action),
    Approve(u8, prop::sample::Index),
    Reject(u8, prop::sample::Index),
    Wait,
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        (0u8..6).prop_map(Action::Grant),
        (0u8..6).prop_map(Action::Revoke),
        (0u32..5).prop_map(Action::Threshold),
    ];
    prop_oneof![
        3 => (0u8..6, action).prop_map(|(who, action)| Step::Propose(who, action)),
        5 => (0u8..6, any::<prop::sample::Index>()).prop_map(|(who, which)| Step::Approve(who, which)),
        2 => (0u8..6, any::<prop::sample::Index>()).prop_map(|(who, which)| Step::Reject(who, which)),
        1 => Just(Step::Wait),
        1 => Just(Step::Upgrade),
    ]
}

/// Open proposals of the obvious model.
#[derive(Debug, Clone)]
struct Open {
    id: u64,
    action: Action,
    proposer: u8,
    until: u64,
    approvals: BTreeSet<u8>,
    rejections: BTreeSet<u8>,
}

#[derive(Debug)]
struct Reference {
    admins: BTreeSet<u8>,
    threshold: u32,
    open: Vec<Open>,
    proposals: u64,
}

impl Reference {
    /// Whether the action can be done.
    fn possible(&self, action: &Action) -> bool {
        match *action {
            Action::Grant(_) => true,
            Action::Revoke(who) => {
                let left = self.admins.len() as u32 - u32::from(self.admins.contains(&who));
                left >= self.threshold
            }
            Action::Threshold(approvals) => approvals >= 1 && approvals <= self.admins.len() as u32,
        }
    }

    fn execute(&mut self, action: &Action) {
        if self.possible(action) {
            match *action {
                Action::Grant(who) => drop(self.admins.insert(who)),
                Action::Revoke(who) => drop(self.admins.remove(&who)),
                Action::Threshold(approvals) => self.threshold = approvals,
            }
        }
    }

    fn approve(&mut self, who: u8, at: usize) {
        let admins = self.admins.clone();
        let it = &mut self.open[at];
        it.approvals.insert(who);
        it.rejections.remove(&who);
        if it.approvals.intersection(&admins).count() as u32 >= self.threshold {
            let it = self.open.remove(at);
            self.execute(&it.action);
        }
    }

    fn reject(&mut self, who: u8, at: usize) {
        let it = &mut self.open[at];
        it.rejections.insert(who);
        it.approvals.remove(&who);
        let left = self.admins.len() - it.rejections.intersection(&self.admins).count();
        if it.proposer == who || (left as u32) < self.threshold {
            self.open.remove(at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn proposals_are_decided_as_in_the_reference(
        admins in 1u8..5,
        threshold in 1u32..4,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let memory = DefaultMemoryImpl::default();
        let mut repository = Repository::open(Memories::of(memory.clone()));
        let threshold = threshold.min(u32::from(admins));
        let policy = Policy { approvals: threshold, ..Policy::default() };
        let ttl = policy.proposal_ttl_seconds * SECOND_NS;
        let mut now_ns = 1_000;
        let install = CallContext { caller: principal(0), now_ns };
        repository.install(&install, (0..admins).map(principal).collect(), Vec::new(), policy);
        let mut reference =
            Reference { admins: (0..admins).collect(), threshold, open: Vec::new(), proposals: 0 };
        for step in steps {
            now_ns += 1;
            let context = |who| CallContext { caller: principal(who), now_ns };
            match &step {
                Step::Propose(who, action) => {
                    let allowed = reference.admins.contains(who) && reference.possible(action);
                    let result = repository.propose(&context(*who), action.proposal());
                    prop_assert_eq!(result.is_ok(), allowed, "{:?}: {:?}", step, result);
                    if allowed {
                        reference.open.retain(|it| it.until > now_ns);
                        let same = |it: &Open| it.action.proposal() == action.proposal();
                        let at = reference.open.iter().position(same).unwrap_or_else(|| {
                            reference.proposals += 1;
                            reference.open.push(Open {
                                id: reference.proposals,
                                action: action.clone(),
                                proposer: *who,
                                until: now_ns + ttl,
                                approvals: BTreeSet::new(),
                                rejections: BTreeSet::new(),
                            });
                            reference.open.len() - 1
                        });
                        reference.approve(*who, at);
                    }
                }
                Step::Approve(who, which) | Step::Reject(who, which) => {
                    if reference.proposals == 0 { continue }
                    let id = which.index(reference.proposals as usize) as u64 + 1;
                    let at = reference.open.iter().position(|it| it.id == id && it.until > now_ns);
                    let votes = reference.admins.contains(who);
                    let approve = matches!(step, Step::Approve(..));
                    let made_it = at.is_some_and(|at| reference.open[at].proposer == *who);
                    let allowed = at.is_some() && (votes || (!approve && made_it));
                    let result = if approve {
                        repository.approve(&context(*who), id)
                    } else {
                        repository.reject(&context(*who), id)
                    };
                    prop_assert_eq!(result.is_ok(), allowed, "{:?}: {:?}", step, result);
                    if let Some(at) = at.filter(|_| allowed) {
                        if approve { reference.approve(*who, at) } else { reference.reject(*who, at) }
                    }
                }
                Step::Wait => now_ns += ttl / 2,
                Step::Upgrade => repository = Repository::open(Memories::of(memory.clone())),
            }
            let voters: BTreeSet<u8> = (0..6).filter(|who| repository.roles.votes(principal(*who))).collect();
            prop_assert_eq!(&voters, &reference.admins, "{:?}", step);
            prop_assert_eq!(repository.policy().approvals, reference.threshold);
            // Nobody is ever locked out: those who vote are enough to decide.
            prop_assert!(voters.len() as u32 >= reference.threshold && reference.threshold >= 1);
            let args = ListProposalsArgs { open_only: true, before: None, limit: 100 };
            let mut open: Vec<u64> = repository.list_proposals(&args).proposals.iter().map(|it| it.id).collect();
            open.reverse();
            let mut expected: Vec<u64> = reference.open.iter().map(|it| it.id).collect();
            expected.sort_unstable();
            // What has expired is still listed until somebody looks.
            open.retain(|id| reference.open.iter().any(|it| it.id == *id));
            prop_assert_eq!(open, expected);
        }
    }
}

#[test]
fn an_owner_stops_any_proposal_but_the_one_against_itself() {
    let mut repository = Repository::open(Memories::of(DefaultMemoryImpl::default()));
    let policy = Policy { approvals: 2, ..Policy::default() };
    let context = |who| CallContext { caller: principal(who), now_ns: 5 };
    repository.install(&context(0), vec![principal(0), principal(1)], vec![principal(2)], policy);
    let grant = RoleGrant { principal: principal(4), role: Role::Auditor };
    let made = repository.propose(&context(0), ProposalAction::GrantRole(grant)).unwrap();
    let stopped = repository.reject(&context(2), made.id).unwrap();
    assert_eq!(stopped.state, ProposalState::Rejected { at_ns: 5 });
    let closed = ModelError::ProposalClosed { id: made.id, state: stopped.state };
    assert_eq!(repository.approve(&context(1), made.id).unwrap_err(), closed);

    let owner = RoleGrant { principal: principal(2), role: Role::Owner };
    let made = repository.propose(&context(0), ProposalAction::RevokeRole(owner)).unwrap();
    assert_eq!(repository.reject(&context(2), made.id).unwrap().state, ProposalState::Open);
    let done = repository.approve(&context(1), made.id).unwrap();
    assert_eq!(done.state, ProposalState::Executed { at_ns: 5 });
    assert!(!repository.roles.votes(principal(2)));
    // Two are left, and two have to approve: neither can be taken.
    let admin = RoleGrant { principal: principal(1), role: Role::Admin };
    let refused = repository.propose(&context(0), ProposalAction::RevokeRole(admin)).unwrap_err();
    assert_eq!(refused, ModelError::ThresholdOutOfReach { approvals: 2, voters: 1 });
}

#[test]
fn keys_are_registered_by_those_who_have_them() {
    use ed25519_dalek::{Signer, SigningKey};
    use serde_bytes::ByteBuf;

    let mut repository = Repository::open(Memories::of(DefaultMemoryImpl::default()));
    let context = |who| CallContext { caller: principal(who), now_ns: 5 };
    repository.install(&context(0), vec![principal(0), principal(1)], Vec::new(), Policy::default());
    let (this, key) = (Principal::from_slice(&[9; 10]), SigningKey::from_bytes(&[3; 32]));
    let args = |signed_for: u8, repository: Principal| RegisterKeyArgs {
        public_key: ByteBuf::from(key.verifying_key().to_bytes()),
        possession: ByteBuf::from(
            key.sign(&key_possession_message(repository, principal(signed_for))).to_bytes(),
        ),
    };
    // A possession that somebody else proved, or proved to another repository, is none.
    let refused = repository.register_key(&context(1), this, &args(0, this)).unwrap_err();
    assert_eq!(refused, ModelError::NotPossessed);
    let elsewhere = Principal::from_slice(&[8; 10]);
    let refused = repository.register_key(&context(0), this, &args(0, elsewhere)).unwrap_err();
    assert_eq!(refused, ModelError::NotPossessed);
    repository.register_key(&context(0), this, &args(0, this)).unwrap();
    repository.register_key(&context(0), this, &args(0, this)).unwrap();
    let taken = repository.register_key(&context(1), this, &args(1, this)).unwrap_err();
    assert_eq!(taken, ModelError::KeyTaken { uploader: principal(0) });
    let short = RegisterKeyArgs { public_key: ByteBuf::from([1, 2]), possession: ByteBuf::new() };
    let ModelError::InvalidField(error) = repository.register_key(&context(0), this, &short).unwrap_err()
    else {
        panic!("a key has 32 bytes")
    };
    assert_eq!(error.field, "public_key");
    assert_eq!(repository.keys_of(principal(0)).len(), 1);
    repository.revoke_key(&context(1), &key.verifying_key().to_bytes()).unwrap();
    assert_eq!(
        repository.revoke_key(&context(0), &key.verifying_key().to_bytes()).unwrap_err(),
        ModelError::UnknownKey
    );
}
