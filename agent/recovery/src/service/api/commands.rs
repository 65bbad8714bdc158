//! Commands: a machine waits for them, and says what came of each.
//!
//! Deliberately not here: who gives them.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    SessionId,
    control::{CommandId, CommandResult, Commands, ErrorCode, Order},
};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::{InPath, InQuery, Said, caller::Caller, said};
use crate::service::{
    database::{EventKind, Noted},
    refusal::{Answer, Refusal},
    state::Service,
};

/// The longest wait, in seconds.
const LONGEST_S: u64 = 50;

/// What is said in the address.
#[derive(Deserialize)]
pub(super) struct Wait {
    session: SessionId,
    #[serde(default)]
    wait_s: u64,
}

pub(super) async fn wait(
    State(service): State<Arc<Service>>,
    caller: Caller,
    InQuery(wait): InQuery<Wait>,
) -> Answer<Json<Commands>> {
    let until = Instant::now() + Duration::from_secs(wait.wait_s.min(LONGEST_S));
    let listener = service.bell.of(caller.machine);
    let mut stop = service.stop.clone();
    loop {
        let Some(notify) = listener.notify() else { return said(Commands::default()) };
        let mut rung = pin!(notify.notified());
        rung.as_mut().enable();
        caller.must_be(&service, wait.session).await?;
        let commands = service.database.commands(caller.machine).await?;
        if !commands.is_empty() {
            return said(Commands { commands });
        }
        let waited = timeout_at(until, async {
            tokio::select! {
                () = rung => true,
                _ = stop.wait_for(|stop| *stop) => false,
            }
        });
        if !waited.await.unwrap_or(false) {
            return said(Commands::default());
        }
    }
}

pub(super) async fn done(
    State(service): State<Arc<Service>>,
    caller: Caller,
    InPath(id): InPath<CommandId>,
    Said(result): Said<CommandResult>,
) -> Answer<Json<()>> {
    let noted = service.database.command_done(caller.machine, id, &result, Timestamp::now()).await?;
    if noted == Noted::Withdrawn {
        return Err(Refusal::new(ErrorCode::Conflict, "nobody waits for this command any more"));
    }
    // A repeated request finds nothing, and that is as good.
    if let Noted::Now(order) = noted {
        let kind = if result.done { EventKind::CommandDone } else { EventKind::CommandFailed };
        let said = if matches!(order, Order::Logs) { "the log was sent" } else { &result.message };
        service.event(kind, Some(caller.machine), format!("{}: {said}", name(&order))).await;
    }
    said(())
}

/// What an order is called, for people.
pub(crate) fn name(order: &Order) -> &'static str {
    match order {
        Order::Point { .. } => "make a point",
        Order::Resync { .. } => "resync",
        Order::Renew => "renew the certificate",
        Order::Logs => "send the log",
        Order::Halt { .. } => "stop what writes",
        Order::SwitchOff { .. } => "switch off",
        Order::GoOn { .. } => "go on",
        Order::Unknown => "an order of a later version",
    }
}
