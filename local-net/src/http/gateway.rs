//! The HTTP gateway: canisters as web servers on `<canister id>.localhost`, besides the Internet Computer's own interface.
//!
//! The protocol (certificates of responses, upgrades to update calls, streaming) is that of the library the boundary nodes
//! use; its calls reach the network without leaving the process.

use super::{ic, instance::Instance};
use crate::limits;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri, header, request::Parts},
    response::{Html, IntoResponse, Response},
    routing::{any, get},
};
use candid::Principal;
use gateway_agent::{
    Agent, AgentError,
    agent::{HttpService, RejectResponse},
    agent_error::TransportError,
};
use http_body_util::BodyExt;
use ic_http_gateway::{HttpGatewayClient, HttpGatewayError, HttpGatewayRequestArgs, HttpGatewayResponse};
use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};
use tower_http::cors::{AllowHeaders, AllowMethods, Any, CorsLayer};

/// The domain under which canisters are reached when none is asked for. Browsers take every name in it for this machine.
pub const DEFAULT_DOMAIN: &str = "localhost";
/// How long browsers may keep the answer to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_hours(2);
/// Headers of responses that pages of other origins may read.
const EXPOSED: [HeaderName; 4] = [
    header::ACCEPT_RANGES,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    HeaderName::from_static("x-ic-canister-id"),
];

/// Lets pages of every origin, on this machine or not, use the network.
pub fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_private_network(true)
        .expose_headers(EXPOSED)
        .max_age(PREFLIGHT_AGE)
}

/// What the gateway's routes share.
#[derive(Clone)]
struct Gateway {
    instance: Arc<Instance>,
    client: HttpGatewayClient,
    /// Domains whose subdomains are canisters.
    domains: Arc<[String]>,
}

/// The routes at an instance's own address: the Internet Computer's interface, PocketIC's topology, and canisters' pages for
/// host names in `domains`.
///
/// # Errors
/// When the gateway's agent cannot be set up.
pub fn router(instance: Arc<Instance>, domains: &[String]) -> Result<Router, AgentError> {
    let agent = Agent::builder()
        .with_url("http://localhost")
        .with_arc_http_middleware(Arc::new(InProcess(instance.clone())))
        // Responses are certified; who in this process signs the queries does not matter.
        .with_verify_query_signatures(false)
        .build()?;
    agent.set_root_key(instance.root_key.to_vec());
    let client = HttpGatewayClient::builder()
        .with_agent(agent)
        .build()
        .expect("a gateway with an agent needs nothing else");
    let gateway = Gateway { instance, client, domains: domains.into() };
    Ok(Router::new()
        .route("/api/{*path}", any(api))
        .route(
            "/_/topology",
            get(async |State(gateway): State<Gateway>| Json(gateway.instance.topology.clone())),
        )
        .fallback(serve_canister)
        .layer(cors())
        .with_state(gateway))
}

async fn api(State(gateway): State<Gateway>, Path(path): Path<String>, request: Request) -> Response {
    match axum::body::to_bytes(request.into_body(), 2 * limits::MESSAGE_BYTES).await {
        Ok(body) => ic::serve(&gateway.instance, &path, &body).await.into_response(),
        Err(error) => (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response(),
    }
}

/// The library's way to the network: a call of a function.
struct InProcess(Arc<Instance>);

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}

impl HttpService for InProcess {
    fn call<'a, 'async_trait>(
        &'a self,
        request: &'a (dyn Fn() -> Result<axum::http::Request<Bytes>, AgentError> + Send + Sync),
        _max_retries: usize,
        size_limit: Option<usize>,
    ) -> Pin<Box<dyn Future<Output = Result<axum::http::Response<Bytes>, AgentError>> + Send + 'async_trait>>
    where
        'a: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let request = request()?;
            let path = request.uri().path();
            let path = path.strip_prefix("/api/").unwrap_or(path);
            let response = ic::serve(&self.0, path, request.body()).await.into_response();
            let (parts, body) = response.into_parts();
            let body = axum::body::to_bytes(body, size_limit.unwrap_or(usize::MAX)).await;
            let body =
                body.map_err(|e| AgentError::TransportError(TransportError::Generic(e.to_string())))?;
            Ok(axum::http::Response::from_parts(parts, body))
        })
    }
}

/// The canister that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    canister: Principal,
    /// Whether the response need not be certified.
    raw: bool,
}

impl Target {
    /// From the host's name, else from the query parameter `canisterId` of the URL or of the page that the request comes from.
    fn of(parts: &Parts, domains: &[String]) -> Option<Self> {
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.host()).unwrap_or_default();
        let verified = |canister| Self { canister, raw: false };
        Self::of_host(host, domains).or_else(|| canister_parameter(&parts.uri).map(verified)).or_else(|| {
            referring_page(&parts.headers).and_then(|page| canister_parameter(&page)).map(verified)
        })
    }

    fn of_host(host: &str, domains: &[String]) -> Option<Self> {
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase();
        domains.iter().find_map(|domain| {
            let below = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
            let (id, raw) = below.strip_suffix(".raw").map_or((below, false), |id| (id, true));
            Some(Self { canister: Principal::from_text(id).ok()?, raw })
        })
    }
}

fn canister_parameter(uri: &Uri) -> Option<Principal> {
    let parameters = uri.query()?.split('&').filter_map(|parameter| parameter.split_once('='));
    let mut ids = parameters.filter(|(name, _)| *name == "canisterId").map(|(_, id)| id);
    Principal::from_text(ids.next()?).ok()
}

fn referring_page(headers: &HeaderMap) -> Option<Uri> {
    headers.get(header::REFERER)?.to_str().ok()?.parse().ok()
}

/// The body, if it has at most `limit` bytes. Of a larger one a few times as much is read and dropped: a client that is still
/// writing when the connection closes would see no answer.
async fn bounded(mut body: Body, limit: usize) -> Option<Bytes> {
    let (mut bytes, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        read += data.len();
        if read <= limit {
            bytes.extend_from_slice(&data);
        } else if read > 8 * limit {
            return None;
        }
    }
    (read <= limit).then(|| bytes.into())
}

async fn serve_canister(State(gateway): State<Gateway>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(target) = Target::of(&parts, &gateway.domains) else {
        return Failure::no_canister(&gateway.domains).page(&parts.headers);
    };
    let Some(body) = bounded(body, limits::MESSAGE_BYTES).await else {
        return Failure::large_request().page(&parts.headers);
    };
    let headers = parts.headers.clone();
    let mut request = gateway.client.request(HttpGatewayRequestArgs {
        canister_request: Request::from_parts(parts, body),
        canister_id: target.canister,
    });
    request.unsafe_set_skip_verification(target.raw);
    let HttpGatewayResponse { canister_response, metadata } = request.send().await;
    let mut response = match metadata.internal_error {
        Some(error) => Failure::of(&error, target, canister_response.status()).page(&headers),
        None => canister_response.map(Body::new),
    };
    // How the body travels is this server's business.
    response.headers_mut().remove(header::TRANSFER_ENCODING);
    if let Ok(id) = target.canister.to_text().parse() {
        response.headers_mut().insert("x-ic-canister-id", id);
    }
    response
}

/// Why a person sees no page of the canister.
struct Failure {
    status: StatusCode,
    title: &'static str,
    text: String,
}

impl Failure {
    fn new(status: StatusCode, title: &'static str, text: String) -> Self {
        Self { status, title, text }
    }

    fn no_canister(domains: &[String]) -> Self {
        let names: Vec<String> =
            domains.iter().map(|domain| format!("http://<canister id>.{domain}")).collect();
        let text = format!(
            "The address names no canister. Canisters are at {} with this port, or at any path with ?canisterId=<canister id>.",
            names.join(" or ")
        );
        Self::new(StatusCode::BAD_REQUEST, "Which canister?", text)
    }

    fn large_request() -> Self {
        let text = format!(
            "The request's body is larger than the {} bytes that a canister can receive.",
            limits::MESSAGE_BYTES
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "The request is too large", text)
    }

    /// `status` is what the library answers.
    fn of(error: &HttpGatewayError, target: Target, status: StatusCode) -> Self {
        let id = target.canister;
        match error {
            HttpGatewayError::AgentError(error) => match error.as_ref() {
                AgentError::CertifiedReject { reject, .. } | AgentError::UncertifiedReject { reject, .. } => {
                    Self::of_reject(reject, id, status)
                }
                other => Self::new(status, "The canister could not be reached", other.to_string()),
            },
            HttpGatewayError::ResponseVerificationError(error) => Self::new(
                status,
                "The response is not certified",
                format!(
                    "What canister {id} answered does not have a valid certificate, so it is not shown: {error}. \
                     Responses are shown without this check at <canister id>.raw.<domain>."
                ),
            ),
            other => Self::new(status, "The request could not be answered", other.to_string()),
        }
    }

    fn of_reject(reject: &RejectResponse, id: Principal, status: StatusCode) -> Self {
        match reject.error_code.as_deref() {
            Some("IC0301") => Self::new(
                StatusCode::NOT_FOUND,
                "There is no such canister",
                format!("This network has no canister {id}."),
            ),
            Some("IC0536") => Self::new(
                StatusCode::NOT_FOUND,
                "The canister has no web pages",
                format!("Canister {id} has no query method `http_request`."),
            ),
            Some("IC0537") => Self::new(
                StatusCode::NOT_FOUND,
                "The canister is empty",
                format!("Canister {id} has no code. Install some first."),
            ),
            _ => Self::new(status, "The canister did not answer", reject.reject_message.clone()),
        }
    }

    /// A page for browsers, plain text for others.
    fn page(self, request: &HeaderMap) -> Response {
        let Self { status, title, text } = self;
        let accepted =
            request.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        if !accepted.contains("text/html") {
            return (status, format!("{title}\n\n{text}\n")).into_response();
        }
        let (code, text) = (status.as_u16(), escape(&text));
        let page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
             <body style=\"font: 1rem/1.5 system-ui; max-width: 40rem; margin: 4rem auto; padding: 0 1rem\">\
             <h1>{title}</h1><p>{text}</p><p><small>{code}, local-net</small></p>"
        );
        (status, Html(page)).into_response()
    }
}

/// Text as HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_canisters() {
        let id = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 7, 1, 1]);
        let domains = ["localhost".to_owned(), "local.test".to_owned()];
        let target = |host: &str, path: &str, referer: Option<&str>| {
            let mut request = axum::http::Request::builder().uri(path).header(header::HOST, host);
            if let Some(page) = referer {
                request = request.header(header::REFERER, page);
            }
            Target::of(&request.body(()).unwrap().into_parts().0, &domains)
        };
        let verified = Some(Target { canister: id, raw: false });
        let page = format!("http://localhost:80/?canisterId={id}");
        assert_eq!(target(&format!("{id}.localhost:4943"), "/", None), verified);
        assert_eq!(target(&format!("{id}.LOCAL.test").to_uppercase(), "/", None), verified);
        assert_eq!(
            target(&format!("{id}.raw.localhost"), "/", None),
            Some(Target { canister: id, raw: true })
        );
        assert_eq!(target("localhost:4943", &format!("/a?b=c&canisterId={id}"), None), verified);
        assert_eq!(target("localhost:4943", "/style.css", Some(&page)), verified);
        for (host, path) in [
            ("localhost", "/"),
            ("x.localhost", "/"),
            (&format!("{id}.example.com"), "/"),
            (&format!("{id}localhost"), "/"),
            (&format!("a.{id}.localhost"), "/"),
            ("localhost", "/?canisterId=x"),
            ("", "/"),
        ] {
            assert_eq!(target(host, path, None), None, "{host} {path}");
        }
    }
}
