//! What is stacked on disks: partitions, device-mapper and md devices, and loop devices over files on file systems that lie
//! there themselves, at any depth.
//!
//! Freezing in the wrong order never ends: a file system cannot write itself out while the one below it is frozen. So every
//! device has a *level*, the number of file systems below it. Deliberately not here: which of the file systems freeze.

use std::{collections::BTreeMap, fs, path::Path};

use super::opened;
use crate::disk::{
    DeviceNumber, Disk, DiskKind,
    mounts::{self, Mount},
    sysfs::SysBlock,
};

/// Loop devices over files on loop devices over files ... A machine with more is not frozen right, and not at all by
/// accident.
const MAX_LEVEL: u32 = 16;

/// A loop device and where its file lies.
struct Loop {
    device: SysBlock,
    /// The file, and the mount that it lies on. `None` for a file that was removed or is mounted elsewhere only.
    backing: Option<u64>,
    path: String,
}

/// The devices that are made of some disks, with their levels.
pub(super) struct Layers {
    levels: BTreeMap<DeviceNumber, u32>,
}

impl Layers {
    pub(super) fn above(disks: &[&Disk], mounts: &[Mount]) -> Layers {
        let loops = loops();
        let mut layers = Layers { levels: BTreeMap::new() };
        for disk in disks {
            match &disk.kind {
                DiskKind::BlockDevice { device, .. } => layers.add_stack(SysBlock::of(*device), 0),
                DiskKind::ImageFile { .. } => {
                    let over = loops.iter().filter(|each| Path::new(&each.path) == disk.path);
                    over.for_each(|each| layers.add_stack(Some(each.device.clone()), 0));
                }
            }
        }
        // A level that rises may raise those above it.
        for _ in 0..MAX_LEVEL {
            let before = layers.levels.clone();
            for each in &loops {
                if let Some(below) = each.backing.and_then(|mount| layers.level_of_mount(mount, mounts)) {
                    layers.add_stack(Some(each.device.clone()), below + 1);
                }
            }
            if layers.levels == before {
                break;
            }
        }
        layers
    }

    /// The level of a file system on these devices, or `None` where none of them is among ours.
    pub(super) fn level(&self, devices: &[DeviceNumber]) -> Option<u32> {
        devices.iter().filter_map(|device| self.levels.get(device)).max().copied()
    }

    fn level_of_mount(&self, id: u64, mounts: &[Mount]) -> Option<u32> {
        let mount = mounts.iter().find(|mount| mount.id == id)?;
        self.level(&mounts::devices_of(mount))
    }

    fn add_stack(&mut self, base: Option<SysBlock>, level: u32) {
        let Some(base) = base else { return };
        let stack = base.above();
        let mut all = vec![base];
        all.extend(stack);
        let parts: Vec<_> = all.iter().flat_map(SysBlock::partitions).collect();
        for device in all.iter().chain(&parts).filter_map(SysBlock::device) {
            let entry = self.levels.entry(device).or_insert(level);
            *entry = level.clamp(*entry, MAX_LEVEL);
        }
    }
}

fn loops() -> Vec<Loop> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let device = SysBlock::at(&entry.path())?;
            let path = device.text("loop/backing_file")?;
            let backing = rustix::fs::open(
                path.as_str(),
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            );
            let backing = backing.ok().and_then(|file| opened::mount_of(&file));
            Some(Loop { device, backing, path })
        })
        .collect()
}
