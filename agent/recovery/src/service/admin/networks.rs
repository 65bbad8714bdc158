//! Network mappings: which network of the target stands for which of the source.
//!
//! Deliberately not here: which interface of a machine gets where by them (`targets`).

use std::sync::Arc;

use axum::{Json, extract::State};
use mobility_format::control::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Administrator;
use crate::{
    service::{
        api::{InPath, Read},
        database::EventKind,
        facts,
        refusal::{Answer, Refusal},
        state::Service,
    },
    target::{NetworkMapping, NetworkName, Prefix},
};

/// What stands for a network.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default)]
    source_range: Option<Prefix>,
    target: NetworkName,
    #[serde(default)]
    target_range: Option<Prefix>,
}

pub(super) async fn list(State(service): State<Arc<Service>>, _: Administrator) -> Answer<Json<Value>> {
    Ok(Json(json!({ "mappings": service.database.network_mappings().await? })))
}

pub(super) async fn map(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(source): InPath<NetworkName>,
    Read(Wanted { source_range, target, target_range }): Read<Wanted>,
) -> Answer<Json<NetworkMapping>> {
    let mapping = NetworkMapping { source, source_range, target, target_range };
    if mapping.source == mapping.target {
        return Err(Refusal::bad("a network cannot stand for itself"));
    }
    if !service.database.map_network(&mapping).await? {
        return Err(Refusal::new(ErrorCode::Conflict, "there are too many network mappings already"));
    }
    facts::store_networks_now(&service).await;
    let message = format!("network {} now stands for {}", mapping.target, mapping.source);
    service.event(EventKind::NetworksChanged, None, message).await;
    Ok(Json(mapping))
}

pub(super) async fn unmap(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(source): InPath<String>,
) -> Answer<Json<Value>> {
    if !service.database.unmap_network(&source).await? {
        return Err(Refusal::not_found("network mapping"));
    }
    facts::store_networks_now(&service).await;
    let message = format!("no network stands for {source} any more");
    service.event(EventKind::NetworksChanged, None, message).await;
    Ok(Json(json!({ "unmapped": source })))
}
