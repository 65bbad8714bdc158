//! A directory of a mounted file system, opened, and shown to be of that file system: another mount may have come over the
//! mount point meanwhile, or have been there all the time.
//!
//! `st_dev` does not show it: `btrfs` gives every subvolume a number of its own. The kernel's number of the mount does.

use std::{fs, os::fd::AsRawFd, os::fd::OwnedFd, path::Path};

use rustix::fs::{Mode, OFlags};

/// Opens the directory at `point` if the mount that is on top there is `mount`.
pub(super) fn open(point: &Path, mount: u64) -> Option<OwnedFd> {
    let directory = open_any(point)?;
    (mount_of(&directory) == Some(mount)).then_some(directory)
}

/// Opens the directory at `point`, whatever it is of.
pub(super) fn open_any(point: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::open(point, flags, Mode::empty()).ok()
}

/// The kernel's number of the mount that a file was opened through; the first in a line of `mountinfo`.
pub(super) fn mount_of(file: &impl AsRawFd) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_of_its_own_mount_only() {
        let mount = mount_of(&open_any(Path::new("/proc")).unwrap()).unwrap();
        assert!(open(Path::new("/proc"), mount).is_some());
        assert!(open(Path::new("/"), mount).is_none());
        assert!(open(Path::new("/nowhere"), mount).is_none());
    }
}
