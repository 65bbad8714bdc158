//! Which reads fetch a set of blocks.
//!
//! A disk serves so many requests a second and so many bytes; scattered blocks run into the first limit long before the
//! second. So what lies between two blocks that are near each other is read along, and thrown away. Deliberately not here:
//! when they are read, and by whom.

use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet, WINDOW_BLOCKS};

use super::{AlignedBuf, DirectReader, ReadError, ReadErrorKind};

/// The longest gap between two wanted blocks that is read along. So much takes a disk of 2 GB/s, or one that is limited to 160
/// MB/s and 5,000 requests each second, about as long as one more request.
const GAP_BLOCKS: u64 = 8;

/// The reads that fetch `blocks`: adjacent blocks together, each read within one window.
pub fn read_plan(blocks: &BlockSet) -> impl Iterator<Item = BlockRange> + '_ {
    blocks.runs().flat_map(|run| {
        let mut next = run.start.0;
        std::iter::from_fn(move || {
            let count = (WINDOW_BLOCKS - next % WINDOW_BLOCKS).min(run.end().0 - next);
            let part = BlockRange::new(next, count);
            next += count;
            (count > 0).then_some(part)
        })
    })
}

/// One read that fetches several ranges of one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedRead {
    /// From the first wanted block to the last.
    pub span: BlockRange,
    /// What is wanted of it, in order.
    pub wanted: Vec<BlockRange>,
}

/// As [`read_plan`], with what is near each other in one read.
pub fn joined_read_plan(blocks: &BlockSet) -> impl Iterator<Item = JoinedRead> + '_ {
    let mut ranges = read_plan(blocks).peekable();
    std::iter::from_fn(move || {
        let mut read = JoinedRead::of(ranges.next()?);
        while let Some(next) = ranges.next_if(|next| read.joins(*next)) {
            read.span.count = next.end().0 - read.span.start.0;
            read.wanted.push(next);
        }
        Some(read)
    })
}

impl JoinedRead {
    fn of(range: BlockRange) -> JoinedRead {
        JoinedRead { span: range, wanted: vec![range] }
    }

    fn joins(&self, next: BlockRange) -> bool {
        let same_window = self.span.start.window_start() == next.start.window_start();
        same_window && next.start.0 - self.span.end().0 <= GAP_BLOCKS
    }

    /// Reads the span into `buf`. What cannot be read in a gap does not matter.
    ///
    /// # Errors
    /// As [`DirectReader::read`]; the blocks that it names are wanted ones.
    pub fn read(&self, reader: &DirectReader, buf: &mut AlignedBuf) -> Result<(), ReadError> {
        match reader.read(self.span, buf) {
            Err(mut err) if err.kind == ReadErrorKind::Unreadable => {
                err.blocks.intersect_with(&self.wanted.iter().copied().collect());
                if err.blocks.is_empty() { Ok(()) } else { Err(err) }
            }
            other => other,
        }
    }

    /// The bytes of `range`, which lies in the span, of what [`JoinedRead::read`] has read into `buf`.
    #[must_use]
    pub fn bytes<'a>(&self, buf: &'a AlignedBuf, range: BlockRange) -> &'a [u8] {
        let at = (range.start.0 - self.span.start.0) as usize * BLOCK_SIZE;
        &buf[at..at + range.bytes().0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use mobility_format::BlockIndex;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn joined_reads_fetch_each_block_once_and_read_little_besides(
            runs in prop::collection::vec((0u64..5000, 1u64..40), 0..200),
        ) {
            let blocks: BlockSet = runs.iter().map(|&(start, count)| BlockRange::new(start, count)).collect();
            let plan: Vec<_> = joined_read_plan(&blocks).collect();
            let wanted: Vec<_> = plan.iter().flat_map(|read| read.wanted.clone()).collect();
            prop_assert_eq!(wanted, read_plan(&blocks).collect::<Vec<_>>());
            for read in &plan {
                prop_assert_eq!(read.span.start.window_start(), BlockIndex(read.span.end().0 - 1).window_start());
                prop_assert_eq!(read.span.start, read.wanted[0].start);
                prop_assert_eq!(read.span.end(), read.wanted[read.wanted.len() - 1].end());
                for pair in read.wanted.windows(2) {
                    prop_assert!(pair[1].start.0 - pair[0].end().0 <= GAP_BLOCKS);
                }
            }
            for pair in plan.windows(2) {
                let near = pair[1].span.start.0 - pair[0].span.end().0 <= GAP_BLOCKS;
                let other = pair[1].span.start.window_start() != pair[0].span.start.window_start();
                prop_assert!(other || !near, "two reads that could be one");
            }
        }
    }
}
