//! A writer to a file system that may be frozen: it knows how long it was ever kept waiting, and it is what makes sure that
//! no test leaves anything frozen.
//!
//! Beside it runs a process of its own that thaws the file system when the writer has not got through for twenty
//! seconds, and when the test has ended in whatever way. Deliberately not here: freezing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "for tests, which fail by panicking")]

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::{fs::FileExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Thaws when it reads nothing for so long, or its input ends.
const WATCHER: &str = r#"while read -r -t 20; do :; done; exec fsfreeze --unfreeze "$0""#;
/// From one sign of life to the next.
const BEAT: Duration = Duration::from_secs(1);
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(2);

/// How long writes took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Longest {
    /// Giving the bytes to the file system: what a freeze holds.
    pub write: Duration,
    /// That, and having them on the disk.
    pub synced: Duration,
}

struct Shared {
    begun: Instant,
    stop: AtomicBool,
    writes: AtomicU64,
    longest_write: AtomicU64,
    longest_synced: AtomicU64,
    /// When the present write was begun, in nanoseconds, or 0.
    since: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}

/// The writer. Dropping it ends it and thaws what is still frozen.
pub struct Pulse {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    watcher: Child,
    /// Closed when the thread ends or this is dropped, whichever is first.
    beats: Arc<std::sync::Mutex<Option<ChildStdin>>>,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").field("waiting", &self.waiting()).finish()
    }
}

impl Pulse {
    /// Starts writing to a file in `dir`. `prepare` is called in the writer's thread, and what it gives is kept.
    ///
    /// # Panics
    /// When the file cannot be made or the watcher not started.
    #[must_use]
    pub fn start<P>(dir: &Path, prepare: impl FnOnce() -> P + Send + 'static) -> Pulse {
        let path = dir.join("pulse");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        let mut watcher = Command::new("bash")
            .args(["-c", WATCHER])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .unwrap();
        let beats = Arc::new(std::sync::Mutex::new(watcher.stdin.take()));
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            longest_write: AtomicU64::new(0),
            longest_synced: AtomicU64::new(0),
            since: AtomicU64::new(0),
        });
        let (own, to) = (shared.clone(), beats.clone());
        let thread = thread::spawn(move || {
            let _kept = prepare();
            let mut beat = Instant::now();
            for round in 0u64.. {
                if own.stop.load(SeqCst) {
                    return;
                }
                let start = own.now();
                own.since.store(start.max(1), SeqCst);
                file.write_all_at(&round.to_le_bytes(), 0).unwrap();
                own.since.store(0, SeqCst);
                own.longest_write.fetch_max(own.now() - start, SeqCst);
                file.sync_data().unwrap();
                own.longest_synced.fetch_max(own.now() - start, SeqCst);
                own.writes.fetch_add(1, SeqCst);
                if beat.elapsed() > BEAT {
                    beat = Instant::now();
                    if let Some(to) = &mut *to.lock().unwrap() {
                        let _ = to.write_all(b"\n");
                    }
                }
                thread::sleep(PAUSE);
            }
        });
        Pulse { shared, thread: Some(thread), watcher, beats }
    }

    /// How many writes were done.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.writes.load(SeqCst)
    }

    /// For how long the present write has been held.
    #[must_use]
    pub fn waiting(&self) -> Duration {
        let now = self.shared.now();
        match self.shared.since.load(SeqCst) {
            0 => Duration::ZERO,
            since => Duration::from_nanos(now.saturating_sub(since)),
        }
    }

    /// The longest times since this was asked before, the write under way included.
    #[must_use]
    pub fn longest(&self) -> Longest {
        let waiting = self.waiting();
        let of = |longest: &AtomicU64| Duration::from_nanos(longest.swap(0, SeqCst)).max(waiting);
        Longest { write: of(&self.shared.longest_write), synced: of(&self.shared.longest_synced) }
    }

    /// Demands that two more writes are done within `patience`; two, since one may have been done before the question.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn goes_on(&self, patience: Duration) {
        let (from, until) = (self.count(), Instant::now() + patience);
        while self.count() < from + 2 {
            assert!(Instant::now() < until, "a writer is held for {:?} already", self.waiting());
            thread::sleep(Duration::from_micros(300));
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        // The end of its input has the watcher thaw, in case the writer hangs.
        *self.beats.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        let _ = self.watcher.wait();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
