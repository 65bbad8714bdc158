//! The agent is asked to end, at any moment, and to read its configuration again.
//!
//! Deliberately not here: kills, which need no cooperation (`scan`, `root/kill`).

use std::{fs, path::PathBuf, time::Duration};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup},
    load::scribble,
    scratch::{MIB, Scratch, eventually},
};
use rustix::process::Signal;

use crate::scan::image;

fn protected(scratch: &Scratch) -> (Setup, Agent, PathBuf) {
    let image = image(scratch, 8 * MIB);
    let setup = Setup::new(scratch, &[&image]);
    let mut agent = setup.start();
    agent.wait_until_protected();
    (setup, agent, image)
}

#[test]
fn an_idle_agent_ends_when_asked() {
    let scratch = Scratch::new();
    let (setup, agent, _) = protected(&scratch);
    agent.terminate();
    assert!(setup.status().is_none(), "an agent that has ended is not shown");
}

#[test]
fn an_agent_ends_when_asked_during_initial_replication_and_goes_on_later() {
    let scratch = Scratch::new();
    let image = image(&scratch, 96 * MIB);
    let filled = scribble(&image, 0, 96 * MIB, 1, Duration::ZERO);
    eventually("a disk to be sent", SOON, || (filled.count() > 1000).then_some(()));
    filled.stop();
    let setup = Setup::new(&scratch, &[&image]);
    setup.configure("interval = '1s'\n[limits]\nupload-rate = '512KiB'\n");
    let mut agent = setup.start();
    let begun = agent.wait_for("initial replication", |status| status["uploaded"].as_u64() > Some(0));
    assert_eq!(begun["disks"][0]["state"], "initial-replication", "{begun}");
    assert!(begun["last_point"].is_null(), "{begun}");
    agent.terminate();
    assert_eq!(setup.points().len(), 0, "nothing is half committed");
    setup.configure("interval = '1s'\n");
    setup.last_run();
    setup.newest_point_equals(&scratch, &[&image]);
}

#[test]
fn an_agent_ends_when_asked_while_the_storage_is_gone() {
    let scratch = Scratch::new();
    let (setup, mut agent, image) = protected(&scratch);
    let away = scratch.path("away");
    fs::rename(&setup.vault, &away).unwrap();
    let writer = scribble(&image, 0, 8 * MIB, 1, Duration::from_millis(10));
    let status = agent.wait_for("what is wrong", |status| status["last_error"]["kind"] == "storage-gone");
    let message = status["last_error"]["message"].as_str().unwrap();
    assert!(message.contains("vault") && message.contains("back"), "{message}");
    agent.terminate();
    writer.stop();
    fs::rename(&away, &setup.vault).unwrap();
    setup.last_run();
    setup.newest_point_equals(&scratch, &[&image]);
}

#[test]
fn a_changed_interval_is_taken_up_and_an_invalid_one_is_not() {
    let scratch = Scratch::new();
    let (setup, mut agent, _) = protected(&scratch);
    // By the change itself.
    setup.configure("interval = '7s'\n");
    agent.wait_for("the changed interval", |status| status["interval_s"] == 7);
    // By the signal, also where the change was not noticed.
    setup.configure("interval = '8s'\n");
    agent.signal(Signal::HUP);
    agent.wait_for("the next interval", |status| status["interval_s"] == 8);

    setup.configure("intervall = '9s'\n");
    let status = agent.wait_for("what is wrong", |status| {
        status["last_error"]["message"].as_str().is_some_and(|message| message.contains("intervall"))
    });
    assert_eq!(status["interval_s"], 8, "the one before stays in force: {status}");
    assert!(setup.log_tail().contains("stays in force"));
    setup.configure("interval = '3s'\n");
    agent.wait_for("a valid one again", |status| status["interval_s"] == 3);
    agent.terminate();
}

#[test]
fn a_run_for_a_time_ends_with_a_point_of_its_end() {
    let scratch = Scratch::new();
    let image = image(&scratch, 8 * MIB);
    let setup = Setup::new(&scratch, &[&image]);
    setup.configure("interval = '1h'\n");
    let mut agent = setup.clone().flags(&["--for", "2s"]).start();
    agent.wait_until_protected();
    let written = scribble(&image, 0, 8 * MIB, 1, Duration::from_millis(1));
    eventually("some writes", SOON, || fs::read(&image).unwrap().iter().any(|&byte| byte != 0).then_some(()));
    written.stop();
    let (status, _) = agent.ended(SOON);
    assert!(status.success());
    setup.newest_point_equals(&scratch, &[&image]);
}
