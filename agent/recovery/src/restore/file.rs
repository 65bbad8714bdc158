//! An image file being written: sparse, without a name until it is whole.
//!
//! Where the file system can do it the file has no name at all meanwhile, so that whatever ends the process leaves nothing.
//! What is written is made durable while more is written, so that the end takes no longer than the last of it. Deliberately
//! not here: formats.

use std::{
    fs::{self, File, OpenOptions},
    io,
    num::NonZeroU64,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use rustix::{
    fs::{Advice, AtFlags, CWD, OFlags, SeekFrom, fadvise, linkat, seek},
    io::Errno,
};

use super::{
    RestoreError,
    medium::{Medium, Settling, Stored},
};
use crate::storage::{Files, StorageError, Temporary};

/// How much is written between two syncs.
const SYNC_EVERY: u64 = 64 << 20;
/// How much is read back before the page cache is told to let go of it.
const LET_GO_EVERY: u64 = 64 << 20;

/// An image file being written.
pub(super) struct Image {
    file: Arc<File>,
    path: PathBuf,
    replace: bool,
    files: Files,
    /// Its name until it is whole, where the file system wants one.
    temporary: Option<Temporary>,
    syncing: Option<Syncing>,
    unsynced: u64,
}

/// A thread that syncs a file whenever it is told to. What fails there fails at the next call.
struct Syncing {
    tell: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Image {
    /// Begins an image of `length` bytes, all zero, next to the name that it will have.
    pub(super) fn create(path: &Path, length: u64, replace: bool) -> Result<Image, RestoreError> {
        if !replace && path.symlink_metadata().is_ok() {
            return Err(RestoreError::Exists(path.to_owned()));
        }
        let files = Files::default();
        let dir = path.parent().unwrap_or(Path::new("."));
        files.create_dirs(dir)?;
        let (file, temporary) = match nameless(dir) {
            Some(file) => (file, None),
            None => {
                let temporary = files.temporary(dir)?;
                let file = temporary.file.try_clone();
                (file.map_err(|err| StorageError::new("open", path, err))?, Some(temporary))
            }
        };
        let failed = |err| StorageError::new("set the length of", path, err);
        file.set_len(length).map_err(failed)?;
        let (file, path) = (Arc::new(file), path.to_owned());
        Ok(Image { file, path, replace, files, temporary, syncing: None, unsynced: 0 })
    }

    fn failed(&self, action: &'static str, err: io::Error) -> RestoreError {
        StorageError::new(action, &self.path, err).into()
    }

    fn written(&mut self, bytes: u64) -> Result<(), RestoreError> {
        self.unsynced += bytes;
        if self.unsynced < SYNC_EVERY {
            return Ok(());
        }
        let syncing = self.syncing.get_or_insert_with(|| Syncing::start(self.file.clone()));
        match syncing.tell.try_send(()) {
            Ok(()) => self.unsynced = 0,
            // It is at work, and is told again at the next write.
            Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => self.end_syncing()?,
        }
        Ok(())
    }

    fn end_syncing(&mut self) -> Result<(), RestoreError> {
        let ended = self.syncing.take().map_or(Ok(()), Syncing::end);
        ended.map_err(|err| self.failed("sync", err))
    }
}

impl Syncing {
    fn start(file: Arc<File>) -> Syncing {
        let (tell, told) = sync_channel(1);
        let sync = move || told.iter().try_for_each(|()| file.sync_data());
        Syncing { tell, thread: std::thread::spawn(sync) }
    }

    fn end(self) -> io::Result<()> {
        drop(self.tell);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs has ended")))
    }
}

/// A file in `dir` without a name, if there can be one and it can be given a name later.
fn nameless(dir: &Path) -> Option<File> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let flags = OFlags::TMPFILE.bits() as i32;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(dir).ok()?;
    by_number(&file).exists().then_some(file)
}

fn by_number(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

impl Medium for Image {
    fn is_fresh(&self) -> bool {
        true
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        self.file.write_all_at(bytes, at).map_err(|err| self.failed("write", err))?;
        self.written(bytes.len() as u64)
    }

    fn clear(&mut self, _: u64, _: u64) -> Result<(), RestoreError> {
        Ok(())
    }

    fn settle(&mut self) -> Settling {
        let (syncing, file, path) = (self.syncing.take(), self.file.clone(), self.path.clone());
        Box::new(move || {
            let synced = syncing.map_or(Ok(()), Syncing::end).and_then(|()| file.sync_all());
            synced.map_err(|err| StorageError::new("sync", &path, err).into())
        })
    }

    fn stored(&self) -> Result<Arc<dyn Stored>, RestoreError> {
        Ok(Arc::new(StoredFile::new(self.file.clone(), &self.path)))
    }

    fn publish(mut self: Box<Self>) -> Result<(), RestoreError> {
        let named = |err: StorageError| match err.is_already_there() {
            true => RestoreError::Exists(self.path.clone()),
            false => err.into(),
        };
        if let Some(temporary) = self.temporary.take() {
            return temporary.publish(&self.path, self.replace).map_err(named);
        }
        let link = |to: &Path| -> io::Result<()> {
            Ok(linkat(CWD, by_number(&self.file), CWD, to, AtFlags::SYMLINK_FOLLOW)?)
        };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let linked = match self.replace {
            false => link(&self.path),
            // A name cannot be taken from another file at once; a name of its own first can.
            true => {
                let name = Files::temporary_name(dir);
                let renamed = link(&name).and_then(|()| fs::rename(&name, &self.path));
                renamed.inspect_err(|_| drop(fs::remove_file(&name)))
            }
        };
        linked.map_err(|err| named(StorageError::new("create", &self.path, err)))?;
        Ok(self.files.sync_dir(dir)?)
    }

    /// Nothing to do: without a name it is gone when it is closed, and a temporary name goes with it.
    fn abandon(self: Box<Self>) {}
}

/// A file or device that was written and synced.
pub(super) struct StoredFile {
    file: Arc<File>,
    path: PathBuf,
    /// How much was read since the page cache let go of it.
    since: AtomicU64,
}

impl StoredFile {
    /// Lets go of what the page cache has of it, so that reading goes to the disk. Where there is none, as in memory, this
    /// changes nothing.
    pub(super) fn new(file: Arc<File>, path: &Path) -> StoredFile {
        fadvise(&file, 0, None, Advice::DontNeed).ok();
        fadvise(&file, 0, None, Advice::Sequential).ok();
        StoredFile { file, path: path.to_owned(), since: AtomicU64::new(0) }
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        fadvise(&self.file, 0, None, Advice::DontNeed).ok();
    }
}

impl Stored for StoredFile {
    /// What a file lacks at its end is zero, as anywhere in it.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(StorageError::new("read back", &self.path, err)),
            }
        }
        buf[filled..].fill(0);
        // Nobody is going to read it a second time; what others have in the cache is worth more. Letting go has a price.
        if self.since.fetch_add(buf.len() as u64, Ordering::Relaxed) > LET_GO_EVERY {
            self.since.store(0, Ordering::Relaxed);
            fadvise(&self.file, 0, NonZeroU64::new(at), Advice::DontNeed).ok();
        }
        Ok(())
    }

    fn next_data(&self, at: u64) -> Result<Option<u64>, StorageError> {
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            // Neither a device nor every file system knows where it has data.
            Err(_) => Ok(Some(at)),
        }
    }
}
