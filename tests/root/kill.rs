//! The agent killed at any moment: tracking goes on in the kernel, nothing is compared or sent again that need not be,
//! and no write is forgotten.
//!
//! `MOBILITY_LONG=1` kills fifty times. Deliberately not here: agents that are asked to end (`e2e/signals`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

use std::{
    fs,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup, protected},
    load::{fio, scribble},
    load_ordered::{Chains, Ordered, Target},
    scratch::{LoopDevice, MIB, Mounted, Scratch, eventually, long, root_with},
    vault_maker::Dice,
};
use serde_json::Value;

const SEED: u64 = 20_261_123;

/// Demands that a status shows a disk that is simply protected: not compared, not sent anew, no block missed.
fn demand_no_rescan(status: &Value, generation: &Value) {
    assert!(protected(status), "{status}");
    assert_eq!(&status["generation"], generation, "a new generation was begun: {status}");
    for disk in status["disks"].as_array().unwrap() {
        assert!(disk["resync_reason"].is_null() && disk["remaining"] == 0, "{disk}");
        assert_eq!(disk["missed_blocks"], 0, "{disk}");
    }
}

/// Lets the agent live for a random time, between none at all and a few intervals, and kills it.
fn live_and_die(mut agent: Agent, dice: &mut Dice, generation: &Value) {
    if dice.below(3) > 0 {
        // Whatever the first thing is that it shows.
        let status = agent.wait_for("a state", |_| true);
        demand_no_rescan(&status, generation);
    }
    let life = Duration::from_millis(dice.below(4000));
    let begin = Instant::now();
    while begin.elapsed() < life {
        if let Some(status) = agent.status() {
            demand_no_rescan(&status, generation);
        }
        thread::sleep(Duration::from_millis(20).min(life));
    }
    agent.kill();
}

fn kills() -> u32 {
    if long() { 50 } else { 10 }
}

#[test]
fn root_a_killed_agent_forgets_no_write_and_compares_nothing() {
    let Some(()) = root_with(&["fio", "mkfs.ext4"]) else { return };
    let scratch = Scratch::new();
    let size = 96 * MIB;
    let disks = ["one.img", "two.img", "three.img"].map(|name| LoopDevice::new(scratch.path(name), size));
    let devices: [&Path; 3] = disks.each_ref().map(|disk| disk.device.as_path());
    let mounted = Mounted::fresh(scratch.path("mounted"), devices[2], "ext4");
    let setup = Setup::new(&scratch, &devices);
    let mut agent = setup.start();
    let generation = agent.wait_until_protected()["generation"].clone();

    let chains = Chains::new(4, 2, size / 2);
    let targets: Vec<_> = devices[..2].iter().map(|device| Target::Raw(device.to_path_buf())).collect();
    let ordered = Ordered::start(&targets, &chains, Some(1500));
    let noise = scribble(devices[0], size / 2, size, SEED, Duration::from_millis(3));
    let random = fio(mounted.point(), "random", Some(300));
    let mut dice = Dice::new(SEED);
    for _ in 0..kills() {
        live_and_die(agent, &mut dice, &generation);
        agent = setup.start();
    }
    // Writers that stop while no agent runs leave their last writes to the bitmap alone.
    agent.kill();
    drop(random);
    mounted.unmount();
    let noise = noise.stop();
    let written = ordered.stop();
    setup.last_run();
    setup.newest_point_equals(&scratch, &disks.each_ref().map(|disk| disk.file.as_path()));
    let log = fs::read_to_string(&setup.log).unwrap();
    assert_eq!(log.matches("a new generation begins").count(), 1, "the first start's alone: {log}");

    // `e2e` checks all of its points; here it is those that span kills which matter, so CI looks at some.
    let (points, limit) = (setup.points(), if long() { usize::MAX } else { 8 });
    let mut crash = 0;
    for point in points.iter().rev().filter(|point| point.is_crash()).take(limit) {
        let dir = scratch.path("restored");
        let copies = setup.restore(point, &dir);
        written.check(&copies[..2], point.time).unwrap_or_else(|e| panic!("{point:?}: {e}"));
        fs::remove_dir_all(dir).unwrap();
        crash += 1;
    }
    let (kills, points) = (kills(), points.len());
    let records = written.steps();
    let _ = writeln!(
        std::io::stderr(),
        "{kills} kills (seed {SEED}): {points} points, {crash} of the crash-consistent ones restored and in order; the last equals the disks; {records} records, {noise} other writes"
    );
}

#[test]
fn root_an_agent_killed_during_initial_replication_goes_on_and_loses_nothing() {
    let Some(()) = root_with(&[]) else { return };
    let scratch = Scratch::new();
    let disk = LoopDevice::new(scratch.path("disk.img"), 256 * MIB);
    // So that it takes a while.
    let filled = scribble(&disk.device, 0, 128 * MIB, 1, Duration::ZERO);
    eventually("a disk to be sent", SOON, || (filled.count() > 2000).then_some(()));
    filled.stop();
    let setup = Setup::new(&scratch, &[&disk.device]);
    setup.configure("interval = '1s'\n[limits]\nretry-wait = '1s'\nupload-rate = '4MiB'\n");
    let noise = scribble(&disk.device, 0, 256 * MIB, SEED, Duration::from_millis(20));
    let mut dice = Dice::new(SEED);
    for _ in 0..kills() / 2 {
        let mut agent = setup.start();
        agent.wait_for("a state", |_| true);
        thread::sleep(Duration::from_millis(dice.below(700)));
        agent.kill();
    }
    setup.configure("interval = '1s'\n");
    let mut agent = setup.start();
    agent.wait_until_protected();
    let noise = noise.stop();
    agent.wait_for_points(1);
    agent.terminate();
    setup.newest_point_equals(&scratch, &[&disk.file]);
    assert!(noise > 0);
}
