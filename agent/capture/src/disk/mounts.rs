//! Which file systems are mounted, from `/proc/self/mountinfo`, and which block devices a path's file system lies on.
//!
//! Deliberately not here: freezing them.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::{
        ffi::OsStringExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::{DeviceNumber, sysfs::SysBlock};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// Where it is mounted, as this process sees it.
    pub point: PathBuf,
    /// Its type, for instance `ext4`.
    pub kind: String,
    /// What the kernel says it was mounted from.
    pub source: PathBuf,
    /// The device it lies on. `btrfs` reports a number that is no device's; then it is the device of `source`.
    pub device: DeviceNumber,
    /// The kernel's number of this mount; one file system may be mounted several times.
    pub id: u64,
    /// The kernel's number of the file system, the same for all its mounts. No device's for `btrfs`.
    pub superblock: DeviceNumber,
    /// Whether the file system can be written to, if perhaps not through this mount.
    pub writable: bool,
}

/// All mounts of this process, in the order in which they were made.
pub(crate) fn all() -> Vec<Mount> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|&byte| byte == b'\n').filter_map(parse).map(with_real_device).collect()
}

/// The mounts that lie on one of `devices`.
pub(super) fn on_devices(devices: &BTreeSet<DeviceNumber>) -> Vec<Mount> {
    let mut mounts = all();
    mounts.retain(|mount| devices_of(mount).iter().any(|device| devices.contains(device)));
    mounts
}

/// The block devices that what is written to `path` ends up on first. Empty where the file system has none, as `tmpfs`
/// and network file systems. A path that does not exist yet counts as its nearest ancestor that does.
pub(super) fn devices_under(path: &Path) -> Vec<DeviceNumber> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let Some((path, meta)) =
        absolute.ancestors().find_map(|path| Some((path.canonicalize().ok()?, path.metadata().ok()?)))
    else {
        return Vec::new();
    };
    let device = DeviceNumber::from_raw(meta.dev());
    if device.major != 0 {
        return vec![device];
    }
    let mounts = all();
    // Of several mounts on one point the last hides the others.
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    holding.max_by_key(|mount| mount.point.components().count()).map(devices_of).unwrap_or_default()
}

/// The devices of a mount; several for a `btrfs` made of several.
pub(crate) fn devices_of(mount: &Mount) -> Vec<DeviceNumber> {
    let mut devices = vec![mount.device];
    if mount.kind == "btrfs" && mount.device.major != 0 {
        devices.extend(btrfs_members(mount.device));
    }
    devices.retain(|device| device.major != 0);
    devices
}

fn btrfs_members(device: DeviceNumber) -> Vec<DeviceNumber> {
    let Some(name) = SysBlock::of(device).map(|sys| sys.name()) else { return Vec::new() };
    let file_systems = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let holding = file_systems.map(|entry| entry.path().join("devices")).find(|dir| dir.join(&name).exists());
    let members = holding.and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    members.filter_map(|entry| SysBlock::at(&entry.path())?.device()).collect()
}

fn with_real_device(mut mount: Mount) -> Mount {
    if mount.device.major == 0 && mount.source.starts_with("/dev") {
        let node = mount.source.metadata().ok().filter(|meta| meta.file_type().is_block_device());
        mount.device = node.map_or(mount.device, |meta| DeviceNumber::from_raw(meta.rdev()));
    }
    mount
}

/// Reads one line of `mountinfo`: id, parent, device, root, point, options, any number of optional fields, a dash, type,
/// source, and more.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
    let device = DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let point = unescape(fields.nth(1)?);
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    // The options behind the source are the file system's, those before the dash this mount's.
    let writable =
        fields.next().is_none_or(|options| !options.split(|&byte| byte == b',').any(|o| o == b"ro"));
    Some(Mount { point, kind, source, device, id, superblock: device, writable })
}

/// Undoes the kernel's `\ooo` for bytes that would end a field.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0u32, |n, d| char::from(*d).to_digit(8).map(|d| 8 * n + d))
        };
        match tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(octal)
            .and_then(|value| u8::try_from(value).ok())
        {
            Some(value) => (out.push(value), rest = &tail[3..]),
            None => (out.push(byte), rest = tail),
        };
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn reads_a_line_with_escapes_and_optional_fields() {
        let line =
            br"36 35 98:3 / /mnt/a\040b\134c rw,noatime master:1 propagate_from:2 - ext4 /dev/sd\011a rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point, Path::new("/mnt/a b\\c"));
        assert_eq!((mount.kind.as_str(), mount.source.as_path()), ("ext4", Path::new("/dev/sd\ta")));
        assert_eq!(mount.device, DeviceNumber { major: 98, minor: 3 });
        assert_eq!((mount.id, mount.superblock, mount.writable), (36, mount.device, true));
        let read_only = parse(b"36 35 98:3 / /mnt rw - ext4 /dev/sda noatime,ro").unwrap();
        assert!(!read_only.writable);
        assert!(parse(b"36 35 98:3 / /mnt ro - ext4 /dev/sda rw").unwrap().writable);
    }

    #[test]
    fn a_damaged_line_is_skipped() {
        for line in
            ["", "1 2 3", "36 35 x:y / /mnt rw - ext4 /dev/sda rw", "36 35 98:0 / /mnt rw ext4 /dev/sda"]
        {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(unescape(br"a\04"), Path::new(r"a\04"));
        assert_eq!(unescape(br"\777\"), Path::new(r"\777\"));
        assert_eq!(unescape(b"\xff").as_os_str().as_bytes(), b"\xff");
    }

    #[test]
    fn what_does_not_exist_yet_lies_where_its_parent_does() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(devices_under(&dir.path().join("not/yet")), devices_under(dir.path()));
    }
}
