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
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// Thaws when it reads nothing for so long, or its input ends.
const WATCHER: &str = r#"while read -r -t 20; do :; done; exec fsfreeze --unfreeze "$0""#;
/// From one sign of life to the next.
const BEAT: Duration = Duration::from_secs(1);
/// What takes longer than this is remembered.
const LONG: Duration = Duration::from_millis(3);
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
    /// From when until when it did not get through.
    pauses: Mutex<Vec<(Timestamp, Timestamp)>>,
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
    beats: Arc<Mutex<Option<ChildStdin>>>,
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
        let beats = Arc::new(Mutex::new(watcher.stdin.take()));
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            longest_write: AtomicU64::new(0),
            longest_synced: AtomicU64::new(0),
            since: AtomicU64::new(0),
            pauses: Mutex::default(),
        });
        let (own, to) = (shared.clone(), beats.clone());
        let thread = thread::spawn(move || {
            let _kept = prepare();
            let mut beat = Instant::now();
            for round in 0u64.. {
                if own.stop.load(SeqCst) {
                    return;
                }
                let (start, began) = (own.now(), Timestamp::now());
                own.since.store(start.max(1), SeqCst);
                file.write_all_at(&round.to_le_bytes(), 0).unwrap();
                own.since.store(0, SeqCst);
                own.longest_write.fetch_max(own.now() - start, SeqCst);
                file.sync_data().unwrap();
                let took = own.now() - start;
                own.longest_synced.fetch_max(took, SeqCst);
                if u128::from(took) > LONG.as_nanos() {
                    own.pauses.lock().unwrap().push((began, Timestamp::now()));
                }
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

    /// Whether the writer did not get through at that time. To be asked when it does again.
    ///
    /// # Panics
    /// When the writer has failed.
    #[must_use]
    pub fn was_held_at(&self, time: Timestamp) -> bool {
        self.shared.pauses.lock().unwrap().iter().any(|(from, to)| (*from..=*to).contains(&time))
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
        *self.beats.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.watcher.wait();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
