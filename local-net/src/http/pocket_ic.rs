//! PocketIC's REST interface, as far as the `pocket-ic` crate 16.1.0 needs it.
//!
//! Each answer comes at once with status 200; the server's codes for pending operations are not needed.

use super::{
    faults, gateway, ic,
    instance::{Instance, Stopped, system_time},
    outcalls::{self, Reach},
};
use crate::{
    authentication::verify_canister_signature,
    limits,
    management::{AnswerError, Outcall},
    network::{INITIAL_TIME, IngressMessage, Network, Query, RequestId},
    reject::{Reject, RejectCode, Response as CallResponse},
    state_dir::StateDir,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use candid::Principal;
use ic_management_canister_types::{HttpHeader, HttpMethod, HttpRequestResult};
use ic_transport_types::EnvelopeContent;
use pocket_ic::{
    ErrorCode,
    common::rest::{
        CanisterCyclesCostSchedule, CanisterHttpHeader, CanisterHttpMethod, CanisterHttpPricingVersion,
        CanisterHttpReject, CanisterHttpReplication, CanisterHttpReply, CanisterHttpResponse,
        CanisterIdRange, CreateHttpGatewayResponse, CreateInstanceResponse, ExtendedSubnetConfigSet,
        HttpGatewayBackend, HttpGatewayConfig, HttpGatewayInfo, IcpFeatures, InitialTime, InstanceConfig,
        InstanceHttpGatewayConfig, InstanceId, RawAddCycles, RawCanisterCall, RawCanisterHttpRequest,
        RawCanisterId, RawCanisterResult, RawCycles, RawEffectivePrincipal, RawIngressStatusArgs,
        RawMessageId, RawMockCanisterHttpResponse, RawPrincipalId, RawSetStableMemory, RawStableMemory,
        RawSubnetId, RawTime, RawVerifyCanisterSigArg, SubnetConfig, SubnetInstructionConfig, SubnetKind,
        Topology,
    },
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, VecDeque},
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, task::AbortHandle};

/// How long awaiting a message of a live network may take.
const LIVE_AWAIT: Duration = Duration::from_mins(5);
/// Largest body of a request to the server: stable memories travel in it.
const BODY_BYTES: usize = 4 << 30;

/// Bytes of the message of a mocked reject: nodes cut longer ones.
const MAX_REJECT_MESSAGE: usize = 1_024;

/// The server's state: its instances, the HTTP gateways and the uploaded blobs.
#[derive(Default)]
pub struct Server {
    state: Mutex<ServerState>,
    /// When the last request ended, in nanoseconds since 1970.
    last_request: AtomicU64,
    /// Requests that are being served.
    in_flight: AtomicUsize,
    nonce: AtomicU64,
    /// Where canisters' HTTP requests may go.
    reach: Reach,
}

#[derive(Default)]
struct ServerState {
    instances: BTreeMap<InstanceId, Arc<Instance>>,
    gateways: BTreeMap<InstanceId, (InstanceId, AbortHandle)>,
    blobs: Blobs,
    next_instance: InstanceId,
    next_gateway: InstanceId,
}

/// The newest uploaded blobs by SHA-256, oldest first, together at most [`BODY_BYTES`] besides the newest.
#[derive(Default)]
struct Blobs(VecDeque<(Vec<u8>, Bytes)>);

impl Blobs {
    fn get(&self, id: &[u8]) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, blob)| blob)
    }

    fn insert(&mut self, id: Vec<u8>, blob: Bytes) {
        self.0.retain(|(known, _)| *known != id);
        while self.0.iter().map(|(_, blob)| blob.len()).sum::<usize>() > BODY_BYTES {
            self.0.pop_front();
        }
        self.0.push_back((id, blob));
    }
}

/// An answer that is not the asked-for value.
pub(super) struct Failure(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Message {
            message: String,
        }
        (self.0, Json(Message { message: self.1 })).into_response()
    }
}

impl From<Stopped> for Failure {
    fn from(error: Stopped) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<Reject> for Failure {
    fn from(reject: Reject) -> Self {
        Self(StatusCode::BAD_REQUEST, reject.to_string())
    }
}

pub(super) type Answer<T> = Result<Json<T>, Failure>;
pub(super) type Shared = State<Arc<Server>>;
pub(super) type Id = Path<InstanceId>;

impl Server {
    /// A server without instances, whose canisters' HTTP requests may go as far as `reach`.
    pub fn new(reach: Reach) -> Self {
        Self { reach, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance with this id.
    pub fn instance(&self, id: InstanceId) -> Option<Arc<Instance>> {
        self.state().instances.get(&id).cloned()
    }

    pub(super) fn find(&self, id: InstanceId) -> Result<Arc<Instance>, Failure> {
        self.instance(id).ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("there is no instance {id}")))
    }

    /// Ends all instances; see [`Self::delete_instance`].
    ///
    /// # Errors
    /// As there, for the last instance whose state cannot be saved; the others are saved.
    pub async fn delete_instances(&self) -> Result<(), String> {
        let instances: Vec<InstanceId> = self.state().instances.keys().copied().collect();
        let mut all = Ok(());
        for id in instances {
            all = self.delete_instance(id).await.and(all);
        }
        all
    }

    /// Ends an instance and its gateways, and saves its state if it has a state directory.
    ///
    /// # Errors
    /// The reason why the state cannot be saved, for people.
    pub async fn delete_instance(&self, id: InstanceId) -> Result<(), String> {
        let instance = self.state().instances.remove(&id);
        let saved = match instance {
            Some(instance) => instance.save().await.map_err(|e| e.to_string())?,
            None => Ok(()),
        };
        self.state().gateways.retain(|_, (instance, gateway)| {
            if *instance == id {
                gateway.abort();
            }
            *instance != id
        });
        saved.map_err(|e| e.to_string())
    }

    /// Time since the last request ended; zero while one is being served.
    pub fn idle(&self) -> Duration {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(system_time().saturating_sub(self.last_request.load(Ordering::Relaxed)))
    }
}

/// The server's routes.
pub fn router(server: Arc<Server>) -> Router {
    server.last_request.store(system_time(), Ordering::Relaxed);
    let instance = Router::new()
        .route("/", axum::routing::delete(delete_instance))
        .route("/read/topology", get(read_topology))
        .route("/_/topology", get(read_topology))
        .route("/read/get_time", get(get_time))
        .route("/read/get_canister_http", get(get_canister_http))
        .route("/read/query", post(query))
        .route("/read/ingress_status", post(ingress_status))
        .route("/read/get_cycles", post(get_cycles))
        .route("/read/get_controllers", post(get_controllers))
        .route("/read/get_subnet", post(get_subnet))
        .route("/read/pub_key", post(pub_key))
        .route("/read/get_stable_memory", post(get_stable_memory))
        .route("/update/set_stable_memory", post(set_stable_memory))
        .route("/update/set_time", post(set_time))
        .route("/update/set_certified_time", post(set_time))
        .route("/update/tick", post(tick))
        .route("/update/add_cycles", post(add_cycles))
        .route("/update/mock_canister_http", post(mock_canister_http))
        .route("/update/submit_ingress_message", post(submit_ingress_message))
        .route("/update/await_ingress_message", post(await_ingress_message))
        .route("/auto_progress", get(auto_progress_enabled).post(auto_progress))
        .route("/stop_progress", post(stop_progress))
        .route("/api/{*path}", any(instance_api))
        .merge(faults::routes());
    Router::new()
        .route("/status", get(async || StatusCode::OK))
        .route("/instances", get(list_instances).post(create_instance))
        .nest("/instances/{id}", instance.clone())
        .route("/instances/{id}/", axum::routing::delete(delete_instance))
        .route("/blobstore/", post(upload_blob))
        .route("/verify_signature", post(verify_signature))
        .route("/http_gateway", post(create_gateway))
        .route("/http_gateway/{id}/stop", post(stop_gateway))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(server.clone(), count_request))
        .with_state(server)
}

/// Keeps the server from ending while it serves a request.
async fn count_request(State(server): Shared, request: Request, next: axum::middleware::Next) -> Response {
    server.in_flight.fetch_add(1, Ordering::Relaxed);
    let response = next.run(request).await;
    server.last_request.store(system_time(), Ordering::Relaxed);
    server.in_flight.fetch_sub(1, Ordering::Relaxed);
    response
}

async fn list_instances(State(server): Shared) -> Json<Vec<String>> {
    let state = server.state();
    let of = |id| if state.instances.contains_key(&id) { "Available" } else { "Deleted" };
    Json((0..state.next_instance).map(|id| of(id).to_owned()).collect())
}

async fn create_instance(
    State(server): Shared,
    Json(config): Json<InstanceConfig>,
) -> Json<CreateInstanceResponse> {
    match new_instance(&server, config).await {
        Ok(created) => Json(created),
        Err(message) => Json(CreateInstanceResponse::Error { message }),
    }
}

/// Refuses what would otherwise be ignored without a word.
fn check_supported(config: &InstanceConfig) -> Result<(), String> {
    if let Some(InitialTime::Timestamp(RawTime { nanos_since_epoch })) = config.initial_time
        && nanos_since_epoch < INITIAL_TIME
    {
        return Err(format!(
            "The initial timestamp (unix timestamp in nanoseconds) must be no earlier than {INITIAL_TIME} (provided \
             {nanos_since_epoch})."
        ));
    }
    for (name, asked) in [
        ("bitcoind_addr", config.bitcoind_addr.is_some()),
        ("dogecoind_addr", config.dogecoind_addr.is_some()),
        ("mainnet_nns_subnet_id", config.mainnet_nns_subnet_id == Some(true)),
    ] {
        if asked {
            return Err(format!("`{name}` is not supported by this network"));
        }
    }
    Ok(())
}

/// Creates an instance.
///
/// # Errors
/// The reason, for people.
pub async fn new_instance(server: &Server, config: InstanceConfig) -> Result<CreateInstanceResponse, String> {
    check_supported(&config)?;
    let features = config.icp_features.unwrap_or_default();
    check_features(&features)?;
    let kinds = subnet_kinds(&config.subnet_config_set);
    let (time, live) = match config.initial_time {
        Some(InitialTime::Timestamp(time)) => (time.nanos_since_epoch, false),
        Some(InitialTime::AutoProgress(_)) => (system_time(), true),
        None => (INITIAL_TIME, false),
    };
    let id = {
        let mut state = server.state();
        state.next_instance += 1;
        state.next_instance - 1
    };
    // The seed is the same for the first, second, … instance of every server, so that runs can be repeated.
    let seed = Sha256::digest(format!("local-net instance {id}")).into();
    let checks_signatures = config.disable_ingress_validation != Some(true);
    let (state, saved) = match &config.state_dir {
        Some(path) => {
            StateDir::open(path).map(|(state, saved)| (Some(state), saved)).map_err(|e| e.to_string())?
        }
        None => (None, None),
    };
    let mut network = match saved {
        Some(network) if !kinds.is_empty() && !kinds.iter().eq(network.subnets().iter().map(|s| &s.kind)) => {
            return Err("the subnets are not those of the state directory: ask for none, or the same".into());
        }
        Some(mut network) => {
            network.set_time(network.time().max(time));
            network
        }
        None => {
            config.subnet_config_set.validate()?;
            Network::with_subnets(seed, time, &kinds)
        }
    };
    if features != IcpFeatures::default() {
        network.add_system_canisters();
    }
    let instance = Instance::start(network, checks_signatures, state).map_err(|e| e.to_string())?;
    outcalls::serve(&instance, server.reach).map_err(|e| e.to_string())?;
    server.state().instances.insert(id, instance.clone());
    if live || config.http_gateway_config.is_some() {
        instance.set_live(true).await.map_err(|e| e.to_string())?;
    }
    let mut http_gateway_info = None;
    if let Some(gateway) = config.http_gateway_config {
        match start_gateway(server, id, gateway).await {
            Ok(info) => http_gateway_info = Some(info),
            Err(reason) => {
                server.delete_instance(id).await?;
                return Err(reason);
            }
        }
    }
    let topology = instance.topology.clone();
    Ok(CreateInstanceResponse::Created { instance_id: id, topology, http_gateway_info })
}

/// Refuses features that this network does not have. It has all of the others as soon as one of them is wanted.
fn check_features(features: &IcpFeatures) -> Result<(), String> {
    let absent = [
        ("nns_governance", &features.nns_governance),
        ("sns", &features.sns),
        ("ii", &features.ii),
        ("nns_ui", &features.nns_ui),
        ("bitcoin", &features.bitcoin),
        ("dogecoin", &features.dogecoin),
        ("canister_migration", &features.canister_migration),
    ];
    match absent.into_iter().find(|(_, wanted)| wanted.is_some()) {
        Some((name, _)) => Err(format!("local-net does not have the ICP feature `{name}`")),
        None => Ok(()),
    }
}

/// The kinds of subnets that are asked for.
fn subnet_kinds(config: &ExtendedSubnetConfigSet) -> Vec<SubnetKind> {
    let named = config.get_named().into_iter().map(|(kind, ..)| kind);
    let others = [
        (SubnetKind::System, config.system.len()),
        (SubnetKind::Application, config.application.len()),
        (SubnetKind::CloudEngine, config.cloud_engine.len()),
        (SubnetKind::VerifiedApplication, config.verified_application.len()),
    ];
    let others = others.into_iter().flat_map(|(kind, n)| std::iter::repeat_n(kind, n));
    named.chain(others).collect()
}

/// The subnets of a network as PocketIC describes them.
pub fn topology(network: &Network) -> Topology {
    let configs = network.subnets().iter().map(|subnet| {
        let ranges = subnet.canister_ranges();
        let config = SubnetConfig {
            subnet_kind: subnet.kind,
            subnet_admins: None,
            cost_schedule: CanisterCyclesCostSchedule::default(),
            subnet_seed: Sha256::digest(subnet.id.as_slice()).into(),
            instruction_config: SubnetInstructionConfig::Production,
            canister_ranges: ranges
                .map(|(start, end)| CanisterIdRange { start: start.into(), end: end.into() })
                .collect(),
        };
        (subnet.id, config)
    });
    let default = &network.subnets()[network.default_subnet()];
    Topology {
        subnet_configs: configs.collect(),
        default_effective_canister_id: default.first_canister_id().into(),
    }
}

async fn delete_instance(State(server): Shared, Path(id): Id) -> Result<StatusCode, Failure> {
    server.delete_instance(id).await.map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e))?;
    Ok(StatusCode::OK)
}

async fn read_topology(State(server): Shared, Path(id): Id) -> Answer<Topology> {
    Ok(Json(server.find(id)?.topology.clone()))
}

async fn get_time(State(server): Shared, Path(id): Id) -> Answer<RawTime> {
    let time = server.find(id)?.run(|network| network.time()).await?;
    Ok(Json(RawTime { nanos_since_epoch: time }))
}

async fn set_time(State(server): Shared, Path(id): Id, Json(time): Json<RawTime>) -> Answer<()> {
    let instance = server.find(id)?;
    let set = instance.run(move |network| {
        let (now, time) = (network.time(), time.nanos_since_epoch);
        if time < now {
            return Err(format!("SettingTimeIntoPast(({now}, {time}))"));
        }
        network.set_time(time);
        Ok(())
    });
    set.await?.map(Json).map_err(|message| Failure(StatusCode::BAD_REQUEST, message))
}

async fn tick(State(server): Shared, Path(id): Id) -> Answer<()> {
    server.find(id)?.run(Network::round).await?;
    Ok(Json(()))
}

async fn get_cycles(
    State(server): Shared,
    Path(id): Id,
    Json(args): Json<RawCanisterId>,
) -> Answer<RawCycles> {
    let canister = principal(&args.canister_id)?;
    let cycles = server.find(id)?.run(move |n| n.canister(canister).map(|c| c.balance)).await??;
    Ok(Json(RawCycles { cycles }))
}

async fn add_cycles(
    State(server): Shared,
    Path(id): Id,
    Json(args): Json<RawAddCycles>,
) -> Answer<RawCycles> {
    let canister = principal(&args.canister_id)?;
    let cycles = server.find(id)?.run(move |n| n.add_cycles(canister, args.amount)).await??;
    Ok(Json(RawCycles { cycles }))
}

async fn get_controllers(
    State(server): Shared,
    Path(id): Id,
    Json(args): Json<RawCanisterId>,
) -> Answer<Vec<RawPrincipalId>> {
    let canister = principal(&args.canister_id)?;
    let controllers =
        server.find(id)?.run(move |n| n.canister(canister).map(|c| c.settings.controllers.clone())).await??;
    Ok(Json(controllers.iter().map(|p| RawPrincipalId::from(*p)).collect()))
}

async fn get_subnet(
    State(server): Shared,
    Path(id): Id,
    Json(args): Json<RawCanisterId>,
) -> Answer<Option<RawSubnetId>> {
    let canister = principal(&args.canister_id)?;
    let subnet = server
        .find(id)?
        .run(move |n| n.canister(canister).ok().map(|canister| n.subnets()[canister.subnet].id))
        .await?;
    Ok(Json(subnet.map(RawSubnetId::from)))
}

async fn pub_key(State(server): Shared, Path(id): Id, Json(subnet): Json<RawSubnetId>) -> Answer<Vec<u8>> {
    let subnet = principal(&subnet.subnet_id)?;
    let find = move |network: &mut Network| {
        network.subnets().iter().find(|s| s.id == subnet).map(|s| s.signer.public_key().to_vec())
    };
    let key = server.find(id)?.run(find).await?;
    key.map(Json).ok_or_else(|| Failure(StatusCode::BAD_REQUEST, format!("there is no subnet {subnet}")))
}

async fn get_stable_memory(
    State(server): Shared,
    Path(id): Id,
    Json(args): Json<RawCanisterId>,
) -> Answer<RawStableMemory> {
    let canister = principal(&args.canister_id)?;
    let blob = server.find(id)?.run(move |n| n.stable_memory(canister)).await??;
    Ok(Json(RawStableMemory { blob }))
}

async fn set_stable_memory(
    State(server): Shared,
    Path(id): Id,
    Json(args): Json<RawSetStableMemory>,
) -> Answer<()> {
    let canister = principal(&args.canister_id)?;
    let blob = server.state().blobs.get(&args.blob_id.0).cloned();
    let blob = blob.ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("there is no {}", args.blob_id)))?;
    server.find(id)?.run(move |n| n.set_stable_memory(canister, &blob)).await??;
    Ok(Json(()))
}

async fn verify_signature(Json(args): Json<RawVerifyCanisterSigArg>) -> Json<Result<(), String>> {
    Json(verify_canister_signature(&args.pubkey, &args.msg, &args.sig, &args.root_pubkey))
}

async fn upload_blob(State(server): Shared, headers: HeaderMap, body: Bytes) -> Result<String, Failure> {
    let compressed = headers.get(header::CONTENT_ENCODING).is_some_and(|e| e == "gzip");
    let blob = if compressed {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&body[..])
            .take(BODY_BYTES as u64)
            .read_to_end(&mut plain)
            .map_err(|e| Failure(StatusCode::BAD_REQUEST, format!("the blob is not gzip: {e}")))?;
        plain.into()
    } else {
        body
    };
    let id = Sha256::digest(&blob).to_vec();
    server.state().blobs.insert(id.clone(), blob);
    Ok(hex::encode(id))
}

async fn get_canister_http(State(server): Shared, Path(id): Id) -> Answer<Vec<RawCanisterHttpRequest>> {
    let instance = server.find(id)?;
    let waiting = instance.run(|network| {
        network
            .outcalls()
            .map(|(id, outcall)| raw_outcall(id, outcall, network.outcall_subnet(outcall)))
            .collect()
    });
    Ok(Json(waiting.await?))
}

fn raw_outcall(id: u64, outcall: &Outcall, subnet: Principal) -> RawCanisterHttpRequest {
    let header = |h: &HttpHeader| CanisterHttpHeader { name: h.name.clone(), value: h.value.clone() };
    RawCanisterHttpRequest {
        subnet_id: subnet.into(),
        request_id: id,
        http_method: match outcall.method {
            HttpMethod::GET => CanisterHttpMethod::GET,
            HttpMethod::HEAD => CanisterHttpMethod::HEAD,
            HttpMethod::POST => CanisterHttpMethod::POST,
            HttpMethod::PUT => CanisterHttpMethod::PUT,
            HttpMethod::DELETE => CanisterHttpMethod::DELETE,
            HttpMethod::PATCH => CanisterHttpMethod::PATCH,
        },
        url: outcall.url.clone(),
        headers: outcall.headers.iter().map(header).collect(),
        body: outcall.body.clone(),
        max_response_bytes: outcall.max_response_bytes,
        replication: if outcall.replicated {
            CanisterHttpReplication::FullyReplicated
        } else {
            CanisterHttpReplication::NonReplicated
        },
        pricing_version: CanisterHttpPricingVersion::Legacy,
    }
}

async fn mock_canister_http(
    State(server): Shared,
    Path(id): Id,
    Json(mock): Json<RawMockCanisterHttpResponse>,
) -> Answer<()> {
    let RawMockCanisterHttpResponse { subnet_id, request_id, response, additional_responses } = mock;
    let subnet = principal(&subnet_id.subnet_id)?;
    let answers = std::iter::once(response).chain(additional_responses).map(mocked_answer);
    let answers = answers.collect::<Result<Vec<_>, _>>()?;
    let instance = server.find(id)?;
    let answered = instance.run(move |network| {
        let known = network.outcalls().any(|(id, o)| id == request_id && network.outcall_subnet(o) == subnet);
        if known {
            network.answer_outcall(request_id, answers)
        } else {
            Err(AnswerError::Unknown(request_id))
        }
    });
    answered.await?.map(Json).map_err(|e| Failure(StatusCode::BAD_REQUEST, e.to_string()))
}

/// What a node received, according to a test.
fn mocked_answer(response: CanisterHttpResponse) -> Result<Result<HttpRequestResult, Reject>, Failure> {
    match response {
        CanisterHttpResponse::CanisterHttpReply(CanisterHttpReply { status, headers, body }) => {
            let headers = headers.into_iter().map(|h| HttpHeader { name: h.name, value: h.value }).collect();
            Ok(Ok(HttpRequestResult { status: status.into(), headers, body }))
        }
        CanisterHttpResponse::CanisterHttpReject(CanisterHttpReject { reject_code, message }) => {
            if message.len() > MAX_REJECT_MESSAGE {
                let reason = format!("a node's reject message has at most {MAX_REJECT_MESSAGE} bytes");
                return Err(Failure(StatusCode::BAD_REQUEST, reason));
            }
            let code = RejectCode::try_from(reject_code)
                .map_err(|code| Failure(StatusCode::BAD_REQUEST, format!("InvalidRejectCode({code})")))?;
            Ok(Err(Reject::system(code, message)))
        }
    }
}

fn principal(bytes: &[u8]) -> Result<Principal, Failure> {
    Principal::try_from_slice(bytes)
        .map_err(|e| Failure(StatusCode::BAD_REQUEST, format!("no principal: {e}")))
}

fn result(response: CallResponse) -> RawCanisterResult {
    response.map_err(raw_reject).into()
}

fn raw_reject(reject: Reject) -> pocket_ic::RejectResponse {
    let code = reject.code.reject_code() as u64;
    pocket_ic::RejectResponse {
        reject_code: pocket_ic::RejectCode::try_from(code).expect("both lists are the specification's"),
        reject_message: reject.message,
        error_code: ErrorCode::try_from(reject.code as u64).expect("every code is one of the replica's"),
        certified: true,
    }
}

async fn query(
    State(server): Shared,
    Path(id): Id,
    Json(call): Json<RawCanisterCall>,
) -> Answer<RawCanisterResult> {
    let query = Query {
        canister: principal(&call.canister_id)?,
        caller: principal(&call.sender)?,
        method: call.method,
        argument: call.payload,
    };
    Ok(Json(result(server.find(id)?.run(move |n| n.query(query)).await?)))
}

async fn submit_ingress_message(
    State(server): Shared,
    Path(id): Id,
    Json(call): Json<RawCanisterCall>,
) -> Answer<Result<RawMessageId, pocket_ic::RejectResponse>> {
    let instance = server.find(id)?;
    let (canister, sender) = (principal(&call.canister_id)?, principal(&call.sender)?);
    let nonce = server.nonce.fetch_add(1, Ordering::Relaxed).to_be_bytes().to_vec();
    let RawCanisterCall { method, payload, effective_principal, .. } = call;
    let effective = match &effective_principal {
        RawEffectivePrincipal::None => None,
        RawEffectivePrincipal::SubnetId(id) | RawEffectivePrincipal::CanisterId(id) => Some(principal(id)?),
    };
    let submitted = instance.run(move |network| {
        let expiry = network.time() + limits::INGRESS_TTL;
        let content = EnvelopeContent::Call {
            nonce: Some(nonce),
            ingress_expiry: expiry,
            sender,
            canister_id: canister,
            method_name: method.clone(),
            arg: payload.clone(),
            sender_info: None,
        };
        let id = *content.to_request_id();
        let message = IngressMessage { id, sender, canister, method, argument: payload, expiry, effective };
        network.submit(message).map(|()| id)
    });
    let submitted = submitted.await?;
    Ok(Json(
        submitted.map(|id| RawMessageId { effective_principal, message_id: id.to_vec() }).map_err(raw_reject),
    ))
}

fn request_id(message: &RawMessageId) -> Result<RequestId, Failure> {
    message
        .message_id
        .as_slice()
        .try_into()
        .map_err(|_| Failure(StatusCode::BAD_REQUEST, "a message id has 32 bytes".into()))
}

async fn await_ingress_message(
    State(server): Shared,
    Path(id): Id,
    Json(message): Json<RawMessageId>,
) -> Answer<RawCanisterResult> {
    let request = request_id(&message)?;
    let instance = server.find(id)?;
    let response = if instance.is_live() {
        instance.wait_for(LIVE_AWAIT, move |network| network.ingress_response(&request).cloned()).await?
    } else {
        instance.run(move |network| network.await_ingress(&request)).await?
    };
    match response {
        Some(response) => Ok(Json(result(response))),
        None => Err(Failure(
            StatusCode::BAD_REQUEST,
            format!("PocketIC did not complete the update call {} in time", hex::encode(request)),
        )),
    }
}

async fn ingress_status(
    State(server): Shared,
    Path(id): Id,
    Json(args): Json<RawIngressStatusArgs>,
) -> Answer<Option<RawCanisterResult>> {
    let request = request_id(&args.raw_message_id)?;
    let caller = args.raw_caller.map(|caller| principal(&caller.principal_id)).transpose()?;
    let instance = server.find(id)?;
    let status = instance.run(move |network| {
        let sender = network.ingress_request(&request).map(|request| request.sender);
        if sender.is_some_and(|sender| caller.is_some_and(|caller| caller != sender)) {
            return Err(Failure(
                StatusCode::FORBIDDEN,
                "The user does not have permission to view the status of this call.".into(),
            ));
        }
        Ok(network.ingress_response(&request).cloned().map(result))
    });
    status.await?.map(Json)
}

async fn auto_progress_enabled(State(server): Shared, Path(id): Id) -> Answer<bool> {
    Ok(Json(server.find(id)?.is_live()))
}

async fn auto_progress(State(server): Shared, Path(id): Id) -> Answer<()> {
    server.find(id)?.set_live(true).await?;
    Ok(Json(()))
}

async fn stop_progress(State(server): Shared, Path(id): Id) -> Answer<()> {
    server.find(id)?.set_live(false).await?;
    Ok(Json(()))
}

async fn instance_api(
    State(server): Shared,
    Path((id, path)): Path<(InstanceId, String)>,
    body: Bytes,
) -> Result<Response, Failure> {
    let instance = server.find(id)?;
    Ok(ic::serve(&instance, &path, &body).await.into_response())
}

async fn create_gateway(
    State(server): Shared,
    Json(config): Json<HttpGatewayConfig>,
) -> Json<CreateHttpGatewayResponse> {
    let HttpGatewayConfig {
        ip_addr,
        port,
        forward_to,
        domains,
        https_config,
        domain_custom_provider_local_file,
    } = config;
    let own =
        InstanceHttpGatewayConfig { ip_addr, port, domains, https_config, domain_custom_provider_local_file };
    let created = match forward_to {
        HttpGatewayBackend::PocketIcInstance(id) => start_gateway(&server, id, own).await,
        HttpGatewayBackend::Replica(url) => Err(format!("forwarding to {url} is not supported")),
    };
    Json(match created {
        Ok(info) => CreateHttpGatewayResponse::Created(info),
        Err(message) => CreateHttpGatewayResponse::Error { message },
    })
}

async fn start_gateway(
    server: &Server,
    id: InstanceId,
    config: InstanceHttpGatewayConfig,
) -> Result<HttpGatewayInfo, String> {
    let instance = server.find(id).map_err(|Failure(_, message)| message)?;
    if config.https_config.is_some() {
        return Err("`https_config` is not supported: this gateway speaks HTTP only".into());
    }
    if config.domain_custom_provider_local_file.is_some() {
        return Err("`domain_custom_provider_local_file` is not supported: use `domains`".into());
    }
    let address = match &config.ip_addr {
        Some(text) => text.parse().map_err(|e| format!("`ip_addr`: `{text}` is no IP address: {e}"))?,
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let port = config.port.unwrap_or(0);
    let listener = TcpListener::bind((address, port))
        .await
        .map_err(|e| format!("cannot listen on {}: {e}", SocketAddr::new(address, port)))?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let domains = config.domains.unwrap_or_else(|| vec![gateway::DEFAULT_DOMAIN.into()]);
    let routes = gateway::router(instance, &domains).map_err(|e| e.to_string())?;
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::warn!("the HTTP gateway has stopped: {error}");
        }
    });
    let mut state = server.state();
    let gateway = state.next_gateway;
    state.next_gateway += 1;
    state.gateways.insert(gateway, (id, task.abort_handle()));
    Ok(HttpGatewayInfo { instance_id: gateway, port })
}

async fn stop_gateway(State(server): Shared, Path(gateway): Id) -> Json<()> {
    if let Some((_, task)) = server.state().gateways.remove(&gateway) {
        task.abort();
    }
    Json(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pocket_ic::common::rest::HttpsConfig;

    #[test]
    fn pocket_ic_knows_every_error_code() {
        for code in crate::reject::ErrorCode::ALL {
            let reject = raw_reject(Reject::new(*code, "text"));
            assert_eq!(reject.error_code as u64, *code as u64);
        }
    }

    #[test]
    fn old_blobs_make_room() {
        let mut blobs = Blobs::default();
        let quarter = Bytes::from(vec![0; BODY_BYTES / 4]);
        for id in 0..8u8 {
            blobs.insert(vec![id], quarter.clone());
            blobs.insert(vec![id], quarter.clone());
            assert!(blobs.get(&[id]).is_some());
        }
        assert_eq!((blobs.get(&[0]), blobs.0.len()), (None, 5));
    }

    #[tokio::test]
    async fn an_instance_without_its_gateway_is_not_kept() {
        let server = Server::default();
        let https = HttpsConfig { cert_path: "cert.pem".into(), key_path: "key.pem".into() };
        let gateway = InstanceHttpGatewayConfig {
            ip_addr: None,
            port: None,
            domains: None,
            https_config: Some(https),
            domain_custom_provider_local_file: None,
        };
        let config = InstanceConfig {
            subnet_config_set: ExtendedSubnetConfigSet {
                application: vec![pocket_ic::common::rest::SubnetSpec::default()],
                ..Default::default()
            },
            http_gateway_config: Some(gateway),
            ..Default::default()
        };
        assert!(new_instance(&server, config).await.is_err());
        assert!(server.state().instances.is_empty());
    }
}
