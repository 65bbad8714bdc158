//! Whether disks can be protected together, and whether a vault may lie where it lies.
//!
//! Deliberately not here: whether a single disk can be protected at all, which `Disk::inspect` decides.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{DeviceNumber, Disk, DiskError, DiskKind, mounts::devices_under, sysfs::SysBlock};

/// Whether `disks` can be protected together.
///
/// # Errors
///
/// Refuses what would protect the same bytes twice ([`DiskError::Twice`], [`DiskError::LoopAndBacking`],
/// [`DiskError::Stacked`]), and disks that cannot be told apart ([`DiskError::SameIdentity`]).
pub fn check_set(disks: &[Disk]) -> Result<(), DiskError> {
    for (index, first) in disks.iter().enumerate() {
        for second in &disks[index + 1..] {
            check_pair(first, second)?;
        }
    }
    Ok(())
}

fn check_pair(first: &Disk, second: &Disk) -> Result<(), DiskError> {
    let (first_path, second_path) = (first.given.clone(), second.given.clone());
    if first.is_same_thing(second) {
        return Err(DiskError::Twice { first: first_path, second: second_path });
    }
    for (upper, lower) in [(first, second), (second, first)] {
        let below = Foundation::of_disk(upper);
        let (upper_path, lower_path) = (upper.given.clone(), lower.given.clone());
        match &lower.kind {
            DiskKind::BlockDevice { device, .. } if below.devices.contains(device) => {
                return Err(DiskError::Stacked { upper: upper_path, lower: lower_path });
            }
            &DiskKind::ImageFile { file_system, inode } if below.files.contains(&(file_system, inode)) => {
                return Err(DiskError::LoopAndBacking { device: upper_path, file: lower_path });
            }
            _ => {}
        }
    }
    if first.id == second.id {
        let (identity, id) = (first.identity.clone(), first.id);
        return Err(DiskError::SameIdentity { first: first_path, second: second_path, identity, id });
    }
    Ok(())
}

/// Whether the directory `vault` lies elsewhere than on `disk`. It need not exist yet.
///
/// What lies between is followed as far as the kernel shows it: partitions, device-mapper, md, `btrfs` on several
/// devices, loop devices over files. Network and overlay file systems end the search; they count as elsewhere.
///
/// # Errors
///
/// [`DiskError::HoldsVault`]: storing would cause writes that have to be stored.
pub fn check_vault(disk: &Disk, vault: &Path) -> Result<(), DiskError> {
    let mut below = Foundation::default();
    devices_under(vault).into_iter().for_each(|device| below.add(device, true));
    let on_disk = match &disk.kind {
        DiskKind::BlockDevice { device, .. } => below.devices.contains(device),
        &DiskKind::ImageFile { file_system, inode } => below.files.contains(&(file_system, inode)),
    };
    match on_disk {
        true => Err(DiskError::HoldsVault { disk: disk.given.clone(), vault: vault.to_owned() }),
        false => Ok(()),
    }
}

impl Disk {
    fn is_same_thing(&self, other: &Disk) -> bool {
        match (&self.kind, &other.kind) {
            (DiskKind::BlockDevice { device: a, .. }, DiskKind::BlockDevice { device: b, .. }) => a == b,
            (
                DiskKind::ImageFile { file_system: a, inode: b },
                DiskKind::ImageFile { file_system: c, inode: d },
            ) => (a, b) == (c, d),
            _ => false,
        }
    }
}

/// Everything that a device's bytes end up on.
#[derive(Default)]
struct Foundation {
    devices: BTreeSet<DeviceNumber>,
    /// Files behind loop devices, as file system and inode.
    files: BTreeSet<(u64, u64)>,
}

impl Foundation {
    /// What `disk` is made of, itself left out. The disk that a loop device's file happens to lie on is not part of it:
    /// protecting both is wasteful, not wrong.
    fn of_disk(disk: &Disk) -> Foundation {
        let mut below = Foundation::default();
        if let DiskKind::BlockDevice { device, .. } = disk.kind {
            below.add(device, false);
            below.devices.remove(&device);
        }
        below
    }

    /// Adds `device` and what it is made of; `through_files`: also what the files of loop devices lie on.
    fn add(&mut self, device: DeviceNumber, through_files: bool) {
        let mut to_visit = vec![device];
        while let Some(device) = to_visit.pop() {
            if !self.devices.insert(device) {
                continue;
            }
            let Some(sys) = SysBlock::of(device) else { continue };
            to_visit.extend(sys.below().iter().filter_map(SysBlock::device));
            let Some(backing) = sys.text("loop/backing_file").map(PathBuf::from) else { continue };
            if let Ok(meta) = fs::metadata(&backing) {
                self.files.insert((meta.dev(), meta.ino()));
                if through_files {
                    to_visit.extend(devices_under(&backing));
                }
            }
        }
    }
}
