//! Reads a disk as it is, past the page cache.
//!
//! A buffered read of a block device answers from the device's own page cache, which a mounted file system does not
//! keep up to date: after an overwrite and an `fsync` it still returns the old bytes. It also pushes the application's
//! pages out. So block devices are read with `O_DIRECT` and nothing else.
//!
//! Deliberately not here: what to read and when (the engine decides), and how many buffers there are (the daemon's).

mod buffer;
mod error;
mod halving;
mod plan;
mod priority;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
};

use mobility_format::{BLOCK_SIZE, BlockIndex, BlockRange, BlockSet, ByteCount};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

pub use buffer::AlignedBuf;
pub use error::{ReadError, ReadErrorKind};
pub use plan::{JoinedRead, joined_read_plan, read_plan};
pub use priority::set_idle_io_priority;

use self::halving::{Unreadable, read_halving};
use crate::disk::{Disk, DiskError, DiskKind};

/// A disk opened for reading. Several threads may read through one at once, each into a buffer of its own.
#[derive(Debug)]
pub struct DirectReader {
    file: File,
    name: String,
    size: ByteCount,
    may_have_holes: bool,
    direct: bool,
}

impl DirectReader {
    /// Opens `disk` for reading, never exclusively. A block device is read past the page cache or not at all; so is an
    /// image file where its file system can, and through the page cache, which is right for a plain file, where not.
    ///
    /// The reader knows the size that `disk` had when it was inspected; after [`crate::disk::DiskChange::Grown`] inspect
    /// and open it again.
    ///
    /// # Errors
    ///
    /// As [`Disk::inspect`]: it vanished, or may not be read.
    pub fn open(disk: &Disk) -> Result<DirectReader, DiskError> {
        let failed = |source| DiskError::from_io(&disk.given, "open", source);
        let is_file = matches!(disk.kind, DiskKind::ImageFile { .. });
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&disk.path);
        let reader = |file, direct| DirectReader {
            file,
            name: disk.name.clone(),
            size: disk.size,
            may_have_holes: is_file,
            direct,
        };
        match direct.map(|file| reader(file, true)) {
            Ok(reader) if !is_file || reader.can_read() => Ok(reader),
            Err(source) if !is_file || source.raw_os_error() != Some(libc::EINVAL) => Err(failed(source)),
            _ => File::open(&disk.path).map(|file| reader(file, false)).map_err(failed),
        }
    }

    /// Some file systems take the flag and then refuse every read.
    fn can_read(&self) -> bool {
        let mut probe = AlignedBuf::new(BLOCK_SIZE);
        let outcome = self.file.read_at(probe.spare(BLOCK_SIZE), 0);
        !outcome.is_err_and(|source| source.raw_os_error() == Some(libc::EINVAL))
    }

    /// The disk's size when it was inspected.
    #[must_use]
    pub fn size(&self) -> ByteCount {
        self.size
    }

    /// The disk's short name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether reads go past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Reads the blocks of `range` into `buf`, whose content is then exactly so long. Where the disk ends within its last
    /// block, the rest of that block reads as zeros.
    ///
    /// Where the device cannot read all of it, the range is halved again and again until each block that cannot be
    /// read is known; the error names them, and all the other blocks of the range are in `buf`. What `buf` holds at the
    /// place of a block that could not be read is meaningless: zeros there would pass for content.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind`] says what to do. A range that is longer than the buffer's capacity or that ends past the disk
    /// is refused before anything is read.
    pub fn read(&self, range: BlockRange, buf: &mut AlignedBuf) -> Result<(), ReadError> {
        buf.clear();
        let fits = range.bytes().0 <= buf.capacity() as u64;
        if !fits || range.end().0 > self.size.blocks() {
            let what =
                if fits { "the range ends past the end of the disk" } else { "the buffer is too small" };
            let source = io::Error::new(io::ErrorKind::InvalidInput, what);
            return Err(self.error(range, ReadErrorKind::OutOfRange, source));
        }
        let len = range.bytes().0 as usize;
        let mut unreadable = None;
        read_halving(range, buf.spare(len), &mut |part, bytes| self.read_once(part, bytes), &mut unreadable)
            .map_err(|source| self.error(range, ReadErrorKind::of(&source), source))?;
        buf.set_len(len);
        let Some(Unreadable { blocks, source }) = unreadable else { return Ok(()) };
        Err(ReadError { disk: self.name.clone(), blocks, kind: ReadErrorKind::Unreadable, source })
    }

    fn read_once(&self, range: BlockRange, bytes: &mut [u8]) -> io::Result<()> {
        let start = range.start.byte_offset();
        let on_disk = (self.size.0.saturating_sub(start)).min(bytes.len() as u64) as usize;
        let mut done = 0;
        while done < on_disk {
            // A direct read has to begin at a whole block, so after a short one the block it ended in is read again.
            let from = done - done % BLOCK_SIZE;
            match self.file.read_at(&mut bytes[from..], start + from as u64) {
                Ok(count) if from + count > done => done = from + count,
                Ok(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before its size")),
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(source),
            }
        }
        // Also where the file grew meanwhile: what lies past the size is not part of this disk yet.
        bytes[on_disk..].fill(0);
        Ok(())
    }

    fn error(&self, range: BlockRange, kind: ReadErrorKind, source: io::Error) -> ReadError {
        ReadError { disk: self.name.clone(), blocks: BlockSet::of(range), kind, source }
    }

    /// What the file system knows about the blocks from `from` on without reading them. Block devices are data from end
    /// to end. At and past the end of the disk: one block of data, which cannot be read.
    #[must_use]
    pub fn stretch_at(&self, from: BlockIndex) -> Stretch {
        let rest = self.size.blocks().saturating_sub(from.0).max(1);
        let stretch = |count: u64| BlockRange { start: from, count: count.clamp(1, rest) };
        if !self.may_have_holes {
            return Stretch::Data(stretch(rest));
        }
        let offset = from.byte_offset();
        match seek(&self.file, SeekFrom::Data(offset)) {
            Err(Errno::NXIO) if offset < self.size.0 => Stretch::Hole(stretch(rest)),
            Ok(data) if data >= offset + BLOCK_SIZE as u64 => {
                Stretch::Hole(stretch((data - offset) / BLOCK_SIZE as u64))
            }
            Ok(_) => match seek(&self.file, SeekFrom::Hole(offset)) {
                Ok(hole) => Stretch::Data(stretch(hole.saturating_sub(offset).div_ceil(BLOCK_SIZE as u64))),
                Err(_) => Stretch::Data(stretch(rest)),
            },
            Err(_) => Stretch::Data(stretch(rest)),
        }
    }
}

/// A run of blocks of one nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// Never written: zeros, known without a read.
    Hole(BlockRange),
    /// To be read to be known.
    Data(BlockRange),
}

impl Stretch {
    /// Which blocks.
    #[must_use]
    pub fn range(self) -> BlockRange {
        match self {
            Stretch::Hole(range) | Stretch::Data(range) => range,
        }
    }
}

#[cfg(test)]
mod tests;
