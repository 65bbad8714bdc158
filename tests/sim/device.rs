//! A model disk: writes that are issued, reach the medium block by block, and complete; and the whole history of each
//! block, from which any point can be judged.
//!
//! Moments are stamps, which grow with every step of the simulation, so no two things happen at once. What a block holds
//! is a number, its content; two versions with the same content cannot be told apart, as on a real disk. Deliberately not
//! here: who writes, who reads, and what a tracker sees of it.

use std::collections::BTreeSet;

use mobility_format::BlockRange;

use crate::flights::Tag;

/// Names a write. Number 0 stands for what the disk held at first: zeroes.
pub(crate) type WriteId = usize;
pub(crate) type Content = u64;

pub(crate) const ZERO: Content = 0;
const TORN: Content = 1 << 63;
const TAGS: Tag = 8;

/// Whether a read has met a block while it was being changed.
pub(crate) fn is_torn(content: Content) -> bool {
    content & TORN != 0
}

#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) disk: usize,
    pub(crate) range: BlockRange,
    pub(crate) content: Content,
    pub(crate) issued: u64,
    pub(crate) completed: Option<u64>,
    /// How many stages are done: two for each block, begun and finished.
    pub(crate) stage: u64,
    /// After how many blocks the device gives up with an error.
    pub(crate) blocks_written: u64,
    pub(crate) marks: Marks,
    /// How long a stage takes, about, in microseconds.
    pub(crate) pace: u64,
    /// Who goes on when it has completed.
    pub(crate) writer: usize,
    /// No other write in flight has the same.
    pub(crate) tag: Tag,
}

/// What the tracker sees of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) issue: Mark,
    pub(crate) completion: Mark,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    #[default]
    Seen,
    /// Not seen, and counted.
    Missed,
    /// Not seen, and nobody knows.
    Lost,
}

#[derive(Clone, Debug, Default)]
struct Block {
    content: Content,
    changing: u32,
    /// The writes that reached it, oldest first.
    history: Vec<WriteId>,
    in_flight: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Device {
    blocks: Vec<Block>,
    pub(crate) writes_in_flight: u32,
    /// Those of the writes in flight.
    tags: BTreeSet<Tag>,
    pub(crate) attached: bool,
    unreadable: Vec<BlockRange>,
    torn_reads: u64,
}

impl Device {
    pub(crate) fn new(size: u64) -> Self {
        let blocks = vec![Block::default(); size as usize];
        Device {
            blocks,
            writes_in_flight: 0,
            tags: BTreeSet::new(),
            attached: true,
            unreadable: Vec::new(),
            torn_reads: 0,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub(crate) fn grow(&mut self, by: u64) {
        self.blocks.resize(self.blocks.len() + by as usize, Block::default());
    }

    pub(crate) fn content(&self, block: u64) -> Content {
        self.blocks[block as usize].content
    }

    pub(crate) fn set_unreadable(&mut self, ranges: Vec<BlockRange>) {
        self.unreadable = ranges;
    }

    /// Nothing if the block cannot be read now.
    pub(crate) fn read(&mut self, block: u64) -> Option<Content> {
        let bad = self.unreadable.iter().any(|range| range.start.0 <= block && block < range.end().0);
        if bad || !self.attached || block >= self.size() {
            return None;
        }
        if self.blocks[block as usize].changing > 0 {
            // No two reads that race a write see the same.
            self.torn_reads += 1;
            return Some(TORN | self.torn_reads);
        }
        Some(self.content(block))
    }

    pub(crate) fn busy(&self, range: BlockRange) -> bool {
        (range.start.0..range.end().0).any(|block| self.blocks[block as usize].in_flight > 0)
    }

    fn each(&mut self, range: BlockRange, f: impl FnMut(&mut Block)) {
        self.blocks[range.start.0 as usize..range.end().0 as usize].iter_mut().for_each(f);
    }

    /// The tags that no write in flight has; there are more than writers, of whom each writes one at a time.
    pub(crate) fn free_tags(&self) -> Vec<Tag> {
        (0..TAGS).filter(|tag| !self.tags.contains(tag)).collect()
    }

    pub(crate) fn issue(&mut self, write: &Write) {
        self.writes_in_flight += 1;
        self.tags.insert(write.tag);
        self.each(write.range, |block| block.in_flight += 1);
    }

    /// One stage of a write. True when it was the last and the write is complete.
    pub(crate) fn advance(&mut self, id: WriteId, write: &mut Write, stamp: u64) -> bool {
        if write.stage < 2 * write.blocks_written {
            let block = &mut self.blocks[(write.range.start.0 + write.stage / 2) as usize];
            if write.stage.is_multiple_of(2) {
                block.changing += 1;
            } else {
                block.changing -= 1;
                block.content = write.content;
                block.history.push(id);
            }
            write.stage += 1;
            return false;
        }
        write.completed = Some(stamp);
        self.writes_in_flight -= 1;
        self.tags.remove(&write.tag);
        self.each(write.range, |block| block.in_flight -= 1);
        true
    }

    /// What a power cut at `t0` could have left in a block.
    pub(crate) fn legal(&self, writes: &[Write], block: u64, t0: u64) -> impl Iterator<Item = Content> {
        let history = self.blocks.get(block as usize).map_or(&[][..], |block| &block.history);
        let completed = |&id: &WriteId| writes[id].completed.is_some_and(|at| at < t0);
        let floor = history.iter().rposition(completed);
        let base = floor.map_or(ZERO, |index| writes[history[index]].content);
        let later = &history[floor.map_or(0, |index| index + 1)..];
        let in_flight = later.iter().filter(move |&&id| writes[id].issued < t0).map(|&id| writes[id].content);
        std::iter::once(base).chain(in_flight)
    }

    /// Whether the block held `content` at some time before `t0`, and was given it again after.
    pub(crate) fn came_back(&self, writes: &[Write], block: u64, t0: u64, content: Content) -> bool {
        let history = self.blocks.get(block as usize).map_or(&[][..], |block| &block.history);
        let ended = |id: WriteId| writes[id].completed.unwrap_or(u64::MAX);
        let same = || history.iter().copied().filter(|&id| writes[id].content == content);
        let before = content == ZERO || same().any(|id| writes[id].issued < t0);
        before && same().any(|id| ended(id) >= t0)
    }

    /// An earlier content of the block, for a write that brings it back.
    pub(crate) fn earlier(&self, writes: &[Write], block: u64, back: usize) -> Content {
        let history = &self.blocks[block as usize].history;
        history.len().checked_sub(back + 1).map_or(ZERO, |index| writes[history[index]].content)
    }
}
