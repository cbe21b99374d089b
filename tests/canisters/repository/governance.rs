//! Decisions by several admins, and that nothing else changes an Active model.

use candid::{Encode, Principal};
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, Repository, principal, stranger, uploader};
use ohms_tests::wasm::Canister;
use serde_bytes::ByteBuf;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    GetShardArgs, ModelError, ModelRecord, Policy, ProposalAction, ProposalState, PutShardArgs, Role,
    RoleGrant,
};
use std::time::Duration;

fn admins() -> Vec<Principal> {
    vec![principal(11), principal(12), principal(13)]
}

/// A repository in which two of three admins decide.
fn governed(network: &Network) -> Repository<'_> {
    let policy = Policy { approvals: 2, proposal_ttl_seconds: 3_600, ..Policy::default() };
    network.governed_repository(admins(), policy)
}

/// Proposes and approves.
fn decide(repository: &Repository, action: ProposalAction) {
    let [first, second, _] = admins()[..] else { panic!("three admins") };
    let made = repository.propose(first, action).unwrap();
    assert_eq!(made.state, ProposalState::Open);
    let done = repository.vote(second, made.id, true).unwrap();
    assert!(matches!(done.state, ProposalState::Executed { .. }), "{:?}", done.state);
}

#[test]
fn two_of_three_admins_decide_and_proposals_expire() {
    let network = Network::new();
    let repository = governed(&network);
    let artifact = Artifact::small();
    let [first, second, third] = admins()[..] else { panic!("three admins") };
    decide(&repository, ProposalAction::GrantRole(RoleGrant { principal: uploader(), role: Role::Uploader }));
    repository.register_key(uploader(), &ohms_tests::artifact::signing_key()).unwrap();
    repository.begin(uploader(), &artifact.manifest_bytes).unwrap();
    for (index, shard) in artifact.shards.iter().enumerate() {
        repository.put(uploader(), artifact.id, index as u32, shard).unwrap();
    }
    repository.finish(uploader(), artifact.id).unwrap();

    let status = || {
        let record: Result<ModelRecord, ModelError> =
            network.query(first, repository.id, "get_model", (artifact.id,));
        record.unwrap().status
    };
    // One admin is not enough, however often it approves; a stranger does not count.
    let made = repository.activate(first, artifact.id).unwrap();
    repository.vote(first, made.id, true).unwrap();
    assert_eq!(repository.activate(first, artifact.id).unwrap().id, made.id);
    let refused = repository.vote(stranger(), made.id, true).unwrap_err();
    assert_eq!(refused, ModelError::Unauthorized { required: Role::Admin });
    assert_eq!(status(), ModelStatus::Pending);
    network.upgrade(repository.id, Canister::Model);

    // After its time it is over, and has to be made again.
    network.pic.advance_time(Duration::from_secs(3_601));
    let closed = ModelError::ProposalClosed { id: made.id, state: ProposalState::Expired };
    assert_eq!(repository.vote(second, made.id, true), Err(closed));
    let made = repository.activate(first, artifact.id).unwrap();
    assert_eq!(repository.vote(third, made.id, false).unwrap().state, ProposalState::Open);
    assert!(matches!(repository.vote(second, made.id, true).unwrap().state, ProposalState::Executed { .. }));
    assert_eq!(status(), ModelStatus::Active);

    // The rule changes by the rule.
    let stricter = Policy { approvals: 3, ..Policy::default() };
    decide(&repository, ProposalAction::SetPolicy(stricter));
    let made = repository.deprecate(first, artifact.id, "old").unwrap();
    assert_eq!(repository.vote(second, made.id, true).unwrap().state, ProposalState::Open);
    // With three approvals wanted of three, one rejection ends it.
    let ended = repository.vote(third, made.id, false).unwrap();
    assert!(matches!(ended.state, ProposalState::Rejected { .. }));
    let revoke = ProposalAction::RevokeRole(RoleGrant { principal: third, role: Role::Admin });
    let refused = repository.propose(first, revoke).unwrap_err();
    assert_eq!(refused, ModelError::ThresholdOutOfReach { approvals: 3, voters: 2 });
}

/// Pseudo-random numbers (Steele et al., 2014, "`SplitMix64`").
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Whatever anybody calls in whatever order, upgrades included: the bytes of an Active model stay.
#[test]
fn no_sequence_of_calls_changes_the_bytes_of_an_active_model() {
    let network = Network::new();
    let repository = network.repository();
    let artifact = Artifact::small();
    repository.publish(artifact);
    let mut random = Random(5);
    let callers = [ohms_tests::network::admin(), uploader(), stranger(), Principal::anonymous()];
    for step in 0..150 {
        let caller = callers[random.below(4) as usize];
        let index = random.below(artifact.shards.len() as u64 + 1) as u32;
        let mut bytes = artifact.shards[index as usize % artifact.shards.len()].clone();
        if random.below(2) == 0 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        let id = artifact.id;
        let call = |method: &str, args: Vec<u8>| {
            // What is refused, and how, is tested elsewhere.
            let _ = network.pic.update_call(repository.id, caller, method, args);
        };
        match random.below(9) {
            0 => call(
                "begin_upload",
                Encode!(&shared_types::model::BeginUploadArgs {
                    manifest: ByteBuf::from(artifact.manifest_bytes.as_slice()),
                })
                .unwrap(),
            ),
            1..3 => call(
                "put_shard",
                Encode!(&PutShardArgs { model_id: id, index, bytes: ByteBuf::from(bytes) }).unwrap(),
            ),
            3 => call("finish_upload", Encode!(&id).unwrap()),
            4 => call("discard_upload", Encode!(&id).unwrap()),
            5 => call("revalidate", Encode!(&id).unwrap()),
            6 => call("propose", Encode!(&ProposalAction::Activate { model_id: id }).unwrap()),
            7 => network.pic.advance_time(Duration::from_secs(random.below(20) * 86_400)),
            _ if step % 3 == 0 => network.upgrade(repository.id, Canister::Model),
            _ => network.pic.tick(),
        }
    }
    for (index, shard) in artifact.shards.iter().enumerate() {
        let args = GetShardArgs { model_id: artifact.id, index: index as u32 };
        let bytes: Result<ByteBuf, ModelError> =
            network.query(stranger(), repository.id, "get_shard", (args,));
        assert_eq!(bytes.unwrap().as_slice(), shard);
    }
    let record: Result<ModelRecord, ModelError> =
        network.query(stranger(), repository.id, "get_model", (artifact.id,));
    assert_eq!(record.unwrap().status, ModelStatus::Active);
}
