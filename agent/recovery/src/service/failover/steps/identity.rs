//! The steps that decide whose agent goes on with the machine's identity.
//!
//! Deliberately not here: what a gate lets through (`gate`).

use std::time::{Duration, Instant};

use super::{LOOK, Outcome, Problem};
use crate::service::{
    facts,
    failover::{
        Failover, Held, Kind,
        provider::Failure,
        run::{Gauge, Runner},
    },
    refusal::Refusal,
};

/// How long to wait for the first point of a machine that was admitted: it compares its disks before.
const FIRST_POINT: Duration = Duration::from_secs(6 * 3600);

/// Sees to it that no agent goes on with the machine's identity that should not.
pub(super) async fn hold(runner: &Runner, failover: &mut Failover) -> Outcome {
    let database = &runner.service.database;
    let (machine, mut gate) = (failover.machine, database.gate(failover.machine).await?);
    // Once: when it is done again somebody else may be there.
    if failover.hardware.is_none() {
        failover.hardware = database.hardware(machine).await?;
    }
    let only = match failover.kind {
        Kind::Test => failover.hardware.clone(),
        Kind::Planned | Kind::Unplanned => None,
    };
    if failover.kind == Kind::Test && only.is_none() {
        return Ok("the machine has no agent that could be mistaken for another".to_owned());
    }
    // Once as well: the second time there is none.
    let session = match gate.held.take().filter(|held| held.failover == failover.id) {
        Some(held) => held.session,
        None => database.state(machine).await?.and_then(|state| state.session),
    };
    gate.held = Some(Held { failover: failover.id.clone(), only, session });
    database.set_gate(machine, &gate).await?;
    facts::store_now(&runner.service, machine).await;
    match failover.kind {
        Kind::Test => Ok("only the machine itself goes on with its identity".to_owned()),
        Kind::Planned | Kind::Unplanned => {
            // After the gate is shut: a session that begins in between ends here.
            database.end_session(machine).await?;
            runner.service.bell.ring(machine);
            Ok("nobody goes on with the machine's identity until it is decided who".to_owned())
        }
    }
}

/// Lets the agents go on that went on before.
pub(super) async fn release(runner: &Runner, failover: &Failover) -> Outcome {
    let database = &runner.service.database;
    let gate = database.gate(failover.machine).await?;
    let Some(held) = gate.held.clone().filter(|held| held.failover == failover.id) else {
        return Ok("it was not held".to_owned());
    };
    // First, since what is not held any more is not looked at again when this is done again.
    if let Some(session) = held.session {
        database.resume_session(failover.machine, session).await?;
    }
    database.set_gate(failover.machine, &gate.released(&failover.id)).await?;
    facts::store_now(&runner.service, failover.machine).await;
    Ok("the machine goes on where it was".to_owned())
}

/// Lets the agent in the machine at the target go on, and the one before it never again.
pub(super) async fn admit(runner: &Runner, failover: &mut Failover) -> Outcome {
    let database = &runner.service.database;
    let gate = database.gate(failover.machine).await?;
    let state = database.state(failover.machine).await?.ok_or_else(|| Refusal::not_found("machine"))?;
    failover.admitted_at.get_or_insert(state.taken_in);
    // Before anybody is let in: once somebody is, what is newest is not what it was.
    runner.beat(failover, &Gauge::default()).await;
    database.set_gate(failover.machine, &gate.moved(&failover.id, failover.hardware.as_deref())).await?;
    facts::store_now(&runner.service, failover.machine).await;
    Ok("the machine at the target may go on, and the one before it never again".to_owned())
}

/// Waits until the machine at the target makes points.
pub(super) async fn wait_for_point(runner: &Runner, failover: &mut Failover) -> Outcome {
    let (begin, before) = (Instant::now(), failover.admitted_at.unwrap_or(0));
    loop {
        let machine = runner.service.database.machine(failover.machine).await?;
        if let Some(epoch) = machine.and_then(|machine| machine.point).filter(|epoch| *epoch > before) {
            return Ok(format!("its first point is of epoch {epoch}"));
        }
        if runner.stop.is_set() {
            return Err(Problem::Stopped);
        }
        if begin.elapsed() > FIRST_POINT {
            let problem = "the machine at the target has made no point yet";
            return Err(
                Failure::new(problem, "see that its agent runs and reaches the service, and resume").into()
            );
        }
        tokio::time::sleep(LOOK).await;
        runner.beat(failover, &Gauge::default()).await;
    }
}
