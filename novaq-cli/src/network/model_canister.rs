//! The `model` canister as a client sees it.

use candid::utils::ArgumentEncoder;
use candid::{CandidType, Principal};
use ic_agent::{Agent, AgentError};
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    AuditEntry, AuditHead, AuditLogArgs, AuditPage, BeginUploadArgs, CertifiedModel, KnownRepository,
    ListModelsArgs, ListProposalsArgs, ListRolesArgs, MissingShardsArgs, MissingShardsPage, ModelError,
    ModelFilter, ModelPage, ModelRecord, Proof, Proposal, ProposalAction, ProposalPage, ProposalSummary,
    PutShardArgs, PutShardResult, RegisterKeyArgs, RegisteredKey, RoleGrant, RolePage, UploadState,
    UploaderUsage, ValidationReport, labels,
};

use super::{CallError, NetworkArgs};
use crate::certification::{CertifiedTree, ProofError};

/// What an upload asks of a model repository. A trait, so that interruptions can be tested without a network.
pub trait Repository: Send + Sync {
    /// Begins an upload, or finds the one that was begun with the same manifest.
    fn begin_upload(&self, manifest: Vec<u8>) -> impl Future<Output = Result<UploadState, CallError>> + Send;
    /// A page of the shards that are not stored yet.
    fn missing_shards(
        &self,
        args: MissingShardsArgs,
    ) -> impl Future<Output = Result<MissingShardsPage, CallError>> + Send;
    /// Stores a shard; storing it again changes nothing.
    fn put_shard(&self, args: PutShardArgs)
    -> impl Future<Output = Result<PutShardResult, CallError>> + Send;
    /// Has a complete upload validated.
    fn finish_upload(&self, model_id: ModelId)
    -> impl Future<Output = Result<ModelRecord, CallError>> + Send;
    /// The model's record.
    fn get_model(&self, model_id: ModelId) -> impl Future<Output = Result<ModelRecord, CallError>> + Send;
    /// What validation has found.
    fn validation_report(
        &self,
        model_id: ModelId,
    ) -> impl Future<Output = Result<ValidationReport, CallError>> + Send;
}

/// The `model` canister.
pub struct ModelCanister {
    agent: Agent,
    canister: Principal,
}

impl ModelCanister {
    /// Connects to the canister; fetches the root key of networks other than the Internet Computer.
    ///
    /// # Errors
    /// If the identity cannot be read, or the network does not answer.
    pub async fn connect(args: &NetworkArgs) -> anyhow::Result<Self> {
        Ok(Self { agent: args.endpoint.connect().await?, canister: args.canister })
    }

    /// The canister with a client that exists already and knows the network's root key.
    pub fn new(agent: Agent, canister: Principal) -> Self {
        Self { agent, canister }
    }

    /// The canister.
    pub fn id(&self) -> Principal {
        self.canister
    }

    /// Who calls.
    ///
    /// # Errors
    /// If the identity has no principal.
    pub fn caller(&self) -> anyhow::Result<Principal> {
        self.agent.get_principal().map_err(anyhow::Error::msg)
    }

    /// Calls an update method and waits for its certified reply.
    async fn update<A: ArgumentEncoder + Send, T: CandidType + DeserializeOwned>(
        &self,
        method: &'static str,
        args: A,
    ) -> Result<T, CallError> {
        let args = candid::encode_args(args).map_err(|source| CallError::Reply { method, source })?;
        let reply = self.agent.update(&self.canister, method).with_arg(args).call_and_wait().await;
        result(method, reply)
    }

    /// Calls a query method that can't be refused.
    async fn query<A: ArgumentEncoder + Send, T: CandidType + DeserializeOwned>(
        &self,
        method: &'static str,
        args: A,
    ) -> Result<T, CallError> {
        decode(method, &self.raw_query(method, args).await?)
    }

    /// Calls a query method that can.
    async fn fallible_query<A: ArgumentEncoder + Send, T: CandidType + DeserializeOwned>(
        &self,
        method: &'static str,
        args: A,
    ) -> Result<T, CallError> {
        result(method, Ok(self.raw_query(method, args).await?))
    }

    async fn raw_query<A: ArgumentEncoder + Send>(
        &self,
        method: &'static str,
        args: A,
    ) -> Result<Vec<u8>, CallError> {
        let args = candid::encode_args(args).map_err(|source| CallError::Reply { method, source })?;
        let reply = self.agent.query(&self.canister, method).with_arg(args).call().await;
        reply.map_err(|source| CallError::Agent { method, source: Box::new(source) })
    }

    /// The certified tree that `proof` shows a part of.
    fn tree(&self, proof: Option<&Proof>) -> Result<CertifiedTree, ProofError> {
        let proof = proof.ok_or(ProofError { field: "proof", reason: "is missing".to_owned() })?;
        let root_key = self.agent.read_root_key();
        CertifiedTree::fresh(self.canister, &root_key, &proof.certificate, &proof.witness)
    }

    /// Checks that the canister certifies a model's record.
    fn check_model(tree: &CertifiedTree, record: &ModelRecord) -> Result<(), ProofError> {
        tree.expect(&[labels::MODEL.as_bytes(), record.model_id.as_bytes()], record.hash().as_bytes())
    }

    /// All models that the caller may see, ordered by id. Those that are not Pending are checked to be certified.
    ///
    /// # Errors
    /// If a call fails, or the canister does not certify what it answers.
    pub async fn list_models(
        &self,
        status: Option<ModelStatus>,
        filter: Option<ModelFilter>,
    ) -> anyhow::Result<Vec<ModelRecord>> {
        let mut models = Vec::new();
        let mut after = None;
        loop {
            let limit = shared_types::paging::MAX_PAGE;
            let args = ListModelsArgs { status, filter: filter.clone(), after, limit };
            let page: ModelPage = self.query("list_models", (args,)).await?;
            let public: Vec<_> =
                page.models.iter().filter(|record| record.status != ModelStatus::Pending).collect();
            if !public.is_empty() {
                let tree = self.tree(page.proof.as_ref())?;
                for record in public {
                    Self::check_model(&tree, record)?;
                }
            }
            models.extend(page.models);
            after = page.next;
            if after.is_none() {
                return Ok(models);
            }
        }
    }

    /// One model, checked to be certified unless it is Pending.
    ///
    /// # Errors
    /// If the call fails, there is no such model, or the canister does not certify it.
    pub async fn get_certified_model(&self, model_id: ModelId) -> anyhow::Result<ModelRecord> {
        let model: CertifiedModel = self.fallible_query("get_certified_model", (model_id,)).await?;
        if model.record.status != ModelStatus::Pending {
            Self::check_model(&self.tree(model.proof.as_ref())?, &model.record)?;
        }
        Ok(model.record)
    }

    /// The greatest version of a name that is Active, checked to be certified as that.
    ///
    /// # Errors
    /// If the call fails, no version is Active, or the canister does not certify its answer.
    pub async fn latest(&self, name: &str) -> anyhow::Result<ModelRecord> {
        let model: CertifiedModel = self.fallible_query("latest", (name,)).await?;
        let tree = self.tree(model.proof.as_ref())?;
        tree.expect(&[labels::LATEST.as_bytes(), name.as_bytes()], model.record.model_id.as_bytes())?;
        Self::check_model(&tree, &model.record)?;
        Ok(model.record)
    }

    /// The bytes of a model's manifest.
    ///
    /// # Errors
    /// If the call fails, or there is no such model.
    pub async fn get_manifest(&self, model_id: ModelId) -> Result<Vec<u8>, CallError> {
        let manifest: ByteBuf = self.fallible_query("get_manifest", (model_id,)).await?;
        Ok(manifest.into_vec())
    }

    /// The repositories that this one knows.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn list_repositories(&self) -> Result<Vec<KnownRepository>, CallError> {
        self.query("list_repositories", ()).await
    }

    /// The repository to upload a model of `bytes` to: the one that has it, or the one with the most room of those that this one
    /// knows, itself included.
    ///
    /// # Errors
    /// If a call fails, or no repository has so much room.
    pub async fn repository_for(self, model_id: ModelId, bytes: u64) -> Result<Self, CallError> {
        let located: Result<Principal, CallError> = self.fallible_query("locate", (model_id,)).await;
        let canister = match located {
            Ok(canister) => canister,
            Err(CallError::Refused { source: ModelError::UnknownModel { .. }, .. }) => {
                self.fallible_query("placement", (bytes,)).await?
            }
            Err(error) => return Err(error),
        };
        Ok(Self { canister, ..self })
    }

    /// Drops an upload.
    ///
    /// # Errors
    /// If the call fails or is refused.
    pub async fn discard_upload(&self, model_id: ModelId) -> Result<(), CallError> {
        self.update("discard_upload", (model_id,)).await
    }

    /// Has a model validated again.
    ///
    /// # Errors
    /// If the call fails or is refused.
    pub async fn revalidate(&self, model_id: ModelId) -> Result<(), CallError> {
        self.update("revalidate", (model_id,)).await
    }

    /// What the caller has stored, and may.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn usage(&self) -> Result<UploaderUsage, CallError> {
        self.query("uploader_usage", ()).await
    }

    /// Makes a proposal.
    ///
    /// # Errors
    /// If the call fails or is refused.
    pub async fn propose(&self, action: ProposalAction) -> Result<Proposal, CallError> {
        self.update("propose", (action,)).await
    }

    /// Approves (`true`) or rejects a proposal.
    ///
    /// # Errors
    /// If the call fails or is refused.
    pub async fn vote(&self, id: u64, approve: bool) -> Result<Proposal, CallError> {
        self.update(if approve { "approve" } else { "reject" }, (id,)).await
    }

    /// A proposal.
    ///
    /// # Errors
    /// If the call fails, or there is no such proposal.
    pub async fn get_proposal(&self, id: u64) -> Result<Proposal, CallError> {
        self.fallible_query("get_proposal", (id,)).await
    }

    /// The newest proposals, at most `limit`, or all that are open.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn list_proposals(&self, open_only: bool, limit: usize) -> Result<Vec<Proposal>, CallError> {
        let mut proposals = Vec::new();
        let mut before = None;
        while proposals.len() < limit {
            let args = ListProposalsArgs { open_only, before, limit: shared_types::paging::MAX_PAGE };
            let page: ProposalPage = self.query("list_proposals", (args,)).await?;
            proposals.extend(page.proposals);
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        proposals.truncate(limit);
        Ok(proposals)
    }

    /// The rules, and who is there to follow them.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn governance(&self) -> Result<ProposalSummary, CallError> {
        self.query("governance", ()).await
    }

    /// All grants of roles.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn list_roles(&self) -> Result<Vec<RoleGrant>, CallError> {
        let mut grants = Vec::new();
        let mut after = None;
        loop {
            let args = ListRolesArgs { after, limit: shared_types::paging::MAX_PAGE };
            let page: RolePage = self.query("list_roles", (args,)).await?;
            grants.extend(page.grants);
            after = page.next;
            if after.is_none() {
                return Ok(grants);
            }
        }
    }

    /// The signing keys of an uploader.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn list_keys(&self, uploader: Principal) -> Result<Vec<RegisteredKey>, CallError> {
        self.query("list_keys", (uploader,)).await
    }

    /// Registers a signing key for the caller.
    ///
    /// # Errors
    /// If the call fails or is refused.
    pub async fn register_key(&self, args: RegisterKeyArgs) -> Result<(), CallError> {
        self.update("register_key", (args,)).await
    }

    /// Takes a signing key off.
    ///
    /// # Errors
    /// If the call fails or is refused.
    pub async fn revoke_key(&self, public_key: [u8; 32]) -> Result<(), CallError> {
        self.update("revoke_key", (ByteBuf::from(public_key),)).await
    }

    /// The whole audit log, with its head, checked to be certified. Entries that come while it is read are left out.
    ///
    /// # Errors
    /// If a call fails, or the canister does not certify the head.
    pub async fn audit_log(&self) -> anyhow::Result<(Vec<AuditEntry>, AuditHead)> {
        let mut entries: Vec<AuditEntry> = Vec::new();
        let mut head: Option<AuditHead> = None;
        loop {
            let after = entries.last().map(|entry| entry.index);
            let args = AuditLogArgs { after, limit: shared_types::paging::MAX_PAGE };
            let page: AuditPage = self.query("audit_log", (args,)).await?;
            let head = if let Some(head) = head {
                head
            } else {
                let tree = self.tree(page.proof.as_ref())?;
                tree.expect(&[labels::AUDIT.as_bytes()], &page.head.to_bytes())?;
                *head.insert(page.head)
            };
            let missing = (head.entries as usize).saturating_sub(entries.len());
            entries.extend(page.entries.into_iter().take(missing));
            if page.next.is_none() || entries.len() as u64 >= head.entries {
                return Ok((entries, head));
            }
        }
    }
}

fn decode<T: CandidType + DeserializeOwned>(method: &'static str, reply: &[u8]) -> Result<T, CallError> {
    let (value,): (T,) = candid::decode_args(reply).map_err(|source| CallError::Reply { method, source })?;
    Ok(value)
}

fn result<T: CandidType + DeserializeOwned>(
    method: &'static str,
    reply: Result<Vec<u8>, AgentError>,
) -> Result<T, CallError> {
    let reply = reply.map_err(|source| CallError::Agent { method, source: Box::new(source) })?;
    let result: Result<T, ModelError> = decode(method, &reply)?;
    result.map_err(|source| CallError::Refused { method, source })
}

impl Repository for ModelCanister {
    async fn begin_upload(&self, manifest: Vec<u8>) -> Result<UploadState, CallError> {
        self.update("begin_upload", (BeginUploadArgs { manifest: ByteBuf::from(manifest) },)).await
    }

    async fn missing_shards(&self, args: MissingShardsArgs) -> Result<MissingShardsPage, CallError> {
        self.fallible_query("missing_shards", (args,)).await
    }

    async fn put_shard(&self, args: PutShardArgs) -> Result<PutShardResult, CallError> {
        self.update("put_shard", (args,)).await
    }

    async fn finish_upload(&self, model_id: ModelId) -> Result<ModelRecord, CallError> {
        self.update("finish_upload", (model_id,)).await
    }

    async fn get_model(&self, model_id: ModelId) -> Result<ModelRecord, CallError> {
        self.fallible_query("get_model", (model_id,)).await
    }

    async fn validation_report(&self, model_id: ModelId) -> Result<ValidationReport, CallError> {
        self.fallible_query("validation_report", (model_id,)).await
    }
}
