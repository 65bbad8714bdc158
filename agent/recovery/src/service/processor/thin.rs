//! Thins out a machine's points by its policy's ladder.
//!
//! Ages go by when the service took a point in, so nothing that a machine says makes an older point go. Deliberately not here:
//! which points stay (`ladder`), and how they are merged (`prune`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use mobility_format::{Epoch, MachineId};

use super::{Next, room};
use crate::{
    ladder::Ladder,
    prune_but,
    service::{
        claims::Lease,
        database::{EventKind, Job},
        refusal::Refusal,
        state::Service,
    },
};

/// Does the work of [`super::Job::Prune`] for one machine.
pub(super) async fn work(service: &Service, machine: MachineId, lease: &Lease) -> Next {
    match thin(service, machine, lease).await {
        Ok(()) => Next::InTime,
        Err(_) => Next::Again,
    }
}

async fn thin(service: &Service, machine: MachineId, lease: &Lease) -> Result<(), Refusal> {
    let Some(standing) = service.standing(machine).await? else { return Ok(()) };
    let Some(policy) = service.database.policy(&standing.policy).await? else { return Ok(()) };
    let Some(state) = service.database.state(machine).await?.filter(|state| state.head.is_some()) else {
        return Ok(());
    };
    let ladder: Ladder = policy.retention.parse().map_err(|err| Refusal::failing(&err))?;
    let mut pinned: BTreeSet<Epoch> = service.database.pins(machine).await?.into_iter().map(Epoch).collect();
    pinned.extend(service.database.exported(machine, Timestamp::now()).await?);
    pinned.extend(service.database.epochs_failed_over(machine).await?);
    let report = service
        .blocking_claimed(lease, move |stores| {
            prune_but(stores, machine, &ladder, &pinned, Timestamp::now(), false)
                .map_err(|err| Refusal::failing(&err))
        })
        .await?;
    room::measure(service, machine, lease).await?;
    if state.over_quota {
        service.database.want(Job::Intake, machine, Timestamp::now()).await?;
        service.work.notify_one();
    }
    if !report.removed.is_empty() {
        let message =
            format!("{} points went by the policy, {} stay", report.removed.len(), report.kept.len());
        service.event(EventKind::PointsRemoved, Some(machine), message).await;
    }
    for left in &report.untouched {
        let message = format!("epochs {} to {} are left as they are: {}", left.first, left.last, left.reason);
        service.event(EventKind::StorageDamaged, Some(machine), message).await;
    }
    Ok(())
}
