//! Failovers and plan runs where the place runs out of room or is taken away, and where target storage goes in the middle of it: it
//! says so, goes on where it was, and no disk is wrong.
//!
//! Deliberately not here: segments that are damaged (`failover`), and stores in a network (`stores`).

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Instant,
};

use mobility_format::{BLOCK_SIZE, DiskId};
use mobility_tests::scratch::{Mounted, root_with};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    commits::{ready, taken_in},
    failover::{Failover, begin, images_are, place, rig},
    plan_site::{contains, group, plan, site},
    rig::{PATIENCE, Rig},
};

/// A machine with one point, with more disks of which the last one is restored as the last.
fn machine(rig: &Rig, more: usize, blocks: usize) -> (Agent, Vec<Vec<u8>>) {
    let mut agent = ready(rig, 1);
    for number in 0..more {
        agent.add_disk(&format!("more-{number}"), 64);
    }
    let last = agent.disks.iter().map(|disk| disk.id).max().unwrap();
    let is_last = |name: &String| DiskId::derive(name) > last;
    let name = (0..).map(|number| format!("last-{number}")).find(is_last).unwrap();
    agent.add_disk(&name, blocks);
    agent.write(1500);
    agent.commit();
    taken_in(rig, &agent, 1);
    let held = agent.disks.iter().map(|disk| disk.content.clone()).collect();
    (agent, held)
}

/// The images that a failover has finished, each with what changes when it is written again.
fn finished(shown: &Value) -> Vec<(PathBuf, u64, i64)> {
    let disks = shown["disks"].as_array().unwrap().iter();
    let path = |disk: &Value| PathBuf::from(disk["path"].as_str().unwrap());
    let of = |path: PathBuf| {
        let file = fs::metadata(&path).unwrap();
        (path, file.ino(), file.mtime_nsec())
    };
    disks.map(path).map(of).collect()
}

fn hint(shown: &Value) -> &str {
    shown["hint"].as_str().unwrap()
}

fn is_empty(place: &Path) -> bool {
    fs::read_dir(place).unwrap().next().is_none()
}

#[test]
fn root_a_place_without_room_goes_on_when_there_is_some() {
    let Some(()) = root_with(&["mount"]) else { return };
    let rig = rig();
    let (mut agent, held) = machine(&rig, 0, 2000);
    let place = place(rig.data().parent().unwrap());
    let small = Mounted::in_memory(place.clone(), 3 << 20);
    let over = begin(&rig, &agent, &["--kind", "unplanned"]);
    let shown = over.rests("failed");
    assert!(hint(&shown).contains("make room") && hint(&shown).contains("resume"), "{shown:#}");
    assert!(shown["log"].to_string().contains("No space left on device"), "{shown:#}");
    let done = finished(&shown);
    assert_eq!(done.len(), 2, "{shown:#}");
    assert_eq!(fs::read_dir(place.join(&over.id)).unwrap().count(), 2, "half an image was left");
    // As long as there is none it fails the same way.
    assert_eq!(finished(&over.act(&["resume"], "failed")), done);
    small.remount("size=64m");
    let shown = over.act(&["resume"], "ready");
    images_are(&shown, &agent, &held);
    assert!(done.iter().all(|one| finished(&shown).contains(one)), "what was finished was written again");
    over.act(&["cancel"], "cancelled");
    assert!(is_empty(&place));

    small.remount("size=3m");
    let over = begin(&rig, &agent, &["--kind", "unplanned"]);
    over.rests("failed");
    over.act(&["cancel"], "cancelled");
    assert!(is_empty(&place));
    agent.try_heartbeat().unwrap();
}

#[test]
fn root_a_plan_run_whose_place_is_full_goes_on_when_there_is_room() {
    let Some(()) = root_with(&["mount"]) else { return };
    let site = site("");
    let machines = [site.machine(1, 8), site.machine(2, 8)];
    let [(first, held), (second, _)] = &machines;
    let room = |(_, held): &(Agent, Vec<Vec<u8>>)| -> u64 {
        let blocks = held.iter().flat_map(|disk| disk.chunks(BLOCK_SIZE));
        blocks.filter(|block| block.iter().any(|&byte| byte != 0)).count() as u64 * BLOCK_SIZE as u64
    };
    // All of the first one, and half of the second.
    let enough = room(&machines[0]) + room(&machines[1]) / 2;
    let small = Mounted::in_memory(place(site.rig.data().parent().unwrap()), enough);
    let nothing = json!([]);
    site.set(&plan(&[group(&[first], &nothing, &nothing), group(&[second], &nothing, &nothing)]));
    let run = site.run(&["--kind", "unplanned"]);
    let report = site.rests(&run, "failed");
    contains(&report["hint"], "make room");
    let failed = site.failover(&report, second);
    assert!(failed["log"].to_string().contains("No space left on device"), "{failed:#}");
    images_are(&site.failover(&report, first), first, held);
    site.act(&run, "resume", "failed");
    small.remount("size=64m");
    site.are_failed_over(&site.act(&run, "resume", "ready"), &machines, 1);
    site.act(&run, "cancel", "cancelled");
    site.is_clean();
}

/// Waits for the first image of a failover, and takes a directory away at that moment.
fn take_away(over: &Failover<'_>, directory: &Path) -> PathBuf {
    let images = place(over.rig.data().parent().unwrap()).join(&over.id);
    let end = Instant::now() + PATIENCE;
    let image = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "img");
    // Without a pause: the other disks take a moment.
    while !fs::read_dir(&images).is_ok_and(|mut found| found.any(|entry| entry.is_ok_and(image))) {
        assert!(Instant::now() < end, "no image");
    }
    let away = directory.with_extension("away");
    fs::rename(directory, &away).unwrap();
    away
}

#[test]
fn target_storage_that_goes_midway_is_waited_for() {
    let rig = rig();
    let (agent, held) = machine(&rig, 8, 2000);
    let target = rig.storage().join("target");
    let over = begin(&rig, &agent, &["--kind", "unplanned"]);
    let away = take_away(&over, &target);
    // Where exactly it was then is chance, and so is what it says; from the next time on it is not.
    let shown = over.rests("failed");
    assert!(hint(&shown).contains("resume"), "{shown:#}");
    let done = finished(&shown);
    assert!(!done.is_empty() && done.len() < held.len(), "{shown:#}");
    let shown = over.act(&["resume"], "failed");
    assert!(hint(&shown).contains("see that target storage is all there"), "{shown:#}");
    assert_eq!(finished(&shown), done);
    // What was put meanwhile where nothing is mounted.
    fs::remove_dir_all(&target).ok();
    fs::rename(away, &target).unwrap();
    let shown = over.act(&["resume"], "ready");
    images_are(&shown, &agent, &held);
    assert!(done.iter().all(|one| finished(&shown).contains(one)), "what was finished was written again");
    over.act(&["cancel"], "cancelled");
    assert!(is_empty(&place(rig.data().parent().unwrap())));
}

#[test]
fn a_place_that_is_another_one_midway_makes_no_machine_of_half_its_disks() {
    let rig = rig();
    let (agent, held) = machine(&rig, 8, 2000);
    let place = place(rig.data().parent().unwrap());
    let over = begin(&rig, &agent, &["--kind", "unplanned"]);
    let away = take_away(&over, &place);
    // An image that was being written then is one that could not be; the next time all others are in the other place.
    over.rests("failed");
    let shown = over.act(&["resume"], "failed");
    assert!(shown["log"].to_string().contains("is not there any more"), "{shown:#}");
    assert!(hint(&shown).contains("change-point"), "{shown:#}");
    let shown = over.act(&["change-point", "--point", "latest"], "ready");
    images_are(&shown, &agent, &held);
    over.act(&["cancel"], "cancelled");
    assert!(is_empty(&place));
    fs::remove_dir_all(away).unwrap();
}
