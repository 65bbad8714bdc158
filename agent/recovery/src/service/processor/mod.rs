//! Does what has to be done for machines: takes in what they commit, thins their points out, and notices silence.
//!
//! Each instance looks for work on its own and claims it in the database; work that an instance leaves behind when it is killed
//! is claimed by another once the claim has ended, and goes on where it was, since taking in and pruning do. Work that waits for
//! storage runs in a bounded number of threads. Deliberately not here: how an epoch is taken in (the library's `Intake`).

mod doubt;
mod take_in;
mod thin;
pub(super) mod watch;
mod webhook;

use std::{future::Future, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use mobility_format::MachineId;
use tokio::sync::Semaphore;

pub(super) use take_in::{End, Intakes, take_in};
pub(super) use webhook::{WAITING as WAITING_ALERTS, deliver};

use super::{
    database::{CLAIM, Job},
    state::Service,
};

/// How often is looked for work that nobody has told of.
const LOOK: Duration = Duration::from_secs(1);
/// When a machine is looked at again though it said nothing.
const INTAKE_EVERY: SignedDuration = SignedDuration::from_secs(120);
/// How often points are thinned out.
const PRUNE_EVERY: SignedDuration = SignedDuration::from_mins(10);
/// When something that failed is tried again.
const AGAIN: SignedDuration = SignedDuration::from_secs(15);

/// When a job is to be done next.
pub(super) enum Next {
    /// At once.
    Now,
    /// When it was failing, after a while.
    Again,
    /// When its time comes.
    InTime,
}

/// Works until the service stops.
pub(super) async fn run(service: Arc<Service>, workers: usize) {
    let (intakes, prunings) = (Arc::new(Semaphore::new(workers)), Arc::new(Semaphore::new(1)));
    let mut stop = service.stop.clone();
    loop {
        begin(&service, Job::Intake, INTAKE_EVERY, &intakes, |service, machine| async move {
            take_in::work(&service, machine).await
        })
        .await;
        begin(&service, Job::Prune, PRUNE_EVERY, &prunings, |service, machine| async move {
            thin::work(&service, machine).await
        })
        .await;
        tokio::select! {
            () = service.work.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Claims as much work as there are workers free, and has it done beside.
async fn begin<F: Future<Output = Next> + Send + 'static>(
    service: &Arc<Service>,
    job: Job,
    every: SignedDuration,
    workers: &Arc<Semaphore>,
    work: impl Fn(Arc<Service>, MachineId) -> F,
) {
    let free = workers.available_permits();
    if free == 0 {
        return;
    }
    let (by, now) = (&service.instance, Timestamp::now());
    let claimed = match service.database.claim_due(job, by, free, every, now).await {
        Ok(claimed) => claimed,
        Err(err) => return tracing::error!("no work can be claimed: {err}"),
    };
    for machine in claimed {
        let Ok(permit) = workers.clone().acquire_owned().await else { return };
        let (work, service) = (work(service.clone(), machine), service.clone());
        tokio::spawn(async move {
            let next = held(&service, job, machine, work).await;
            let now = Timestamp::now();
            let next = match next {
                Next::Now => now,
                Next::Again => now + AGAIN,
                Next::InTime => now + every,
            };
            if let Err(err) = service.database.release(job, machine, &service.instance, next).await {
                tracing::error!(%machine, "a claim could not be given back and ends by itself: {err}");
            }
            drop(permit);
            service.work.notify_one();
        });
    }
}

/// Does the work while the claim is renewed. If it is lost all the same, storage's own order keeps the two apart.
async fn held(
    service: &Service,
    job: Job,
    machine: MachineId,
    work: impl Future<Output = Next> + Send,
) -> Next {
    let mut work = std::pin::pin!(work);
    let often = CLAIM.unsigned_abs() / 3;
    loop {
        tokio::select! {
            next = &mut work => return next,
            () = tokio::time::sleep(often) => {
                match service.database.hold(job, machine, &service.instance, Timestamp::now()).await {
                    Ok(true) => {}
                    Ok(false) => tracing::warn!(%machine, "the claim on the machine's work was lost"),
                    Err(err) => tracing::error!(%machine, "the claim could not be renewed: {err}"),
                }
            }
        }
    }
}
