//! What administrators ask: tokens, machines, policies, points and events, below `/v1/admin`, and figures at `/metrics`.
//!
//! One credential allows all of it. Deliberately not here: what agents ask (`api`).

mod machines;
mod metrics;
mod policies;
mod tokens;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, Query, State},
    http::{header::AUTHORIZATION, request::Parts},
    routing::{delete, get, post},
};
use mobility_format::{
    MachineId,
    control::{ErrorCode, MAX_BODY},
};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) use policies::first as first_policy;
pub(super) use tokens::{Wanted as TokenWanted, make as make_token};

use super::{
    refusal::{Answer, Refusal},
    state::Service,
};

/// Events in one answer, unless it is said.
const EVENTS: u32 = 100;
const MOST_EVENTS: u32 = 10_000;

/// The administrators' part of the service.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/admin/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/admin/tokens/{id}", delete(tokens::revoke))
        .route("/v1/admin/machines", get(machines::list))
        .route("/v1/admin/machines/{id}", get(machines::show))
        .route("/v1/admin/machines/{id}/revoke", post(machines::revoke))
        .route("/v1/admin/machines/{id}/policy", post(machines::assign))
        .route("/v1/admin/machines/{id}/commands", post(machines::order))
        .route("/v1/admin/machines/{id}/pins", get(machines::pins))
        .route("/v1/admin/machines/{id}/pins/{epoch}", post(machines::pin).delete(machines::unpin))
        .route("/v1/admin/policies", get(policies::list))
        .route("/v1/admin/policies/{name}", get(policies::show).put(policies::set))
        .route("/v1/admin/events", get(events))
        .route("/metrics", get(metrics::show))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(service)
}

/// Whoever has the administrator's credential.
pub(super) struct Administrator;

impl FromRequestParts<Arc<Service>> for Administrator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Answer<Self> {
        let presented = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let presented = presented.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        match service.administrator.is(presented) {
            true => Ok(Administrator),
            false => {
                Err(Refusal::new(ErrorCode::Unauthenticated, "the administrator's credential is needed"))
            }
        }
    }
}

/// Which events.
#[derive(Deserialize)]
struct Which {
    machine: Option<MachineId>,
    most: Option<u32>,
}

async fn events(
    State(service): State<Arc<Service>>,
    _: Administrator,
    query: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Answer<Json<Value>> {
    let Query(which) = query.map_err(|err| Refusal::bad(err.to_string()))?;
    let most = which.most.unwrap_or(EVENTS).min(MOST_EVENTS);
    let events = service.database.events(which.machine, most).await?;
    Ok(Json(json!({ "events": events })))
}
