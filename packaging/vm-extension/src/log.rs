//! The handler's log, in the folder that the guest agent names and collects from.
//!
//! Bounded: one file and the one before it. A log that cannot be written is no reason to fail. Deliberately not here: what the agent
//! logs, which is in the journal.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// How long a file may get before it becomes the one before.
const LONGEST: u64 = 1 << 20;
/// The longest entry.
const LONGEST_ENTRY: usize = 4096;

/// Where one command logs.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    command: &'static str,
}

impl Log {
    pub(crate) fn new(folder: &Path, command: &'static str) -> Log {
        Log { path: folder.join("handler.log"), command }
    }

    /// Adds an entry, in which nothing is secret any more.
    pub(crate) fn add(&self, text: &str) {
        let _ = self.try_add(text);
    }

    fn try_add(&self, text: &str) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::metadata(&self.path).is_ok_and(|meta| meta.len() > LONGEST) {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let text: String =
            text.trim().chars().take(LONGEST_ENTRY).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = format!("{:.0} {} [{}] {text}\n", Timestamp::now(), self.command, std::process::id());
        OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(&dir.path().join("a"), "enable");
        let line = format!("{}\nx", "y".repeat(2 * LONGEST_ENTRY));
        for _ in 0..600 {
            log.add(&line);
        }
        let files: Vec<_> = fs::read_dir(dir.path().join("a")).unwrap().flatten().collect();
        assert_eq!(files.len(), 2);
        assert!(
            files.iter().all(|file| file.metadata().unwrap().len() <= LONGEST + 2 * LONGEST_ENTRY as u64)
        );
    }
}
