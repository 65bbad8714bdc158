//! The note that applications are being held, and by which scripts: what an agent that is killed leaves for the next one.
//!
//! It is replaced before each `pre` and removed after the last `post`. It has to outlive the agent, not the machine, so it
//! is not synced. Damage to it is no reason to leave anything held. Deliberately not here: what is done about one that was left.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use mobility_format::envelope::{self, Magic};
use serde::{Deserialize, Serialize};

const MAGIC: Magic = Magic(*b"\x89MOBQSC\n");
const VERSION: u16 = 1;
/// The longest record: a hundred disks and all scripts fit in many times over.
const MAX_LEN: u64 = 1 << 20;

/// What is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The run of the machine in which it was written.
    pub(super) boot: String,
    /// What the processes of these scripts are known by.
    pub(super) token: String,
    /// The scripts' variables.
    pub(super) environment: Vec<(String, String)>,
    /// The names of the scripts whose `pre` has been started, or will have been in a moment.
    pub(super) started: Vec<String>,
}

impl Note {
    /// The variables, without any that would not be ours to set.
    pub(super) fn environment(&self) -> Vec<(String, OsString)> {
        let ours = self.environment.iter().filter(|(name, _)| name.starts_with("MOBILITY_"));
        ours.map(|(name, value)| (name.clone(), value.into())).collect()
    }
}

/// What an earlier agent left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Held(Note),
    /// Something was held, but not what it was can be told, and why.
    Damaged(String),
}

/// Replaces the record.
pub(super) fn write(path: &Path, note: &Note) -> io::Result<()> {
    let bytes = envelope::seal(MAGIC, VERSION, note, None).map_err(io::Error::other)?;
    let unfinished = unfinished(path);
    // One that a killed agent left may be anything; what is written now is a file of our own making.
    remove(&unfinished)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&bytes)?;
    fs::rename(&unfinished, path)
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("quiesced.new")
}

/// Reads what is there.
pub(super) fn read(path: &Path) -> Left {
    let mut bytes = Vec::new();
    let file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Left::Nothing,
        file => file,
    };
    let read = file.and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes));
    let note = read
        .map_err(|err| err.to_string())
        .and_then(|_| envelope::open::<Note>(MAGIC, VERSION, &bytes).map_err(|err| err.to_string()));
    match note {
        Ok(opened) => Left::Held(opened.body),
        Err(why) => Left::Damaged(why),
    }
}

/// Removes it; that it is not there is as good.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// This run of the machine; empty where the kernel does not tell.
pub(super) fn boot() -> String {
    mobility_capture::boot::boot_id().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_from_nothing_and_never_from_a_note() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.quiesced");
        assert_eq!(read(&path), Left::Nothing);
        let note = Note {
            boot: boot(),
            token: "t".into(),
            environment: vec![("MOBILITY_EPOCH".into(), "7".into()), ("LD_PRELOAD".into(), "x".into())],
            started: vec!["50-a".into()],
        };
        write(&path, &note).unwrap();
        assert_eq!(note.environment().len(), 1);
        assert_eq!(read(&path), Left::Held(note));
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(read(&path), Left::Damaged(_)), "byte {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert!(matches!(read(&path), Left::Damaged(_)), "cut to {at}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(&path), Left::Damaged(_)));
    }
}
