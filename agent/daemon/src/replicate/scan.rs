//! Compares disks with what is stored of them: the scan of a disk without a tracker, the comparison of a resync, and the
//! audit.
//!
//! In debug mode the recovery library says what the head holds; with a service it will be asked. Deliberately not here:
//! what is done about blocks that differ.

use std::sync::{Mutex, atomic::AtomicBool};

use mobility_capture::{
    direct::DirectReader,
    disk::Disk,
    ebpf::Tracker,
    scan::{DigestTable, Expected, NextTable, Scan, ScanError, ScanOutcome, Unusable},
};
use mobility_engine::{Fault, FaultKind};
use mobility_format::{BlockIndex, BlockRange, BlockSet, Digest, DiskId, MachineId, WINDOW_BLOCKS};
use mobility_recovery::{Catalog, Vault, WindowContent, WindowReader, block_digests};

use super::{disk::Table, fault, pack::lock};

/// What the head holds of the machine's disks, opened when it is first asked for.
pub(crate) struct Stored {
    vault: Vault,
    machine: MachineId,
    catalog: Option<Catalog>,
    windows: Vec<(DiskId, WindowReader)>,
}

impl Stored {
    pub(crate) fn new(vault: Vault, machine: MachineId) -> Self {
        Stored { vault, machine, catalog: None, windows: Vec::new() }
    }

    /// There is a new head.
    pub(crate) fn forget(&mut self) {
        self.catalog = None;
        self.windows.clear();
    }

    fn windows_of(&mut self, disk: DiskId) -> Result<&mut WindowReader, String> {
        if let Some(at) = self.windows.iter().position(|(id, _)| *id == disk) {
            return Ok(&mut self.windows[at].1);
        }
        if self.catalog.is_none() {
            self.catalog = Some(Catalog::load(&self.vault, self.machine).map_err(|err| err.to_string())?);
        }
        let Some(catalog) = &self.catalog else { return Err("the catalog was just loaded".to_owned()) };
        let reader = WindowReader::at_head(catalog, disk).map_err(|err| err.to_string())?;
        self.windows.push((disk, reader));
        self.windows.last_mut().map(|(_, reader)| reader).ok_or_else(|| "it was just pushed".to_owned())
    }

    /// What the head holds in the window that begins at `window`.
    fn expected(&mut self, disk: DiskId, window: BlockIndex) -> Result<Expected, String> {
        let reader = self.windows_of(disk)?;
        if window.byte_offset() >= reader.size().0 {
            return Ok(Expected::Zero);
        }
        match reader.window(window).map_err(|err| err.to_string())? {
            WindowContent::Zero => Ok(Expected::Zero),
            data => Ok(Expected::Digests(Box::new(block_digests(&data)))),
        }
    }
}

/// Scans the whole disk against its table: what differs from the head, or, when called again, from what was sent since.
pub(crate) fn scan(
    disk: &Disk,
    reader: &DirectReader,
    table: &Mutex<Table>,
    head: Option<Digest>,
    stored: &Mutex<Stored>,
    cancel: &AtomicBool,
) -> Result<BlockSet, Fault> {
    let mut table = lock(table);
    if table.next.is_none() {
        table.next = Some(begin(disk, &table, head, stored)?);
    }
    let Some(next) = &mut table.next else {
        return Err(fault::of_disk(&disk.name, "its digest table is gone"));
    };
    let outcome = Scan::new(reader).cancelled_by(cancel).against(next);
    differing(&disk.name, outcome)
}

/// A table to go on from the head with.
fn begin(
    disk: &Disk,
    table: &Table,
    head: Option<Digest>,
    stored: &Mutex<Stored>,
) -> Result<NextTable, Fault> {
    let fail = |err: &dyn std::fmt::Display| Fault {
        kind: FaultKind::Storage,
        message: format!("{}: its digest table {}: {err}", disk.name, table.path.display()),
    };
    let base = match head.map(|head| (head, DigestTable::open(&table.path, disk, head))) {
        None => None,
        Some((_, Ok(base))) => Some(base),
        Some((head, Err(unusable))) => {
            if !matches!(unusable, Unusable::Missing { .. }) {
                tracing::warn!(disk = disk.name, "{unusable}; it is made anew from the vault");
            }
            rebuild(disk, table, head, stored).map_err(|err| fail(&err))?
        }
    };
    NextTable::create(&table.path, disk, base.as_ref()).map_err(|err| fail(&err))
}

/// The table of what the head holds of the disk, or nothing where it holds nothing.
fn rebuild(
    disk: &Disk,
    table: &Table,
    head: Digest,
    stored: &Mutex<Stored>,
) -> Result<Option<DigestTable>, String> {
    let mut stored = lock(stored);
    let Ok(windows) = stored.windows_of(disk.id).map(|reader| reader.windows()) else { return Ok(None) };
    let mut next = NextTable::create(&table.path, disk, None).map_err(|err| err.to_string())?;
    for window in windows.map_err(|err| err.to_string())? {
        let (start, content) = window.map_err(|err| err.to_string())?;
        let range =
            BlockRange { start, count: WINDOW_BLOCKS }.intersection(BlockRange::whole_disk(disk.size));
        if content != WindowContent::Zero && range.count > 0 {
            let digests = block_digests(&content);
            next.record(start, &digests[..range.count as usize]).map_err(|err| err.to_string())?;
        }
    }
    next.seal(head)
        .and_then(mobility_capture::scan::SealedTable::adopt)
        .map(Some)
        .map_err(|err| err.to_string())
}

/// Of `blocks`, those that differ from the head.
pub(crate) fn compare(
    disk: &Disk,
    reader: &DirectReader,
    blocks: &BlockSet,
    stored: &Mutex<Stored>,
    cancel: &AtomicBool,
) -> Result<BlockSet, Fault> {
    let mut stored = lock(stored);
    // What the vault cannot say, because it is damaged, has to be sent.
    let expected = |window| match stored.expected(disk.id, window) {
        Ok(expected) => Ok::<_, std::convert::Infallible>(expected),
        Err(err) => {
            tracing::error!(disk = disk.name, "the vault cannot be compared with at {window}: {err}");
            Ok(Expected::Unknown)
        }
    };
    let whole = BlockRange::whole_disk(reader.size());
    let mut skip = BlockSet::of(whole);
    skip.subtract(blocks);
    let outcome = Scan::new(reader).cancelled_by(cancel).compare(whole, &skip, expected);
    differing(&disk.name, outcome)
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
    stored: &Mutex<Stored>,
    cancel: &AtomicBool,
) -> (u64, BlockSet) {
    let Some(window) = blocks.runs().next().map(|run| run.start.window_start()) else {
        return (0, BlockSet::new());
    };
    let mut skip = BlockSet::of(BlockRange { start: window, count: WINDOW_BLOCKS });
    skip.subtract(blocks);
    let expected = match lock(stored).expected(disk.id, window) {
        Ok(expected) => expected,
        Err(err) => {
            tracing::error!(disk = disk.name, "the audit cannot compare with the vault at {window}: {err}");
            return (0, BlockSet::new());
        }
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
