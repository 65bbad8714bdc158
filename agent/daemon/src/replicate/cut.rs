//! Does the five steps of an optimistic cut, on all tracked disks at once. What they mean is `mobility_engine`'s.
//!
//! What decides whether a cut succeeds is how long it takes from `t0` to the last look at the bitmaps, so nothing else
//! happens in between: no packing, no log, and many reads at once. Deliberately not here: whether to try again.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use mobility_capture::{
    direct::{AlignedBuf, DirectReader, ReadError, read_plan},
    ebpf::Tracker,
};
use mobility_engine::{CutDisk, CutDiskOutcome, CutFigures, CutPlan, Drained, Verdict};
use mobility_format::{BlockRange, BlockSet, ByteCount, DiskId};

use super::{fault, pack::lock};
use crate::clock;

/// How long a cut waits for writes that were in flight at `t0`.
const SETTLE: Duration = Duration::from_millis(200);
/// Between two looks at what is in flight.
const SETTLE_STEP: Duration = Duration::from_micros(100);
/// The most reads at once.
const READS: usize = 8;
/// So many reads one thread makes sooner than another one wakes up.
const FEW: usize = 4;

/// A disk to cut.
pub(crate) struct Target {
    pub(crate) id: DiskId,
    pub(crate) tracker: Arc<Mutex<Tracker>>,
    pub(crate) reader: Arc<DirectReader>,
    pub(crate) plan: CutPlan,
}

/// What was read of a disk.
pub(crate) type Content = Vec<(BlockRange, AlignedBuf)>;

/// How it went; the contents are there only if the verdict is [`Verdict::Consistent`].
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) figures: CutFigures,
    pub(crate) disks: Vec<(DiskId, CutDiskOutcome)>,
    pub(crate) contents: Vec<(DiskId, Content)>,
}

struct Cutting<'a> {
    id: DiskId,
    tracker: MutexGuard<'a, Tracker>,
    reader: &'a DirectReader,
    recent: &'a BlockSet,
    concerned: BlockSet,
    cut: CutDisk,
    drained: Drained,
    /// Writes issued after `t0` that were taken out of the bitmap together with what came before.
    touched_since: BlockSet,
    misses: u64,
    content: Content,
}

/// Tries a cut over `targets`, reading `budget` at most.
pub(crate) fn cut(targets: &[Target], budget: ByteCount) -> Outcome {
    // Threads that are started after `t0` would be most of the window.
    thread::scope(|scope| cut_with(&Readers::start(scope), targets, budget))
}

fn cut_with<'a>(readers: &Readers<'a>, targets: &'a [Target], budget: ByteCount) -> Outcome {
    let mut disks: Vec<_> = targets.iter().map(Cutting::new).collect();
    for disk in &mut disks {
        disk.drained.touched = disk.tracker.take_touched();
    }
    let (t0, t0_wall) = (Instant::now(), clock::wall());
    disks.iter_mut().for_each(Cutting::take_dirty);
    let verdict = read_and_validate(readers, &mut disks, budget, t0);
    let consistent = verdict == Verdict::Consistent;
    let read = disks.iter().map(|disk| disk.cut.to_read().bytes().0).sum();
    let figures = CutFigures {
        t0_us: t0_wall.as_microsecond(),
        window_us: u64::try_from(t0.elapsed().as_micros()).unwrap_or(u64::MAX),
        read: ByteCount(if consistent { read } else { 0 }),
    };
    let mut outcome = Outcome { verdict, figures, disks: Vec::new(), contents: Vec::new() };
    for mut disk in disks {
        disk.drained.touched.union_with(&disk.touched_since);
        let read = disk.cut.to_read().clone();
        outcome.disks.push((disk.id, CutDiskOutcome { drained: disk.drained, read }));
        if consistent {
            outcome.contents.push((disk.id, disk.content));
        }
    }
    outcome
}

fn read_and_validate<'a>(
    readers: &Readers<'a>,
    disks: &mut [Cutting<'a>],
    budget: ByteCount,
    t0: Instant,
) -> Verdict {
    if disks.iter().map(|disk| disk.cut.to_read().bytes().0).sum::<u64>() > budget.0 {
        return Verdict::TooMuch;
    }
    while !disks.iter_mut().all(Cutting::settled) {
        if t0.elapsed() > SETTLE {
            return Verdict::Unsettled;
        }
        thread::sleep(SETTLE_STEP);
    }
    if let Err((disk, err)) = readers.read(disks) {
        return Verdict::Unread(disks[disk].id, fault::of_read(&err));
    }
    let conflicts: u64 = disks.iter().map(Cutting::conflicts).sum();
    match conflicts {
        0 if disks.iter().any(Cutting::missed) => Verdict::Missed,
        0 => Verdict::Consistent,
        blocks => Verdict::Conflict(blocks),
    }
}

impl<'a> Cutting<'a> {
    fn new(target: &'a Target) -> Self {
        let tracker = lock(&target.tracker);
        let misses = misses(&tracker);
        Cutting {
            id: target.id,
            tracker,
            reader: &target.reader,
            recent: &target.plan.recent,
            concerned: BlockSet::new(),
            cut: CutDisk::new(target.plan.clone()),
            drained: Drained::default(),
            touched_since: BlockSet::new(),
            misses,
            content: Vec::new(),
        }
    }

    fn take_dirty(&mut self) {
        // Before `dirty` is taken: a write that ends in between is then seen twice and not never.
        self.concerned = self.cut.concerned(&self.drained.touched);
        let in_flight = self.tracker.in_flight_within(&self.concerned);
        let taken = self.tracker.drain();
        self.drained.unknown = super::disk::unknown(&taken);
        self.touched_since = taken.touched;
        self.drained.dirty = taken.dirty;
        self.drained.completion_missed = taken.completion_missed;
        self.drained.issue_missed = taken.issue_missed;
        self.drained.idle = idle(&self.tracker);
        self.cut.taken(&self.drained, &in_flight);
    }

    fn settled(&mut self) -> bool {
        self.drained.idle |= self.cut.must_settle() && idle(&self.tracker);
        let in_flight = self.tracker.in_flight_within(&self.concerned);
        let mut dirty = self.tracker.dirty_within(self.cut.to_read());
        dirty.union_with(&self.tracker.dirty_within(self.recent));
        self.cut.settled(&in_flight, &dirty, self.drained.idle)
    }

    fn conflicts(&self) -> u64 {
        let mut touched = self.tracker.touched_within(self.cut.to_read());
        touched.union_with(&self.touched_since);
        let dirty = self.tracker.dirty_within(self.cut.to_read());
        self.cut.conflicts(&touched, &dirty).len()
    }

    fn missed(&self) -> bool {
        misses(&self.tracker) != self.misses
    }
}

fn idle(tracker: &Tracker) -> bool {
    tracker.in_flight().is_ok_and(|writes| writes == 0)
}

/// Runs of the issue program that the kernel has skipped: a write whose issue was missed may have changed what is read
/// without a trace. A missed completion cannot, for its issue was seen.
fn misses(tracker: &Tracker) -> u64 {
    tracker.counters().map_or(u64::MAX, |counters| counters.issue_misses)
}

/// So many reads of one disk, by its place among those that are cut.
type Share<'a> = (usize, &'a DirectReader, Vec<BlockRange>);
type Read = (usize, Result<Content, ReadError>);

/// Threads that wait to read.
struct Readers<'a> {
    shares: Vec<Sender<Share<'a>>>,
    read: Receiver<Read>,
}

impl<'a> Readers<'a> {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> Readers<'a>
    where
        'a: 'scope,
    {
        let (done, read) = channel();
        let start = |_| {
            let (sender, shares) = channel::<Share<'a>>();
            let done = done.clone();
            let serve = move || {
                for (disk, reader, ranges) in shares {
                    // Nobody waits for it any more when another read has failed.
                    let _ = done.send((disk, read_all(reader, &ranges)));
                }
            };
            thread::Builder::new().name("cut".to_owned()).spawn_scoped(scope, serve).ok().map(|_| sender)
        };
        Readers { shares: (0..READS).filter_map(start).collect(), read }
    }

    /// Reads what all `disks` have to be read.
    fn read(&self, disks: &mut [Cutting<'a>]) -> Result<(), (usize, ReadError)> {
        let plans: Vec<Vec<_>> = disks.iter().map(|disk| read_plan(disk.cut.to_read()).collect()).collect();
        let total: usize = plans.iter().map(Vec::len).sum();
        // A few reads are over before a thread is awake.
        if total <= FEW || self.shares.is_empty() {
            for (index, (disk, plan)) in disks.iter_mut().zip(&plans).enumerate() {
                disk.content = read_all(disk.reader, plan).map_err(|err| (index, err))?;
            }
            return Ok(());
        }
        let each = total.div_ceil(self.shares.len()).max(FEW);
        let shares =
            plans.iter().enumerate().flat_map(|(disk, plan)| plan.chunks(each).map(move |part| (disk, part)));
        let mut waiting = 0;
        for ((disk, part), reader) in shares.zip(self.shares.iter().cycle()) {
            // The threads live as long as the senders.
            let _ = reader.send((disk, disks[disk].reader, part.to_vec()));
            waiting += 1;
        }
        for (disk, content) in self.read.iter().take(waiting) {
            disks[disk].content.extend(content.map_err(|err| (disk, err))?);
        }
        Ok(())
    }
}

fn read_all(reader: &DirectReader, ranges: &[BlockRange]) -> Result<Content, ReadError> {
    let read = |&range: &BlockRange| {
        let mut buf = AlignedBuf::new(range.bytes().0 as usize);
        reader.read(range, &mut buf).map(|()| (range, buf))
    };
    ranges.iter().map(read).collect()
}
