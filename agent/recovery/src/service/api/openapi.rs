//! The document of all paths and messages, for whoever writes a client. It holds nothing that is not public.
//!
//! Deliberately not here: what keeps it true; tests compare it with the routes and with every exchange that they make.

use axum::http::{HeaderName, header::CONTENT_TYPE};

/// The document.
pub(in crate::service) const DOCUMENT: &str = include_str!("../../../../../docs/openapi.json");

pub(super) async fn show() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}
