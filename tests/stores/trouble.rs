//! What goes wrong between cache and target storage that are not one directory: a process that ends at any step, stores
//! that lie, objects that are not what they should be. Nothing wrong is ever listed, nothing is lost, and the next try
//! comes to the same end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mobility_format::{
    Epoch,
    key::CacheKey,
    manifest::{Consistency, SignedManifest},
};
use mobility_recovery::{
    Catalog, Doubted, Intake, IntakeError, IntakeErrorKind, Objects, StorageErrorKind, Stores, verify,
};
use mobility_tests::vault_maker::{VaultMaker, received_at};

use crate::{
    support::{Storage, azurite, check_all_points, directory, everything, keys, s3},
    wrapped::{Fate, Step, Wrapped},
};

/// Two points taken in, and a third sent to slots beside what an earlier run had sent and never committed.
fn prepared(cache: &Arc<dyn Objects>, target: &Arc<dyn Objects>) -> VaultMaker<Arc<Stores>> {
    let mut maker = VaultMaker::over(Arc::new(Stores::new(cache.clone(), target.clone())), 81);
    maker.add_disk("/dev/vda", 2 << 20);
    maker.add_disk("/dev/vdb", 1 << 20);
    for _ in 0..2 {
        maker.write_at_random(0, 3);
        maker.write_at_random(1, 2);
        maker.point();
    }
    maker.use_slots(20);
    maker.write_at_random(0, 5);
    maker.write_at_random(1, 2);
    let epoch = maker.send(Some(Consistency::Crash));
    assert_eq!(epoch, Epoch(3));
    maker
}

fn admit(stores: &Stores, maker: &VaultMaker<Arc<Stores>>) -> Result<(), IntakeError> {
    let mut intake = Intake::open(stores, maker.machine, maker.public_key())?;
    let head = intake.admit_at(maker.generation, Epoch(3), received_at(Epoch(3)))?;
    assert_eq!(head.epoch, Epoch(3));
    Ok(())
}

/// Lets `steps` steps pass; then one goes as `last`, and all after it fail.
fn ends_after(
    steps: u64,
    last: Fate,
    counted: &Arc<AtomicU64>,
) -> impl Fn(Step, &str) -> Fate + Send + Sync + use<> {
    let counted = counted.clone();
    move |_, _| match counted.fetch_add(1, Ordering::SeqCst) {
        step if step < steps => Fate::Passes,
        step if step == steps => last,
        _ => Fate::Fails,
    }
}

#[test]
fn an_intake_that_ends_at_any_step_is_taken_up_again() {
    let (cache, target) = (directory().unwrap(), directory().unwrap());
    let maker = prepared(&cache.objects, &target.objects);
    admit(&maker.vault, &maker).unwrap();
    let expected = (everything(&*cache.objects), everything(&*target.objects));
    for last in [Fate::Fails, Fate::AnswerLost] {
        for steps in 0.. {
            assert!(steps < 1_000, "it never comes through");
            let (cache, target) = (directory().unwrap(), directory().unwrap());
            let maker = prepared(&cache.objects, &target.objects);
            let counted = Arc::new(AtomicU64::new(0));
            let wrap = |storage: &Storage| Wrapped::over(&storage.objects, ends_after(steps, last, &counted));
            let outcome = admit(&Stores::new(wrap(&cache), wrap(&target)), &maker);
            let struck = counted.load(Ordering::SeqCst) > steps;
            assert_eq!(outcome.is_err(), struck, "an error is never swallowed: step {steps}, {last:?}");
            if let Err(err) = outcome {
                assert_eq!(err.kind(), IntakeErrorKind::Retry, "step {steps}, {last:?}: {err}");
            }
            assert!((2..=3).contains(&check_all_points(&maker)));
            admit(&maker.vault, &maker).unwrap_or_else(|err| panic!("after step {steps}, {last:?}: {err}"));
            let found = (everything(&*cache.objects), everything(&*target.objects));
            assert!(found == expected, "after step {steps}, {last:?}");
            if !struck {
                assert!(steps > 20, "too few steps to be true: {steps}");
                break;
            }
        }
    }
}

#[test]
fn a_store_that_only_says_that_it_has_put_something_loses_nothing() {
    let (cache, target) = (directory().unwrap(), directory().unwrap());
    let maker = prepared(&cache.objects, &target.objects);
    let before = (everything(&*cache.objects), everything(&*target.objects));
    for about in ["/segments/", ".received", ".point"] {
        let lies = move |step, key: &str| match step == Step::Put && key.contains(about) {
            true => Fate::IsALie,
            false => Fate::Passes,
        };
        let liar = Stores::new(cache.objects.clone(), Wrapped::over(&target.objects, lies));
        let err = admit(&liar, &maker).expect_err(about);
        assert_eq!(err.kind(), IntakeErrorKind::Retry, "{about}: {err}");
        assert!(everything(&*cache.objects) == before.0, "nothing of it has left cache storage");
        assert_eq!(check_all_points(&maker), 2);
    }
    admit(&maker.vault, &maker).unwrap();
    assert_eq!(check_all_points(&maker), 3);
}

#[test]
fn what_cannot_be_reached_is_not_called_damaged() {
    let storage = directory().unwrap();
    let maker = prepared(&storage.objects, &storage.objects);
    for unreachable in ["/points/", "/machine"] {
        let judge = move |step, key: &str| match step == Step::Read && key.contains(unreachable) {
            true => Fate::Fails,
            false => Fate::Passes,
        };
        let far = Wrapped::over(&storage.objects, judge);
        let err = Catalog::load(&Stores::new(far.clone(), far), maker.machine).expect_err(unreachable);
        assert_eq!(err.kind(), StorageErrorKind::Unavailable);
    }
    let far = Wrapped::over(&storage.objects, |_, key| match key.contains("/segments/") {
        true => Fate::Fails,
        false => Fate::Passes,
    });
    let catalog = Catalog::load(&Stores::new(far.clone(), far), maker.machine).unwrap();
    assert_eq!(verify(&catalog, None, |_| ()).expect_err("segments").kind(), StorageErrorKind::Unavailable);
}

/// What a machine sends instead of a segment is refused, in whatever way it is wrong; nothing of the epoch is seen; the
/// blocks that have to be sent again are known; after a resync all is well.
fn damaged_data_is_refused_and_named(storage: Option<Storage>) {
    let Some(storage) = storage else { return };
    let cache = &storage.objects;
    let mut maker = prepared(cache, cache);
    let key = CacheKey::Manifest { machine: maker.machine, generation: maker.generation, epoch: Epoch(3) };
    let signed = SignedManifest::parse(&cache.read(&key.to_string(), u64::MAX).unwrap()).unwrap();
    let disk = &signed.manifest.disks[1];
    let named = disk.segments[0];
    let slot =
        CacheKey::Slot { machine: maker.machine, generation: maker.generation, slot: named.slot.unwrap() };
    let good = cache.read(&slot.to_string(), u64::MAX).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let longer = [&good[..], b"x"].concat();
    for wrong in [&flipped[..], &longer, &good[..good.len() - 1], b"", b"hello"] {
        cache.replace(&slot.to_string(), wrong).unwrap();
        let err = admit(&maker.vault, &maker).expect_err("a damaged segment");
        assert!(matches!(&err, IntakeError::Damaged { key, .. } if *key == slot), "{err}");
        assert_eq!(err.kind(), IntakeErrorKind::SendAgain);
    }
    cache.remove(&[slot.to_string()]).unwrap();
    let err = admit(&maker.vault, &maker).expect_err("a missing segment");
    assert!(matches!(&err, IntakeError::Missing { key } if *key == slot), "{err}");
    assert_eq!(check_all_points(&maker), 2);

    let Doubted::Blocks(blocks) = maker.intake.doubted(maker.generation, Epoch(3)).unwrap() else {
        panic!("the manifest is sound, so it is known what it is about");
    };
    let of_disk = &blocks[&disk.id];
    let inside =
        of_disk.iter().any(|range| range.start <= named.first_block && range.end() >= named.end_block);
    assert!(inside, "{of_disk:?} does not hold {named:?}");
    cache.replace(&key.to_string(), b"no manifest").unwrap();
    assert_eq!(maker.intake.doubted(maker.generation, Epoch(3)).unwrap(), Doubted::Everything);
    assert_eq!(maker.intake.doubted(maker.generation, Epoch(4)).unwrap(), Doubted::Blocks([].into()));

    let heads: Vec<_> = maker.intake.head().unwrap().disks.iter().map(|disk| disk.last_segment).collect();
    maker.next_generation();
    maker.forget_sent(&heads);
    maker.rewrite_all();
    maker.point();
    assert_eq!(check_all_points(&maker), 3);
    assert_eq!(keys(&**cache, "cache"), Vec::<String>::new());
}

#[test]
fn damaged_data_in_a_directory_is_refused_and_named() {
    damaged_data_is_refused_and_named(directory());
}

#[test]
fn damaged_data_in_s3_is_refused_and_named() {
    damaged_data_is_refused_and_named(s3());
}

#[test]
fn damaged_data_in_azurite_is_refused_and_named() {
    damaged_data_is_refused_and_named(azurite());
}
