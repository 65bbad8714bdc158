//! Removes what no manifest that stays needs, in an order in which every listed point can be restored at any time.
//!
//! What is needed is worked out anew from what is there, not from what was just merged; so the same code cleans up behind
//! a crash. Deliberately not here: deciding which points stay.

use std::collections::BTreeSet;

use mobility_format::{ByteCount, Epoch, key::TargetKey};

use super::Range;
use crate::{
    Catalog,
    inventory::{Inventory, Object, needed, objects_of},
    keys::ObjectKey,
    storage::StorageError,
};

/// Removes all that is superfluous in the `settled` ranges: their inner manifests and whatever only those needed. The
/// caller holds the exclusive lock, and `catalog` was loaded under it. Returns the bytes freed.
pub(super) fn remove(mut catalog: Catalog, settled: &[Range]) -> Result<ByteCount, StorageError> {
    let reachable = reachable_points(&catalog);
    let inner = |epoch: &Epoch| settled.iter().any(|range| (range.first..range.last).contains(epoch));
    let kept: BTreeSet<Epoch> = reachable.iter().filter(|epoch| !inner(epoch)).copied().collect();
    catalog.manifests.retain(|epoch, _| !inner(epoch));
    catalog.link_chains();
    if !reachable_points(&catalog).is_superset(&kept) {
        // A merge that was relied on is not what it was. Nothing is lost as long as nothing is removed.
        return Ok(ByteCount(0));
    }
    let needed = needed(&catalog);
    let Inventory { objects, unfinished, .. } = Inventory::of(&catalog)?;
    let superfluous =
        |object: &&Object| !needed.contains(&object.key) && may_go(&objects, object.key, settled);
    let mut going: Vec<_> = objects.iter().filter(superfluous).collect();
    going.sort_by_key(|object| order(object.key));
    let target = catalog.stores.target();
    let mut freed = 0;
    // Each turn is durable before the next, also through a power cut.
    for turn in going.chunk_by(|a, b| order(a.key).0 == order(b.key).0) {
        target.remove(&turn.iter().map(|object| object.key.to_string()).collect::<Vec<_>>())?;
        freed += turn.iter().map(|object| object.size).sum::<u64>();
    }
    freed += unfinished.iter().map(|listed| listed.size).sum::<u64>();
    target.remove(&unfinished.into_iter().map(|listed| listed.key).collect::<Vec<_>>())?;
    Ok(ByteCount(freed))
}

/// About how many bytes the inputs of the `settled` ranges take. What merging will write is not taken off.
pub(super) fn would_free(catalog: &Catalog, settled: &[Range]) -> i128 {
    let mut bytes = 0;
    for disk in catalog.chains.keys() {
        for step in catalog.steps(*disk) {
            let range = settled.iter().find(|range| step.first >= range.first && step.last <= range.last);
            let stays = range.is_none_or(|range| {
                (step.first, step.last) == (range.first, range.last)
                    && (range.first == range.last || catalog.merges.contains_key(&(range.last, range.first)))
            });
            if !stays {
                bytes +=
                    objects_of(catalog, *disk, step).iter().map(|(_, size)| i128::from(*size)).sum::<i128>();
            }
        }
    }
    bytes
}

/// The manifests of which all disks are accounted for.
fn reachable_points(catalog: &Catalog) -> BTreeSet<Epoch> {
    catalog.manifests.keys().copied().filter(|epoch| catalog.problem(*epoch).is_none()).collect()
}

/// Whether the object lies in a range in which everything is known to be in order.
fn may_go(objects: &[Object], key: ObjectKey, settled: &[Range]) -> bool {
    let within =
        |first: Epoch, last: Epoch| settled.iter().any(|range| first >= range.first && last <= range.last);
    match key {
        ObjectKey::Target(TargetKey::Manifest { epoch, .. } | TargetKey::Segment { epoch, .. })
        | ObjectKey::Received { epoch, .. } => within(epoch, epoch),
        ObjectKey::Target(TargetKey::Run { first, last, .. }) | ObjectKey::Merge { first, last, .. } => {
            within(first, last)
        }
        ObjectKey::Target(TargetKey::MergedSegment { machine, disk, first, last, .. }) => {
            // Without its run a merged segment is what an interrupted merge left.
            let run = ObjectKey::Target(TargetKey::Run { machine, disk, first, last });
            within(first, last) || objects.binary_search_by_key(&run, |object| object.key).is_err()
        }
        ObjectKey::Machine { .. } => false,
    }
}

/// In which turn, and where in it, an object goes.
fn order(key: ObjectKey) -> (u8, std::cmp::Reverse<Epoch>) {
    let turn = match key {
        ObjectKey::Target(TargetKey::Manifest { .. }) => 0,
        ObjectKey::Received { .. } => 1,
        ObjectKey::Merge { .. } => 2,
        ObjectKey::Target(TargetKey::Run { .. }) => 3,
        _ => 4,
    };
    (turn, std::cmp::Reverse(key.last_epoch().unwrap_or_default()))
}
