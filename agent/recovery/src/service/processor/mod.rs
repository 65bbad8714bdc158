//! Does what has to be done for machines: takes in what they commit, thins their points out, and notices silence.
//!
//! Each instance looks for work on its own and claims it in the database; work that an instance leaves behind when it is killed
//! is claimed by another once the claim has ended, and goes on where it was, since taking in and pruning do. One machine's work is
//! done by one instance at a time, one job after the other. Work that waits for
//! storage runs in a bounded number of threads. Deliberately not here: how an epoch is taken in (the library's `Intake`).

mod doubt;
mod gap;
mod room;
mod take_in;
mod thin;
pub(super) mod watch;
mod webhook;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;

pub(super) use gap::Gaps;
pub(super) use take_in::{End, Intakes, take_in};
pub(super) use webhook::{WAITING as WAITING_ALERTS, deliver};

use super::{claims, database::Job, state::Service};

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
        begin(&service, Job::Intake, INTAKE_EVERY, &intakes).await;
        begin(&service, Job::Prune, PRUNE_EVERY, &prunings).await;
        tokio::select! {
            () = service.work.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Claims as much work as there are workers free, and has it done beside.
async fn begin(service: &Arc<Service>, job: Job, every: SignedDuration, workers: &Arc<Semaphore>) {
    let free = workers.available_permits();
    if free == 0 {
        return;
    }
    let (name, now) = (|| service.claim_name(), Timestamp::now());
    let claimed = match service.database.claim_due(job, name, free, every, now).await {
        Ok(claimed) => claimed,
        Err(err) => return tracing::error!("no work can be claimed: {err}"),
    };
    for claim in claimed {
        let Ok(permit) = workers.clone().acquire_owned().await else { return };
        let service = service.clone();
        tokio::spawn(async move {
            let machine = claim.machine;
            let next = claims::hold(&service, &claim, async |lease| match job {
                Job::Intake => take_in::work(&service, machine, &lease).await,
                Job::Prune => thin::work(&service, machine, &lease).await,
            });
            let next = next.await;
            let now = Timestamp::now();
            let next = match next {
                Next::Now => now,
                Next::Again => now + AGAIN,
                Next::InTime => now + every,
            };
            if let Err(err) = service.database.release(job, &claim, next).await {
                tracing::error!(%machine, "a claim could not be given back and ends by itself: {err}");
            }
            drop(permit);
            service.work.notify_one();
        });
    }
}
