//! Jobs that take from their owner's quota: an agent with `econ`.

use candid::Principal;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, admin, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::agent::{
    AgentConfig, AgentError, AgentInitArgs, AgentQuota, GenerationParams, JobFailure, JobRecord, JobState,
    SubmitJobArgs,
};
use shared_types::econ::usage::{UsageArgs, UsagePage};
use shared_types::econ::{EconConfig, EconError, ServiceGrant, ServiceRole};

use crate::econ::{Shop, coordinator};

const PROMPT: &str = "Once upon a fox";

fn params(max_tokens: u32) -> GenerationParams {
    GenerationParams { max_tokens, ..GenerationParams::default() }
}

/// An agent of the owner's whose jobs take from the owner's quota; those of [`coordinator`] are prepaid.
pub fn metered<'a>(network: &'a Network, artifact: &Artifact, econ: Principal) -> Agent<'a> {
    let repository = network.repository();
    repository.publish(artifact);
    let args = AgentInitArgs {
        owner: owner(),
        model_canister: repository.id,
        model_id: artifact.id,
        // Slices of a few tokens.
        config: AgentConfig { slice_instructions: 60_000_000, ..AgentConfig::default() },
        coordinator: Some(coordinator()),
        profile: None,
        phase: None,
        quota: Some(AgentQuota { econ, prepaid: vec![coordinator()] }),
    };
    network.agent_of(args)
}

/// Has `econ` know the agent, as it does once its creation is settled.
pub fn introduce(shop: &Shop, agent: &Agent) {
    let role = ServiceRole::Agent { account: owner() };
    shop.update::<()>(admin(), "grant_service", (ServiceGrant { service: agent.id, role },)).unwrap();
}

fn usage(shop: &Shop) -> UsagePage {
    shop.query(owner(), "usage", (UsageArgs { account: None, after: None, limit: 10 },)).unwrap()
}

fn tokens(job: &JobRecord) -> u64 {
    u64::from(job.counts.prompt_tokens) + u64::from(job.counts.generated_tokens)
}

/// Waits until nothing is held any more; what the period was charged.
fn settled(network: &Network, shop: &Shop) -> u64 {
    network.wait_for("the settlement", || (shop.account().open_reservations == 0).then_some(()));
    shop.account().tokens.used
}

#[test]
fn a_job_takes_its_tokens_from_its_owners_quota() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Basic", "first");
    let artifact = Artifact::small();
    let agent = metered(&network, artifact, shop.id);
    introduce(&shop, &agent);
    let args = SubmitJobArgs {
        prompt: PROMPT.to_owned(),
        params: params(6),
        key: Some("tale".to_owned()),
        ..SubmitJobArgs::default()
    };
    let id = agent.submit_args(args.clone()).unwrap().job_id;
    let done = agent.wait(id);
    assert_eq!(done.tokens, artifact.generate(PROMPT, &params(6)).0);
    assert_eq!(agent.submit_args(args).unwrap().job_id, id, "the same key is the same job");
    let charged = settled(&network, &shop);
    assert_eq!(charged, tokens(&done.job));
    let page = usage(&shop);
    assert_eq!(page.records.len(), 1);
    let record = &page.records[0];
    assert_eq!((record.agent, record.charged_tokens), (agent.id, charged));
    assert_eq!(record.envelope.instructions, done.job.counts.instructions);

    // The coordinator reserves for its own jobs.
    let args = SubmitJobArgs { prompt: PROMPT.to_owned(), params: params(4), ..SubmitJobArgs::default() };
    let prepaid: Result<JobRecord, AgentError> =
        network.update(coordinator(), agent.id, "submit_job", (args,));
    agent.wait(prepaid.unwrap().job_id);
    assert_eq!((settled(&network, &shop), usage(&shop).records.len()), (charged, 1));

    // A job that is cancelled is charged for what it took.
    let long = agent.submit(PROMPT, &params(200));
    network.wait_for("its first tokens", || {
        (agent.progress(long, 0).job.counts.generated_tokens > 0).then_some(())
    });
    let cancelled: Result<JobRecord, AgentError> = network.update(owner(), agent.id, "cancel_job", (long,));
    let cancelled = cancelled.unwrap();
    assert!(cancelled.counts.generated_tokens < 200);
    assert_eq!(settled(&network, &shop), charged + tokens(&cancelled));
}

#[test]
fn a_job_without_quota_does_not_run_and_says_why() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    let agent = metered(&network, Artifact::small(), shop.id);
    introduce(&shop, &agent);
    let refused = |job: u64| {
        let done = agent.wait(job);
        assert_eq!((done.job.counts.messages, done.tokens.len()), (0, 0), "it does not begin");
        match done.job.state {
            JobState::Failed { reason: JobFailure::Quota { reason } } => reason,
            state => panic!("{state:?}"),
        }
    };
    let none = refused(agent.submit(PROMPT, &params(6)));
    assert!(none.contains("no usable subscription"), "{none}");
    shop.subscribe("Basic", "first");
    let account = shop.account();
    let left = account.subscription.period.expect("a period").tokens;
    // What another one holds is not there.
    let held = shop.reserve(coordinator(), shared_types::econ::Resource::Tokens(left - 20), "all").unwrap();
    let short = refused(agent.submit(PROMPT, &params(100)));
    assert!(short.contains("tokens asked for, 20 left"), "{short}");
    let released: Result<(), EconError> = shop.update(coordinator(), "release", (held.id,));
    released.unwrap();
    assert_eq!(agent.wait(agent.submit(PROMPT, &params(3))).tokens.len(), 3);
}

#[test]
fn a_job_waits_for_econ_and_goes_on_over_an_upgrade() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Basic", "first");
    let agent = metered(&network, Artifact::small(), shop.id);
    let job = agent.submit(PROMPT, &params(3));
    (0..20).for_each(|_| network.pic.tick());
    assert_eq!(agent.progress(job, 0).job.state, JobState::Queued, "econ does not know the agent yet");
    network.upgrade(agent.id, Canister::Agent);
    introduce(&shop, &agent);
    let done = agent.wait(job);
    assert_eq!(done.tokens.len(), 3);
    assert_eq!(settled(&network, &shop), tokens(&done.job));
}

/// Whoever deletes an agent pays for what its jobs took until then.
#[test]
fn an_agent_settles_before_it_is_deleted() {
    let network = Network::new();
    let shop = Shop::open(&network, EconConfig::default());
    shop.subscribe("Basic", "first");
    let agent = metered(&network, Artifact::small(), shop.id);
    introduce(&shop, &agent);
    let job = agent.submit(PROMPT, &params(200));
    network.wait_for("its first tokens", || {
        (agent.progress(job, 0).job.counts.generated_tokens > 2).then_some(())
    });
    let theirs: Result<u128, AgentError> = network.update(stranger(), agent.id, "return_cycles", ());
    assert_eq!(theirs, Err(AgentError::Unauthorized));
    let returned: Result<u128, AgentError> = network.update(admin(), agent.id, "return_cycles", ());
    assert_eq!(returned, Ok(0), "the admin is no canister that takes cycles");
    let account = shop.account();
    let job = agent.progress(job, 0).job;
    assert_eq!((job.state.clone(), account.open_reservations), (JobState::Cancelled, 0));
    assert_eq!(account.tokens.used, tokens(&job));
}
