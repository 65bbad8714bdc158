//! What the engine knows of one disk.
//!
//! Every block of a disk is in at most one of three states of debt: `unverified` (nothing is known: compare it with the
//! head, or send it), `owed` (it changed: send it), or neither. `sent` are those sent in the current epoch: they are owed
//! again when the epoch is given up. Deliberately not here: when any of it is done.

use mobility_format::{BlockRange, BlockSet, ByteCount, DiskId, Epoch};

use crate::{
    CutPlan, Drained, Fault, Limits, SegmentId, Time, Tracking,
    event::{DiskStart, Known},
    hot::Hot,
    misses::Misses,
    suspects::{OLDEST, Suspects},
    unconfirmed::Unconfirmed,
};

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    pub(crate) size: ByteCount,
    pub(crate) tracking: Tracking,
    pub(crate) in_head: bool,
    pub(crate) unverified: BlockSet,
    pub(crate) owed: BlockSet,
    pub(crate) sent: BlockSet,
    /// Found equal to the head in this epoch.
    compared: BlockSet,
    pub(crate) unconfirmed: Unconfirmed,
    pub(crate) segments: Vec<SegmentId>,
    pub(crate) fault: Option<Fault>,
    pub(crate) gone: bool,
    /// Why everything became unverified, until it is verified again.
    pub(crate) resync: Option<String>,
    /// Whether its content has never been sent as a whole.
    pub(crate) initial: bool,
    pub(crate) audit: AuditState,
    /// Blocks found changed since the last recovery point.
    pub(crate) changed: u64,
    /// What the last pass or cut was to read.
    pub(crate) last_read: ByteCount,
    suspects: Suspects,
    /// Read in passes since the last consistent cut or idle moment.
    recent: BlockSet,
    /// Read in passes while a write may have been in flight that nobody saw being issued.
    read_unseen: BlockSet,
    misses: Misses,
    hot: Hot,
    /// Since when this run of the agent follows the writes, until whatever was in flight then must have ended.
    inherited: Option<Time>,
}

/// How far the audit of a disk has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AuditState {
    pub(crate) next: u64,
    pub(crate) due: Time,
    pub(crate) checked: u64,
    pub(crate) missed: u64,
}

/// An agent that was killed may have owed a lot. More than this part of an epoch (256 MiB by default) is compared with the
/// head before it is sent, where that can be: most of an interrupted initial replication is already there.
const COMPARE_FROM: u64 = 16;

impl Disk {
    pub(crate) fn new(now: Time, limits: &Limits, start: DiskStart) -> Self {
        let mut disk = Disk {
            id: start.id,
            size: start.size,
            tracking: start.tracking,
            in_head: start.in_head,
            unverified: BlockSet::new(),
            owed: BlockSet::new(),
            sent: BlockSet::new(),
            compared: BlockSet::new(),
            unconfirmed: Unconfirmed::default(),
            segments: Vec::new(),
            fault: None,
            gone: false,
            resync: None,
            initial: !start.in_head,
            audit: AuditState::default(),
            changed: 0,
            last_read: ByteCount(0),
            suspects: Suspects::default(),
            recent: BlockSet::new(),
            read_unseen: BlockSet::new(),
            misses: Misses::default(),
            hot: Hot::default(),
            inherited: Some(now),
        };
        let many = ByteCount(limits.checkpoint_bytes.0 / COMPARE_FROM);
        match (start.known, start.tracking) {
            (Known::Owed(blocks), Tracking::Continuous) if start.in_head && blocks.bytes() > many => {
                disk.unverified = blocks;
            }
            (Known::Owed(blocks), _) => disk.owed = blocks,
            // A scan compares everything anyway.
            (Known::Nothing(reason), Tracking::Polling) => disk.resync = Some(reason),
            (Known::Nothing(reason), Tracking::Continuous) => {
                disk.suspect_all(reason);
                disk.misses = Misses::at_start(now);
            }
        }
        if disk.continuous() {
            // What an earlier run read last may have been torn by a write that is still in flight.
            disk.recent = BlockSet::of(disk.whole());
        }
        disk
    }

    pub(crate) fn whole(&self) -> BlockRange {
        BlockRange::whole_disk(self.size)
    }

    pub(crate) fn continuous(&self) -> bool {
        self.tracking == Tracking::Continuous
    }

    /// Nothing that was known of the disk holds any more.
    pub(crate) fn suspect_all(&mut self, reason: String) {
        self.resync = Some(reason);
        self.owed = BlockSet::new();
        self.unverified = BlockSet::of(self.whole());
    }

    /// `blocks` may not be stored as they should be. A scan compares everything anyway.
    pub(crate) fn suspect(&mut self, blocks: &BlockSet, reason: String) {
        self.resync = Some(reason);
        if self.continuous() {
            let whole = BlockSet::of(self.whole());
            self.unverified.union_with(&blocks.intersection(&whole).difference(&self.owed));
        }
    }

    /// Takes in what was drained from the tracker. Returns why the disk is unverified, if it is now.
    pub(crate) fn absorb(&mut self, now: Time, drained: &Drained) -> Option<String> {
        let owed = self.suspects.absorb(now, drained);
        self.owe(&drained.dirty);
        self.owe(&owed);
        self.inherited = self.inherited.filter(|&at| !drained.idle && now.since(at) <= OLDEST);
        if drained.idle {
            // What could have torn a block has ended since, and left its mark, unless nobody saw it begin: that mark may be
            // still to come.
            self.recent = BlockSet::new();
            let read_unseen = std::mem::take(&mut self.read_unseen);
            self.owe(&read_unseen);
        }
        if self.misses.absorb(now, drained) {
            return Some(
                "the kernel skipped the tracker at the issue and at the completion of a write".to_owned(),
            );
        }
        drained.unknown.clone()
    }

    /// `blocks` have to be sent.
    pub(crate) fn owe(&mut self, blocks: &BlockSet) {
        let whole = self.whole();
        if blocks.runs().last().is_some_and(|run| run.end() > whole.end()) {
            return self.owe(&blocks.runs().map(|run| run.intersection(whole)).collect());
        }
        self.changed += blocks.difference(&self.owed).difference(&self.sent).len();
        self.owed.union_with(blocks);
        self.unverified.subtract(blocks);
    }

    /// Of the blocks in `asked`, only those in `found` differ from the head.
    pub(crate) fn compared(&mut self, asked: &BlockSet, found: &BlockSet) {
        self.compared.union_with(&asked.difference(found));
    }

    /// The head is not the one that was compared with.
    pub(crate) fn distrust_head(&mut self) {
        let compared = std::mem::take(&mut self.compared);
        self.owed.union_with(&compared);
    }

    /// Takes up to `count` owed blocks, and the suspects, for a pass; where a cut follows, those that it would have to read
    /// again are left to it.
    pub(crate) fn take_pass(&mut self, count: u64, before_cut: bool) -> BlockSet {
        let hot = if before_cut { self.owed.intersection(&self.hot.blocks()) } else { BlockSet::new() };
        self.owed.subtract(&hot);
        let mut blocks = self.owed.take_first(count);
        self.owed.union_with(&hot);
        blocks.union_with(&self.suspects.open());
        if self.continuous() {
            self.recent.union_with(&blocks);
            if self.misses.any_unseen() {
                self.read_unseen.union_with(&blocks);
            }
        }
        self.sent.union_with(&blocks);
        self.last_read = blocks.bytes();
        blocks
    }

    /// `blocks` of a pass could not be read after all.
    pub(crate) fn unread(&mut self, blocks: &BlockSet) {
        self.sent.subtract(blocks);
        self.owed.union_with(blocks);
    }

    /// Whether a write may be in flight that the tracker did not see being issued.
    pub(crate) fn unseen(&self, now: Time) -> bool {
        self.misses.unseen(now)
    }

    /// Blocks with a write in flight or with a lost completion.
    pub(crate) fn suspects(&self) -> BlockSet {
        self.suspects.open()
    }

    pub(crate) fn cut_plan(&self, now: Time) -> CutPlan {
        CutPlan {
            owed: self.owed.clone(),
            suspects: self.suspects.open(),
            recent: self.recent.clone(),
            hot: self.hot.blocks(),
            ignored: BlockSet::new(),
            lately: self.suspects.lately(),
            unseen: self.unseen(now),
            inherited: self.inherited.is_some(),
        }
    }

    /// A cut has ended, after conflicts on these blocks.
    pub(crate) fn conflicted(&mut self, conflicts: &BlockSet) {
        self.hot.cut(conflicts);
    }

    /// A consistent cut has read `blocks`, and they are in the epoch. Whatever else is in it was not torn.
    pub(crate) fn cut_read(&mut self, blocks: &BlockSet) {
        self.fault = None;
        self.recent = BlockSet::new();
        self.owed.subtract(blocks);
        self.sent.union_with(blocks);
        self.last_read = blocks.bytes();
    }

    /// The epoch is durable. Returns what still is not.
    pub(crate) fn settle(&mut self, epoch: Epoch) -> BlockSet {
        self.unconfirmed.committed(epoch, std::mem::take(&mut self.sent));
        self.compared = BlockSet::new();
        self.segments.clear();
        // Not before: what has never been sent is quicker sent than compared.
        self.in_head |= !self.gone && self.unverified.is_empty();
        if self.unverified.is_empty() && self.owed.is_empty() {
            self.resync = None;
            self.initial = false;
        }
        let mut left = self.owed.clone();
        left.union_with(&self.unverified);
        left.union_with(&self.suspects.open());
        left
    }

    /// What was committed after `head` does not count.
    pub(crate) fn goes_on_from(&mut self, head: Epoch) {
        let lost = self.unconfirmed.take_after(head);
        self.owe(&lost);
    }

    /// Nothing of the disk goes into the epoch: what was sent of it is owed again.
    pub(crate) fn give_up(&mut self) {
        self.segments.clear();
        let sent = std::mem::take(&mut self.sent);
        self.owed.union_with(&sent);
        self.unverified.subtract(&sent);
    }

    /// Whether it is to be scanned as a whole, and nothing is known of it before.
    pub(crate) fn unscanned(&self) -> bool {
        let unknown = self.initial || self.resync.is_some();
        unknown && !self.continuous() && self.owed.is_empty() && self.sent.is_empty()
    }

    /// Whether all that is there to send is sent, but for what a cut reads.
    pub(crate) fn verified(&self) -> bool {
        self.unverified.is_empty()
    }
}
