//! Machines: listed, shown, revoked, given commands and policies; and points that are not to be pruned.
//!
//! Deliberately not here: what a machine says of itself (`api`).

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use jiff::Timestamp;
use mobility_format::{
    Epoch, MachineId,
    control::{DoubtedDisk, ErrorCode, Order},
    manifest::SignedManifest,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Administrator;
use crate::service::{
    api::Read,
    database::{EventKind, Machine},
    facts, heads,
    refusal::{Answer, Refusal},
    state::Service,
};

/// Machines in one answer.
const MOST: u32 = 1000;

/// From where to go on.
#[derive(Deserialize)]
pub(super) struct From {
    #[serde(default)]
    after: String,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Query(from): Query<From>,
) -> Answer<Json<Value>> {
    let machines = service.database.machines(&from.after, MOST).await?;
    let next = if machines.len() == MOST as usize { machines.last().map(|machine| machine.id) } else { None };
    Ok(Json(json!({ "machines": machines, "next": next })))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Path(id): Path<MachineId>,
) -> Answer<Json<Machine>> {
    let machine = service.database.machine(id).await?;
    Ok(Json(machine.ok_or_else(|| Refusal::not_found("machine"))?))
}

pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Path(id): Path<MachineId>,
) -> Answer<Json<Value>> {
    if !service.database.revoke_machine(id, Timestamp::now()).await? {
        return Err(Refusal::not_found("machine that is not revoked yet"));
    }
    service.database.end_session(id).await?;
    service.forget_standing(id);
    service.bell.ring(id);
    facts::store_now(&service, id).await;
    let message = "the machine was taken out of protection by an administrator; its points stay".to_owned();
    service.event(EventKind::Revoked, Some(id), message).await;
    Ok(Json(json!({ "revoked": id })))
}

/// Which policy.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Assigned {
    policy: String,
}

pub(super) async fn assign(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Path(id): Path<MachineId>,
    Read(assigned): Read<Assigned>,
) -> Answer<Json<Value>> {
    if !service.database.assign_policy(id, &assigned.policy).await? {
        return Err(Refusal::not_found("machine or policy"));
    }
    service.forget_standing(id);
    facts::store_now(&service, id).await;
    let message = format!("the machine's policy is now '{}'", assigned.policy);
    service.event(EventKind::PolicyChanged, Some(id), message).await;
    Ok(Json(json!({ "machine": id, "policy": assigned.policy })))
}

/// What a machine is to do.
#[derive(Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Wanted {
    Point {
        #[serde(default)]
        application: bool,
    },
    Resync {
        reason: Option<String>,
        #[serde(default)]
        disks: Vec<DoubtedDisk>,
    },
    Renew,
    Logs,
}

pub(super) async fn order(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Path(id): Path<MachineId>,
    Read(wanted): Read<Wanted>,
) -> Answer<Json<Value>> {
    let state = service.database.state(id).await?.ok_or_else(|| Refusal::not_found("machine"))?;
    let order = match wanted {
        Wanted::Point { application } => Order::Point { application },
        Wanted::Resync { reason, disks } => Order::Resync {
            generation: state.generation,
            reason: reason.unwrap_or_else(|| "an administrator asked for it".to_owned()),
            // What is doubted is what disks hold, whenever it was committed.
            through: Epoch(u64::MAX >> 1),
            disks,
        },
        Wanted::Renew => Order::Renew,
        Wanted::Logs => Order::Logs,
    };
    let command = service.order(id, &order).await?;
    Ok(Json(json!({ "machine": id, "command": command })))
}

pub(super) async fn pins(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Path(id): Path<MachineId>,
) -> Answer<Json<Value>> {
    Ok(Json(json!({ "machine": id, "epochs": service.database.pins(id).await? })))
}

pub(super) async fn pin(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Path((id, epoch)): Path<(MachineId, u64)>,
) -> Answer<Json<Value>> {
    let found = service.blocking(move |stores| Ok(heads::in_target(stores, id, Epoch(epoch))?)).await?;
    let signed = found.and_then(|bytes| SignedManifest::parse(&bytes).ok());
    if signed.is_none_or(|signed| signed.manifest.consistency().is_none()) {
        return Err(Refusal::not_found("recovery point"));
    }
    if service.database.machine(id).await?.is_none() {
        return Err(Refusal::new(ErrorCode::NotFound, "there is no such machine"));
    }
    service.database.pin(id, epoch, true).await?;
    facts::store_now(&service, id).await;
    Ok(Json(json!({ "machine": id, "pinned": epoch })))
}

pub(super) async fn unpin(
    State(service): State<Arc<Service>>,
    _: Administrator,
    Path((id, epoch)): Path<(MachineId, u64)>,
) -> Answer<Json<Value>> {
    service.database.pin(id, epoch, false).await?;
    facts::store_now(&service, id).await;
    Ok(Json(json!({ "machine": id, "unpinned": epoch })))
}
