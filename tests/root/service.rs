//! The whole way, over TLS: a tracked disk, an agent that enrolled, a service that takes in what arrives, and a restore on the
//! far side that is the disk, byte for byte; after kills of either side, an outage and a store that lied.
//!
//! Deliberately not here: what the protocol refuses (`service`, `link`), and other stores than a directory (`stores`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests, too")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup, protected},
    load::{Worker, scribble},
    scratch::{LoopDevice, MIB, Scratch, eventually, root_with},
    service_process::ServiceProcess,
    vault_maker::Dice,
};
use serde_json::Value;

const SEED: u64 = 20_261_124;
const SIZE: u64 = 64 * MIB;
const PAUSE: Duration = Duration::from_millis(3);

/// A service, a disk, and an agent that protects it there.
struct Rig {
    setup: Setup,
    service: ServiceProcess,
    disk: LoopDevice,
    scratch: Scratch,
}

impl Rig {
    fn new() -> Option<Rig> {
        root_with(&[])?;
        let scratch = Scratch::new();
        let disk = LoopDevice::new(scratch.path("disk.img"), SIZE);
        let service = ServiceProcess::new(scratch.path("service"));
        service.admin(&["policy", "set", "default", "--interval", "1"]);
        let setup = Setup::enrolled(&scratch, &[disk.device.as_path()], &service);
        Some(Rig { setup, service, disk, scratch })
    }

    fn write(&self, seed: u64) -> Worker {
        scribble(self.disk.device.as_path(), 0, SIZE, seed, PAUSE)
    }

    /// Stops the writer, and waits until a point that was begun after that is in target storage.
    fn settle(&self, agent: &mut Agent, writer: Worker) {
        assert!(writer.stop() > 0);
        let epoch = |status: &Value| status["last_point"]["epoch"].as_u64().unwrap_or(0);
        let now = epoch(&agent.wait_for("a point", |status| epoch(status) > 0));
        // The next one may have been cut before the writer stopped.
        agent.wait_for("two more points", |status| epoch(status) > now + 1 && protected(status));
        let last = epoch(&agent.status().unwrap());
        let taken_in =
            || self.setup.points().iter().any(|point| point.listed["epoch"].as_u64() >= Some(last));
        eventually("the intake of the last point", SOON, || taken_in().then_some(()));
    }

    #[track_caller]
    fn demand_equal(&self) {
        self.setup.newest_point_equals(&self.scratch, &[self.disk.file.as_path()]);
    }
}

#[test]
fn root_what_is_replicated_through_a_service_is_the_disk() {
    let Some(rig) = Rig::new() else { return };
    let writer = rig.write(SEED);
    let mut agent = rig.setup.start();
    agent.wait_for("protection", protected);
    rig.service.admin(&["policy", "set", "default", "--interval", "2"]);
    agent.wait_for("the policy's interval", |status| status["interval_s"] == 2);
    rig.settle(&mut agent, writer);
    agent.terminate();
    rig.demand_equal();
    let machines = rig.service.admin(&["machine", "list"]);
    assert_eq!(machines["machines"].as_array().map(Vec::len), Some(1), "{machines}");
}

#[test]
fn root_kills_of_either_side_lose_nothing_and_compare_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    let mut dice = Dice::new(SEED);
    let writer = rig.write(SEED + 1);
    let mut agent = rig.setup.start();
    let generation = agent.wait_for("protection", protected)["generation"].clone();
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(dice.below(2500)));
        if dice.below(2) == 0 {
            agent.kill();
            agent = rig.setup.start();
        } else {
            rig.service.kill();
            thread::sleep(Duration::from_millis(dice.below(1500)));
            rig.service.start();
        }
    }
    rig.settle(&mut agent, writer);
    let status = agent.status().unwrap();
    assert_eq!(status["generation"], generation, "a resync: {status}\n{}", rig.setup.log_tail());
    agent.terminate();
    rig.demand_equal();
}

#[test]
fn root_an_outage_of_the_service_loses_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    let writer = rig.write(SEED + 2);
    let mut agent = rig.setup.start();
    agent.wait_for("protection", protected);
    // The service's own cache is down with it here: writes wait as marks, and none is lost.
    rig.service.stop();
    agent.wait_for("the outage", |status| !status["outage"].is_null());
    thread::sleep(Duration::from_secs(3));
    rig.service.start();
    agent.wait_for("its end", |status| status["outage"].is_null());
    rig.settle(&mut agent, writer);
    agent.terminate();
    rig.demand_equal();
}

/// Flips a byte in the middle of the first segment that shows up in cache storage.
fn damage_a_segment(cache: &Path) -> PathBuf {
    let slots = |dir: &Path| -> Vec<PathBuf> {
        let below =
            |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        below(dir.to_owned())
            .flat_map(below)
            .map(|generation| generation.join("slots"))
            .flat_map(below)
            .collect()
    };
    eventually("a segment in cache storage", SOON, || {
        let path =
            slots(cache).into_iter().find(|path| path.extension().is_some_and(|name| name == "seg"))?;
        let mut bytes = fs::read(&path).ok()?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).ok().map(|()| path)
    })
}

#[test]
fn root_a_segment_that_was_damaged_on_its_way_is_sent_again() {
    let Some(rig) = Rig::new() else { return };
    let writer = rig.write(SEED + 3);
    let mut agent = rig.setup.start();
    let generation = agent.wait_for("protection", protected)["generation"].clone();
    // Most are taken in before anybody can touch them, so this is tried until one is not.
    let resynced = |status: &Value| status["generation"] != generation;
    eventually("a resync", SOON, || {
        let damaged = damage_a_segment(&rig.service.storage().join("cache"));
        thread::sleep(Duration::from_millis(200));
        let status = agent.status()?;
        assert!(rig.setup.vault.exists(), "{damaged:?}");
        resynced(&status).then_some(())
    });
    rig.settle(&mut agent, writer);
    agent.terminate();
    rig.demand_equal();
    let events = rig.service.admin(&["event", "list"]).to_string();
    assert!(events.contains("resync") || events.contains("refused"), "{events}");
}

#[test]
fn root_scripts_that_the_policy_does_not_allow_do_not_run() {
    let Some(mut rig) = Rig::new() else { return };
    let (scripts, ran) = (rig.scratch.path("scripts"), rig.scratch.path("it-ran"));
    fs::create_dir(&scripts).unwrap();
    let script = scripts.join("10-notes");
    fs::write(&script, format!("#!/bin/sh\necho $1 >>{}\n", ran.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let set = |allowed: &str| {
        rig.service.admin(&["policy", "set", "default", "--scripts", allowed])["version"].clone()
    };
    set("false");
    rig.setup = rig.setup.clone().flags(&["--scripts", scripts.to_str().unwrap()]);
    let mut agent = rig.setup.start();
    agent.wait_for("protection", protected);
    let ask = ["--app-consistent", "--timeout", "60s"];
    let (code, said) = rig.setup.ask_for_point(&ask);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("policy does not let scripts run"), "{said}");
    let machines = rig.service.admin(&["machine", "list"]);
    let machine = machines["machines"][0]["id"].as_str().unwrap().to_owned();
    rig.service.admin(&["machine", "point", &machine, "--app-consistent"]);
    eventually("the command to fail", SOON, || {
        let events = rig.service.admin(&["event", "list", "--machine", &machine]).to_string();
        events.contains("policy does not let scripts run").then_some(())
    });
    let (code, said) = rig.setup.ask_for_point(&["--timeout", "60s"]);
    assert_eq!(code, Some(0), "any other point can be had: {said}");
    assert!(!ran.exists(), "it ran: {}", fs::read_to_string(&ran).unwrap());

    set("true");
    // The change comes with a heartbeat, so this is asked for again until it is there.
    eventually("the script to run", SOON, || {
        let _ = rig.setup.ask_for_point(&ask);
        ran.exists().then_some(())
    });
    assert_eq!(fs::read_to_string(&ran).unwrap(), "pre\npost\n");
    agent.terminate();
}

#[test]
fn root_a_machine_that_rests_tracks_what_it_will_send() {
    let Some(rig) = Rig::new() else { return };
    let mut agent = rig.setup.start();
    let generation = agent.wait_for("protection", protected)["generation"].clone();
    let machines = rig.service.admin(&["machine", "list"]);
    let machine = machines["machines"][0]["id"].as_str().unwrap().to_owned();
    rig.service.admin(&["machine", "pause", &machine]);
    let paused = agent.wait_for("rest", |status| status["phase"] == "paused");
    let writer = rig.write(SEED + 4);
    // A restart does not end it.
    agent.kill();
    let mut agent = rig.setup.start();
    agent.wait_for("rest again", |status| status["phase"] == "paused");
    thread::sleep(Duration::from_secs(3));
    let status = agent.status().unwrap();
    assert_eq!(status["epoch"], paused["epoch"], "a point was made: {status}");
    rig.service.admin(&["machine", "resume", &machine]);
    rig.settle(&mut agent, writer);
    assert_eq!(agent.status().unwrap()["generation"], generation, "a resync");
    agent.terminate();
    rig.demand_equal();
}
