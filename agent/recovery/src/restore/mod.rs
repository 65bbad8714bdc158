//! Restores disks as of a recovery point, to image files or onto block devices.
//!
//! An image appears under its name complete and synced, or not at all. Every digest is verified on the way, each stored
//! extent that is needed is read once, and memory does not grow with the disk. Deliberately not here: choosing the point
//! (`select`), and what is done with a restored disk.

mod output;
mod pipeline;

use std::path::{Path, PathBuf};

use mobility_format::{ByteCount, DiskId, Epoch, manifest::DiskState};

use crate::{
    Catalog,
    content::ContentError,
    storage::{Files, LockError, StorageError},
};
use output::{Device, Image};

/// A disk was not restored. Whatever was begun of an image is gone again; a device is half written.
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
    /// There is a file of that name.
    #[error("{} exists already: choose another directory, or replace it with --force", .0.display())]
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
        /// The disk's size.
        needed: ByteCount,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Somebody removes objects from the vault.
    #[error(transparent)]
    Locked(#[from] LockError),
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How much of the disk is done.
    pub done: ByteCount,
    /// The disk's size.
    pub total: ByteCount,
}

/// A disk that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Which disk.
    pub disk: DiskId,
    /// What the machine calls it.
    pub name: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Its size.
    pub size: ByteCount,
    /// How much of it was written; the rest is zero.
    pub written: ByteCount,
    /// How much was read from the vault.
    pub read: ByteCount,
}

/// The file names of the images of `disks`: the last part of the disk's name, and of its id where two would be the same.
#[must_use]
pub fn image_names(disks: &[DiskState]) -> Vec<String> {
    let base = |disk: &DiskState| {
        let base = disk.name.rsplit('/').next().unwrap_or_default();
        match base.strip_suffix(".img").unwrap_or(base) {
            "" | "." | ".." => disk.id.to_string(),
            base => base.to_owned(),
        }
    };
    let bases: Vec<String> = disks.iter().map(base).collect();
    let name = |(disk, base): (&DiskState, &String)| match bases.iter().filter(|other| *other == base).count()
    {
        1 => format!("{base}.img"),
        _ => format!("{base}-{}.img", &disk.id.to_string()[..8]),
    };
    disks.iter().zip(&bases).map(name).collect()
}

/// Restores disks as of `epoch` into `dir`, one raw sparse image each, exactly as long as the disk. All of them where
/// `only` is empty. Load the catalog with [`Catalog::load_locked`].
///
/// # Errors
/// See [`RestoreError`]. Images that were complete before the error stay.
pub fn restore_to_directory(
    catalog: &Catalog,
    epoch: Epoch,
    only: &[DiskId],
    dir: &Path,
    force: bool,
    mut progress: impl FnMut(&DiskState, Progress),
) -> Result<Vec<Restored>, RestoreError> {
    let chosen = choose(catalog, epoch, only)?;
    let outputs: Vec<_> = chosen.into_iter().map(|(disk, name)| (disk, dir.join(name))).collect();
    if let Some((_, path)) = outputs.iter().find(|(_, path)| !force && path.symlink_metadata().is_ok()) {
        return Err(RestoreError::Exists(path.clone()));
    }
    let files = Files::default();
    files.create_dirs(dir)?;
    let mut restored = Vec::new();
    for (disk, path) in outputs {
        let layers = catalog.layers(disk.id, epoch)?;
        let mut image = Image::create(&files, dir, disk.size)?;
        let copied = pipeline::copy(&catalog.stores, layers, disk.size, &mut image, |at| progress(disk, at))?;
        image.publish(&path, force)?;
        restored.push(copied.describe(disk, path));
    }
    Ok(restored)
}

/// Restores one disk as of `epoch` onto a block device that nothing else uses. What lies behind the disk's size on a
/// larger device stays as it is. Load the catalog with [`Catalog::load_locked`].
///
/// # Errors
/// See [`RestoreError`].
pub fn restore_to_device(
    catalog: &Catalog,
    epoch: Epoch,
    disk: DiskId,
    path: &Path,
    mut progress: impl FnMut(&DiskState, Progress),
) -> Result<Restored, RestoreError> {
    let (disk, _) = choose(catalog, epoch, &[disk])?.remove(0);
    let layers = catalog.layers(disk.id, epoch)?;
    let mut device = Device::open(path, disk.size)?;
    let copied = pipeline::copy(&catalog.stores, layers, disk.size, &mut device, |at| progress(disk, at))?;
    device.finish()?;
    Ok(copied.describe(disk, path.to_owned()))
}

fn choose<'a>(
    catalog: &'a Catalog,
    epoch: Epoch,
    only: &[DiskId],
) -> Result<Vec<(&'a DiskState, String)>, RestoreError> {
    let disks = catalog.manifest(epoch).map_or(&[][..], |signed| &signed.manifest.disks);
    if let Some(disk) = only.iter().copied().find(|id| disks.iter().all(|disk| disk.id != *id)) {
        return Err(RestoreError::NoSuchDisk { disk, epoch });
    }
    let named = disks.iter().zip(image_names(disks));
    Ok(named.filter(|(disk, _)| only.is_empty() || only.contains(&disk.id)).collect())
}

impl pipeline::Copied {
    fn describe(self, disk: &DiskState, path: PathBuf) -> Restored {
        let pipeline::Copied { written, read } = self;
        Restored { disk: disk.id, name: disk.name.clone(), path, size: disk.size, written, read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_after_their_disks_and_never_alike() {
        let disk = |id, name: &str| DiskState {
            id: DiskId([id; 16]),
            name: name.to_owned(),
            size: ByteCount(0),
            segments: Vec::new(),
            missing: false,
            audited_blocks: 0,
            missed_blocks: 0,
        };
        let disks =
            [disk(1, "/dev/vda"), disk(2, "/a/data.img"), disk(3, "/b/data"), disk(4, "/"), disk(5, "..")];
        let ids = [4, 5].map(|id| DiskId([id; 16]).to_string() + ".img");
        let expected = ["vda.img", "data-02020202.img", "data-03030303.img", &ids[0], &ids[1]];
        assert_eq!(image_names(&disks), expected);
    }
}
