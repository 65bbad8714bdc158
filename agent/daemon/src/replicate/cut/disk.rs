//! One disk of a cut: the tracker's bitmaps on one side, the engine's arithmetic on the other.
//!
//! Deliberately not here: the order of the steps over several disks (`cut`).

use std::{mem, sync::MutexGuard};

use mobility_capture::{
    direct::{AlignedBuf, DirectReader, JoinedRead},
    ebpf::Tracker,
    freeze::swap_ranges,
};
use mobility_engine::{CutDisk, CutDiskOutcome, Drained};
use mobility_format::{BlockSet, DiskId};

use super::{Content, Target, lock};
use crate::{
    broken::{self, Broken},
    replicate,
};

pub(super) struct Cutting<'a> {
    pub(super) id: DiskId,
    pub(super) reader: &'a DirectReader,
    tracker: MutexGuard<'a, Tracker>,
    recent: BlockSet,
    concerned: BlockSet,
    cut: CutDisk,
    drained: Drained,
    /// Writes issued after `t0` that were taken out of the bitmap together with what came before.
    touched_since: BlockSet,
    misses: u64,
    conflicts: BlockSet,
    content: Content,
    /// Of the rounds before this one.
    rounds: Vec<Drained>,
    conflicted: BlockSet,
}

impl<'a> Cutting<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        let tracker = lock(&target.tracker);
        let misses = misses(&tracker);
        let mut plan = target.plan.clone();
        plan.ignored = swap_ranges(&target.disk).blocks;
        Cutting {
            id: target.id,
            reader: &target.reader,
            tracker,
            recent: plan.recent.clone(),
            concerned: BlockSet::new(),
            cut: CutDisk::new(plan),
            drained: Drained::default(),
            touched_since: BlockSet::new(),
            misses,
            conflicts: BlockSet::new(),
            content: Content::default(),
            rounds: Vec::new(),
            conflicted: BlockSet::new(),
        }
    }

    pub(super) fn take_touched(&mut self) {
        self.drained.touched = self.tracker.take_touched();
    }

    pub(super) fn take_dirty(&mut self) {
        // Before `dirty` is taken: a write that ends in between is then seen twice and not never.
        self.concerned = self.cut.concerned(&self.drained.touched);
        let in_flight = self.tracker.in_flight_within(&self.concerned);
        let taken = self.tracker.drain();
        self.drained.unknown = replicate::disk::unknown(&taken);
        self.touched_since = taken.touched;
        self.drained.dirty = taken.dirty;
        self.drained.completion_missed = taken.completion_missed;
        self.drained.issue_missed = taken.issue_missed;
        if self.drained.completion_missed {
            // It may be that of a write issued after this disk's `touched` was taken and before the last disk's was.
            self.drained.touched.union_with(&self.touched_since);
        }
        self.drained.idle = self.tracker.idle();
        self.cut.taken(&self.drained, &in_flight);
    }

    pub(super) fn settled(&mut self) -> bool {
        self.drained.idle |= self.cut.must_settle() && self.tracker.idle();
        let in_flight = self.tracker.in_flight_within(&self.concerned);
        let concerned = self.cut.to_read().union(&self.recent);
        let dirty = self.tracker.dirty_within(&concerned);
        let touched = self.tracker.touched_within(&dirty).union(&self.touched_since);
        self.cut.settled(&in_flight, &dirty, &touched, self.drained.idle)
    }

    pub(super) fn read_first(&self) -> BlockSet {
        self.cut.read_first()
    }

    pub(super) fn read_after(&self) -> BlockSet {
        self.cut.to_read().difference(&self.cut.read_first())
    }

    /// How much this round reads, in blocks.
    pub(super) fn blocks_to_read(&self) -> u64 {
        self.cut.to_read().len()
    }

    /// How much a next round would have to read if it began now, in blocks.
    pub(super) fn blocks_left(&self) -> u64 {
        self.tracker.dirty().union(&self.conflicts).len()
    }

    /// How much all rounds have read or are about to, each block once.
    pub(super) fn bytes_read(&self) -> u64 {
        self.cut.read().bytes().0
    }

    /// Takes in what was read, and looks whether it was being changed.
    pub(super) fn take(&mut self, read: &JoinedRead, bytes: AlignedBuf) {
        if broken::is(Broken::DrainAfterRead) {
            (_, _) = (self.tracker.take_dirty(), self.tracker.take_touched());
        }
        let blocks: BlockSet = read.wanted.iter().copied().collect();
        let dirty = self.tracker.dirty_within(&blocks);
        let mut touched = self.tracker.touched_within(&blocks);
        touched.union_with(&self.touched_since.intersection(&blocks));
        if broken::is(Broken::WrongBitmap) {
            touched = BlockSet::new();
        }
        if !broken::is(Broken::NoValidation) {
            self.conflicts.union_with(&self.cut.conflicts(&touched, &dirty));
        }
        if let [all] = read.wanted[..] {
            return self.content.put(all, bytes);
        }
        for &range in &read.wanted {
            let mut part = AlignedBuf::new(range.bytes().0 as usize);
            part.overwrite(0, read.bytes(&bytes, range));
            self.content.put(range, part);
        }
    }

    pub(super) fn conflicts(&self) -> u64 {
        self.conflicts.len()
    }

    pub(super) fn missed(&self) -> bool {
        misses(&self.tracker) != self.misses
    }

    pub(super) fn next_round(&mut self) {
        let (drained, conflicts) = (self.taken(), mem::take(&mut self.conflicts));
        self.recent.union_with(self.cut.to_read());
        self.cut.next_round(&drained, &conflicts);
        self.conflicted.union_with(&conflicts);
        self.rounds.push(drained);
    }

    /// All that this round has taken.
    fn taken(&mut self) -> Drained {
        let mut drained = mem::take(&mut self.drained);
        drained.touched.union_with(&mem::take(&mut self.touched_since));
        drained
    }

    pub(super) fn into_outcome(mut self) -> (DiskId, CutDiskOutcome, Content) {
        let last = self.taken();
        self.rounds.push(last);
        self.conflicted.union_with(&self.conflicts);
        let outcome =
            CutDiskOutcome { drained: self.rounds, read: self.cut.read(), conflicts: self.conflicted };
        (self.id, outcome, self.content)
    }
}

/// Runs of the issue program that the kernel has skipped: a write whose issue was missed may have changed what is read
/// without a trace. A missed completion cannot, for its issue was seen.
fn misses(tracker: &Tracker) -> u64 {
    tracker.counters().map_or(u64::MAX, |counters| counters.issue_misses)
}
