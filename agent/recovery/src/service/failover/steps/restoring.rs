//! The step that writes the disks.
//!
//! Deliberately not here: restoring itself (`crate::restore`), and where images go (`provider`).

use std::ops::ControlFlow;

use jiff::Timestamp;
use mobility_format::{ByteCount, Epoch, MachineId};

use super::{Outcome, Problem, place, spec};
use crate::{
    Catalog, Destination, RestoreError, Restored, restore_disk,
    service::failover::{
        Failover, point,
        provider::{Disk, Failure},
        record::{Progress, Written},
        run::{Gauge, Runner, Stop},
    },
    storage::Stores,
};

/// Writes the disks as of the point, and reads back what was written. Disks that are finished are not written again.
pub(super) async fn restore(runner: &Runner, failover: &mut Failover) -> Outcome {
    let spec = spec(runner, failover).await?;
    let place = place(runner, failover)?;
    let Some(chosen) = failover.chosen.clone() else {
        return Err(Failure::new("no point was chosen", "take one with `failover change-point`").into());
    };
    let begin = Timestamp::now();
    for disk in &spec.disks {
        if failover.disks.iter().any(|written| written.id == disk.id) {
            continue;
        }
        let (stores, machine, gauge) = (runner.service.stores.clone(), failover.machine, Gauge::default());
        let (spec, disk, place, told) = (spec.clone(), disk.clone(), place.clone(), gauge.clone());
        let written = runner.aside(failover, gauge, move |stop| {
            let to = place.provider.image(&spec, &disk)?;
            let catalog = Catalog::load_locked(&stores, machine);
            let catalog = catalog.map_err(|err| Failure::new(err.to_string(), point::GONE))?;
            let restored = one_disk(&catalog, chosen.epoch, &disk, &to, stop, &told);
            restored.map_err(|err| problem(&stores, machine, chosen.epoch, &err, stop))
        });
        let restored = written.await?;
        failover.disks.push(Written {
            id: restored.disk,
            name: restored.name,
            path: restored.path.display().to_string(),
            size: restored.size,
            written: restored.written,
            root: restored.root.to_string(),
        });
        runner.beat(failover, &Gauge::default()).await;
    }
    let written = failover.disks.iter().map(|disk| disk.written.0).sum();
    let seconds = (Timestamp::now().as_millisecond() - begin.as_millisecond()) as f64 / 1e3;
    let written = ByteCount(written);
    Ok(format!("{} disks, {written} written and read back in {seconds:.1} s", failover.disks.len()))
}

/// Restores a disk to its image, unless it is told to stop.
fn one_disk(
    catalog: &Catalog,
    epoch: Epoch,
    disk: &Disk,
    to: &Destination,
    stop: &Stop,
    told: &Gauge,
) -> Result<Restored, RestoreError> {
    restore_disk(catalog, epoch, disk.id, to, true, |at| {
        told.set(Progress { done: at.done, total: at.total });
        if stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

/// What it means for the failover that a disk could not be restored.
fn problem(stores: &Stores, machine: MachineId, epoch: Epoch, err: &RestoreError, stop: &Stop) -> Problem {
    if stop.is_set() {
        return Problem::Stopped;
    }
    let hint = match err {
        RestoreError::Content(err) if err.is_damage() => point::instead_of(stores, machine, epoch, err),
        RestoreError::NoSuchDisk { .. } => point::GONE.to_owned(),
        RestoreError::Storage(err) => err.kind().remedy().to_owned() + ", and resume",
        _ => "mend that, and resume".to_owned(),
    };
    Failure::new(err.to_string(), hint).into()
}
