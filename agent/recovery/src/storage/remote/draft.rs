//! An object held in memory until it is put in one request.
//!
//! A name in a store cannot be given afterwards, and a merged segment's name is its digest; so it is kept short
//! (`draft_length`) and put at once. Deliberately not here: uploads in parts.

use std::{fmt, io};

use mobility_format::segment::RangeRead;
use object_store::PutMode;

use super::{Draft, Remote, StorageError};

/// The most that is held: what is asked for (16 MiB), an index beside it, and what the agent may send at most.
const MOST: usize = 96 << 20;

/// An object that is not put yet.
pub(super) struct MemoryDraft {
    remote: Remote,
    bytes: Vec<u8>,
}

impl MemoryDraft {
    pub(super) fn new(remote: Remote) -> MemoryDraft {
        MemoryDraft { remote, bytes: Vec::new() }
    }
}

impl fmt::Debug for MemoryDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryDraft({} bytes)", self.bytes.len())
    }
}

impl io::Write for MemoryDraft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MOST {
            let problem = format!("an object put at once may have {MOST} bytes at most");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RangeRead for MemoryDraft {
    fn length(&self) -> io::Result<u64> {
        self.bytes.length()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.bytes.read_at(offset, buf)
    }
}

impl Draft for MemoryDraft {
    fn publish(self: Box<Self>, key: &str) -> Result<(), StorageError> {
        self.remote.put(key, self.bytes.into(), PutMode::Overwrite)
    }
}
