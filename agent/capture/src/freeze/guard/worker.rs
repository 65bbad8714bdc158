//! One thread of the guard for each file system, because freezing and thawing may wait for a disk that does not answer,
//! and nobody else must wait with it.
//!
//! Threads are started before anything is frozen, and kept. While something is frozen they allocate nothing.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, Builder},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::freeze::ioctl;

/// All that such a thread needs; it is locked into memory as a whole.
const STACK: usize = 64 << 10;
/// From one try of a thaw that failed to the next, and how often. A disk that fails for so long is lost.
const THAW_RETRY: Duration = Duration::from_millis(10);
const THAW_TRIES: u32 = 6_000;

/// How far a worker is with its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has none.
    Free,
    /// It holds one and has done nothing to it.
    Held,
    /// It is in the system call, or about to be.
    Freezing,
    /// It froze it.
    Frozen,
    /// It is thawing it.
    Thawing,
    /// It did not freeze, or not any more: nothing of ours is frozen.
    Done,
}

struct Slot {
    state: State,
    file_system: Option<OwnedFd>,
    /// The thread shall end.
    quit: bool,
    /// Everything has to end: what is frozen, or will be in a moment, is thawed.
    end: bool,
    /// What freezing came to.
    frozen: Result<(), Errno>,
    /// What thawing came to.
    thawed: Result<(), Errno>,
    thawed_at: Option<Instant>,
}

impl Slot {
    fn new(state: State, file_system: Option<OwnedFd>) -> Slot {
        let (frozen, thawed) = (Ok(()), Ok(()));
        Slot { state, file_system, quit: false, end: false, frozen, thawed, thawed_at: None }
    }
}

/// The guard's end of one such thread.
pub(super) struct Worker {
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Worker {
    /// Starts the thread. `settled` is written to, as an event, whenever it has done something.
    pub(super) fn start(settled: Arc<OwnedFd>) -> io::Result<Arc<Worker>> {
        let slot = Mutex::new(Slot::new(State::Free, None));
        let worker = Arc::new(Worker { slot, changed: Condvar::new() });
        let own = Arc::clone(&worker);
        Builder::new().name("thaw".to_owned()).stack_size(STACK).spawn(move || own.work(&settled))?;
        Ok(worker)
    }

    // A thread that panicked held it for an assignment; what is in there is whole.
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.slot().state
    }

    /// Gives it a file system. Only for one that is free.
    pub(super) fn hold(&self, file_system: OwnedFd) {
        *self.slot() = Slot::new(State::Held, Some(file_system));
    }

    /// Has it freeze; `false` where it holds nothing that it has not tried to freeze yet.
    pub(super) fn freeze(&self) -> bool {
        let mut slot = self.slot();
        if slot.state != State::Held || slot.end {
            return false;
        }
        slot.state = State::Freezing;
        self.changed.notify_all();
        true
    }

    /// What became of freezing, once it is known.
    pub(super) fn frozen(&self) -> Option<Result<(), Errno>> {
        let slot = self.slot();
        (!matches!(slot.state, State::Held | State::Freezing)).then_some(slot.frozen)
    }

    /// Has it thaw what it froze, or is freezing, and never freeze again before the next [`Worker::hold`].
    pub(super) fn end(&self) {
        let mut slot = self.slot();
        slot.end = true;
        if matches!(slot.state, State::Held) {
            slot.state = State::Done;
        }
        self.changed.notify_all();
    }

    /// Waits until nothing of ours is frozen, but not longer than `patience`; whether that is so.
    pub(super) fn wait_done(&self, patience: Duration) -> bool {
        let busy = |slot: &mut Slot| !matches!(slot.state, State::Done | State::Free);
        let waited = self.changed.wait_timeout_while(self.slot(), patience, busy);
        let (mut slot, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !busy(&mut slot)
    }

    /// Lets go of the file system if nothing of ours is frozen; whether it is free now.
    pub(super) fn release(&self) -> bool {
        let mut slot = self.slot();
        if slot.state == State::Done {
            slot.file_system = None;
            slot.state = State::Free;
        }
        slot.state == State::Free
    }

    /// What became of thawing, and when: an error also where somebody else thawed what we had frozen.
    pub(super) fn thawed(&self) -> (Result<(), Errno>, Option<Instant>) {
        let slot = self.slot();
        (slot.thawed, slot.thawed_at)
    }

    /// Ends the thread when it has nothing to do.
    pub(super) fn quit(&self) {
        self.slot().quit = true;
        self.changed.notify_all();
    }

    fn work(&self, settled: &OwnedFd) {
        let has_work =
            |slot: &Slot| slot.state == State::Freezing || (slot.state == State::Frozen && slot.end);
        loop {
            let waited = self.changed.wait_while(self.slot(), |slot| !has_work(slot) && !slot.quit);
            let mut slot = waited.unwrap_or_else(PoisonError::into_inner);
            if !has_work(&slot) {
                return;
            }
            let freezing = slot.state == State::Freezing;
            // Held by this thread alone during the call, so nobody can close it.
            let file_system = slot.file_system.take();
            if !freezing {
                slot.state = State::Thawing;
            }
            drop(slot);
            let outcome = match &file_system {
                None => Err(Errno::BADF),
                Some(file_system) if freezing => ioctl::freeze(file_system.as_fd()),
                Some(file_system) => thaw(file_system),
            };
            let mut slot = self.slot();
            slot.file_system = file_system;
            if freezing {
                slot.frozen = outcome;
                slot.state = if outcome.is_ok() { State::Frozen } else { State::Done };
            } else {
                (slot.thawed, slot.thawed_at) = (outcome, Some(Instant::now()));
                slot.state = State::Done;
            }
            drop(slot);
            self.changed.notify_all();
            // It cannot be full: nobody adds so much to it in between two reads.
            let _ = rustix::io::write(settled, &1u64.to_ne_bytes());
        }
    }
}

fn thaw(file_system: &OwnedFd) -> Result<(), Errno> {
    let mut outcome = Ok(());
    for _ in 0..THAW_TRIES {
        outcome = ioctl::thaw(file_system.as_fd());
        // "Not frozen": somebody else has thawed what was ours.
        if matches!(outcome, Ok(()) | Err(Errno::INVAL)) {
            break;
        }
        thread::sleep(THAW_RETRY);
    }
    outcome
}
