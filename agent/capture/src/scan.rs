//! Finds what changed by reading: the whole disk, or a part of it, compared with digests of what was stored.
//!
//! It serves where no tracker can run, and where a tracker must be checked: resync and audit compare with digests that
//! come from the vault, a protected image file with the digest table that this module keeps beside it. A scan is a
//! poll: its blocks were read at different times. When a second scan finds nothing that differs from what was stored
//! after the first, every block held what was stored at the moment the second began.
//!
//! Deliberately not here: copying the blocks that differ (they may have changed again by then, so the digests that are
//! recorded are those of what was sent), and when to scan.

mod layout;
mod next;
mod pipeline;
mod table;

use std::{
    error::Error,
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use mobility_format::{BLOCK_SIZE, BlockDigest, BlockIndex, BlockRange, BlockSet, ByteCount, WINDOW_BLOCKS};

pub use next::{NextTable, SealedTable};
pub use table::{DigestTable, Unusable};

use self::pipeline::Seen;
use crate::direct::{DirectReader, ReadError};

/// The digests of the blocks of one window.
pub type WindowDigests = [BlockDigest; WINDOW_BLOCKS as usize];

/// What a window ought to hold. What lies past the end of the disk is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing but zeros.
    Zero,
    /// Blocks with these digests.
    Digests(Box<WindowDigests>),
    /// Nobody knows: every block counts as differing.
    Unknown,
}

/// What a scan found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ScanOutcome {
    /// The blocks that do not hold what they ought to. Takes up to 32 MiB for each TiB scanned, if every other block
    /// differs; a few bytes where few do, or nearly all.
    pub differing: BlockSet,
    /// Those of them of which nobody knew what they ought to hold, as where the digest table is damaged.
    pub unknown: BlockSet,
    /// The blocks that could not be read, so that nothing is known of them. They are not in `differing`.
    pub unreadable: BlockSet,
    /// Why the first of them could not be read.
    pub read_error: Option<ReadError>,
    /// How many blocks were compared.
    pub compared: u64,
    /// How much of the disk was read; holes of a sparse image are not.
    pub read: ByteCount,
}

/// Why a scan ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// It was told to end.
    #[error("the scan was cancelled")]
    Cancelled,
    /// The disk cannot be read at all; single blocks that cannot be read do not end a scan.
    #[error("the scan ended: {0}")]
    Read(#[from] ReadError),
    /// What the blocks ought to hold could not be had.
    #[error("the scan ended at {window}, whose digests could not be had: {source}")]
    Expected {
        /// The first block of the window.
        window: BlockIndex,
        /// What whoever delivers them said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No thread could be started to read with.
    #[error("the scan could not start a thread to read with: {0}; raise the limit of tasks")]
    Thread(io::Error),
}

/// How many reads are in flight unless told otherwise: enough to keep a disk busy while others of them are hashed.
const DEFAULT_READS_IN_FLIGHT: usize = 4;

/// A way of scanning a disk. Memory: about 1 MiB for each read in flight, whatever the disk's size, beside the outcome.
#[derive(Clone, Copy)]
pub struct Scan<'a> {
    reader: &'a DirectReader,
    reads_in_flight: usize,
    cancel: Option<&'a AtomicBool>,
    progress: Option<&'a AtomicU64>,
    pace: Option<&'a (dyn Fn(ByteCount) + Sync)>,
}

impl<'a> Scan<'a> {
    /// A scan of the disk that `reader` reads.
    #[must_use]
    pub fn new(reader: &'a DirectReader) -> Self {
        Scan { reader, reads_in_flight: DEFAULT_READS_IN_FLIGHT, cancel: None, progress: None, pace: None }
    }

    /// How many windows are read and hashed at once, each by a thread of its own: 1 to 64. With 1 the calling thread
    /// does it all.
    #[must_use]
    pub fn reads_in_flight(mut self, count: usize) -> Self {
        self.reads_in_flight = count.clamp(1, 64);
        self
    }

    /// Ends the scan with [`ScanError::Cancelled`] within a few windows of `cancel` becoming true.
    #[must_use]
    pub fn cancelled_by(mut self, cancel: &'a AtomicBool) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Adds to `bytes` what has been compared, window by window.
    #[must_use]
    pub fn reporting_to(mut self, bytes: &'a AtomicU64) -> Self {
        self.progress = Some(bytes);
        self
    }

    /// Calls `pace` with the size of each read before it is made; it may wait there, on the thread that reads.
    #[must_use]
    pub fn paced_by(mut self, pace: &'a (dyn Fn(ByteCount) + Sync)) -> Self {
        self.pace = Some(pace);
        self
    }

    /// Compares the whole disk with `table`: with what the head holds at first, and with what has been recorded since
    /// when it is called again to confirm.
    ///
    /// # Errors
    ///
    /// [`ScanError`]; the table is as it was.
    pub fn against(&self, table: &mut NextTable) -> Result<ScanOutcome, ScanError> {
        let whole = BlockRange::whole_disk(self.reader.size());
        self.compare(whole, &BlockSet::new(), |window| table.window(window))
    }

    /// Compares `range` without `skip` with what `expected` says of each window, given its first block. It is asked
    /// for windows in order, on the calling thread, and not for windows that are skipped whole.
    ///
    /// # Errors
    ///
    /// [`ScanError`]; what `expected` fails with comes back as [`ScanError::Expected`].
    pub fn compare<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        range: BlockRange,
        skip: &BlockSet,
        mut expected: impl FnMut(BlockIndex) -> Result<Expected, E>,
    ) -> Result<ScanOutcome, ScanError> {
        let mut outcome = ScanOutcome::default();
        let range = range.intersection(BlockRange::whole_disk(self.reader.size()));
        pipeline::each_window(self, range, skip, |seen| {
            let window = seen.range.start.window_start();
            let expected =
                expected(window).map_err(|source| ScanError::Expected { window, source: source.into() })?;
            let bytes = seen.range.bytes();
            outcome.add(seen, &expected, skip);
            if let Some(progress) = self.progress {
                progress.fetch_add(bytes.0, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(outcome)
    }
}

impl ScanOutcome {
    fn add(&mut self, seen: Seen, expected: &Expected, skip: &BlockSet) {
        if let Some(error) = seen.failed {
            let mut unreadable = error.blocks.clone();
            unreadable.subtract(skip);
            if !unreadable.is_empty() {
                self.unreadable.union_with(&unreadable);
                self.read_error.get_or_insert(error);
            }
        }
        if let Some(digests) = &seen.digests {
            self.read.0 += (digests.len() * BLOCK_SIZE) as u64;
        } else if *expected == Expected::Zero && skip.is_empty() {
            self.compared += seen.range.count;
            return;
        }
        for (index, block) in (seen.range.start.0..seen.range.end().0).map(BlockIndex).enumerate() {
            if skip.contains(block) || self.unreadable.contains(block) {
                continue;
            }
            self.compared += 1;
            let found = seen.digests.as_ref().map_or(BlockDigest::ZERO_BLOCK, |digests| digests[index]);
            let wanted = match expected {
                Expected::Zero => Some(BlockDigest::ZERO_BLOCK),
                Expected::Digests(digests) => Some(digests[(block.0 % WINDOW_BLOCKS) as usize]),
                Expected::Unknown => None,
            };
            if wanted.is_none_or(layout::is_unknown) {
                self.unknown.insert(block);
            }
            if wanted != Some(found) {
                self.differing.insert(block);
            }
        }
    }
}

/// The digests of the blocks in `content`, which is a whole number of blocks.
pub fn block_digests(content: &[u8]) -> impl Iterator<Item = BlockDigest> + '_ {
    content.chunks_exact(BLOCK_SIZE).map(BlockDigest::of)
}

#[cfg(test)]
mod tests;
