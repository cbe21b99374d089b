//! A network with the canisters of OHMS on it, and typed calls to them.

use std::time::Duration;

use candid::utils::ArgumentEncoder;
use candid::{CandidType, Encode, Principal};
use ed25519_dalek::Signer;
use pocket_ic::common::rest::{IcpFeatures, IcpFeaturesConfig};
use pocket_ic::{PocketIc, PocketIcBuilder, RejectResponse};
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use shared_types::agent::{
    AgentConfig, AgentError, AgentInitArgs, AgentStatus, Draft, DraftArgs, GenerationParams, JobId,
    JobProgress, JobProgressArgs, JobRecord, SubmitJobArgs,
};
use shared_types::factory::{
    BeginTemplateArgs, CreateAgentArgs, FactoryConfig, FactoryError, FactoryInitArgs, PutTemplateChunkArgs,
    TEMPLATE_CHUNK_BYTES, Template,
};
use shared_types::model::{
    BeginUploadArgs, ModelError, ModelInitArgs, ModelRecord, Policy, Proposal, ProposalAction, ProposalState,
    PutShardArgs, PutShardResult, RegisterKeyArgs, Role, RoleGrant, UploadState, Validation,
    ValidationReport, key_possession_message,
};
use shared_types::ui::HttpGatewayRequest;
use shared_types::{Digest, ModelId};

use crate::artifact::{Artifact, signing_key};
use crate::wasm::Canister;

/// Cycles that test canisters start with.
const CYCLES: u128 = 1_000_000_000_000_000;

/// The cycles ledger, `um5iw-rqaaa-aaaaq-qaaba-cai`, as on the Internet Computer.
pub const CYCLES_LEDGER: Principal = Principal::from_slice(&[0, 0, 0, 0, 2, 16, 0, 2, 1, 1]);

/// Rounds after which a test gives up waiting.
const MAX_ROUNDS: u32 = 3_000;

/// A made-up principal of the self-authenticating kind.
pub fn principal(who: u8) -> Principal {
    let mut bytes = [who; 29];
    bytes[28] = 2;
    Principal::from_slice(&bytes)
}

/// Admin of the repository and of the factory, and controller of what the tests install.
pub fn admin() -> Principal {
    principal(1)
}

/// May upload models.
pub fn uploader() -> Principal {
    principal(2)
}

/// Owns the agents.
pub fn owner() -> Principal {
    principal(3)
}

/// Has no rights anywhere.
pub fn stranger() -> Principal {
    principal(4)
}

/// A network.
pub struct Network {
    /// The client of the server that runs it.
    pub pic: PocketIc,
}

impl Network {
    /// A new network with one application subnet.
    ///
    /// # Panics
    /// When `POCKET_IC_BIN` names no server.
    pub fn new() -> Self {
        assert!(
            std::env::var_os("POCKET_IC_BIN").is_some(),
            "POCKET_IC_BIN is not set: run `cargo xtask test`, or `cargo build -p local-net` and set it to that binary"
        );
        Self { pic: PocketIcBuilder::new().with_application_subnet().build() }
    }

    /// A new network that has the cycles ledger as well.
    pub fn with_cycles_ledger() -> Self {
        let cycles_token = Some(IcpFeaturesConfig::DefaultConfig);
        let features = IcpFeatures { cycles_token, ..IcpFeatures::default() };
        let builder = PocketIcBuilder::new().with_application_subnet().with_ii_subnet();
        Self { pic: builder.with_icp_features(features).build() }
    }

    /// Installs `canister` with `admin` as its controller.
    ///
    /// # Panics
    /// When installation fails.
    pub fn install(&self, canister: Canister, args: impl CandidType) -> Principal {
        let id = self.pic.create_canister_with_settings(Some(admin()), None);
        self.pic.add_cycles(id, CYCLES);
        self.pic.install_canister(id, canister.wasm(), Encode!(&args).expect("encodable"), Some(admin()));
        id
    }

    /// Stops, upgrades and starts a canister.
    ///
    /// # Panics
    /// When a step fails.
    pub fn upgrade(&self, id: Principal, canister: Canister) {
        self.pic.stop_canister(id, Some(admin())).expect("stopped");
        self.pic
            .upgrade_canister(id, canister.wasm(), Encode!().expect("encodable"), Some(admin()))
            .expect("upgraded");
        self.pic.start_canister(id, Some(admin())).expect("started");
    }

    /// Calls an update method; a rejection is returned.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When the reply is of another type.
    pub fn try_update<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        canister: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> Result<R, RejectResponse> {
        let reply: Result<(R,), _> = pocket_ic::update_candid_as(&self.pic, canister, caller, method, args);
        reply.map(|(reply,)| reply)
    }

    /// Calls an update method that may take its time: rounds of half a second are executed, then of ten, until the answer is
    /// there.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When the answer does not come, or is of another type.
    pub fn update_patiently<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        canister: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> Result<R, RejectResponse> {
        let args = candid::encode_args(args).expect("encodable");
        let request = self.pic.submit_call(canister, caller, method, args)?;
        let answer = self.wait_patiently(method, || self.pic.ingress_status(request.clone()));
        answer.map(|reply| candid::decode_one(&reply).expect("a reply of the method's type"))
    }

    /// Executes rounds of half a second, then of ten, so that deadlines pass, until `done` returns a value.
    ///
    /// # Panics
    /// After an hour and more of the network's time without one.
    pub fn wait_patiently<R>(&self, what: &str, mut done: impl FnMut() -> Option<R>) -> R {
        for round in 0..500 {
            if let Some(value) = done() {
                return value;
            }
            self.pic.advance_time(Duration::from_millis(if round < 40 { 500 } else { 10_000 }));
            self.pic.tick();
        }
        panic!("{what} did not happen within an hour");
    }

    /// Calls an update method.
    ///
    /// # Panics
    /// When the call is rejected.
    pub fn update<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        canister: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> R {
        self.try_update(caller, canister, method, args)
            .unwrap_or_else(|reject| panic!("{method}: {reject:?}"))
    }

    /// Calls a query method.
    ///
    /// # Panics
    /// When the call is rejected.
    pub fn query<R: CandidType + DeserializeOwned>(
        &self,
        caller: Principal,
        canister: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> R {
        let reply: Result<(R,), _> = pocket_ic::query_candid_as(&self.pic, canister, caller, method, args);
        reply.map_or_else(|reject| panic!("{method}: {reject:?}"), |(reply,)| reply)
    }

    /// Executes rounds until `done` returns a value.
    ///
    /// # Panics
    /// After many rounds without one.
    pub fn wait_for<R>(&self, what: &str, mut done: impl FnMut() -> Option<R>) -> R {
        for _ in 0..MAX_ROUNDS {
            if let Some(value) = done() {
                return value;
            }
            self.pic.advance_time(Duration::from_millis(500));
            self.pic.tick();
        }
        panic!("{what} did not happen within {MAX_ROUNDS} rounds");
    }

    /// Installs a repository with an admin and an uploader, whose key signs the artifacts of the tests.
    pub fn repository(&self) -> Repository<'_> {
        self.governed_repository(vec![admin()], Policy::default())
    }

    /// Installs a repository with these admins and rules; the first admin makes the uploader one, if one approval is enough.
    ///
    /// # Panics
    /// When the canister refuses a step.
    pub fn governed_repository(&self, admins: Vec<Principal>, policy: Policy) -> Repository<'_> {
        let first = admins[0];
        let args = ModelInitArgs { admins, policy: Some(policy), ..ModelInitArgs::default() };
        let repository = Repository { network: self, id: self.install(Canister::Model, args) };
        if policy.approvals == 1 {
            let grant = RoleGrant { principal: uploader(), role: Role::Uploader };
            repository.propose(first, ProposalAction::GrantRole(grant)).expect("granted");
            repository.register_key(uploader(), &signing_key()).expect("registered");
        }
        repository
    }

    /// Installs a factory, without a template.
    pub fn factory(&self, config: FactoryConfig) -> Factory<'_> {
        let args = FactoryInitArgs { admins: vec![admin()], config };
        Factory { network: self, id: self.install(Canister::AgentFactory, args) }
    }

    /// Installs an agent directly, so that the admin is its controller.
    pub fn agent_of(&self, args: AgentInitArgs) -> Agent<'_> {
        Agent { network: self, id: self.install(Canister::Agent, args) }
    }

    /// As [`Self::agent_of`], without quota.
    pub fn agent(&self, model_canister: Principal, model_id: ModelId, config: AgentConfig) -> Agent<'_> {
        let args = AgentInitArgs {
            owner: owner(),
            model_canister,
            model_id,
            config,
            coordinator: None,
            profile: None,
            phase: None,
            quota: None,
        };
        self.agent_of(args)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// A request as gateways send it.
pub fn http_get(url: &str) -> HttpGatewayRequest {
    HttpGatewayRequest {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
        body: ByteBuf::new(),
        certificate_version: Some(2),
    }
}

/// A repository.
#[derive(Clone, Copy)]
pub struct Repository<'a> {
    network: &'a Network,
    /// Its canister.
    pub id: Principal,
}

impl<'a> Repository<'a> {
    /// The repository in a canister that was installed before.
    pub fn at(network: &'a Network, id: Principal) -> Self {
        Self { network, id }
    }

    /// `begin_upload`.
    ///
    /// # Errors
    /// As the canister says.
    pub fn begin(&self, caller: Principal, manifest: &[u8]) -> Result<UploadState, ModelError> {
        let args = BeginUploadArgs { manifest: ByteBuf::from(manifest) };
        self.network.update(caller, self.id, "begin_upload", (args,))
    }

    /// `put_shard`.
    ///
    /// # Errors
    /// As the canister says.
    pub fn put(
        &self,
        caller: Principal,
        model_id: ModelId,
        index: u32,
        bytes: &[u8],
    ) -> Result<PutShardResult, ModelError> {
        let args = PutShardArgs { model_id, index, bytes: ByteBuf::from(bytes) };
        self.network.update(caller, self.id, "put_shard", (args,))
    }

    /// `finish_upload`, and rounds until validation has ended.
    ///
    /// # Errors
    /// As the canister says.
    pub fn finish(&self, caller: Principal, model_id: ModelId) -> Result<ModelRecord, ModelError> {
        let mut record: ModelRecord = {
            let finished: Result<ModelRecord, ModelError> =
                self.network.update(caller, self.id, "finish_upload", (model_id,));
            finished?
        };
        while matches!(record.validation, Validation::Running { .. }) {
            self.network.pic.tick();
            let read: Result<ModelRecord, ModelError> =
                self.network.query(caller, self.id, "get_model", (model_id,));
            record = read?;
        }
        Ok(record)
    }

    /// `propose`.
    ///
    /// # Errors
    /// As the canister says.
    pub fn propose(&self, caller: Principal, action: ProposalAction) -> Result<Proposal, ModelError> {
        self.network.update(caller, self.id, "propose", (action,))
    }

    /// `approve` or `reject`.
    ///
    /// # Errors
    /// As the canister says.
    pub fn vote(&self, caller: Principal, id: u64, approve: bool) -> Result<Proposal, ModelError> {
        self.network.update(caller, self.id, if approve { "approve" } else { "reject" }, (id,))
    }

    /// Proposes to activate a model, which is done at once where one approval is enough.
    ///
    /// # Errors
    /// As the canister says.
    pub fn activate(&self, caller: Principal, model_id: ModelId) -> Result<Proposal, ModelError> {
        self.propose(caller, ProposalAction::Activate { model_id })
    }

    /// Proposes to deprecate a model, which is done at once where one approval is enough.
    ///
    /// # Errors
    /// As the canister says.
    pub fn deprecate(
        &self,
        caller: Principal,
        model_id: ModelId,
        reason: &str,
    ) -> Result<Proposal, ModelError> {
        self.propose(caller, ProposalAction::Deprecate { model_id, reason: reason.to_owned() })
    }

    /// `register_key` with a proof of possession.
    ///
    /// # Errors
    /// As the canister says.
    pub fn register_key(&self, caller: Principal, key: &ed25519_dalek::SigningKey) -> Result<(), ModelError> {
        let possession = key.sign(&key_possession_message(self.id, caller)).to_bytes();
        let public_key = ByteBuf::from(key.verifying_key().to_bytes());
        let args = RegisterKeyArgs { public_key, possession: ByteBuf::from(possession) };
        self.network.update(caller, self.id, "register_key", (args,))
    }

    /// Uploads and activates an artifact.
    ///
    /// # Panics
    /// When the canister refuses a step.
    pub fn publish(&self, artifact: &Artifact) {
        self.begin(uploader(), &artifact.manifest_bytes).expect("begun");
        for (index, shard) in artifact.shards.iter().enumerate() {
            self.put(uploader(), artifact.id, index as u32, shard).expect("stored");
        }
        let record = self.finish(uploader(), artifact.id).expect("complete");
        if !matches!(record.validation, Validation::Passed { .. }) {
            let report: Result<ValidationReport, ModelError> =
                self.network.query(uploader(), self.id, "validation_report", (artifact.id,));
            panic!("validated: {:?}, {report:?}", record.validation);
        }
        let proposal = self.activate(admin(), artifact.id).expect("proposed");
        assert!(matches!(proposal.state, ProposalState::Executed { .. }), "activated: {:?}", proposal.state);
    }
}

/// A factory.
#[derive(Clone, Copy)]
pub struct Factory<'a> {
    network: &'a Network,
    /// Its canister.
    pub id: Principal,
}

impl Factory<'_> {
    /// Uploads and commits a template.
    ///
    /// # Panics
    /// When the canister refuses a step.
    pub fn upload_template(&self, wasm: &[u8]) -> Digest {
        let sha256 = Digest::of(wasm);
        let args = BeginTemplateArgs { sha256, bytes: wasm.len() as u64, version: "1.0.0".to_owned() };
        let begun: Result<Template, FactoryError> =
            self.network.update(admin(), self.id, "begin_template", (args,));
        begun.expect("begun");
        for (index, chunk) in wasm.chunks(TEMPLATE_CHUNK_BYTES as usize).enumerate() {
            let args = PutTemplateChunkArgs { sha256, index: index as u32, bytes: ByteBuf::from(chunk) };
            let put: Result<Template, FactoryError> =
                self.network.update(admin(), self.id, "put_template_chunk", (args,));
            put.expect("stored");
        }
        let committed: Result<Template, FactoryError> =
            self.network.update(admin(), self.id, "commit_template", (sha256,));
        committed.expect("committed").sha256
    }

    /// Arguments for an agent of `model_id`.
    pub fn agent_args(&self, key: &str, repository: &Repository<'_>, model_id: ModelId) -> CreateAgentArgs {
        CreateAgentArgs {
            key: key.to_owned(),
            model_canister: repository.id,
            model_id,
            config: None,
            template: None,
            owner: None,
            profile: None,
        }
    }
}

/// An agent.
#[derive(Clone, Copy)]
pub struct Agent<'a> {
    network: &'a Network,
    /// Its canister.
    pub id: Principal,
}

impl<'a> Agent<'a> {
    /// The agent in a canister that was created before.
    pub fn at(network: &'a Network, id: Principal) -> Self {
        Self { network, id }
    }

    /// `submit_job` as the owner.
    ///
    /// # Panics
    /// When the agent refuses it.
    pub fn submit(&self, prompt: &str, params: &GenerationParams) -> JobId {
        let args =
            SubmitJobArgs { prompt: prompt.to_owned(), params: params.clone(), ..SubmitJobArgs::default() };
        let record: Result<JobRecord, AgentError> =
            self.network.update(owner(), self.id, "submit_job", (args,));
        record.expect("accepted").job_id
    }

    /// `submit_job` as the owner.
    ///
    /// # Errors
    /// As the canister says.
    pub fn submit_args(&self, args: SubmitJobArgs) -> Result<JobRecord, AgentError> {
        self.network.update(owner(), self.id, "submit_job", (args,))
    }

    /// A method that takes a job's number, as the owner.
    ///
    /// # Errors
    /// As the canister says.
    pub fn on_job(&self, method: &str, job_id: JobId) -> Result<JobRecord, AgentError> {
        self.network.update(owner(), self.id, method, (job_id,))
    }

    /// `draft` as the owner.
    ///
    /// # Errors
    /// As the canister says.
    pub fn draft(&self, job_id: JobId, max_tokens: Option<u32>) -> Result<Draft, AgentError> {
        self.network.query(owner(), self.id, "draft", (DraftArgs { job_id, max_tokens },))
    }

    /// `job_progress` as the owner.
    ///
    /// # Panics
    /// When the agent refuses it.
    pub fn progress(&self, job_id: JobId, after_token: u32) -> JobProgress {
        self.try_progress(job_id, after_token).expect("the agent answers")
    }

    /// `job_progress` as the owner; `None` when the query is rejected, as by a canister that is not running.
    ///
    /// # Panics
    /// When the agent refuses it.
    pub fn try_progress(&self, job_id: JobId, after_token: u32) -> Option<JobProgress> {
        let args = (JobProgressArgs { job_id, after_token },);
        let pic = &self.network.pic;
        let answer: Result<(Result<JobProgress, AgentError>,), _> =
            pocket_ic::query_candid_as(pic, self.id, owner(), "job_progress", args);
        answer.ok().map(|(progress,)| progress.expect("the owner may read"))
    }

    /// `status` as the owner.
    ///
    /// # Panics
    /// When the agent refuses it.
    pub fn status(&self) -> AgentStatus {
        let status: Result<AgentStatus, AgentError> = self.network.query(owner(), self.id, "status", ());
        status.expect("the owner may read")
    }

    /// Executes rounds until the job has at least `tokens` tokens or has ended.
    pub fn wait_for_tokens(&self, job_id: JobId, tokens: u32) -> JobProgress {
        self.network.wait_for("progress", || {
            let progress = self.progress(job_id, 0);
            (progress.next_token >= tokens || progress.job.state.is_final()).then_some(progress)
        })
    }

    /// Executes rounds until the job has ended.
    pub fn wait(&self, job_id: JobId) -> JobProgress {
        self.wait_for_tokens(job_id, u32::MAX)
    }
}
