//! The chores that nobody waits for: results of commands are told, the service is made to look at commits, grants are filled
//! up, the certificate is renewed.
//!
//! Each has waits of its own, so that one that fails holds up none of the others. Deliberately not here: how the certificate
//! is renewed (`renew`).

use std::{sync::Arc, time::Duration};

use mobility_format::control::CommitState;

use super::{
    FromService,
    client::Ask,
    connection::{Commit, Connection, lock},
    fault::{ServiceFault, ServiceFaultKind as Kind},
    objects, renew,
    upload::{self, Stored},
    waits::Waits,
};

/// How often the chores are looked at when nobody rings.
const ROUND: Duration = Duration::from_secs(15);
/// How often a renewal that failed is tried again.
const RENEWAL_WAIT: Duration = Duration::from_secs(600);

type Chore = fn(&Connection) -> Result<bool, ServiceFault>;

/// Does the chores until the agent ends.
pub(super) fn run(connection: &Arc<Connection>) {
    let chores: [(&str, Chore); 4] = [
        ("tell a result", tell_result),
        ("renew the certificate", renew::if_due),
        ("announce a commit", announce),
        ("get upload grants", fill_up),
    ];
    let mut waits: Vec<_> = chores.iter().map(|_| Waits::new(connection.longest_wait())).collect();
    waits[1] = Waits::new(RENEWAL_WAIT);
    while !connection.client.is_stopped() {
        let mut more = false;
        for ((name, chore), waits) in chores.iter().zip(&mut waits) {
            if !waits.is_due() {
                continue;
            }
            match chore(connection) {
                Ok(again) => {
                    waits.succeeded();
                    more |= again;
                }
                Err(fault) if matches!(fault.kind, Kind::Stopped | Kind::Fenced) => return,
                Err(fault) => {
                    tracing::debug!("cannot {name}: {fault}");
                    waits.failed(fault.retry_after);
                }
            }
        }
        if !more {
            let next = waits.iter().map(Waits::left).filter(|left| !left.is_zero()).min();
            connection.chores.wait(next.unwrap_or(ROUND).min(ROUND));
        }
    }
}

/// Tells the oldest result. Returns whether there is another.
fn tell_result(connection: &Connection) -> Result<bool, ServiceFault> {
    let Some((id, result)) = lock(&connection.results).front().cloned() else { return Ok(false) };
    let taken = match connection.ask(&Ask::post(&format!("commands/{id}"), &result)?) {
        Err(fault) if !matches!(fault.kind, Kind::Refused(_)) => return Err(fault),
        Err(fault) => {
            tracing::warn!("the result of command {id} was refused: {fault}");
            false
        }
        Ok(_) => true,
    };
    lock(&connection.results).pop_front();
    connection.deliver(FromService::Told(id, taken));
    Ok(true)
}

/// Has the service look at the oldest commit that it has not seen, and puts the manifest again that it does not find.
/// Returns whether there is another.
fn announce(connection: &Connection) -> Result<bool, ServiceFault> {
    let Some(commit) = lock(&connection.commits).front().cloned() else { return Ok(false) };
    let looked = match objects::look(connection, &commit.notice) {
        Ok(CommitState::Absent) => put_again(connection, &commit).map(|()| CommitState::Absent),
        looked => looked,
    };
    match looked {
        Err(fault) if !matches!(fault.kind, Kind::Refused(_)) => return Err(fault),
        // Whatever there is to say of it comes with the next session.
        _ => {
            let mut commits = lock(&connection.commits);
            if commits.front().is_some_and(|oldest| oldest.notice == commit.notice) {
                commits.pop_front();
            }
        }
    }
    Ok(!lock(&connection.commits).is_empty())
}

fn put_again(connection: &Connection, commit: &Commit) -> Result<(), ServiceFault> {
    let (generation, epoch) = (commit.notice.generation, commit.notice.epoch);
    tracing::warn!("the store took the manifest of epoch {epoch} and does not have it: it is put again");
    let grant = match connection.granary.manifest(generation, epoch, connection.client.now()) {
        Some(grant) => grant,
        None => {
            objects::not_given_up(connection, generation)?;
            connection.fetch_grants(generation, epoch, (0, 1))?;
            let grant = connection.granary.manifest(generation, epoch, connection.client.now());
            grant.ok_or_else(|| ServiceFault::new(Kind::Busy, "no grant for a manifest"))?
        }
    };
    match upload::put(&connection.client, &grant, &commit.manifest, None)? {
        Stored::Refused(why) => Err(ServiceFault::new(Kind::Storage, why)),
        // Looked at again after a wait.
        Stored::Done | Stored::Taken => Err(ServiceFault::new(Kind::NotYet, "put again")),
    }
}

/// Fetches grants while the stock is low. Returns whether it is so still.
fn fill_up(connection: &Connection) -> Result<bool, ServiceFault> {
    let generation = connection.granary.generation();
    if !connection.has_begun() || !connection.granary.is_low(connection.client.now()) {
        return Ok(false);
    }
    connection.fetch_grants(generation, connection.next_epoch(), (0, 0))
}
