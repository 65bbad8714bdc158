//! What the engine wants done. Each action is answered by one event, except where it says otherwise.
//!
//! Deliberately not here: how. The caller owns buffers, files and threads; the engine bounds how much it may use.

use std::time::Duration;

use mobility_format::{
    BlockSet, ByteCount, DiskId, Epoch, Generation,
    manifest::{Consistency, CutMethod},
};

use crate::{CutPlan, SegmentId};

/// What a commit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitKind {
    /// Progress during an initial replication, a resync or a large backlog.
    Checkpoint,
    /// A recovery point that is what the disks held at `t0`.
    Point(PointFigures),
    /// A recovery point of which that could not be shown, for this reason.
    Fuzzy(PointFigures, String),
}

/// The figures of a recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointFigures {
    /// The cut's.
    pub cut: crate::CutFigures,
    /// How it was reached.
    pub method: CutMethod,
    /// What it is, unless it is fuzzy.
    pub consistency: Consistency,
    /// How many instants were tried as `t0`, in all cuts and their rounds.
    pub tries: u32,
    /// How many bytes were found changed since the point before.
    pub changed: ByteCount,
    /// Why it is less than was wanted.
    pub shortfall: Option<String>,
    /// The requests that it serves.
    pub requests: Vec<u64>,
}

/// A disk in a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitDisk {
    /// Which.
    pub id: DiskId,
    /// Its size.
    pub size: ByteCount,
    /// The segments of this epoch, oldest first.
    pub segments: Vec<SegmentId>,
    /// Whether it could not be read for this epoch: it has no segments then, and stays as it was in the epoch before.
    pub missing: bool,
    /// What the audit has compared so far, in blocks.
    pub audited: u64,
    /// What the audit has found missed so far, in blocks.
    pub missed: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Get the number of a new generation, for this reason. What was uploaded for the current epoch is void: forget it.
    NewGeneration(String),
    /// Take what a tracker has.
    Drain(DiskId),
    /// Read a whole disk and compare it with the head.
    Scan(DiskId),
    /// Read these blocks and compare them with the head.
    Compare(DiskId, BlockSet),
    /// Read a whole disk again and compare it with what was sent.
    Confirm(DiskId),
    /// Read these blocks, pack them into segments, hand them over by [`crate::Event::SegmentReady`]. Must pause while
    /// [`crate::Limits::segments`] of them are not durable.
    Copy(DiskId, BlockSet),
    /// Put this segment into cache storage.
    Upload(SegmentId),
    /// Flush the file systems of all disks, and get ready to freeze them. Nothing is held by it.
    Sync,
    /// Tell the applications to make themselves consistent, for a point of this epoch. Ended by [`Action::Release`].
    Quiesce(Generation, Epoch),
    /// Tell the applications that it is over, and whether the point is going to be application-consistent.
    Release(bool),
    /// Try a cut.
    Cut {
        /// Over these disks.
        plans: Vec<(DiskId, CutPlan)>,
        /// Reading at most so much.
        budget: ByteCount,
        /// With the file systems frozen, for so long at most.
        freeze: Option<Duration>,
    },
    /// Put the manifest of this epoch, and see it taken in.
    Commit {
        /// In which generation.
        generation: Generation,
        /// Which epoch.
        epoch: Epoch,
        /// What it is.
        kind: CommitKind,
        /// All disks.
        disks: Vec<CommitDisk>,
    },
    /// Not answered. The epoch is durable: pending on this disk are exactly these blocks from now on. To be done before any
    /// action that follows; whatever a kill leaves of it must not hold less.
    Settle(DiskId, BlockSet),
    /// Not answered. Everything on this disk is pending until told otherwise; the tracker may forget why. To be done before
    /// any action that follows.
    MarkAll(DiskId),
    /// Compare these blocks with the head, leaving out what the tracker knows to have changed since.
    Audit(DiskId, BlockSet),
    /// Not answered, and the last: nothing more will be asked for.
    Stop,
}
