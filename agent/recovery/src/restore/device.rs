//! A block device being written, held exclusively. Nothing on it is zero unless it is made so.
//!
//! Its first MiB, which holds the partition table or the boot sector, is zero until everything else is durable: nothing
//! starts from a device that is half written. Deliberately not here: formats.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use mobility_format::{ByteCount, WINDOW_SIZE};
use rustix::{
    fs::{FallocateFlags, OFlags, fallocate},
    io::Errno,
};

use super::{
    RestoreError,
    file::StoredFile,
    medium::{Medium, Settling, Stored},
};
use crate::storage::StorageError;

/// A block device being written.
pub(super) struct Device {
    file: Arc<File>,
    path: PathBuf,
    /// How long its beginning is that waits, and what it is going to be.
    beginning: u64,
    waiting: Vec<(u64, Vec<u8>)>,
}

impl Device {
    pub(super) fn open(path: &Path, needed: ByteCount) -> Result<Device, RestoreError> {
        let failed = |err| StorageError::new("open", path, err);
        if !path.metadata().map_err(failed)?.file_type().is_block_device() {
            return Err(RestoreError::NotADevice(path.to_owned()));
        }
        let exclusive = OFlags::EXCL.bits() as i32;
        let mut file = match OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path) {
            Err(err) if Errno::from_io_error(&err) == Some(Errno::BUSY) => {
                return Err(RestoreError::InUse(path.to_owned()));
            }
            other => other.map_err(failed)?,
        };
        let available = ByteCount(file.seek(io::SeekFrom::End(0)).map_err(failed)?);
        if available < needed {
            return Err(RestoreError::TooSmall { path: path.to_owned(), available, needed });
        }
        let beginning = needed.0.min(WINDOW_SIZE as u64);
        let device = Device { file: Arc::new(file), path: path.to_owned(), beginning, waiting: Vec::new() };
        device.forget()?;
        Ok(device)
    }

    /// Makes the beginning zero, durably.
    fn forget(&self) -> Result<(), RestoreError> {
        let forgotten = write_zeros(&self.file, 0, self.beginning).and_then(|()| self.file.sync_data());
        forgotten.map_err(|err| self.failed("write zeros to", err))
    }

    fn failed(&self, action: &'static str, err: io::Error) -> RestoreError {
        StorageError::new(action, &self.path, err).into()
    }
}

fn write_zeros(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; WINDOW_SIZE.min((end - at) as usize)];
    while at < end {
        let length = zeros.len().min((end - at) as usize);
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

impl Medium for Device {
    fn is_fresh(&self) -> bool {
        false
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        if at < self.beginning {
            self.waiting.push((at, bytes.to_vec()));
            return Ok(());
        }
        self.file.write_all_at(bytes, at).map_err(|err| self.failed("write", err))
    }

    /// Asks the device to do it, first by releasing the space, then by any way of its own; else writes.
    fn clear(&mut self, at: u64, length: u64) -> Result<(), RestoreError> {
        let ask = |how| fallocate(&*self.file, how, at, length);
        let done = ask(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
            .or_else(|_| ask(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE));
        let done = done.or_else(|_| write_zeros(&self.file, at, at + length));
        done.map_err(|err| self.failed("write zeros to", err))
    }

    fn settle(&mut self) -> Settling {
        let (waiting, file, path) = (std::mem::take(&mut self.waiting), self.file.clone(), self.path.clone());
        Box::new(move || {
            let settle = || -> io::Result<()> {
                file.sync_data()?;
                waiting.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))?;
                file.sync_all()
            };
            settle().map_err(|err| StorageError::new("sync", &path, err).into())
        })
    }

    fn stored(&self) -> Result<Arc<dyn Stored>, RestoreError> {
        Ok(Arc::new(StoredFile::new(self.file.clone(), &self.path)))
    }

    fn publish(self: Box<Self>) -> Result<(), RestoreError> {
        Ok(())
    }

    fn abandon(self: Box<Self>) {
        // Nothing better can be done where even this fails, and the caller has an error already.
        self.forget().ok();
    }
}
