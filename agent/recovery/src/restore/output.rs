//! Where a restored disk goes: a sparse image file, where what is not written is zero, or a block device, where nothing
//! is zero unless it is made so.
//!
//! Deliberately not here: where the content comes from.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use mobility_format::{BLOCK_SIZE, BlockIndex, BlockRange, ByteCount, WINDOW_SIZE};
use rustix::{
    fs::{FallocateFlags, OFlags, fallocate},
    io::Errno,
};

use super::RestoreError;
use crate::{
    content::Mask,
    storage::{Files, StorageError, Temporary},
};

/// Takes a disk's content, in any order, each block once.
pub(super) trait Output {
    /// Takes a window: `bytes` is its content as far as the disk goes, of which the blocks `data` are not known to be
    /// zero. Returns how many bytes were written.
    fn window(&mut self, start: BlockIndex, data: Mask, bytes: &[u8]) -> Result<u64, StorageError>;

    /// Takes blocks that are all zero.
    fn zeros(&mut self, range: BlockRange) -> Result<(), StorageError>;
}

/// An image file being written.
pub(super) struct Image {
    temporary: Temporary,
}

impl Image {
    pub(super) fn create(files: &Files, dir: &Path, size: ByteCount) -> Result<Image, StorageError> {
        let temporary = files.temporary(dir)?;
        let sized = temporary.file.set_len(size.0);
        sized.map_err(|err| StorageError::new("set the length of", &temporary.path, err))?;
        Ok(Image { temporary })
    }

    pub(super) fn publish(self, path: &Path, replace: bool) -> Result<(), RestoreError> {
        self.temporary.publish(path, replace).map_err(|err| match err.is_already_there() {
            true => RestoreError::Exists(path.to_owned()),
            false => err.into(),
        })
    }
}

impl Output for Image {
    fn window(&mut self, start: BlockIndex, data: Mask, bytes: &[u8]) -> Result<u64, StorageError> {
        let mut written = 0;
        for (first, count) in data.runs() {
            let from = first as usize * BLOCK_SIZE;
            let run = &bytes[from..bytes.len().min(from + count as usize * BLOCK_SIZE)];
            let put = self.temporary.file.write_all_at(run, start.byte_offset() + from as u64);
            put.map_err(|err| StorageError::new("write", &self.temporary.path, err))?;
            written += run.len() as u64;
        }
        Ok(written)
    }

    fn zeros(&mut self, _: BlockRange) -> Result<(), StorageError> {
        Ok(())
    }
}

/// A block device being written, held exclusively.
pub(super) struct Device {
    file: File,
    path: PathBuf,
    size: u64,
}

impl Device {
    pub(super) fn open(path: &Path, needed: ByteCount) -> Result<Device, RestoreError> {
        let failed = |err| StorageError::new("open", path, err);
        if !path.metadata().map_err(failed)?.file_type().is_block_device() {
            return Err(RestoreError::NotADevice(path.to_owned()));
        }
        let exclusive = OFlags::EXCL.bits() as i32;
        let mut file = match OpenOptions::new().write(true).custom_flags(exclusive).open(path) {
            Err(err) if Errno::from_io_error(&err) == Some(Errno::BUSY) => {
                return Err(RestoreError::InUse(path.to_owned()));
            }
            other => other.map_err(failed)?,
        };
        let available = ByteCount(file.seek(io::SeekFrom::End(0)).map_err(failed)?);
        if available < needed {
            return Err(RestoreError::TooSmall { path: path.to_owned(), available, needed });
        }
        Ok(Device { file, path: path.to_owned(), size: needed.0 })
    }

    pub(super) fn finish(self) -> Result<(), StorageError> {
        self.file.sync_all().map_err(|err| StorageError::new("sync", &self.path, err))
    }

    fn write_zeros(&self, mut at: u64, end: u64) -> io::Result<()> {
        let zeros = vec![0; WINDOW_SIZE.min((end - at) as usize)];
        while at < end {
            let length = zeros.len().min((end - at) as usize);
            self.file.write_all_at(&zeros[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }
}

impl Output for Device {
    fn window(&mut self, start: BlockIndex, _: Mask, bytes: &[u8]) -> Result<u64, StorageError> {
        let put = self.file.write_all_at(bytes, start.byte_offset());
        put.map_err(|err| StorageError::new("write", &self.path, err))?;
        Ok(bytes.len() as u64)
    }

    /// Asks the device to do it, first by releasing the space, then by any way of its own; else writes.
    fn zeros(&mut self, range: BlockRange) -> Result<(), StorageError> {
        let (at, end) = (range.start.byte_offset(), range.end().byte_offset().min(self.size));
        let ask = |how| fallocate(&self.file, how, at, end - at);
        let done = ask(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
            .or_else(|_| ask(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE));
        let done = done.or_else(|_| self.write_zeros(at, end));
        done.map_err(|err| StorageError::new("write zeros to", &self.path, err))
    }
}
