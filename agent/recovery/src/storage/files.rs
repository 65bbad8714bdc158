//! How files are made, moved and removed: each step durable before the next is begun.
//!
//! A file appears under its name complete and synced or not at all: it is written under a temporary name in the same
//! directory, synced, and moved to its name, and then the directory is synced. Every step passes through [`Files`], where
//! a test can make any of them the last one before a crash. Deliberately not here: what the files mean.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{FaultPlan, StorageError, objects::TEMPORARY};

/// The ways in which files are changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    faults: Option<Arc<FaultPlan>>,
}

impl Files {
    pub(crate) fn with_faults(faults: Arc<FaultPlan>) -> Self {
        Files { faults: Some(faults) }
    }

    fn step<T>(
        &self,
        action: &'static str,
        path: &Path,
        run: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let allowed = self.faults.as_ref().map_or(Ok(()), |plan| plan.step());
        allowed.and_then(|()| run()).map_err(|source| StorageError::new(action, path, source))
    }

    /// Makes `dir` and what is missing above it, each entry durable.
    pub(crate) fn create_dirs(&self, dir: &Path) -> Result<(), StorageError> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(Path::new("."));
        self.create_dirs(parent)?;
        self.step("create the directory", dir, || match fs::create_dir(dir) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        })?;
        self.sync_dir(parent)
    }

    /// Makes what was created, renamed or removed in `dir` durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        self.step("sync the directory", dir, || File::open(dir)?.sync_all())
    }

    /// Starts a file under a temporary name in `dir`. It goes again unless it is published.
    pub(crate) fn temporary(&self, dir: &Path) -> Result<Temporary, StorageError> {
        loop {
            let path = Files::temporary_name(dir);
            let open = || OpenOptions::new().read(true).write(true).create_new(true).open(&path);
            match self.step("create", &path, open) {
                Ok(file) => return Ok(Temporary { files: self.clone(), file, path, published: false }),
                Err(err) if err.is_already_there() => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// A name in `dir` that no file of this process has had.
    pub(crate) fn temporary_name(dir: &Path) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        dir.join(format!("{TEMPORARY}{}-{number}", std::process::id()))
    }

    /// Puts a new object; fails with `AlreadyExists` where there is one of that name.
    pub(crate) fn put_new(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        self.unpublished(path, bytes)?.publish(path, false)
    }

    /// Puts an object in place of whatever is there.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        self.unpublished(path, bytes)?.publish(path, true)
    }

    fn unpublished(&self, path: &Path, bytes: &[u8]) -> Result<Temporary, StorageError> {
        let dir = path.parent().unwrap_or(Path::new("."));
        self.create_dirs(dir)?;
        let mut temporary = self.temporary(dir)?;
        let written = self.step("write", path, || temporary.file.write_all(bytes));
        if written.is_err() && self.faults.is_some() {
            // A crash in the middle of a write leaves a part of it.
            temporary.file.write_all(&bytes[..bytes.len() / 2]).ok();
        }
        written.map(|()| temporary)
    }

    /// Moves a file over whatever is at `to`. Neither directory is synced.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.step("rename", from, || fs::rename(from, to))
    }

    /// Removes a file; nothing happens where there is none.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StorageError> {
        self.step("remove", path, || match fs::remove_file(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }

    /// Removes a directory if it is empty.
    pub(crate) fn remove_empty_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.step("remove the directory", path, || match fs::remove_dir(path) {
            Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Ok(())
            }
            other => other,
        })
    }

    /// Removes a directory with all there is in it; nothing happens where there is none.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<(), StorageError> {
        for (name, kind) in names(path)? {
            let child = path.join(name);
            if kind == Entry::Directory { self.remove_tree(&child)? } else { self.remove(&child)? }
        }
        self.remove_empty_dir(path)
    }
}

/// A file that has no name of its own yet.
#[derive(Debug)]
pub(crate) struct Temporary {
    files: Files,
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    published: bool,
}

impl Temporary {
    /// Syncs the file and gives it its name, in the directory it was made in.
    pub(crate) fn publish(mut self, path: &Path, replace: bool) -> Result<(), StorageError> {
        self.files.step("sync", path, || self.file.sync_all())?;
        self.files.step("create", path, || match replace {
            true => fs::rename(&self.path, path),
            false => rename_new(&self.path, path),
        })?;
        self.published = true;
        self.files.sync_dir(path.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After an injected crash there is nobody left to clean up.
        let crashed = self.files.faults.as_ref().is_some_and(|plan| plan.has_struck());
        if !self.published && !crashed {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Renames without ever replacing, also where the file system cannot do so in one step.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Directory,
    Other,
}

/// The names in a directory, sorted; none where there is no such directory. Names that are not UTF-8 are shown as best
/// as can be: none of ours is.
pub(crate) fn names(dir: &Path) -> Result<Vec<(String, Entry)>, StorageError> {
    let read = || -> io::Result<Vec<(String, Entry)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = if entry.file_type()?.is_dir() { Entry::Directory } else { Entry::Other };
            names.push((entry.file_name().to_string_lossy().into_owned(), kind));
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    };
    match read() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|source| StorageError::new("list", dir, source)),
    }
}
