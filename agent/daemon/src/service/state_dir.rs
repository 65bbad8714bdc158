//! The directory where an enrolled agent keeps what must outlive it: identity, grants, the policy last heard of.
//!
//! Only its owner can look into it, one process at a time works in it, and a file is replaced whole or not at all. Each file
//! is an envelope, so damage is noticed. Deliberately not here: what the files hold.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use mobility_format::envelope::{self, Magic};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Serialize, de::DeserializeOwned};

use crate::exit::Failure;

/// Where an agent that was installed keeps its state.
pub(crate) const DEFAULT: &str = "/var/lib/mobility-agent";

/// The longest file that is read.
const LONGEST: u64 = 32 << 20;
const VERSION: u16 = 1;

/// The state directory, with the right to work in it.
pub(super) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory at `path`, made where it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<StateDir, Failure> {
        let fail = |err: io::Error| {
            let shown = path.display();
            Failure::State(format!(
                "cannot use the state directory {shown}: {err}; choose one with --state-dir"
            ))
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(fail)?;
        let lock = private(OpenOptions::new().write(true).create(true), &path.join("lock")).map_err(fail)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let shown = path.display();
            Failure::State(format!("another mobility-agent is at work with {shown}: stop it first"))
        })?;
        Ok(StateDir { path: path.to_owned(), _lock: lock })
    }

    /// What the file of this name holds; nothing where there is none.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        peek(&self.path, name)
    }

    /// Replaces the file of this name: after a crash it is the old one or the new one.
    pub(super) fn write(&self, name: &str, body: &impl Serialize) -> io::Result<()> {
        self.replace(name, body, true)
    }

    /// As [`StateDir::write`], but a crash of the whole machine may leave it damaged. For what is only worth a guess.
    pub(super) fn write_quickly(&self, name: &str, body: &impl Serialize) -> io::Result<()> {
        self.replace(name, body, false)
    }

    fn replace(&self, name: &str, body: &impl Serialize, sync: bool) -> io::Result<()> {
        let bytes = envelope::seal(Magic::STATE, VERSION, body, None).map_err(io::Error::other)?;
        let unfinished = self.path.join(format!("{name}.new"));
        remove_if_there(&unfinished)?;
        let mut file = private(OpenOptions::new().write(true).create_new(true), &unfinished)?;
        file.write_all(&bytes)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&unfinished, self.path.join(name))?;
        if sync { File::open(&self.path)?.sync_all() } else { Ok(()) }
    }

    /// Removes the file of this name.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        remove_if_there(&self.path.join(name))
    }
}

/// What the file of this name in a state directory holds; nothing where there is none. A file is replaced whole, so this needs no lock.
pub(super) fn peek<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, Failure> {
    let path = dir.join(name);
    let fail = |what: String| {
        Failure::State(format!(
            "{}: {what}; restore it from a copy, or remove it and enrol again",
            path.display()
        ))
    };
    let file = match private(OpenOptions::new().read(true), &path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|err| fail(err.to_string()))?,
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).map_err(|err| fail(err.to_string()))?;
    let opened = envelope::open(Magic::STATE, VERSION, &bytes).map_err(|err| fail(err.to_string()))?;
    Ok(Some(opened.body))
}

/// Opens a file that only its owner may read, and no link to one.
fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|err| match err.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(err),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_is_kept_is_its_owners_alone_and_one_process_works_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let state = StateDir::open(&path).unwrap();
        state.write("x", &"secret").unwrap();
        assert_eq!(state.read::<String>("x").unwrap().as_deref(), Some("secret"));
        assert_eq!(state.read::<String>("y").unwrap(), None);
        for (name, mode) in [("", 0o700), ("x", 0o600), ("lock", 0o600)] {
            assert_eq!(path.join(name).metadata().unwrap().mode() & 0o777, mode, "{name}");
        }
        assert!(matches!(StateDir::open(&path), Err(Failure::State(_))), "it is locked");
        state.remove("x").unwrap();
        state.remove("x").unwrap();
        drop(state);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn damage_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.write("x", &1).unwrap();
        let mut bytes = fs::read(dir.path().join("x")).unwrap();
        bytes[17] ^= 1;
        fs::write(dir.path().join("x"), bytes).unwrap();
        assert!(state.read::<u8>("x").unwrap_err().to_string().contains("damaged"));
        state.write("target", &1).unwrap();
        symlink(dir.path().join("target"), dir.path().join("link")).unwrap();
        assert!(state.read::<u8>("link").is_err());
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.write("x", &1).unwrap();
        fs::write(dir.path().join("x.new"), b"half").unwrap();
        assert_eq!(state.read::<u8>("x").unwrap(), Some(1));
        state.write("x", &2).unwrap();
        assert_eq!(state.read::<u8>("x").unwrap(), Some(2));
    }
}
