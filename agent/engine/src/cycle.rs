//! A cycle: everything from one commit to the next.
//!
//! ```text
//! Idle -> Collect -> Copy -> Collect ... -> Cut -> Flush -> Commit -> Idle      recovery point
//!            |-> Compare -> Copy -----------------> Flush -> Commit -> Idle      checkpoint
//!         Cut, Confirm -> Pause -> Collect                                       something changed meanwhile
//! ```
//!
//! Each phase waits for the answers to what it asked for, then the next is chosen here and nowhere else. Deliberately
//! not here: what an answer does to a disk (`disk`, `engine`).

mod commit;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use commit::Backlog;

use mobility_format::{BlockSet, ByteCount, DiskId};

use crate::{
    Action, CommitDisk, CommitKind, CutFigures, Engine, Time, Verdict, disk::Disk, engine::StopWish,
};

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
    pub(crate) tries: u32,
    next: Next,
    /// What is to be committed, as it was when it was decided: what happens to a disk afterwards is of the next epoch.
    commit: Option<(CommitKind, Vec<CommitDisk>)>,
    figures: CutFigures,
    /// The disks in the last cut, with their sizes then.
    cut: BTreeMap<DiskId, ByteCount>,
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

impl Engine {
    /// Goes as far as it can.
    pub(crate) fn advance(&mut self, now: Time) {
        while self.step(now) {}
        if self.phase == Phase::Stopped {
            return;
        }
        self.actions.extend(self.uploads.start(now, &self.limits));
    }

    fn step(&mut self, now: Time) -> bool {
        if self.stop == Some(StopWish::Now) && !matches!(self.phase, Phase::Commit | Phase::Stopped) {
            self.stop = Some(StopWish::Done);
            self.phase = Phase::Stopped;
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
            Phase::Flush if self.uploads.all_durable() => self.commit(),
            _ => return false,
        }
        true
    }

    pub(crate) fn phase_wakeup(&self) -> Option<Time> {
        match self.phase {
            Phase::Idle if self.audit.is_some() => None,
            Phase::Idle => Some(self.point_due.max(self.cycle.disk_retry.unwrap_or(self.point_due))),
            Phase::RetryGeneration(at) | Phase::RetryCommit(at) | Phase::Pause(at) => Some(at),
            _ => None,
        }
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
        let due = self.point_due.max(self.cycle.disk_retry.unwrap_or(self.point_due));
        if self.audit.is_some() || now < due {
            return self.audit.is_none() && self.start_audit(now);
        }
        self.cycle.disk_retry = None;
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

    /// Whether copying once more is likely to leave less for the cut than the `owed` that is left now.
    fn a_pass_helps(&mut self, owed: ByteCount) -> bool {
        let shrinks = self.cycle.left.is_none_or(|left| owed < left);
        self.cycle.left = Some(owed);
        self.cycle.passes += 1;
        shrinks && self.cycle.passes <= self.limits.passes
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
        let owed = |continuous_only: bool| {
            let disks = self.active().filter(|disk| !continuous_only || disk.continuous());
            ByteCount(disks.map(|disk| disk.owed.bytes().0).sum())
        };
        let too_fast = || Next::Fuzzy("the disks change faster than they can be read and sent".to_owned());
        if owed(false) > self.limits.checkpoint_bytes {
            let owed = owed(false);
            let useless = self.backlog.grows(owed, self.limits.passes);
            self.copy(now, if useless { too_fast() } else { Next::Checkpoint });
        } else if owed(true) > self.limits.cut_bytes {
            self.cycle.passes += 1;
            let next = if self.cycle.passes <= self.limits.passes { Next::Collect } else { too_fast() };
            self.copy(now, next);
        } else if owed(true) > self.limits.cut_aim && self.a_pass_helps(owed(true)) {
            self.copy(now, Next::Collect);
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
            let blocks = disk.take_pass(most);
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

    fn cut(&mut self, now: Time) {
        let plans: Vec<_> = self
            .active()
            .filter(|disk| disk.continuous())
            .map(|disk| (disk.id, disk.cut_plan(now)))
            .collect();
        self.cycle.tries += 1;
        self.cycle.cut = self.active().map(|disk| (disk.id, disk.size)).collect();
        self.cycle.served = self.wishes;
        if plans.is_empty() {
            return self.confirm(now);
        }
        self.actions.push_back(Action::Cut(plans, self.limits.cut_bytes));
        self.phase = Phase::Cut;
    }

    pub(crate) fn cut_done(&mut self, now: Time, verdict: &Verdict, figures: CutFigures, unverified: bool) {
        self.cycle.figures = figures;
        if *verdict == Verdict::Consistent {
            // Also when the disk turned out to be unverified: its segments are on their way and have to be waited for.
            self.phase = Phase::CutPacking;
            return;
        }
        if unverified {
            self.phase = Phase::Idle;
            self.point_due = now;
            return;
        }
        let reason = match verdict {
            Verdict::Unread(..) => {
                self.phase = Phase::Collect(BTreeSet::new());
                return;
            }
            Verdict::TooMuch => "more changed before the cut than it may read".to_owned(),
            Verdict::Conflict(blocks) => format!("{blocks} blocks were written while the cut read them"),
            Verdict::Unsettled => "writes in flight did not end in time".to_owned(),
            Verdict::Missed | Verdict::Consistent => {
                "the kernel skipped the tracker during the cut".to_owned()
            }
        };
        self.try_again(now, &reason);
    }

    fn try_again(&mut self, now: Time, reason: &str) {
        if self.cycle.tries >= self.limits.tries {
            return self.copy(now, Next::Fuzzy(format!("{reason}, at each of {} tries", self.cycle.tries)));
        }
        self.phase = Phase::Pause(now + self.jitter.spread(self.limits.try_delay));
    }

    pub(crate) fn cut_packed(&mut self, now: Time) {
        if self.cycle.new_generation.is_some() {
            self.phase = Phase::Idle;
            self.point_due = now;
        } else {
            self.confirm(now);
        }
    }

    fn confirm(&mut self, now: Time) {
        self.cycle.unconfirmed = 0;
        let polling: BTreeSet<_> =
            self.active().filter(|disk| !disk.continuous()).map(|disk| disk.id).collect();
        if polling.is_empty() {
            return self.flush_point(now);
        }
        self.actions.extend(polling.iter().map(|&id| Action::Confirm(id)));
        self.phase = Phase::Confirm(polling);
    }

    fn confirmed(&mut self, now: Time) {
        if self.round_failed(now) {
            return;
        }
        match self.cycle.unconfirmed {
            0 => self.flush_point(now),
            blocks => self.try_again(now, &format!("{blocks} blocks changed between two scans")),
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
