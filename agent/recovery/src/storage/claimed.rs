//! A storage that can be changed for as long as somebody may change it.
//!
//! Object stores have no locks. Where a lock of a directory would keep two processes apart, the caller holds a claim elsewhere;
//! one that has lost it, because it stood still for too long, must not go on changing what another one works on by now. So every
//! change asks first. A change that was begun in time may end a little later: a claim has to be held for that much longer than
//! [`Permission`] says. Reading is always allowed. Deliberately not here: claims.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use mobility_format::segment::RangeRead;

use super::{Directory, Draft, Holding, Listed, Lock, LockError, Objects, OpenObject, Reading, StorageError};

/// Says whether something may still be changed.
pub(crate) type Permission = Arc<dyn Fn() -> bool + Send + Sync>;

/// How many objects are removed between two looks.
const REMOVED_AT_ONCE: usize = 100;

/// Another storage, and the permission to change it.
pub(super) struct Claimed {
    inner: Arc<dyn Objects>,
    may: Permission,
}

impl Claimed {
    pub(super) fn new(inner: Arc<dyn Objects>, may: Permission) -> Claimed {
        Claimed { inner, may }
    }

    fn check(&self, action: &'static str, key: &str) -> Result<(), StorageError> {
        check(&self.may, action, self.inner.place(key))
    }
}

fn check(may: &Permission, action: &'static str, path: PathBuf) -> Result<(), StorageError> {
    if may() {
        return Ok(());
    }
    let problem = "another instance may be at work on this machine by now";
    Err(StorageError { action, path, source: io::Error::new(io::ErrorKind::ResourceBusy, problem) })
}

impl fmt::Debug for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claimed").field(&self.inner).finish()
    }
}

impl Objects for Claimed {
    fn place(&self, key: &str) -> PathBuf {
        self.inner.place(key)
    }

    fn read(&self, key: &str, limit: u64) -> Result<Vec<u8>, StorageError> {
        self.inner.read(key, limit)
    }

    fn read_each(
        &self,
        keys: &[String],
        limit: u64,
        take: &mut dyn FnMut(usize, Result<Vec<u8>, StorageError>),
    ) {
        self.inner.read_each(keys, limit, take);
    }

    fn open(&self, key: &str, reading: Reading) -> Result<OpenObject, StorageError> {
        self.inner.open(key, reading)
    }

    fn size(&self, key: &str) -> Result<Option<u64>, StorageError> {
        self.inner.size(key)
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.check("put", key)?;
        self.inner.put_new(key, bytes)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.check("put", key)?;
        self.inner.replace(key, bytes)
    }

    fn draft(&self, prefix: &str) -> Result<Box<dyn Draft>, StorageError> {
        self.check("put", prefix)?;
        let inner = self.inner.draft(prefix)?;
        Ok(Box::new(ClaimedDraft { inner, may: self.may.clone(), place: self.inner.place(prefix) }))
    }

    fn draft_length(&self) -> u64 {
        self.inner.draft_length()
    }

    fn remove(&self, keys: &[String]) -> Result<(), StorageError> {
        keys.chunks(REMOVED_AT_ONCE).try_for_each(|keys| {
            self.check("remove", keys.first().map_or("", String::as_str))?;
            self.inner.remove(keys)
        })
    }

    fn remove_below(&self, prefix: &str) -> Result<(), StorageError> {
        let mut keys = Vec::new();
        self.inner.list(prefix, &mut |listed| keys.push(listed.key))?;
        self.remove(&keys)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StorageError> {
        self.inner.list(prefix, each)
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.folders(prefix)
    }

    fn adopt(&self, from: &dyn Objects, moves: &[(String, String)]) -> Result<Vec<usize>, StorageError> {
        self.check("put", "")?;
        self.inner.adopt(from, moves)
    }

    fn as_directory(&self) -> Option<&Directory> {
        self.inner.as_directory()
    }

    fn lock(&self, key: &str, holding: Holding, wait: Duration) -> Result<Lock, LockError> {
        self.check("lock", key)?;
        self.inner.lock(key, holding, wait)
    }
}

/// An unfinished object in such a storage.
struct ClaimedDraft {
    inner: Box<dyn Draft>,
    may: Permission,
    place: PathBuf,
}

impl fmt::Debug for ClaimedDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClaimedDraft").field(&self.inner).finish()
    }
}

impl io::Write for ClaimedDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl RangeRead for ClaimedDraft {
    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
}

impl Draft for ClaimedDraft {
    fn publish(self: Box<Self>, key: &str) -> Result<(), StorageError> {
        check(&self.may, "put", self.place)?;
        self.inner.publish(key)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::storage::StorageErrorKind;

    #[test]
    fn who_has_lost_the_claim_reads_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let held = Arc::new(AtomicBool::new(true));
        let holds = held.clone();
        let inner: Arc<dyn Objects> = Arc::new(Directory::new(dir.path()));
        let claimed = Claimed::new(inner, Arc::new(move || holds.load(Ordering::Relaxed)));
        claimed.put_new("a/b", b"1").unwrap();
        let mut draft = claimed.draft("a").unwrap();
        draft.write_all(b"2").unwrap();

        held.store(false, Ordering::Relaxed);
        let (keys, folder) = (["a/b".to_owned()], "a");
        let refused = [
            claimed.put_new("a/c", b"1"),
            claimed.replace("a/b", b"2"),
            claimed.draft(folder).map(|_| ()),
            draft.publish("a/d"),
            claimed.remove(&keys),
            claimed.remove_below(folder),
            claimed.adopt(&Directory::new(dir.path()), &[]).map(|_| ()),
        ];
        for refused in refused {
            assert_eq!(refused.unwrap_err().kind(), StorageErrorKind::Unavailable);
        }
        assert!(claimed.lock("a/lock", Holding::Exclusive, Duration::ZERO).is_err());
        assert_eq!(claimed.read("a/b", 10).unwrap(), b"1");
        let mut listed = Vec::new();
        claimed.list("", &mut |object| listed.push(object.key)).unwrap();
        assert_eq!(listed, keys);
    }
}
