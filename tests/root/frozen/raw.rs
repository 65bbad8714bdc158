//! Disks without a file system, as databases use them: there is nothing to freeze, and no point may claim that there was.

use std::{path::Path, time::Duration};

use mobility_tests::{
    agent_process::{Point, Setup},
    load::{Worker, scribble},
    scratch::{LoopDevice, MIB, Scratch, root_with},
};

use crate::tell;

fn raw_disk(policy: &str, pause: Duration) -> Vec<Point> {
    let scratch = Scratch::new();
    let size = 64 * MIB;
    let disk = LoopDevice::new(scratch.path("disk.img"), size);
    let device: &Path = &disk.device;
    let setup = Setup::new(&scratch, &[device]).flags(&["--cut", policy]);
    let mut agent = setup.start();
    agent.wait_until_protected();
    // As much as goes, or a little.
    let together = if pause.is_zero() { 4 } else { 1 };
    let writers: Vec<_> = (0..together).map(|seed| scribble(device, 0, size, seed, pause)).collect();
    agent.wait_for_points(3);
    let writes: u64 = writers.into_iter().map(Worker::stop).sum();
    agent.wait_for_points(1);
    agent.terminate();
    setup.newest_point_equals(&scratch, &[&disk.file]);
    let points = setup.points();
    let count = |kind: &str| points.iter().filter(|point| point.consistency == kind).count();
    tell(&format!(
        "raw disk, {policy}, {writes} writes by {together}, {pause:?} apart: {} points, {} crash-consistent, {} fuzzy",
        points.len(),
        count("crash"),
        count("fuzzy")
    ));
    points
}

#[test]
fn root_a_disk_without_a_file_system_is_never_said_to_be_frozen() {
    let Some(()) = root_with(&[]) else { return };
    for policy in ["freeze", "auto"] {
        for pause in [Duration::from_millis(5), Duration::ZERO] {
            for point in raw_disk(policy, pause) {
                let (cut, consistency) = (&point.listed["cut"], point.consistency.as_str());
                assert!(["crash", "fuzzy"].contains(&consistency), "{point:?}");
                assert_eq!(cut["held_us"], 0, "{point:?}");
                assert_ne!(cut["method"], "freeze", "{point:?}");
                assert!(consistency == "crash" || cut["reason"].is_string(), "no word why: {point:?}");
            }
        }
    }
}
