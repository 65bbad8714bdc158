//! Reads and hashes windows on several threads, and hands them over in order.
//!
//! Window after window goes to one thread after the other, each with two windows under way at most, so results come
//! back in order without being sorted and memory is bounded by the number of threads.

use std::{
    collections::VecDeque,
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use mobility_format::{BlockDigest, BlockIndex, BlockRange, BlockSet, WINDOW_BLOCKS};

use super::{Scan, ScanError, block_digests};
use crate::direct::{AlignedBuf, DirectReader, ReadError, ReadErrorKind, Stretch};

/// Jobs that a thread has at once: the one it works on and the next.
const JOBS_PER_THREAD: usize = 2;

/// A window, or the part of one that was asked for.
pub(super) struct Seen {
    pub(super) range: BlockRange,
    /// One for each block of the range; `None` where all of it lies in a hole.
    pub(super) digests: Option<Vec<BlockDigest>>,
    /// The blocks whose digests are meaningless because they could not be read.
    pub(super) failed: Option<ReadError>,
}

/// Calls `visit` for each window of `range` that is not wholly in `skip`, in order.
pub(super) fn each_window(
    scan: &Scan<'_>,
    range: BlockRange,
    skip: &BlockSet,
    visit: impl FnMut(Seen) -> Result<(), ScanError>,
) -> Result<(), ScanError> {
    let windows = Windows { reader: scan.reader, skip, next: range.start.0, end: range.end().0, known: None };
    let threads = scan.reads_in_flight.min(range.count.div_ceil(WINDOW_BLOCKS) as usize);
    if threads > 1 { on_threads(scan, threads, windows, visit) } else { inline(scan, windows, visit) }
}

fn inline(
    scan: &Scan<'_>,
    windows: Windows<'_>,
    mut visit: impl FnMut(Seen) -> Result<(), ScanError>,
) -> Result<(), ScanError> {
    let mut buf = AlignedBuf::for_window();
    for window in windows {
        end_if_cancelled(scan)?;
        visit(match window {
            Stretch::Hole(range) => Seen { range, digests: None, failed: None },
            Stretch::Data(range) => read_and_hash(scan, range, &mut buf)?,
        })?;
    }
    Ok(())
}

type Hashed = Result<Seen, ReadError>;

enum Pending {
    Hole(BlockRange),
    OnThread(usize),
}

fn on_threads(
    scan: &Scan<'_>,
    threads: usize,
    mut windows: Windows<'_>,
    mut visit: impl FnMut(Seen) -> Result<(), ScanError>,
) -> Result<(), ScanError> {
    thread::scope(|scope| {
        let mut lanes: Vec<(SyncSender<BlockRange>, Receiver<Hashed>)> = Vec::with_capacity(threads);
        for _ in 0..threads {
            let (jobs, todo) = sync_channel(JOBS_PER_THREAD);
            let (done, results) = sync_channel(JOBS_PER_THREAD);
            let work = move || work(scan, &todo, &done);
            thread::Builder::new()
                .name("scan".into())
                .spawn_scoped(scope, work)
                .map_err(ScanError::Thread)?;
            lanes.push((jobs, results));
        }
        let (mut pending, mut lane) = (VecDeque::new(), 0);
        loop {
            while pending.len() < threads * JOBS_PER_THREAD {
                match windows.next() {
                    None => break,
                    Some(Stretch::Hole(range)) => pending.push_back(Pending::Hole(range)),
                    Some(Stretch::Data(range)) => {
                        lanes[lane].0.send(range).map_err(|_| thread_ended())?;
                        pending.push_back(Pending::OnThread(lane));
                        lane = (lane + 1) % threads;
                    }
                }
            }
            let Some(first) = pending.pop_front() else { return Ok(()) };
            end_if_cancelled(scan)?;
            match first {
                Pending::Hole(range) => visit(Seen { range, digests: None, failed: None })?,
                Pending::OnThread(lane) => visit(lanes[lane].1.recv().map_err(|_| thread_ended())??)?,
            }
        }
    })
}

fn work(scan: &Scan<'_>, todo: &Receiver<BlockRange>, done: &SyncSender<Hashed>) {
    let mut buf = AlignedBuf::for_window();
    // Either end hangs up when the scan ends early.
    while let Ok(range) = todo.recv() {
        if done.send(read_and_hash(scan, range, &mut buf)).is_err() {
            return;
        }
    }
}

fn read_and_hash(scan: &Scan<'_>, range: BlockRange, buf: &mut AlignedBuf) -> Hashed {
    if let Some(pace) = scan.pace {
        pace(range.bytes());
    }
    let failed = match scan.reader.read(range, buf) {
        Ok(()) => None,
        Err(error) if error.kind == ReadErrorKind::Unreadable => Some(error),
        Err(error) => return Err(error),
    };
    Ok(Seen { range, digests: Some(block_digests(buf).collect()), failed })
}

fn end_if_cancelled(scan: &Scan<'_>) -> Result<(), ScanError> {
    let cancelled = scan.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
    if cancelled { Err(ScanError::Cancelled) } else { Ok(()) }
}

fn thread_ended() -> ScanError {
    ScanError::Thread(std::io::Error::other("it ended by itself"))
}

/// The windows to look at, each as data or as a hole.
struct Windows<'a> {
    reader: &'a DirectReader,
    skip: &'a BlockSet,
    next: u64,
    end: u64,
    /// What the file system said last, and of which blocks.
    known: Option<Stretch>,
}

impl Windows<'_> {
    /// A window is a hole only if all of it is.
    fn classify(&mut self, range: BlockRange) -> Stretch {
        let first = BlockRange { start: range.start, count: 1 };
        let known = match self.known {
            Some(known) if known.range().intersection(first).count == 1 => known,
            _ => *self.known.insert(self.reader.stretch_at(range.start)),
        };
        match known {
            Stretch::Hole(hole) if hole.intersection(range) == range => Stretch::Hole(range),
            _ => Stretch::Data(range),
        }
    }
}

impl Iterator for Windows<'_> {
    type Item = Stretch;

    fn next(&mut self) -> Option<Stretch> {
        while self.next < self.end {
            let count = (WINDOW_BLOCKS - self.next % WINDOW_BLOCKS).min(self.end - self.next);
            let range = BlockRange::new(self.next, count);
            self.next += count;
            let mut blocks = (range.start.0..range.end().0).map(BlockIndex);
            if !blocks.all(|block| self.skip.contains(block)) {
                return Some(self.classify(range));
            }
        }
        None
    }
}
