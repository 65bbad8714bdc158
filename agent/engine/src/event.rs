//! What the engine is told. One closed enum, so that the simulation can send everything that the daemon can.
//!
//! Deliberately not here: bulk data. Blocks and segments are named, never carried.

use std::time::Duration;

use mobility_format::{BlockSet, ByteCount, DiskId, Epoch, Generation};

/// Names a segment in the caller's memory until it is durable. Never used twice by one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// What sort of thing went wrong, as far as the engine or an operator's script decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The storage has no room.
    StorageFull,
    /// The storage may not be written.
    StorageReadOnly,
    /// The storage is not there.
    StorageGone,
    /// The storage failed in another way.
    Storage,
    /// A disk cannot be read.
    DiskRead,
    /// A disk is not there, or another one is in its place.
    DiskGone,
}

impl FaultKind {
    /// A short stable name, for status and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::StorageFull => "storage-full",
            FaultKind::StorageReadOnly => "storage-read-only",
            FaultKind::StorageGone => "storage-gone",
            FaultKind::Storage => "storage",
            FaultKind::DiskRead => "disk-read",
            FaultKind::DiskGone => "disk-gone",
        }
    }
}

/// Something that went wrong and may be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What sort of thing.
    pub kind: FaultKind,
    /// What happened, to what, and what to do: for a person.
    pub message: String,
    /// How long the other side wishes to be left alone. Followed up to an hour.
    pub wait: Option<Duration>,
}

impl Fault {
    /// A fault of which nobody said when to try again.
    #[must_use]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into(), wait: None }
    }
}

/// Why a commit did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// It may be tried again as it is.
    Retry(Fault),
    /// This epoch is already committed, by an earlier run of the agent whose answer got lost. The head is now there.
    Superseded {
        /// The epoch of the head.
        head: Epoch,
        /// The generation of the head.
        generation: Generation,
    },
    /// The service found that what was uploaded is not what the manifest says, or does not accept this generation any
    /// more. All of it must be sent again, in a new generation.
    Refused(String),
}

/// What was taken from a tracker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Blocks whose writes have completed. They have been moved to `pending`.
    pub dirty: BlockSet,
    /// Blocks to which writes were issued. Those not in `dirty` have been moved to `pending` too.
    pub touched: BlockSet,
    /// Whether, after both were taken, a moment was seen in which no write was in flight.
    pub idle: bool,
    /// Whether completions were missed since the last time.
    pub completion_missed: bool,
    /// Whether issues were missed since the last time: a write may be in flight that left no mark yet. The first drain of a
    /// process says so too while the tracker is younger than a minute and has never been idle.
    pub issue_missed: bool,
    /// Whether something changed that has no known place: the tracker's word is not enough any more.
    pub unknown: Option<String>,
}

/// How a cut went for one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutDiskOutcome {
    /// What was taken at the `t0` of each round, in their order.
    pub drained: Vec<Drained>,
    /// What was read, and is in the epoch if the verdict is [`Verdict::Consistent`].
    pub read: BlockSet,
    /// The blocks that were written while they were read, in any round.
    pub conflicts: BlockSet,
}

/// What a cut came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was read, with what had been sent before, is the content of all disks at `t0`. It is being packed and comes
    /// as segments.
    Consistent,
    /// So many blocks were written while they were read, in the last of all the rounds that there may be.
    Conflict(u64),
    /// More was left than may be read in a cut; nothing was read.
    TooMuch,
    /// Writes that were in flight at `t0` did not end in time.
    Unsettled,
    /// The tracker missed something inside the window.
    Missed,
    /// A disk could not be read.
    Unread(DiskId, Fault),
    /// Writes would have been held for longer than they may be.
    Overrun,
    /// The file systems could not be frozen now, for this reason.
    NotFrozen(String),
    /// There is no file system on these disks that could be frozen.
    NothingToFreeze,
}

/// The figures of a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutFigures {
    /// `t0` by the machine's clock, in microseconds since 1970.
    pub t0_us: i64,
    /// From `t0` until everything was read, in microseconds.
    pub window_us: u64,
    /// How much was read.
    pub read: ByteCount,
    /// How many rounds there were, each with a `t0` of its own; the figures are the last one's.
    pub rounds: u32,
    /// How long writes were held, in microseconds.
    pub held_us: u64,
    /// Whether at `t0` every file system that is mounted from these disks was frozen.
    pub frozen: bool,
}

/// A disk as it is when the engine hears of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStart {
    /// Which disk.
    pub id: DiskId,
    /// Its size.
    pub size: ByteCount,
    /// How its changes are found.
    pub tracking: Tracking,
    /// What is known of it.
    pub known: Known,
    /// Whether the head holds content of this disk to compare with.
    pub in_head: bool,
}

/// How changes of a disk are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// A tracker sees every write.
    Continuous,
    /// The whole disk is read and compared.
    Polling,
}

/// What is known of a disk when it is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Tracking went on since the head: only these blocks are not durable (and what the tracker says from now on).
    Owed(BlockSet),
    /// Any block may differ from the head, because of this.
    Nothing(String),
}

/// Somebody's wish for a point. The point whose cut began after it came in serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names it in [`crate::PointFigures::requests`].
    pub id: u64,
    /// Whether the point shall be application-consistent.
    pub application: bool,
}

/// A generation that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewGeneration {
    /// Its number.
    pub generation: Generation,
    /// The epoch that it goes on from, 0 for none. Whatever was committed after that does not count.
    pub head: Epoch,
}

/// A part of a disk that may not be stored as it should be: nothing stands for all of it.
pub type Doubt = (DiskId, Option<BlockSet>);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answers [`crate::Action::NewGeneration`].
    Generation(Result<NewGeneration, Fault>),
    /// Everything committed up to this epoch is in target storage and will not be refused any more.
    TakenIn(Epoch),
    /// What is stored of these parts is to be compared with the disks, in a new generation, for this reason. All disks where
    /// none is named.
    Doubted(Vec<Doubt>, String),
    /// Answers [`crate::Action::Drain`].
    Drained(DiskId, Drained),
    /// Answers [`crate::Action::Scan`]: the blocks that differ from the head.
    Scanned(DiskId, Result<BlockSet, Fault>),
    /// Answers [`crate::Action::Compare`]: of the blocks asked for, those that differ from the head.
    Compared(DiskId, Result<BlockSet, Fault>),
    /// Answers [`crate::Action::Confirm`]: the blocks that differ from what was sent.
    Confirmed(DiskId, Result<BlockSet, Fault>),
    /// A segment of the current epoch is complete in memory. Segments of a disk come in their order.
    SegmentReady(SegmentId, DiskId, ByteCount),
    /// Answers [`crate::Action::Copy`], after its last segment: what could not be read, and why.
    Copied(DiskId, BlockSet, Option<Fault>),
    /// Answers [`crate::Action::Upload`].
    Uploaded(SegmentId, Result<(), Fault>),
    /// Answers [`crate::Action::Cut`]; after [`Verdict::Consistent`] its segments follow, then [`Event::CutPacked`].
    CutDone(Verdict, CutFigures, Vec<(DiskId, CutDiskOutcome)>),
    /// The last segment of a consistent cut has come.
    CutPacked,
    /// Answers [`crate::Action::Commit`].
    CommitDone(Result<(), CommitFault>),
    /// Answers [`crate::Action::Audit`]: how many blocks were compared, and which had changed unseen.
    Audited(DiskId, u64, BlockSet),
    /// A disk is not there any more, or is another one.
    DiskGone(DiskId, Fault),
    /// A disk that was gone is back, or a new one is to be protected. Whatever was asked about the disk before has been
    /// answered.
    DiskFound(DiskStart),
    /// A disk has another size now. Its tracker was carried over, while nothing that was asked about the disk was under
    /// way; blocks beyond the old end come as dirty.
    DiskResized(DiskId, ByteCount),
    /// Answers [`crate::Action::Sync`].
    Synced,
    /// Answers [`crate::Action::Quiesce`]: whether there was any application to be told; or why it did not succeed, in
    /// which case all that were told have been told that it is over.
    Quiesced(Result<bool, String>),
    /// Answers [`crate::Action::Release`]: why the applications were not ready for the whole of the cut after all, if they
    /// were not.
    Released(Result<(), String>),
    /// Somebody wants a point now.
    PointWanted(Request),
    /// The limits have changed.
    LimitsChanged(crate::Limits),
    /// The agent shall end: at once, or after one more point.
    Stop {
        /// Whether to make a last point first.
        after_point: bool,
    },
}
