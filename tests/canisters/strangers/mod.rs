//! Every method of every canister, called by somebody who may not.

mod coordinator;
mod econ;
mod site;

use std::fmt::Debug;

use candid::utils::ArgumentEncoder;
use candid::{CandidType, Encode, Principal, Reserved};
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Network, http_get, owner, stranger, uploader};
use ohms_tests::wasm::Canister;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use shared_types::agent::memory::{
    ConverseArgs, ExportMemoryArgs, GetConversationArgs, ListConversationsArgs, ListFactsArgs, RememberArgs,
    SearchFactsArgs,
};
use shared_types::agent::phase::AgentPhase;
use shared_types::agent::profile::AgentProfile;
use shared_types::agent::wallet::{ListPaymentsArgs, PayArgs, SetLedgerArgs, SpendingLimits, WithdrawArgs};
use shared_types::agent::{
    AgentConfig, AgentError, DraftArgs, EmbedArgs, JobProgressArgs, ListJobsArgs, SubmitJobArgs,
};
use shared_types::factory::rollout::{BeginRolloutArgs, RolloutReportArgs};
use shared_types::factory::{
    BeginTemplateArgs, FactoryConfig, FactoryError, JournalArgs, ListAgentsArgs, ListTemplatesArgs,
    PutTemplateChunkArgs, TopUpAgentArgs,
};
use shared_types::model::{
    AuditLogArgs, BeginUploadArgs, GetShardArgs, GetShardChunkArgs, ListIndexArgs, ListModelsArgs,
    ListProposalsArgs, ListRolesArgs, MissingShardsArgs, ModelError, ProposalAction, PutShardArgs,
    RegisterKeyArgs, Role, RoleGrant,
};
use shared_types::receipt::{ListReceiptsArgs, ReceiptKey};

/// What a stranger gets from a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// An error of this name.
    Refused(&'static str),
    /// Whatever everybody may read.
    Public,
}

struct Case {
    method: &'static str,
    args: Vec<u8>,
    answer: Answer,
}

fn case(method: &'static str, args: impl ArgumentEncoder, answer: Answer) -> Case {
    Case { method, args: candid::encode_args(args).unwrap(), answer }
}

/// Calls every case as `caller`, and checks that the cases are all the methods there are; `E` is the canister's error.
fn check<E: CandidType + DeserializeOwned + Debug>(
    network: &Network,
    id: Principal,
    canister: Canister,
    caller: Principal,
    cases: &[Case],
) {
    let mut methods = canister.methods();
    let mut covered: Vec<String> = cases.iter().map(|case| case.method.to_owned()).collect();
    methods.sort();
    covered.sort();
    assert_eq!(covered, methods, "every method of the Candid file has a case");
    for Case { method, args, answer } in cases {
        let reply = network.pic.update_call(id, caller, method, args.clone());
        let reply = reply.unwrap_or_else(|reject| panic!("{canister:?}.{method}: {reject:?}"));
        if let Answer::Refused(error) = answer {
            let result: Result<Reserved, E> = candid::decode_one(&reply).unwrap();
            let refusal = result.map_or_else(|error| format!("{error:?}"), |_| "a reply".to_owned());
            assert!(
                refusal.starts_with(error),
                "{canister:?}.{method} gives {caller} {refusal}, not {error}"
            );
        }
    }
}

fn model_cases(write: Answer, admin: Answer, pending: Answer) -> Vec<Case> {
    let model_id = Artifact::shared().id;
    let manifest = ByteBuf::from(Artifact::shared().manifest_bytes.as_slice());
    let grant = RoleGrant { principal: stranger(), role: Role::Admin };
    let key = RegisterKeyArgs { public_key: ByteBuf::new(), possession: ByteBuf::new() };
    vec![
        case("begin_upload", (BeginUploadArgs { manifest },), write),
        case("put_shard", (PutShardArgs { model_id, index: 0, bytes: ByteBuf::new() },), write),
        case("finish_upload", (model_id,), write),
        case("discard_upload", (model_id,), write),
        case("revalidate", (model_id,), write),
        case("propose", (ProposalAction::GrantRole(grant),), admin),
        case("approve", (1u64,), admin),
        case("reject", (1u64,), admin),
        case("register_key", (key,), write),
        case("revoke_key", (ByteBuf::new(),), write),
        case(
            "missing_shards",
            (MissingShardsArgs { model_id, after: None, limit: 1 },),
            Answer::Refused("Unauthorized"),
        ),
        case("get_model", (model_id,), pending),
        case("get_manifest", (model_id,), pending),
        case("get_shard", (GetShardArgs { model_id, index: 0 },), pending),
        case("get_shard_chunk", (GetShardChunkArgs { model_id, index: 0, offset: 0, length: 1 },), pending),
        case("get_certified_model", (model_id,), pending),
        case("validation_report", (model_id,), pending),
        case("latest", ("nothing",), Answer::Refused("UnknownName")),
        case(
            "list_models",
            (ListModelsArgs { status: None, filter: None, after: None, limit: 1 },),
            Answer::Public,
        ),
        case("uploader_usage", (), Answer::Public),
        case("list_keys", (uploader(),), Answer::Public),
        case(
            "list_proposals",
            (ListProposalsArgs { open_only: true, before: None, limit: 1 },),
            Answer::Public,
        ),
        case("get_proposal", (1u64,), Answer::Public),
        case("governance", (), Answer::Public),
        case("list_repositories", (), Answer::Public),
        case("list_index", (ListIndexArgs { name: None, after: None, limit: 1 },), Answer::Public),
        case("placement", (1u64,), Answer::Public),
        case("locate", (model_id,), Answer::Public),
        case("http_request", (http_get("/health"),), Answer::Public),
        case("list_roles", (ListRolesArgs { after: None, limit: 1 },), Answer::Public),
        case("audit_log", (AuditLogArgs { after: None, limit: 1 },), Answer::Public),
        case("status", (), Answer::Public),
    ]
}

#[test]
fn strangers_are_refused_by_the_repository() {
    let network = Network::new();
    let repository = network.repository();
    repository.begin(uploader(), &Artifact::shared().manifest_bytes).unwrap();
    let (unauthorized, pending) = (Answer::Refused("Unauthorized"), Answer::Refused("WrongStatus"));
    let cases = model_cases(unauthorized, unauthorized, pending);
    check::<ModelError>(&network, repository.id, Canister::Model, stranger(), &cases);
    let anonymous = Answer::Refused("Anonymous");
    let cases = model_cases(anonymous, anonymous, pending);
    check::<ModelError>(&network, repository.id, Canister::Model, Principal::anonymous(), &cases);
}

#[test]
fn strangers_are_refused_by_the_factory() {
    let network = Network::new();
    let repository = network.repository();
    let factory = network.factory(FactoryConfig::default());
    let sha256 = factory.upload_template(&Canister::Agent.wasm());
    let create = factory.agent_args("mine", &repository, Artifact::shared().id);
    let created = network.pic.update_call(factory.id, owner(), "create_agent", Encode!(&create).unwrap());
    created.unwrap();
    let begin = BeginTemplateArgs { sha256, bytes: 1, version: "1".to_owned() };
    let chunk = PutTemplateChunkArgs { sha256, index: 0, bytes: ByteBuf::new() };
    let rollout = BeginRolloutArgs { template: sha256, stages: vec![100], max_failures: 0 };
    let top_up = TopUpAgentArgs { owner: Some(owner()), key: "mine".to_owned(), cycles: None };
    let cases = |admin: Answer, create_answer: Answer, unknown: Answer, deletion: Answer| {
        vec![
            case("begin_template", (begin.clone(),), admin),
            case("put_template_chunk", (chunk.clone(),), admin),
            case("commit_template", (sha256,), admin),
            case("create_agent", (create.clone(),), create_answer),
            case("delete_agent", ("mine",), deletion),
            case("adopt_canister", (stranger(),), admin),
            case("set_coordinators", (vec![stranger()],), admin),
            case("set_config", (FactoryConfig::default(),), admin),
            case("begin_rollout", (rollout.clone(),), admin),
            case("advance_rollout", (), admin),
            case("roll_back", (), admin),
            case("rollout_report", (RolloutReportArgs { after: None, limit: 1 },), admin),
            case("top_up_agent", (top_up.clone(),), admin),
            case("stop_agent", ("mine",), deletion),
            case("start_agent", ("mine",), deletion),
            case("get_agent", ("mine",), unknown),
            case("journal", (JournalArgs { after: None, limit: 1 },), admin),
            case("list_agents", (ListAgentsArgs { after: None, limit: 1 },), Answer::Public),
            case("list_templates", (ListTemplatesArgs { after: None, limit: 1 },), Answer::Public),
            case("status", (), Answer::Public),
        ]
    };
    // Somebody who signs may have agents of their own, under their own keys; another's stay out of reach.
    let (unauthorized, unknown) = (Answer::Refused("Unauthorized"), Answer::Refused("UnknownAgent"));
    let mut signed = cases(unauthorized, Answer::Public, unknown, unknown);
    signed.sort_by_key(|case| case.method == "create_agent");
    check::<FactoryError>(&network, factory.id, Canister::AgentFactory, stranger(), &signed);
    let anonymous = Answer::Refused("Anonymous");
    let cases = cases(anonymous, anonymous, unknown, anonymous);
    check::<FactoryError>(&network, factory.id, Canister::AgentFactory, Principal::anonymous(), &cases);
}

#[test]
fn strangers_are_refused_by_the_agent() {
    let network = Network::new();
    let repository = network.repository();
    let agent = network.agent(repository.id, Artifact::shared().id, AgentConfig::default());
    let submit = SubmitJobArgs { prompt: "p".to_owned(), ..SubmitJobArgs::default() };
    let said = ConverseArgs {
        conversation: "tale".to_owned(),
        message: "m".to_owned(),
        key: "k".to_owned(),
        priority: None,
    };
    let search = SearchFactsArgs { text: "a".to_owned(), vector: None, encoder: None, limit: 1 };
    let conversation = GetConversationArgs { name: "tale".to_owned(), after: None, limit: 1 };
    let pay = PayArgs {
        ledger: stranger(),
        to: stranger().into(),
        amount: 1,
        key: "k".to_owned(),
        memo: None,
        purpose: String::new(),
    };
    let withdraw = WithdrawArgs { ledger: stranger(), amount: None, key: "k".to_owned(), subaccount: None };
    let refused = Answer::Refused("Unauthorized");
    let cases = [
        case("submit_job", (submit,), refused),
        case("cancel_job", (1u64,), refused),
        case("pause_job", (1u64,), refused),
        case("resume_job", (1u64,), refused),
        case("pause_queue", (), refused),
        case("resume_queue", (), refused),
        case("load_model", (), refused),
        case("set_coordinator", (Some(stranger()),), refused),
        case("configure", (AgentProfile::default(),), refused),
        case("set_phase", (AgentPhase::Paused,), refused),
        case("get_profile", (), refused),
        case("converse", (said,), refused),
        case("remember", (RememberArgs { facts: Vec::new(), encoder: None },), refused),
        case("forget_fact", (1u64,), refused),
        case("forget_conversation", ("tale",), refused),
        case("erase_memory", (), refused),
        case("list_facts", (ListFactsArgs { after: None, limit: 1 },), refused),
        case("search_facts", (search,), refused),
        case("list_conversations", (ListConversationsArgs { after: None, limit: 1 },), refused),
        case("get_conversation", (conversation,), refused),
        case("export_memory", (ExportMemoryArgs { after: None },), refused),
        case("wallet", (), refused),
        case("wallet_address", (), refused),
        case(
            "set_ledger",
            (SetLedgerArgs { ledger: stranger(), limits: SpendingLimits::default() },),
            refused,
        ),
        case("remove_ledger", (stranger(),), refused),
        case("pay", (pay,), refused),
        case("approve_payment", (1u64,), refused),
        case("reject_payment", (1u64,), refused),
        case("withdraw", (withdraw,), refused),
        case("list_payments", (ListPaymentsArgs { after: None, limit: 1 },), refused),
        case("get_payment", (1u64,), refused),
        case("return_funds", (), refused),
        case("return_cycles", (), refused),
        case("job_progress", (JobProgressArgs { job_id: 1, after_token: 0 },), refused),
        case("draft", (DraftArgs { job_id: 1, max_tokens: None },), refused),
        case("embed", (EmbedArgs { texts: vec!["a".to_owned()] },), refused),
        case("embed_draft", (EmbedArgs { texts: vec!["a".to_owned()] },), refused),
        case("get_prompt", (1u64,), refused),
        case("get_receipt", (ReceiptKey::Job(1),), refused),
        case("list_receipts", (ListReceiptsArgs { after: None, limit: 1 },), refused),
        case("get_job", (1u64,), refused),
        case("list_jobs", (ListJobsArgs { after: None, limit: 1 },), refused),
        case("status", (), refused),
    ];
    for caller in [stranger(), Principal::anonymous(), repository.id] {
        check::<AgentError>(&network, agent.id, Canister::Agent, caller, &cases);
        // Not in the Candid file, since only the canister itself may call it; its owner may not either.
        for caller in [caller, owner()] {
            let reply = network.pic.update_call(agent.id, caller, "run_slice", Encode!().unwrap()).unwrap();
            let reply: Result<(), AgentError> = candid::decode_one(&reply).unwrap();
            assert_eq!(reply, Err(AgentError::Unauthorized));
        }
    }
}
