//! What every kind of place must do, one suite for all of them: files in a directory, objects in a store, machines that QEMU runs, those that
//! libvirt runs, and Azure.
//!
//! Deliberately not here: who asks what when (`service/failover.rs`), and places that run out of room or are taken away
//! (`service/failover_faults.rs`).

// What a test cannot go on without fails it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod azure;
mod libvirt;
mod libvirtd;
mod rig;
mod suite;

use std::fs;

use mobility_tests::object_stores::CONTAINER;

use crate::rig::{Kind, World, objects_table, place, provider};

/// Does something at a place of every kind that needs no root.
fn each(work: impl Fn(&World)) {
    at(&[Kind::Images, Kind::Objects, Kind::Qemu, Kind::AzureByKey], work);
}

fn at(kinds: &[Kind], work: impl Fn(&World)) {
    for &kind in kinds {
        eprintln!("at a place of kind {kind:?}");
        if let Some(world) = World::new(kind) {
            work(&world);
        }
    }
}

#[test]
fn everything_can_be_asked_twice() {
    at(
        &[Kind::Images, Kind::Objects, Kind::Qemu, Kind::AzureByKey, Kind::AzureBySignature],
        suite::everything_can_be_asked_twice,
    );
}

#[test]
fn whatever_was_begun_is_removed() {
    each(suite::whatever_was_begun_is_removed);
}

#[test]
fn two_at_once_know_nothing_of_each_other() {
    each(suite::two_at_once_know_nothing_of_each_other);
}

#[test]
fn a_disk_that_was_cancelled_is_not_there() {
    each(suite::a_disk_that_was_cancelled_is_not_there);
}

#[test]
fn no_machine_is_made_without_a_disk_that_was_written() {
    each(suite::no_machine_is_made_without_a_disk_that_was_written);
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    at(&[Kind::Images, Kind::Qemu, Kind::AzureByKey], suite::what_is_missing_is_named_with_what_to_do);
}

#[test]
fn qemu_that_cannot_use_the_host_says_so() {
    let Some(world) = World::new(Kind::Qemu) else { return };
    let spec = world.spec("00000000000000ae");
    // It is not made yet.
    let failure = world.provider.start(&spec.failover).unwrap_err();
    assert!(failure.problem.contains("machine.json"), "{failure:?}");
    let there = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let table = format!("kind = 'qemu'\ndirectory = '{}'\n", place(world.dir.path()).display());
    match provider(world.dir.path(), &table).check(&spec) {
        Ok(said) => assert!(there, "{said}"),
        Err(failure) => assert!(!there && failure.hint.contains("acceleration = 'tcg'"), "{failure:?}"),
    }
}

#[test]
fn a_store_without_its_bucket_is_named_with_what_to_do() {
    let Some(world) = World::new(Kind::Objects) else { return };
    let server = &world.store.as_ref().unwrap().server;
    let table = objects_table(server, world.dir.path()).replace(CONTAINER, "nowhere");
    let failure = provider(world.dir.path(), &table).check(&world.spec("00000000000000ad")).unwrap_err();
    assert!(failure.problem.contains("s3://nowhere/dr/disks") && !failure.hint.is_empty(), "{failure:?}");
}
