//! Machines: listed, shown, revoked, given commands and policies.
//!
//! Deliberately not here: what a machine says of itself (`api`); its disks and points.

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    Epoch, MachineId,
    control::{DoubtedDisk, Order},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Administrator;
use crate::service::{
    api::{InPath, InQuery, Read},
    database::{EventKind, Job, Machine},
    facts,
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
    InQuery(from): InQuery<From>,
) -> Answer<Json<Value>> {
    let machines = service.database.machines(&from.after, MOST).await?;
    let next = if machines.len() == MOST as usize { machines.last().map(|machine| machine.id) } else { None };
    Ok(Json(json!({ "machines": machines, "next": next })))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
) -> Answer<Json<Machine>> {
    let machine = service.database.machine(id).await?;
    Ok(Json(machine.ok_or_else(|| Refusal::not_found("machine"))?))
}

pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
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
    InPath(id): InPath<MachineId>,
    Read(assigned): Read<Assigned>,
) -> Answer<Json<Value>> {
    if !service.database.assign_policy(id, &assigned.policy).await? {
        return Err(Refusal::not_found("machine or policy"));
    }
    service.forget_standing(id);
    // Another ladder may let points go, and another quota leave room.
    service.database.want(Job::Prune, id, Timestamp::now()).await?;
    facts::store_now(&service, id).await;
    let message = format!("the machine's policy is now '{}'", assigned.policy);
    service.event(EventKind::PolicyChanged, Some(id), message).await;
    Ok(Json(json!({ "machine": id, "policy": assigned.policy })))
}

/// Whether to rest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rest {
    paused: bool,
}

/// A machine that rests goes on resting when it or its agent is started again, so this is no command.
pub(super) async fn pause(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
    Read(Rest { paused }): Read<Rest>,
) -> Answer<Json<Value>> {
    service.database.machine(id).await?.ok_or_else(|| Refusal::not_found("machine"))?;
    if service.database.pause(id, paused).await? {
        service.forget_standing(id);
        facts::store_now(&service, id).await;
        let (kind, message) = match paused {
            true => (EventKind::Paused, "replication rests until it is resumed; tracking goes on"),
            false => (EventKind::Resumed, "replication goes on"),
        };
        service.event(kind, Some(id), message.to_owned()).await;
    }
    Ok(Json(json!({ "machine": id, "paused": paused })))
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
    InPath(id): InPath<MachineId>,
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
