//! Looks after what nobody asks for: machines that fall silent, commands that another instance left, old events, facts that are not
//! stored yet.
//!
//! Deliberately not here: the work on machines' data.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::service::{
    database::{DatabaseError, EventKind, Overdue},
    facts,
    state::Service,
};

/// How often other instances' commands are looked for.
const LISTEN: Duration = Duration::from_secs(1);
/// How far back, since their clocks may differ.
const BACK: SignedDuration = SignedDuration::from_secs(5);
/// How often is looked for silence, in rounds of [`LISTEN`].
const SILENCE: u64 = 3;
/// How much later than an interval after it was due a point may come before it is missed.
const SLACK_MS: i64 = 5_000;
/// How often old events are removed, in rounds of [`LISTEN`].
const FORGET: u64 = 3600;

/// Looks until the service stops.
pub(in crate::service) async fn run(service: Arc<Service>) {
    let mut stop = service.stop.clone();
    for round in 0_u64.. {
        tokio::select! {
            () = tokio::time::sleep(LISTEN) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // What fails here was logged where it failed.
        let _ = facts::store_due(&service).await;
        if let Err(err) = look(&service, round).await {
            tracing::error!("machines cannot be looked after: {err}");
        }
    }
}

async fn look(service: &Service, round: u64) -> Result<(), DatabaseError> {
    let now = Timestamp::now();
    for machine in service.database.ordered_since(now - BACK).await? {
        service.bell.ring(machine);
    }
    if round.is_multiple_of(SILENCE) {
        for overdue in service.database.note_overdue(SLACK_MS, now).await? {
            tell(service, &overdue, now).await;
        }
    }
    if round.is_multiple_of(FORGET) {
        service.database.forget_old(now).await?;
    }
    Ok(())
}

async fn tell(service: &Service, found: &Overdue, now: Timestamp) {
    let (name, interval) = (&found.name, found.interval_s);
    let age = (now - found.point_at).total(jiff::Unit::Second).unwrap_or(0.0).round();
    let (kind, message) = match found.overdue {
        true => (
            EventKind::IntervalMissed,
            format!("'{name}' has no recovery point for {age} s; its policy wants one every {interval} s"),
        ),
        false => (EventKind::IntervalMet, format!("'{name}' makes recovery points in time again")),
    };
    service.event(kind, Some(found.machine), message).await;
}
