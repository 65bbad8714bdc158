//! Objects as files below a directory, each named by its key.
//!
//! Locks are files too. The names of others that start with a dot are files that were never finished. Deliberately not
//! here: how a file is made durable (`files`), and any mark by which the directory can be told from another (`Vault`).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use mobility_format::segment::RangeRead;

use super::{
    Draft, FaultPlan, Files, Holding, Listed, Lock, LockError, Objects, OpenObject, Reading, StorageError,
    Temporary,
    files::{Entry, names},
    objects::is_unfinished,
};

/// How long an object written piece by piece should get.
const DRAFT_LENGTH: u64 = 64 << 20;

/// Objects below a directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Directory {
    root: Arc<Path>,
    files: Files,
}

impl Directory {
    /// The objects below `root`. It is made when the first object is put.
    #[must_use]
    pub fn new(root: &Path) -> Directory {
        Directory { root: root.into(), files: Files::default() }
    }

    /// The same directory, whose changes go wrong as `plan` says. For tests.
    #[must_use]
    pub fn with_faults(&self, plan: Arc<FaultPlan>) -> Directory {
        Directory { root: self.root.clone(), files: Files::with_faults(plan) }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes what an object holds survive a power cut, whoever wrote it.
    pub(crate) fn sync(&self, key: &str) -> Result<(), StorageError> {
        let path = self.place(key);
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|err| StorageError::new("sync", &path, err))
    }

    /// The keys of what was never finished directly below a prefix.
    pub(crate) fn unfinished(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let left = names(&self.place(prefix))?.into_iter().filter(|(name, _)| is_unfinished(name));
        Ok(left.map(|(name, _)| format!("{prefix}/{name}")).collect())
    }

    fn walk(&self, dir: &Path, each: &mut dyn FnMut(Listed)) -> io::Result<()> {
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in absent_is_empty(fs::read_dir(&dir))?.into_iter().flatten() {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    dirs.push(path);
                    continue;
                }
                // Gone since, where somebody else works here.
                let Some(meta) = absent_is_empty(entry.metadata())? else { continue };
                let below = path.strip_prefix(&self.root).unwrap_or(&path);
                let modified = meta.modified()?.try_into().unwrap_or(Timestamp::UNIX_EPOCH);
                each(Listed { key: below.to_string_lossy().into_owned(), size: meta.len(), modified });
            }
        }
        Ok(())
    }

    fn sync_parents<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Result<(), StorageError> {
        let dirs: BTreeSet<&Path> = paths.filter_map(Path::parent).collect();
        dirs.into_iter().filter(|dir| dir.is_dir()).try_for_each(|dir| {
            self.files.sync_dir(dir)?;
            // Those named after epochs: only for the objects that were in them.
            let numbered = dir.file_name().and_then(|name| name.to_str()).is_some_and(starts_with_digit);
            if numbered { self.files.remove_empty_dir(dir) } else { Ok(()) }
        })
    }
}

fn starts_with_digit(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_digit())
}

fn absent_is_empty<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

impl Objects for Directory {
    fn place(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn read(&self, key: &str, limit: u64) -> Result<Vec<u8>, StorageError> {
        let path = self.place(key);
        let read = || {
            let mut bytes = Vec::new();
            File::open(&path)?.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|source: io::Error| StorageError::new("read", &path, source))
    }

    fn open(&self, key: &str, _: Reading) -> Result<OpenObject, StorageError> {
        let path = self.place(key);
        Ok(Arc::new(File::open(&path).map_err(|err| StorageError::new("open", &path, err))?))
    }

    fn size(&self, key: &str) -> Result<Option<u64>, StorageError> {
        let path = self.place(key);
        let meta =
            absent_is_empty(path.metadata()).map_err(|err| StorageError::new("look at", &path, err))?;
        Ok(meta.map(|meta| meta.len()))
    }

    fn put_new(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.files.put_new(&self.place(key), bytes)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.files.replace(&self.place(key), bytes)
    }

    fn draft(&self, prefix: &str) -> Result<Box<dyn Draft>, StorageError> {
        let dir = self.place(prefix);
        self.files.create_dirs(&dir)?;
        Ok(Box::new(FileDraft { root: self.root.clone(), temporary: self.files.temporary(&dir)? }))
    }

    fn draft_length(&self) -> u64 {
        DRAFT_LENGTH
    }

    fn remove(&self, keys: &[String]) -> Result<(), StorageError> {
        let paths: Vec<PathBuf> = keys.iter().map(|key| self.place(key)).collect();
        paths.iter().try_for_each(|path| self.files.remove(path))?;
        self.sync_parents(paths.iter().map(PathBuf::as_path))
    }

    fn remove_below(&self, prefix: &str) -> Result<(), StorageError> {
        self.files.remove_tree(&self.place(prefix))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> Result<(), StorageError> {
        let dir = self.place(prefix);
        self.walk(&dir, each).map_err(|err| StorageError::new("list", &dir, err))
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let folders = names(&self.place(prefix))?.into_iter().filter(|(_, kind)| *kind == Entry::Directory);
        Ok(folders.map(|(name, _)| name).collect())
    }

    fn adopt(&self, from: &dyn Objects, moves: &[(String, String)]) -> Result<Vec<usize>, StorageError> {
        let Some(from) = from.as_directory() else { return Ok((0..moves.len()).collect()) };
        let targets: Vec<PathBuf> = moves.iter().map(|(_, key)| self.place(key)).collect();
        let dirs: BTreeSet<&Path> = targets.iter().filter_map(|path| path.parent()).collect();
        dirs.iter().try_for_each(|dir| self.files.create_dirs(dir))?;
        let mut to_copy = Vec::new();
        for (position, ((key, _), to)) in moves.iter().zip(&targets).enumerate() {
            match self.files.rename(&from.place(key), to) {
                Err(err) if err.is_not_found() && to.exists() => {}
                Err(err) if err.source.kind() == io::ErrorKind::CrossesDevices => to_copy.push(position),
                other => other?,
            }
        }
        dirs.into_iter().try_for_each(|dir| self.files.sync_dir(dir))?;
        Ok(to_copy)
    }

    fn as_directory(&self) -> Option<&Directory> {
        Some(self)
    }

    fn lock(&self, key: &str, holding: Holding, wait: Duration) -> Result<Lock, LockError> {
        let path = self.place(key);
        match holding {
            Holding::Shared => Lock::shared(&path, wait),
            Holding::Exclusive => {
                self.files.create_dirs(path.parent().unwrap_or(&self.root))?;
                Lock::exclusive(&path, wait)
            }
        }
    }
}

/// An unfinished file.
#[derive(Debug)]
struct FileDraft {
    root: Arc<Path>,
    temporary: Temporary,
}

impl Write for FileDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.file.flush()
    }
}

impl RangeRead for FileDraft {
    fn length(&self) -> io::Result<u64> {
        self.temporary.file.length()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.temporary.file.read_at(offset, buf)
    }
}

impl Draft for FileDraft {
    fn publish(self: Box<Self>, key: &str) -> Result<(), StorageError> {
        let path = self.root.join(key);
        self.temporary.publish(&path, true)
    }
}
