//! Recovery plans: set, shown and removed.
//!
//! Machines that nobody knows are refused when a plan is set, and again when it is run. Deliberately not here: running it
//! (`plan_runs`).

use std::sync::Arc;

use axum::{Json, extract::State};
use mobility_format::{MachineId, control::ErrorCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::Administrator;
use crate::service::{
    api::{InPath, Read},
    database::{EventKind, Machine},
    facts,
    plan::{Plan, check_name},
    refusal::{Answer, Refusal},
    state::Service,
};

/// Machines that one refusal names.
const NAMED: usize = 8;

/// A plan in a list.
#[derive(Serialize)]
struct Listed {
    name: String,
    description: String,
    groups: usize,
    machines: usize,
}

pub(super) async fn list(State(service): State<Arc<Service>>, _: Administrator) -> Answer<Json<Value>> {
    let listed = |(name, plan): (String, Plan)| Listed {
        name,
        groups: plan.groups.len(),
        machines: plan.machines().count(),
        description: plan.description,
    };
    let plans = service.database.plans().await?.into_iter().map(listed).collect::<Vec<_>>();
    Ok(Json(json!({ "plans": plans })))
}

/// The plan of that name.
pub(super) async fn find(service: &Service, name: &str) -> Answer<Plan> {
    service.database.plan(name).await?.ok_or_else(|| Refusal::not_found("plan"))
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(name): InPath<String>,
) -> Answer<Json<Plan>> {
    Ok(Json(find(&service, &name).await?))
}

pub(super) async fn set(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(name): InPath<String>,
    Read(plan): Read<Plan>,
) -> Answer<Json<Plan>> {
    check_name(&name).map_err(Refusal::bad)?;
    plan.check().map_err(Refusal::bad)?;
    machines(&service, &plan).await?;
    if !service.database.set_plan(&name, &plan).await? {
        return Err(Refusal::new(ErrorCode::Conflict, "there are too many plans already: remove one"));
    }
    facts::store_plans_now(&service).await;
    service.event(EventKind::PlansChanged, None, format!("plan '{name}' was changed")).await;
    Ok(Json(plan))
}

/// The plan's machines, if the service protects all of them.
pub(super) async fn machines(service: &Service, plan: &Plan) -> Answer<Vec<Machine>> {
    let (mut found, mut unknown, mut revoked) = (Vec::new(), Vec::new(), Vec::new());
    for id in plan.machines() {
        match service.database.machine(id).await? {
            Some(machine) if machine.revoked.is_some() => revoked.push(format!("{} ({id})", machine.name)),
            Some(machine) => found.push(machine),
            None => unknown.push(MachineId::to_string(&id)),
        }
    }
    let named = |machines: &[String]| {
        let (count, shown) = (machines.len(), &machines[..machines.len().min(NAMED)]);
        let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
        format!("{}{more}", shown.join(", "))
    };
    match (&unknown[..], &revoked[..]) {
        ([], []) => Ok(found),
        ([], revoked) => Err(Refusal::bad(format!(
            "machines of the plan were revoked: {}: take them out of the plan; `failover start` makes one of them by itself",
            named(revoked)
        ))),
        (unknown, _) => Err(Refusal::bad(format!(
            "the service knows no such machines: {}: `machine list` shows those that there are",
            named(unknown)
        ))),
    }
}

pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(name): InPath<String>,
) -> Answer<Json<Value>> {
    if !service.database.remove_plan(&name).await? {
        return Err(Refusal::not_found("plan"));
    }
    facts::store_plans_now(&service).await;
    service.event(EventKind::PlansChanged, None, format!("plan '{name}' was removed")).await;
    Ok(Json(json!({ "removed": name })))
}
