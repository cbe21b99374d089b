//! Faults on demand over HTTP, for tests that use the `pocket-ic` crate: `/instances/{id}/faults`, which PocketIC does not have.
//!
//! POST takes a [`FaultPlan`] and begins to follow it, GET gives the [`FaultTrace`] since then, DELETE ends the plan and gives its
//! trace, all in JSON.

use super::pocket_ic::{Answer, Failure, Id, Server, Shared};
use crate::network::{
    Network,
    faults::{FaultPlan, FaultTrace},
};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use std::sync::Arc;

/// The routes of one instance.
pub fn routes() -> Router<Arc<Server>> {
    Router::new().route("/faults", post(set).get(trace).delete(clear))
}

async fn set(State(server): Shared, Path(id): Id, Json(plan): Json<FaultPlan>) -> Answer<()> {
    let set = server.find(id)?.run(move |network| network.set_faults(plan)).await?;
    set.map(Json).map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn trace(State(server): Shared, Path(id): Id) -> Answer<FaultTrace> {
    found(server.find(id)?.run(|network| network.fault_trace().cloned()).await?)
}

async fn clear(State(server): Shared, Path(id): Id) -> Answer<FaultTrace> {
    found(server.find(id)?.run(Network::clear_faults).await?)
}

fn found(trace: Option<FaultTrace>) -> Answer<FaultTrace> {
    trace.map(Json).ok_or_else(|| Failure(StatusCode::NOT_FOUND, "no plan of faults was set".into()))
}
