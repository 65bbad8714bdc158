//! A protected disk as the agent holds it: its reader, and its tracker or its digest table.
//!
//! Deliberately not here: what the engine knows of it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use mobility_capture::{
    direct::DirectReader,
    disk::{Disk, DiskKind},
    ebpf::{Continuity, TrackedDisk, Tracker},
    scan::{NextTable, SealedTable},
};
use mobility_engine::{DiskStart, Known, Tracking};
use mobility_format::{BlockRange, BlockSet, control::Policy};

use super::pack::lock;
use crate::{
    check::whole_disks,
    cli::Capture,
    exit::Failure,
    service::{inventory, policy},
};

/// How changes of a disk are found.
pub(crate) enum Watcher {
    /// In the kernel.
    Tracker(Arc<Mutex<Tracker>>),
    /// By comparing with this table.
    Table(Arc<Mutex<Table>>),
}

/// A digest table on its way from one commit to the next.
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    pub(crate) next: Option<NextTable>,
    pub(crate) sealed: Option<SealedTable>,
}

/// A protected disk.
pub(crate) struct Protected {
    pub(crate) disk: Disk,
    pub(crate) reader: Arc<DirectReader>,
    pub(crate) watcher: Watcher,
    /// Set while it is not there.
    pub(crate) gone: bool,
}

/// What a disk is opened with.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) capture: Capture,
    pub(crate) pin_root: PathBuf,
    pub(crate) tables: PathBuf,
}

impl Protected {
    /// Opens a disk and starts or takes up its tracking. `in_head` tells whether the head holds content of it, `trusted`
    /// whether an earlier run of the agent tracked it since the head.
    pub(crate) fn open(
        disk: Disk,
        opening: &Opening,
        in_head: bool,
        trusted: bool,
    ) -> Result<(Self, DiskStart), Failure> {
        let reader = Arc::new(DirectReader::open(&disk).map_err(|err| Failure::Disk(err.to_string()))?);
        let (watcher, known) = match trackable(&disk, opening.capture)? {
            Some(tracked) => {
                let (tracker, continuity) = Tracker::open(&tracked, &opening.pin_root)
                    .map_err(|err| Failure::Tracker(err.to_string()))?;
                let known = known(&tracker, continuity, in_head, trusted);
                (Watcher::Tracker(Arc::new(Mutex::new(tracker))), known)
            }
            None => {
                let path = opening.tables.join(format!("digests-{}.table", disk.id));
                let table = Table { path, next: None, sealed: None };
                (Watcher::Table(Arc::new(Mutex::new(table))), Known::Owed(BlockSet::new()))
            }
        };
        let tracking = match watcher {
            Watcher::Tracker(_) => Tracking::Continuous,
            Watcher::Table(_) => Tracking::Polling,
        };
        let start = DiskStart { id: disk.id, size: disk.size, tracking, known, in_head };
        Ok((Protected { disk, reader, watcher, gone: false }, start))
    }

    pub(crate) fn tracker(&self) -> Option<&Arc<Mutex<Tracker>>> {
        match &self.watcher {
            Watcher::Tracker(tracker) => Some(tracker),
            Watcher::Table(_) => None,
        }
    }

    pub(crate) fn table(&self) -> Option<&Arc<Mutex<Table>>> {
        match &self.watcher {
            Watcher::Tracker(_) => None,
            Watcher::Table(table) => Some(table),
        }
    }

    /// Of what is pending on the disk, only `blocks` still are.
    pub(crate) fn settle(&self, blocks: &BlockSet) {
        if let Some(tracker) = self.tracker() {
            lock(tracker).keep_pending(blocks);
        }
    }

    /// Everything is pending; so the tracker need not remember any longer why.
    pub(crate) fn mark_all(&self) {
        let Some(tracker) = self.tracker() else { return };
        let mut tracker = lock(tracker);
        tracker.add_pending(&BlockSet::of(BlockRange::whole_disk(self.disk.size)));
        if let Err(err) = tracker.mark_verified() {
            tracing::warn!(disk = self.disk.name, "the tracker's record could not be written: {err}");
        }
    }

    /// How changes are found, in a word.
    pub(crate) fn capture(&self) -> &'static str {
        match self.watcher {
            Watcher::Tracker(_) => "ebpf",
            Watcher::Table(_) => "scan",
        }
    }
}

fn known(tracker: &Tracker, continuity: Continuity, in_head: bool, trusted: bool) -> Known {
    match continuity {
        Continuity::Started(reason) => Known::Nothing(reason.to_string()),
        Continuity::Continued if !in_head => Known::Nothing("nothing is stored of this disk yet".to_owned()),
        Continuity::Continued if !trusted => {
            Known::Nothing("the newest commit is not the one that tracking went on from".to_owned())
        }
        Continuity::Continued => Known::Owed(tracker.pending()),
    }
}

/// The disk as the tracker wants it, or nothing where it shall be scanned.
fn trackable(disk: &Disk, capture: Capture) -> Result<Option<TrackedDisk>, Failure> {
    let obstacle = match (&disk.kind, &disk.untrackable) {
        (_, Some(reason)) => Err(reason.clone()),
        (DiskKind::BlockDevice { device, sysfs_name, sequence }, None) => {
            Tracker::supported().map_err(|err| err.to_string()).map(|()| TrackedDisk {
                major: device.major,
                minor: device.minor,
                size: disk.size,
                sequence: *sequence,
                id: disk.id,
                sysfs_name: sysfs_name.clone(),
            })
        }
        _ => Err("an image file has no tracker".to_owned()),
    };
    match (obstacle, capture) {
        (_, Capture::Scan) => Ok(None),
        (Ok(tracked), _) => Ok(Some(tracked)),
        (Err(reason), Capture::Ebpf) => Err(Failure::Tracker(format!(
            "{} cannot be tracked: {reason}; use --capture scan or auto",
            disk.name
        ))),
        (Err(reason), Capture::Auto) => {
            tracing::info!(disk = disk.name, "changes are found by scanning the whole disk: {reason}");
            Ok(None)
        }
    }
}

/// Why the tracker's word is not enough any more, if it is not.
pub(crate) fn unknown(drained: &mobility_capture::ebpf::Drained) -> Option<String> {
    if drained.blind {
        return Some("the kernel has counted writes that the tracker did not see".to_owned());
    }
    drained
        .passthrough
        .then(|| "a program wrote to the disk by passthrough commands, which name no blocks".to_owned())
}

/// Finds out about the disks named, and whether they can be protected together, with this vault if there is one.
pub(crate) fn inspect_all(paths: &[PathBuf], vault: Option<&Path>) -> Result<Vec<Disk>, Failure> {
    let refuse = |err: mobility_capture::disk::DiskError| Failure::Disk(err.to_string());
    let disks: Vec<Disk> =
        paths.iter().map(|path| Disk::inspect(path).map_err(refuse)).collect::<Result<_, _>>()?;
    mobility_capture::disk::check_set(&disks).map_err(refuse)?;
    for (disk, vault) in disks.iter().flat_map(|disk| vault.map(|vault| (disk, vault))) {
        mobility_capture::disk::check_vault(disk, vault).map_err(refuse)?;
    }
    Ok(disks)
}

/// The disks of this machine that a policy protects. One that cannot be protected does not keep the others from being.
pub(crate) fn chosen_by(policy: &Policy) -> Result<Vec<Disk>, Failure> {
    let mut chosen = Vec::new();
    for path in whole_disks() {
        match Disk::inspect(&path) {
            Ok(disk) if policy::protects(policy, &inventory::of_disk(&disk)) => chosen.push(disk),
            Ok(disk) => {
                tracing::info!("{} is left out by the policy '{}'", disk.given.display(), policy.name)
            }
            Err(err) => tracing::warn!("{} cannot be protected: {err}", path.display()),
        }
    }
    mobility_capture::disk::check_set(&chosen).map_err(|err| Failure::Disk(err.to_string()))?;
    match chosen.is_empty() {
        false => Ok(chosen),
        true => Err(Failure::Disk(format!(
            "the policy '{}' protects no disk of this machine (`mobility-agent check` lists them): change the policy",
            policy.name
        ))),
    }
}
