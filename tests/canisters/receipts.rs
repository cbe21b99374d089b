//! Receipts: what a canister certifies is what a client checks and computes again.

use candid::Principal;
use ic_agent::Agent as Client;
use ic_agent::identity::Identity;
use novaq_cli::network::AgentCanister;
use novaq_cli::receipt::{ReceiptError, ReceiptFile, Replay};
use ohms_tests::artifact::Artifact;
use ohms_tests::network::Network;
use ohms_tests::wasm::Canister;
use shared_types::agent::{
    AgentConfig, AgentError, AgentInitArgs, FinishReason, GenerationParams, JobProgressArgs, JobRecord,
    JobState, SubmitJobArgs,
};
use shared_types::receipt::{CertifiedReceipt, ListReceiptsArgs, Outcome, ReceiptKey, ReceiptPage};
use shared_types::{Digest, ModelId};

const PROMPT: &str = "Once upon a time there was a fox";

fn params(max_tokens: u32) -> GenerationParams {
    GenerationParams { max_tokens, temperature: 0.9, top_k: Some(50), seed: 7, ..GenerationParams::default() }
}

fn identity() -> ic_agent::identity::BasicIdentity {
    ic_agent::identity::BasicIdentity::from_raw_key(&[5; 32])
}

/// An agent whose owner signs.
struct Owned {
    network: Network,
    id: Principal,
    owner: Principal,
}

impl Owned {
    fn new(config: AgentConfig) -> Self {
        let network = Network::new();
        let repository = network.repository();
        let artifact = Artifact::shared();
        repository.publish(artifact);
        let owner = identity().sender().unwrap();
        let (model_canister, model_id) = (repository.id, artifact.id);
        let args = AgentInitArgs {
            owner,
            model_canister,
            model_id,
            config,
            coordinator: None,
            profile: None,
            phase: None,
            quota: None,
        };
        let id = network.install(Canister::Agent, args);
        Self { network, id, owner }
    }

    fn submit(&self, args: SubmitJobArgs) -> JobRecord {
        let record: Result<JobRecord, AgentError> =
            self.network.update(self.owner, self.id, "submit_job", (args,));
        record.unwrap()
    }

    fn run(&self, prompt: &str, max_tokens: u32) -> JobRecord {
        let args = SubmitJobArgs {
            prompt: prompt.to_owned(),
            params: params(max_tokens),
            ..SubmitJobArgs::default()
        };
        let job_id = self.submit(args).job_id;
        self.wait(job_id)
    }

    fn wait(&self, job_id: u64) -> JobRecord {
        self.network.wait_for("the end of the job", || {
            let job: Result<JobRecord, AgentError> =
                self.network.query(self.owner, self.id, "get_job", (job_id,));
            job.ok().filter(|job| job.state.is_final())
        })
    }

    fn receipts(&self) -> ReceiptPage {
        let args = ListReceiptsArgs { after: None, limit: 100 };
        let page: Result<ReceiptPage, AgentError> =
            self.network.query(self.owner, self.id, "list_receipts", (args,));
        page.unwrap()
    }

    /// What `novaq receipt` writes for each job.
    fn files(mut self, jobs: &[u64]) -> Vec<ReceiptFile> {
        let url = self.network.pic.make_live(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::builder().with_url(url.as_str()).with_identity(identity()).build().unwrap();
            client.fetch_root_key().await.unwrap();
            let agent = AgentCanister::new(client, self.id);
            let mut files = Vec::new();
            for job in jobs {
                files.push(agent.receipt_file(*job).await.unwrap());
            }
            files
        })
    }
}

#[test]
fn a_receipt_is_certified_and_replays_equal() {
    let owned = Owned::new(AgentConfig { slice_instructions: 60_000_000, ..AgentConfig::default() });
    let job = owned.run(PROMPT, 12);
    let cancelled = owned.submit(SubmitJobArgs {
        prompt: "A crow".to_owned(),
        params: params(200),
        ..SubmitJobArgs::default()
    });
    owned.network.wait_for("some tokens", || {
        let args = JobProgressArgs { job_id: cancelled.job_id, after_token: 0 };
        let progress: Result<shared_types::agent::JobProgress, AgentError> =
            owned.network.query(owned.owner, owned.id, "job_progress", (args,));
        (progress.unwrap().next_token > 3).then_some(())
    });
    // A receipt comes with the end of its job.
    let open: Result<CertifiedReceipt, AgentError> =
        owned.network.query(owned.owner, owned.id, "get_receipt", (ReceiptKey::Job(cancelled.job_id),));
    assert_eq!(open, Err(AgentError::JobOpen { job_id: cancelled.job_id }));
    let ended: Result<JobRecord, AgentError> =
        owned.network.update(owned.owner, owned.id, "cancel_job", (cancelled.job_id,));
    assert_eq!(ended.unwrap().receipt, Some(2));

    // The hash tree survives an upgrade, and the chain goes on.
    owned.network.upgrade(owned.id, Canister::Agent);
    let third = owned.run("A hare", 2);
    let page = owned.receipts();
    assert_eq!(page.head.sequence, 3);
    for pair in page.receipts.windows(2) {
        assert_eq!(pair[1].previous, pair[0].hash());
    }
    assert_eq!(page.receipts[2].hash(), page.head.hash);

    let id = owned.id;
    let files = owned.files(&[job.job_id, cancelled.job_id, third.job_id]);
    let loaded = Artifact::shared().load();
    for (file, sequence) in files.iter().zip(1..) {
        assert_eq!((file.receipt.sequence, file.receipt.agent), (sequence, id));
        assert!(file.proof.is_some(), "a query is answered with a certificate");
        assert_eq!(file.check(), Ok(()));
        assert_eq!(file.replay(&loaded).unwrap(), Replay::Equal);
        let json = serde_json::to_string(file).unwrap();
        assert_eq!(serde_json::from_str::<ReceiptFile>(&json).unwrap(), *file);
    }
    let [whole, cut, _] = &files[..] else { panic!("three files") };
    assert_eq!(whole.receipt.outcome, Outcome::Done { reason: FinishReason::MaxTokens });
    assert_eq!(whole.receipt.model_id, Artifact::shared().id);
    assert_eq!((whole.receipt.tokens, whole.receipt.instructions), (12, job.counts.instructions));
    assert_eq!(cut.receipt.outcome, Outcome::Cancelled);
    assert!(cut.receipt.tokens > 3 && cut.receipt.tokens < 200);

    tampered_receipts_are_found(whole, cut);
    let mut other = whole.clone();
    other.tokens[5] ^= 1;
    let replay = other.replay(&loaded).unwrap();
    let (there, computed) = (Some(other.tokens[5]), Some(whole.tokens[5]));
    assert_eq!(replay, Replay::Token { position: 5, receipt: there, computed });
    let mut short = whole.clone();
    short.tokens.pop();
    assert_eq!(
        short.replay(&loaded).unwrap(),
        Replay::Token { position: 11, receipt: None, computed: Some(whole.tokens[11]) }
    );
}

/// Whoever changes a field can put the hash right, but not the certificate.
fn tampered_receipts_are_found(whole: &ReceiptFile, other: &ReceiptFile) {
    let json = serde_json::to_value(whole).unwrap();
    let mut changed = 0;
    for (name, value) in json["receipt"].as_object().unwrap() {
        let mut forged = json.clone();
        forged["receipt"][name] = match value {
            serde_json::Value::Number(_) => 77.into(),
            serde_json::Value::String(text) if text.len() == 64 => "ab".repeat(32).into(),
            serde_json::Value::String(_) if name == "engine_version" => "9.9.9".into(),
            serde_json::Value::String(_) if name == "agent" => "rrkah-fqaaa-aaaaa-aaaaq-cai".into(),
            serde_json::Value::String(_) => "2vxsx-fae".into(),
            _ if name == "params" => serde_json::to_value(params(13)).unwrap(),
            _ => "Cancelled".into(),
        };
        let mut file: ReceiptFile = serde_json::from_value(forged).unwrap();
        assert_ne!(file.receipt, whole.receipt, "{name} is changed");
        assert!(matches!(file.check(), Err(ReceiptError::Hash { .. })), "{name}");
        file.hash = file.receipt.hash();
        assert!(file.check().is_err(), "{name}, with the hash put right");
        changed += 1;
    }
    assert!(changed > 15, "{changed} fields");
    let forged = |change: fn(&mut ReceiptFile, &ReceiptFile)| {
        let mut file = whole.clone();
        change(&mut file, other);
        assert!(file.check().is_err(), "{file:?}");
    };
    forged(|file, _| file.prompt.push('x'));
    forged(|file, _| file.text.push('x'));
    forged(|file, _| file.tokens[0] += 1);
    forged(|file, _| file.hash = Digest::ZERO);
    forged(|file, _| file.messages = Some(Vec::new()));
    forged(|file, other| {
        (file.receipt, file.hash) = (other.receipt.clone(), other.hash);
        file.tokens.clone_from(&other.tokens);
    });
    forged(|file, _| *file.proof.as_mut().unwrap().root_key.last_mut().unwrap() ^= 1);
    forged(|file, _| *file.proof.as_mut().unwrap().certificate.last_mut().unwrap() ^= 1);
    forged(|file, _| *file.proof.as_mut().unwrap().witness.last_mut().unwrap() ^= 1);
    forged(|file, other| {
        file.proof.as_mut().unwrap().witness.clone_from(&other.proof.as_ref().unwrap().witness);
    });
}

#[test]
fn an_answer_is_given_again_and_says_so() {
    let config = AgentConfig { cache_seconds: Some(600), ..AgentConfig::default() };
    let owned = Owned::new(config);
    let first = owned.run(PROMPT, 6);
    let again = owned.run(PROMPT, 6);
    assert_eq!(again.state, JobState::Done { reason: FinishReason::MaxTokens });
    assert_eq!((again.repeats, again.counts.instructions), (first.receipt, 0));
    let other = owned.run(PROMPT, 7);
    assert_eq!(other.repeats, None);
    owned.network.pic.advance_time(std::time::Duration::from_mins(11));
    owned.network.pic.tick();
    assert_eq!(owned.run(PROMPT, 6).repeats, None, "it is too old by now");
    let files = owned.files(&[first.job_id, again.job_id]);
    assert_eq!((files[1].receipt.repeats, files[1].receipt.instructions), (Some(1), 0));
    assert_eq!((&files[1].tokens, &files[1].text), (&files[0].tokens, &files[0].text));
    assert_eq!(files[1].check(), Ok(()));
    assert_eq!(files[1].replay(&Artifact::shared().load()).unwrap(), Replay::Equal);
}

#[test]
fn jobs_that_compute_nothing_have_receipts_too() {
    let network = Network::new();
    let repository = network.repository();
    let owner = identity().sender().unwrap();
    let model_id = ModelId::of(b"unknown");
    let args = AgentInitArgs {
        owner,
        model_canister: repository.id,
        model_id,
        config: AgentConfig::default(),
        coordinator: None,
        profile: None,
        phase: None,
        quota: None,
    };
    let id = network.install(Canister::Agent, args);
    let owned = Owned { network, id, owner };
    let failed = owned.run(PROMPT, 1);
    assert!(matches!(failed.state, JobState::Failed { .. }));
    let files = owned.files(&[failed.job_id]);
    assert!(matches!(files[0].receipt.outcome, Outcome::Failed { .. }));
    assert_eq!((files[0].receipt.prompt_tokens_sha256, files[0].receipt.tokens), (None, 0));
    assert_eq!(files[0].check(), Ok(()));
}
