//! The storages that the tests run over.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mobility_format::Epoch;
use mobility_recovery::{
    Catalog, Directory, Objects, Remote, Stores, image_names, restore_to_directory, verify,
};
use mobility_tests::{
    object_stores::{self, ObjectStoreServer},
    requirement::Requirement,
    vault_maker::VaultMaker,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A storage of its own, and what must outlive it.
pub(crate) struct Storage {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) held: Held,
}

/// What stands behind a storage.
#[expect(dead_code, reason = "held, not read")]
pub(crate) enum Held {
    /// Its directory.
    Directory(TempDir),
    /// Its server and the threads that speak with it.
    Server(Box<(ObjectStoreServer, Runtime)>),
}

/// A directory, in memory where there is such a place, because these tests sync thousands of files.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn directory() -> Option<Storage> {
    let dir = scratch();
    Some(Storage { objects: Arc::new(Directory::new(dir.path())), held: Held::Directory(dir) })
}

pub(crate) fn s3() -> Option<Storage> {
    Requirement::Stores.or_skip(object_stores::s3()).map(remote)
}

pub(crate) fn azurite() -> Option<Storage> {
    Requirement::Stores.or_skip(object_stores::azurite()).map(remote)
}

fn remote(server: ObjectStoreServer) -> Storage {
    static PREFIXES: AtomicU64 = AtomicU64::new(0);
    let runtime = runtime();
    let prefix = format!("some/where-{}", PREFIXES.fetch_add(1, Ordering::Relaxed));
    let remote = Remote::open(&server.settings(&prefix), runtime.handle().clone()).unwrap();
    remote.check().unwrap();
    Storage { objects: Arc::new(remote), held: Held::Server(Box::new((server, runtime))) }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Everything in a storage with its content.
pub(crate) fn everything(objects: &dyn Objects) -> BTreeMap<String, Vec<u8>> {
    let mut keys = Vec::new();
    objects.list("", &mut |listed| keys.push(listed.key)).unwrap();
    keys.retain(|key| !key.ends_with("lock"));
    keys.into_iter().map(|key| (key.clone(), objects.read(&key, u64::MAX).unwrap())).collect()
}

/// The keys below a prefix.
pub(crate) fn keys(objects: &dyn Objects, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    objects.list(prefix, &mut |listed| keys.push(listed.key)).unwrap();
    keys.sort();
    keys
}

/// Verifies everything, restores every listed point and compares it with what the disks held. Returns how many there are.
pub(crate) fn check_all_points(maker: &VaultMaker<Arc<Stores>>) -> usize {
    let catalog = Catalog::load_locked(&maker.vault, maker.machine).unwrap();
    assert_eq!(catalog.damage(), []);
    let report = verify(&catalog, None, |_| ()).unwrap();
    assert_eq!(report.damaged, []);
    let dir = scratch();
    let points: Vec<Epoch> = catalog.points().map(|point| point.epoch()).collect();
    for &epoch in &points {
        let expected = &maker.committed[&epoch].disks;
        restore_to_directory(&catalog, epoch, &[], dir.path(), true, |_, _| ()).unwrap();
        let disks = &catalog.manifest(epoch).unwrap().manifest.disks;
        assert_eq!(disks.len(), expected.len());
        for (disk, name) in disks.iter().zip(image_names(disks)) {
            let (_, content) = expected.iter().find(|(id, _)| *id == disk.id).unwrap();
            assert!(fs::read(dir.path().join(&name)).unwrap() == *content, "{name} of epoch {epoch}");
        }
    }
    points.len()
}
