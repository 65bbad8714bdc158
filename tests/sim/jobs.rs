//! What the shell does for an action, a step at a time, so that writes, faults and kills fall between any two steps.
//!
//! Deliberately not here: the cut (`cut_job`).

use mobility_engine::{Drained, Event, Fault, FaultKind, SegmentId};
use mobility_format::{BLOCK_SIZE, BlockIndex, BlockRange, BlockSet, ByteCount};

use crate::{
    agent::Segment,
    cut_job::CutJob,
    device::Content,
    mutant::Mutant,
    service::Key,
    world::{Step, World, disk_id},
};

#[derive(Clone, Debug)]
pub(crate) enum Job {
    Drain(Drain),
    Comparison(Comparison),
    Copy(Copy),
    Cut(Box<CutJob>),
    /// What a consistent cut has read, on its way into segments.
    Packing(Vec<(usize, Vec<(u64, Content)>)>),
    /// What takes its time and does nothing to disks.
    Errand(Event),
}

#[derive(Clone, Debug)]
pub(crate) struct Drain {
    pub(crate) disk: usize,
    pub(crate) word: u64,
    pub(crate) dirty_done: bool,
    pub(crate) drained: Drained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ComparisonKind {
    Scan,
    Compare,
    Confirm,
    Audit,
}

#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    pub(crate) kind: ComparisonKind,
    pub(crate) disk: usize,
    pub(crate) blocks: Vec<u64>,
    pub(crate) next: usize,
    pub(crate) found: BlockSet,
    pub(crate) failed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) disk: usize,
    pub(crate) blocks: Vec<u64>,
    pub(crate) next: usize,
    pub(crate) buffer: Vec<(u64, Content)>,
    pub(crate) room: usize,
    pub(crate) unread: BlockSet,
}

impl Job {
    pub(crate) fn disks(&self) -> Vec<usize> {
        match self {
            Job::Drain(drain) => vec![drain.disk],
            Job::Comparison(comparison) => vec![comparison.disk],
            Job::Copy(copy) => vec![copy.disk],
            Job::Cut(cut) => cut.disks(),
            Job::Packing(parts) => parts.iter().map(|(disk, _)| *disk).collect(),
            Job::Errand(_) => Vec::new(),
        }
    }
}

pub(crate) fn blocks_of(set: &BlockSet) -> Vec<u64> {
    set.runs().flat_map(|run| run.start.0..run.end().0).collect()
}

pub(crate) fn unreadable(disk: usize) -> Fault {
    Fault::new(FaultKind::DiskRead, format!("disk {disk} cannot be read"))
}

/// After how long the job goes on; nothing when it is done.
pub(crate) type Next = Option<u64>;

impl World {
    pub(crate) fn start_job(&mut self, job: Job) {
        for disk in job.disks() {
            if self.agent().busy(disk) {
                return self.fail(format!("two jobs at once on disk {disk}"));
            }
        }
        let id = self.next_id();
        let life = self.agent().life;
        self.agent_mut().jobs.insert(id, job);
        let delay = self.answer_delay();
        self.after(delay, Step::Job(life, id));
    }

    pub(crate) fn on_job(&mut self, id: u64) {
        if self.killed_by_chance(1) {
            return;
        }
        let Some(mut job) = self.agent_mut().jobs.remove(&id) else { return };
        let next = match &mut job {
            Job::Drain(drain) => self.step_drain(drain),
            Job::Comparison(comparison) => self.step_comparison(comparison),
            Job::Copy(copy) => self.step_copy(copy),
            Job::Cut(cut) => self.step_cut(cut),
            Job::Packing(parts) => self.step_packing(parts),
            Job::Errand(event) => {
                self.quiesced |= matches!(event, Event::Quiesced(Ok(_)));
                self.tell(event.clone());
                None
            }
        };
        let (Some(delay), Some(agent)) = (next, &mut self.agent) else { return };
        agent.jobs.insert(id, job);
        let life = agent.life;
        self.after(delay, Step::Job(life, id));
    }

    /// Takes some more words of a bitmap. True when that was the last.
    pub(crate) fn words(&mut self, disk: usize, word: &mut u64) -> (BlockRange, bool) {
        let count = self.rng.within(1, 4);
        let range = BlockRange::new(*word * 64, count * 64);
        self.trackers[disk].now = self.now;
        *word += count;
        (range, *word * 64 >= self.trackers[disk].size)
    }

    fn step_drain(&mut self, drain: &mut Drain) -> Next {
        let disk = drain.disk;
        let (range, last) = self.words(disk, &mut drain.word);
        let tracker = &mut self.trackers[disk];
        let taken = if drain.dirty_done { tracker.take_touched(range) } else { tracker.take_dirty(range) };
        if self.plan.mutant == Some(Mutant::ClearsMarksBeforePending) {
            tracker.pending.subtract(&taken);
        }
        let to = if drain.dirty_done { &mut drain.drained.touched } else { &mut drain.drained.dirty };
        to.union_with(&taken);
        if !last || !drain.dirty_done {
            if last {
                (drain.dirty_done, drain.word) = (true, 0);
            }
            return Some(self.rng.within(1, 5));
        }
        let mut drained = std::mem::take(&mut drain.drained);
        // Done already, but by the mutant.
        self.trackers[disk].pending.union_with(&drained.dirty);
        self.trackers[disk].pending.union_with(&drained.touched);
        drained.idle = self.devices[disk].writes_in_flight == 0;
        self.account(disk, &mut drained);
        self.tell(Event::Drained(disk_id(disk), drained));
        None
    }

    /// Reads the counters, and keeps what they say where a kill cannot take it.
    pub(crate) fn account(&mut self, disk: usize, drained: &mut Drained) {
        let counts = self.trackers[disk].take_counts();
        let (inherited, unattended) = {
            let agent = self.agent_mut();
            agent.unsettled[disk].union_with(&drained.touched);
            let first = std::mem::take(&mut agent.unattended[disk]);
            (first && self.trackers[disk].unverified, first)
        };
        drained.completion_missed = counts.completions > 0;
        // To a tracker that has just started, what was in flight then was issued unseen.
        drained.issue_missed = counts.issues > 0 || (unattended && !self.trackers[disk].settled);
        self.trackers[disk].settled |= drained.idle;
        if counts.passthrough > 0 {
            drained.unknown = Some("a write without a range was seen".to_owned());
        } else if inherited || (unattended && counts.completions > 0) {
            drained.unknown = Some("the tracker missed something while no agent ran".to_owned());
        }
        if drained.completion_missed {
            self.mark("completion missed");
            let unsettled = self.agent().unsettled[disk].clone();
            self.trackers[disk].pending.union_with(&unsettled);
        } else if drained.idle {
            self.agent_mut().unsettled[disk] = BlockSet::new();
        }
        self.trackers[disk].unverified |= counts.issues > 0 || drained.unknown.is_some();
        if !drained.touched.difference(&drained.dirty).is_empty() {
            self.mark("suspects");
        }
        match self.plan.mutant {
            Some(Mutant::NoSuspects) => drained.touched = drained.touched.intersection(&drained.dirty),
            Some(Mutant::IgnoresMissedCompletions) => drained.completion_missed = false,
            Some(Mutant::IgnoresMissedIssues) => drained.issue_missed = false,
            Some(Mutant::IgnoresPassthrough) if counts.passthrough > 0 => drained.unknown = None,
            _ => {}
        }
    }

    fn step_comparison(&mut self, job: &mut Comparison) -> Next {
        let disk = job.disk;
        for _ in 0..self.rng.within(1, 16) {
            let Some(&block) = job.blocks.get(job.next) else { break };
            job.next += 1;
            let Some(content) = self.devices[disk].read(block) else {
                job.failed = true;
                job.next = job.blocks.len();
                break;
            };
            let expected = match job.kind {
                ComparisonKind::Confirm => self.agent().sent_content(disk, block),
                _ => self.agent().head_content(disk, block),
            };
            if content != expected {
                job.found.insert(BlockIndex(block));
            }
        }
        if job.next < job.blocks.len() {
            return Some(self.read_delay());
        }
        let result = if job.failed { Err(unreadable(disk)) } else { Ok(std::mem::take(&mut job.found)) };
        let id = disk_id(disk);
        let event = match job.kind {
            ComparisonKind::Scan => Event::Scanned(id, result),
            ComparisonKind::Compare => Event::Compared(id, result),
            ComparisonKind::Confirm if self.plan.mutant == Some(Mutant::NoConfirmation) => {
                Event::Confirmed(id, result.map(|_| BlockSet::new()))
            }
            ComparisonKind::Confirm => Event::Confirmed(id, result),
            ComparisonKind::Audit => self.audited(disk, job.blocks.len() as u64, result),
        };
        self.tell(event);
        None
    }

    fn audited(&mut self, disk: usize, checked: u64, result: Result<BlockSet, Fault>) -> Event {
        let Ok(mut missed) = result else { return Event::Audited(disk_id(disk), 0, BlockSet::new()) };
        // What is in flight is looked at first: what completes meanwhile is then dirty.
        let in_flight = self.in_flight(disk);
        missed.subtract(&in_flight);
        missed.subtract(&self.trackers[disk].dirty);
        missed.subtract(&self.trackers[disk].touched);
        if self.plan.mutant == Some(Mutant::BlindAudit) {
            missed = BlockSet::new();
        }
        if !missed.is_empty() {
            self.mark("audit found a missed block");
            if self.plan.tracker_is_sound() {
                self.fail(format!("the audit found {missed:?} of disk {disk} missed, though nothing was"));
            }
        }
        Event::Audited(disk_id(disk), checked, missed)
    }

    fn step_copy(&mut self, job: &mut Copy) -> Next {
        let disk = job.disk;
        for _ in 0..self.rng.within(1, 8) {
            if job.buffer.len() >= job.room {
                break;
            }
            let Some(&block) = job.blocks.get(job.next) else { break };
            job.next += 1;
            match self.devices[disk].read(block) {
                Some(content) => job.buffer.push((block, content)),
                None => job.unread.insert(BlockIndex(block)),
            }
        }
        if job.buffer.len() >= job.room || (job.next == job.blocks.len() && !job.buffer.is_empty()) {
            if !self.has_room() {
                return Some(self.answer_delay());
            }
            job.room = self.rng.magnitude(1, 200) as usize;
            let blocks = std::mem::take(&mut job.buffer);
            self.segment_ready(disk, blocks);
            return Some(self.read_delay());
        }
        if job.next < job.blocks.len() {
            return Some(self.read_delay());
        }
        if self.plan.mutant == Some(Mutant::DrainsAfterRead) {
            self.trackers[disk].forget(&job.blocks.iter().map(|&block| BlockIndex(block)).collect());
        }
        let mut unread = std::mem::take(&mut job.unread);
        let fault = (!unread.is_empty()).then(|| unreadable(disk));
        if fault.is_some() {
            self.mark("blocks not read");
        }
        if self.plan.mutant == Some(Mutant::HidesUnread) {
            unread = BlockSet::new();
        }
        self.tell(Event::Copied(disk_id(disk), unread, fault));
        None
    }

    fn step_packing(&mut self, parts: &mut Vec<(usize, Vec<(u64, Content)>)>) -> Next {
        let Some((disk, blocks)) = parts.first_mut() else {
            self.tell(Event::CutPacked);
            return None;
        };
        if !self.has_room() {
            return Some(self.answer_delay());
        }
        let (disk, room) = (*disk, (self.rng.magnitude(1, 100) as usize).min(blocks.len()));
        let segment: Vec<_> = blocks.drain(..room).collect();
        if blocks.is_empty() {
            parts.remove(0);
        }
        self.segment_ready(disk, segment);
        Some(self.answer_delay())
    }

    fn has_room(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| {
            agent.in_memory() < self.limits.segments || self.plan.mutant == Some(Mutant::NoBackPressure)
        })
    }

    fn segment_ready(&mut self, disk: usize, blocks: Vec<(u64, Content)>) {
        if blocks.is_empty() {
            return;
        }
        let length = ByteCount((blocks.len() * BLOCK_SIZE) as u64);
        let id = SegmentId(self.next_id());
        let agent = self.agent_mut();
        let status = agent.engine.status();
        agent.parts += 1;
        let (session, part) = (agent.life, agent.parts);
        let key = Key { generation: status.generation, epoch: status.epoch, disk, session, part };
        agent.sent[disk].extend(blocks.iter().copied());
        agent.segments.insert(id, Segment { key, blocks, durable: false });
        if agent.in_memory() > self.limits.segments {
            self.fail("more segments in memory than the limit".to_owned());
        }
        self.tell(Event::SegmentReady(id, disk_id(disk), length));
    }
}
