//! The tracker of changed blocks that runs in the kernel: eBPF programs on the block layer's tracepoints mark the blocks
//! of a disk in bitmaps that are mapped here.
//!
//! Three bitmaps with one bit for each block of 4 KiB:
//!
//! - *dirty*: set by the kernel when a write has **completed**, failed or not. A block that is read after its bit was
//!   cleared holds at least that content, so clear-then-read loses nothing.
//! - *touched*: set by the kernel when a write is **given to the device**, before the device sees it.
//! - *pending*: set here alone. A bit moves there from the others before it is cleared in them, and leaves when its content
//!   is durable in a committed epoch. It is what survives a killed agent.
//!
//! Beside them lies a small table of the writes that are *in flight* at this moment.
//!
//! Programs, maps and attachments are pinned in bpffs, so tracking goes on while no agent runs. Why it has this shape, and
//! what was measured: `docs/decisions/0001-tracker-shape.md`.
//!
//! Deliberately not here: what to do with the blocks (the engine's), the hash scan, and devices that have no requests of
//! their own (device-mapper, md, multipath heads: protect the disks below them).

mod adopt;
mod bitmap;
mod canary;
mod counters;
mod error;
mod flights;
mod idle;
mod mapping;
mod pinned;
mod state;
mod supported;
mod tracker;

use std::{fmt, path::PathBuf};

use mobility_format::{BlockSet, ByteCount, DiskId};

pub use adopt::{list_pinned, remove_all};
pub use counters::{Cost, Counters, enable_statistics};
pub use error::{TrackerError, Unsupported};
pub use tracker::Tracker;

/// Where trackers are pinned unless told otherwise.
pub const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/mobility-agent";

/// A whole disk that is to be tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedDisk {
    /// The whole disk's device number, first part.
    pub major: u32,
    /// The whole disk's device number, second part. Never a partition's: the kernel's events carry the whole disk's.
    pub minor: u32,
    /// The disk's size now.
    pub size: ByteCount,
    /// The kernel's sequence number of the disk (from 5.15 on): another one means that it was taken away meanwhile.
    pub sequence: Option<u64>,
    /// What names the disk beyond device numbers.
    pub id: DiskId,
    /// The disk's name under `/sys/block`, such as `sda` or `loop0`.
    pub sysfs_name: String,
}

/// Whether a tracker has seen every write since the last one was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// It has: what it has marked is all that changed.
    Continued,
    /// It has not; it tracks from now on, and every block counts as changed.
    Started(StartReason),
}

/// Why a tracker had to start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartReason {
    /// Nothing was pinned for the disk: the first start, or the first after a reboot.
    NoPins,
    /// What was pinned is of an earlier boot of this machine.
    Rebooted,
    /// What was pinned is of another disk or of another device number.
    IdentityChanged,
    /// The disk was taken away and brought back, so nobody knows what was written meanwhile.
    Reattached,
    /// The disk had another size when tracking started.
    Resized {
        /// The size then.
        from: ByteCount,
        /// The size now.
        to: ByteCount,
    },
    /// What was pinned was made by a version whose records this one does not know.
    UnknownVersion,
    /// What was pinned is incomplete: a start was interrupted, or someone removed a part.
    Damaged,
}

impl fmt::Display for StartReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartReason::NoPins => {
                f.write_str("tracking was not running for this disk (first start, or a reboot)")
            }
            StartReason::Rebooted => f.write_str("the machine was rebooted since tracking started"),
            StartReason::IdentityChanged => f.write_str("another disk stands where the tracked one stood"),
            StartReason::Reattached => f.write_str("the disk was taken away and brought back"),
            StartReason::Resized { from, to } => write!(f, "the disk's size changed from {from} to {to}"),
            StartReason::UnknownVersion => {
                f.write_str("the tracker found was made by an unknown version of the agent")
            }
            StartReason::Damaged => f.write_str("the tracker found was incomplete"),
        }
    }
}

/// What a drain found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Blocks whose writes have completed since the last drain, and those that had a write in flight at the last drain: the
    /// completion of that write may have gone unseen.
    pub dirty: BlockSet,
    /// Blocks to which writes were issued since the last drain. Those that are not in `dirty` are *suspects*: either they
    /// are in flight, or their completion was not seen. They are owed too.
    pub touched: BlockSet,
    /// The kernel skipped both copies of the completion program since the last drain. It costs nothing, for what was in
    /// flight is in `dirty` anyhow; for information.
    pub completion_missed: bool,
    /// The kernel skipped the issue program: a write may have left no mark at all. So says the first drain of a process, too,
    /// where no drain of an earlier one saw the disk idle, or came a minute or more after the tracker's start: what was in
    /// flight at the start may have ended unseen since.
    pub issue_missed: bool,
    /// A write without a range was seen. The disk is unverified.
    pub passthrough: bool,
    /// The kernel has counted writes of which there is no mark: the tracker is blind. The disk is unverified, and this
    /// tracker is of no use any more.
    pub blind: bool,
    /// A write beyond the end that the tracker knows was seen: the disk has grown, see
    /// [`Tracker::resize`].
    pub out_of_range: bool,
}

/// A tracker found in a pin root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedTracker {
    /// Where.
    pub path: PathBuf,
    /// Of which disk; `None` where its record cannot be read.
    pub disk: Option<DiskId>,
    /// Whether the agent that lists it would use it as it is: made by the same object.
    pub current: bool,
}
