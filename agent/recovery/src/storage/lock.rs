//! Locks between processes that work on one vault, by `flock`: the kernel takes them back however a process ends.
//!
//! Deliberately not here: which work takes which lock, and any lock between threads.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::StorageError;

const RETRY_EVERY: Duration = Duration::from_millis(20);

/// A lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is in use by another process and was not released within {} s: wait for it to end and try again", path.display(), waited.as_secs())]
    Busy {
        /// The lock's file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// Its file cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file releases the lock")] Option<File>);

impl Lock {
    /// Holds nothing, for storage that has no locks.
    #[must_use]
    pub fn nothing() -> Lock {
        Lock(None)
    }

    /// Shared with everybody else who only needs nothing to be removed. On read-only storage nobody can remove
    /// anything, so no lock is needed where its file cannot be made.
    pub(crate) fn shared(path: &Path, wait: Duration) -> Result<Lock, LockError> {
        match File::open(path) {
            Ok(file) => Lock::wait(path, file, FlockOperation::NonBlockingLockShared, wait),
            Err(err) if err.kind() == io::ErrorKind::NotFound => match create(path) {
                Ok(file) => Lock::wait(path, file, FlockOperation::NonBlockingLockShared, wait),
                Err(err) if Errno::from_io_error(&err) == Some(Errno::ROFS) => Ok(Lock(None)),
                Err(err) => Err(StorageError::new("open the lock", path, err).into()),
            },
            Err(err) => Err(StorageError::new("open the lock", path, err).into()),
        }
    }

    /// Held by nobody else.
    pub(crate) fn exclusive(path: &Path, wait: Duration) -> Result<Lock, LockError> {
        let file = create(path).map_err(|err| StorageError::new("open the lock", path, err))?;
        Lock::wait(path, file, FlockOperation::NonBlockingLockExclusive, wait)
    }

    fn wait(path: &Path, file: File, how: FlockOperation, wait: Duration) -> Result<Lock, LockError> {
        let start = Instant::now();
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Lock(Some(file))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < wait => {
                    std::thread::sleep(RETRY_EVERY)
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(LockError::Busy { path: path.to_owned(), waited: wait });
                }
                Err(err) => return Err(StorageError::new("lock", path, err).into()),
            }
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}
