//! `/health` and `/metrics` over HTTP. They tell what a query tells at this moment, which cannot be certified in advance: the
//! certified tree says to gateways that no response is to be trusted. Trustworthy answers come through Candid, with proofs.

use std::fmt::Write as _;

use candid::CandidType;
use ic_certification::HashTree;
use ic_http_certification::utils::add_v2_certificate_header;
use ic_http_certification::{
    CERTIFICATE_EXPRESSION_HEADER_NAME, DefaultCelBuilder, HttpCertification, HttpCertificationPath,
    HttpCertificationTree, HttpCertificationTreeEntry, HttpResponse as CertifiedResponse,
};
use serde::Deserialize;
use serde_bytes::ByteBuf;
use shared_types::model::ModelCanisterStatus;

/// Request of the HTTP gateway protocol.
#[derive(CandidType, Deserialize, Clone, Debug)]
pub struct HttpRequest {
    /// `GET`, …
    pub method: String,
    /// Path and query.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: ByteBuf,
}

/// Response of the HTTP gateway protocol.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status.
    pub status_code: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: ByteBuf,
}

fn any_path() -> HttpCertificationPath<'static> {
    HttpCertificationPath::wildcard("")
}

/// What gateways look for: no response of any path is certified.
pub fn expressions() -> HttpCertificationTree {
    let mut tree = HttpCertificationTree::default();
    tree.insert(&HttpCertificationTreeEntry::new(any_path(), HttpCertification::skip()));
    tree
}

/// Answers a request with what `status` says.
pub fn respond(request: &HttpRequest, status: impl FnOnce() -> ModelCanisterStatus) -> HttpResponse {
    let path = request.url.split(['?', '#']).next().unwrap_or_default();
    let response = |status_code, content_type: &str, body: String| HttpResponse {
        status_code,
        headers: vec![
            ("content-type".to_owned(), content_type.to_owned()),
            ("cache-control".to_owned(), "no-store".to_owned()),
        ],
        body: ByteBuf::from(body),
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return response(405, "text/plain", "only GET is answered\n".to_owned());
    }
    match path {
        "/health" => {
            let status = status();
            let body = format!("{{\"status\":\"ok\",\"version\":\"{}\"}}\n", status.version);
            response(200, "application/json", body)
        }
        // The text format of Prometheus.
        "/metrics" => response(200, "text/plain; version=0.0.4", metrics(&status())),
        _ => response(404, "text/plain", "there are /health and /metrics\n".to_owned()),
    }
}

/// Adds what gateways check to a response.
pub fn certify(response: &mut HttpResponse, certificate: &[u8], witness: &HashTree) {
    let headers = std::mem::take(&mut response.headers);
    let mut certified = CertifiedResponse::builder().with_headers(headers).build();
    add_v2_certificate_header(certificate, &mut certified, witness, &any_path().to_expr_path());
    let expression = DefaultCelBuilder::skip_certification().to_string();
    certified.add_header((CERTIFICATE_EXPRESSION_HEADER_NAME.to_owned(), expression));
    response.headers = certified.headers().to_vec();
}

fn metrics(status: &ModelCanisterStatus) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: u128| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP ohms_model_{name} {help}\n# TYPE ohms_model_{name} gauge");
        let _ = writeln!(text, "ohms_model_{name} {value}");
    };
    gauge("models", "Models of any status.", status.models.into());
    gauge("pending_models", "Models that are uploaded or wait for activation.", status.pending.into());
    gauge("validations", "Validations under way.", status.validations.into());
    gauge("reserved_bytes", "Bytes reserved for manifests and shards.", status.reserved_bytes.into());
    gauge("free_bytes", "Bytes left for manifests and shards.", status.free_bytes.into());
    gauge("stable_bytes", "Bytes of stable memory.", status.stable_bytes.into());
    gauge("heap_bytes", "Bytes of the heap.", status.heap_bytes.into());
    gauge("open_proposals", "Proposals that can be approved.", status.open_proposals.into());
    gauge("audit_entries", "Entries of the audit log.", status.audit_entries.into());
    gauge("cycles", "Cycles balance.", status.cycles);
    gauge("layout_version", "Version of the layout of stable memory.", status.layout.into());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::Digest;

    fn status() -> ModelCanisterStatus {
        ModelCanisterStatus {
            version: "1.2.3".to_owned(),
            layout: 2,
            models: 3,
            pending: 1,
            validations: 0,
            reserved_bytes: 10,
            free_bytes: 20,
            stable_bytes: 30,
            heap_bytes: 40,
            open_proposals: 2,
            audit_entries: 5,
            audit_head: Digest::ZERO,
            cycles: u128::from(u64::MAX) + 1,
        }
    }

    fn get(method: &str, url: &str) -> (u16, String) {
        let request = HttpRequest {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: ByteBuf::new(),
        };
        let response = respond(&request, status);
        (response.status_code, String::from_utf8(response.body.into_vec()).unwrap())
    }

    #[test]
    fn paths_are_answered() {
        assert_eq!(get("GET", "/health?x"), (200, "{\"status\":\"ok\",\"version\":\"1.2.3\"}\n".to_owned()));
        let (code, metrics) = get("GET", "/metrics");
        assert_eq!(code, 200);
        assert!(metrics.contains("# TYPE ohms_model_cycles gauge\nohms_model_cycles 18446744073709551616\n"));
        assert!(metrics.contains("\nohms_model_models 3\n"));
        assert_eq!(get("GET", "/").0, 404);
        assert_eq!(get("POST", "/health").0, 405);
    }
}
