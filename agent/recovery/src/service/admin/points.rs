//! Recovery points: listed as storage has them, and kept from being pruned.
//!
//! Deliberately not here: restoring and verifying, which need no service.

use std::{collections::BTreeSet, sync::Arc};

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    ByteCount, DiskId, Epoch, Generation, MachineId,
    manifest::{Consistency, DiskState, SignedManifest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Administrator;
use crate::{
    Catalog, Point, PointId,
    service::{
        api::{InPath, InQuery},
        facts, heads,
        refusal::{Answer, Refusal},
        state::Service,
    },
};

/// Points in one answer.
const MOST: usize = 1000;

/// From where to go on.
#[derive(Deserialize)]
pub(super) struct From {
    #[serde(default)]
    after: u64,
    most: Option<usize>,
}

/// A recovery point.
#[derive(Serialize)]
struct Shown {
    id: PointId,
    epoch: Epoch,
    generation: Generation,
    /// When it was made, by the machine's clock.
    time: Timestamp,
    /// When it was taken in.
    received: Timestamp,
    consistency: Consistency,
    disks: Vec<Disk>,
    /// Whether it stays whatever the policy says.
    pinned: bool,
    /// Why it cannot be restored, as far as that is known without reading all of it.
    damage: Option<String>,
}

/// A disk of a point.
#[derive(Serialize)]
struct Disk {
    id: DiskId,
    name: String,
    size: ByteCount,
    /// Whether it could not be read then, and is as it was before.
    missing: bool,
}

pub(super) async fn list(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
    InQuery(from): InQuery<From>,
) -> Answer<Json<Value>> {
    if service.database.machine(id).await?.is_none() {
        return Err(Refusal::not_found("machine"));
    }
    let pins: BTreeSet<u64> = service.database.pins(id).await?.into_iter().collect();
    let most = from.most.unwrap_or(MOST).clamp(1, MOST);
    let page = service.blocking(move |stores| {
        let mut catalog = Catalog::load(stores, id)?;
        // What is merged while it is read seems to be missing. It is not, the next time.
        if catalog.points().any(|point| point.problem.is_some()) {
            catalog = Catalog::load(stores, id)?;
        }
        let mut points = catalog.points().filter(|point| point.epoch().0 > from.after);
        let shown: Vec<_> = points.by_ref().take(most).map(|point| Shown::of(&point, &pins)).collect();
        let more = points.next().is_some();
        Ok((shown, more))
    });
    let (points, more) = page.await?;
    let next = if more { points.last().map(|point| point.epoch) } else { None };
    Ok(Json(json!({ "machine": id, "points": points, "next": next })))
}

impl Shown {
    fn of(point: &Point<'_>, pins: &BTreeSet<u64>) -> Shown {
        let manifest = point.manifest();
        let disk = |disk: &DiskState| Disk {
            id: disk.id,
            name: disk.name.clone(),
            size: disk.size,
            missing: disk.missing,
        };
        Shown {
            id: point.id,
            epoch: manifest.epoch,
            generation: manifest.generation,
            time: point.time(),
            received: point.received,
            consistency: point.consistency,
            disks: manifest.disks.iter().map(disk).collect(),
            pinned: pins.contains(&manifest.epoch.0),
            damage: point.problem.clone(),
        }
    }
}

pub(super) async fn pins(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath(id): InPath<MachineId>,
) -> Answer<Json<Value>> {
    Ok(Json(json!({ "machine": id, "epochs": service.database.pins(id).await? })))
}

pub(super) async fn pin(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath((id, epoch)): InPath<(MachineId, u64)>,
) -> Answer<Json<Value>> {
    let found = service.blocking(move |stores| Ok(heads::in_target(stores, id, Epoch(epoch))?)).await?;
    let signed = found.and_then(|bytes| SignedManifest::parse(&bytes).ok());
    if signed.is_none_or(|signed| signed.manifest.consistency().is_none()) {
        return Err(Refusal::not_found("recovery point"));
    }
    if service.database.machine(id).await?.is_none() {
        return Err(Refusal::not_found("machine"));
    }
    service.database.pin(id, epoch, true).await?;
    facts::store_now(&service, id).await;
    Ok(Json(json!({ "machine": id, "pinned": epoch })))
}

pub(super) async fn unpin(
    State(service): State<Arc<Service>>,
    _: Administrator,
    InPath((id, epoch)): InPath<(MachineId, u64)>,
) -> Answer<Json<Value>> {
    service.database.pin(id, epoch, false).await?;
    facts::store_now(&service, id).await;
    Ok(Json(json!({ "machine": id, "unpinned": epoch })))
}
