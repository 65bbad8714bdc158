//! Where a disk holds swap: blocks that change under any freeze, and that nobody needs after a restart.
//!
//! Only what is certain is said. Swap that lies on device-mapper, md or `btrfs` is somewhere on the disk, and its place is
//! not told. Deliberately not here: swap in memory (`zram`), which is on no disk.

use std::{
    fs,
    fs::File,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use mobility_format::{BLOCK_SIZE, BlockRange, BlockSet, ByteCount};

use super::{ioctl, opened};
use crate::disk::{
    DeviceNumber, Disk, DiskKind,
    mounts::{self, Mount},
};

/// `FIEMAP_EXTENT_UNKNOWN | DELALLOC | ENCODED | DATA_INLINE | DATA_TAIL`: the place is not where the bytes are.
const NO_PLACE: u32 = 0x2 | 0x4 | 0x8 | 0x200 | 0x400;
const LAST: u32 = 0x1;
/// More parts than a swap file should ever have; the kernel refuses files with holes, not fragmented ones.
const MAX_EXTENTS: usize = 1 << 20;

/// The swap on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwapRanges {
    /// Blocks that hold swap and nothing else.
    pub blocks: BlockSet,
    /// Active swap that is, or may be, on this disk at a place that is not known.
    pub unknown: Vec<PathBuf>,
}

/// Where on `disk` the active swap lies.
#[must_use]
pub fn swap_ranges(disk: &Disk) -> SwapRanges {
    let mut found = SwapRanges::default();
    let text = fs::read("/proc/swaps").unwrap_or_default();
    let mounts = mounts::all();
    for swap in text.split(|&byte| byte == b'\n').skip(1).filter_map(parse) {
        match place(&swap, disk, &mounts) {
            Place::Elsewhere => {}
            Place::Unknown => found.unknown.push(swap),
            Place::Bytes(parts) => {
                for (start, length) in parts {
                    found.blocks.insert_range(blocks_inside(start, length));
                }
            }
        }
    }
    found
}

fn parse(line: &[u8]) -> Option<PathBuf> {
    let path = line.split(|byte| byte.is_ascii_whitespace()).next()?;
    (!path.is_empty()).then(|| mounts::unescape(path))
}

enum Place {
    Elsewhere,
    Unknown,
    /// Start and length on the disk.
    Bytes(Vec<(u64, u64)>),
}

fn place(swap: &Path, disk: &Disk, mounts: &[Mount]) -> Place {
    let Ok(meta) = swap.metadata() else { return Place::Unknown };
    if meta.file_type().is_block_device() {
        let device = DeviceNumber::from_raw(meta.rdev());
        return match part_of(disk, device) {
            Some((start, size)) => Place::Bytes(vec![(start.0, size.0)]),
            None if is_stacked(disk, device) => Place::Unknown,
            None => Place::Elsewhere,
        };
    }
    let Ok(file) = File::open(swap) else { return Place::Unknown };
    let mount = opened::mount_of(&file).and_then(|id| mounts.iter().find(|mount| mount.id == id));
    let Some(mount) = mount else { return Place::Unknown };
    let devices = mounts::devices_of(mount);
    match devices.iter().find_map(|device| part_of(disk, *device)) {
        // What btrfs calls physical is a place of its own, not the device's.
        Some(_) if mount.kind == "btrfs" => Place::Unknown,
        Some((start, size)) => match parts_of(&file) {
            Some(parts) => {
                let inside = |part: &(u64, u64)| part.0.checked_add(part.1).is_some_and(|end| end <= size.0);
                Place::Bytes(parts.into_iter().filter(inside).map(|(at, len)| (start.0 + at, len)).collect())
            }
            None => Place::Unknown,
        },
        None if devices.iter().any(|device| is_stacked(disk, *device)) => Place::Unknown,
        None => Place::Elsewhere,
    }
}

/// Where `device` starts on the disk and how long it is, if it is the disk or a partition of it.
fn part_of(disk: &Disk, device: DeviceNumber) -> Option<(ByteCount, ByteCount)> {
    match &disk.kind {
        DiskKind::BlockDevice { device: whole, .. } if *whole == device => Some((ByteCount(0), disk.size)),
        DiskKind::BlockDevice { .. } => {
            let partition = disk.partitions.iter().find(|partition| partition.device == device)?;
            Some((partition.start, partition.size))
        }
        DiskKind::ImageFile { .. } => None,
    }
}

/// Whether `device` is made of the disk in a way that does not say what lies where.
fn is_stacked(disk: &Disk, device: DeviceNumber) -> bool {
    let name = crate::disk::sysfs::SysBlock::of(device).map(|sys| sys.name());
    name.is_some_and(|name| disk.holders.contains(&name))
}

/// The parts of a file on its file system's device; `None` where one has no such place.
fn parts_of(file: &File) -> Option<Vec<(u64, u64)>> {
    let (mut parts, mut from) = (Vec::new(), 0);
    while parts.len() < MAX_EXTENTS {
        let extents = ioctl::extents(file.as_fd(), from).ok()?;
        for extent in &extents {
            if extent.flags & NO_PLACE != 0 {
                return None;
            }
            parts.push((extent.physical, extent.length));
        }
        let Some(last) = extents.last() else { return Some(parts) };
        let end = last.logical.checked_add(last.length)?;
        if last.flags & LAST != 0 {
            return Some(parts);
        }
        if end <= from {
            return None;
        }
        from = end;
    }
    None
}

/// The blocks that hold nothing but these bytes.
fn blocks_inside(start: u64, length: u64) -> BlockRange {
    let first = start.div_ceil(BLOCK_SIZE as u64);
    let end = start.saturating_add(length) / BLOCK_SIZE as u64;
    BlockRange::new(first, end.saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_count() {
        assert_eq!(blocks_inside(0, 8192), BlockRange::new(0, 2));
        assert_eq!(blocks_inside(512, 8192), BlockRange::new(1, 1));
        assert_eq!(blocks_inside(512, 4096).count, 0);
        assert_eq!(blocks_inside(u64::MAX - 5, u64::MAX).count, 0);
    }

    #[test]
    fn lines_are_read_with_their_escapes() {
        assert_eq!(parse(b"/a\\040b\tpartition 1 2 -2"), Some("/a b".into()));
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_parts_of_a_file_are_as_long_as_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![1; 3 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        // Not every file system that tests run on can tell.
        if let Some(parts) = parts_of(&file) {
            assert!(parts.iter().map(|part| part.1).sum::<u64>() >= 3 << 20);
        }
    }
}
