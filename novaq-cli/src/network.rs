//! Which network, who calls, and the canisters as a client sees them.

mod model_canister;

pub use model_canister::{ModelCanister, Repository};

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use candid::utils::ArgumentEncoder;
use candid::{CandidType, Principal};
use clap::Args;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ic_agent::agent::RejectCode;
use ic_agent::identity::{BasicIdentity, Prime256v1Identity, Secp256k1Identity};
use ic_agent::{Agent, AgentError, Identity};
use serde::de::DeserializeOwned;
use shared_types::agent::{self, JobId, JobProgress, JobProgressArgs, JobPrompt};
use shared_types::model::ModelError;
use shared_types::receipt::{CertifiedReceipt, ReceiptKey};

use crate::output::HintExt;
use crate::receipt::{Proof, ReceiptFile};

/// Which network, and who calls.
#[derive(Debug, Clone, Args)]
pub struct EndpointArgs {
    /// `local` (`http://127.0.0.1:4943`), `ic`, or the URL of a network's API endpoint.
    #[arg(long, default_value = "local", env = "NOVAQ_NETWORK", value_parser = Network::parse)]
    network: Network,

    /// PEM file of the calling identity (ed25519, secp256k1 or prime256v1).
    #[arg(long, env = "NOVAQ_IDENTITY", value_name = "FILE")]
    identity: Option<PathBuf>,
}

/// Where the model repository is and who calls it.
#[derive(Debug, Clone, Args)]
pub struct NetworkArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,

    /// The `model` canister.
    #[arg(long, env = "NOVAQ_CANISTER", value_name = "ID")]
    canister: Principal,
}

impl NetworkArgs {
    /// The PEM file of the calling identity, if one is given.
    pub fn identity(&self) -> Option<&Path> {
        self.endpoint.identity.as_deref()
    }
}

impl EndpointArgs {
    /// A client of the network; fetches the root key of networks other than the Internet Computer.
    async fn connect(&self) -> anyhow::Result<Agent> {
        let mut builder = Agent::builder()
            .with_url(&self.network.url)
            .with_max_polling_time(Duration::from_mins(2))
            .with_max_tcp_error_retries(0);
        if let Some(path) = &self.identity {
            builder = builder.with_boxed_identity(read_identity(path)?);
        }
        let url = &self.network.url;
        let agent = builder.build().with_context(|| format!("`{url}` is not the address of a network"))?;
        if !self.network.is_mainnet {
            agent
                .fetch_root_key()
                .await
                .with_context(|| format!("the network at {url} does not answer"))
                .hint(|| {
                    "`cargo xtask demo --keep` leaves a local network running; `--network` names another"
                        .to_owned()
                })?;
        }
        Ok(agent)
    }
}

/// An Internet Computer network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Network {
    url: String,
    /// Whether it is the Internet Computer itself, whose root key is known. Any other network's is fetched from it.
    is_mainnet: bool,
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let (url, is_mainnet) = match text {
            "local" => ("http://127.0.0.1:4943".to_owned(), false),
            "ic" => ("https://icp-api.io".to_owned(), true),
            url => {
                let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
                let Some(host) =
                    rest.and_then(|rest| rest.split(['/', ':']).next()).filter(|h| !h.is_empty())
                else {
                    return Err("expected `local`, `ic` or a URL with http or https".to_owned());
                };
                let is_mainnet = ["icp-api.io", "icp0.io", "ic0.app", "internetcomputer.org"]
                    .iter()
                    .any(|domain| host == *domain || host.ends_with(&format!(".{domain}")));
                (url.trim_end_matches('/').to_owned(), is_mainnet)
            }
        };
        Ok(Self { url, is_mainnet })
    }
}

/// Reads the identity in a PEM file, whichever of the Internet Computer's key types it holds.
fn read_identity(path: &Path) -> anyhow::Result<Box<dyn Identity>> {
    let pem = std::fs::read(path)
        .with_context(|| format!("the identity `{}` cannot be read", path.display()))
        .hint(|| "make one with `openssl genpkey -algorithm ed25519 -out identity.pem`".to_owned())?;
    if let Ok(identity) = BasicIdentity::from_pem(&pem) {
        return Ok(Box::new(identity));
    }
    if let Ok(identity) = Secp256k1Identity::from_pem(&pem) {
        return Ok(Box::new(identity));
    }
    if let Ok(identity) = Prime256v1Identity::from_pem(&pem) {
        return Ok(Box::new(identity));
    }
    Err(anyhow::anyhow!(
        "the identity `{}` is not an ed25519, secp256k1 or prime256v1 key in PEM",
        path.display()
    ))
    .hint(|| "keys that are encrypted have to be exported first".to_owned())
}

/// Reads the ed25519 key in a PEM file.
///
/// # Errors
/// If the file can't be read or holds another kind of key.
pub fn read_signing_key(path: &Path) -> anyhow::Result<SigningKey> {
    let pem = std::fs::read_to_string(path)
        .with_context(|| format!("the key `{}` cannot be read", path.display()))
        .hint(|| "make one with `openssl genpkey -algorithm ed25519 -out key.pem`".to_owned())?;
    SigningKey::from_pkcs8_pem(&pem)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("`{}` is not an ed25519 key in PEM", path.display()))
}

/// Why a call to the repository failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The message did not reach the canister, or its reply did not come back.
    #[error("call of `{method}` failed")]
    Agent {
        /// The canister's method.
        method: &'static str,
        /// What the agent says.
        #[source]
        source: Box<AgentError>,
    },
    /// The reply is not what the interface says.
    #[error("the reply of `{method}` cannot be read: the canister may be of another version")]
    Reply {
        /// The canister's method.
        method: &'static str,
        /// What the decoder says.
        #[source]
        source: candid::Error,
    },
    /// The canister refused the call.
    #[error("`{method}` was refused")]
    Refused {
        /// The canister's method.
        method: &'static str,
        /// The canister's reason.
        #[source]
        source: ModelError,
    },
    /// The agent canister refused the call.
    #[error("`{method}` was refused")]
    RefusedByAgent {
        /// The canister's method.
        method: &'static str,
        /// The canister's reason.
        #[source]
        source: Box<agent::AgentError>,
    },
}

impl CallError {
    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        let Self::Agent { source, .. } = self else { return false };
        match &**source {
            AgentError::TransportError(_) | AgentError::TimeoutWaitingForResponse() => true,
            AgentError::HttpError(payload) => payload.status == 429 || payload.status >= 500,
            AgentError::UncertifiedReject { reject, .. } | AgentError::CertifiedReject { reject, .. } => {
                reject.reject_code == RejectCode::SysTransient
            }
            _ => false,
        }
    }
}

/// Adds what can be done about a failed call to `error`, if one is its cause.
pub fn with_hint(error: anyhow::Error) -> anyhow::Error {
    let hint = match error.chain().find_map(|cause| cause.downcast_ref::<CallError>()) {
        Some(CallError::Refused { source, .. }) => match source {
            ModelError::Anonymous => "`--identity FILE` says who calls",
            ModelError::Unauthorized { .. } => {
                "an admin of the repository can grant the role to this identity"
            }
            ModelError::UnknownModel { .. } => "`novaq models list` shows the models",
            ModelError::NotValidated | ModelError::Incomplete { .. } => "`novaq upload` completes the upload",
            ModelError::ValidationFailed { .. } => "`novaq models report <MODEL>` shows every check",
            ModelError::VersionNotGreater { .. } => "compress it again with a greater `--model-version`",
            _ => return error,
        },
        Some(CallError::RefusedByAgent { source, .. }) => match **source {
            agent::AgentError::Unauthorized => "`--identity FILE` says who calls",
            agent::AgentError::JobOpen { .. } => "the receipt comes when the job has ended",
            _ => return error,
        },
        Some(error) if error.is_transient() => "the same command goes on where this stopped",
        _ => return error,
    };
    match Err::<std::convert::Infallible, _>(error).hint(|| hint.to_owned()) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// An `agent` canister.
pub struct AgentCanister {
    agent: Agent,
    canister: Principal,
}

impl AgentCanister {
    /// Connects to the canister; fetches the root key of networks other than the Internet Computer.
    ///
    /// # Errors
    /// If the identity cannot be read, or the network does not answer.
    pub async fn connect(args: &EndpointArgs, canister: Principal) -> anyhow::Result<Self> {
        Ok(Self { agent: args.connect().await?, canister })
    }

    /// The canister with a client that exists already and knows the network's root key.
    pub fn new(agent: Agent, canister: Principal) -> Self {
        Self { agent, canister }
    }

    async fn query<A: ArgumentEncoder + Send, T: CandidType + DeserializeOwned>(
        &self,
        method: &'static str,
        args: A,
    ) -> Result<T, CallError> {
        let args = candid::encode_args(args).map_err(|source| CallError::Reply { method, source })?;
        let reply = self.agent.query(&self.canister, method).with_arg(args).call().await;
        let reply = reply.map_err(|source| CallError::Agent { method, source: Box::new(source) })?;
        let (result,): (Result<T, agent::AgentError>,) =
            candid::decode_args(&reply).map_err(|source| CallError::Reply { method, source })?;
        result.map_err(|source| CallError::RefusedByAgent { method, source: Box::new(source) })
    }

    /// The receipt of a job, with everything that a replay needs. Nothing is checked yet.
    ///
    /// # Errors
    /// If a call fails or is refused.
    pub async fn receipt_file(&self, job_id: JobId) -> anyhow::Result<ReceiptFile> {
        let certified: CertifiedReceipt = self.query("get_receipt", (ReceiptKey::Job(job_id),)).await?;
        let prompt: JobPrompt = self.query("get_prompt", (job_id,)).await?;
        let (mut tokens, mut text) = (Vec::new(), String::new());
        loop {
            let after_token = tokens.len() as u32;
            let args = JobProgressArgs { job_id, after_token };
            let page: JobProgress = self.query("job_progress", (args,)).await?;
            tokens.extend(page.tokens);
            text.push_str(&page.text);
            if page.next_token <= after_token {
                break;
            }
        }
        let proof = certified.certificate.map(|certificate| Proof {
            certificate: certificate.into_vec(),
            witness: certified.witness.into_vec(),
            root_key: self.agent.read_root_key(),
        });
        Ok(ReceiptFile::new(certified.receipt, prompt.prompt, prompt.messages, tokens, text, proof))
    }
}

/// Who certified a receipt, in words.
pub fn signer(proof: Option<&Proof>) -> String {
    let Some(proof) = proof else { return "no, the file holds no proof".to_owned() };
    // A client begins with the Internet Computer's own root key.
    let mainnet = Agent::builder().with_url("https://icp-api.io").build().map(|agent| agent.read_root_key());
    if mainnet.is_ok_and(|key| key == proof.root_key) {
        return "by the Internet Computer".to_owned();
    }
    let key = hex::encode(&proof.root_key);
    let end = key.get(key.len().saturating_sub(16)..).unwrap_or(&key);
    format!("by a network of your own, whose root key ends in {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internet_computer_keeps_its_root_key() {
        for (text, is_mainnet) in [
            ("local", false),
            ("ic", true),
            ("https://icp-api.io/", true),
            ("https://abc.icp0.io", true),
            ("http://localhost:8000", false),
            ("https://noticp0.io", false),
            ("https://icp0.io.example.org", false),
        ] {
            assert_eq!(Network::parse(text).unwrap().is_mainnet, is_mainnet, "{text}");
        }
        for text in ["", "mainnet", "ftp://x", "https://"] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn identities_of_each_kind_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.pem");
        // RFC 8410, section 10.3.
        let ed25519 = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
            -----END PRIVATE KEY-----\n";
        std::fs::write(&path, ed25519).unwrap();
        assert!(read_identity(&path).unwrap().sender().is_ok());
        std::fs::write(&path, "not a key").unwrap();
        let error = read_identity(&path).err().unwrap().to_string();
        assert!(error.ends_with("is not an ed25519, secp256k1 or prime256v1 key in PEM"), "{error}");
    }
}
