//! Goes through a disk's windows in order and finds the newest word on each block, from the indexes alone.
//!
//! Segments are opened when the sweep reaches their first block and closed behind their last. Memory: what is buffered of
//! the indexes is bounded over all open segments together, however many epochs reach into one window, beside a few
//! hundred bytes for each segment that the disk has. Deliberately not here: reading content (`assemble`).

use std::{collections::VecDeque, sync::Arc};

use mobility_format::{
    BlockIndex, BlockRange, ByteCount, WINDOW_BLOCKS,
    segment::{IndexEntry, Kind},
};

use super::{ContentError, Mask, ObjectPool, OpenSegment, SegmentSource};
use crate::storage::{Reading, Stores};

/// Index entries buffered over all open segments: 8 MiB.
const BUFFERED_ENTRIES: usize = 128 * 1024;
/// Index entries buffered of one segment, at most and at least.
const BUFFERED_PER_SEGMENT: std::ops::RangeInclusive<usize> = 8..=256;

/// Something that is said about a disk's content. Of several layers the later one counts.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    /// What a segment says.
    Segment(SegmentSource),
    /// That these blocks are zero, because the disk had shrunk.
    Cleared(BlockRange),
}

impl Layer {
    /// A disk shrank from `old` to `new`.
    pub(crate) fn cleared(new: ByteCount, old: ByteCount) -> Layer {
        Layer::Cleared(BlockRange::new(new.blocks(), old.blocks().saturating_sub(new.blocks())))
    }

    pub(crate) fn first_block(&self) -> BlockIndex {
        match self {
            Layer::Segment(source) => source.named.first_block,
            Layer::Cleared(range) => range.start,
        }
    }

    pub(crate) fn end_block(&self) -> BlockIndex {
        match self {
            Layer::Segment(source) => source.named.end_block,
            Layer::Cleared(range) => range.end(),
        }
    }
}

/// An extent that has the newest word on some of its blocks.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) segment: Arc<OpenSegment>,
    pub(crate) entry: IndexEntry,
    /// On which blocks of the window.
    pub(crate) owned: Mask,
}

/// What is said about a window's blocks.
#[derive(Clone, Debug)]
pub(crate) struct WindowPlan {
    /// Its first block.
    pub(crate) window: BlockIndex,
    /// The extents to read, oldest first.
    pub(crate) pieces: Vec<Piece>,
    /// The blocks that `pieces` own.
    pub(crate) data: Mask,
    /// The blocks about which something is said, `data` among them. What is said of the others is that they are zero.
    pub(crate) said: Mask,
}

impl WindowPlan {
    pub(crate) fn new(window: BlockIndex) -> Self {
        WindowPlan { window, pieces: Vec::new(), data: Mask::default(), said: Mask::default() }
    }

    /// Takes the word of an extent on the blocks on which nothing newer was taken. Call it newest first, then
    /// [`WindowPlan::complete`].
    pub(crate) fn offer(&mut self, range: BlockRange, content: Option<(&Arc<OpenSegment>, &IndexEntry)>) {
        let owned = Mask::of(self.window, range) - self.said;
        if owned.is_empty() {
            return;
        }
        self.said = self.said | owned;
        if let Some((segment, entry)) = content.filter(|(_, entry)| entry.kind != Kind::Zero) {
            self.data = self.data | owned;
            self.pieces.push(Piece { segment: segment.clone(), entry: *entry, owned });
        }
    }

    /// Puts the extents in the order in which they are to be laid over one another.
    pub(crate) fn complete(mut self) -> Self {
        self.pieces.reverse();
        self
    }
}

/// What is left of one layer, from the current window on.
struct Cursor {
    rank: usize,
    end: BlockIndex,
    segment: Option<Arc<OpenSegment>>,
    buffer: VecDeque<IndexEntry>,
    /// Where to read on in the index; nothing where its end was reached.
    refill_from: Option<BlockIndex>,
}

impl Cursor {
    fn open(rank: usize, layer: &Layer, pool: &Arc<ObjectPool>) -> Result<Cursor, ContentError> {
        let (mut segment, mut buffer, mut refill_from) = (None, VecDeque::new(), None);
        match layer {
            Layer::Segment(source) => {
                segment = Some(Arc::new(source.open(pool)?));
                refill_from = Some(BlockIndex(0));
            }
            Layer::Cleared(range) => buffer.extend(IndexEntry::zeros(*range)),
        }
        Ok(Cursor { rank, end: layer.end_block(), segment, buffer, refill_from })
    }

    /// Drops what ends at or before `block` and returns the next extent.
    fn next_after(&mut self, block: BlockIndex, room: usize) -> Result<Option<IndexEntry>, ContentError> {
        loop {
            while let Some(entry) = self.buffer.front() {
                if entry.range().end() > block {
                    return Ok(Some(*entry));
                }
                self.buffer.pop_front();
            }
            let (Some(segment), Some(from)) = (&self.segment, self.refill_from) else { return Ok(None) };
            let entries = segment.reader.entries_from(from.max(block)).map_err(|err| segment.failed(err))?;
            for entry in entries.take(room) {
                self.buffer.push_back(entry.map_err(|err| segment.failed(err))?);
            }
            self.refill_from = self.buffer.back().map(|entry| entry.range().end());
        }
    }
}

/// The windows of a disk about which anything is said, in order.
pub(crate) struct Sweep {
    pool: Arc<ObjectPool>,
    /// With their ranks, sorted by first block.
    layers: std::iter::Peekable<std::vec::IntoIter<(usize, Layer)>>,
    /// Newest first.
    active: Vec<Cursor>,
    at: BlockIndex,
    end: BlockIndex,
}

impl Sweep {
    /// Goes through the first `end` blocks of the disk that `layers`, oldest first, make up.
    pub(crate) fn new(stores: &Stores, layers: Vec<Layer>, end: u64) -> Sweep {
        let mut layers: Vec<_> = layers.into_iter().enumerate().collect();
        layers.sort_by_key(|(_, layer)| layer.first_block());
        Sweep {
            pool: ObjectPool::new(stores, Reading::Ranges),
            layers: layers.into_iter().peekable(),
            active: Vec::new(),
            at: BlockIndex(0),
            end: BlockIndex(end),
        }
    }

    fn open_up_to(&mut self, block: BlockIndex) -> Result<(), ContentError> {
        while let Some((rank, layer)) = self.layers.next_if(|(_, layer)| layer.first_block() < block) {
            let cursor = Cursor::open(rank, &layer, &self.pool)?;
            let position = self.active.partition_point(|other| other.rank > rank);
            self.active.insert(position, cursor);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<WindowPlan>, ContentError> {
        while self.at < self.end {
            let next = BlockIndex(self.at.0 + WINDOW_BLOCKS);
            self.open_up_to(next)?;
            let room = (BUFFERED_ENTRIES / self.active.len().max(1))
                .clamp(*BUFFERED_PER_SEGMENT.start(), *BUFFERED_PER_SEGMENT.end());
            let (plan, following) = self.plan(room)?;
            self.active.retain(|cursor| cursor.end > next);
            let unopened = self.layers.peek().map_or(self.end, |(_, layer)| layer.first_block());
            self.at = following.min(unopened).max(next).window_start();
            if !plan.said.is_empty() {
                return Ok(Some(plan.complete()));
            }
        }
        Ok(None)
    }

    /// The window at `self.at`, and the next block behind it about which something already open says anything.
    fn plan(&mut self, room: usize) -> Result<(WindowPlan, BlockIndex), ContentError> {
        let (start, next) = (self.at, BlockIndex(self.at.0 + WINDOW_BLOCKS));
        let inside = Mask::below(self.end.0 - start.0);
        let mut plan = WindowPlan::new(start);
        let mut following = self.end;
        for cursor in &mut self.active {
            let mut at = start;
            while let Some(entry) = cursor.next_after(at, room)? {
                if entry.start >= next {
                    following = following.min(entry.start);
                    break;
                }
                let range = entry.range();
                let content = cursor.segment.as_ref().map(|segment| (segment, &entry));
                plan.offer(
                    range.intersection(BlockRange { start: BlockIndex(0), count: self.end.0 }),
                    content,
                );
                if range.end() >= next {
                    following = following.min(next);
                    break;
                }
                at = range.end();
            }
        }
        debug_assert!((plan.said - inside).is_empty(), "nothing is said of what lies behind the disk's end");
        Ok((plan, following))
    }
}

impl Iterator for Sweep {
    type Item = Result<WindowPlan, ContentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            self.at = self.end;
        }
        step
    }
}
