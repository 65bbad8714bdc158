//! A cycle: everything from one commit to the next.
//!
//! ```text
//! Idle -> Collect -> Copy -> Collect ... -> Cut -> Flush -> Commit -> Idle      recovery point
//!            |-> Compare -> Copy -----------------> Flush -> Commit -> Idle      checkpoint
//!         Cut, Confirm -> Pause -> Collect                                       something changed meanwhile
//!         Cut -> Sync, Quiesce -> Collect                                        a freeze follows
//! ```
//!
//! Each phase waits for the answers to what it asked for, then the next is chosen here and nowhere else. Deliberately
//! not here: what an answer does to a disk (`disk`, `engine`).

mod choice;
mod commit;
mod cut;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use choice::Choice;
pub(crate) use commit::Backlog;
use cut::Attempt;
pub(crate) use wishes::Wish;

use mobility_format::{BlockSet, ByteCount, DiskId};

use crate::{Action, CommitDisk, CommitKind, CutFigures, Engine, Time, disk::Disk, engine::StopWish};

/// So many passes are made before what is left is too much for a cut, whatever they achieve.
const UNLUCKY_PASSES: u32 = 3;
/// After so many failures in a row to read a disk, a cycle goes on without it.
const DISK_FAILURES: u32 = 3;

/// What the engine waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Generation,
    RetryGeneration(Time),
    Idle,
    Collect(BTreeSet<DiskId>),
    Compare(BTreeSet<DiskId>),
    Copy(BTreeSet<DiskId>),
    Sync,
    Quiesce,
    Cut,
    CutPacking,
    Confirm(BTreeSet<DiskId>),
    Pause(Time),
    Flush,
    Commit,
    RetryCommit(Time),
    Stopped,
}

impl Phase {
    pub(crate) fn answered(&mut self, id: DiskId) {
        if let Phase::Collect(waiting)
        | Phase::Compare(waiting)
        | Phase::Copy(waiting)
        | Phase::Confirm(waiting) = self
        {
            waiting.remove(&id);
        }
    }
}

/// Where to go when what is being copied has been copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Collect,
    Cut,
    Checkpoint,
    Fuzzy(String),
}

/// What a cycle knows that the next one does not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cycle {
    started: Option<Time>,
    passes: u32,
    /// What was left for a cut when the last pass began.
    left: Option<ByteCount>,
    cut: Attempt,
    next: Next,
    /// What is to be committed, as it was when it was decided: what happens to a disk afterwards is of the next epoch.
    commit: Option<(CommitKind, Vec<CommitDisk>)>,
    figures: CutFigures,
    /// The disks in the last cut, with their sizes then.
    cut_disks: BTreeMap<DiskId, ByteCount>,
    /// How many wishes for a point had come when it was cut.
    served: u64,
    pub(crate) excluded: BTreeSet<DiskId>,
    /// Disks that could not be read in this round.
    pub(crate) failed: BTreeSet<DiskId>,
    pub(crate) comparing: BTreeMap<DiskId, BlockSet>,
    pub(crate) unconfirmed: u64,
    pub(crate) disk_failures: u32,
    pub(crate) disk_retry: Option<Time>,
    pub(crate) new_generation: Option<String>,
    pub(crate) generation_reason: String,
}

impl Cycle {
    /// Cuts tried so far.
    pub(crate) fn tries(&self) -> u32 {
        self.cut.tries()
    }
}

impl Engine {
    /// Goes as far as it can.
    pub(crate) fn advance(&mut self, now: Time) {
        self.release_applications();
        while self.step(now) {
            self.release_applications();
        }
        if self.phase == Phase::Stopped {
            return;
        }
        self.actions.extend(self.uploads.start(now, &self.limits));
    }

    fn step(&mut self, now: Time) -> bool {
        if self.stop == Some(StopWish::Now) && !matches!(self.phase, Phase::Commit | Phase::Stopped) {
            self.stop = Some(StopWish::Done);
            self.phase = Phase::Stopped;
            self.release_applications();
            self.actions.push_back(Action::Stop);
            return true;
        }
        match &self.phase {
            Phase::Idle => return self.leave_idle(now),
            Phase::RetryGeneration(at) if now >= *at => {
                self.ask_generation(now, self.cycle.generation_reason.clone())
            }
            Phase::RetryCommit(at) if now >= *at => self.commit(),
            Phase::Pause(at) if now >= *at => self.collect(now),
            Phase::Collect(waiting) if waiting.is_empty() => self.collected(now),
            Phase::Compare(waiting) if waiting.is_empty() => self.compared(now),
            Phase::Copy(waiting) if waiting.is_empty() => self.copied(now),
            Phase::Confirm(waiting) if waiting.is_empty() => self.confirmed(now),
            Phase::Flush if self.uploads.all_durable() && !self.releasing => self.commit(),
            _ => return false,
        }
        true
    }

    pub(crate) fn phase_wakeup(&self) -> Option<Time> {
        match self.phase {
            Phase::Idle if self.audit.is_some() || self.rests() => None,
            Phase::Idle => {
                let due = self.point_due.min(self.application_due.unwrap_or(self.point_due));
                Some(due.max(self.cycle.disk_retry.unwrap_or(due)))
            }
            Phase::RetryGeneration(at) | Phase::RetryCommit(at) | Phase::Pause(at) => Some(at),
            _ => None,
        }
    }

    /// Whether nothing is to be done until somebody asks for it.
    pub(crate) fn rests(&self) -> bool {
        self.limits.paused && self.requests.is_empty() && self.stop.is_none()
    }

    fn active(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values().filter(|disk| !disk.gone && !self.cycle.excluded.contains(&disk.id))
    }

    fn active_ids(&self) -> Vec<DiskId> {
        self.active().map(|disk| disk.id).collect()
    }

    fn leave_idle(&mut self, now: Time) -> bool {
        if let Some(reason) = self.cycle.new_generation.take() {
            self.give_up_epoch(now, reason);
            return true;
        }
        if self.rests() {
            return false;
        }
        self.wish_by_schedule(now);
        let due = self.point_due.max(self.cycle.disk_retry.unwrap_or(self.point_due));
        if self.audit.is_some() || now < due {
            return self.audit.is_none() && self.start_audit(now);
        }
        self.cycle.disk_retry = None;
        self.cycle.cut.begin_again();
        self.collect(now);
        true
    }

    /// Asks every disk what has changed.
    fn collect(&mut self, now: Time) {
        if self.active().next().is_none() {
            self.cycle = Cycle { new_generation: self.cycle.new_generation.take(), ..Cycle::default() };
            self.point_due = now + self.limits.interval;
            self.phase = Phase::Idle;
            if self.stop == Some(StopWish::AfterPoint) {
                // There is nothing that a point could be made of.
                self.stop = Some(StopWish::Now);
            }
            return;
        }
        self.cycle.started.get_or_insert(now);
        self.cycle.served = self.wishes;
        let mut waiting = BTreeSet::new();
        for disk in self.active() {
            // A scan has said what there is to send; until that is sent it has nothing to add.
            if disk.continuous() || disk.owed.is_empty() {
                waiting.insert(disk.id);
            }
        }
        for &id in &waiting {
            let continuous = self.disks[&id].continuous();
            self.actions.push_back(if continuous { Action::Drain(id) } else { Action::Scan(id) });
        }
        self.phase = Phase::Collect(waiting);
    }

    /// Whether to copy once more before the cut, which would have to read `owed` now. The last pass helped if it left a
    /// quarter less than the one before; one that did not shows that as much is written as is sent. What a flush has
    /// added is copied. And while it is more than a cut may read at all, one bad pass proves nothing.
    fn a_pass_helps(&mut self, owed: ByteCount) -> bool {
        let helps = |left: ByteCount| owed.0 <= left.0 / 4 * 3 || owed.0 / 2 > left.0;
        let (left, passes) = (self.cycle.left.replace(owed), self.cycle.passes);
        self.cycle.passes += 1;
        let bad_luck = owed > self.most_for_cut() && passes < UNLUCKY_PASSES;
        (left.is_none_or(helps) || bad_luck) && passes < self.limits.passes
    }

    fn collected(&mut self, now: Time) {
        if self.cycle.new_generation.is_some() {
            self.phase = Phase::Idle;
            return;
        }
        if self.round_failed(now) {
            return;
        }
        if self.active().any(|disk| !disk.verified()) {
            return self.compare(now);
        }
        let owed = ByteCount(self.active().map(|disk| disk.owed.bytes().0).sum());
        let for_cut = self.owed_of_trackers();
        let too_fast = || Next::Fuzzy("the disks change faster than they can be read and sent".to_owned());
        if owed > self.limits.checkpoint_bytes {
            let useless = self.backlog.grows(owed, self.limits.passes);
            self.copy(now, if useless { too_fast() } else { Next::Checkpoint });
        } else if for_cut > self.limits.cut_aim && self.a_pass_helps(for_cut) {
            self.copy(now, Next::Collect);
        } else if for_cut > self.most_for_cut() {
            self.copy(now, too_fast());
        } else if self.active().any(|disk| !disk.continuous() && !disk.owed.is_empty()) {
            self.copy(now, Next::Cut);
        } else {
            self.cut(now);
        }
    }

    /// Takes the next part of what is unverified and has it compared with the head, where there is one.
    fn compare(&mut self, now: Time) {
        let most = self.limits.checkpoint_bytes.blocks().max(1);
        for id in self.active_ids() {
            let Some(disk) = self.disks.get_mut(&id) else { continue };
            let chunk = disk.unverified.take_first(most);
            if chunk.is_empty() {
                continue;
            }
            if disk.in_head {
                self.cycle.comparing.insert(id, chunk.clone());
                self.actions.push_back(Action::Compare(id, chunk));
            } else {
                disk.owed.union_with(&chunk);
            }
        }
        let waiting: BTreeSet<_> = self.cycle.comparing.keys().copied().collect();
        if waiting.is_empty() {
            self.copy(now, Next::Checkpoint)
        } else {
            self.phase = Phase::Compare(waiting)
        }
    }

    fn compared(&mut self, now: Time) {
        if self.round_failed(now) {
            return;
        }
        let nothing = self.active().all(|disk| disk.owed.is_empty());
        if nothing { self.collect(now) } else { self.copy(now, Next::Checkpoint) }
    }

    /// Sends what is owed, of each disk as much as one epoch should hold.
    fn copy(&mut self, now: Time, next: Next) {
        self.cycle.next = next;
        let most = self.limits.checkpoint_bytes.blocks().max(1);
        let mut waiting = BTreeSet::new();
        for id in self.active_ids() {
            let Some(disk) = self.disks.get_mut(&id) else { continue };
            if self.cycle.next == Next::Cut && disk.continuous() {
                continue;
            }
            let blocks = disk.take_pass(most, self.cycle.next == Next::Collect);
            if !blocks.is_empty() {
                waiting.insert(id);
                self.actions.push_back(Action::Copy(id, blocks));
            }
        }
        self.phase = Phase::Copy(waiting);
        if matches!(&self.phase, Phase::Copy(waiting) if waiting.is_empty()) {
            self.copied(now);
        }
    }

    fn copied(&mut self, now: Time) {
        if self.round_failed(now) {
            return;
        }
        match std::mem::take(&mut self.cycle.next) {
            Next::Collect => self.collect(now),
            Next::Cut => self.cut(now),
            Next::Checkpoint => self.flush(now, CommitKind::Checkpoint),
            Next::Fuzzy(reason) => self.flush(now, CommitKind::Fuzzy(self.point_figures(), reason)),
        }
    }

    /// Whether a disk failed in this round; the phase is then set. After some failures the cycle goes on without it.
    fn round_failed(&mut self, now: Time) -> bool {
        let mut failed = std::mem::take(&mut self.cycle.failed);
        failed.retain(|id| self.active().any(|disk| disk.id == *id));
        if failed.is_empty() {
            return false;
        }
        if self.cycle.disk_failures < DISK_FAILURES {
            self.point_due = self.point_due.min(now);
            self.phase = Phase::Idle;
            return true;
        }
        let progress = failed.iter().any(|id| !self.disks[id].segments.is_empty());
        self.cycle.excluded.extend(failed);
        self.cycle.disk_failures = 0;
        self.cycle.disk_retry = None;
        if progress {
            // What could be read of it is kept, or a single bad block would make its initial replication endless.
            self.flush(now, CommitKind::Checkpoint);
        } else {
            self.collect(now);
        }
        true
    }
}
