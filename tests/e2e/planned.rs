//! A machine is failed over as planned, with the real agent and the real service: what writes is stopped by a service manager that a
//! stand-in plays, the last point is made after that, and nothing comes after it.
//!
//! Deliberately not here: whether systemd does what it is asked (`vm/failover.rs`), and services that are killed meanwhile
//! (`service/planned.rs`).

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use mobility_tests::{
    agent_process::{Agent, SOON, Setup, protected},
    scratch::{MIB, Scratch, compare, eventually},
    service_manager::StandIn,
    service_process::ServiceProcess,
};
use serde_json::Value;

use crate::scan::image;

struct Rig {
    service: ServiceProcess,
    setup: Setup,
    image: PathBuf,
    scratch: Scratch,
}

impl Rig {
    /// An agent whose service manager is this one.
    fn new(manager: &Path, more: &str) -> Rig {
        let scratch = Scratch::new();
        let image = image(&scratch, 8 * MIB);
        let shelf = scratch.path("shelf");
        let place =
            format!("[failover.shelf]\nkind = 'images'\nformat = 'raw'\ndirectory = '{}'\n", shelf.display());
        let service = ServiceProcess::configured(scratch.path("service"), &place);
        service.admin(&["policy", "set", "default", "--interval", "1"]);
        let setup = Setup::enrolled(&scratch, &[&image], &service);
        let manager = manager.display();
        setup.configure(&format!("[limits]\nretry-wait = '1s'\n[stop]\nmanager = '{manager}'\n{more}"));
        Rig { service, setup, image, scratch }
    }

    fn protected(&self) -> Agent {
        let mut agent = self.setup.start();
        agent.wait_for("protection", protected);
        agent
    }

    fn write(&self, at: u64, text: &str) {
        let image = OpenOptions::new().write(true).open(&self.image).unwrap();
        image.write_all_at(text.as_bytes(), at).unwrap();
        image.sync_all().unwrap();
    }

    fn machine(&self) -> String {
        let machines = self.service.admin(&["machine", "list"]);
        machines["machines"][0]["id"].as_str().unwrap().to_owned()
    }

    fn begin(&self) -> String {
        let begun = self.service.admin(&["failover", "start", &self.machine(), "--kind", "planned"]);
        begun["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn rests(&self, id: &str, phase: &str) -> Value {
        let shown = eventually("the end of the steps", SOON, || {
            let shown = self.service.admin(&["failover", "show", id]);
            (shown["phase"] != "running" && shown["waiting"].is_null()).then_some(shown)
        });
        assert_eq!(shown["phase"], phase, "{shown:#}\n{}", self.setup.log_tail());
        shown
    }

    fn newest(&self) -> Option<u64> {
        self.setup.points().iter().filter_map(|point| point.listed["epoch"].as_u64()).max()
    }
}

#[test]
fn a_machine_is_stopped_and_what_it_wrote_last_is_at_the_target() {
    let manager = StandIn::new().busy_for(3);
    let rig = Rig::new(manager.path(), "");
    let agent = rig.protected();
    rig.write(MIB, "shortly before");
    let id = rig.begin();
    let shown = rig.rests(&id, "ready");
    assert!(manager.was_asked("StartUnit", "mobility-agent-halted.target"), "{:?}", manager.asked());
    let there = PathBuf::from(shown["disks"][0]["path"].as_str().unwrap());
    compare(&there, &rig.image).unwrap();
    assert_eq!(shown["chosen"]["age_ms"], 0, "{shown:#}");
    eventually("the machine to be switched off", SOON, || {
        manager.was_asked("StartUnit", "poweroff.target").then_some(())
    });
    // Whatever is written after the last point is in none.
    rig.write(2 * MIB, "too late");
    agent.terminate();
    assert_eq!(rig.newest(), shown["source"]["last"]["epoch"].as_u64(), "a point after the last one");
    assert!(compare(&there, &rig.image).is_err());
    drop(rig.scratch);
}

#[test]
fn an_agent_that_is_killed_while_it_stops_the_machine_does_it_again_and_one_that_is_cancelled_goes_on() {
    let manager = StandIn::new().busy_for(usize::MAX);
    let rig = Rig::new(manager.path(), "limit = '10min'\n");
    let agent = rig.protected();
    let id = rig.begin();
    let isolated = || manager.asked().iter().filter(|(method, _)| method == "StartUnit").count();
    eventually("the machine to be stopped", SOON, || (isolated() == 1).then_some(()));
    agent.kill();
    let agent = rig.setup.start();
    eventually("the machine to be stopped again", SOON, || (isolated() == 2).then_some(()));
    rig.service.admin(&["failover", "cancel", &id]);
    let shown = rig.rests(&id, "cancelled");
    assert!(shown["steps"].to_string().contains("what was stopped is started again"), "{shown:#}");
    assert!(
        manager.was_asked("StartUnit", "default.target")
            && !manager.was_asked("StartUnit", "poweroff.target")
    );
    rig.write(MIB, "it goes on");
    let before = rig.newest().unwrap();
    // The next one may have been cut before that was written.
    eventually("two points after that", SOON, || (rig.newest() > Some(before + 1)).then_some(()));
    agent.terminate();
    rig.setup.newest_point_equals(&rig.scratch, &[&rig.image]);
}

#[test]
fn an_agent_that_is_killed_before_the_machine_is_off_switches_it_off_again() {
    let manager = StandIn::new();
    let rig = Rig::new(manager.path(), "");
    let agent = rig.protected();
    let id = rig.begin();
    let last = rig.rests(&id, "ready")["source"]["last"]["epoch"].as_u64();
    let switched_off = || manager.times_asked("StartUnit", "poweroff.target");
    eventually("the machine to be switched off", SOON, || (switched_off() == 1).then_some(()));
    // The service has taken it for switched off, and holds its identity.
    agent.kill();
    let agent = rig.setup.start();
    eventually("the machine to be switched off again", SOON, || (switched_off() == 2).then_some(()));
    rig.service.admin(&["failover", "cancel", &id]);
    rig.rests(&id, "cancelled");
    eventually("what was stopped to be started again", SOON, || {
        manager.was_asked("StartUnit", "default.target").then_some(())
    });
    // Points are made again: it goes on as the machine that it was.
    eventually("a point after the last one", SOON, || (rig.newest() > last).then_some(()));
    agent.terminate();
    assert_eq!(switched_off(), 2, "a machine that goes on was switched off");
    rig.setup.newest_point_equals(&rig.scratch, &[&rig.image]);
}

#[test]
fn a_machine_that_may_not_or_cannot_be_stopped_says_why() {
    let manager = StandIn::new();
    let rig = Rig::new(manager.path(), "allow = false\n");
    let agent = rig.protected();
    let id = rig.begin();
    let shown = rig.rests(&id, "failed");
    assert!(shown["log"].to_string().contains("stop.allow"), "{shown:#}");
    assert!(manager.asked().is_empty(), "it was asked all the same");
    // The changed configuration is read by itself.
    rig.setup.configure("[limits]\nretry-wait = '1s'\n[stop]\nmanager = '/nonexistent/private'\n");
    eventually("another reason", SOON, || {
        rig.service.admin(&["failover", "resume", &id]);
        let shown = rig.rests(&id, "failed");
        shown["log"].to_string().contains("nothing was stopped").then_some(())
    });
    rig.service.admin(&["failover", "cancel", &id]);
    rig.rests(&id, "cancelled");
    agent.terminate();
    assert!(fs::read_dir(rig.scratch.path("shelf")).map_or(true, |mut left| left.next().is_none()));
}
