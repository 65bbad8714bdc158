//! What a cut has read of a disk, in memory: each block once, as it was read last.
//!
//! Deliberately not here: whether it is good, and what becomes of it.

use std::collections::BTreeMap;

use mobility_capture::direct::AlignedBuf;
use mobility_format::{BLOCK_SIZE, BlockIndex, BlockRange};

/// Ranges that do not overlap, by their first block.
#[derive(Debug, Default)]
pub(crate) struct Content(BTreeMap<BlockIndex, (BlockRange, AlignedBuf)>);

impl Content {
    /// Takes in what was read of `range`, in place of what was there.
    pub(super) fn put(&mut self, range: BlockRange, bytes: AlignedBuf) {
        if self.overlapping(range).is_none() {
            self.0.insert(range.start, (range, bytes));
            return;
        }
        for (block, bytes) in (range.start.0..).map(BlockIndex).zip(bytes.chunks(BLOCK_SIZE)) {
            self.put_block(block, bytes);
        }
    }

    /// A range that is there and overlaps `range`. As none overlap each other, it is the last that begins before the end.
    fn overlapping(&mut self, range: BlockRange) -> Option<&mut (BlockRange, AlignedBuf)> {
        let (_, last) = self.0.range_mut(..range.end()).next_back()?;
        (last.0.end() > range.start).then_some(last)
    }

    fn put_block(&mut self, block: BlockIndex, bytes: &[u8]) {
        let one = BlockRange::new(block.0, 1);
        if let Some((range, held)) = self.overlapping(one) {
            let at = (block.0 - range.start.0) as usize * BLOCK_SIZE;
            held.overwrite(at, bytes);
        } else {
            let mut held = AlignedBuf::new(BLOCK_SIZE);
            held.overwrite(0, bytes);
            self.0.insert(block, (one, held));
        }
    }

    /// The ranges in their order.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (BlockRange, &AlignedBuf)> {
        self.0.values().map(|(range, bytes)| (*range, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(blocks: usize, byte: u8) -> AlignedBuf {
        let mut buf = AlignedBuf::new(blocks * BLOCK_SIZE);
        buf.overwrite(0, &vec![byte; blocks * BLOCK_SIZE]);
        buf
    }

    fn bytes(content: &Content) -> Vec<(u64, Vec<u8>)> {
        let first =
            |bytes: &AlignedBuf| bytes.chunks(BLOCK_SIZE).map(|block| block[BLOCK_SIZE - 1]).collect();
        content.ranges().map(|(range, bytes)| (range.start.0, first(bytes))).collect()
    }

    #[test]
    fn what_is_read_again_replaces_what_was_there_and_nothing_else() {
        let mut content = Content::default();
        content.put(BlockRange::new(10, 4), filled(4, 1));
        content.put(BlockRange::new(20, 1), filled(1, 1));
        content.put(BlockRange::new(12, 1), filled(1, 2));
        content.put(BlockRange::new(13, 3), filled(3, 3));
        content.put(BlockRange::new(9, 1), filled(1, 4));
        let expected =
            vec![(9, vec![4]), (10, vec![1, 1, 2, 3]), (14, vec![3]), (15, vec![3]), (20, vec![1])];
        assert_eq!(bytes(&content), expected);
    }
}
