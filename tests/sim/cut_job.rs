//! The shell's part of a cut, in the steps that `mobility_engine`'s `CutDisk` asks for, each apart from the next.
//!
//! Deliberately not here: what has to be read and what conflicts; that is the code under test.

use std::{collections::BTreeMap, time::Duration};

use mobility_engine::{CutDisk, CutDiskOutcome, CutFigures, CutPlan, Drained, Event, Verdict};
use mobility_format::{BLOCK_SIZE, BlockIndex, BlockSet, ByteCount, DiskId};

use crate::{
    device::Content,
    jobs::{Job, Next, blocks_of, unreadable},
    mutant::Mutant,
    world::{World, disk_id, disk_index},
};

#[derive(Clone, Debug)]
struct Part {
    disk: usize,
    cut: CutDisk,
    drained: Drained,
    in_flight: BlockSet,
    idle: bool,
    blocks: Vec<u64>,
    /// How many of them were read, and how many of these looked at once more.
    read: usize,
    validated: usize,
    conflicts: BlockSet,
    /// Of all rounds.
    rounds: Vec<Drained>,
    content: BTreeMap<u64, Content>,
    conflicted: BlockSet,
}

impl Part {
    fn new((id, plan): (DiskId, CutPlan)) -> Self {
        Part {
            disk: disk_index(id),
            cut: CutDisk::new(plan),
            drained: Drained::default(),
            in_flight: BlockSet::new(),
            idle: false,
            blocks: Vec::new(),
            read: 0,
            validated: 0,
            conflicts: BlockSet::new(),
            rounds: Vec::new(),
            content: BTreeMap::new(),
            conflicted: BlockSet::new(),
        }
    }

    fn next_round(&mut self) {
        let conflicts = std::mem::take(&mut self.conflicts);
        let drained = std::mem::take(&mut self.drained);
        self.cut.next_round(&drained, &conflicts);
        self.conflicted.union_with(&conflicts);
        self.rounds.push(drained);
        (self.read, self.validated, self.idle) = (0, 0, false);
    }
}

/// What is done next, to which part.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Touched { word: u64 },
    InFlight,
    Dirty { word: u64 },
    Count,
    LookInFlight,
    LookDirty,
    Read,
    Validate,
}

#[derive(Clone, Debug)]
pub(crate) struct CutJob {
    parts: Vec<Part>,
    stage: Stage,
    at: usize,
    most: u64,
    /// Whether writes are held until it is over.
    freezes: bool,
    t0: u64,
    settle_until: u64,
}

impl CutJob {
    pub(crate) fn new(plans: Vec<(DiskId, CutPlan)>, most: ByteCount, freeze: Option<Duration>) -> Self {
        CutJob {
            parts: plans.into_iter().map(Part::new).collect(),
            freezes: freeze.is_some(),
            stage: Stage::Touched { word: 0 },
            at: 0,
            most: most.blocks(),
            t0: 0,
            settle_until: 0,
        }
    }

    pub(crate) fn disks(&self) -> Vec<usize> {
        self.parts.iter().map(|part| part.disk).collect()
    }

    /// Whether it is between the two ends of taking `touched` on all disks.
    pub(crate) fn is_taking_touched(&self) -> bool {
        matches!(self.stage, Stage::Touched { .. })
    }

    /// On to the next part, or to the next stage where this was the last.
    fn advance(&mut self, again: Stage, next: Stage) {
        self.at += 1;
        self.stage = again;
        if self.at == self.parts.len() {
            (self.at, self.stage) = (0, next);
        }
    }

    fn to_read(&self) -> u64 {
        self.parts.iter().map(|part| part.cut.to_read().len()).sum()
    }
}

impl World {
    pub(crate) fn step_cut(&mut self, job: &mut CutJob) -> Next {
        let disk = job.parts[job.at].disk;
        self.held |= job.freezes;
        match job.stage {
            Stage::Touched { mut word } => {
                let (range, last) = self.words(disk, &mut word);
                let taken = self.trackers[disk].take_touched(range);
                job.parts[job.at].drained.touched.union_with(&taken);
                job.stage = Stage::Touched { word };
                if last {
                    job.advance(Stage::Touched { word: 0 }, Stage::InFlight);
                    // What is issued in any later step comes after it.
                    job.t0 = self.stamp + 1;
                }
            }
            Stage::InFlight => {
                job.parts[job.at].in_flight = self.in_flight(disk);
                job.advance(Stage::InFlight, Stage::Dirty { word: 0 });
            }
            Stage::Dirty { mut word } => {
                let (range, last) = self.words(disk, &mut word);
                let taken = self.trackers[disk].take_dirty(range);
                job.parts[job.at].drained.dirty.union_with(&taken);
                job.stage = Stage::Dirty { word };
                if last {
                    job.advance(Stage::Dirty { word: 0 }, Stage::Count);
                }
            }
            Stage::Count => {
                let part = &mut job.parts[job.at];
                self.account(disk, &mut part.drained);
                part.cut.taken(&part.drained, &part.in_flight);
                job.advance(Stage::Count, Stage::LookInFlight);
                job.settle_until = self.now + self.plan.settle;
                if job.to_read() > job.most {
                    return self.cut_over(job, Verdict::TooMuch);
                }
            }
            Stage::LookInFlight | Stage::LookDirty => return self.step_settle(job),
            Stage::Read => return self.step_cut_read(job),
            Stage::Validate => {
                if self.trackers[disk].uncounted() && self.plan.mutant != Some(Mutant::IgnoresMissedIssues) {
                    return self.cut_over(job, Verdict::Missed);
                }
                self.validate(job);
                job.advance(Stage::Validate, Stage::Validate);
                if job.at == 0 {
                    return self.step_round_over(job);
                }
            }
        }
        Some(self.rng.within(1, 20))
    }

    fn step_settle(&mut self, job: &mut CutJob) -> Next {
        let part = &mut job.parts[job.at];
        let disk = part.disk;
        if let Stage::LookInFlight = job.stage {
            part.idle |= self.devices[disk].writes_in_flight == 0;
            part.in_flight = self.in_flight(disk);
            job.stage = Stage::LookDirty;
            return Some(self.rng.within(1, 5));
        }
        if self.plan.mutant == Some(Mutant::IgnoresInFlight) {
            part.idle = true;
        }
        let tracker = &self.trackers[disk];
        if !part.cut.settled(&part.in_flight, &tracker.dirty, &tracker.touched, part.idle) {
            if self.now > job.settle_until {
                return self.cut_over(job, Verdict::Unsettled);
            }
            job.stage = Stage::LookInFlight;
            return Some(self.rng.within(50, 1_000));
        }
        part.drained.idle |= part.idle && self.plan.mutant != Some(Mutant::IgnoresInFlight);
        part.blocks = blocks_of(part.cut.to_read());
        job.advance(Stage::LookInFlight, Stage::Read);
        if job.to_read() > job.most {
            return self.cut_over(job, Verdict::TooMuch);
        }
        Some(self.rng.within(1, 5))
    }

    fn step_cut_read(&mut self, job: &mut CutJob) -> Next {
        if self.rng.per_mille(500) {
            self.validate(job);
        }
        let part = &mut job.parts[job.at];
        for _ in 0..self.rng.within(1, 4) {
            let Some(&block) = part.blocks.get(part.read) else { break };
            match self.devices[part.disk].read(block) {
                Some(content) => {
                    part.content.insert(block, content);
                    part.read += 1;
                }
                None => {
                    let disk = part.disk;
                    return self.cut_over(job, Verdict::Unread(disk_id(disk), unreadable(disk)));
                }
            }
        }
        if part.read == part.blocks.len() {
            if self.plan.mutant == Some(Mutant::DrainsAfterRead) {
                self.trackers[part.disk].dirty = BlockSet::new();
            }
            job.advance(Stage::Read, Stage::Validate);
        }
        Some(self.read_delay())
    }

    /// Looks at the marks of what was read since the last look: it is of `t0` if it is untouched now.
    fn validate(&mut self, job: &mut CutJob) {
        let part = &mut job.parts[job.at];
        let read: BlockSet = part.blocks[part.validated..part.read].iter().map(|&b| BlockIndex(b)).collect();
        part.validated = part.read;
        if self.plan.mutant != Some(Mutant::NoValidation) {
            let tracker = &self.trackers[part.disk];
            let (touched, dirty) = (tracker.touched.intersection(&read), tracker.dirty.intersection(&read));
            part.conflicts.union_with(&part.cut.conflicts(&touched, &dirty));
        }
    }

    /// Everything was read and looked at: it is consistent, or another round follows, or that was the last.
    fn step_round_over(&mut self, job: &mut CutJob) -> Next {
        let conflicts: u64 = job.parts.iter().map(|part| part.conflicts.len()).sum();
        if conflicts == 0 {
            return self.cut_over(job, Verdict::Consistent);
        }
        if self.rng.per_mille(300) {
            return self.cut_over(job, Verdict::Conflict(conflicts));
        }
        self.mark("cut goes on");
        job.parts.iter_mut().for_each(Part::next_round);
        job.stage = Stage::Touched { word: 0 };
        Some(self.rng.within(1, 20))
    }

    fn cut_over(&mut self, job: &mut CutJob, verdict: Verdict) -> Next {
        self.mark(match verdict {
            Verdict::Consistent => "cut consistent",
            Verdict::Conflict(_) => "cut conflict",
            Verdict::TooMuch => "cut too much",
            Verdict::Unsettled => "cut unsettled",
            Verdict::Missed => "cut missed",
            Verdict::Unread(..) => "cut unread",
            Verdict::Overrun | Verdict::NotFrozen(_) | Verdict::NothingToFreeze => "cut not frozen",
        });
        self.held = false;
        let consistent = verdict == Verdict::Consistent;
        let read = ByteCount(job.to_read() * BLOCK_SIZE as u64);
        // To the engine it is a number like any other; to the checks it is the moment itself.
        let rounds = job.parts.first().map_or(1, |part| part.rounds.len() as u32 + 1);
        let figures =
            CutFigures { t0_us: job.t0 as i64, window_us: 1, read, rounds, held_us: 0, frozen: job.freezes };
        let mut outcomes = Vec::new();
        let mut packing = Vec::new();
        for part in &mut job.parts {
            let read = if consistent { part.cut.read() } else { BlockSet::new() };
            part.conflicted.union_with(&part.conflicts);
            let mut drained = std::mem::take(&mut part.rounds);
            drained.push(std::mem::take(&mut part.drained));
            let conflicts = std::mem::take(&mut part.conflicted);
            outcomes.push((disk_id(part.disk), CutDiskOutcome { drained, read, conflicts }));
            let blocks: Vec<_> = std::mem::take(&mut part.content).into_iter().collect();
            if consistent && !blocks.is_empty() {
                packing.push((part.disk, blocks));
            }
        }
        self.tell(Event::CutDone(verdict, figures, outcomes));
        if consistent && self.agent.is_some() {
            self.start_job(Job::Packing(packing));
        }
        None
    }
}
