//! The record of what is frozen, in a file in memory, and thawing what it names when nobody else has done it.
//!
//! It is for the one case in which agent and guard died together. It is written before the first freeze, emptied by the
//! guard or removed by the agent after the last thaw, and means nothing after a reboot, which thaws everything. Whatever
//! stands in the file, reading it neither panics nor takes more than its bounded memory.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::OpenOptionsExt,
        },
    },
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{MAX_FILE_SYSTEMS, ioctl, opened};
use crate::{
    boot,
    disk::{DeviceNumber, mounts},
};

const MAGIC: &[u8; 8] = b"MOBFROZ\x01";
const DIGEST: usize = 32;
/// No path that the kernel takes is longer.
const MAX_PATH: usize = 4096;
const MAX_FILE: u64 = (MAGIC.len() + 64 + MAX_FILE_SYSTEMS * (MAX_PATH + 10) + DIGEST) as u64;

/// A file system that an earlier agent may have left frozen.
#[derive(Debug)]
#[non_exhaustive]
pub struct Leftover {
    /// Where it was mounted.
    pub point: PathBuf,
    /// What became of it.
    pub outcome: LeftoverOutcome,
}

/// What became of a leftover.
#[derive(Debug)]
#[non_exhaustive]
pub enum LeftoverOutcome {
    /// It was frozen, and was thawed.
    Thawed,
    /// It was not frozen.
    NotFrozen,
    /// It is not mounted there any more, or hidden.
    NotThere,
    /// It could not be thawed.
    Failed(io::Error),
}

/// One entry: the superblock's number, and a mount point.
pub(super) type Entry = (DeviceNumber, PathBuf);

/// Writes the record, and gives back the file, which [`MAX_FILE_SYSTEMS`] or fewer entries fit into.
pub(super) fn write<'a>(
    path: &Path,
    entries: impl Iterator<Item = (DeviceNumber, &'a Path)>,
) -> io::Result<File> {
    let mut bytes = MAGIC.to_vec();
    let boot = boot_id();
    bytes.push(boot.len() as u8);
    bytes.extend_from_slice(boot.as_bytes());
    for (superblock, point) in entries {
        let point = point.as_os_str().as_bytes();
        let length = u16::try_from(point.len()).map_err(|_| io::ErrorKind::InvalidFilename)?;
        bytes.extend_from_slice(&superblock.major.to_le_bytes());
        bytes.extend_from_slice(&superblock.minor.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(point);
    }
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&bytes)?;
    Ok(file)
}

/// Thaws what the agent before this one left frozen according to the record at `path`, and removes the record. To be
/// called before anything else of the agent's start that could touch a file system. A record of an earlier boot, or one
/// that is damaged, empty or not there, names nothing.
///
/// Returns what the record named, in the order of thawing.
#[must_use]
pub fn thaw_leftovers(path: &Path) -> Vec<Leftover> {
    let entries = read(path).unwrap_or_default();
    let mounts = if entries.is_empty() { Vec::new() } else { mounts::all() };
    let found = entries
        .into_iter()
        .rev()
        .map(|(superblock, point)| {
            let outcome = thaw(superblock, &point, &mounts);
            Leftover { point, outcome }
        })
        .collect();
    let _ = fs::remove_file(path);
    found
}

fn thaw(superblock: DeviceNumber, point: &Path, mounts: &[mounts::Mount]) -> LeftoverOutcome {
    // Where it was mounted is tried first, then wherever else it is mounted now.
    let same = mounts.iter().filter(|mount| mount.superblock == superblock);
    let (there, elsewhere): (Vec<_>, Vec<_>) = same.partition(|mount| mount.point == point);
    let mut directories = there.iter().chain(&elsewhere).filter_map(|m| opened::open(&m.point, m.id));
    let Some(directory) = directories.next() else { return LeftoverOutcome::NotThere };
    match ioctl::thaw(directory.as_fd()) {
        Ok(()) => LeftoverOutcome::Thawed,
        Err(Errno::INVAL) => LeftoverOutcome::NotFrozen,
        Err(errno) => LeftoverOutcome::Failed(errno.into()),
    }
}

fn read(path: &Path) -> Option<Vec<Entry>> {
    // Whoever put a pipe there shall not make the agent wait.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).ok()?;
    parse(&bytes, &boot_id())
}

fn parse(bytes: &[u8], boot: &str) -> Option<Vec<Entry>> {
    let (content, digest) = bytes.split_last_chunk::<DIGEST>()?;
    if bytes.len() as u64 > MAX_FILE || blake3::hash(content) != *digest {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first()?;
    let (of_boot, mut rest) = rest.split_at_checked(usize::from(*length))?;
    if of_boot != boot.as_bytes() || boot.is_empty() {
        return None;
    }
    let mut entries = Vec::new();
    while !rest.is_empty() && entries.len() < MAX_FILE_SYSTEMS {
        let (major, after) = rest.split_first_chunk()?;
        let (minor, after) = after.split_first_chunk()?;
        let (length, after) = after.split_first_chunk()?;
        let (point, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let superblock =
            DeviceNumber { major: u32::from_le_bytes(*major), minor: u32::from_le_bytes(*minor) };
        entries.push((superblock, PathBuf::from(OsString::from_vec(point.to_vec()))));
        rest = after;
    }
    Some(entries)
}

/// Empty where the kernel does not tell, so that such a record is never believed.
fn boot_id() -> String {
    boot::boot_id().unwrap_or_default().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One that no machine has, since these tests thaw.
    fn device(minor: u32) -> DeviceNumber {
        DeviceNumber { major: 4095, minor: minor + (1 << 19) }
    }

    fn written(points: &[&str]) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frozen");
        let entries = points.iter().enumerate().map(|(i, point)| (device(i as u32), Path::new(*point)));
        write(&path, entries).unwrap();
        let bytes = fs::read(&path).unwrap();
        (dir, path, bytes)
    }

    #[test]
    fn what_was_written_is_read_in_this_boot_only() {
        let (_dir, path, bytes) = written(&["/a b", "/"]);
        let entries = vec![(device(0), PathBuf::from("/a b")), (device(1), PathBuf::from("/"))];
        assert_eq!(read(&path), Some(entries));
        assert_eq!(parse(&bytes, "another boot"), None);
        assert_eq!(parse(&bytes, ""), None);
    }

    #[test]
    fn nothing_is_thawed_by_a_damaged_record_and_it_goes() {
        let (_dir, path, bytes) = written(&["/nowhere/at/all"]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(parse(&bad, &boot_id()), None, "byte {at}");
            assert_eq!(parse(&bytes[..at], &boot_id()), None, "cut at {at}");
        }
        fs::write(&path, &bytes[..9]).unwrap();
        assert!(thaw_leftovers(&path).is_empty() && !path.exists());
        assert!(thaw_leftovers(&path).is_empty(), "a record that is not there");
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(thaw_leftovers(&path)[..], [Leftover { outcome: LeftoverOutcome::NotThere, .. }]));
        assert!(!path.exists());
    }

    proptest! {
        #[test]
        fn any_content_is_survived(mut content in proptest::collection::vec(any::<u8>(), 0..300), own in any::<bool>()) {
            // With a digest that is right, and in half of the cases from this boot, so that parsing gets far.
            let mut head = MAGIC.to_vec();
            if own {
                head.push(boot_id().len() as u8);
                head.extend_from_slice(boot_id().as_bytes());
            }
            head.append(&mut content);
            let digest = *blake3::hash(&head).as_bytes();
            head.extend_from_slice(&digest);
            if let Some(entries) = parse(&head, &boot_id()) {
                prop_assert!(entries.len() <= MAX_FILE_SYSTEMS);
            }
        }
    }
}
