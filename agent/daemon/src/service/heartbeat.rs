//! Tells the service how the machine is, every few seconds and after every point, and hears what has changed.
//!
//! Heartbeats go one by one: each brings the number that the answer before gave, by which the service finds out copies of
//! this machine. Deliberately not here: what the machine's health is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mobility_format::{
    Epoch,
    control::{Heartbeat, HeartbeatAnswer},
};

use super::{
    FromService,
    client::Ask,
    connection::{Connection, REVOKED_WAIT, lock},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    waits::Waits,
};
use crate::clock;

/// Until the service wishes otherwise.
const USUAL: Duration = Duration::from_secs(10);
/// Heartbeats come no faster than this, however many points are made.
const LEAST: Duration = Duration::from_millis(500);
/// And no slower than this, whatever the service wishes.
const MOST: Duration = Duration::from_secs(600);

/// Beats until the agent ends.
pub(super) fn run(connection: &Arc<Connection>) {
    let mut waits = Waits::new(connection.longest_wait());
    let (mut wait, mut taken_in) = (USUAL, Epoch(0));
    while !connection.client.is_stopped() {
        // After a failure the bell does not bring the next try forward.
        let start = Instant::now();
        connection.heart.wait(if waits.is_due() { wait } else { waits.left() });
        while !waits.is_due() && !connection.client.is_stopped() {
            connection.heart.wait(waits.left());
        }
        std::thread::sleep(LEAST.saturating_sub(start.elapsed()));
        match beat(connection) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                waits.succeeded();
                wait = Duration::from_secs(answer.next_s).clamp(LEAST, MOST);
                take_in(connection, &answer, &mut taken_in);
            }
            Err(fault) => match fault.kind {
                Kind::Fenced | Kind::Stopped => return,
                Kind::Revoked => waits.failed(Some(fault.retry_after.unwrap_or(REVOKED_WAIT))),
                _ => {
                    tracing::debug!("no heartbeat: {fault}");
                    waits.failed(fault.retry_after);
                }
            },
        }
    }
}

/// One heartbeat; none before the session has begun and there is something to tell.
fn beat(connection: &Connection) -> Result<Option<HeartbeatAnswer>, ServiceFault> {
    let mut current = lock(&connection.turn);
    let (Some(turn), Some(report)) = (*current, lock(&connection.report).clone()) else { return Ok(None) };
    let mut health = report.health;
    health.clock = clock::wall();
    health.certificate_expires = lock(&connection.keys).enrolment.as_ref().map(|enrolment| enrolment.expires);
    let heard = lock(&connection.policy).as_ref().map(|policy| (policy.version, policy.paused));
    let (policy, paused) = heard.unwrap_or_default();
    let message = Heartbeat { session: connection.session, turn, policy, paused, head: report.head, health };
    let answer: HeartbeatAnswer = connection.call(&Ask::post("heartbeat", &message)?)?;
    *current = Some(answer.turn);
    Ok(Some(answer))
}

fn take_in(connection: &Connection, answer: &HeartbeatAnswer, taken_in: &mut Epoch) {
    if let Some(policy) = &answer.policy {
        connection.follow(policy);
        connection.deliver(FromService::PolicyChanged(policy.clone()));
    }
    if answer.taken_in > *taken_in {
        *taken_in = answer.taken_in;
        connection.taken_in(answer.taken_in);
        connection.deliver(FromService::TakenIn(answer.taken_in));
    }
}
