//! Why a disk was not restored.
//!
//! Deliberately not here: exit codes (`cli`).

use std::{fmt, path::PathBuf};

use mobility_format::{ByteCount, DiskId, Epoch};

use super::{Destination, Format};
use crate::{
    content::ContentError,
    storage::{LockError, StorageError},
};

/// A disk was not restored. Whatever was begun of an image is gone again; a device is half written, without its first
/// MiB, so that nothing starts from it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its content cannot be had.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The point has no such disk.
    #[error("epoch {epoch} has no disk {disk}")]
    NoSuchDisk {
        /// Which was asked for.
        disk: DiskId,
        /// Of which epoch.
        epoch: Epoch,
    },
    /// There is something of that name.
    #[error("{} exists already: choose another place, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// It is not a block device.
    #[error("{} is not a block device: to write an image file use --output", .0.display())]
    NotADevice(PathBuf),
    /// Something uses the device.
    #[error("{} is in use: unmount what is on it and stop what holds it", .0.display())]
    InUse(PathBuf),
    /// The device is smaller than the disk.
    #[error("{} has {available}, and the disk needs {needed}", path.display())]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its size.
        available: ByteCount,
        /// The disk's size, with what its format adds.
        needed: ByteCount,
    },
    /// The page blob that is to be filled has another size than the image.
    #[error("{} has {available}, and the image has {needed}: make it as long as that", path.display())]
    WrongSize {
        /// The blob.
        path: PathBuf,
        /// Its size.
        available: ByteCount,
        /// The image's size.
        needed: ByteCount,
    },
    /// A format does not go there, or not at this size.
    #[error("{} cannot be written as {format}: {reason}", path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// In which format.
        format: Format,
        /// Why, and what goes.
        reason: String,
    },
    /// What was written was read back and is not what the point says.
    #[error(
        "{} is not what the point says where it is read back ({differing}): do not use it; its storage changes what it is given, so restore to another one",
        path.display()
    )]
    Differs {
        /// Where.
        path: PathBuf,
        /// What differs.
        differing: Differing,
    },
    /// The caller's `progress` asked for an end.
    #[error("stopped, as asked; nothing of {} is left", .0.display())]
    Cancelled(PathBuf),
    /// Reading or writing failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Somebody removes objects from the vault.
    #[error(transparent)]
    Locked(#[from] LockError),
}

impl RestoreError {
    pub(super) fn cancelled(to: &Destination) -> RestoreError {
        RestoreError::Cancelled(to.path())
    }
}

/// What differs in an image that was read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differing {
    /// Windows of 1 MiB by their numbers, from the first to the last of each run; the first [`Differing::RUNS`] runs. On a
    /// disk of more than 256 GiB a run may be longer than what differs, by a few windows.
    pub windows: Vec<(u64, u64)>,
    /// How many windows are in all runs.
    pub count: u64,
    /// What is wrong with what the format has beside the content, such as a footer.
    pub structure: Option<String>,
}

impl Differing {
    /// How many runs are kept.
    pub const RUNS: usize = 16;

    pub(super) fn is_none(&self) -> bool {
        self.count == 0 && self.structure.is_none()
    }

    /// The windows from `first` to `last` differ; those before were added before.
    pub(super) fn add(&mut self, first: u64, last: u64) {
        self.count += last + 1 - first;
        let room = self.windows.len() < Differing::RUNS;
        match self.windows.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ if room => self.windows.push((first, last)),
            _ => {}
        }
    }
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(structure) = &self.structure {
            return f.write_str(structure);
        }
        let run = |(first, last): &(u64, u64)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let runs: Vec<String> = self.windows.iter().map(run).collect();
        let named: u64 = self.windows.iter().map(|(first, last)| last + 1 - first).sum();
        write!(f, "MiB {}", runs.join(", "))?;
        match self.count - named {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
