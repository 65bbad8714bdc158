//! How much more of target storage a machine's points may take.
//!
//! A machine that was taken over writes as much as it likes. What goes beyond its quota is not taken in, and no further uploads are
//! granted; nothing older is ever removed for it. What waits is taken in once thinning or a larger quota has made room. The count is
//! brought up to date with every epoch and measured whenever points were thinned out: merging changes it in ways that nobody counts.
//! Deliberately not here: what is removed when (`thin`).

use mobility_format::{ByteCount, MachineId, manifest::SignedManifest};

use crate::{
    StorageError,
    service::{
        claims::Lease,
        database::{EventKind, State},
        refusal::Answer,
        state::Service,
    },
    storage::Stores,
};

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Room {
    Unlimited,
    Limited { quota: ByteCount, stored: ByteCount },
}

/// A commit that there is no room for.
#[derive(Debug)]
pub(in crate::service) struct TooMuch {
    wanted: ByteCount,
    stored: ByteCount,
    quota: ByteCount,
}

impl Room {
    /// What a machine's quota leaves, measured where nobody has done so yet.
    pub(super) async fn within(
        quota: Option<ByteCount>,
        service: &Service,
        machine: MachineId,
        state: &State,
        lease: &Lease,
    ) -> Answer<Room> {
        let Some(quota) = quota else { return Ok(Room::Unlimited) };
        let stored = match state.stored {
            Some(stored) => stored,
            None => measure(service, machine, lease).await?,
        };
        Ok(Room::Limited { quota, stored })
    }

    /// Takes the room of a commit, if there is enough. What is no manifest takes none: it is refused.
    pub(super) fn take_for(&mut self, manifest: &[u8]) -> Result<(), TooMuch> {
        match self {
            Room::Unlimited => Ok(()),
            Room::Limited { .. } => {
                SignedManifest::parse(manifest).map_or(Ok(()), |signed| self.take(size(&signed)))
            }
        }
    }

    fn take(&mut self, wanted: ByteCount) -> Result<(), TooMuch> {
        let Room::Limited { quota, stored } = self else { return Ok(()) };
        let after = ByteCount(stored.0.saturating_add(wanted.0));
        if after > *quota {
            return Err(TooMuch { wanted, stored: *stored, quota: *quota });
        }
        *stored = after;
        Ok(())
    }
}

/// A machine's quota, if its policy gives one.
pub(super) async fn quota(service: &Service, machine: MachineId) -> Answer<Option<ByteCount>> {
    let Some(standing) = service.standing(machine).await? else { return Ok(None) };
    Ok(service.database.policy(&standing.policy).await?.and_then(|policy| policy.quota))
}

/// How much the segments of a commit take.
pub(super) fn size(signed: &SignedManifest) -> ByteCount {
    let segments = signed.manifest.disks.iter().flat_map(|disk| &disk.segments);
    ByteCount(segments.fold(0, |sum: u64, segment| sum.saturating_add(segment.length.0)))
}

/// Looks how much of target storage a machine takes, and notes it.
pub(super) async fn measure(service: &Service, machine: MachineId, lease: &Lease) -> Answer<ByteCount> {
    let bytes = service.blocking_claimed(lease, move |stores| Ok(listed(stores, machine)?)).await?;
    service.database.note_stored(machine, bytes).await?;
    Ok(bytes)
}

fn listed(stores: &Stores, machine: MachineId) -> Result<ByteCount, StorageError> {
    let mut sum = 0_u64;
    stores
        .target()
        .list(&format!("target/{machine}"), &mut |object| sum = sum.saturating_add(object.size))?;
    Ok(ByteCount(sum))
}

/// Notes whether a machine has what there is no room for, and tells of it when that changes.
pub(super) async fn note(
    service: &Service,
    machine: MachineId,
    was: bool,
    too_much: Option<&TooMuch>,
) -> Answer<()> {
    let over = too_much.is_some();
    if was == over || !service.database.note_over_quota(machine, over).await? {
        return Ok(());
    }
    let (kind, message) = match too_much {
        Some(TooMuch { wanted, stored, quota }) => (
            EventKind::QuotaExceeded,
            format!(
                "no new recovery points: {wanted} more do not fit, {stored} of the quota of {quota} are taken; raise `quota` in \
                 the policy, or keep fewer points"
            ),
        ),
        None => (EventKind::QuotaKept, "there is room for new recovery points again".to_owned()),
    };
    service.event(kind, Some(machine), message).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_counted_and_what_does_not_changes_nothing() {
        let mut room = Room::Limited { quota: ByteCount(100), stored: ByteCount(60) };
        room.take(ByteCount(40)).unwrap();
        room.take(ByteCount(1)).unwrap_err();
        room.take(ByteCount(0)).unwrap();
        let mut room = Room::Limited { quota: ByteCount(100), stored: ByteCount(60) };
        room.take(ByteCount(u64::MAX)).unwrap_err();
        room.take(ByteCount(40)).unwrap();
        let mut full = Room::Limited { quota: ByteCount(100), stored: ByteCount(200) };
        full.take(ByteCount(1)).unwrap_err();
        Room::Unlimited.take(ByteCount(u64::MAX)).unwrap();
    }
}
