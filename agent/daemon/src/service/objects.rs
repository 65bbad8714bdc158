//! Puts segments and manifests into the places that were granted for them.
//!
//! Segments go into whichever place is free: one that is taken is given up. A manifest has one place, and when that is taken
//! the service says by whom. Deliberately not here: the request itself (`upload`), and the stock of grants (`grants`).

use mobility_format::{
    Digest, Epoch, Generation,
    control::{CommitNotice, CommitSeen, CommitState, ErrorCode, Grant},
};

use super::{
    Payload, Put,
    client::Ask,
    connection::Connection,
    fault::{ServiceFault, ServiceFaultKind as Kind},
    grants::Place,
    upload::{self, Stored},
};

/// Places that are given up for one segment before the stock is thrown away, and before the caller hears of it.
const MOST_TAKEN: (u32, u32) = (8, 64);
/// The same for grants that are refused.
const MOST_REFUSED: (u32, u32) = (2, 4);
/// Tries that may break before a place is given up: the object may be there, or half of it in the store's way.
const MOST_BROKEN: u32 = 2;

/// Puts a segment into the next free place, and returns its number.
pub(super) fn put_segment(
    connection: &Connection,
    generation: Generation,
    segment: &Payload,
) -> Result<u64, ServiceFault> {
    let (mut taken, mut refused) = (0, 0);
    loop {
        connection.check_standing()?;
        let mut place = next_place(connection, generation, (**segment).as_ref().len() as u64)?;
        match upload::put(&connection.client, &place.segment.grant, segment, Some(&connection.pace)) {
            Ok(Stored::Done) => return Ok(place.segment.slot),
            Ok(Stored::Taken) => {
                taken += 1;
                if taken >= MOST_TAKEN.1 {
                    return Err(ServiceFault::new(
                        Kind::Storage,
                        format!("{taken} places in a row were taken already"),
                    ));
                }
                if taken == MOST_TAKEN.0 {
                    connection.granary.clear();
                }
            }
            Ok(Stored::Refused(why)) => {
                refused += 1;
                if refused >= MOST_REFUSED.1 {
                    return Err(ServiceFault::new(Kind::Storage, why));
                }
                if refused == MOST_REFUSED.0 {
                    connection.granary.clear();
                }
            }
            Err(fault) => {
                place.broken += u32::from(fault.kind == Kind::Unreachable);
                if place.broken < MOST_BROKEN {
                    connection.granary.give_back(generation, place);
                }
                return Err(fault);
            }
        }
    }
}

/// A place from the stock, or one fetched now.
fn next_place(connection: &Connection, generation: Generation, length: u64) -> Result<Place, ServiceFault> {
    let take = || connection.granary.take(&connection.state, generation, connection.client.now(), length);
    if let Some(place) = take() {
        return Ok(place);
    }
    not_given_up(connection, generation)?;
    connection.fetch_grants(generation, connection.next_epoch(), (1, 0))?;
    take().ok_or_else(|| {
        let what = format!("the recovery service grants no upload of {length} bytes now");
        ServiceFault::new(Kind::Busy, what)
    })
}

/// Generations only grow: what still works in an older one is too late.
pub(super) fn not_given_up(connection: &Connection, generation: Generation) -> Result<(), ServiceFault> {
    let newest = connection.granary.generation();
    if generation >= newest {
        return Ok(());
    }
    let message = format!("generation {generation} was given up for generation {newest}");
    Err(ServiceFault::new(Kind::Refused(ErrorCode::Conflict), message))
}

/// Puts the manifest of an epoch, and has the service look at it.
pub(super) fn put_manifest(
    connection: &Connection,
    (generation, epoch): (Generation, Epoch),
    digest: Digest,
    manifest: &Payload,
) -> Result<Put, ServiceFault> {
    let notice = CommitNotice { session: connection.session, generation, epoch, digest };
    let mut tries = 0;
    loop {
        connection.check_standing()?;
        let grant = manifest_grant(connection, generation, epoch)?;
        let why = match upload::put(&connection.client, &grant, manifest, None)? {
            Stored::Done => {
                connection.committed(notice, manifest.clone());
                return Ok(Put::Done);
            }
            Stored::Taken => "the store says that the place of a manifest is taken, and it is not".to_owned(),
            Stored::Refused(why) => why,
        };
        let put = match look(connection, &notice)? {
            CommitState::Present | CommitState::TakenIn => Put::TakenByThis,
            CommitState::Other => Put::TakenByOther,
            // It was the grant that was refused.
            CommitState::Absent if tries < MOST_REFUSED.1 => {
                tries += 1;
                connection.granary.clear();
                continue;
            }
            CommitState::Absent => return Err(ServiceFault::new(Kind::Storage, why)),
        };
        if put == Put::TakenByThis {
            connection.set_next_epoch(epoch.next());
        }
        return Ok(put);
    }
}

fn manifest_grant(
    connection: &Connection,
    generation: Generation,
    epoch: Epoch,
) -> Result<Grant, ServiceFault> {
    let take = || connection.granary.manifest(generation, epoch, connection.client.now());
    if let Some(grant) = take() {
        return Ok(grant);
    }
    not_given_up(connection, generation)?;
    connection.fetch_grants(generation, epoch, (0, 1))?;
    take().ok_or_else(|| {
        let what = format!("the recovery service grants no upload of the manifest of epoch {epoch} now");
        ServiceFault::new(Kind::Busy, what)
    })
}

/// Has the service look at a manifest, and say what it finds.
pub(super) fn look(connection: &Connection, notice: &CommitNotice) -> Result<CommitState, ServiceFault> {
    connection.call::<CommitSeen>(&Ask::post("commits", notice)?).map(|seen| seen.state)
}
