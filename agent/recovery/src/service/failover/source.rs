//! Stops the machine at the source for a planned failover, and lets it go on where that is cancelled: by orders to its agent.
//!
//! An order waits until the agent has answered it. One that is not answered in time is withdrawn, so that a machine that comes back
//! tomorrow is not stopped for a failover that nobody thinks of any more; what is answered after that does not count, and the agent
//! is told so. Deliberately not here: how a machine is stopped (the agent's `replicate::halt`).

use std::time::{Duration, Instant};

use mobility_format::control::{Claim, CommandId, CommandResult, Order};
use serde::{Deserialize, Serialize};

use super::{
    Failover,
    point::{self, process_cache},
    provider::Failure,
    run::{Gauge, Runner, Stop},
    steps::{Outcome, Problem},
};
use crate::{
    Catalog, PointId,
    service::{database::CommandState, refusal::Refusal},
};

/// How often is looked for an answer.
const LOOK: Duration = Duration::from_millis(500);
/// How long a cancelled failover waits for the agent to say that the machine goes on.
const GOES_ON: Duration = Duration::from_secs(60);
/// What to do where the machine is not stopped.
const HINT: &str = "`failover resume` asks it again; `failover cancel` lets it go on; where it is gone, cancel and start a failover of kind unplanned";

/// What is known of the machine at the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// It may have been told to stop.
    pub(crate) asked: bool,
    /// The command that it has to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<CommandId>,
    /// The last point that it made, after which it writes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<Claim>,
    /// It switches itself off.
    pub(crate) off: bool,
}

/// What came of an order.
enum Answer {
    Came(CommandResult),
    /// None, within the limit.
    None,
}

/// Has whatever writes on the machine stopped, and waits until the point after that is in target storage.
pub(super) async fn halt(runner: &Runner, failover: &mut Failover) -> Outcome {
    if !failover.source.asked {
        has_a_point(runner, failover).await?;
    }
    if failover.source.last.is_none() {
        let order = Order::Halt { failover: failover.id.clone() };
        let limit = runner.service.source_limit;
        let result = match ask(runner, failover, &order, limit).await? {
            Answer::Came(result) => result,
            Answer::None => return Err(silent(runner, failover, &order, limit).await?),
        };
        failover.source.last = match result {
            CommandResult { done: true, point: Some(point), .. } => Some(point),
            CommandResult { message, .. } => {
                return Err(Failure::new(format!("the machine is not stopped: {message}"), HINT).into());
            }
        };
        runner.beat(failover, &Gauge::default()).await;
    }
    let Some(last) = failover.source.last else { return Err(Problem::Stopped) };
    let taken_in = take_in(runner, failover, last).await;
    if let Err(Problem::Failed(_)) = &taken_in {
        // It may never be: the machine makes another one.
        failover.source.last = None;
    }
    taken_in
}

/// Demands that there is a point to restore. A machine that is still being copied for the first time would be down for as long as that takes.
async fn has_a_point(runner: &Runner, failover: &mut Failover) -> Result<(), Problem> {
    let (stores, machine, asked) = (runner.service.stores.clone(), failover.machine, failover.asked);
    let newest = move |_: &Stop| match point::choose(&stores, machine, point::LATEST, asked) {
        Ok(_) => Ok(()),
        Err(err) => {
            let problem =
                format!("the machine is not stopped: what it writes last has no point to follow: {err}");
            Err(Failure::new(problem, "wait for a point of it (`point list`), and resume").into())
        }
    };
    runner.aside(failover, Gauge::default(), newest).await
}

async fn take_in(runner: &Runner, failover: &mut Failover, last: Claim) -> Outcome {
    let (service, machine) = (runner.service.clone(), failover.machine);
    let said = {
        let mut waiting = std::pin::pin!(process_cache(&service, machine, &runner.stop));
        loop {
            tokio::select! {
                said = &mut waiting => break said?,
                () = tokio::time::sleep(LOOK) => runner.beat(failover, &Gauge::default()).await,
            }
        }
    };
    if runner.stop.is_set() {
        return Err(Problem::Stopped);
    }
    let of = move |stores: &crate::storage::Stores| {
        let catalog = Catalog::load(stores, machine)?;
        let signed = catalog.manifest(last.epoch);
        Ok(signed.map(|signed| (signed.digest, signed.manifest.time)))
    };
    let name = PointId::new(last.epoch, last.digest);
    match service.blocking(of).await? {
        Some((digest, time)) if digest == last.digest => {
            Ok(format!("what writes on the machine is stopped; its last point is {name} of {time}"))
        }
        _ => {
            let problem = format!("the machine's last point, {name}, was not taken in: {said}");
            Err(Failure::new(problem, HINT).into())
        }
    }
}

/// Has the machine switched off.
pub(super) async fn switch_off(runner: &Runner, failover: &mut Failover) -> Outcome {
    if !failover.source.off {
        let order = Order::SwitchOff { failover: failover.id.clone() };
        let limit = runner.service.source_limit;
        let problem = match ask(runner, failover, &order, limit).await? {
            Answer::Came(CommandResult { done: true, .. }) => None,
            Answer::Came(CommandResult { message, .. }) => {
                let problem = format!("the machine is not switched off: {message}");
                Some(Failure::new(problem, HINT).into())
            }
            Answer::None => Some(silent(runner, failover, &order, limit).await?),
        };
        if let Some(problem) = problem {
            return Err(problem);
        }
        failover.source.off = true;
        runner.beat(failover, &Gauge::default()).await;
    }
    Ok("the machine switches itself off".to_owned())
}

/// Lets the machine go on that was told to stop. That it does not answer is no reason not to cancel.
pub(super) async fn go_on(runner: &Runner, failover: &mut Failover) -> Outcome {
    if !failover.source.asked {
        return Ok("it was not stopped".to_owned());
    }
    let database = &runner.service.database;
    if let Some(command) = failover.source.command
        && !database.withdraw_command(failover.machine, command).await?
        && let Some(CommandState::Answered(Order::SwitchOff { .. }, result)) =
            database.command(failover.machine, command).await?
    {
        failover.source.off |= result.done;
    }
    failover.source.command = None;
    let order = Order::GoOn { failover: failover.id.clone() };
    if failover.source.off {
        // For the one that could not switch itself off after all.
        runner.service.order(failover.machine, &order).await?;
        return Ok("the machine was switched off: switch it on by hand".to_owned());
    }
    let limit = runner.service.source_limit.min(GOES_ON);
    Ok(match ask(runner, failover, &order, limit).await? {
        Answer::Came(CommandResult { message, .. }) => message,
        Answer::None => "the machine's agent does not answer; it is told when it does. By hand: `systemctl isolate default.target` on the machine".to_owned(),
    })
}

/// Orders something, once, and waits for what comes of it.
async fn ask(
    runner: &Runner,
    failover: &mut Failover,
    order: &Order,
    limit: Duration,
) -> Result<Answer, Problem> {
    let (service, machine, begin) = (&runner.service, failover.machine, Instant::now());
    if failover.source.command.is_none() {
        failover.source.asked = true;
        runner.beat(failover, &Gauge::default()).await;
        let waits = service.database.commands(machine).await?;
        // Left by an instance that was killed before it could note which it is.
        let command = match waits.into_iter().find(|command| command.order == *order) {
            Some(command) => command.id,
            None => service.order(machine, order).await?,
        };
        failover.source.command = Some(command);
        runner.beat(failover, &Gauge::default()).await;
    }
    let gone = || Refusal::failing(&"a command that a machine was given is gone");
    let command = failover.source.command.ok_or_else(gone)?;
    loop {
        match service.database.command(machine, command).await?.ok_or_else(gone)? {
            CommandState::Answered(of, result) if of == *order => {
                failover.source.command = None;
                return Ok(Answer::Came(result));
            }
            CommandState::Waiting => {}
            // One that was given up on, or another one.
            CommandState::Answered(..) | CommandState::Withdrawn => {
                failover.source.command = None;
                return Ok(Answer::None);
            }
        }
        // A failover that is being cancelled does not stop for that.
        if runner.stop.is_set() && !matches!(order, Order::GoOn { .. }) {
            return Err(Problem::Stopped);
        }
        if service.is_stopping() {
            return Err(Problem::Stopped);
        }
        if begin.elapsed() > limit {
            return Ok(Answer::None);
        }
        tokio::time::sleep(LOOK).await;
        runner.beat(failover, &Gauge::default()).await;
    }
}

/// The machine has not answered: nothing is asked of it any more. What was answered in this very moment counts.
async fn silent(
    runner: &Runner,
    failover: &mut Failover,
    order: &Order,
    limit: Duration,
) -> Result<Problem, Problem> {
    if let Some(command) = failover.source.command {
        let withdrawn = runner.service.database.withdraw_command(failover.machine, command).await?;
        if !withdrawn {
            let problem = "the machine has answered at the last moment";
            return Ok(Failure::new(problem, "`failover resume` goes on with what it said").into());
        }
        failover.source.command = None;
    }
    let what = match order {
        Order::SwitchOff { .. } => "that it switches itself off",
        _ => "that what writes on it is stopped",
    };
    let problem = format!("the machine has not said within {} s {what}", limit.as_secs());
    Ok(Failure::new(problem, HINT).into())
}
