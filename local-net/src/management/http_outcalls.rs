//! HTTPS outcalls: checking a request, keeping it until it is answered, and agreeing on the answer.
//!
//! The network itself sends nothing. Requests wait in [`Network::outcalls`]; whoever runs the network answers them with
//! [`Network::answer_outcall`], from a test's mock or from the real world (`http::outcalls`).

use super::{Outcome, decode, encode, take_fee};
use crate::{
    execution::Function,
    network::{Keep, Network, Origin, SubnetIndex},
    reject::{ErrorCode, Reject, RejectCode, Response},
    system_api::{EntryPoint, Message},
};
use candid::Principal;
use ic_management_canister_types as types;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use types::HttpMethod;

/// Longest URL in bytes (interface specification, `http_request`).
const MAX_URL: usize = 8_192;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Longest name, and longest value, of a header in bytes.
const MAX_HEADER: usize = 8 * 1_024;
/// Bytes of all names and values of headers.
const MAX_HEADERS_BYTES: usize = 48 * 1_024;
/// Bytes of a request's headers and body.
const MAX_REQUEST_BYTES: usize = 2_000_000;
/// Bytes of a response: the largest, and the default of `max_response_bytes`.
pub const MAX_RESPONSE_BYTES: u64 = 2_000_000;
/// Requests of a subnet that may wait for an answer at a time.
const MAX_PENDING: usize = 3_000;
/// Nanoseconds after which an unanswered request is rejected.
const TIMEOUT: u64 = 60 * 1_000_000_000;

/// A function of the calling canister that sees each node's response before the nodes compare them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Transform {
    method: String,
    context: Vec<u8>,
}

/// A request that waits for its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcall {
    /// The canister that made it.
    pub canister: Principal,
    /// The subnet whose nodes make it.
    subnet: SubnetIndex,
    /// Where it goes.
    pub url: String,
    /// The method.
    pub method: HttpMethod,
    /// The headers, in the canister's order.
    pub headers: Vec<types::HttpHeader>,
    /// The body; empty when there is none.
    pub body: Vec<u8>,
    /// The largest response in bytes, if the canister gave a limit; see [`Outcall::response_limit`].
    pub max_response_bytes: Option<u64>,
    /// Whether all nodes make the request and must agree, or one node alone.
    pub replicated: bool,
    transform: Option<Transform>,
    origin: Origin,
    /// Attached cycles that the fee did not take.
    refund: u128,
    /// When it was made, in nanoseconds since 1970.
    started: u64,
}

impl Outcall {
    /// The largest response in bytes.
    pub fn response_limit(&self) -> u64 {
        self.max_response_bytes.unwrap_or(MAX_RESPONSE_BYTES)
    }
}

/// The requests of a network that wait for an answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcalls {
    pending: BTreeMap<u64, Outcall>,
    next: u64,
}

/// Why an answer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No request with this number waits.
    #[error("InvalidCanisterHttpRequestId({0}): no HTTP outcall with this number waits for an answer")]
    Unknown(u64),
    /// There is neither one answer nor one for each node.
    #[error(
        "InvalidMockCanisterHttpResponses(({given}, {nodes})): give one response, or one for each of the {nodes} nodes"
    )]
    Count {
        /// The number of answers.
        given: usize,
        /// The nodes of the subnet.
        nodes: usize,
    },
}

fn invalid(message: String) -> Reject {
    Reject::new(ErrorCode::CanisterRejectedMessage, message)
}

/// Checks the limits of the interface specification, with the replica's words.
fn check(args: &types::HttpRequestArgs, caller: Principal) -> Result<(), Reject> {
    if let Some(transform) = &args.transform
        && transform.function.0.principal != caller
    {
        return Err(invalid(format!(
            "transform principal id expected to be {caller}, got {}",
            transform.function.0.principal
        )));
    }
    let too_large =
        |what: &str, size: usize, limit: usize| Err(invalid(format!("{what} {size} exceeds {limit}")));
    if args.url.len() > MAX_URL {
        return too_large("url size", args.url.len(), MAX_URL);
    }
    if args.headers.len() > MAX_HEADERS {
        return too_large("number of all http headers", args.headers.len(), MAX_HEADERS);
    }
    let longest =
        |length: fn(&types::HttpHeader) -> usize| args.headers.iter().map(length).max().unwrap_or(0);
    let (name, value) = (longest(|h| h.name.len()), longest(|h| h.value.len()));
    if name > MAX_HEADER {
        return too_large("number of bytes to represent some http header name", name, MAX_HEADER);
    }
    if value > MAX_HEADER {
        return too_large("number of bytes to represent some http header value", value, MAX_HEADER);
    }
    let headers = headers_bytes(&args.headers);
    if headers > MAX_HEADERS_BYTES {
        return too_large(
            "total number of bytes to represent all http header names and values",
            headers,
            MAX_HEADERS_BYTES,
        );
    }
    let request = headers + args.body.as_ref().map_or(0, Vec::len);
    if request > MAX_REQUEST_BYTES {
        return too_large(
            "total number of bytes to represent all http header names and values and http body",
            request,
            MAX_REQUEST_BYTES,
        );
    }
    if let Some(given) = args.max_response_bytes
        && given > MAX_RESPONSE_BYTES
    {
        return Err(invalid(format!(
            "max_response_bytes expected to be in the range [0..{MAX_RESPONSE_BYTES}], got {given}"
        )));
    }
    let changes = matches!(args.method, HttpMethod::PUT | HttpMethod::DELETE | HttpMethod::PATCH);
    if changes && args.is_replicated != Some(false) {
        return Err(invalid("The requested HTTP method is only allowed for non-replicated requests.".into()));
    }
    Ok(())
}

/// Bytes of all names and values.
pub fn headers_bytes(headers: &[types::HttpHeader]) -> usize {
    headers.iter().map(|h| h.name.len() + h.value.len()).sum()
}

/// Bytes for which the request is charged.
fn request_bytes(args: &types::HttpRequestArgs) -> u64 {
    let transform = args.transform.as_ref().map_or(0, |t| t.function.0.method.len() + t.context.len());
    let body = args.body.as_ref().map_or(0, Vec::len);
    (args.url.len() + headers_bytes(&args.headers) + body + transform) as u64
}

impl Network {
    /// The outcalls that wait for an answer, by number.
    pub fn outcalls(&self) -> impl Iterator<Item = (u64, &Outcall)> {
        self.outcalls.pending.iter().map(|(id, outcall)| (*id, outcall))
    }

    /// The id of the subnet whose nodes make an outcall.
    pub fn outcall_subnet(&self, outcall: &Outcall) -> Principal {
        self.subnets()[outcall.subnet].id
    }

    /// The number that the next outcall will have.
    pub fn next_outcall(&self) -> u64 {
        self.outcalls.next
    }

    pub(super) fn http_request(
        &mut self,
        caller: Principal,
        argument: &[u8],
        cycles: u128,
        origin: Origin,
        subnet: SubnetIndex,
    ) -> Result<Outcome, Reject> {
        let args: types::HttpRequestArgs = decode(argument)?;
        check(&args, caller)?;
        if self.outcalls().filter(|(_, outcall)| outcall.subnet == subnet).count() >= MAX_PENDING {
            return Err(invalid(format!("max number ({MAX_PENDING}) of http requests in-flight reached.")));
        }
        let limit = args.max_response_bytes.unwrap_or(MAX_RESPONSE_BYTES);
        let fee = self.subnets()[subnet].fees().http_request(request_bytes(&args), limit);
        let refund = take_fee("http_request", fee, cycles)?;
        let outcall = Outcall {
            canister: caller,
            subnet,
            url: args.url,
            method: args.method,
            headers: args.headers,
            body: args.body.unwrap_or_default(),
            max_response_bytes: args.max_response_bytes,
            replicated: args.is_replicated != Some(false),
            transform: args.transform.map(|t| Transform { method: t.function.0.method, context: t.context }),
            origin,
            refund,
            started: self.time(),
        };
        self.outcalls.pending.insert(self.outcalls.next, outcall);
        self.outcalls.next += 1;
        Ok(Outcome::Pending)
    }

    /// Answers an outcall with what its nodes received: one answer that all of them received, or one for each node. Each
    /// answer passes through the transform function; then the nodes must agree, unless the request is not replicated.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub fn answer_outcall(
        &mut self,
        id: u64,
        answers: Vec<Result<types::HttpRequestResult, Reject>>,
    ) -> Result<(), AnswerError> {
        let nodes = self.outcall_nodes(id)?;
        if answers.len() != 1 && answers.len() != nodes {
            return Err(AnswerError::Count { given: answers.len(), nodes });
        }
        let outcall = self.outcalls.pending.remove(&id).ok_or(AnswerError::Unknown(id))?;
        let mut seen: Vec<Response> =
            answers.into_iter().map(|answer| self.transform(&outcall, answer?)).collect();
        let response = if seen.len() == 1 || !outcall.replicated {
            seen.swap_remove(0)
        } else {
            agree(id, outcall.started + TIMEOUT, seen)
        };
        self.respond(outcall.origin, response, outcall.refund);
        Ok(())
    }

    /// The nodes of the subnet that makes the outcall.
    fn outcall_nodes(&self, id: u64) -> Result<usize, AnswerError> {
        let outcall = self.outcalls.pending.get(&id).ok_or(AnswerError::Unknown(id))?;
        Ok(self.subnets()[outcall.subnet].fees().nodes as usize)
    }

    /// What a node makes of a response: the Candid value that the canister will see.
    fn transform(&mut self, outcall: &Outcall, response: types::HttpRequestResult) -> Response {
        let Some(Transform { method, context }) = &outcall.transform else { return encode(response) };
        let argument = encode(types::TransformArgs { response, context: context.clone() })?;
        let id = outcall.canister;
        let canister = self.canister(id)?;
        canister.check_running()?;
        let code = canister.code.as_ref().ok_or_else(|| Reject::no_module(id))?;
        let function = format!("canister_query {method}");
        if !code.module.exports(&function) {
            return Err(Reject::no_method(id, "query", method));
        }
        let message = Message {
            argument,
            unanswered: true,
            ..Message::new(EntryPoint::Transform, Principal::management_canister())
        };
        let answer = self.execute(id, Function::Export(&function), message, Keep::Nothing).result?.answer;
        let reply = match answer {
            Some(answer) => answer.map_err(|text| Reject::new(ErrorCode::CanisterRejectedMessage, text))?,
            None => {
                return Err(Reject::new(
                    ErrorCode::CanisterDidNotReply,
                    format!("Canister {id} did not reply to the call"),
                ));
            }
        };
        if reply.len() as u64 > outcall.response_limit() {
            return Err(Reject::system(
                RejectCode::SysFatal,
                format!("Transformed http response exceeds limit: {}", outcall.response_limit()),
            ));
        }
        Ok(reply)
    }

    /// Rejects the outcalls that have waited for too long.
    pub(crate) fn expire_outcalls(&mut self) {
        let time = self.time();
        let expired: Vec<u64> = self
            .outcalls()
            .filter(|(_, o)| o.started.saturating_add(TIMEOUT) <= time)
            .map(|(id, _)| id)
            .collect();
        for outcall in expired.iter().filter_map(|id| self.outcalls.pending.remove(id)).collect::<Vec<_>>() {
            let reject = Reject::system(RejectCode::SysTransient, "Canister http request timed out");
            self.respond(outcall.origin, Err(reject), outcall.refund);
        }
    }
}

/// The answer that all but the tolerated third of the nodes gave; otherwise the reject that names all answers.
fn agree(id: u64, timeout: u64, answers: Vec<Response>) -> Response {
    let nodes = answers.len();
    let faulty = (nodes - 1) / 3;
    let mut counts: BTreeMap<[u8; 32], (usize, Response)> = BTreeMap::new();
    for answer in answers {
        counts.entry(digest(&answer)).or_insert((0, answer)).0 += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    if let Some((_, (count, _))) = counts.first()
        && *count >= nodes - faulty
    {
        return counts.swap_remove(0).1.1;
    }
    let hashes: Vec<String> =
        counts.iter().map(|(hash, (count, _))| format!("[{}: {count}]", hex::encode(hash))).collect();
    Err(Reject::system(
        RejectCode::SysTransient,
        format!(
            "No consensus could be reached. Replicas had different responses. Details: request_id: {id}, timeout: \
             {timeout}, hashes: {}",
            hashes.join(", ")
        ),
    ))
}

fn digest(answer: &Response) -> [u8; 32] {
    let hash = Sha256::new();
    let hash = match answer {
        Ok(reply) => hash.chain_update([0]).chain_update(reply),
        Err(reject) => hash.chain_update([reject.code.reject_code() as u8]).chain_update(&reject.message),
    };
    hash.finalize().into()
}
