//! The engine itself: events and the time in, actions out.
//!
//! All state is here and in what it owns; there are no threads, no locks, no clock. [`Engine::handle`] takes in one
//! event, [`Engine::poll`] hands out what to do, [`Engine::wakeup`] says when to come back at the latest. After every
//! event the engine advances as far as it can. Deliberately not here: the phases of a cycle (`cycle`), what is known of a
//! disk (`disk`), uploads (`upload`).

use std::collections::{BTreeMap, VecDeque};

use mobility_format::{BlockSet, ByteCount, DiskId, Epoch, Generation};

use crate::{
    Action, CommitFault, Doubt, Drained, Event, Fault, Limits, NewGeneration, Time, Verdict,
    cycle::{Backlog, Choice, Cycle, Phase, Wish},
    disk::Disk,
    event::{CutDiskOutcome, CutFigures, DiskStart},
    retry::Jitter,
    upload::Uploads,
};

/// How an agent starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// Within what limits.
    pub limits: Limits,
    /// For jitter. Different on every machine.
    pub seed: u64,
    /// The generation and epoch of the head, if this machine has one.
    pub head: Option<(Generation, Epoch)>,
    /// The disks to protect.
    pub disks: Vec<DiskStart>,
}

/// The replication of one machine. See the crate's documentation for the order of calls.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) limits: Limits,
    pub(crate) jitter: Jitter,
    pub(crate) generation: Generation,
    pub(crate) epoch: Epoch,
    pub(crate) disks: BTreeMap<DiskId, Disk>,
    pub(crate) phase: Phase,
    pub(crate) cycle: Cycle,
    pub(crate) uploads: Uploads,
    pub(crate) audit: Option<DiskId>,
    pub(crate) point_due: Time,
    pub(crate) last_point: Option<Time>,
    pub(crate) stop: Option<StopWish>,
    /// How many wishes for a point there have been. One that came after a point's cut is not served by it.
    pub(crate) wishes: u64,
    /// Those that came from outside and are not served yet.
    pub(crate) requests: Vec<Wish>,
    /// When the next application-consistent point is due by schedule, and the wish for it.
    pub(crate) application_due: Option<Time>,
    pub(crate) application_wish: Option<u64>,
    /// Whether applications wait to be told that it is over.
    pub(crate) quiesced: bool,
    /// Whether they are being told.
    pub(crate) releasing: bool,
    pub(crate) choice: Choice,
    pub(crate) backlog: Backlog,
    pub(crate) actions: VecDeque<Action>,
}

/// How far the wish to stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopWish {
    AfterPoint,
    Now,
    Done,
}

impl Engine {
    /// An engine that starts at `now`.
    #[must_use]
    pub fn new(now: Time, start: Start) -> Self {
        let (generation, epoch) = start.head.unwrap_or_default();
        let disks: BTreeMap<_, _> =
            start.disks.into_iter().map(|disk| (disk.id, Disk::new(now, &start.limits, disk))).collect();
        let mut engine = Engine {
            limits: start.limits,
            jitter: Jitter::new(start.seed),
            generation,
            epoch: epoch.next(),
            disks,
            phase: Phase::Idle,
            cycle: Cycle::default(),
            uploads: Uploads::default(),
            audit: None,
            point_due: now,
            last_point: None,
            stop: None,
            wishes: 0,
            requests: Vec::new(),
            application_due: start.limits.application_interval.map(|interval| now + interval),
            application_wish: None,
            quiesced: false,
            releasing: false,
            choice: Choice::default(),
            backlog: Backlog::default(),
            actions: VecDeque::new(),
        };
        let resync = engine.disks.values().find_map(|disk| disk.resync.clone());
        let reason =
            resync.or_else(|| start.head.is_none().then(|| "nothing has been replicated yet".to_owned()));
        for disk in engine.disks.values().filter(|disk| disk.continuous() && disk.resync.is_some()) {
            engine.actions.push_back(Action::MarkAll(disk.id));
        }
        if let Some(reason) = reason {
            engine.ask_generation(now, reason);
        }
        engine.advance(now);
        engine
    }

    /// The next thing to do, if there is one.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Engine::tick`] must be called at the latest, if no event comes before.
    #[must_use]
    pub fn wakeup(&self, now: Time) -> Option<Time> {
        [self.phase_wakeup(), self.uploads.wakeup(now), self.audit_wakeup(now)].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        self.advance(now);
    }

    /// Something happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Generation(result) => self.on_generation(now, result),
            Event::TakenIn(epoch) => {
                self.disks.values_mut().for_each(|disk| disk.unconfirmed.taken_in(epoch));
            }
            Event::Doubted(doubts, reason) => self.on_doubted(now, doubts, reason),
            Event::Drained(disk, drained) => self.on_drained(now, disk, &drained),
            Event::Scanned(disk, result) => self.on_found(now, disk, result),
            Event::Compared(disk, result) => self.on_compared(now, disk, result),
            Event::Confirmed(disk, result) => self.on_confirmed(now, disk, result),
            Event::SegmentReady(segment, disk, length) => {
                self.uploads.add(segment, length);
                self.with_disk(disk, |disk| disk.segments.push(segment));
            }
            Event::Copied(disk, unread, fault) => self.on_copied(now, disk, &unread, fault),
            Event::Uploaded(segment, result) => {
                self.uploads.done(segment, result.is_ok());
                match result {
                    Ok(()) => self.uploads.works(now),
                    Err(fault) => {
                        self.uploads.failed(now, fault, &self.limits, &mut self.jitter);
                    }
                }
            }
            Event::CutDone(verdict, figures, outcomes) => self.on_cut(now, &verdict, figures, outcomes),
            Event::CutPacked => self.cut_packed(now),
            Event::CommitDone(result) => self.on_commit(now, result),
            Event::Audited(disk, checked, missed) => self.on_audited(now, disk, checked, &missed),
            Event::DiskGone(disk, fault) => self.on_disk_gone(now, disk, fault),
            Event::DiskFound(start) => self.on_disk_found(now, start),
            Event::DiskResized(disk, size) => self.on_disk_resized(disk, size),
            Event::Synced if self.phase == Phase::Sync => self.synced(now),
            Event::Quiesced(result) if self.phase == Phase::Quiesce => self.told(now, result),
            Event::Synced | Event::Quiesced(_) => {}
            Event::Released(result) => self.released(result),
            Event::PointWanted(request) => self.request(now, request),
            Event::LimitsChanged(limits) => self.on_limits(now, limits),
            Event::Stop { after_point } => {
                self.stop = Some(if after_point { StopWish::AfterPoint } else { StopWish::Now });
                self.want_point(now);
            }
        }
        self.advance(now);
    }

    pub(crate) fn with_disk(&mut self, id: DiskId, f: impl FnOnce(&mut Disk)) {
        if let Some(disk) = self.disks.get_mut(&id) {
            f(disk);
        }
    }

    fn on_limits(&mut self, now: Time, limits: Limits) {
        if limits.application_interval != self.limits.application_interval {
            self.application_due = limits.application_interval.map(|interval| now + interval);
        }
        let due = self.last_point.map_or(self.point_due, |last| last + limits.interval);
        self.point_due = self.point_due.min(due);
        self.limits = limits;
    }

    fn on_drained(&mut self, now: Time, id: DiskId, drained: &Drained) {
        let Some(disk) = self.disks.get_mut(&id) else { return };
        if let Some(reason) = disk.absorb(now, drained) {
            self.unverify(id, reason);
        }
        self.phase.answered(id);
    }

    /// Nothing that is known of a disk holds any more: compare all of it, in a new generation.
    pub(crate) fn unverify(&mut self, id: DiskId, reason: String) {
        self.with_disk(id, |disk| disk.suspect_all(reason.clone()));
        self.actions.push_back(Action::MarkAll(id));
        self.cycle.new_generation.get_or_insert(reason);
    }

    fn on_found(&mut self, now: Time, id: DiskId, result: Result<BlockSet, Fault>) {
        match result {
            Ok(blocks) => self.with_disk(id, |disk| {
                disk.fault = None;
                disk.owe(&blocks);
            }),
            Err(fault) => self.disk_failed(now, id, fault),
        }
        self.phase.answered(id);
    }

    fn on_compared(&mut self, now: Time, id: DiskId, result: Result<BlockSet, Fault>) {
        let asked = self.cycle.comparing.remove(&id).unwrap_or_default();
        self.with_disk(id, |disk| match &result {
            Ok(found) => disk.compared(&asked, found),
            Err(_) => disk.unverified.union_with(&asked),
        });
        self.on_found(now, id, result);
    }

    fn on_confirmed(&mut self, now: Time, id: DiskId, result: Result<BlockSet, Fault>) {
        if let Ok(blocks) = &result {
            self.cycle.unconfirmed += blocks.len();
        }
        self.on_found(now, id, result);
    }

    fn on_copied(&mut self, now: Time, id: DiskId, unread: &BlockSet, fault: Option<Fault>) {
        self.with_disk(id, |disk| disk.unread(unread));
        match fault {
            Some(fault) => self.disk_failed(now, id, fault),
            None => self.with_disk(id, |disk| disk.fault = None),
        }
        self.phase.answered(id);
    }

    /// A disk cannot be read now. What it owes stays owed; the cycle is tried again later.
    pub(crate) fn disk_failed(&mut self, now: Time, id: DiskId, fault: Fault) {
        self.cycle.disk_failures = self.cycle.disk_failures.saturating_add(1);
        let wait =
            crate::retry::backoff(&self.limits, self.cycle.disk_failures, fault.wait, &mut self.jitter);
        self.cycle.disk_retry = Some(now + wait);
        self.cycle.failed.insert(id);
        self.with_disk(id, |disk| disk.fault = Some(fault));
    }

    fn on_cut(
        &mut self,
        now: Time,
        verdict: &Verdict,
        figures: CutFigures,
        outcomes: Vec<(DiskId, CutDiskOutcome)>,
    ) {
        let mut unverified = false;
        for (id, outcome) in outcomes {
            let Some(disk) = self.disks.get_mut(&id) else { continue };
            let mut reason = None;
            for drained in &outcome.drained {
                reason = disk.absorb(now, drained).or(reason);
            }
            disk.conflicted(&outcome.conflicts);
            if *verdict == Verdict::Consistent {
                disk.cut_read(&outcome.read);
            }
            if let Some(reason) = reason {
                unverified = true;
                self.unverify(id, reason);
            }
        }
        if let Verdict::Unread(id, fault) = verdict {
            self.disk_failed(now, *id, fault.clone());
        }
        self.cut_done(now, verdict, figures, unverified);
    }

    fn on_disk_gone(&mut self, now: Time, id: DiskId, fault: Fault) {
        let Some(disk) = self.disks.get_mut(&id) else { return };
        disk.gone = true;
        disk.fault = Some(fault);
        if let Some(at) = &mut self.cycle.disk_retry {
            *at = now;
        }
    }

    fn on_disk_found(&mut self, now: Time, start: DiskStart) {
        let id = start.id;
        let mut disk = Disk::new(now, &self.limits, start);
        self.cycle.excluded.remove(&id);
        if let Some(old) = self.disks.remove(&id) {
            // Segments of it that are already in this epoch stay there, and so does what they hold.
            disk.segments = old.segments;
            disk.sent = old.sent;
            disk.in_head |= old.in_head;
            disk.audit = old.audit;
        }
        if let Some(reason) = disk.resync.clone() {
            if disk.continuous() {
                self.actions.push_back(Action::MarkAll(id));
            }
            self.cycle.new_generation.get_or_insert(reason);
        }
        self.disks.insert(id, disk);
        self.point_due = self.point_due.min(now);
    }

    fn on_disk_resized(&mut self, id: DiskId, size: ByteCount) {
        let Some(disk) = self.disks.get_mut(&id) else { return };
        let from = std::mem::replace(&mut disk.size, size);
        if size < from {
            self.unverify(id, format!("the disk shrank from {from} to {size}"));
        }
    }

    fn on_doubted(&mut self, now: Time, mut doubts: Vec<Doubt>, reason: String) {
        if doubts.is_empty() {
            doubts = self.disks.keys().map(|&id| (id, None)).collect();
        }
        for (id, part) in doubts {
            let tracked = self.disks.get(&id).is_some_and(Disk::continuous);
            match part {
                None if tracked => self.unverify(id, reason.clone()),
                part => self.with_disk(id, |disk| disk.suspect(&part.unwrap_or_default(), reason.clone())),
            }
        }
        self.cycle.new_generation.get_or_insert(reason);
        self.point_due = self.point_due.min(now);
    }

    fn on_generation(&mut self, now: Time, result: Result<NewGeneration, Fault>) {
        match result {
            Ok(NewGeneration { generation, head }) => {
                self.uploads.works(now);
                self.generation = generation;
                if self.epoch != head.next() {
                    // An earlier run's commit, or one of ours that was refused: not what was compared with.
                    self.disks.values_mut().for_each(Disk::distrust_head);
                }
                self.epoch = head.next();
                self.disks.values_mut().for_each(|disk| disk.goes_on_from(head));
                self.phase = Phase::Idle;
                self.point_due = self.point_due.min(now);
            }
            Err(fault) => {
                let until = self.uploads.failed(now, fault, &self.limits, &mut self.jitter);
                self.phase = Phase::RetryGeneration(until);
            }
        }
    }

    fn on_commit(&mut self, now: Time, result: Result<(), CommitFault>) {
        match result {
            Ok(()) => {
                self.uploads.works(now);
                self.committed(now);
            }
            Err(CommitFault::Retry(fault)) => {
                let until = self.uploads.failed(now, fault, &self.limits, &mut self.jitter);
                self.phase = Phase::RetryCommit(until);
            }
            Err(CommitFault::Superseded { head, generation }) => {
                self.epoch = head.next();
                self.generation = self.generation.max(generation);
                self.disks.values_mut().for_each(Disk::distrust_head);
                self.give_up_epoch(
                    now,
                    "the epoch had already been committed by an earlier run of the agent".to_owned(),
                );
            }
            Err(CommitFault::Refused(reason)) => self.give_up_epoch(now, reason),
        }
    }

    /// Nothing of what was uploaded for this epoch counts: it is owed again, under a new generation, for the keys of
    /// this one are taken.
    pub(crate) fn give_up_epoch(&mut self, now: Time, reason: String) {
        self.disks.values_mut().for_each(Disk::give_up);
        self.uploads.forget_all();
        self.cycle = Cycle::default();
        self.ask_generation(now, reason);
    }

    pub(crate) fn ask_generation(&mut self, now: Time, reason: String) {
        self.cycle.generation_reason.clone_from(&reason);
        self.phase = match self.uploads.outage() {
            Some(outage) if now < outage.retry_at => Phase::RetryGeneration(outage.retry_at),
            _ => {
                self.actions.push_back(Action::NewGeneration(reason));
                Phase::Generation
            }
        };
    }
}
