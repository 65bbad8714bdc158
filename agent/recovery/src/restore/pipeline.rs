//! Plans, reads with hashing, and takes side by side: one thread plans, two fill windows, the caller's takes them in the
//! order of the disk. Copying a disk out of target storage and reading back what was written both go through here.
//!
//! The threads are not waited for when the caller ends early: one may sit in a read that takes as long as a network's
//! limits allow, and it ends at the next window since nobody listens any more. Memory: a dozen windows of 1 MiB, whatever
//! the disk's size; all queues are bounded. Deliberately not here: what is read from where, and what is written.

use std::{
    ops::Range,
    panic::resume_unwind,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use mobility_format::{ByteCount, Digest, WINDOW_SIZE};

use super::{
    RestoreError,
    proof::{length_of, windows_of},
};

/// Threads that fill windows.
pub(super) const FILLERS: usize = 2;
/// Planned windows waiting for one thread: a few hundred bytes each.
const PLANNED: usize = 8;
/// Filled windows of one thread waiting to be taken.
const FILLED: usize = 3;
/// How long nothing may come before [`Sink::idle`] is asked.
pub(super) const IDLE: Duration = Duration::from_millis(100);

/// A window that is not known to be zero.
pub(super) struct Window<P> {
    /// Its number.
    pub(super) number: u64,
    /// What it was filled by.
    pub(super) plan: P,
    /// Its content as far as the disk goes; longer ones are cut.
    pub(super) bytes: Vec<u8>,
    /// The digest of that.
    pub(super) digest: Digest,
}

/// Takes windows in the order of the disk.
pub(super) trait Sink<P> {
    /// These windows are zero.
    fn zeros(&mut self, windows: Range<u64>) -> Result<(), RestoreError>;

    /// This window may be anything.
    fn window(&mut self, window: &Window<P>) -> Result<(), RestoreError>;

    /// Nothing has come for a while. An error ends everything.
    fn idle(&mut self) -> Result<(), RestoreError>;
}

/// Fills a window, all of its [`WINDOW_SIZE`] bytes.
pub(super) type Filler<P> = Box<dyn FnMut(&P, &mut [u8]) -> Result<(), RestoreError> + Send>;

/// The zero windows before a window, and the window, which is lacking at the disk's end.
struct Turn<P> {
    zeros: Range<u64>,
    window: Option<P>,
}

/// What one thread is given, and what it gives back. Turns go around all threads, so what comes back is in order.
struct Lane<P> {
    filled: Receiver<Filled<P>>,
    used: SyncSender<Vec<u8>>,
    thread: JoinHandle<()>,
}

/// Passes all windows of a disk to `sink`. `plans` are those that may be other than zero, with their numbers, in order.
pub(super) fn run<P: Send + 'static>(
    size: ByteCount,
    plans: impl Iterator<Item = Result<(u64, P), RestoreError>> + Send + 'static,
    fillers: Vec<Filler<P>>,
    sink: &mut impl Sink<P>,
) -> Result<(), RestoreError> {
    let (mut lanes, mut turns) = (Vec::new(), Vec::new());
    for filler in fillers {
        let (turn_to, turn) = sync_channel(PLANNED);
        let (fill_to, filled) = sync_channel(FILLED);
        let (used, returned) = sync_channel(FILLED + 2);
        let thread = thread::spawn(move || fill(size, filler, &turn, &returned, &fill_to));
        lanes.push(Lane { filled, used, thread });
        turns.push(turn_to);
    }
    let planner = thread::spawn(move || plan(size, plans, &turns));
    for lane in (0..lanes.len()).cycle() {
        let Some(next) = next(&lanes[lane], sink)? else { break };
        let (zeros, window) = next?;
        if !zeros.is_empty() {
            sink.zeros(zeros)?;
        }
        if let Some(window) = window {
            sink.window(&window)?;
            // A full queue means that there are buffers enough.
            lanes[lane].used.try_send(window.bytes).ok();
        }
    }
    // All have come to their ends by now, or one has panicked; then the others find that nobody listens.
    let threads: Vec<_> = std::iter::once(planner).chain(lanes.into_iter().map(|lane| lane.thread)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
    Ok(())
}

type Filled<P> = Result<(Range<u64>, Option<Window<P>>), RestoreError>;

fn next<P>(lane: &Lane<P>, sink: &mut impl Sink<P>) -> Result<Option<Filled<P>>, RestoreError> {
    loop {
        match lane.filled.recv_timeout(IDLE) {
            Ok(filled) => return Ok(Some(filled)),
            Err(RecvTimeoutError::Timeout) => sink.idle()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

type Planned<P> = Result<(u64, Turn<P>), RestoreError>;

/// Hands on what there is to do, in the order of the disk.
fn plan<P>(
    size: ByteCount,
    plans: impl Iterator<Item = Result<(u64, P), RestoreError>>,
    lanes: &[SyncSender<Planned<P>>],
) {
    let (mut at, end) = (0, windows_of(size));
    let mut turns = lanes.iter().cycle();
    let mut hand_on = |turn| turns.next().is_some_and(|lane| lane.send(turn).is_ok());
    for plan in plans {
        let (number, plan) = match plan {
            Ok(plan) => plan,
            Err(err) => {
                // Nobody listens any more where another error came first.
                hand_on(Err(err));
                return;
            }
        };
        let turn = Turn { zeros: at..number, window: Some(plan) };
        at = number + 1;
        if !hand_on(Ok((number, turn))) {
            return;
        }
    }
    hand_on(Ok((end, Turn { zeros: at..end, window: None })));
}

fn fill<P>(
    size: ByteCount,
    mut filler: Filler<P>,
    turns: &Receiver<Planned<P>>,
    used: &Receiver<Vec<u8>>,
    to: &SyncSender<Filled<P>>,
) {
    for turn in turns {
        let filled = turn.and_then(|(number, Turn { zeros, window })| {
            let Some(plan) = window else { return Ok((zeros, None)) };
            let mut bytes = used.try_recv().unwrap_or_default();
            bytes.resize(WINDOW_SIZE, 0);
            filler(&plan, &mut bytes)?;
            bytes.truncate(length_of(number, size));
            let digest = Digest::of(&bytes);
            Ok((zeros, Some(Window { number, plan, bytes, digest })))
        });
        let failed = filled.is_err();
        if to.send(filled).is_err() || failed {
            return;
        }
    }
}
