//! Thins a machine's points out by a retention ladder, and merges what lay between those that stay.
//!
//! Between two kept points, and before the first, all epochs of a disk become one run: whatever several of them said of a
//! block, only the last word is left. The order is such that a crash at any step costs nothing: first the merged segments,
//! then the run of each disk, then the record of the merge, all durable; from then on readers prefer the run. Only then,
//! while nobody restores, go the manifests of the points that were not kept, newest first, since an older point never needs
//! a newer one; then what no manifest needs any more. The next call finishes what a crash interrupted.
//!
//! What is newer than the newest point, and whatever lies between two kept points where something is damaged, is left
//! alone. Deliberately not here: which points stay (`ladder`).

mod merge;
mod remove;

use std::collections::BTreeSet;

use jiff::Timestamp;
use mobility_format::{ByteCount, Epoch, MachineId};

use crate::{
    Catalog, PointId,
    catalog::{Chain, StepKind},
    content::ContentError,
    keys::ObjectKey,
    ladder::{Candidate, Ladder, choose},
    records::{Merge, MergedDisk, Record},
    storage::{LockError, StorageError, Stores},
};

/// Pruning stopped. Everything that was kept can be restored; prune again to finish.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// Reading or writing failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Somebody else prunes, or goes on restoring.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Working memory or an object's size is at its limit.
    #[error("cannot merge epochs {first} to {last}: {problem}")]
    Limit {
        /// The first epoch.
        first: Epoch,
        /// The last epoch.
        last: Epoch,
        /// What the limit is.
        problem: String,
    },
}

/// Epochs that were left as they are because something in them is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untouched {
    /// The first epoch.
    pub first: Epoch,
    /// The last epoch.
    pub last: Epoch,
    /// What is damaged.
    pub reason: String,
}

/// What pruning did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The points that stay.
    pub kept: Vec<PointId>,
    /// The points that go.
    pub removed: Vec<PointId>,
    /// How many ranges of epochs are merged.
    pub merged: usize,
    /// How many bytes the objects that go take, less what merging wrote. An estimate before the fact.
    pub freed: i128,
    /// What was left alone.
    pub untouched: Vec<Untouched>,
}

/// The epochs after one kept point up to the next.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: Epoch,
    last: Epoch,
}

/// Thins out the points of `machine`. Where `dry_run` is set nothing is changed.
///
/// # Errors
/// See [`PruneError`]. Damage is no error, but reported.
pub fn prune(
    stores: &Stores,
    machine: MachineId,
    ladder: &Ladder,
    now: Timestamp,
    dry_run: bool,
) -> Result<PruneReport, PruneError> {
    prune_but(stores, machine, ladder, &BTreeSet::new(), now, dry_run)
}

/// As [`prune`], and the points of the epochs in `pinned` stay whatever the ladder says.
///
/// # Errors
/// As [`prune`].
pub fn prune_but(
    stores: &Stores,
    machine: MachineId,
    ladder: &Ladder,
    pinned: &BTreeSet<Epoch>,
    now: Timestamp,
    dry_run: bool,
) -> Result<PruneReport, PruneError> {
    let _only_one = match dry_run {
        true => None,
        false => Some(stores.only_pruning(machine)?),
    };
    let catalog = match dry_run {
        true => Catalog::load_locked(stores, machine)?,
        false => Catalog::load(stores, machine)?,
    };
    let mut keep = kept(&catalog, now, ladder);
    keep.extend(catalog.points().map(|point| point.epoch()).filter(|epoch| pinned.contains(epoch)));
    let mut report = PruneReport::default();
    let mut settled = Vec::new();
    for range in ranges(&keep) {
        match settle(&catalog, range, dry_run)? {
            Settled::Left(reason) => {
                report.untouched.push(Untouched { first: range.first, last: range.last, reason });
            }
            Settled::AsItIs => settled.push(range),
            Settled::Merged { written } => {
                report.merged += 1;
                report.freed -= i128::from(written.0);
                settled.push(range);
            }
        }
    }
    for point in catalog.points() {
        let in_range = |range: &Range| (range.first..=range.last).contains(&point.epoch());
        let goes = !keep.contains(&point.epoch()) && settled.iter().any(in_range);
        if goes { report.removed.push(point.id) } else { report.kept.push(point.id) }
    }
    report.freed += match dry_run {
        true => remove::would_free(&catalog, &settled),
        false => {
            let _nobody_reads = stores.nobody_reads(machine)?;
            i128::from(remove::remove(Catalog::load(stores, machine)?, &settled)?.0)
        }
    };
    Ok(report)
}

/// What the ladder keeps. A point that cannot be restored now must not keep the place of one that can.
fn kept(catalog: &Catalog, now: Timestamp, ladder: &Ladder) -> BTreeSet<Epoch> {
    let usable = catalog.points().filter(|point| point.problem.is_none());
    let candidate = |point: crate::Point<'_>| Candidate {
        epoch: point.epoch(),
        received: point.received,
        fuzzy: point.is_fuzzy(),
    };
    choose(&usable.map(candidate).collect::<Vec<_>>(), now, ladder)
}

fn ranges(keep: &BTreeSet<Epoch>) -> Vec<Range> {
    let before = std::iter::once(Epoch(0)).chain(keep.iter().copied());
    before.zip(keep).map(|(before, last)| Range { first: before.next(), last: *last }).collect()
}

enum Settled {
    /// Something is damaged; all of it stays.
    Left(String),
    /// There is nothing to merge.
    AsItIs,
    /// It was merged.
    Merged { written: ByteCount },
}

/// Sees to it that the range's last epoch can be restored without the manifests before it in the range.
fn settle(catalog: &Catalog, range: Range, dry_run: bool) -> Result<Settled, PruneError> {
    let Range { first, last } = range;
    if first == last || catalog.merges.range((last, Epoch(0))..=(last, first)).next().is_some() {
        return Ok(Settled::AsItIs);
    }
    if let Some(damage) = catalog.damage.iter().find(|damage| in_range(damage.key, range)) {
        return Ok(Settled::Left(format!("{}: {}", damage.key, damage.problem)));
    }
    let Some(plans) = disk_plans(catalog, range) else {
        return Ok(Settled::Left("some of its epochs are not there".to_owned()));
    };
    let mut written = ByteCount(0);
    let mut disks = Vec::new();
    for plan in &plans {
        let done = match dry_run {
            true => merge::estimate(catalog, plan),
            false => merge::merge(catalog, plan).map(|(run, bytes)| {
                disks.push(MergedDisk {
                    id: plan.disk,
                    run,
                    last_segment: catalog.last_segment(plan.disk, last),
                });
                bytes
            }),
        };
        match done {
            Ok(bytes) => written.0 += bytes.0,
            Err(merge::MergeError::Content(err)) => match err {
                ContentError::Storage(err) => return Err(err.into()),
                damage => return Ok(Settled::Left(damage.to_string())),
            },
            Err(merge::MergeError::Storage(err)) => return Err(err.into()),
            Err(merge::MergeError::Limit(problem)) => return Err(PruneError::Limit { first, last, problem }),
        }
    }
    if !dry_run {
        put_record(catalog, range, disks)?;
    }
    Ok(Settled::Merged { written })
}

/// Whether damage of the object is in the way of merging the range. When a point came is of no consequence.
fn in_range(key: ObjectKey, range: Range) -> bool {
    let matters = matches!(key, ObjectKey::Merge { .. } | ObjectKey::Target(_));
    matters && key.last_epoch().is_some_and(|epoch| (range.first..=range.last).contains(&epoch))
}

/// What each disk that has anything in the range is merged from; nothing where an epoch of it is missing.
fn disk_plans(catalog: &Catalog, range: Range) -> Option<Vec<merge::Plan>> {
    let Range { first, last } = range;
    let before = Epoch(first.0 - 1);
    let generation = catalog.manifest(last)?.manifest.generation;
    let mut plans = Vec::new();
    for (&disk, whole) in &catalog.chains {
        let inside = catalog.steps(disk).into_iter().filter(|step| step.first >= first && step.last <= last);
        let steps = Chain::link(before, inside.collect()).path(before, last)?;
        let says_something = |step: &crate::catalog::Step| match step.kind {
            StepKind::Epoch => {
                catalog.manifest(step.last).is_some_and(|signed| signed.manifest.disk(disk).is_some())
            }
            StepKind::Run => true,
            StepKind::Nothing => false,
        };
        if !steps.iter().any(says_something) {
            continue;
        }
        let size_before = whole.path(Epoch(0), before).and_then(|steps| catalog.size_after(disk, &steps));
        let size = catalog.size_after(disk, &steps)?;
        let layers = catalog.layers_of(disk, &steps, size_before);
        let ready = match steps[..] {
            [step] if step.kind == StepKind::Run => {
                catalog.runs.get(&(disk, last, first)).map(|run| run.digest)
            }
            _ => None,
        };
        plans.push(merge::Plan { disk, first, last, generation, size, layers, ready });
    }
    Some(plans)
}

fn put_record(catalog: &Catalog, range: Range, disks: Vec<MergedDisk>) -> Result<(), PruneError> {
    let Range { first, last } = range;
    let limit = |problem: String| PruneError::Limit { first, last, problem };
    let manifest = catalog.manifest(last).ok_or_else(|| limit("its point is gone".to_owned()))?.digest;
    let machine = catalog.machine;
    let record = Merge { machine, first_epoch: first, last_epoch: last, manifest, disks };
    let sealed = record.seal().map_err(|err| limit(err.to_string()))?;
    let key = ObjectKey::Merge { machine, first, last };
    Ok(catalog.stores.target().replace(&key.to_string(), &sealed)?)
}
