//! Compares disks with what is stored of them: the scan of a disk without a tracker, the comparison of a resync, and the
//! audit.
//!
//! Deliberately not here: who knows what the head holds (`store`), and what is done about blocks that differ.

use std::sync::{Mutex, atomic::AtomicBool};

use mobility_capture::{
    direct::DirectReader,
    disk::Disk,
    ebpf::Tracker,
    scan::{DigestTable, Expected, NextTable, Scan, ScanError, ScanOutcome, Unusable},
};
use mobility_engine::{Fault, FaultKind};
use mobility_format::{BlockRange, BlockSet, Digest, WINDOW_BLOCKS};

use super::{
    disk::Table,
    fault,
    pack::lock,
    store::{NotKnown, Store},
};

/// Scans the whole disk against its table: what differs from the head, or, when called again, from what was sent since.
pub(crate) fn scan(
    disk: &Disk,
    reader: &DirectReader,
    table: &Mutex<Table>,
    head: Option<Digest>,
    store: &dyn Store,
    cancel: &AtomicBool,
) -> Result<BlockSet, Fault> {
    let mut table = lock(table);
    if table.next.is_none() {
        table.next = Some(begin(disk, &table, head, store)?);
    }
    let Some(next) = &mut table.next else {
        return Err(fault::of_disk(&disk.name, "its digest table is gone"));
    };
    let outcome = Scan::new(reader).cancelled_by(cancel).against(next);
    differing(&disk.name, outcome)
}

/// A table to go on from the head with.
fn begin(disk: &Disk, table: &Table, head: Option<Digest>, store: &dyn Store) -> Result<NextTable, Fault> {
    let fail = |err: &dyn std::fmt::Display| {
        let what = format!("{}: its digest table {}: {err}", disk.name, table.path.display());
        Fault::new(FaultKind::Storage, what)
    };
    let base = match head.map(|head| (head, DigestTable::open(&table.path, disk, head))) {
        None => None,
        Some((_, Ok(base))) => Some(base),
        Some((head, Err(unusable))) => {
            if !matches!(unusable, Unusable::Missing { .. }) {
                tracing::warn!(disk = disk.name, "{unusable}; it is made anew from what is stored");
            }
            rebuild(disk, table, head, store).map_err(|err| match err {
                NotKnown::Now(fault) => fault,
                NotKnown::Damaged(problem) => fail(&problem),
            })?
        }
    };
    NextTable::create(&table.path, disk, base.as_ref()).map_err(|err| fail(&err))
}

/// The table of what the head holds of the disk, or nothing where it holds nothing.
fn rebuild(
    disk: &Disk,
    table: &Table,
    head: Digest,
    store: &dyn Store,
) -> Result<Option<DigestTable>, NotKnown> {
    let failed = |err: &dyn std::fmt::Display| NotKnown::Damaged(err.to_string());
    let mut next = NextTable::create(&table.path, disk, None).map_err(|err| failed(&err))?;
    let whole = BlockRange::whole_disk(disk.size);
    let known = store.each_window(disk.id, &mut |start, digests| {
        let range = BlockRange { start, count: WINDOW_BLOCKS }.intersection(whole);
        match range.count {
            0 => Ok(()),
            count => next.record(start, &digests[..count as usize]).map_err(|err| err.to_string()),
        }
    })?;
    if !known {
        return Ok(None);
    }
    let sealed = next.seal(head).and_then(mobility_capture::scan::SealedTable::adopt);
    sealed.map(Some).map_err(|err| failed(&err))
}

/// Of `blocks`, those that differ from the head.
pub(crate) fn compare(
    disk: &Disk,
    reader: &DirectReader,
    blocks: &BlockSet,
    store: &dyn Store,
    cancel: &AtomicBool,
) -> Result<BlockSet, Fault> {
    let mut not_now = None;
    let expected = |window| match store.expected(disk.id, window) {
        Ok(expected) => Ok(expected),
        // What is damaged has to be sent.
        Err(NotKnown::Damaged(err)) => {
            tracing::error!(disk = disk.name, "what is stored cannot be compared with at {window}: {err}");
            Ok(Expected::Unknown)
        }
        Err(NotKnown::Now(fault)) => {
            let message = fault.message.clone();
            not_now = Some(fault);
            Err(message)
        }
    };
    let whole = BlockRange::whole_disk(reader.size());
    let mut skip = BlockSet::of(whole);
    skip.subtract(blocks);
    let outcome = Scan::new(reader).cancelled_by(cancel).compare(whole, &skip, expected);
    match not_now {
        Some(fault) => Err(fault),
        None => differing(&disk.name, outcome),
    }
}

fn differing(name: &str, outcome: Result<ScanOutcome, ScanError>) -> Result<BlockSet, Fault> {
    match outcome {
        Ok(ScanOutcome { read_error: Some(err), .. }) => Err(fault::of_read(&err)),
        Ok(outcome) => Ok(outcome.differing),
        Err(ScanError::Read(err)) => Err(fault::of_read(&err)),
        Err(err) => Err(fault::of_disk(name, err)),
    }
}

/// Compares `blocks` with the head. Returns how many were compared, and which differ though the tracker has no mark of
/// them. Marks are looked at after the disk was read: a write that is in what was read had been marked before.
pub(crate) fn audit(
    disk: &Disk,
    reader: &DirectReader,
    tracker: &Mutex<Tracker>,
    blocks: &BlockSet,
    store: &dyn Store,
    cancel: &AtomicBool,
) -> (u64, BlockSet) {
    let Some(window) = blocks.runs().next().map(|run| run.start.window_start()) else {
        return (0, BlockSet::new());
    };
    let mut skip = BlockSet::of(BlockRange { start: window, count: WINDOW_BLOCKS });
    skip.subtract(blocks);
    let expected = match store.expected(disk.id, window) {
        Ok(expected) => expected,
        Err(NotKnown::Damaged(err)) => {
            tracing::error!(
                disk = disk.name,
                "the audit cannot compare with what is stored at {window}: {err}"
            );
            return (0, BlockSet::new());
        }
        // It is looked at in the next round.
        Err(NotKnown::Now(_)) => return (0, BlockSet::new()),
    };
    let range = BlockRange { start: window, count: WINDOW_BLOCKS };
    let outcome = Scan::new(reader)
        .reads_in_flight(1)
        .cancelled_by(cancel)
        .compare(range, &skip, |_| Ok::<_, std::convert::Infallible>(expected.clone()));
    // A disk that cannot be read is found out by the next copy.
    let Ok(outcome) = outcome else { return (0, BlockSet::new()) };
    let mut missed = outcome.differing;
    if !missed.is_empty() {
        let tracker = lock(tracker);
        missed.subtract(&tracker.touched_within(&missed));
        missed.subtract(&tracker.dirty_within(&missed));
        missed.subtract(&tracker.pending());
    }
    (outcome.compared, missed)
}
