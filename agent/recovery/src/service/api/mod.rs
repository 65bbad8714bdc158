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
mod generation;
mod grants;
mod heartbeat;
mod session;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::Uri,
    routing::{get, post, put},
};
use mobility_format::control::{ErrorCode, Limited, MAX_BODY};
use serde::de::DeserializeOwned;

pub(crate) use cache::address as cache_address;

use super::{
    refusal::{Answer, Refusal},
    state::Service,
};

/// What the paths of the service's own cache storage start with.
pub(crate) const CACHE_PATH: &str = "/v1/cache/";

/// The agents' part of the service.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/enrol", post(enrol::enrol))
        .route("/v1/renew", post(enrol::renew))
        .route("/v1/unenrol", post(enrol::unenrol))
        .route("/v1/session", post(session::begin))
        .route("/v1/generation", post(generation::begin))
        .route("/v1/heartbeat", post(heartbeat::take))
        .route("/v1/commands", get(commands::wait))
        .route("/v1/commands/{id}", post(commands::done))
        .route("/v1/grants", post(grants::give))
        .route("/v1/commits", post(commits::take))
        .route("/v1/digests/{disk}", get(digests::give))
        .route("/v1/cache/{*key}", put(cache::take))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(service)
}

async fn unknown(uri: Uri) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("this service does not know {}", uri.path()))
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

/// A success with a message.
pub(super) fn said<T>(message: T) -> Answer<Json<T>> {
    Ok(Json(message))
}
