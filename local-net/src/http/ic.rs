//! The Internet Computer's HTTP interface: `/api/{v2,v3,v4}/…/{call,query,read_state}` and `/api/v2/status`.

use super::instance::{Instance, Stopped};
use crate::{
    authentication::authenticate,
    certification::{Path, cbor},
    network::{IngressMessage, Network, Query, RequestId},
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
        [_, "status"] => Ok(cbor_response(
            StatusCode::OK,
            &Status {
                ic_api_version: "0.18.0",
                impl_version: env!("CARGO_PKG_VERSION"),
                health: "healthy",
                root_key: &instance.root_key,
            },
        )),
        [version, "canister" | "subnet", id, operation] => {
            let id = principal(id)?;
            serve_operation(instance, version, id, operation, body).await
        }
        _ => Err(ApiError::NotFound(format!("/api/{path}"))),
    }
}

fn principal(text: &str) -> Result<Principal, ApiError> {
    Principal::from_text(text).map_err(|e| ApiError::BadRequest(format!("`{text}` is no principal: {e}")))
}

async fn serve_operation(
    instance: &Instance,
    version: &str,
    effective: Principal,
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
            check_effective(canister_id, effective)?;
            let message = IngressMessage {
                id: *id,
                sender,
                canister: canister_id,
                method: method_name,
                argument: arg,
                expiry: ingress_expiry,
                effective: Some(effective),
            };
            call(instance, message, version == "v2").await
        }
        ("query", EnvelopeContent::Query { sender, canister_id, method_name, arg, .. }) => {
            check_effective(canister_id, effective)?;
            let query = Query { canister: canister_id, caller: sender, method: method_name, argument: arg };
            let response = instance.run(move |network| signed_query(network, query, id)).await?;
            Ok(cbor_response(StatusCode::OK, &response))
        }
        ("read_state", EnvelopeContent::ReadState { sender, paths, .. }) => {
            let paths: Vec<Path> =
                paths.into_iter().map(|path| path.iter().map(|l| l.as_bytes().to_vec()).collect()).collect();
            let certificate =
                instance.run(move |network| read_state(network, sender, effective, paths)).await??;
            Ok(cbor_response(StatusCode::OK, &ReadStateResponse { certificate }))
        }
        ("call" | "query" | "read_state", _) => {
            Err(ApiError::BadRequest(format!("the request is not of the type that {operation} takes")))
        }
        _ => Err(ApiError::NotFound(operation.to_owned())),
    }
}

/// A call must go to the canister that the URL names; a call to the management canister may go anywhere.
fn check_effective(canister: Principal, effective: Principal) -> Result<(), ApiError> {
    if canister == Principal::management_canister() || canister == effective {
        return Ok(());
    }
    Err(ApiError::BadRequest(format!("the call is to {canister}, the URL names {effective}")))
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

fn signed_query(network: &mut Network, query: Query, id: ic_transport_types::RequestId) -> QueryResponse {
    let subnet = network.subnet_of(query.canister).unwrap_or_else(|| network.default_subnet());
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
    effective: Principal,
    paths: Vec<Path>,
) -> Result<Vec<u8>, ApiError> {
    for path in &paths {
        check_path(network, sender, effective, path)?;
    }
    let subnet = network
        .subnet_of(effective)
        .ok_or_else(|| ApiError::BadRequest(format!("no subnet has the canister or id {effective}")))?;
    Ok(network.certify(subnet, paths))
}

fn check_path(
    network: &Network,
    sender: Principal,
    effective: Principal,
    path: &Path,
) -> Result<(), ApiError> {
    let refuse = |reason: &str| Err(ApiError::Forbidden(reason.to_owned()));
    match path.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"time" | b"subnet" | b"canister_ranges" | b"api_boundary_nodes", ..] => Ok(()),
        [b"canister", id, name, ..] => {
            if effective.as_slice() != id {
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
        [b"request_status", id, ..] => {
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
