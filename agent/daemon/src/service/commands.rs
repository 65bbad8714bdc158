//! Waits for commands at the service, and hands each of them on once.
//!
//! A command is handed out by the service until its result has come; one that is being done is not done again. Deliberately
//! not here: doing them, but for `renew` and `logs`, and sending results (`upkeep`).

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mobility_format::control::{Command, CommandResult, Commands, LONGEST_WAIT_S, Order};

use super::{
    FromService,
    client::Ask,
    connection::{Connection, REVOKED_WAIT, lock},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    waits::Waits,
};
use crate::log;

/// How long to wait before asking again when all commands that there are are being done.
const BUSY: Duration = Duration::from_secs(5);
/// An answer that came so soon was not waited for.
const QUICK: Duration = Duration::from_secs(1);
/// How long to wait for the session to begin before looking again.
const BEFORE: Duration = Duration::from_secs(1);

/// Waits for commands until the agent ends.
pub(super) fn run(connection: &Arc<Connection>) {
    let mut waits = Waits::new(connection.longest_wait());
    let mut at_hand = BTreeSet::new();
    while !connection.client.is_stopped() {
        if !connection.has_begun() {
            connection.orders.wait(BEFORE);
            continue;
        }
        let asked = Instant::now();
        match poll(connection) {
            Ok(commands) => {
                waits.succeeded();
                let listed: BTreeSet<_> = commands.iter().map(|command| command.id).collect();
                // What is no longer listed is done.
                at_hand.retain(|id| listed.contains(id));
                let fresh: Vec<_> =
                    commands.into_iter().filter(|command| at_hand.insert(command.id)).collect();
                // Nor does a service that answers at once with nothing keep anybody busy.
                let idle = fresh.is_empty() && (!at_hand.is_empty() || asked.elapsed() < QUICK);
                fresh.into_iter().for_each(|command| hand_on(connection, command));
                if idle {
                    connection.orders.wait(BUSY);
                }
            }
            Err(fault) => {
                match fault.kind {
                    Kind::Fenced | Kind::Stopped => return,
                    Kind::Revoked => waits.failed(Some(fault.retry_after.unwrap_or(REVOKED_WAIT))),
                    _ => waits.failed(fault.retry_after),
                }
                while !waits.is_due() && !connection.client.is_stopped() {
                    connection.orders.wait(waits.left());
                }
            }
        }
    }
}

fn poll(connection: &Connection) -> Result<Vec<Command>, ServiceFault> {
    let ask = Ask::get(&format!("commands?session={}&wait_s={LONGEST_WAIT_S}", connection.session));
    let limit = Duration::from_secs(LONGEST_WAIT_S + 15);
    connection.call::<Commands>(&ask.within(limit)).map(|commands| commands.commands)
}

fn hand_on(connection: &Connection, command: Command) {
    match command.order {
        Order::Renew => {
            *lock(&connection.renew_command) = Some(command.id);
            connection.renew_now.store(true, Ordering::Relaxed);
            connection.chores.ring();
        }
        Order::Logs => connection.finished(command.id, CommandResult::done(log::recent())),
        Order::Unknown => {
            let reason = "this version of the agent does not know the command: upgrade it";
            connection.finished(command.id, CommandResult::refused(reason));
        }
        _ => connection.deliver(FromService::Command(command)),
    }
}
