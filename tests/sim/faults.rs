//! What happens to the machine: writers, kills, reboots, outages, disks that go, come back, grow or cannot be read.
//!
//! Deliberately not here: faults of single requests (`requests`), and of the agent itself (`mutant`).

use std::time::Duration;

use mobility_engine::{DiskStart, Engine, Event, Fault, FaultKind, Known, Limits, Request, Start, Tracking};
use mobility_format::{BlockRange, BlockSet};

use crate::{
    agent::Agent,
    device::{Mark, Marks, Write, WriteId, ZERO},
    mutant::Mutant,
    tracker::Tracker,
    world::{Step, World, bytes, disk_id},
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    Start,
    Kill,
    Outage,
    OutageOver,
    Detach,
    Attach(usize),
    /// The agent notices what it had not been told of a disk.
    Notice(usize),
    Grow,
    ReadFault,
    ReadFaultOver(usize),
    Wish,
}

impl World {
    pub(crate) fn schedule_troubles(&mut self) {
        self.after(0, Step::Trouble(Trouble::Start));
        let plan = self.plan.clone();
        self.again(plan.kills, Trouble::Kill);
        self.again(plan.outages, Trouble::Outage);
        self.again(plan.detachments, Trouble::Detach);
        self.again(plan.growth, Trouble::Grow);
        self.again(plan.read_faults, Trouble::ReadFault);
        self.again(plan.wishes, Trouble::Wish);
    }

    fn again(&mut self, every: Option<u64>, trouble: Trouble) {
        if let (Some(every), false) = (every, self.healed) {
            let delay = self.rng.within(1, 2 * every);
            self.after(delay, Step::Trouble(trouble));
        }
    }

    pub(crate) fn on_trouble(&mut self, trouble: Trouble) {
        let plan = self.plan.clone();
        self.note(|_| format!("trouble {trouble:?}"));
        match trouble {
            Trouble::Start => self.start_agent(),
            Trouble::Kill => {
                if !self.healed {
                    self.kill();
                }
                self.again(plan.kills, Trouble::Kill);
            }
            Trouble::Outage if !self.healed && self.outage.is_none() => {
                const KINDS: [FaultKind; 3] =
                    [FaultKind::StorageFull, FaultKind::StorageReadOnly, FaultKind::StorageGone];
                self.mark("outage");
                self.outage = Some(KINDS[self.rng.index(3)]);
                let delay = self.rng.magnitude(100_000, 30_000_000);
                self.after(delay, Step::Trouble(Trouble::OutageOver));
            }
            Trouble::Outage => {}
            Trouble::OutageOver => {
                self.outage = None;
                self.again(plan.outages, Trouble::Outage);
            }
            Trouble::Detach => self.detach(),
            Trouble::Attach(disk) => self.attach(disk),
            Trouble::Notice(disk) => self.notice(disk),
            Trouble::Grow => self.grow(),
            Trouble::ReadFault => self.read_fault(),
            Trouble::ReadFaultOver(disk) => {
                self.devices[disk].set_unreadable(Vec::new());
                self.again(plan.read_faults, Trouble::ReadFault);
            }
            Trouble::Wish => self.wish(),
        }
    }

    /// Kills fall anywhere, but more often where something has just been begun and not ended.
    pub(crate) fn killed_by_chance(&mut self, per_thousand: u64) -> bool {
        let kill = self.plan.kills.is_some() && !self.healed && self.rng.per_mille(per_thousand);
        if kill {
            self.kill();
        }
        kill
    }

    fn kill(&mut self) {
        if self.agent.take().is_none() {
            return;
        }
        self.mark("killed");
        // By the guard, and by the next start of the agent.
        (self.held, self.quiesced) = (false, false);
        if self.rng.per_mille(self.plan.reboots) {
            self.mark("rebooted");
            (0..self.devices.len()).for_each(|disk| self.lose_tracker(disk));
        }
        let delay = self.rng.magnitude(1_000, 5_000_000);
        self.after(delay, Step::Trouble(Trouble::Start));
    }

    /// All marks are gone, also those of the writes that are in flight.
    fn lose_tracker(&mut self, disk: usize) {
        match self.plan.mutant {
            Some(Mutant::BelievesOldMarks) => self.trackers[disk].lost = true,
            _ => {
                self.trackers[disk] = Tracker::lost(self.trackers[disk].size);
                self.trackers[disk].writes_in_flight = self.devices[disk].writes_in_flight;
            }
        }
        for write in self.writes.iter_mut().filter(|write| write.disk == disk && write.completed.is_none()) {
            write.marks.issue = Mark::Lost;
        }
    }

    fn start_agent(&mut self) {
        if self.agent.is_some() {
            return;
        }
        self.lives += 1;
        let count = self.devices.len();
        let disks: Vec<_> = (0..count).map(|disk| self.disk_start(disk)).collect();
        let (head, seed) = (self.service.head(), self.rng.number());
        let start = Start { limits: self.limits, seed, head, disks };
        self.note(|_| format!("{start:?}"));
        let engine = Engine::new(self.engine_time(), start);
        let agent = Agent {
            engine,
            life: self.lives,
            jobs: Default::default(),
            segments: Default::default(),
            parts: 0,
            head: self.service.images.clone(),
            sent: vec![Default::default(); count],
            unsettled: vec![BlockSet::new(); count],
            unattended: vec![true; count],
            uploads: 0,
            failures: 0,
            hands_off_until: 0,
            left_alone_until: 0,
            wake_at: None,
            confirming_since: 0,
            stopped: false,
        };
        self.agent = Some(agent);
        self.pump();
        for disk in 0..count {
            self.announced[disk] = true;
            self.notice(disk);
        }
    }

    /// What an agent knows of a disk that it meets.
    fn disk_start(&mut self, disk: usize) -> DiskStart {
        let in_head = self.service.images.get(disk).is_some_and(|image| !image.is_empty());
        let size = self.devices[disk].size();
        let tracker = &mut self.trackers[disk];
        tracker.taken_up();
        tracker.lost &= self.plan.mutant != Some(Mutant::BelievesOldMarks);
        let (lost, pending) = (tracker.lost, tracker.pending.clone());
        let polled = self.tracking[disk] == Tracking::Polling;
        if tracker.size != size {
            // What was tracked may be taken over, or not.
            let forgets = self.plan.mutant == Some(Mutant::ForgetsGrowth);
            tracker.grow(size, forgets);
        }
        let known = if polled && in_head && self.rng.per_mille(700) {
            Known::Owed(BlockSet::new())
        } else if polled || !in_head || lost {
            self.mark(if in_head { "resync" } else { "initial replication" });
            Known::Nothing("nothing is known of it".to_owned())
        } else {
            self.mark("tracking went on");
            let forgets = self.plan.mutant == Some(Mutant::ForgetsPending);
            Known::Owed(if forgets { BlockSet::new() } else { pending })
        };
        if self.trackers[disk].lost {
            self.trackers[disk] = Tracker::new(size);
            self.trackers[disk].writes_in_flight = self.devices[disk].writes_in_flight;
            if self.plan.mutant == Some(Mutant::StartsUnmarked) {
                self.trackers[disk].pending = BlockSet::new();
            }
        }
        DiskStart { id: disk_id(disk), size: bytes(size), tracking: self.tracking[disk], known, in_head }
    }

    fn detach(&mut self) {
        let disk = self.rng.index(self.devices.len());
        if self.healed || !self.devices[disk].attached {
            return;
        }
        self.mark("disk gone");
        self.devices[disk].attached = false;
        let (notice, back) = (self.rng.magnitude(1, 500_000), self.rng.magnitude(1_000, 20_000_000));
        self.after(notice, Step::Trouble(Trouble::Notice(disk)));
        self.after(back, Step::Trouble(Trouble::Attach(disk)));
    }

    fn attach(&mut self, disk: usize) {
        self.devices[disk].attached = true;
        if !self.announced[disk] && self.rng.per_mille(400) {
            // Its tracker went with it, and it is written before the agent sees that it is back.
            self.lose_tracker(disk);
        }
        let delay = self.rng.magnitude(1, 500_000);
        self.after(delay, Step::Trouble(Trouble::Notice(disk)));
        let every = self.plan.detachments;
        self.again(every, Trouble::Detach);
    }

    /// Tells the agent how a disk is, if that is news. While something is being done with the disk, it waits.
    fn notice(&mut self, disk: usize) {
        let Some(agent) = &self.agent else { return };
        let gone = !self.devices[disk].attached;
        if gone && self.announced[disk] {
            self.announced[disk] = false;
            let fault = Fault::new(FaultKind::DiskGone, "gone");
            return self.tell(Event::DiskGone(disk_id(disk), fault));
        }
        let grown = self.devices[disk].size() != self.trackers[disk].size;
        if gone || (self.announced[disk] && !grown) {
            return;
        }
        if agent.busy(disk) {
            return self.after(5_000, Step::Trouble(Trouble::Notice(disk)));
        }
        if self.announced[disk] {
            self.mark("disk grown");
            let size = self.devices[disk].size();
            let forgets = self.plan.mutant == Some(Mutant::ForgetsGrowth);
            self.trackers[disk].grow(size, forgets);
            return self.tell(Event::DiskResized(disk_id(disk), bytes(size)));
        }
        self.mark("disk back");
        self.announced[disk] = true;
        let start = self.disk_start(disk);
        self.agent_mut().unattended[disk] = true;
        self.tell(Event::DiskFound(start));
    }

    fn grow(&mut self) {
        let disk = self.rng.index(self.devices.len());
        if self.healed {
            return;
        }
        let by = self.rng.magnitude(1, 200);
        self.devices[disk].grow(by);
        let delay = self.rng.magnitude(1, 2_000_000);
        self.after(delay, Step::Trouble(Trouble::Notice(disk)));
        let every = self.plan.growth;
        self.again(every, Trouble::Grow);
    }

    fn read_fault(&mut self) {
        let disk = self.rng.index(self.devices.len());
        if self.healed {
            return;
        }
        let size = self.devices[disk].size();
        let range = |world: &mut World| {
            let start = world.rng.within(0, size - 1);
            BlockRange::new(start, world.rng.within(1, 20))
        };
        let ranges = (0..self.rng.within(1, 3)).map(|_| range(self)).collect();
        self.devices[disk].set_unreadable(ranges);
        let delay = self.rng.magnitude(10_000, 10_000_000);
        self.after(delay, Step::Trouble(Trouble::ReadFaultOver(disk)));
    }

    fn wish(&mut self) {
        if self.healed {
            return;
        }
        if self.rng.per_mille(600) {
            let request = Request { id: self.stamp, application: self.rng.per_mille(300) };
            self.tell(Event::PointWanted(request));
        } else {
            let interval = Duration::from_millis(self.rng.magnitude(300, 8_000));
            self.limits = Limits { interval, ..self.limits };
            self.tell(Event::LimitsChanged(self.limits));
        }
        let every = self.plan.wishes;
        self.again(every, Trouble::Wish);
    }

    /// A writer issues one write, to any disk, and thinks again only after it has completed: what it writes next depends
    /// on what it wrote before, on whichever disk.
    pub(crate) fn on_writer(&mut self, writer: usize) {
        if !self.writing {
            return;
        }
        match self.draw_write(writer).filter(|_| !self.held) {
            Some(write) => self.issue(write),
            None => {
                let delay = self.rng.magnitude(1, 2 * self.plan.think);
                self.after(delay, Step::Writer(writer));
            }
        }
    }

    fn draw_range(&mut self) -> (usize, BlockRange) {
        if self.rng.per_mille(150) && self.writes.len() >= 4 {
            // As a log's header: again and again the same.
            let last = &self.writes[self.writes.len() - 1 - self.rng.index(4)];
            return (last.disk, last.range);
        }
        let disk = self.rng.index(self.devices.len());
        let size = self.devices[disk].size();
        let count = self.rng.magnitude(1, self.plan.write_blocks).min(size);
        // Half of the writes go to a hot part.
        let room = if self.rng.per_mille(500) { (size / 8).max(count) } else { size };
        (disk, BlockRange::new(self.rng.within(0, room - count), count))
    }

    fn draw_write(&mut self, writer: usize) -> Option<Write> {
        let (slow_writes, overlap) = (self.plan.slow_writes, self.plan.overlap);
        let (disk, range) = self.draw_range();
        let count = range.count;
        if !self.devices[disk].attached || (!overlap && self.devices[disk].busy(range)) {
            return None;
        }
        let content = match self.rng.number() % 1000 {
            chance if chance < self.plan.discards => ZERO,
            chance if chance > 950 && count == 1 => {
                let back = self.rng.within(1, 3) as usize;
                self.devices[disk].earlier(&self.writes, range.start.0, back)
            }
            _ => self.writes.len() as u64 + 1,
        };
        let blocks_written = if self.rng.per_mille(5) { self.rng.within(0, count) } else { count };
        let slow = self.rng.per_mille(slow_writes);
        let tags = self.devices[disk].free_tags();
        let tag = tags[self.rng.index(tags.len())];
        let pace = if slow { 3_000_000 } else { self.plan.write } / (2 * count + 1);
        let marks = self.draw_marks();
        Some(Write {
            disk,
            range,
            content,
            issued: self.stamp,
            completed: None,
            stage: 0,
            blocks_written,
            marks,
            pace,
            writer,
            tag,
        })
    }

    fn draw_marks(&mut self) -> Marks {
        let mut marks = Marks::default();
        if self.healed {
            return marks;
        }
        // Issued and completed in the microseconds in which a cut takes `touched`, it would be missing from that point and
        // no other; the documentation of the engine's cut says so.
        let in_time = self.agent.as_ref().is_none_or(|agent| !agent.takes_touched());
        if in_time && self.rng.per_mille(self.plan.lost_completions) {
            self.mark("completion lost");
            marks.completion = Mark::Lost;
        }
        if self.rng.per_mille(self.plan.blind) {
            marks = Marks { issue: Mark::Lost, completion: Mark::Lost };
        }
        if self.rng.per_mille(self.plan.missed_completions) {
            marks.completion = Mark::Missed;
        }
        if self.rng.per_mille(self.plan.missed_issues) {
            marks.issue = Mark::Missed;
        }
        marks
    }

    fn issue(&mut self, mut write: Write) {
        let (disk, range) = (write.disk, write.range);
        if self.rng.per_mille(self.plan.passthrough) && !self.healed && !self.devices[disk].busy(range) {
            self.passthrough(disk);
        }
        if self.trackers[disk].lost {
            write.marks.issue = Mark::Lost;
        }
        let id = self.writes.len();
        self.devices[disk].issue(&write);
        self.trackers[disk].writes_in_flight += 1;
        match write.marks.issue {
            Mark::Seen => self.trackers[disk].mark_issue(range, write.tag),
            Mark::Missed => self.trackers[disk].count(|counts| counts.issues += 1),
            Mark::Lost => {}
        }
        let delay = self.rng.magnitude(1, 2 * write.pace + 1);
        self.writes.push(write);
        self.after(delay, Step::Device(id));
    }

    /// Something changes at once that no mark can be made for, but it is counted.
    fn passthrough(&mut self, disk: usize) {
        let size = self.devices[disk].size();
        let range = BlockRange::new(self.rng.within(0, size - 1), 1);
        if self.devices[disk].busy(range) {
            return;
        }
        self.mark("passthrough");
        let id = self.writes.len();
        let marks = Marks { issue: Mark::Lost, completion: Mark::Lost };
        let mut write = Write {
            disk,
            range,
            content: id as u64 + 1,
            issued: self.stamp,
            completed: None,
            stage: 0,
            blocks_written: 1,
            marks,
            pace: 1,
            writer: usize::MAX,
            tag: usize::MAX,
        };
        self.devices[disk].issue(&write);
        while !self.devices[disk].advance(id, &mut write, self.stamp) {}
        self.writes.push(write);
        self.trackers[disk].count(|counts| counts.passthrough += 1);
    }

    pub(crate) fn on_device(&mut self, id: WriteId) {
        let write = &mut self.writes[id];
        let Write { disk, range, pace, writer, tag, .. } = *write;
        if !self.devices[disk].advance(id, write, self.stamp) {
            let delay = self.rng.magnitude(1, 2 * pace + 1);
            return self.after(delay, Step::Device(id));
        }
        self.trackers[disk].writes_in_flight -= 1;
        match self.writes[id].marks.completion {
            Mark::Seen => self.trackers[disk].mark_completion(range, tag),
            Mark::Missed => self.trackers[disk].count(|counts| counts.completions += 1),
            Mark::Lost => {}
        }
        if writer != usize::MAX {
            let delay = self.rng.magnitude(1, 2 * self.plan.think);
            self.after(delay, Step::Writer(writer));
        }
    }
}
