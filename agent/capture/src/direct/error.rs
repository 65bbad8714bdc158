//! Why blocks could not be read, and which.

use std::io;

use mobility_format::BlockSet;

/// What a failed read means for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadErrorKind {
    /// The device answers but does not give these blocks back. Others can be read; these stay owed until they can, or
    /// until they are written again.
    Unreadable,
    /// The device is gone, or its file ends before its size. Revalidate the disk.
    Gone,
    /// The caller asked for what is not on the disk, or for more than the buffer takes.
    OutOfRange,
    /// Anything else, such as too little memory. Worth another try later.
    Other,
}

impl ReadErrorKind {
    fn advice(self) -> &'static str {
        match self {
            ReadErrorKind::Unreadable => "the device fails there: look into the kernel's log, and replace it",
            ReadErrorKind::Gone => "the disk went away or became shorter: attach it again",
            ReadErrorKind::OutOfRange => "this is an error in the program that asked",
            ReadErrorKind::Other => "it is tried again",
        }
    }

    pub(super) fn of(source: &io::Error) -> Self {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return ReadErrorKind::Gone;
        }
        // The names that the kernel's block layer gives to a medium, target, protection or transport error.
        match source.raw_os_error() {
            Some(
                libc::EIO | libc::ENODATA | libc::EREMOTEIO | libc::EILSEQ | libc::ETIMEDOUT | libc::EBADMSG,
            ) => ReadErrorKind::Unreadable,
            Some(libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM | libc::ESTALE | libc::ENOLINK) => {
                ReadErrorKind::Gone
            }
            _ => ReadErrorKind::Other,
        }
    }
}

/// Blocks that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{disk}: {} could not be read: {source}; {}", named(blocks), kind.advice())]
pub struct ReadError {
    /// The disk's short name.
    pub disk: String,
    /// Exactly the blocks that could not be read; for other kinds than [`ReadErrorKind::Unreadable`] the range that was
    /// being read.
    pub blocks: BlockSet,
    /// What it means.
    pub kind: ReadErrorKind,
    /// What the system said, for the first of them.
    pub source: io::Error,
}

fn named(blocks: &BlockSet) -> String {
    let (first, runs) = (blocks.runs().next(), blocks.runs().count());
    let first = first.map(|run| run.to_string()).unwrap_or_default();
    if runs > 1 { format!("{first} and {} other runs, {} in all", runs - 1, blocks.bytes()) } else { first }
}
