//! Frozen cuts of the agent's own root.

use std::{
    fs,
    time::{Duration, Instant},
};

use mobility_tests::{
    load::build_files,
    scratch::{LoopDevice, eventually, long, try_run},
};

use crate::{LIMIT, SLACK, held, root_rig::RootRig, tell};

/// How many frozen points there must be.
fn demanded() -> usize {
    if long() { 120 } else { 8 }
}

/// How long the writer is watched without an agent, to know how slow it is by itself.
const ALONE: u64 = 300;

#[test]
fn root_the_agents_own_root_is_frozen_and_nothing_waits_for_long() {
    let Some(rig) = RootRig::new() else { return };
    let soon = Duration::from_secs(60);
    eventually("the writer alone", soon, || (rig.pulse.count() > ALONE).then_some(()));
    let alone = rig.pulse.longest();

    let mut agent = rig.start(&["--cut", "freeze", "--interval", "1s"]);
    agent.wait_until_protected();
    let frozen = || {
        let points = rig.setup.points();
        points.into_iter().filter(|point| point.listed["cut"]["method"] == "freeze").collect::<Vec<_>>()
    };
    let build = build_files(rig.top.point().join("build"), 5, Duration::from_millis(10));
    let begin = Instant::now();
    while frozen().len() < demanded() {
        let late = begin.elapsed() > soon + Duration::from_secs(3) * demanded() as u32;
        assert!(!late, "{} frozen points\n{}", frozen().len(), rig.setup.log_tail());
        agent.wait_for_points(1);
    }
    let longest = rig.pulse.longest();
    let _ = build.stop();
    agent.terminate();
    rig.pulse.goes_on(Duration::from_secs(5));

    let (points, frozen) = (rig.setup.points(), frozen());
    let held = held(&points);
    let (median, most) = (held[held.len() / 2], held[held.len() - 1]);
    let log = fs::read_to_string(&rig.setup.log).unwrap();
    let failed = |line: &&str| line.contains(" cut: ") && !line.contains("Consistent");
    let failed: Vec<_> = log.lines().filter(failed).filter_map(|line| line.split(" cut: ").nth(1)).collect();
    let figures = format!(
        "own root: {} points, {} by a freeze; cuts that failed {failed:?}; held {median:?} (median), {most:?} (most); the writer's longest pause {:?}, \
         {:?} with its sync; alone {:?}, {:?}",
        points.len(),
        frozen.len(),
        longest.write,
        longest.synced,
        alone.write,
        alone.synced
    );
    tell(&figures);
    assert!(most <= LIMIT, "the guard had to thaw: {figures}");
    // A freeze that the kernel is at cannot be called off, so where that alone takes too long, nobody keeps the limit.
    let slow = failed.iter().filter(|cut| cut.contains("was not frozen within the limit")).count();
    assert!(slow * 20 <= points.len() || slow <= 1, "{figures}");
    assert!(slow > 0 || longest.write <= LIMIT + SLACK + alone.write, "{figures}");
    for point in &frozen {
        assert_eq!(point.consistency, "file-system", "{point:?}");
        assert!(rig.pulse.was_held_at(point.time), "nothing was frozen at the time of {point:?}");
    }

    for word in ["ERROR", "were lost", "cannot be kept"] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(word)).collect();
        assert!(lines.is_empty(), "{lines:#?}");
    }
    assert!(log.matches("recovery point").count() >= frozen.len(), "lines are missing\n{log}");
    is_clean_without_recovery(&rig, frozen.last().unwrap());
}

/// What was frozen was flushed: the journal has nothing to say, and the file system is whole.
fn is_clean_without_recovery(rig: &RootRig, point: &mobility_tests::agent_process::Point) {
    let dir = rig.scratch.path("restored");
    let device = LoopDevice::over(rig.setup.restore(point, &dir).remove(0));
    let said = try_run("e2fsck", &["-f", "-n", device.name()]).unwrap();
    assert!(!said.contains("recover"), "{said}");
}
