//! A writer to a file system that knows how long it was ever kept waiting: what a freeze is measured by, from outside.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mobility_capture::freeze::raise_priority;

struct Shared {
    begun: Instant,
    stop: AtomicBool,
    /// Writes that were done.
    writes: AtomicU64,
    /// The longest that one took, in nanoseconds, since it was last asked.
    longest: AtomicU64,
    /// When the present one was begun, in nanoseconds, or 0.
    since: AtomicU64,
}

/// The writer. Dropping it ends it.
pub(crate) struct Probe {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    pub(crate) fn on(point: &Path) -> Probe {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            since: AtomicU64::new(0),
        });
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(point.join("probe")).unwrap();
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            // What is measured is the file system, not how long a busy machine lets a thread wait for a processor.
            let _priority = raise_priority();
            let mut round = 0u8;
            while !own.stop.load(SeqCst) {
                round = round.wrapping_add(1);
                let start = own.begun.elapsed().as_nanos() as u64;
                own.since.store(start.max(1), SeqCst);
                file.write_all_at(&[round], 0).unwrap();
                own.since.store(0, SeqCst);
                own.longest.fetch_max(own.begun.elapsed().as_nanos() as u64 - start, SeqCst);
                own.writes.fetch_add(1, SeqCst);
                thread::sleep(Duration::from_micros(300));
            }
        });
        Probe { shared, thread: Some(thread) }
    }

    /// For how long the present write has been waiting.
    pub(crate) fn waiting(&self) -> Duration {
        let now = self.shared.begun.elapsed().as_nanos() as u64;
        match self.shared.since.load(SeqCst) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(now.saturating_sub(since)),
        }
    }

    /// Whether two more writes are done within `patience`; two, since one may have been done before the question.
    pub(crate) fn goes_on(&self, patience: Duration) -> bool {
        let (from, until) = (self.shared.writes.load(SeqCst), Instant::now() + patience);
        while self.shared.writes.load(SeqCst) < from + 2 {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Whether a write waits for so long within `patience`.
    pub(crate) fn is_held(&self, long: Duration, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.waiting() < long {
            if Instant::now() > until {
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// The longest wait since this was asked before.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.shared.longest.swap(0, SeqCst)).max(self.waiting())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        // One that hangs is let go: the bench thaws when it ends, which may be after this.
        if self.goes_on(Duration::from_secs(1)) || self.waiting().is_zero() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}
