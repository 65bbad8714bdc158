//! A model of the eBPF tracker of one disk: the bitmaps and the table of writes in flight, which outlive the agent, the
//! counters, and no more.
//!
//! Marks come one write at a time, from the device's side. The agent's side takes a word at a time, as it does from the
//! shared memory, so that marks fall between any two words. Deliberately not here: in which order the agent does it.

use mobility_format::{BlockRange, BlockSet};

use crate::flights::{Flights, Tag};

#[derive(Clone, Debug, Default)]
pub(crate) struct Tracker {
    pub(crate) dirty: BlockSet,
    pub(crate) touched: BlockSet,
    /// Written by the agent alone; never cleared before what it stands for is durable.
    pub(crate) pending: BlockSet,
    flights: Flights,
    /// What was in flight when a bitmap was last taken: dirty, until the next taking. Of this run of the agent.
    carried: BlockSet,
    /// How many writes the device is working on, and the time: what the agent finds out for itself.
    pub(crate) writes_in_flight: u32,
    pub(crate) now: u64,
    /// The blocks it covers.
    pub(crate) size: u64,
    counted: Counts,
    /// What the agent has dealt with. Kept beside the bitmaps, so that it outlives the agent too.
    seen: Counts,
    /// A mark was missed or could not be placed, and the disk has not been marked as a whole since.
    pub(crate) unverified: bool,
    /// It has been idle since it started: no write is in flight that was issued before.
    pub(crate) settled: bool,
    /// There is none: it was lost, and a new one starts when the agent looks for it. Until then nothing is marked.
    pub(crate) lost: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) completions: u64,
    pub(crate) issues: u64,
    pub(crate) passthrough: u64,
}

impl Tracker {
    /// One that starts. All is pending from the first moment: it must not be told from one that has gone on by whoever
    /// finds it after a kill.
    pub(crate) fn new(size: u64) -> Self {
        let mut tracker = Tracker { size, ..Tracker::default() };
        tracker.mark_all();
        tracker
    }

    pub(crate) fn lost(size: u64) -> Self {
        Tracker { size, lost: true, ..Tracker::default() }
    }

    fn covered(&self, range: BlockRange) -> BlockRange {
        if self.lost {
            return BlockRange::new(0, 0);
        }
        range.intersection(BlockRange::new(0, self.size))
    }

    pub(crate) fn mark_issue(&mut self, range: BlockRange, tag: Tag) {
        self.touched.insert_range(self.covered(range));
        if !self.lost {
            self.flights.issued(tag, range);
        }
    }

    pub(crate) fn mark_completion(&mut self, range: BlockRange, tag: Tag) {
        self.dirty.insert_range(self.covered(range));
        self.flights.completed(tag);
    }

    /// Another run of the agent takes it up.
    pub(crate) fn taken_up(&mut self) {
        self.flights.forget_seen();
        self.carried = BlockSet::new();
    }

    /// The blocks that a write may be changing, as the agent knows it.
    pub(crate) fn in_flight(&self) -> BlockSet {
        self.flights.now().intersection(&BlockSet::of(BlockRange::new(0, self.size)))
    }

    /// Keeps what is in flight for the next taking of a bitmap.
    fn carry(&mut self) {
        let in_flight = self.flights.observe(self.writes_in_flight == 0, self.now);
        let in_flight = in_flight.intersection(&BlockSet::of(BlockRange::new(0, self.size)));
        self.pending.union_with(&in_flight);
        self.carried.union_with(&in_flight);
    }

    /// Of what is pending only `left` still is, and what was in flight at the last taking.
    pub(crate) fn keep_pending(&mut self, mut left: BlockSet) {
        left.union_with(&self.carried);
        self.pending = left;
    }

    /// All marks of `blocks` are cleared, which no agent may do.
    pub(crate) fn forget(&mut self, blocks: &BlockSet) {
        for marks in [&mut self.dirty, &mut self.touched, &mut self.carried] {
            marks.subtract(blocks);
        }
    }

    fn ends_with(&self, words: BlockRange) -> bool {
        words.end().0 >= self.size
    }

    pub(crate) fn count(&mut self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.counted);
    }

    /// What was missed since the last call, which is then dealt with.
    pub(crate) fn take_counts(&mut self) -> Counts {
        let (now, seen) = (self.counted, self.seen);
        self.seen = now;
        Counts {
            completions: now.completions - seen.completions,
            issues: now.issues - seen.issues,
            passthrough: now.passthrough - seen.passthrough,
        }
    }

    pub(crate) fn uncounted(&self) -> bool {
        self.counted != self.seen
    }

    pub(crate) fn take_dirty(&mut self, words: BlockRange) -> BlockSet {
        let mut taken = self.dirty.intersection(&BlockSet::of(words));
        self.pending.union_with(&taken);
        self.dirty.subtract(&taken);
        if self.ends_with(words) {
            taken.union_with(&std::mem::take(&mut self.carried));
            self.carry();
        }
        taken
    }

    pub(crate) fn take_touched(&mut self, words: BlockRange) -> BlockSet {
        let taken = self.touched.intersection(&BlockSet::of(words));
        self.pending.union_with(&taken);
        self.touched.subtract(&taken);
        if self.ends_with(words) {
            self.carry();
        }
        taken
    }

    /// Everything is pending, which is all there is to know.
    pub(crate) fn mark_all(&mut self) {
        self.pending = BlockSet::of(BlockRange::new(0, self.size));
        self.unverified = false;
    }

    /// Goes on with a larger disk; what is new is dirty.
    pub(crate) fn grow(&mut self, size: u64, forgets: bool) {
        if !forgets {
            self.dirty.insert_range(BlockRange::new(self.size, size - self.size));
        }
        self.size = size;
    }
}
