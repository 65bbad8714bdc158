//! Why a disk cannot be protected, in words an operator can act on.
//!
//! Deliberately not here: errors of reading a disk that was accepted (`direct::ReadError`).

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use mobility_format::DiskId;

/// Why a disk, or a set of disks, cannot be protected as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// There is nothing at the path.
    #[error("{}: there is no such disk; `lsblk` and `ls -l /dev/disk/by-id` list the disks of this machine", path.display())]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// There is something at the path that cannot be a disk.
    #[error("{} is {what}; name a whole block device such as /dev/sda, or a plain file that holds a raw image", path.display())]
    NotADisk {
        /// The path that was given.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// It is a partition. Writes are tracked, and restored, by whole disks.
    #[error("{} is a partition of {}; disks are protected whole, so name {} instead", path.display(), whole.display(), whole.display())]
    Partition {
        /// The path that was given.
        path: PathBuf,
        /// The disk that the partition lies on.
        whole: PathBuf,
    },
    /// It holds no bytes.
    #[error("{} holds no bytes: an empty file, a drive without a medium or a loop device without a file; attach one, or name another disk", path.display())]
    Empty {
        /// The path that was given.
        path: PathBuf,
    },
    /// The kernel lets nobody write to it, so that there is nothing to protect it from.
    #[error("{} is read-only, so it never changes; copy it once by other means, or make it writable (`blockdev --setrw`) and start again", path.display())]
    ReadOnly {
        /// The path that was given.
        path: PathBuf,
    },
    /// Its sectors are larger than a block.
    #[error("{} has sectors of {sector_size} bytes; disks with sectors of up to 4096 bytes can be protected", path.display())]
    SectorSize {
        /// The path that was given.
        path: PathBuf,
        /// What the device reports, in bytes.
        sector_size: u32,
    },
    /// This process may not read it.
    #[error("{} may not be read by this process; run it as root, or give its user read access (block devices belong to the group `disk`)", path.display())]
    PermissionDenied {
        /// The path that was given.
        path: PathBuf,
    },
    /// Its node is there, the device behind it is not, or went away while it was looked at.
    #[error("{} has vanished: its node is there, the device behind it is not; attach it again", path.display())]
    Vanished {
        /// The path that was given.
        path: PathBuf,
    },
    /// Two of the paths given are one disk.
    #[error("{} and {} are the same disk; name it once", first.display(), second.display())]
    Twice {
        /// One of the paths.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// One disk is a loop device, another the file behind it.
    #[error("{} is a loop device over {}: the same bytes twice; name only the device", device.display(), file.display())]
    LoopAndBacking {
        /// The loop device.
        device: PathBuf,
        /// The image file.
        file: PathBuf,
    },
    /// One disk is made of another, as a logical volume is of its physical volumes.
    #[error("{} is made of {}: the same bytes twice; name only {}", upper.display(), lower.display(), lower.display())]
    Stacked {
        /// The disk that is made of the other.
        upper: PathBuf,
        /// The disk below.
        lower: PathBuf,
    },
    /// Two different disks say that they are the same one, as a clone attached beside its original does.
    #[error("{} and {} are different disks with one identity ({identity}, disk {id}); give one of them another serial number, or protect only one", first.display(), second.display())]
    SameIdentity {
        /// One of the disks.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// The identity that both claim.
        identity: String,
        /// The id that follows from it.
        id: DiskId,
    },
    /// What is stored for the disk would be stored on the disk, and so have to be stored again, without end.
    #[error("{} lies on {}, a disk to be protected: every write to the vault would have to be protected in turn; put the vault on another disk", vault.display(), disk.display())]
    HoldsVault {
        /// The disk.
        disk: PathBuf,
        /// The vault's directory.
        vault: PathBuf,
    },
    /// The system failed in a way that has no kind of its own.
    #[error("could not {doing} {}: {source}", path.display())]
    Io {
        /// The path that was given.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl DiskError {
    pub(crate) fn from_io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        let gone = [libc::ENXIO, libc::ENODEV, libc::ENOMEDIUM];
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => DiskError::NotFound { path },
            ErrorKind::PermissionDenied => DiskError::PermissionDenied { path },
            _ if source.raw_os_error().is_some_and(|errno| gone.contains(&errno)) => {
                DiskError::Vanished { path }
            }
            _ => DiskError::Io { path, doing, source },
        }
    }
}
