//! What agents ask: the paths of `docs/PROTOCOL.md`.
//!
//! Each file answers the requests of one subject. A handler gets a message that is within its limits and a caller who was
//! recognised, or is not called. Deliberately not here: what administrators ask (`admin`).

mod cache;
mod caller;
mod commands;
mod commits;
pub(super) mod digests;
mod enrol;
mod exports;
mod generation;
mod grants;
mod heartbeat;
mod openapi;
mod session;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
    routing::on,
};
use mobility_format::control::{Limited, MAX_BODY};
use serde::de::DeserializeOwned;

pub(crate) use cache::address as cache_address;
#[cfg(test)]
pub(super) use openapi::DOCUMENT;

use super::{
    refusal::{Answer, Refusal},
    routes::{self, GET, POST, PUT, Route},
    state::Service,
};

/// What the paths of the service's own cache storage start with.
pub(crate) const CACHE_PATH: &str = "/v1/cache/";

/// What agents ask, and the document of all that can be asked.
pub(super) const ROUTES: [Route; 15] = [
    (POST, "/v1/enrol", |by| on(by, enrol::enrol)),
    (POST, "/v1/renew", |by| on(by, enrol::renew)),
    (POST, "/v1/unenrol", |by| on(by, enrol::unenrol)),
    (POST, "/v1/session", |by| on(by, session::begin)),
    (POST, "/v1/generation", |by| on(by, generation::begin)),
    (POST, "/v1/heartbeat", |by| on(by, heartbeat::take)),
    (GET, "/v1/commands", |by| on(by, commands::wait)),
    (POST, "/v1/commands/{id}", |by| on(by, commands::done)),
    (POST, "/v1/grants", |by| on(by, grants::give)),
    (POST, "/v1/commits", |by| on(by, commits::take)),
    (GET, "/v1/digests/{disk}", |by| on(by, digests::give)),
    (GET, "/v1/exports/{export}", |by| on(by, exports::show)),
    (GET, "/v1/exports/{export}/disks/{disk}", |by| on(by, exports::disk)),
    (PUT, "/v1/cache/{*key}", |by| on(by, cache::take)),
    (GET, "/v1/openapi.json", |by| on(by, openapi::show)),
];

/// The agents' part of the service.
pub(crate) fn router(service: Arc<Service>) -> Router {
    routes::router(&ROUTES, service).fallback(routes::unknown)
}

/// A message within its limits.
pub(super) struct Said<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Limited> FromRequest<S> for Said<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        let Read(message): Read<T> = Read::from_request(request, state).await?;
        message.check().map_err(|err| Refusal::bad(err.to_string()))?;
        Ok(Said(message))
    }
}

/// A message of an administrator, who is trusted with its limits.
pub(super) struct Read<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Read<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        let bytes = axum::body::to_bytes(request.into_body(), MAX_BODY).await;
        let bytes = bytes.map_err(|_| Refusal::bad(format!("the body is longer than {MAX_BODY} bytes")))?;
        let message = serde_json::from_slice(&bytes);
        Ok(Read(message.map_err(|err| Refusal::bad(format!("the body cannot be understood: {err}")))?))
    }
}

/// What the path names.
pub(super) struct InPath<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let found = Path::from_request_parts(parts, state).await;
        found.map(|Path(named)| InPath(named)).map_err(|err| Refusal::bad(err.body_text()))
    }
}

/// What is said in the address after the path.
pub(super) struct InQuery<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for InQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let found = Query::from_request_parts(parts, state).await;
        found.map(|Query(said)| InQuery(said)).map_err(|err| Refusal::bad(err.body_text()))
    }
}

/// A success with a message.
pub(super) fn said<T>(message: T) -> Answer<Json<T>> {
    Ok(Json(message))
}
