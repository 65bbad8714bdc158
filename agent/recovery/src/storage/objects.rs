//! What is needed of a storage, whichever it is: objects that are made whole or not at all, under keys that are paths.
//!
//! Two real implementations: a directory of files, and object stores over the network. Everything here blocks; whoever
//! lives in an asynchronous program calls it from a thread that may wait. Keys are the texts of `CacheKey` and
//! `ObjectKey`. A prefix is a key's beginning up to, and without, a slash. Deliberately not here: what the objects mean,
//! and who may see them.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use mobility_format::segment::RangeRead;

use super::{Directory, Lock, LockError, StorageError};

/// An object that is open for reading at any offset, from several threads. Whether it is there may show only at the first
/// read, as an error of the kind `NotFound`; the errors carry a [`StorageError`] where they come from a network.
pub type OpenObject = Arc<dyn OpenBytes>;

/// What can be shared between the threads that read one object.
pub trait OpenBytes: RangeRead + fmt::Debug + Send + Sync {}

impl<T: RangeRead + fmt::Debug + Send + Sync> OpenBytes for T {}

/// How an open object is going to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Here and there, as restoring does.
    Ranges,
    /// From its beginning to its end, as verifying does.
    Whole,
}

/// An object as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, by the storage's clock.
    pub modified: Timestamp,
}

/// An object being written piece by piece. It becomes visible when it is published, and goes again if it is not. What has
/// been written can be read.
pub trait Draft: io::Write + RangeRead + fmt::Debug + Send {
    /// Makes it the object `key`, whatever was there before, durably.
    ///
    /// # Errors
    /// What the storage says. Nothing is there then, or what was there before.
    fn publish(self: Box<Self>, key: &str) -> Result<(), StorageError>;
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// Together with others who hold it so.
    Shared,
    /// Alone.
    Exclusive,
}

/// A storage.
pub trait Objects: fmt::Debug + Send + Sync {
    /// Where an object is or would be, for people.
    fn place(&self, key: &str) -> PathBuf;

    /// Reads an object, but no more than its first `limit` bytes.
    ///
    /// # Errors
    /// `NotFound` where there is none; else what the storage says.
    fn read(&self, key: &str, limit: u64) -> Result<Vec<u8>, StorageError>;

    /// Reads many small objects as [`Objects::read`] does, several at a time where that helps. `take` gets them in the order
    /// of `keys`, each with its position there.
    fn read_each(
        &self,
        keys: &[String],
        limit: u64,
        take: &mut dyn FnMut(usize, Result<Vec<u8>, StorageError>),
    ) {
        keys.iter().enumerate().for_each(|(position, key)| take(position, self.read(key, limit)));
    }

    /// Opens an object for reading at any offset.
    ///
    /// # Errors
    /// As [`Objects::read`]; they may also come at the first read.
    fn open(&self, key: &str, reading: Reading) -> Result<OpenObject, StorageError>;

    /// An object's length, or nothing where there is none.
    ///
    /// # Errors
    /// What the storage says.
    fn size(&self, key: &str) -> Result<Option<u64>, StorageError>;

    /// Puts an object, whole and durably, where there is none.
    ///
    /// # Errors
    /// [`StorageErrorKind::AlreadyThere`](super::StorageErrorKind::AlreadyThere), also where an earlier try of which we
    /// were never told had succeeded; else what the storage says.
    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// Puts an object, whole and durably, in place of whatever is there.
    ///
    /// # Errors
    /// What the storage says.
    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// Begins an object that will be published under a key directly below `prefix`.
    ///
    /// # Errors
    /// What the storage says.
    fn draft(&self, prefix: &str) -> Result<Box<dyn Draft>, StorageError>;

    /// How long a draft should get. What is not published yet takes space, in memory where the storage is far.
    fn draft_length(&self) -> u64;

    /// Removes objects, durably; those that are not there already are no error. What this leaves empty goes as well.
    ///
    /// # Errors
    /// What the storage says. Some are gone then and others not.
    fn remove(&self, keys: &[String]) -> Result<(), StorageError>;

    /// Removes everything below a prefix.
    ///
    /// # Errors
    /// As [`Objects::remove`].
    fn remove_below(&self, prefix: &str) -> Result<(), StorageError>;

    /// Lists everything below a prefix, unfinished drafts included (see [`is_unfinished`]), page by page; in no order.
    ///
    /// # Errors
    /// What the storage says.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StorageError>;

    /// The names directly below a prefix that are themselves prefixes of something, sorted.
    ///
    /// # Errors
    /// What the storage says.
    fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError>;

    /// Moves objects here from another storage, durably, if that takes no reading of them; each move is the key there and
    /// the key here. One that is gone there and is here was moved before. Returns the positions of those that have to be
    /// copied instead.
    ///
    /// # Errors
    /// What the storage says. Some are moved then and others not.
    fn adopt(&self, from: &dyn Objects, moves: &[(String, String)]) -> Result<Vec<usize>, StorageError>;

    /// The directory that it is, if it is one.
    fn as_directory(&self) -> Option<&Directory> {
        None
    }

    /// Keeps other processes from taking the lock `key` meanwhile. A storage that cannot do so grants every lock: there
    /// the caller sees to it that no two processes work on one machine at the same time.
    ///
    /// # Errors
    /// When others go on holding it for as long as `wait`, or the storage fails.
    fn lock(&self, key: &str, holding: Holding, wait: Duration) -> Result<Lock, LockError>;
}

/// What the names of unfinished objects start with.
pub(crate) const TEMPORARY: &str = ".unfinished-";

/// Whether a listed key is that of a draft which was never published.
#[must_use]
pub fn is_unfinished(key: &str) -> bool {
    key.rsplit('/').next().unwrap_or_default().starts_with(TEMPORARY)
}
