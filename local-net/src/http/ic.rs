//! The Internet Computer's HTTP interface (interface specification, "HTTPS interface"): calls, queries and `read_state` of canisters and
//! subnets, and the status.

use super::instance::{Instance, Stopped};
use crate::{
    authentication::authenticate,
    certification::{Path, cbor},
    network::{IngressMessage, Network, Query, RequestId, managed},
    reject::Reject,
};
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use candid::Principal;
use ic_transport_types::{
    Envelope, EnvelopeContent, NodeSignature, QueryResponse, ReadStateResponse, RejectCode, RejectResponse,
    ReplyResponse, TransportCallResponse,
};
use serde::Serialize;
use std::time::Duration;

/// Most paths of a `read_state` request, and most labels of a path.
const MAX_PATHS: usize = 1_000;
const MAX_LABELS: usize = 127;
/// How long a synchronous call waits for its result before the client must poll.
const SYNC_CALL_WAIT: Duration = Duration::from_secs(10);

/// Why a request gets no answer in CBOR.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request is not well-formed, or not authentic.
    #[error("{0}")]
    BadRequest(String),
    /// The sender may not read this.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such endpoint.
    #[error("there is no endpoint {0}")]
    NotFound(String),
    /// The network is gone.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Stopped(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

/// The answer to `/api/v2/status`, with the specification's field names.
#[derive(Serialize)]
struct Status<'a> {
    ic_api_version: &'a str,
    impl_version: &'a str,
    #[serde(rename = "replica_health_status")]
    health: &'a str,
    #[serde(with = "serde_bytes")]
    root_key: &'a [u8],
}

/// Serves a request; `path` is what follows `/api/`.
///
/// # Errors
/// See [`ApiError`].
pub async fn serve(instance: &Instance, path: &str, body: &[u8]) -> Result<Response, ApiError> {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["v2", "status"] => Ok(cbor_response(
            StatusCode::OK,
            &Status {
                ic_api_version: "0.18.0",
                impl_version: env!("CARGO_PKG_VERSION"),
                health: "healthy",
                root_key: &instance.root_key,
            },
        )),
        [version, kind, id, operation] if is_endpoint(version, kind, operation) => {
            let id = principal(id)?;
            let target = if kind == "canister" { Target::Canister(id) } else { Target::Subnet(id) };
            serve_operation(instance, version, target, operation, body).await
        }
        _ => Err(ApiError::NotFound(format!("/api/{path}"))),
    }
}

fn is_endpoint(version: &str, kind: &str, operation: &str) -> bool {
    matches!(
        (version, kind, operation),
        ("v2" | "v3" | "v4", "canister", "call")
            | ("v4", "subnet", "call")
            | ("v2" | "v3", "canister", "query")
            | ("v3", "subnet", "query")
            | ("v2" | "v3", "canister" | "subnet", "read_state")
    )
}

/// What the URL names, which decides where the request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Canister(Principal),
    Subnet(Principal),
}

impl Target {
    fn id(self) -> Principal {
        match self {
            Self::Canister(id) | Self::Subnet(id) => id,
        }
    }

    /// A call must go to the canister that the URL names, or to the management canister about that canister. The URL of a
    /// subnet is for other calls to the management canister.
    fn check(self, canister: Principal, method: &str, argument: &[u8]) -> Result<(), ApiError> {
        let management = canister == Principal::management_canister();
        let expected = match self {
            Self::Subnet(_) if management => return Ok(()),
            Self::Canister(_) if management && method == "provisional_create_canister_with_cycles" => {
                return Ok(());
            }
            Self::Canister(id) if management => managed(argument).unwrap_or(id),
            _ => canister,
        };
        if self == Self::Canister(expected) {
            return Ok(());
        }
        Err(ApiError::BadRequest(format!(
            "Effective canister id in URL {} does not match requested canister id: {expected}.",
            self.id()
        )))
    }
}

fn principal(text: &str) -> Result<Principal, ApiError> {
    Principal::from_text(text).map_err(|e| ApiError::BadRequest(format!("`{text}` is no principal: {e}")))
}

async fn serve_operation(
    instance: &Instance,
    version: &str,
    target: Target,
    operation: &str,
    body: &[u8],
) -> Result<Response, ApiError> {
    let envelope: Envelope = serde_cbor::from_slice(body)
        .map_err(|e| ApiError::BadRequest(format!("not a request in CBOR: {e}")))?;
    if instance.checks_signatures {
        let now = instance.run(|network| network.time()).await?;
        authenticate(&envelope, &instance.root_key, now).map_err(|e| ApiError::BadRequest(e.to_string()))?;
    }
    let id = envelope.content.to_request_id();
    match (operation, envelope.content.into_owned()) {
        ("call", EnvelopeContent::Call { sender, canister_id, method_name, arg, ingress_expiry, .. }) => {
            target.check(canister_id, &method_name, &arg)?;
            let message = IngressMessage {
                id: *id,
                sender,
                canister: canister_id,
                method: method_name,
                argument: arg,
                expiry: ingress_expiry,
                effective: Some(target.id()),
            };
            call(instance, message, version == "v2").await
        }
        ("query", EnvelopeContent::Query { sender, canister_id, method_name, arg, .. }) => {
            target.check(canister_id, &method_name, &arg)?;
            let query = Query { canister: canister_id, caller: sender, method: method_name, argument: arg };
            let response = instance.run(move |network| signed_query(network, query, target.id(), id)).await?;
            Ok(cbor_response(StatusCode::OK, &response))
        }
        ("read_state", EnvelopeContent::ReadState { sender, paths, .. }) => {
            let paths: Vec<Path> =
                paths.into_iter().map(|path| path.iter().map(|l| l.as_bytes().to_vec()).collect()).collect();
            let certificate =
                instance.run(move |network| read_state(network, sender, target, paths)).await??;
            Ok(cbor_response(StatusCode::OK, &ReadStateResponse { certificate }))
        }
        ("call" | "query" | "read_state", _) => {
            Err(ApiError::BadRequest(format!("the request is not of the type that {operation} takes")))
        }
        _ => Err(ApiError::NotFound(operation.to_owned())),
    }
}

async fn call(
    instance: &Instance,
    message: IngressMessage,
    asynchronous: bool,
) -> Result<Response, ApiError> {
    let id = message.id;
    if let Err(reject) = instance.run(move |network| network.submit(message)).await? {
        let response = reject_response(reject);
        return Ok(if asynchronous {
            cbor_response(StatusCode::OK, &response)
        } else {
            cbor_response(StatusCode::OK, &TransportCallResponse::NonReplicatedRejection(response))
        });
    }
    if asynchronous {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let certificate = instance.wait_for(SYNC_CALL_WAIT, move |network| network.certify_request(&id)).await?;
    Ok(match certificate {
        Some(certificate) => cbor_response(StatusCode::OK, &TransportCallResponse::Replied { certificate }),
        None => cbor_response(StatusCode::ACCEPTED, &TransportCallResponse::Accepted),
    })
}

fn reject_response(reject: Reject) -> RejectResponse {
    RejectResponse {
        // Queries and calls of users never end in SYS_UNKNOWN, which this type does not have.
        reject_code: RejectCode::try_from(reject.code.reject_code() as u64)
            .unwrap_or(RejectCode::SysTransient),
        reject_message: reject.message,
        error_code: Some(reject.code.to_string()),
    }
}

/// The answer to a query, signed by the node of the subnet to which the canister or subnet `effective` belongs.
fn signed_query(
    network: &mut Network,
    query: Query,
    effective: Principal,
    id: ic_transport_types::RequestId,
) -> QueryResponse {
    let subnet = network.subnet_of(effective).unwrap_or_else(|| network.default_subnet());
    let mut response = match network.query(query) {
        Ok(arg) => QueryResponse::Replied { reply: ReplyResponse { arg }, signatures: Vec::new() },
        Err(reject) => QueryResponse::Rejected { reject: reject_response(reject), signatures: Vec::new() },
    };
    let (signer, timestamp) = (&network.subnets()[subnet].signer, network.time());
    let signature = signer.sign_as_node(&response.signable(id, timestamp));
    let (QueryResponse::Replied { signatures, .. } | QueryResponse::Rejected { signatures, .. }) =
        &mut response;
    signatures.push(NodeSignature { timestamp, signature, identity: signer.node_id() });
    response
}

/// A certificate for `paths`, if `sender` may read them all.
fn read_state(
    network: &mut Network,
    sender: Principal,
    target: Target,
    paths: Vec<Path>,
) -> Result<Vec<u8>, ApiError> {
    if paths.len() > MAX_PATHS {
        return Err(ApiError::BadRequest(format!("{} paths are more than {MAX_PATHS}", paths.len())));
    }
    for path in &paths {
        check_path(network, sender, target, path)?;
    }
    let mut requests = paths.iter().filter(|path| path.first().is_some_and(|l| l == b"request_status"));
    if let Some(first) = requests.next()
        && requests.any(|other| other.get(1) != first.get(1))
    {
        return Err(ApiError::BadRequest(
            "Can only request a single request ID in request_status paths.".into(),
        ));
    }
    let id = target.id();
    let subnet = network
        .subnet_of(id)
        .ok_or_else(|| ApiError::BadRequest(format!("no subnet has the canister or id {id}")))?;
    Ok(network.certify(subnet, paths))
}

fn check_path(network: &Network, sender: Principal, target: Target, path: &Path) -> Result<(), ApiError> {
    let refuse = |reason: &str| Err(ApiError::Forbidden(reason.to_owned()));
    if path.len() > MAX_LABELS {
        return Err(ApiError::BadRequest(format!(
            "a path has {} labels, more than {MAX_LABELS}",
            path.len()
        )));
    }
    match path.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"time" | b"subnet" | b"canister_ranges" | b"api_boundary_nodes", ..] => Ok(()),
        [b"canister", id, name, ..] => {
            if target.id().as_slice() != id {
                return refuse("the path names another canister than the URL");
            }
            let canister = Principal::try_from_slice(id).ok().and_then(|id| network.canister(id).ok());
            let (Some(canister), b"metadata") = (canister, name) else { return Ok(()) };
            let name = path.get(3).map(|n| String::from_utf8_lossy(n).into_owned()).unwrap_or_default();
            let metadata = canister.code.as_ref().and_then(|c| c.module.metadata.get(&name));
            if metadata.is_some_and(|m| !m.public) && !canister.is_controlled_by(sender) {
                return refuse("the metadata section is private");
            }
            Ok(())
        }
        [b"request_status", id, ..] if matches!(target, Target::Canister(_)) => {
            let known = RequestId::try_from(id).ok().and_then(|id| network.ingress_request(&id));
            if known.is_some_and(|request| request.sender != sender) {
                return refuse("the user does not have permission to read this request's status");
            }
            Ok(())
        }
        _ => Err(ApiError::Forbidden("the path is not part of the public state".into())),
    }
}

fn cbor_response(status: StatusCode, value: &impl Serialize) -> Response {
    (status, [(header::CONTENT_TYPE, "application/cbor")], cbor(value)).into_response()
}
