//! The main promise on real file systems and devices: applications write, the agent makes points, every crash-consistent
//! point is restored and is what a power cut would have left.
//!
//! `MOBILITY_LONG=1` runs the durations of the full demonstration. Deliberately not here: killed agents (`kill`) and failing storage
//! (`faults`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use mobility_tests::{
    agent_process::{Agent, Point, Setup},
    load::{build_files, fio, scribble},
    load_ordered::{Chains, Ordered, Target},
    load_sqlite::{Database, Rows},
    scratch::{LoopDevice, MIB, Mounted, Scratch, long, root_with, run, try_run},
};

/// How long applications write, and how many crash-consistent points that must give at least.
fn demanded() -> (Duration, usize) {
    if long() { (Duration::from_secs(120), 20) } else { (Duration::from_secs(12), 3) }
}

/// Lets the load go on for the time demanded, and for as many crash-consistent points as are demanded.
fn while_points_are_made(agent: &mut Agent, setup: &Setup) {
    let (time, crash) = demanded();
    let begin = Instant::now();
    while begin.elapsed() < time || crash_points(setup).len() < crash {
        assert!(
            begin.elapsed() < time * 10,
            "too few crash-consistent points; windows of the fuzzy ones: {}\n{}",
            windows(&setup.points(), false),
            setup.log_tail()
        );
        agent.wait_for_points(2);
    }
}

fn crash_points(setup: &Setup) -> Vec<Point> {
    setup.points().into_iter().filter(Point::is_crash).collect()
}

/// How long cuts took, for people: the shortest, the median and the longest of the points that are crash-consistent or not.
fn windows(points: &[Point], crash: bool) -> String {
    let of = |point: &Point| point.listed["cut"]["window_us"].as_u64().unwrap_or(0);
    let mut windows: Vec<_> = points.iter().filter(|point| point.is_crash() == crash).map(of).collect();
    windows.sort_unstable();
    let at = |part: usize| windows.get(part.min(windows.len().saturating_sub(1))).copied().unwrap_or(0);
    format!("{} / {} / {} us", at(0), at(windows.len() / 2), at(windows.len()))
}

/// Past the capture of output: the figures are what people want to see of a test that passes.
fn tell(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The file system's own opinion, after its journal was replayed.
fn check_file_system(kind: &str, device: &str) -> Result<String, String> {
    match kind {
        "ext4" => try_run("e2fsck", &["-f", "-n", device]),
        "xfs" => try_run("xfs_repair", &["-n", device]),
        _ => try_run("btrfs", &["check", "--readonly", device]),
    }
}

/// Restores a point and lets the file system and the databases say whether they are whole. Returns the rows found.
fn check_point(scratch: &Scratch, setup: &Setup, kind: &str, point: &Point, rows: &[Rows]) -> Vec<usize> {
    let dir = scratch.path("restored");
    let image = setup.restore(point, &dir).remove(0);
    let device = LoopDevice::over(image);
    let blame = |what: String| -> ! { panic!("{kind}, {point:?}: {what}\n{}", setup.log_tail()) };
    let mounted =
        Mounted::existing(scratch.path("replayed"), &device.device, kind).unwrap_or_else(|e| blame(e));
    let found = rows
        .iter()
        .map(|rows| rows.check(mounted.point(), point.time).unwrap_or_else(|e| blame(e)))
        .collect();
    mounted.unmount();
    check_file_system(kind, device.name()).unwrap_or_else(|e| blame(e));
    drop(device);
    if kind == "btrfs" {
        // Else the next restored copy of the same file system is taken for a second device of this one.
        run("btrfs", &["device", "scan", "--forget"]);
    }
    fs::remove_dir_all(dir).unwrap();
    found
}

fn applications_on(kind: &str) {
    let checker = ["e2fsck", "xfs_repair", "btrfs"];
    let make = format!("mkfs.{kind}");
    let Some(()) = root_with(&[&make, "fio", "python3", checker[0], checker[1], checker[2]]) else { return };
    let scratch = Scratch::new();
    let size = if long() { 2048 } else { 384 } * MIB;
    let disk = LoopDevice::new(scratch.path("disk.img"), size);
    let mounted = Mounted::fresh(scratch.path("mounted"), &disk.device, kind);
    let setup = Setup::new(&scratch, &[&disk.device]);
    let mut agent = setup.start();
    agent.wait_until_protected();

    let place = mounted.point();
    let databases = [
        Database::start(place, "wal", 0.02, scratch.path("wal.log")),
        Database::start(place, "delete", 0.04, scratch.path("delete.log")),
    ];
    let build = build_files(place.join("build"), 1, Duration::from_millis(15));
    let calm = fio(place, "calm", Some(60));
    while_points_are_made(&mut agent, &setup);
    // As much as goes: points may be fuzzy now, and none may be wrong.
    let busier = build_files(place.join("busier"), 2, Duration::from_millis(3));
    agent.wait_for_points(if long() { 10 } else { 2 });
    let storm = fio(place, "storm", None);
    agent.wait_for_points(if long() { 10 } else { 2 });
    drop((calm, storm));
    let rows = databases.map(Database::stop);
    let steps = build.stop() + busier.stop();
    mounted.unmount();
    agent.wait_for_points(1);
    agent.terminate();
    let file = disk.file.clone();
    drop(disk);
    if kind == "btrfs" {
        run("btrfs", &["device", "scan", "--forget"]);
    }
    setup.newest_point_equals(&scratch, &[&file]);

    let (all, crash) = (setup.points(), crash_points(&setup));
    let mut last = Vec::new();
    for point in &crash {
        let found = check_point(&scratch, &setup, kind, point, &rows);
        assert!(last.iter().zip(&found).all(|(before, now)| before <= now), "{point:?}: rows vanish");
        last = found;
    }
    // One more may have been committed than there was time to say.
    let all_there = |(&present, rows): (&usize, &Rows)| present - rows.acknowledged.len() <= 1;
    assert!(last.iter().zip(&rows).all(all_there), "the last one lacks rows: {last:?}");
    assert!(last.iter().all(|&rows| rows > 20), "the databases were hardly written: {last:?}");
    let (count, points) = (crash.len(), all.len());
    tell(&format!(
        "{kind}: {points} points, {count} crash-consistent, all restored and checked; rows {last:?}, {steps} file operations; \
         shortest, median and longest cut {}, of fuzzy points {}",
        windows(&all, true),
        windows(&all, false)
    ));
}

#[test]
fn root_applications_on_ext4_survive_at_every_point() {
    applications_on("ext4");
}

#[test]
fn root_applications_on_xfs_survive_at_every_point() {
    applications_on("xfs");
}

#[test]
fn root_applications_on_btrfs_survive_at_every_point() {
    applications_on("btrfs");
}

#[test]
fn root_the_order_of_writes_across_two_disks_is_kept() {
    let Some(()) = root_with(&[]) else { return };
    let scratch = Scratch::new();
    let size = if long() { 1024 } else { 64 } * MIB;
    let disks = ["one.img", "two.img"].map(|name| LoopDevice::new(scratch.path(name), size));
    let devices: [&Path; 2] = disks.each_ref().map(|disk| disk.device.as_path());
    let setup = Setup::new(&scratch, &devices);
    let mut agent = setup.start();
    agent.wait_until_protected();

    let chains = Chains::new(4, 2, size / 2);
    let targets = devices.map(|device| Target::Raw(device.to_owned()));
    let ordered = Ordered::start(&targets, &chains, Some(1500));
    let noise = scribble(devices[0], size / 2, size, 3, Duration::from_millis(5));
    while_points_are_made(&mut agent, &setup);
    let history = ordered.stop();
    let noise = noise.stop();
    agent.wait_for_points(1);
    agent.terminate();
    setup.newest_point_equals(&scratch, &disks.each_ref().map(|disk| disk.file.as_path()));

    let (all, crash) = (setup.points(), crash_points(&setup));
    let mut last = Vec::new();
    for point in &crash {
        let dir = scratch.path("restored");
        let checked = history.check(&setup.restore(point, &dir), point.time);
        last = checked.unwrap_or_else(|e| panic!("{point:?}: {e}"));
        fs::remove_dir_all(dir).unwrap();
    }
    assert_eq!(last.iter().sum::<u64>(), history.steps());
    let (count, points) = (crash.len(), all.len());
    tell(&format!(
        "two disks: {points} points, {count} crash-consistent, all in order; records {last:?}, {noise} other writes; \
         shortest, median and longest cut {}, of fuzzy points {}",
        windows(&all, true),
        windows(&all, false)
    ));
}
