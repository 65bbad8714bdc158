//! The log: to standard error, beside the progress bar, and held back in memory while file systems are frozen.
//!
//! What standard error leads to may lie on a file system that is frozen: a thread that logs would wait for the thaw, and
//! one that has to thaw must not wait for that. The newest lines stay in memory, for the recovery service to ask for. Deliberately not
//! here: what is logged.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use indicatif::ProgressBar;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// The most that is held back. What is beyond it is counted and left out.
const MOST: usize = 256 << 10;

/// How much of the log is kept in memory, for whoever asks for it.
const RECENT: usize = 128 << 10;

static NEWEST: Mutex<Newest> = Mutex::new(Newest(VecDeque::new()));

static BACK: Mutex<Back> = Mutex::new(Back { holds: 0, bytes: Vec::new(), lost: 0 });

/// What is held back.
struct Back {
    /// How many wish that nothing is written.
    holds: usize,
    bytes: Vec<u8>,
    lost: usize,
}

impl Back {
    fn keep(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() <= MOST {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.lost += 1;
        }
    }
}

fn back() -> MutexGuard<'static, Back> {
    BACK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing is written to the log until this is dropped.
#[derive(Debug)]
#[must_use = "the log is held back as long as this lives"]
pub(crate) struct HeldBack(());

/// Holds the log back.
pub(crate) fn hold_back() -> HeldBack {
    let mut back = back();
    back.holds += 1;
    // Later there may be no memory to be had without writing something out.
    back.bytes.reserve(MOST / 4);
    HeldBack(())
}

/// Whether file systems may be frozen at this moment, so that no file should be written that can wait.
pub(crate) fn is_held_back() -> bool {
    back().holds > 0
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        let mut back = back();
        back.holds -= 1;
        if back.holds > 0 {
            return;
        }
        let (bytes, lost) = (std::mem::take(&mut back.bytes), std::mem::take(&mut back.lost));
        drop(back);
        // There is nowhere to say that the log cannot be written.
        let _ = io::stderr().write_all(&bytes);
        if lost > 0 {
            tracing::warn!("{lost} lines of the log were lost while file systems were frozen");
        }
    }
}

/// The newest lines of the log.
pub(crate) fn recent() -> String {
    newest().text()
}

fn newest() -> MutexGuard<'static, Newest> {
    NEWEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was logged last.
struct Newest(VecDeque<u8>);

impl Newest {
    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        // The first line may have lost its beginning.
        let start = if bytes.len() < RECENT { 0 } else { text.find('\n').map_or(0, |at| at + 1) };
        text[start..].to_owned()
    }

    fn keep(&mut self, bytes: &[u8]) {
        // Once and for all: while file systems are frozen there may be no memory to be had.
        if self.0.capacity() < RECENT {
            self.0.reserve_exact(RECENT);
        }
        let bytes = &bytes[bytes.len().saturating_sub(RECENT)..];
        let over = (self.0.len() + bytes.len()).saturating_sub(RECENT);
        self.0.drain(..over);
        self.0.extend(bytes);
    }
}

/// Logs to standard error, without tearing the progress bar.
pub(crate) fn start(bar: &ProgressBar) {
    let filter = EnvFilter::try_from_env("MOBILITY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(BesideBar(bar.clone()));
    // Under systemd the journal has the time already; it is told apart by this variable.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    // A log that was started already, as in a test, is as good.
    let _ = if journal { log.without_time().try_init() } else { log.try_init() };
}

#[derive(Clone)]
struct BesideBar(ProgressBar);

impl<'a> MakeWriter<'a> for BesideBar {
    type Writer = BesideBar;

    fn make_writer(&'a self) -> BesideBar {
        self.clone()
    }
}

impl Write for BesideBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        newest().keep(bytes);
        let mut back = back();
        if back.holds > 0 {
            back.keep(bytes);
            return Ok(bytes.len());
        }
        drop(back);
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        if is_held_back() { Ok(()) } else { io::stderr().flush() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_remembered_and_no_more() {
        let (mut newest, line) = (Newest(VecDeque::new()), "line that is one of many\n");
        newest.keep(line.as_bytes());
        assert_eq!(newest.text(), line);
        (0..RECENT / 8).for_each(|_| newest.keep(line.as_bytes()));
        newest.keep(b"the last\n");
        let text = newest.text();
        assert!(text.len() <= RECENT && text.len() > RECENT - 2 * line.len());
        assert!(text.starts_with(line) && text.ends_with("many\nthe last\n"));
        newest.keep(&vec![b'x'; 2 * RECENT]);
        assert_eq!(newest.0.len(), RECENT);
    }

    #[test]
    fn what_is_logged_while_it_is_held_back_is_kept_up_to_a_limit() {
        let outer = hold_back();
        let inner = hold_back();
        let mut log = BesideBar(ProgressBar::hidden());
        assert_eq!(log.write(b"line\n").unwrap(), 5);
        drop(inner);
        assert!(is_held_back(), "somebody else still wishes it");
        let long = vec![b'x'; MOST];
        assert_eq!(log.write(&long).unwrap(), MOST);
        let kept = back();
        assert_eq!((kept.bytes.as_slice(), kept.lost), (b"line\n".as_slice(), 1));
        drop(kept);
        drop(outer);
        assert!(!is_held_back() && back().bytes.is_empty());
    }
}
