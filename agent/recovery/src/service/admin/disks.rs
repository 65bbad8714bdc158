//! Disks, as the service knows them: from what machines say that they have, and from the newest of what was taken in.
//!
//! Deliberately not here: which disks are protected; that is the policy's, and the machine follows it.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use mobility_format::{ByteCount, DiskId, MachineId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Administrator;
use crate::service::{
    api::InQuery,
    database::Machine,
    refusal::{Answer, Refusal},
    state::Service,
};

/// Machines that are looked at for one answer.
const MACHINES: u32 = 100;
/// Disks after which an answer ends with the machine that it is at.
const MOST: usize = 1000;

/// Whose disks: one machine's, or all machines' after one.
#[derive(Deserialize)]
pub(super) struct Whose {
    machine: Option<MachineId>,
    #[serde(default)]
    after: String,
}

/// A disk.
#[derive(Serialize)]
struct Disk {
    machine: MachineId,
    id: DiskId,
    name: String,
    size: ByteCount,
    /// Whether the newest that was taken in holds it.
    in_newest: bool,
    /// Whether the machine has it, as it said last.
    attached: bool,
    /// Whether its content is lost when the machine moves.
    temporary: bool,
    /// Where its file systems are mounted.
    mounts: Vec<String>,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InQuery(whose): InQuery<Whose>,
) -> Answer<Json<Value>> {
    if let Some(id) = whose.machine {
        let machine = service.database.machine(id).await?.ok_or_else(|| Refusal::not_found("machine"))?;
        return Ok(Json(json!({ "disks": of(&machine), "next": null })));
    }
    let machines = service.database.machines(&whose.after, MACHINES).await?;
    let mut disks = Vec::new();
    let mut next = None;
    let mut left = machines.iter();
    for machine in left.by_ref() {
        disks.extend(of(machine));
        next = Some(machine.id);
        if disks.len() >= MOST {
            break;
        }
    }
    let all = left.as_slice().is_empty() && machines.len() < MACHINES as usize;
    Ok(Json(json!({ "disks": disks, "next": if all { None } else { next } })))
}

/// The disks of a machine, by id. Both lists have limits (`mobility_format::control::MAX_DISKS`).
fn of(machine: &Machine) -> Vec<Disk> {
    let taken_in = machine.head.iter().flat_map(|head| &head.disks).map(|disk| Disk {
        machine: machine.id,
        id: disk.id,
        name: disk.name.clone(),
        size: disk.size,
        in_newest: disk.present,
        attached: false,
        temporary: false,
        mounts: Vec::new(),
    });
    let mut disks: BTreeMap<DiskId, Disk> = taken_in.map(|disk| (disk.id, disk)).collect();
    for disk in machine.inventory.iter().flat_map(|inventory| &inventory.disks) {
        let in_newest = disks.get(&disk.id).is_some_and(|known| known.in_newest);
        let (name, mounts) = (disk.name.clone(), disk.mounts.clone());
        let (size, temporary) = (disk.size, disk.temporary);
        let shown = Disk {
            machine: machine.id,
            id: disk.id,
            name,
            size,
            in_newest,
            attached: true,
            temporary,
            mounts,
        };
        disks.insert(disk.id, shown);
    }
    disks.into_values().collect()
}
