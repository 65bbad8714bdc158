//! Tracking outlives the agent: killed, replaced by another version, or found in a state that must not be trusted.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr as _,
};

use aya::maps::{Array, Map, MapData};
use mobility_capture::ebpf::{Continuity, StartReason, TrackedDisk, Tracker, list_pinned, remove_all};
use mobility_format::{BlockRange, BlockSet, ByteCount, DiskId};
use mobility_tests::{dice::Dice, scratch::MIB};

use super::{
    load::Load,
    support::{Bench, Mirror},
};

const CHILD: &str = "MOBILITY_TEST_TRACKER_CHILD";

/// Not a test of its own: what the process does that `root_killed_at_any_moment` kills. It drains for ever.
#[test]
fn child_that_drains_until_it_is_killed() {
    let Ok(told) = env::var(CHILD) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let disk = TrackedDisk {
        major: words[0].parse().unwrap(),
        minor: words[1].parse().unwrap(),
        size: ByteCount(words[2].parse().unwrap()),
        id: DiskId::from_str(words[3]).unwrap(),
        sysfs_name: words[4].to_owned(),
        sequence: None,
    };
    let (mut tracker, continuity) = Tracker::open(&disk, Path::new(words[5])).unwrap();
    println!("\nopened: {continuity:?}");
    loop {
        tracker.drain();
    }
}

/// Starts it, and returns when it has the tracker.
fn child(bench: &Bench) -> (Child, String) {
    let disk = bench.tracked();
    let TrackedDisk { major, minor, size, id, sysfs_name, .. } = disk;
    let told = format!("{major} {minor} {} {id} {sysfs_name} {}", size.0, bench.pins.display());
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "pins::child_that_drains_until_it_is_killed", "--nocapture"])
        .env(CHILD, told)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let opened = lines.map(Result::unwrap).find(|line| line.starts_with("opened: ")).unwrap();
    (child, opened)
}

#[test]
fn root_killed_at_any_moment() {
    let Some(bench) = Bench::new(16 * MIB) else { return };
    // Nothing is in flight, so there is nothing that the next process would have to be told.
    bench.start().drain();
    let before = Mirror::of(&bench);
    let load = Load::on(&bench.device, 16 * MIB, 4);
    let mut dice = Dice::new(3);
    for _ in 0..20 {
        let (mut child, opened) = child(&bench);
        assert_eq!(opened, "opened: Continued");
        load.wait_for(dice.number() % 400);
        child.kill().unwrap();
        child.wait().unwrap();
        load.wait_for(50);
    }
    drop(load);
    let (mut tracker, continuity) = bench.open();
    assert_eq!(continuity, Continuity::Continued);
    let drained = tracker.drain();
    assert!(!drained.issue_missed && !drained.passthrough, "{drained:?}");
    let changed = before.difference(&Mirror::of(&bench));
    let lost = changed.difference(&tracker.pending());
    assert!(lost.is_empty(), "lost {lost:?}");
    assert!(tracker.dirty().is_empty() && tracker.touched().is_empty());
    tracker.clear_pending();
    tracker.drain();
    tracker.clear_pending();
    assert!(tracker.pending().is_empty());
}

#[test]
fn root_pending_is_kept_and_cleared_as_told() {
    let Some(bench) = Bench::new(8 * MIB) else { return };
    let set = |start, count| BlockSet::of(BlockRange::new(start, count));
    let tracker = bench.start();
    tracker.add_pending(&set(10, 100));
    tracker.add_pending(&set(2000, 1_000_000));
    drop(tracker);
    let (tracker, continuity) = bench.open();
    assert_eq!(continuity, Continuity::Continued);
    let mut expected = set(10, 100);
    expected.union_with(&set(2000, 48));
    assert_eq!(tracker.pending(), expected, "blocks beyond the disk are left out");
    tracker.keep_pending(&set(20, 5));
    assert_eq!(tracker.pending(), set(20, 5));
    tracker.clear_pending();
    assert!(tracker.pending().is_empty());
}

/// What must not be trusted is not, and a new tracker takes its place.
#[test]
fn root_pins_that_do_not_fit_are_replaced() {
    let Some(bench) = Bench::new(8 * MIB) else { return };
    let disk = bench.tracked();
    let open = |disk: &TrackedDisk| Tracker::open(disk, &bench.pins).unwrap().1;
    assert_eq!(open(&disk), Continuity::Started(StartReason::NoPins));
    assert_eq!(open(&disk), Continuity::Continued);
    let elsewhere = TrackedDisk { minor: disk.minor + 1, ..disk.clone() };
    assert_eq!(open(&elsewhere), Continuity::Started(StartReason::IdentityChanged));
    assert_eq!(open(&disk), Continuity::Started(StartReason::IdentityChanged));
    let back = TrackedDisk { sequence: disk.sequence.map(|sequence| sequence + 1), ..disk.clone() };
    if back.sequence.is_some() {
        assert_eq!(open(&back), Continuity::Started(StartReason::Reattached));
        assert_eq!(open(&disk), Continuity::Started(StartReason::Reattached));
    }
    let grown = TrackedDisk { size: ByteCount(9 * MIB), ..disk.clone() };
    let resized = StartReason::Resized { from: disk.size, to: grown.size };
    assert_eq!(open(&grown), Continuity::Started(resized));
    open(&disk);
    fs::remove_file(pins(&bench).join("link_issued_1")).unwrap();
    assert_eq!(open(&disk), Continuity::Started(StartReason::Damaged), "an attachment is gone");
    for (offset, reason) in
        [(16, StartReason::Rebooted), (12, StartReason::Damaged), (0, StartReason::UnknownVersion)]
    {
        damage_state(&pins(&bench), offset);
        assert_eq!(open(&disk), Continuity::Started(reason));
    }
    assert_eq!(open(&disk), Continuity::Continued);
    assert_eq!(list_pinned(&bench.pins).unwrap().len(), 1);
    remove_all(&bench.pins).unwrap();
    assert!(!bench.pins.exists());
    assert!(list_pinned(&bench.pins).unwrap().is_empty());
}

#[test]
fn root_another_version_of_the_object_is_taken_over() {
    let Some(bench) = Bench::new(8 * MIB) else { return };
    bench.start();
    let before = Mirror::of(&bench);
    let load = Load::on(&bench.device, 8 * MIB, 4);
    for _ in 0..5 {
        load.wait_for(200);
        // The same object under another's name stands for another object.
        let here = pins(&bench);
        let other = bench.pins.join("0123456789abcdef");
        fs::create_dir(&other).unwrap();
        fs::rename(&here, other.join(here.file_name().unwrap())).unwrap();
        let (_, continuity) = bench.open();
        assert_eq!(continuity, Continuity::Continued);
        let found = list_pinned(&bench.pins).unwrap();
        assert!(found.len() == 1 && found[0].current, "{found:?}");
        fs::remove_dir(&other).unwrap();
    }
    load.wait_for(200);
    drop(load);
    let (mut tracker, _) = bench.open();
    tracker.drain();
    let lost = before.difference(&Mirror::of(&bench)).difference(&tracker.pending());
    assert!(lost.is_empty(), "lost {lost:?}");
}

/// A hand-over that a kill interrupted is ended forwards where the new tracker had everything, else backwards.
#[test]
fn root_an_interrupted_hand_over_is_ended() {
    let Some(bench) = Bench::new(8 * MIB) else { return };
    let next = |here: &Path| PathBuf::from(format!("{}-next", here.display()));
    let one = BlockSet::of(BlockRange::new(1, 1));
    // Killed before the old one was removed: what it has goes into the new one.
    let old = bench.start();
    old.add_pending(&one);
    let here = pins(&bench);
    fs::rename(&here, bench.pins.join("aside")).unwrap();
    let new = bench.start();
    fs::rename(&here, next(&here)).unwrap();
    fs::rename(bench.pins.join("aside"), &here).unwrap();
    drop((old, new));
    let (tracker, continuity) = bench.open();
    assert_eq!((continuity, tracker.pending()), (Continuity::Continued, one.clone()));
    assert!(!next(&here).exists());
    // Killed before the new one was complete: the old one goes on.
    fs::rename(&here, bench.pins.join("aside")).unwrap();
    bench.open();
    damage_state(&here, 12);
    fs::rename(&here, next(&here)).unwrap();
    fs::rename(bench.pins.join("aside"), &here).unwrap();
    let (tracker, continuity) = bench.open();
    assert_eq!((continuity, tracker.pending()), (Continuity::Continued, one));
    assert!(!next(&here).exists());
}

/// The only tracker's directory.
fn pins(bench: &Bench) -> PathBuf {
    list_pinned(&bench.pins).unwrap().remove(0).path
}

fn damage_state(pins: &Path, offset: usize) {
    let map = MapData::from_pin(pins.join("state")).and_then(Map::from_map_data).unwrap();
    let mut state: Array<MapData, [u8; 256]> = map.try_into().unwrap();
    let mut record = state.get(&0, 0).unwrap();
    record[offset] ^= 1;
    state.set(0, record, 0).unwrap();
}
