//! Why file systems could not be frozen, in words an operator can act on.
//!
//! Deliberately not here: why a file system is not to be frozen at all (`SkipReason`).

use std::{io, path::PathBuf, time::Duration};

use rustix::io::Errno;

/// Why nothing is frozen. Whatever had been frozen was thawed before this was returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// Somebody else has frozen it. It stays theirs to thaw.
    #[error("{} is frozen by somebody else, for instance a backup or the hypervisor's agent; it was left as it is. If nobody is at work, thaw it with `fsfreeze --unfreeze`", point.display())]
    Busy {
        /// Where it is mounted.
        point: PathBuf,
    },
    /// Its driver cannot freeze.
    #[error("{} cannot be frozen: its file system's driver does not offer it; points are made without a freeze, or leave the disk out", point.display())]
    Unsupported {
        /// Where it is mounted.
        point: PathBuf,
    },
    /// It was not frozen within the limit.
    #[error("{} was not frozen within the limit of {limit:?}: its disk is slow, or has much to write; it was let go and can be tried again", point.display())]
    Limit {
        /// Where it is mounted.
        point: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// The guard is not there, so nothing may be frozen. Another one is started for the next try.
    #[error(
        "the guard process is gone ({during}); nothing is frozen without it, and a new one is started for the next try"
    )]
    GuardGone {
        /// At what this was noticed.
        during: &'static str,
    },
    /// The guard did not answer in time, so nothing may be frozen.
    #[error(
        "the guard process did not answer in time ({during}): it is stopped, or a thaw of an earlier freeze hangs; nothing is frozen without it"
    )]
    GuardSlow {
        /// What was waited for.
        during: &'static str,
    },
    /// The guard could not be started.
    #[error("could not start the guard process {}: {source}; nothing is frozen without it", program.display())]
    GuardStart {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No file system is held.
    #[error("there is no file system to freeze; make points without a freeze")]
    Nothing,
    /// There are more file systems than can be frozen together.
    #[error("{count} file systems are more than can be frozen together ({most}); make points without a freeze", most = super::MAX_FILE_SYSTEMS)]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A file system is not there any more, or another one hides it.
    #[error("could not open {}: another file system is there, or hides it; look at it again and try once more", point.display())]
    Hidden {
        /// Where it was mounted.
        point: PathBuf,
    },
    /// The record of what is frozen could not be written.
    #[error("could not write {}, the record of what is frozen: {source}; nothing is frozen without it", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system failed in a way that has no kind of its own.
    #[error("could not {doing} {}: {source}", point.display())]
    Io {
        /// Where the file system is mounted.
        point: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl FreezeError {
    /// For what the kernel answered to a freeze.
    pub(super) fn from_freeze(point: PathBuf, errno: Errno, limit: Duration) -> Self {
        match errno {
            Errno::BUSY => FreezeError::Busy { point },
            Errno::OPNOTSUPP | Errno::NOTTY => FreezeError::Unsupported { point },
            Errno::TIMEDOUT => FreezeError::Limit { point, limit },
            errno => FreezeError::Io { point, doing: "freeze", source: errno.into() },
        }
    }
}
