//! Target settings: where and as what a machine is to run when it is failed over.
//!
//! Whatever is wrong with them is told and not refused, because a mapping or a place may follow later; what cannot be understood is
//! refused. Deliberately not here: what follows for what nobody set (`crate::target`), and failing over.

use std::sync::Arc;

use axum::{Json, extract::State};
use mobility_format::{MachineId, control::Inventory};
use serde::{Deserialize, Serialize};

use super::Administrator;
use crate::{
    service::{
        api::{InPath, InQuery, Read},
        database::EventKind,
        facts,
        refusal::{Answer, Refusal},
        state::Service,
    },
    target::{Direction, Known, Problem, Settings, TargetSettings},
};

/// Which way.
#[derive(Deserialize)]
pub(super) struct Way {
    #[serde(default)]
    direction: Direction,
}

/// Target settings, with what follows from them.
#[derive(Serialize)]
pub(in crate::service) struct Shown {
    machine: MachineId,
    /// What was said.
    pub(in crate::service) set: TargetSettings,
    /// What holds.
    pub(in crate::service) effective: Settings,
    /// What is wrong with that.
    pub(in crate::service) problems: Vec<Problem>,
}

/// What a failover of a machine would go by now.
pub(in crate::service) async fn of_machine(
    service: &Service,
    machine: MachineId,
    direction: Direction,
) -> Answer<Shown> {
    what_holds(service, machine, None, direction).await
}

/// What a failover of a machine to this place goes by.
pub(in crate::service) async fn at_place(
    service: &Service,
    machine: MachineId,
    place: &str,
) -> Answer<Shown> {
    what_holds(service, machine, Some(place), Direction::Forth).await
}

async fn what_holds(
    service: &Service,
    machine: MachineId,
    place: Option<&str>,
    direction: Direction,
) -> Answer<Shown> {
    let known = service.database.machine(machine).await?.ok_or_else(|| Refusal::not_found("machine"))?;
    let mut set = service.database.target(machine).await?.unwrap_or_default();
    if let Some(place) = place {
        set.place = Some(place.to_owned());
    }
    let mappings = service.database.network_mappings().await?;
    let inventory = known.inventory.unwrap_or_else(|| Inventory { name: known.name, ..Inventory::default() });
    let known = Known { inventory: &inventory, mappings: &mappings, places: &service.targets, direction };
    let effective = set.effective(&known);
    let problems = set.problems(&known, &effective);
    Ok(Shown { machine, set, effective, problems })
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
    InQuery(way): InQuery<Way>,
) -> Answer<Json<Shown>> {
    Ok(Json(of_machine(&service, id, way.direction).await?))
}

pub(super) async fn set(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
    Read(target): Read<TargetSettings>,
) -> Answer<Json<Shown>> {
    target.check().map_err(Refusal::bad)?;
    if !service.database.set_target(id, &target).await? {
        return Err(Refusal::not_found("machine"));
    }
    facts::store_now(&service, id).await;
    let message = "the machine's target settings were changed".to_owned();
    service.event(EventKind::TargetChanged, Some(id), message).await;
    Ok(Json(of_machine(&service, id, Direction::Forth).await?))
}
