//! A bounded number of open files behind any number of segments. Thousands of epochs may reach into one window; the
//! limit on open files of most systems is 1024.
//!
//! Deliberately not here: anything that knows what the files hold.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mobility_format::segment::RangeRead;

/// The most files held open by one pool.
const OPEN_FILES: usize = 256;

/// Opens files again when they are needed, and closes those opened longest ago.
#[derive(Debug, Default)]
pub(crate) struct FilePool {
    next: AtomicU64,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    by_number: HashMap<u64, Arc<File>>,
    oldest_first: VecDeque<u64>,
}

impl FilePool {
    /// A file of this pool.
    pub(crate) fn file(self: &Arc<Self>, path: PathBuf) -> PooledFile {
        PooledFile { pool: self.clone(), number: self.next.fetch_add(1, Ordering::Relaxed), path }
    }

    fn get(&self, number: u64, path: &std::path::Path) -> io::Result<Arc<File>> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = lock().by_number.get(&number) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(path)?);
        let mut open = lock();
        if open.by_number.insert(number, file.clone()).is_none() {
            open.oldest_first.push_back(number);
        }
        if open.oldest_first.len() > OPEN_FILES
            && let Some(oldest) = open.oldest_first.pop_front()
        {
            open.by_number.remove(&oldest);
        }
        Ok(file)
    }

    fn close(&self, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.by_number.remove(&number).is_some() {
            open.oldest_first.retain(|other| *other != number);
        }
    }
}

/// A file that is opened when it is read.
#[derive(Debug)]
pub(crate) struct PooledFile {
    pool: Arc<FilePool>,
    number: u64,
    path: PathBuf,
}

impl RangeRead for PooledFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.pool.get(self.number, &self.path)?.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.pool.get(self.number, &self.path)?.read_exact_at(buf, offset)
    }
}

impl Drop for PooledFile {
    fn drop(&mut self) {
        self.pool.close(self.number);
    }
}
