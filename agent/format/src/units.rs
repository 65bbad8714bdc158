//! The quantities every other file speaks in, each a type of its own so that a block index can never be passed where
//! a byte offset is meant.
//!
//! Deliberately not here: anything with a meaning beyond its own value (extents, segments, points).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a block, the unit of tracking.
pub const BLOCK_SIZE: usize = 4096;

/// `log2` of [`BLOCK_SIZE`].
pub const BLOCK_SHIFT: u32 = 12;

/// Blocks in a window. A disk is cut into windows of 1 MiB, and no stored extent crosses a window's border, so whatever
/// a window holds at some recovery point can be assembled in one buffer of 1 MiB.
pub const WINDOW_BLOCKS: u64 = 256;

/// Bytes in a window.
pub const WINDOW_SIZE: usize = WINDOW_BLOCKS as usize * BLOCK_SIZE;

/// The position of a block on its disk, counted from 0 in units of [`BLOCK_SIZE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// Where the block starts on the disk, in bytes.
    #[must_use]
    pub fn byte_offset(self) -> u64 {
        self.0 << BLOCK_SHIFT
    }

    /// The block that holds the byte at `offset`.
    #[must_use]
    pub fn containing(offset: u64) -> Self {
        BlockIndex(offset >> BLOCK_SHIFT)
    }

    /// The first block of the window that this block lies in.
    #[must_use]
    pub fn window_start(self) -> Self {
        BlockIndex(self.0 - self.0 % WINDOW_BLOCKS)
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.0)
    }
}

/// A run of adjacent blocks, `start .. start + count`. `count` may be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRange {
    /// The first block.
    pub start: BlockIndex,
    /// How many blocks.
    pub count: u64,
}

impl BlockRange {
    /// The run `start .. start + count`.
    #[must_use]
    pub fn new(start: u64, count: u64) -> Self {
        BlockRange { start: BlockIndex(start), count }
    }

    /// The block after the last, or `u64::MAX` where that cannot be expressed.
    #[must_use]
    pub fn end(self) -> BlockIndex {
        BlockIndex(self.start.0.saturating_add(self.count))
    }

    /// All blocks of a disk of `size` bytes; a partial block at the end counts as one.
    #[must_use]
    pub fn whole_disk(size: ByteCount) -> Self {
        BlockRange::new(0, size.blocks())
    }

    /// How many bytes the run covers.
    #[must_use]
    pub fn bytes(self) -> ByteCount {
        ByteCount(self.count.saturating_mul(BLOCK_SIZE as u64))
    }

    /// The part of the run that lies in `other`; its count is 0 where they do not meet.
    #[must_use]
    pub fn intersection(self, other: BlockRange) -> BlockRange {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        BlockRange { start, count: end.0.saturating_sub(start.0) }
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks {}..{}", self.start.0, self.end().0)
    }
}

/// A number of bytes, shown in binary units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// How many blocks it takes to hold so many bytes.
    #[must_use]
    pub fn blocks(self) -> u64 {
        self.0.div_ceil(BLOCK_SIZE as u64)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if value < 10.0 {
            write!(f, "{value:.2} {}", UNITS[unit])
        } else {
            write!(f, "{value:.1} {}", UNITS[unit])
        }
    }
}

/// Numbers an unbroken run of tracking. The recovery service hands out the next one whenever an initial replication or
/// a resync starts, and refuses what comes from an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Numbers what changed between two commits of a machine. It grows by one with every commit and never starts again, not
/// even with a new generation. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_shown_in_binary_units() {
        assert_eq!(ByteCount(1023).to_string(), "1023 B");
        assert_eq!(ByteCount(1536).to_string(), "1.50 KiB");
        assert_eq!(ByteCount(10 << 30).to_string(), "10.0 GiB");
        assert_eq!(ByteCount(u64::MAX).to_string(), "16.0 EiB");
    }

    #[test]
    fn a_partial_block_at_the_end_counts() {
        assert_eq!(BlockRange::whole_disk(ByteCount(4097)), BlockRange::new(0, 2));
    }
}
