//! Calls to the canisters, as a developer makes them with ic-agent.

use crate::network::{LocalNetwork, wasm};
use anyhow::Context;
use candid::utils::ArgumentEncoder;
use candid::{CandidType, Principal};
use flate2::Compression;
use flate2::write::GzEncoder;
use ic_agent::Agent as IcAgent;
use ic_agent::identity::BasicIdentity;
use ic_utils::interfaces::ManagementCanister;
use ic_utils::interfaces::management_canister::builders::CanisterInstallMode;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use shared_types::agent::{
    AgentConfig, AgentError, AgentStatus, GenerationParams, JobId, JobProgress, JobProgressArgs, JobRecord,
    SubmitJobArgs,
};
use shared_types::factory::{
    AgentRecord, BeginTemplateArgs, CreateAgentArgs, FactoryConfig, FactoryError, FactoryInitArgs,
    PutTemplateChunkArgs, TEMPLATE_CHUNK_BYTES, Template,
};
use shared_types::model::ModelInitArgs;
use shared_types::{Digest, ModelId};
use std::io::Write;
use std::path::Path;

/// Cycles that the suite's own canisters start with.
const CYCLES: u128 = 100_000_000_000_000;

/// One identity on one network.
pub struct Client {
    agent: IcAgent,
    principal: Principal,
    effective_canister_id: Principal,
}

impl Client {
    /// Connects with the identity in the PEM file `path`.
    pub async fn connect_with_pem(network: &LocalNetwork, path: &Path) -> anyhow::Result<Self> {
        let identity = BasicIdentity::from_pem_file(path).context("the identity can't be read")?;
        Self::connect(network, identity).await
    }

    /// Connects.
    pub async fn connect(network: &LocalNetwork, identity: BasicIdentity) -> anyhow::Result<Self> {
        let agent = IcAgent::builder().with_url(&network.url).with_identity(identity).build()?;
        agent.set_root_key(hex::decode(&network.root_key).context("the root key is not hexadecimal")?);
        let principal = agent.get_principal().map_err(anyhow::Error::msg)?;
        agent.status().await.context("the network does not answer")?;
        Ok(Self { agent, principal, effective_canister_id: network.effective_canister_id })
    }

    /// Whom the canisters see.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// The agent that makes the calls.
    pub fn ic_agent(&self) -> &IcAgent {
        &self.agent
    }

    /// Installs the model repository; the caller and `admin` are its admins, who may upload too.
    pub async fn deploy_model(&self, admin: Principal) -> anyhow::Result<Principal> {
        let args = ModelInitArgs { admins: vec![self.principal, admin], ..ModelInitArgs::default() };
        self.deploy("ohms_model", args).await
    }

    /// Installs the agent factory; the caller and `admin` are its admins.
    pub async fn deploy_factory(&self, admin: Principal) -> anyhow::Result<Principal> {
        let args = FactoryInitArgs { admins: vec![self.principal, admin], config: FactoryConfig::default() };
        self.deploy("ohms_agent_factory", args).await
    }

    /// Installs the canister `name` on a new canister id.
    pub async fn deploy(&self, name: &str, args: impl CandidType) -> anyhow::Result<Principal> {
        let management = ManagementCanister::create(&self.agent);
        let (id,) = management
            .create_canister()
            .as_provisional_create_with_amount(Some(CYCLES))
            .with_effective_canister_id(self.effective_canister_id)
            .call_and_wait()
            .await
            .with_context(|| format!("no canister for `{name}`"))?;
        // As gzip, which canisters may be installed from: a message has 2 MiB.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&wasm(name)?)?;
        let wasm = gzip.finish()?;
        let install = management.install(&id, &wasm).with_mode(CanisterInstallMode::Install).with_arg(args);
        install.call_and_wait().await.with_context(|| format!("`{name}` can't be installed"))?;
        Ok(id)
    }

    /// Uploads the agent's Wasm to the factory in chunks and returns its hash.
    pub async fn upload_template(&self, factory: Principal) -> anyhow::Result<Digest> {
        let wasm = wasm("ohms_agent")?;
        let sha256 = Digest::of(&wasm);
        let version = env!("CARGO_PKG_VERSION").to_string();
        let begin = BeginTemplateArgs { sha256, bytes: wasm.len() as u64, version };
        let template: Template = self.update::<_, FactoryError>(factory, "begin_template", (begin,)).await?;
        for (index, bytes) in (0u32..).zip(wasm.chunks(TEMPLATE_CHUNK_BYTES as usize)) {
            if template.missing_chunks.contains(&index) {
                let chunk = PutTemplateChunkArgs { sha256, index, bytes: ByteBuf::from(bytes) };
                self.update::<Template, FactoryError>(factory, "put_template_chunk", (chunk,)).await?;
            }
        }
        self.update::<Template, FactoryError>(factory, "commit_template", (sha256,)).await?;
        Ok(sha256)
    }

    /// Has the factory create an agent for the caller.
    pub async fn create_agent(
        &self,
        factory: Principal,
        model_canister: Principal,
        model_id: ModelId,
        slice_instructions: u64,
    ) -> anyhow::Result<Agent<'_>> {
        let args = CreateAgentArgs {
            key: "demo".into(),
            model_canister,
            model_id,
            config: Some(AgentConfig { slice_instructions, ..AgentConfig::default() }),
            template: None,
            owner: None,
            profile: None,
        };
        let record: AgentRecord = self.update::<_, FactoryError>(factory, "create_agent", (args,)).await?;
        let id = record.canister.context("the agent has no canister")?;
        Ok(Agent { client: self, id })
    }

    /// Calls an update method.
    pub async fn update<T, E>(
        &self,
        canister: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> anyhow::Result<T>
    where
        T: CandidType + DeserializeOwned,
        E: CandidType + DeserializeOwned + std::error::Error + Send + Sync + 'static,
    {
        let reply = self.agent.update(&canister, method).with_arg(candid::encode_args(args)?).await;
        decode::<T, E>(&reply.with_context(|| method.to_string())?, method)
    }

    /// Calls a query method.
    pub async fn query<T, E>(
        &self,
        canister: Principal,
        method: &str,
        args: impl ArgumentEncoder,
    ) -> anyhow::Result<T>
    where
        T: CandidType + DeserializeOwned,
        E: CandidType + DeserializeOwned + std::error::Error + Send + Sync + 'static,
    {
        let reply = self.agent.query(&canister, method).with_arg(candid::encode_args(args)?).await;
        decode::<T, E>(&reply.with_context(|| method.to_string())?, method)
    }
}

fn decode<T, E>(reply: &[u8], method: &str) -> anyhow::Result<T>
where
    T: CandidType + DeserializeOwned,
    E: CandidType + DeserializeOwned + std::error::Error + Send + Sync + 'static,
{
    let (result,): (Result<T, E>,) = candid::decode_args(reply).with_context(|| method.to_string())?;
    result.with_context(|| method.to_string())
}

/// An agent canister of the caller.
pub struct Agent<'a> {
    client: &'a Client,
    /// Its canister.
    pub id: Principal,
}

impl Agent<'_> {
    /// Puts a prompt into the agent's queue.
    pub async fn submit(&self, prompt: &str, params: GenerationParams) -> anyhow::Result<JobId> {
        let args = SubmitJobArgs { prompt: prompt.to_string(), params, ..SubmitJobArgs::default() };
        let job: JobRecord = self.client.update::<_, AgentError>(self.id, "submit_job", (args,)).await?;
        Ok(job.job_id)
    }

    /// The job's tokens after the first `after_token`.
    pub async fn progress(&self, job_id: JobId, after_token: u32) -> anyhow::Result<JobProgress> {
        let args = JobProgressArgs { job_id, after_token };
        self.client.query::<_, AgentError>(self.id, "job_progress", (args,)).await
    }

    /// The agent's state and counts.
    pub async fn status(&self) -> anyhow::Result<AgentStatus> {
        self.client.query::<_, AgentError>(self.id, "status", ()).await
    }
}
