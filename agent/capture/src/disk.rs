//! What the machine says about a disk: what it is, how large, who it is when device names change, what lies on it, and
//! why it cannot be protected if it cannot.
//!
//! Everything comes from `/sys`, `/proc/self/mountinfo` and, where it is there, udev's database under `/run/udev`; no
//! udev library is linked, so that a static agent runs on any distribution. Deliberately not here: reading the disk's
//! content (`direct`) and watching its writes (`ebpf`).

mod check;
mod error;
mod identity;
pub(crate) mod mounts;
pub(crate) mod sysfs;

use std::{
    cmp::Ordering,
    fmt,
    fs::{File, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use mobility_format::{BLOCK_SIZE, ByteCount, DiskId};
use rustix::fs::{major, minor};

pub use check::{check_set, check_vault};
pub use error::DiskError;
pub use mounts::Mount;

use self::{identity::Identity, sysfs::SysBlock};

/// The numbers that the kernel knows a block device by. They are given anew at every boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The driver's number.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

impl DeviceNumber {
    pub(crate) fn from_raw(dev: u64) -> Self {
        DeviceNumber { major: major(dev), minor: minor(dev) }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What kind of thing a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskKind {
    /// A whole block device.
    BlockDevice {
        /// The kernel's numbers for it, until the next boot.
        device: DeviceNumber,
        /// The kernel's name for it, the directory's name under `/sys/block`.
        sysfs_name: String,
        /// The kernel's count of disks at the time this one appeared (kernels from 5.15 on). It tells a disk that was
        /// taken away and brought back from one that never left.
        sequence: Option<u64>,
    },
    /// A plain file that holds a raw image.
    ImageFile {
        /// The file system's device number, as `stat` gives it.
        file_system: u64,
        /// The file's inode.
        inode: u64,
    },
}

/// A partition of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// The kernel's name for it, for instance `sda1`.
    pub name: String,
    /// The kernel's numbers for it.
    pub device: DeviceNumber,
    /// Where it starts on the disk.
    pub start: ByteCount,
    /// How long it is.
    pub size: ByteCount,
}

/// A disk that can be protected, as it was at the moment of [`Disk::inspect`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Disk {
    /// The path the operator gave.
    pub given: PathBuf,
    /// The same with all symbolic links resolved.
    pub path: PathBuf,
    /// What it is.
    pub kind: DiskKind,
    /// How many bytes it holds; never 0. Need not be a whole number of blocks.
    pub size: ByteCount,
    /// The smallest unit the device reads and writes, in bytes; 512 for image files.
    pub sector_size: u32,
    /// What stays the same when device names change, for instance `wwn:…`, `serial:…`, `file:/…`.
    pub identity: String,
    /// The id derived from [`Disk::identity`].
    pub id: DiskId,
    /// A short name for people: the kernel's name of the device, or the file's name.
    pub name: String,
    /// The partitions the kernel sees on it, in order of their start.
    pub partitions: Vec<Partition>,
    /// The file systems mounted from it, from its partitions, or from what is stacked on them.
    pub mounts: Vec<Mount>,
    /// The device-mapper, md and other devices stacked on it or on its partitions.
    pub holders: Vec<String>,
    /// Why the tracker's tracepoints do not see this disk's writes, or `None` where they do.
    pub untrackable: Option<String>,
    identity_from_hardware: bool,
}

/// What became of a disk since it was inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskChange {
    /// It is as it was.
    Same,
    /// It is the same disk and longer.
    Grown {
        /// How long it is now.
        new_size: ByteCount,
    },
    /// It is the same disk and shorter.
    Shrunk {
        /// How long it is now.
        new_size: ByteCount,
    },
    /// It is not there. It may come back, perhaps under another name: inspect the path that was given.
    Gone,
    /// Another disk is in its place, or it was away and came back, so nobody knows what was written meanwhile. Inspect
    /// the path that was given, and compare the whole disk.
    Replaced,
}

impl Disk {
    /// Finds out about the disk at `path`: a whole block device, a link to one such as those under `/dev/disk/by-id`,
    /// or a plain image file. Opens it for reading and closes it again; never opens it exclusively.
    ///
    /// # Errors
    ///
    /// Each reason why it cannot be protected has its own kind, with what to do about it.
    pub fn inspect(path: &Path) -> Result<Disk, DiskError> {
        let meta = std::fs::metadata(path).map_err(|source| DiskError::from_io(path, "look at", source))?;
        let real = path.canonicalize().map_err(|source| DiskError::from_io(path, "resolve", source))?;
        let kind = meta.file_type();
        if kind.is_block_device() {
            Self::inspect_device(path, real, &meta)
        } else if kind.is_file() {
            Self::inspect_file(path, real, &meta)
        } else {
            let what = match kind {
                kind if kind.is_dir() => "a directory",
                kind if kind.is_char_device() => "a character device",
                kind if kind.is_fifo() => "a named pipe",
                kind if kind.is_socket() => "a socket",
                _ => "neither a block device nor a plain file",
            };
            Err(DiskError::NotADisk { path: path.to_owned(), what })
        }
    }

    fn inspect_device(given: &Path, path: PathBuf, meta: &Metadata) -> Result<Disk, DiskError> {
        let device = DeviceNumber::from_raw(meta.rdev());
        let vanished = || DiskError::Vanished { path: given.to_owned() };
        let sys = SysBlock::of(device).ok_or_else(vanished)?;
        if let Some(whole) = sys.whole_disk() {
            return Err(DiskError::Partition { path: given.to_owned(), whole: whole.device_path() });
        }
        let file = File::open(&path).map_err(|source| DiskError::from_io(given, "open", source))?;
        let size = sys.size().ok_or_else(vanished)?;
        if size.0 == 0 {
            return Err(DiskError::Empty { path: given.to_owned() });
        }
        if sys.number("ro") == Some(1) {
            return Err(DiskError::ReadOnly { path: given.to_owned() });
        }
        let sector_size = rustix::fs::ioctl_blksszget(&file)
            .map_err(|errno| DiskError::from_io(given, "ask the sector size of", errno.into()))?;
        if sector_size as usize > BLOCK_SIZE {
            return Err(DiskError::SectorSize { path: given.to_owned(), sector_size });
        }
        let Identity { text, from_hardware } = identity::of_device(&sys, &path);
        let (partitions, above) = (sys.partitions(), sys.above());
        let devices =
            [&sys].into_iter().chain(&partitions).chain(&above).filter_map(SysBlock::device).collect();
        Ok(Disk {
            given: given.to_owned(),
            path,
            kind: DiskKind::BlockDevice { device, sysfs_name: sys.name(), sequence: sys.number("diskseq") },
            size,
            sector_size,
            id: DiskId::derive(&text),
            identity: text,
            name: sys.name(),
            partitions: partitions.iter().filter_map(SysBlock::as_partition).collect(),
            mounts: mounts::on_devices(&devices),
            holders: above.iter().map(SysBlock::name).collect(),
            untrackable: sys.untrackable(),
            identity_from_hardware: from_hardware,
        })
    }

    fn inspect_file(given: &Path, path: PathBuf, meta: &Metadata) -> Result<Disk, DiskError> {
        File::open(&path).map_err(|source| DiskError::from_io(given, "open", source))?;
        if meta.len() == 0 {
            return Err(DiskError::Empty { path: given.to_owned() });
        }
        let identity = identity::of_file(&path);
        Ok(Disk {
            given: given.to_owned(),
            kind: DiskKind::ImageFile { file_system: meta.dev(), inode: meta.ino() },
            size: ByteCount(meta.len()),
            sector_size: 512,
            id: DiskId::derive(&identity),
            identity,
            name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            path,
            partitions: Vec::new(),
            mounts: Vec::new(),
            holders: Vec::new(),
            untrackable: Some(
                "it is a plain file; its writes do not pass a block device of its own".to_owned(),
            ),
            identity_from_hardware: false,
        })
    }

    /// Whether the disk is still there, still the same and still as long: a few small reads of `/sys`, cheap enough to
    /// be done every few seconds. It sees what the kernel knows without touching the device, so a device that is
    /// there but fails every read is [`DiskChange::Same`]; the reader reports that one.
    #[must_use]
    pub fn revalidate(&self) -> DiskChange {
        match &self.kind {
            DiskKind::BlockDevice { device, sequence, .. } => self.revalidate_device(*device, *sequence),
            &DiskKind::ImageFile { file_system, inode } => match std::fs::metadata(&self.path) {
                Err(_) => DiskChange::Gone,
                Ok(meta) if (meta.dev(), meta.ino()) != (file_system, inode) => DiskChange::Replaced,
                Ok(meta) => self.compare_size(ByteCount(meta.len())),
            },
        }
    }

    fn revalidate_device(&self, device: DeviceNumber, sequence: Option<u64>) -> DiskChange {
        let Some(sys) = SysBlock::of(device) else { return DiskChange::Gone };
        let size = match sys.size() {
            // An ejected or detached device keeps its directory, with nothing in it.
            None | Some(ByteCount(0)) => return DiskChange::Gone,
            Some(size) => size,
        };
        // An identity that was read from the disk's content changes with the content, on the very same disk.
        let other =
            self.identity_from_hardware && identity::of_device(&sys, &self.path).text != self.identity;
        if other || sys.number("diskseq") != sequence {
            DiskChange::Replaced
        } else {
            self.compare_size(size)
        }
    }

    fn compare_size(&self, new_size: ByteCount) -> DiskChange {
        match new_size.cmp(&self.size) {
            Ordering::Equal => DiskChange::Same,
            Ordering::Greater => DiskChange::Grown { new_size },
            Ordering::Less => DiskChange::Shrunk { new_size },
        }
    }
}

#[cfg(test)]
mod tests;
