//! A storage behind which something goes wrong: asked before every step, a test lets it pass, fail, or be reported as done
//! though nothing happened.
//!
//! It never lets on that it is a directory, so everything is copied over it as over any other store.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use mobility_format::segment::RangeRead;
use mobility_recovery::{
    Draft, Holding, Listed, Lock, LockError, Objects, OpenObject, Reading, StorageError,
};

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    /// Nothing happens, and that is said.
    Fails,
    /// It happens, and it is said that it had failed.
    AnswerLost,
    /// Nothing happens, and it is said that it had been done.
    IsALie,
}

/// A kind of step, for tests that mean some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read,
    Put,
    Remove,
    List,
}

type Judge = Arc<dyn Fn(Step, &str) -> Fate + Send + Sync>;

pub(crate) struct Wrapped {
    inner: Arc<dyn Objects>,
    judge: Judge,
}

impl Wrapped {
    pub(crate) fn over(
        inner: &Arc<dyn Objects>,
        judge: impl Fn(Step, &str) -> Fate + Send + Sync + 'static,
    ) -> Arc<dyn Objects> {
        Arc::new(Wrapped { inner: inner.clone(), judge: Arc::new(judge) })
    }

    fn step<T: Default>(
        &self,
        step: Step,
        key: &str,
        run: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        judged((self.judge)(step, key), self.inner.place(key), run)
    }
}

fn judged<T: Default>(
    fate: Fate,
    path: PathBuf,
    run: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let failed = || StorageError {
        action: "reach",
        path,
        source: io::Error::new(io::ErrorKind::ConnectionReset, "a test lets this fail"),
    };
    match fate {
        Fate::Passes => run(),
        Fate::Fails => Err(failed()),
        Fate::AnswerLost => run().and_then(|_| Err(failed())),
        Fate::IsALie => Ok(T::default()),
    }
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Objects for Wrapped {
    fn place(&self, key: &str) -> PathBuf {
        self.inner.place(key)
    }

    fn read(&self, key: &str, limit: u64) -> Result<Vec<u8>, StorageError> {
        self.step(Step::Read, key, || self.inner.read(key, limit))
    }

    fn open(&self, key: &str, reading: Reading) -> Result<OpenObject, StorageError> {
        self.step(Step::Read, key, || Ok(()))?;
        self.inner.open(key, reading)
    }

    fn size(&self, key: &str) -> Result<Option<u64>, StorageError> {
        self.step(Step::Read, key, || self.inner.size(key))
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.step(Step::Put, key, || self.inner.put_new(key, bytes))
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.step(Step::Put, key, || self.inner.replace(key, bytes))
    }

    fn draft(&self, prefix: &str) -> Result<Box<dyn Draft>, StorageError> {
        let (inner, judge, storage) = (self.inner.draft(prefix)?, self.judge.clone(), self.inner.clone());
        Ok(Box::new(WrappedDraft { inner, judge, storage }))
    }

    fn draft_length(&self) -> u64 {
        self.inner.draft_length()
    }

    fn remove(&self, keys: &[String]) -> Result<(), StorageError> {
        keys.iter()
            .try_for_each(|key| self.step(Step::Remove, key, || self.inner.remove(std::slice::from_ref(key))))
    }

    fn remove_below(&self, prefix: &str) -> Result<(), StorageError> {
        self.step(Step::Remove, prefix, || self.inner.remove_below(prefix))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StorageError> {
        self.step(Step::List, prefix, || self.inner.list(prefix, each))
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.step(Step::List, prefix, || self.inner.folders(prefix))
    }

    fn adopt(&self, _: &dyn Objects, moves: &[(String, String)]) -> Result<Vec<usize>, StorageError> {
        Ok((0..moves.len()).collect())
    }

    fn lock(&self, key: &str, holding: Holding, wait: Duration) -> Result<Lock, LockError> {
        self.inner.lock(key, holding, wait)
    }
}

struct WrappedDraft {
    inner: Box<dyn Draft>,
    judge: Judge,
    storage: Arc<dyn Objects>,
}

impl fmt::Debug for WrappedDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl io::Write for WrappedDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl RangeRead for WrappedDraft {
    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
}

impl Draft for WrappedDraft {
    fn publish(self: Box<Self>, key: &str) -> Result<(), StorageError> {
        judged((self.judge)(Step::Put, key), self.storage.place(key), || self.inner.publish(key))
    }
}
