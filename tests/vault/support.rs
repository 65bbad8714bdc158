//! What these tests share: restoring a point and comparing it with what the model held.

use std::{collections::BTreeMap, fs, path::Path};

use mobility_format::{Digest, Epoch};
use mobility_recovery::{Catalog, PointId, RestoreError, Vault, image_names, restore_to_directory};
use mobility_tests::vault_maker::VaultMaker;
use tempfile::TempDir;

/// Restores all disks of `epoch`, without comparing.
pub(crate) fn restore(catalog: &Catalog, epoch: Epoch, dir: &Path) -> Result<Vec<Vec<u8>>, RestoreError> {
    restore_to_directory(catalog, epoch, &[], dir, true, |_, _| {})?;
    let names = image_names(&catalog.manifest(epoch).unwrap().manifest.disks);
    Ok(names.iter().map(|name| fs::read(dir.join(name)).unwrap()).collect())
}

/// Restores all disks of `epoch` and compares them with the model.
pub(crate) fn restore_and_compare(maker: &VaultMaker, catalog: &Catalog, epoch: Epoch, dir: &Path) {
    let restored = restore(catalog, epoch, dir).unwrap_or_else(|err| panic!("epoch {epoch}: {err}"));
    let snapshot = &maker.committed[&epoch];
    assert_eq!(restored.len(), snapshot.disks.len(), "epoch {epoch}");
    for (found, (disk, expected)) in restored.iter().zip(&snapshot.disks) {
        assert_eq!(found.len(), expected.len(), "length of disk {disk} at epoch {epoch}");
        if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
            panic!("disk {disk} at epoch {epoch} differs from byte {at} on, block {}", at / 4096);
        }
    }
}

/// Every listed point restores to what the model held. Returns how many there are.
pub(crate) fn check_all_points(maker: &VaultMaker) -> usize {
    let catalog = Catalog::load_locked(&maker.vault, maker.machine).unwrap();
    assert_eq!(catalog.damage(), []);
    let dir = scratch();
    catalog.points().map(|point| restore_and_compare(maker, &catalog, point.epoch(), dir.path())).count()
}

/// The names of the listed points, oldest first.
pub(crate) fn listed(maker: &VaultMaker) -> Vec<PointId> {
    Catalog::load(&maker.vault, maker.machine).unwrap().points().map(|point| point.id).collect()
}

/// A directory for a vault: in memory where there is such a place, because these tests sync thousands of files.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// All objects in target storage with the digests of what they hold, and all that is in cache storage.
pub(crate) fn tree(vault: &Vault) -> BTreeMap<String, Digest> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![vault.root().join("cache"), vault.root().join("target")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(vault.root()).unwrap().to_str().unwrap().to_owned();
                files.insert(name, Digest::of(&fs::read(&path).unwrap()));
            }
        }
    }
    files.retain(|name, _| !name.ends_with("lock"));
    files
}

/// How many bytes the files below `dir` hold.
pub(crate) fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { bytes_in(&path) } else { path.metadata().unwrap().len() }).sum()
}
