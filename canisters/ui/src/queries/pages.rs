//! The pages themselves.

use shared_types::ui::{HttpGatewayRequest, HttpGatewayResponse};

use crate::state;

/// Answers a request of the HTTP gateway.
pub fn http_request(request: &HttpGatewayRequest) -> HttpGatewayResponse {
    // Absent when the method is called as an update; a gateway does not.
    let certificate = ic_cdk::api::data_certificate().unwrap_or_default();
    state::responses(|responses| match responses {
        Some(responses) => responses.respond(&certificate, request),
        None => HttpGatewayResponse { status_code: 503, headers: Vec::new(), body: Vec::new().into() },
    })
}
