//! Makes a cut over all tracked disks at once, in rounds. What the steps of a round mean is `mobility_engine`'s.
//!
//! What decides whether a round succeeds is how long it takes from `t0` to the last look at the bitmaps, so nothing else
//! happens in between: no packing, no log, and many reads at once, by threads that run before others. A round that fails
//! leaves little for the next one to read, so there is no pause between them. Deliberately not here: whether to try again
//! after the last round, and what a freeze is.

mod content;
mod disk;
mod readers;
mod start;

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use mobility_capture::{
    direct::{DirectReader, joined_read_plan},
    disk::Disk,
    ebpf::Tracker,
    freeze::raise_priority,
};
use mobility_engine::{CutDiskOutcome, CutFigures, CutPlan, Verdict};
use mobility_format::{BlockSet, ByteCount, DiskId};

pub(crate) use self::content::Content;
use self::{
    disk::Cutting,
    readers::{Readers, Unread, Wanted},
};
use super::{fault, freeze::Freezing, pack::lock};
use crate::clock;

/// How long a cut waits for writes that were in flight at `t0`.
const SETTLE: Duration = Duration::from_millis(200);
/// Between two looks at what is in flight.
const SETTLE_STEP: Duration = Duration::from_micros(50);
/// The most rounds of a cut.
const ROUNDS: u32 = 24;
/// No further round begins after this time without a freeze.
const LONGEST: Duration = Duration::from_millis(500);
/// No further round before a freeze begins after this time.
const LONGEST_APPROACH: Duration = Duration::from_millis(1500);
/// So many blocks are not worth another round before a freeze: reading them takes a few milliseconds.
const LITTLE_LEFT: u64 = 2048;
/// Of the time for which writes may be held, this part in percent is for reading; the rest is for thawing.
const READ_SHARE: u32 = 80;

/// A disk to cut.
pub(crate) struct Target {
    pub(crate) id: DiskId,
    pub(crate) disk: Disk,
    pub(crate) tracker: Arc<Mutex<Tracker>>,
    pub(crate) reader: Arc<DirectReader>,
    pub(crate) plan: CutPlan,
}

/// How it went; the contents are there only if the verdict is [`Verdict::Consistent`].
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) figures: CutFigures,
    pub(crate) disks: Vec<(DiskId, CutDiskOutcome)>,
    pub(crate) contents: Vec<(DiskId, Content)>,
}

/// A freeze for a cut, and how long it may hold writes.
pub(crate) type Freeze<'a> = (&'a mut Freezing, Duration);

/// Makes a cut over `targets` that holds `budget` in memory at most: each block counts once, in however many rounds it is read.
pub(crate) fn cut(targets: &[Target], budget: ByteCount, freeze: Option<Freeze<'_>>) -> Outcome {
    // Inherited by the threads. Without it, a cut is a little slower.
    let _raised = raise_priority();
    thread::scope(|scope| {
        let mut cut = Cut {
            readers: Readers::start(scope),
            disks: targets.iter().map(Cutting::new).collect(),
            budget,
            until: None,
            figures: CutFigures::default(),
        };
        let verdict = match freeze {
            None => cut.rounds(),
            Some((freezing, limit)) => cut.frozen(freezing, limit),
        };
        cut.into_outcome(verdict)
    })
}

struct Cut<'a> {
    readers: Readers<'a>,
    disks: Vec<Cutting<'a>>,
    budget: ByteCount,
    /// When reading has to be over.
    until: Option<Instant>,
    figures: CutFigures,
}

impl<'a> Cut<'a> {
    fn frozen(&mut self, freezing: &mut Freezing, limit: Duration) -> Verdict {
        freezing.write_out();
        if let Err(verdict) = self.approach() {
            return verdict;
        }
        let start = Instant::now();
        let whole = freezing.holds_everything();
        let frozen = match freezing.freeze(limit) {
            Ok(frozen) => frozen,
            Err(verdict) => return verdict,
        };
        self.until = Some(start + limit * READ_SHARE / 100);
        let verdict = self.rounds();
        let held = frozen.thaw();
        self.figures.held_us = micros(held.time);
        self.figures.frozen = whole && held.intact();
        verdict
    }

    /// Rounds while nothing is held yet. They need not succeed: each leaves the next one only what was written meanwhile, so
    /// that the one under the freeze has little to read.
    fn approach(&mut self) -> Result<(), Verdict> {
        let start = Instant::now();
        loop {
            self.figures.rounds += 1;
            match self.round() {
                Verdict::Consistent | Verdict::Conflict(_) => {}
                verdict => return Err(verdict),
            }
            let read: u64 = self.disks.iter().map(Cutting::blocks_to_read).sum();
            let left: u64 = self.disks.iter().map(Cutting::blocks_left).sum();
            self.disks.iter_mut().for_each(Cutting::next_round);
            let late = start.elapsed() > LONGEST_APPROACH || self.figures.rounds >= ROUNDS / 2;
            // Where another round would leave as much as this one, it is only later.
            if left <= LITTLE_LEFT || left > read / 2 || late {
                return Ok(());
            }
        }
    }

    fn rounds(&mut self) -> Verdict {
        let start = Instant::now();
        loop {
            self.figures.rounds += 1;
            let verdict = self.round();
            let Verdict::Conflict(_) = verdict else { return verdict };
            let late = match self.until {
                Some(until) => Instant::now() >= until,
                None => start.elapsed() > LONGEST,
            };
            if late || self.figures.rounds >= ROUNDS {
                return verdict;
            }
            self.disks.iter_mut().for_each(Cutting::next_round);
        }
    }

    fn round(&mut self) -> Verdict {
        self.disks.iter_mut().for_each(Cutting::take_touched);
        let (t0, t0_wall) = (Instant::now(), clock::wall());
        self.disks.iter_mut().for_each(Cutting::take_dirty);
        let verdict = self.read_and_validate(t0);
        self.figures.t0_us = t0_wall.as_microsecond();
        self.figures.window_us = micros(t0.elapsed());
        verdict
    }

    fn read_and_validate(&mut self, t0: Instant) -> Verdict {
        let settle_until = self.until.map_or(t0 + SETTLE, |until| until.min(t0 + SETTLE));
        while !self.disks.iter_mut().all(Cutting::settled) {
            if Instant::now() > settle_until {
                return Verdict::Unsettled;
            }
            thread::sleep(SETTLE_STEP);
        }
        let wanted = self.wanted();
        self.figures.read = ByteCount(self.disks.iter().map(Cutting::bytes_read).sum());
        if self.figures.read > self.budget {
            return Verdict::TooMuch;
        }
        let disks = &mut self.disks;
        match self.readers.read(wanted, self.until, |disk, read, bytes| disks[disk].take(read, bytes)) {
            Ok(()) => {}
            Err(Unread::Late) => return Verdict::Overrun,
            Err(Unread::Failed(disk, err)) => return Verdict::Unread(disks[disk].id, fault::of_read(&err)),
        }
        match disks.iter().map(Cutting::conflicts).sum() {
            0 if disks.iter().any(Cutting::missed) => Verdict::Missed,
            0 => Verdict::Consistent,
            blocks => Verdict::Conflict(blocks),
        }
    }

    /// What this round has to read, what is likeliest to be written first.
    fn wanted(&self) -> Vec<Wanted<'a>> {
        let of = |set: fn(&Cutting<'a>) -> BlockSet| {
            let disks = self.disks.iter().enumerate();
            disks.flat_map(move |(index, disk)| {
                let reader = disk.reader;
                let reads: Vec<_> = joined_read_plan(&set(disk)).collect();
                reads.into_iter().map(move |read| Wanted { disk: index, reader, read })
            })
        };
        of(Cutting::read_first).chain(of(Cutting::read_after)).collect()
    }

    fn into_outcome(self, verdict: Verdict) -> Outcome {
        let consistent = verdict == Verdict::Consistent;
        let mut figures = self.figures;
        if !consistent {
            figures.read = ByteCount(0);
        }
        let mut outcome = Outcome { verdict, figures, disks: Vec::new(), contents: Vec::new() };
        for disk in self.disks {
            let (id, of_disk, content) = disk.into_outcome();
            outcome.disks.push((id, of_disk));
            if consistent {
                outcome.contents.push((id, content));
            }
        }
        outcome
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
