//! Restores disks as of a recovery point, to images in several formats, in files or onto block devices.
//!
//! An image appears under its name complete and synced, or not at all. Every digest is verified on the way, each stored
//! extent that is needed is read once, what was written can be read back and compared, and memory does not grow with the
//! disk. Deliberately not here: choosing the point (`select`), and what is done with a restored disk.

#[cfg(feature = "service")]
mod blob;
mod copy;
mod destination;
mod device;
mod error;
mod file;
mod flat;
mod layout;
mod medium;
#[cfg(feature = "service")]
mod object;
mod pipeline;
mod proof;
mod qcow2;
mod vhd;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use mobility_format::{ByteCount, Digest, DiskId, Epoch, manifest::DiskState};

use crate::Catalog;
#[cfg(feature = "service")]
pub use blob::PageBlob;
use copy::Reporter;
pub use destination::{Destination, Format};
use device::Device;
pub use error::{Differing, RestoreError};
use file::Image;
use flat::Flat;
use layout::Layout;
use medium::Medium;
#[cfg(feature = "service")]
pub use object::ObjectImage;
use qcow2::Qcow2;

/// What a restore is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Copying the disk out of target storage.
    Copying,
    /// Reading back what was written.
    Checking,
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// How much of the disk is done in this phase.
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
    /// In which format.
    pub format: Format,
    /// The disk's size.
    pub size: ByteCount,
    /// How much of its content was written; the rest is zero.
    pub written: ByteCount,
    /// How much was read from the vault.
    pub read: ByteCount,
    /// The digest over the disk's size and the digests of its windows: the same for every image of this disk at this point.
    pub root: Digest,
    /// Whether what was written was read back and has this root.
    pub verified: bool,
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

/// Restores one disk as of `epoch`, and where `verify` says so reads back what was written and compares it. Blocks. Load
/// the catalog with [`Catalog::load_locked`].
///
/// `progress` is asked several times a second at least, and ends the restore by `Break`: within a second, and nothing is
/// left.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore_disk(
    catalog: &Catalog,
    epoch: Epoch,
    disk: DiskId,
    to: &Destination,
    verify: bool,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Restored, RestoreError> {
    let (disk, _) = choose(catalog, epoch, &[disk])?.remove(0);
    let layers = catalog.layers(disk.id, epoch)?;
    let (mut layout, mut medium) = begin(catalog, epoch, disk, to)?;
    let at = Progress { phase: Phase::Copying, done: ByteCount(0), total: disk.size };
    let mut reporter = Reporter { to, at, ask: &mut progress };
    let work = || {
        let copied =
            copy::copy(&catalog.stores, layers, disk.size, &mut *layout, &mut *medium, &mut reporter)?;
        if verify {
            copy::check(&*layout, &*medium, disk.size, &copied.proven, &mut reporter)?;
        }
        Ok(copied)
    };
    match work() {
        Err(err) => {
            medium.abandon();
            Err(err)
        }
        Ok(copied) => {
            medium.publish()?;
            Ok(Restored {
                disk: disk.id,
                name: disk.name.clone(),
                path: to.path(),
                format: to.format(),
                size: disk.size,
                written: copied.written,
                read: copied.read,
                root: copied.proven.root,
                verified: verify,
            })
        }
    }
}

type Begun = (Box<dyn Layout>, Box<dyn Medium>);

/// Opens the destination, and says how the disk lies in it.
fn begin(catalog: &Catalog, epoch: Epoch, disk: &DiskState, to: &Destination) -> Result<Begun, RestoreError> {
    let refused = |reason: &str| RestoreError::Format {
        path: to.path(),
        format: to.format(),
        reason: reason.to_owned(),
    };
    let (layout, length): (Box<dyn Layout>, u64) = match to.format() {
        Format::Raw => (Box::new(Flat::raw(disk.size)), disk.size.0),
        Format::Vhd if disk.size.0 > vhd::LARGEST => {
            return Err(refused("a VHD holds less than 32 TiB; choose raw or qcow2"));
        }
        Format::Vhd => {
            let time = catalog.manifest(epoch).map(|signed| signed.manifest.time).unwrap_or_default();
            let identity = [&disk.id.0[..], &epoch.0.to_le_bytes()].concat();
            let flat = Flat::vhd(disk.size, &vhd::footer(disk.size, time, &identity));
            let length = flat.length();
            (Box::new(flat), length)
        }
        Format::Qcow2 if !matches!(to, Destination::Image { .. }) => {
            return Err(refused(
                "a qcow2 image is a file, and grows as it is written; choose raw or vhd, or an image file",
            ));
        }
        // It grows as it is written.
        Format::Qcow2 => match Qcow2::new(disk.size) {
            Some(qcow2) => (Box::new(qcow2), 0),
            None => return Err(refused("the disk is larger than QEMU can map; choose raw")),
        },
    };
    let medium: Box<dyn Medium> = match to {
        Destination::Image { path, replace, .. } => Box::new(Image::create(path, length, *replace)?),
        Destination::Device { path, .. } => Box::new(Device::open(path, ByteCount(length))?),
        #[cfg(feature = "service")]
        Destination::PageBlob { blob, replace } => Box::new(blob::Pages::begin(blob, length, *replace)?),
        #[cfg(feature = "service")]
        Destination::Object { object, format, replace } => {
            Box::new(object::Parts::begin(object, length, *format, *replace)?)
        }
    };
    Ok((layout, medium))
}

/// Restores disks as of `epoch` into `dir`, one raw sparse image each, exactly as long as the disk, without reading them
/// back. All of them where `only` is empty. Load the catalog with [`Catalog::load_locked`].
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
    let images = images_in(catalog, epoch, only, dir, Format::Raw, force)?;
    let restore = |(disk, to): (&DiskState, Destination)| {
        restore_disk(catalog, epoch, disk.id, &to, false, |at| {
            progress(disk, at);
            ControlFlow::Continue(())
        })
    };
    images.into_iter().map(restore).collect()
}

/// The images of the disks of `epoch` in `dir`: those of `only`, or of all where that is empty.
///
/// # Errors
/// Where one of the disks is not in the point, or a file that is not to be replaced is there already.
pub fn images_in<'a>(
    catalog: &'a Catalog,
    epoch: Epoch,
    only: &[DiskId],
    dir: &Path,
    format: Format,
    replace: bool,
) -> Result<Vec<(&'a DiskState, Destination)>, RestoreError> {
    let image = |(disk, name): (&'a DiskState, String)| {
        let path = dir.join(name).with_extension(format.extension());
        (disk, Destination::Image { path, format, replace })
    };
    let images: Vec<_> = choose(catalog, epoch, only)?.into_iter().map(image).collect();
    let there = images.iter().map(|(_, to)| to.path()).find(|path| path.symlink_metadata().is_ok());
    match there.filter(|_| !replace) {
        Some(path) => Err(RestoreError::Exists(path)),
        None => Ok(images),
    }
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
