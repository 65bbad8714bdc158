//! The content of a disk at an epoch, put together from the segments that were written up to it.
//!
//! A disk starts as all zeros; each segment says something new about some of its blocks. Whoever wants the content asks
//! window by window (1 MiB; no stored extent crosses a window's border): [`Sweep`] goes through all windows in order and
//! holds open only what reaches into the current one, [`WindowReader`] goes anywhere. For each window the newest word on
//! each block is found first, from the indexes alone; only extents that have it are then read, each once.
//!
//! Deliberately not here: which segments these are (`catalog`), and where the content goes (`restore`, `prune`).

mod assemble;
mod mask;
mod pool;
mod segment;
mod sweep;
mod window;

pub(crate) use assemble::Assembler;
pub(crate) use mask::Mask;
pub(crate) use pool::{ObjectPool, PooledObject};
pub(crate) use segment::{OpenSegment, SegmentSource, check_is, check_names};
pub(crate) use sweep::{Layer, Piece, Sweep, WindowPlan};
pub use window::{WindowContent, WindowReader, Windows, block_digests};
#[cfg(feature = "service")]
pub(crate) use window::{assembler, fill};

use mobility_format::{DiskId, Epoch, segment::SegmentError};

use crate::{keys::ObjectKey, storage::StorageError};

/// The content of a disk cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A manifest or run that it depends on is damaged or missing.
    #[error("disk {disk} cannot be restored as of epoch {epoch}: {reason}")]
    Unusable {
        /// Which disk.
        disk: DiskId,
        /// As of which epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// A segment is not there. Where somebody prunes at the same time and no lock is held, load the catalog again.
    #[error("{key} is missing")]
    Missing {
        /// Which.
        key: ObjectKey,
    },
    /// A segment is damaged.
    #[error("{key} is damaged: {source}")]
    Damaged {
        /// Which.
        key: ObjectKey,
        /// What is wrong, and where.
        source: Box<SegmentError>,
    },
    /// The storage fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl ContentError {
    /// Whether the stored data is at fault, not the machine that reads it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, ContentError::Storage(_))
    }
}
