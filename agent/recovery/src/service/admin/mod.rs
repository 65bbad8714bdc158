//! What administrators ask: tokens, machines, disks, points, exports, failovers, plans, policies, target settings, network mappings and
//! events, below `/v1/admin`, and figures at `/metrics`.
//!
//! One credential allows all of it. Deliberately not here: what agents ask (`api`).

mod disks;
mod exports;
pub(super) mod failovers;
mod machines;
mod metrics;
mod networks;
mod plan_runs;
mod plans;
mod points;
mod policies;
mod stepwise;
pub(super) mod targets;
mod template;
mod tokens;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::{header::AUTHORIZATION, request::Parts},
    routing::on,
};
use mobility_format::{MachineId, control::ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) use policies::first as first_policy;
pub(super) use tokens::{Wanted as TokenWanted, make as make_token};

use super::{
    api::InQuery,
    refusal::{Answer, Refusal},
    routes::{self, DELETE, GET, POST, PUT, Route},
    state::Service,
};

/// Events in one answer, unless it is said.
const EVENTS: u32 = 100;
const MOST_EVENTS: u32 = 10_000;

/// What administrators ask.
pub(super) const ROUTES: [Route; 41] = [
    (GET, "/v1/admin/tokens", |by| on(by, tokens::list)),
    (POST, "/v1/admin/tokens", |by| on(by, tokens::create)),
    (DELETE, "/v1/admin/tokens/{id}", |by| on(by, tokens::revoke)),
    (GET, "/v1/admin/machines", |by| on(by, machines::list)),
    (GET, "/v1/admin/machines/{id}", |by| on(by, machines::show)),
    (POST, "/v1/admin/machines/{id}/revoke", |by| on(by, machines::revoke)),
    (POST, "/v1/admin/machines/{id}/policy", |by| on(by, machines::assign)),
    (POST, "/v1/admin/machines/{id}/paused", |by| on(by, machines::pause)),
    (POST, "/v1/admin/machines/{id}/commands", |by| on(by, machines::order)),
    (GET, "/v1/admin/machines/{id}/points", |by| on(by, points::list)),
    (GET, "/v1/admin/machines/{id}/pins", |by| on(by, points::pins)),
    (POST, "/v1/admin/machines/{id}/pins/{epoch}", |by| on(by, points::pin)),
    (DELETE, "/v1/admin/machines/{id}/pins/{epoch}", |by| on(by, points::unpin)),
    (GET, "/v1/admin/machines/{id}/target", |by| on(by, targets::show)),
    (PUT, "/v1/admin/machines/{id}/target", |by| on(by, targets::set)),
    (POST, "/v1/admin/machines/{id}/template", |by| on(by, template::make)),
    (GET, "/v1/admin/network-mappings", |by| on(by, networks::list)),
    (PUT, "/v1/admin/network-mappings/{source}", |by| on(by, networks::map)),
    (DELETE, "/v1/admin/network-mappings/{source}", |by| on(by, networks::unmap)),
    (POST, "/v1/admin/machines/{id}/exports", |by| on(by, exports::create)),
    (GET, "/v1/admin/exports", |by| on(by, exports::list)),
    (DELETE, "/v1/admin/exports/{id}", |by| on(by, exports::end)),
    (GET, "/v1/admin/disks", |by| on(by, disks::list)),
    (GET, "/v1/admin/failovers", |by| on(by, failovers::list)),
    (POST, "/v1/admin/failovers", |by| on(by, failovers::begin)),
    (GET, "/v1/admin/failovers/{id}", |by| on(by, failovers::show)),
    (POST, "/v1/admin/failovers/{id}/actions", |by| on(by, failovers::act)),
    (GET, "/v1/admin/plans", |by| on(by, plans::list)),
    (GET, "/v1/admin/plans/{name}", |by| on(by, plans::show)),
    (PUT, "/v1/admin/plans/{name}", |by| on(by, plans::set)),
    (DELETE, "/v1/admin/plans/{name}", |by| on(by, plans::remove)),
    (POST, "/v1/admin/plans/{name}/runs", |by| on(by, plan_runs::begin)),
    (GET, "/v1/admin/plan-runs", |by| on(by, plan_runs::list)),
    (GET, "/v1/admin/plan-runs/{id}", |by| on(by, plan_runs::show)),
    (POST, "/v1/admin/plan-runs/{id}/actions", |by| on(by, plan_runs::act)),
    (GET, "/v1/admin/plan-runs/{id}/report", |by| on(by, plan_runs::report)),
    (GET, "/v1/admin/policies", |by| on(by, policies::list)),
    (GET, "/v1/admin/policies/{name}", |by| on(by, policies::show)),
    (PUT, "/v1/admin/policies/{name}", |by| on(by, policies::set)),
    (GET, "/v1/admin/events", |by| on(by, events)),
    (GET, "/metrics", |by| on(by, metrics::show)),
];

/// The administrators' part of the service.
pub(crate) fn router(service: Arc<Service>) -> Router {
    routes::router(&ROUTES, service)
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
    InQuery(which): InQuery<Which>,
) -> Answer<Json<Value>> {
    let most = which.most.unwrap_or(EVENTS).min(MOST_EVENTS);
    let events = service.database.events(which.machine, most).await?;
    Ok(Json(json!({ "events": events })))
}
