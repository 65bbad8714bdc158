//! The whole way: epochs put into cache storage, taken in, listed, verified, restored byte for byte, pruned, and all that
//! again; over every storage and over cache and target storage in different places.

use std::sync::Arc;

use mobility_format::{BlockRange, Epoch, Generation, key::CacheKey, manifest::Consistency};
use mobility_recovery::{Catalog, Intake, MachineRecord, Objects, Stores, prune, verify};
use mobility_tests::vault_maker::{Flavour, VaultMaker, received_at};

use crate::support::{Storage, azurite, check_all_points, directory, everything, keys, s3};

macro_rules! over {
    ($($name:ident: $cache:ident, $target:ident;)*) => {
        $(#[test]
        fn $name() {
            let (Some(cache), Some(target)) = ($cache(), $target()) else { return };
            whole_way(&Stores::new(cache.objects.clone(), target.objects.clone()));
        })*
    };
}

over! {
    from_a_directory_to_another: directory, directory;
    from_a_directory_to_another_disk: directory, directory_on_disk;
    from_a_directory_to_s3: directory, s3;
    from_s3_to_a_directory: s3, directory;
    from_azurite_to_a_directory: azurite, directory;
    from_azurite_to_s3: azurite, s3;
}

#[test]
fn within_one_directory() {
    within(directory());
}

#[test]
fn within_s3() {
    within(s3());
}

#[test]
fn within_azurite() {
    within(azurite());
}

fn within(storage: Option<Storage>) {
    if let Some(storage) = storage {
        whole_way(&Stores::new(storage.objects.clone(), storage.objects.clone()));
    }
}

/// Most often on another file system than the others are.
fn directory_on_disk() -> Option<Storage> {
    let dir = tempfile::tempdir().unwrap();
    let objects: Arc<dyn Objects> = Arc::new(mobility_recovery::Directory::new(dir.path()));
    Some(Storage { objects, held: crate::support::Held::Directory(dir) })
}

fn write(maker: &mut VaultMaker<Arc<Stores>>, epochs: u64) {
    for _ in 0..epochs {
        let epoch = maker.intake.head().map_or(1, |head| head.epoch.0 + 1);
        maker.write_at_random(0, 3);
        maker.write_at_random(1, 2);
        maker.write(0, BlockRange::new(epoch % 600, 2), Flavour::Noise);
        maker.commit((epoch % 4 != 2).then_some(Consistency::Crash));
    }
}

fn thin_out(maker: &VaultMaker<Arc<Stores>>, ladder: &str) {
    let now = received_at(maker.intake.head().unwrap().epoch.next());
    let ladder = ladder.parse().unwrap();
    let planned = prune(&maker.vault, maker.machine, &ladder, now, true).unwrap();
    let report = prune(&maker.vault, maker.machine, &ladder, now, false).unwrap();
    assert_eq!(report.untouched, []);
    assert_eq!((&report.removed, &report.kept), (&planned.removed, &planned.kept));
    assert!(!report.removed.is_empty() && report.merged > 0, "{report:?}");
    let catalog = Catalog::load_locked(&maker.vault, maker.machine).unwrap();
    assert_eq!(catalog.points().map(|point| point.id).collect::<Vec<_>>(), report.kept);
    let notes = verify(&catalog, None, |_| ()).unwrap().notes;
    assert_eq!(notes, [], "pruning leaves nothing behind");
}

fn whole_way(stores: &Stores) {
    let mut maker = VaultMaker::over(Arc::new(stores.clone()), 71);
    maker.add_disk("/dev/vda", (3 << 20) + 512);
    maker.add_disk("/dev/vdb", 1 << 20);
    assert_eq!(stores.machines().unwrap(), [maker.machine]);
    maker.use_slots(0);
    write(&mut maker, 9);
    assert_eq!(check_all_points(&maker), 7);
    assert_eq!(keys(stores.cache(), "cache"), Vec::<String>::new(), "all of it was taken in");

    thin_out(&maker, "1h:45s");
    check_all_points(&maker);
    maker.restart();
    write(&mut maker, 4);
    check_all_points(&maker);

    // A resync; another process goes on, and is told all that there is to know.
    maker.next_generation();
    maker.rewrite_all();
    let head = maker.intake.head().cloned();
    let known = MachineRecord {
        machine: maker.machine,
        key: maker.public_key(),
        generation: maker.intake.generation().unwrap(),
    };
    maker.intake = Intake::resume(stores, &known, head);
    write(&mut maker, 3);
    check_all_points(&maker);
    thin_out(&maker, "1h:45s");
    thin_out(&maker, "1s:all");
    check_all_points(&maker);
    assert_eq!(keys(stores.cache(), "cache"), Vec::<String>::new());
}

#[test]
fn slots_that_later_epochs_may_use_stay_and_those_of_older_generations_go() {
    let storage = directory().unwrap();
    let stores = Stores::new(storage.objects.clone(), storage.objects.clone());
    let mut maker = VaultMaker::over(Arc::new(stores.clone()), 72);
    maker.add_disk("/dev/vda", 1 << 20);
    maker.use_slots(10);
    let slot = |generation, slot| {
        CacheKey::Slot { machine: maker.machine, generation: Generation(generation), slot }.to_string()
    };
    // Sent ahead, and what an earlier run sent and never committed.
    let (ahead, stale) = ([slot(1, 3), slot(1, 500)], slot(0, 7));
    ahead.iter().chain([&stale]).for_each(|key| stores.cache().put_new(key, b"some segment").unwrap());
    maker.write_at_random(0, 3);
    maker.point();
    assert_eq!(keys(stores.cache(), "cache"), ahead, "what was not taken in, of this generation");
    maker.next_generation();
    maker.rewrite_all();
    maker.point();
    assert_eq!(keys(stores.cache(), "cache"), Vec::<String>::new());
    check_all_points(&maker);
}

#[test]
fn what_waits_in_cache_storage_is_known_and_taken_in_in_order() {
    let storage = directory().unwrap();
    let stores = Stores::new(storage.objects.clone(), storage.objects.clone());
    let mut maker = VaultMaker::over(Arc::new(stores.clone()), 73);
    maker.add_disk("/dev/vda", 1 << 20);
    maker.use_slots(0);
    maker.write_at_random(0, 3);
    maker.point();
    let known =
        MachineRecord { machine: maker.machine, key: maker.public_key(), generation: maker.generation };
    // The agent goes on while nobody takes in: it knows its own head.
    let behind = directory().unwrap();
    for (key, bytes) in everything(&*storage.objects) {
        behind.objects.put_new(&key, &bytes).unwrap();
    }
    for _ in 0..3 {
        maker.write_at_random(0, 3);
        let epoch = maker.send(Some(Consistency::Crash));
        for key in keys(stores.cache(), "cache") {
            behind.objects.put_new(&key, &stores.cache().read(&key, u64::MAX).unwrap()).unwrap();
        }
        maker.intake.admit_at(maker.generation, epoch, received_at(epoch)).unwrap();
    }
    let late = Stores::new(behind.objects.clone(), behind.objects.clone());
    let mut intake = Intake::enrolled(&late, &known).unwrap();
    let waiting = intake.waiting(maker.generation, 100).unwrap();
    assert_eq!(waiting.iter().map(|signed| signed.manifest.epoch.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(waiting.last().unwrap().digest, maker.intake.head().unwrap().digest);
    assert_eq!(intake.waiting(maker.generation, 2).unwrap().len(), 2);
    assert_eq!(intake.waiting(Generation(9), 2).unwrap(), []);
    for epoch in [2, 3, 4].map(Epoch) {
        intake.admit_at(maker.generation, epoch, received_at(epoch)).unwrap();
    }
    assert_eq!(intake.waiting(maker.generation, 100).unwrap(), []);
    assert_eq!(intake.head(), maker.intake.head());
    assert_eq!(everything(&*behind.objects), everything(&*storage.objects));
}
