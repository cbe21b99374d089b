//! An upload: the repository waits for nobody, so what may go wrong lies between messages. Whatever it is, the client that
//! repeats its requests ends with exactly the artifact's bytes, and the log tells each thing once.

use super::*;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, Repository, admin, stranger, uploader};
use serde_bytes::ByteBuf;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    AuditEntry, AuditEvent, AuditLogArgs, AuditPage, BeginUploadArgs, GetShardArgs, ListProposalsArgs,
    MissingShardsArgs, MissingShardsPage, ModelCanisterStatus, ModelError, ModelRecord, Proposal,
    ProposalAction, ProposalPage, ProposalState, PutShardArgs, PutShardResult, UploadState, ValidationReport,
};

/// Repeats a request until the repository answers; its errors are answers too.
fn insist<R: candid::CandidType + serde::de::DeserializeOwned>(
    network: &Network,
    repository: &Repository,
    caller: Principal,
    method: &str,
    args: &(impl candid::utils::ArgumentEncoder + Clone),
) -> Result<R, ModelError> {
    network
        .wait_patiently(method, || network.update_patiently(caller, repository.id, method, args.clone()).ok())
}

/// Uploads and activates the artifact as `novaq upload` does: it asks what is missing, sends that, and finishes.
fn upload(network: &Network, repository: &Repository, artifact: &Artifact) {
    let args = BeginUploadArgs { manifest: ByteBuf::from(artifact.manifest_bytes.as_slice()) };
    let begun: UploadState = insist(network, repository, uploader(), "begin_upload", &(args,)).unwrap();
    let model_id = begun.model_id;
    let args = MissingShardsArgs { model_id, after: None, limit: 100 };
    let missing: MissingShardsPage =
        insist(network, repository, uploader(), "missing_shards", &(args,)).unwrap();
    for index in missing.indices {
        let bytes = ByteBuf::from(artifact.shards[index as usize].as_slice());
        let args = PutShardArgs { model_id, index, bytes };
        let _: PutShardResult = insist(network, repository, uploader(), "put_shard", &(args,)).unwrap();
    }
    let _: ModelRecord = insist(network, repository, uploader(), "finish_upload", &(model_id,)).unwrap();
    let proposed: Result<Proposal, ModelError> =
        insist(network, repository, admin(), "propose", &(ProposalAction::Activate { model_id },));
    // Asked for a second time, an activation says that the model is active already.
    let active = ModelStatus::Active;
    assert!(match proposed {
        Ok(proposal) => matches!(proposal.state, ProposalState::Executed { .. }),
        Err(ModelError::WrongStatus { status, .. }) => status == active,
        Err(error) => panic!("{error}"),
    });
}

fn audit_log(network: &Network, repository: &Repository) -> Vec<AuditEntry> {
    let args = AuditLogArgs { after: None, limit: shared_types::paging::MAX_PAGE };
    let page: AuditPage = network.query(stranger(), repository.id, "audit_log", (args,));
    page.entries
}

/// Uploads twice under `plan`, the second time as a client that has heard nothing of the first.
fn publication(plan: &FaultPlan) -> Option<FaultTrace> {
    let (network, faults) = network()?;
    let repository = network.repository();
    let artifact = Artifact::small();
    let before = audit_log(&network, &repository).len();
    faults.set(plan);
    upload(&network, &repository, artifact);
    upload(&network, &repository, artifact);
    // The repository waits for nobody; awaits are those of its timers' library.
    let trace = faults.clear();

    for (index, shard) in artifact.shards.iter().enumerate() {
        let args = GetShardArgs { model_id: artifact.id, index: index as u32 };
        let bytes: Result<ByteBuf, ModelError> =
            network.query(stranger(), repository.id, "get_shard", (args,));
        assert_eq!(bytes.unwrap().as_slice(), shard, "{trace}");
    }
    let log = audit_log(&network, &repository);
    for (i, entry) in log.iter().enumerate() {
        assert!(entry.follows(i.checked_sub(1).map(|previous| &log[previous])), "{trace}");
    }
    let status: ModelCanisterStatus = network.query(stranger(), repository.id, "status", ());
    assert_eq!(
        (status.audit_entries, status.audit_head),
        (log.len() as u64, log[log.len() - 1].hash),
        "{trace}"
    );

    let model_id = artifact.id;
    let mut expected = vec![AuditEvent::UploadBegun { model_id }];
    expected
        .extend((0..artifact.shards.len() as u32).map(|index| AuditEvent::ShardStored { model_id, index }));
    let report: Result<ValidationReport, ModelError> =
        network.query(stranger(), repository.id, "validation_report", (model_id,));
    let report = report.unwrap().hash();
    let proposals = ListProposalsArgs { open_only: false, before: None, limit: 1 };
    let page: ProposalPage = network.query(stranger(), repository.id, "list_proposals", (proposals,));
    let id = page.proposals[0].id;
    expected.extend([
        AuditEvent::UploadFinished { model_id },
        AuditEvent::Validated { model_id, passed: true, report },
        AuditEvent::ProposalMade { id, action: ProposalAction::Activate { model_id } },
        AuditEvent::ProposalApproved { id },
        AuditEvent::Activated { model_id },
        AuditEvent::ProposalExecuted { id },
    ]);
    let events = log[before..].iter().map(|entry| &entry.event);
    let (upgrades, events): (Vec<_>, Vec<_>) =
        events.partition(|event| matches!(event, AuditEvent::Upgraded { .. }));
    assert_eq!(events, expected.iter().collect::<Vec<_>>(), "{trace}");
    let upgraded = |injected: &&local_net::network::faults::Injected| {
        matches!(injected.fault, Fault::Upgrade { .. }) && injected.prevented.is_none()
    };
    assert_eq!(upgrades.len(), trace.injected.iter().filter(upgraded).count(), "{trace}");
    Some(trace)
}

fn repository_of(trace: &FaultTrace) -> Principal {
    trace.messages[0].callee
}

#[test]
fn an_upload_survives_everything_between_two_messages() {
    explore(publication, |trace| at_every_message(trace, repository_of(trace)));
}

#[test]
fn an_upload_is_told_once_whatever_the_seed() {
    explore(publication, |trace| at_random(0..20, repository_of(trace)));
}
