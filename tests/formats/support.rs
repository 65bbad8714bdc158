//! What these tests share: vaults, restores, and `qemu-img`.

use std::{
    ops::{ControlFlow, Deref},
    path::{Path, PathBuf},
    process::Command,
};

use mobility_format::{Digest, Epoch};
use mobility_recovery::{
    Catalog, Destination, Format, Progress, RestoreError, Restored, Stores, restore_disk,
};
use mobility_tests::{requirement::Requirement, scratch::try_run, vault_maker::VaultMaker};
use tempfile::TempDir;

/// A directory on a file system that knows holes.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn image(path: &Path, format: Format) -> Destination {
    Destination::Image { path: path.to_owned(), format, replace: false }
}

pub(crate) fn restore<S: Deref<Target = Stores>>(
    maker: &VaultMaker<S>,
    disk: usize,
    epoch: Epoch,
    to: &Destination,
) -> Result<Restored, RestoreError> {
    restore_watched(maker, disk, epoch, to, |_| ControlFlow::Continue(()))
}

pub(crate) fn restore_watched<S: Deref<Target = Stores>>(
    maker: &VaultMaker<S>,
    disk: usize,
    epoch: Epoch,
    to: &Destination,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Restored, RestoreError> {
    let catalog = Catalog::load_locked(&maker.vault, maker.machine).unwrap();
    restore_disk(&catalog, epoch, maker.disks[disk].id, to, true, progress)
}

/// Whether `qemu-img` is there; the test is skipped or fails where it is not.
#[track_caller]
pub(crate) fn can_judge() -> bool {
    let found = Command::new("qemu-img").arg("--version").output();
    let found = found
        .map(drop)
        .map_err(|err| format!("qemu-img does not run ({err}): packaging/install-disk-tools.sh installs it"));
    Requirement::DiskTools.or_skip(found).is_some()
}

/// What QEMU calls a format.
pub(crate) fn qemu_name(format: Format) -> &'static str {
    if format == Format::Vhd { "vpc" } else { format.name() }
}

#[track_caller]
pub(crate) fn qemu_img(arguments: &[&str]) -> String {
    try_run("qemu-img", arguments).unwrap_or_else(|problem| panic!("{problem}"))
}

/// The files in a directory.
pub(crate) fn files_in(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The root as `docs/FORMAT.md` says it is made.
pub(crate) fn root_of(content: &[u8]) -> Digest {
    let mut bytes = b"MOBROOT1".to_vec();
    bytes.extend((content.len() as u64).to_le_bytes());
    content.chunks(1 << 20).for_each(|window| bytes.extend(Digest::of(window).0));
    Digest::of(&bytes)
}
