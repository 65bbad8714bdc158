//! What went wrong with a storage, in a way that a caller can decide by.
//!
//! Deliberately not here: what is wrong with an object that could be read.

use std::{
    io,
    path::{Path, PathBuf},
};

/// An object, file or directory could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct StorageError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// With what: a path, or the address of an object.
    pub path: PathBuf,
    /// What the operating system or the store said.
    pub source: io::Error,
}

/// What a caller may want to know of a [`StorageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageErrorKind {
    /// It is not there.
    NotFound,
    /// Something of that name is there already.
    AlreadyThere,
    /// There is no room: of the disk, or of a quota.
    Full,
    /// It can only be read.
    ReadOnly,
    /// We may not: credentials or permissions are wrong.
    Refused,
    /// The storage cannot be reached or does not answer. The same may succeed later.
    Unavailable,
    /// Anything else.
    Other,
}

impl StorageErrorKind {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            StorageErrorKind::NotFound => "bring it back, or check that this is the right place",
            StorageErrorKind::AlreadyThere => "look at what is there under this name",
            StorageErrorKind::Full => "make room, raise the quota, or prune old recovery points",
            StorageErrorKind::ReadOnly => "make it writable",
            StorageErrorKind::Refused => "check credentials and permissions",
            StorageErrorKind::Unavailable => {
                "check the network, the address, and that the storage is running; it is tried again"
            }
            StorageErrorKind::Other => "look into the log of the system or the storage",
        }
    }
}

impl StorageError {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        StorageError { action, path: path.to_owned(), source: source.into() }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> StorageErrorKind {
        use io::ErrorKind as Io;
        match self.source.kind() {
            Io::NotFound => StorageErrorKind::NotFound,
            Io::AlreadyExists => StorageErrorKind::AlreadyThere,
            Io::StorageFull | Io::QuotaExceeded => StorageErrorKind::Full,
            Io::ReadOnlyFilesystem => StorageErrorKind::ReadOnly,
            Io::PermissionDenied => StorageErrorKind::Refused,
            Io::TimedOut
            | Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::NotConnected
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown
            | Io::BrokenPipe
            | Io::ResourceBusy
            | Io::WouldBlock
            | Io::Interrupted => StorageErrorKind::Unavailable,
            _ => StorageErrorKind::Other,
        }
    }

    /// Whether the object, file or directory is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == StorageErrorKind::NotFound
    }

    /// Whether something of that name is there already.
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        self.kind() == StorageErrorKind::AlreadyThere
    }
}
