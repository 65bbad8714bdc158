//! Failover to a directory of images: what becomes of disks, points and identities, wherever the service is killed.
//!
//! Deliberately not here: machines that run (`tests/vm`).

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mobility_format::{Epoch, SessionId, control::ErrorCode};
use mobility_tests::dice::Dice;
use serde_json::Value;

use crate::{
    agent::Agent,
    commits::{ready, taken_in},
    rig::{PATIENCE, Rig, wait_for},
};

/// How often something is tried to be hit that takes a moment.
const ROUNDS: usize = 6;

/// Where machines are failed over to, in a rig's directory.
pub(crate) fn place(dir: &Path) -> PathBuf {
    dir.join("shelf")
}

/// A service with one place to fail over to.
fn rig() -> Rig {
    Rig::with(|dir| format!("[failover.shelf]\nkind = 'images'\ndirectory = '{}'\n", place(dir).display()))
}

/// A machine with some points, and what its disks held at each epoch.
pub(crate) fn machine(rig: &Rig, points: u64) -> (Agent, Vec<Vec<Vec<u8>>>) {
    let (mut agent, mut held) = (ready(rig, 1), vec![Vec::new()]);
    for _ in 0..points {
        agent.write(20);
        agent.commit();
        held.push(agent.disks.iter().map(|disk| disk.content.clone()).collect());
    }
    taken_in(rig, &agent, points);
    (agent, held)
}

/// A failover that was asked for.
pub(crate) struct Failover<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) id: String,
}

pub(crate) fn begin<'a>(rig: &'a Rig, agent: &Agent, arguments: &[&str]) -> Failover<'a> {
    let machine = agent.machine.to_string();
    let begun = rig.admin(&[&["failover", "start", &machine][..], arguments].concat());
    Failover { rig, id: begun["id"].as_str().unwrap().to_owned() }
}

impl Failover<'_> {
    pub(crate) fn show(&self) -> Value {
        self.rig.admin(&["failover", "show", &self.id])
    }

    /// Waits until its steps are done.
    #[track_caller]
    pub(crate) fn rests(&self, phase: &str) -> Value {
        let shown = wait_for("the end of the steps", || {
            let shown = self.show();
            (shown["phase"] != "running" && shown["waiting"].is_null()).then_some(shown)
        });
        assert_eq!(shown["phase"], phase, "{shown:#}");
        shown
    }

    #[track_caller]
    pub(crate) fn act(&self, arguments: &[&str], phase: &str) -> Value {
        self.rig.admin(&[&["failover", arguments[0], &self.id][..], &arguments[1..]].concat());
        self.rests(phase)
    }
}

/// Demands that the images of a failover are what the disks held.
#[track_caller]
pub(crate) fn images_are(shown: &Value, agent: &Agent, held: &[Vec<u8>]) {
    let disks = shown["disks"].as_array().unwrap();
    assert_eq!(disks.len(), held.len(), "{shown:#}");
    for (disk, content) in agent.disks.iter().zip(held) {
        let of = disks.iter().find(|shown| shown["id"] == disk.id.to_string()).unwrap();
        assert!(fs::read(of["path"].as_str().unwrap()).unwrap() == *content, "{of:#}");
        assert_eq!(of["root"].as_str().unwrap().len(), 64);
    }
}

/// The directory that the images of a failover are in.
fn directory(shown: &Value) -> PathBuf {
    Path::new(shown["disks"][0]["path"].as_str().unwrap()).parent().unwrap().to_owned()
}

#[test]
fn a_test_failover_disturbs_nobody_and_leaves_nothing() {
    let rig = rig();
    let (mut agent, held) = machine(&rig, 3);
    let test = begin(&rig, &agent, &["--kind", "test"]);
    let shown = test.rests("ready");
    images_are(&shown, &agent, &held[3]);
    assert_eq!(shown["chosen"]["epoch"], 3);
    assert!(shown["chosen"]["age_ms"].as_i64().unwrap() >= 0 && shown["took_ms"].as_i64().unwrap() >= 0);

    // The machine goes on, also when its agent is started again; a copy of it does not.
    agent.try_heartbeat().unwrap();
    agent.restart();
    agent.write(5);
    agent.commit();
    taken_in(&rig, &agent, 4);
    let (hardware, session) = (agent.hardware.clone(), agent.session);
    agent.hardware = "of the test".to_owned();
    let refused = agent.try_session().unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotYet, "{refused:?}");
    (agent.hardware, agent.session) = (hardware, session);

    let refused = rig.try_admin(&["failover", "commit", &test.id]).unwrap_err();
    assert!(refused.contains("a test failover is not committed"), "{refused}");
    let place = directory(&shown);
    let shown = test.act(&["cancel"], "cancelled");
    assert_eq!(shown["holds_point"], false);
    assert!(!place.exists() && fs::read_dir(place.parent().unwrap()).unwrap().next().is_none());
    agent.try_heartbeat().unwrap();
}

#[test]
fn of_two_machines_with_one_identity_one_goes_on() {
    let rig = rig();
    let (mut agent, held) = machine(&rig, 2);
    let over = begin(&rig, &agent, &["--kind", "unplanned", "--wait"]);
    images_are(&over.rests("ready"), &agent, &held[2]);
    let other =
        rig.try_admin(&["failover", "start", &agent.machine.to_string(), "--kind", "test"]).unwrap_err();
    assert!(other.contains("being failed over already"), "{other}");

    // The machine that was thought to be gone comes back: it neither goes on nor is it told to give up.
    for _ in 0..2 {
        assert_eq!(agent.try_heartbeat().unwrap_err().code, ErrorCode::NotYet);
        assert_eq!(agent.try_session().unwrap_err().code, ErrorCode::NotYet);
    }
    let before = (agent.hardware.clone(), agent.session);
    (agent.hardware, agent.boot) = ("at the target".to_owned(), "first boot".to_owned());
    agent.session = SessionId([9; 8]);
    assert_eq!(agent.try_session().unwrap_err().code, ErrorCode::NotYet, "it is not decided yet");
    over.act(&["commit"], "committed");
    assert_eq!(agent.try_session().unwrap_err().code, ErrorCode::NotYet, "it is not protected yet");

    rig.admin(&["failover", "reprotect", &over.id]);
    wait_for("the machine at the target to be let in", || agent.try_session().ok());
    agent.new_generation();
    agent.write(1);
    agent.commit();
    let shown = over.rests("reprotected");
    assert_eq!(shown["admitted_at"], 2);
    let at_target = std::mem::replace(&mut agent.hardware, before.0);
    let session = std::mem::replace(&mut agent.session, before.1);
    assert_eq!(agent.try_session().unwrap_err().code, ErrorCode::Fenced, "it was replaced");
    assert_eq!(agent.try_heartbeat().unwrap_err().code, ErrorCode::Fenced);

    // Back: the machine at the target is failed over in its turn, and what it was made of can be removed then.
    (agent.hardware, agent.session) = (at_target, session);
    let back = begin(&rig, &agent, &["--kind", "unplanned", "--wait"]);
    assert_eq!(back.rests("ready")["chosen"]["epoch"], 3);
    over.act(&["remove"], "removed");
    back.act(&["cancel"], "cancelled");
    agent.try_heartbeat().unwrap();
    assert!(fs::read_dir(directory(&shown).parent().unwrap()).unwrap().next().is_none());
}

#[test]
fn a_point_can_be_changed_until_it_is_committed() {
    let rig = rig();
    let (agent, held) = machine(&rig, 4);
    let over = begin(&rig, &agent, &["--kind", "unplanned"]);
    images_are(&over.rests("ready"), &agent, &held[4]);
    let points = rig.admin(&["point", "list", "--machine", &agent.machine.to_string()]);
    let of = |epoch: usize, name: &str| points["points"][epoch - 1][name].as_str().unwrap().to_owned();
    for (point, epoch) in [(of(2, "id"), 2), (of(3, "time"), 3), ("latest-processed".to_owned(), 4)] {
        let shown = over.act(&["change-point", "--point", &point], "ready");
        images_are(&shown, &agent, &held[epoch]);
        assert_eq!(shown["chosen"]["epoch"], epoch);
    }
    let shown = over.act(&["change-point", "--point", "latest-app-consistent"], "failed");
    assert!(shown["hint"].as_str().unwrap().contains("point list"), "{shown:#}");
    over.act(&["change-point", "--point", "latest"], "ready");
    over.act(&["commit"], "committed");
    let refused = rig.try_admin(&["failover", "change-point", &over.id, "--point", "latest"]).unwrap_err();
    assert!(refused.contains("committed"), "{refused}");
}

#[test]
fn a_point_that_is_needed_does_not_go() {
    let rig = rig();
    let (mut agent, held) = machine(&rig, 2);
    let over = begin(&rig, &agent, &["--kind", "test", "--point", "1"]);
    over.rests("ready");
    rig.admin(&["policy", "set", "default", "--keep", "1s:all"]);
    let machine = agent.machine.to_string();
    let there = |epoch: u64| {
        let points = rig.admin(&["point", "list", "--machine", &machine]);
        points["points"].as_array().unwrap().iter().any(|point| point["epoch"] == epoch)
    };
    agent.write(5);
    agent.commit();
    taken_in(&rig, &agent, 3);
    rig.admin(&["machine", "policy", &machine, "default"]);
    wait_for("another point to go", || (!there(2)).then_some(()));
    assert!(there(1), "the point went that a failover needs");
    images_are(&over.show(), &agent, &held[1]);
    over.act(&["cancel"], "cancelled");
    rig.admin(&["machine", "policy", &machine, "default"]);
    wait_for("the point to go", || (!there(1)).then_some(()));
}

#[test]
fn where_a_segment_is_damaged_the_point_before_it_is_offered() {
    let rig = rig();
    let (agent, held) = machine(&rig, 3);
    let segments = rig.storage().join(format!("target/{}/segments/{:020}", agent.machine, 3));
    let segment = fs::read_dir(segments).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let over = begin(&rig, &agent, &["--kind", "unplanned"]);
    let shown = over.rests("failed");
    let hint = shown["hint"].as_str().unwrap();
    let offered = hint.split(' ').find(|word| word.starts_with("2-")).unwrap_or_else(|| panic!("{hint}"));
    let shown = over.act(&["change-point", "--point", offered], "ready");
    images_are(&shown, &agent, &held[2]);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let rig = rig();
    let (agent, _) = machine(&rig, 1);
    let machine = agent.machine.to_string();
    let refused = |arguments: &[&str]| rig.try_admin(arguments).unwrap_err();
    let wrong = [
        (
            refused(&["failover", "start", &machine, "--kind", "test", "--to", "moon"]),
            "there is no place 'moon'",
        ),
        (refused(&["failover", "start", "nobody", "--kind", "test"]), "not one"),
        (refused(&["failover", "show", "feed"]), "is the id of 0 failovers"),
    ];
    for (said, hint) in wrong {
        assert!(said.contains(hint), "{said}");
    }
    let none = begin(&rig, &agent, &["--kind", "test", "--point", "2001-01-01T00:00:00Z"]);
    let shown = none.rests("failed");
    assert!(shown["log"].to_string().contains("no recovery point at or before"), "{shown:#}");
    none.act(&["cancel"], "cancelled");
}

#[test]
fn killed_at_any_moment_it_comes_to_its_end() {
    let mut rig = rig();
    let mut agent = ready(&rig, 1);
    agent.add_disk("large", 20_000);
    let mut dice = Dice::new(11);
    for round in 1..=6 {
        agent.write(4_000);
        agent.commit();
        taken_in(&rig, &agent, round);
        let held: Vec<_> = agent.disks.iter().map(|disk| disk.content.clone()).collect();
        let id = begin(&rig, &agent, &["--kind", "test"]).id;
        loop {
            // How long it runs is what is random here.
            std::thread::sleep(Duration::from_millis(20 + dice.below(1200)));
            rig.kill();
            rig.start();
            if rig.admin(&["failover", "show", &id])["phase"] != "running" || dice.below(6) == 0 {
                break;
            }
        }
        let over = Failover { rig: &rig, id };
        let shown = over.rests("ready");
        images_are(&shown, &agent, &held);
        let place = directory(&shown);
        assert_eq!(fs::read_dir(&place).unwrap().count(), agent.disks.len(), "something was left of a try");
        rig.admin(&["failover", "cancel", &over.id]);
        let id = over.id;
        rig.kill();
        rig.start();
        Failover { rig: &rig, id }.rests("cancelled");
        assert!(!place.exists());
        assert_eq!(agent.next_epoch(), Epoch(round + 1));
        // The database is where the agent's session is: it goes on.
        agent.try_heartbeat().unwrap();
    }
}

#[test]
fn killed_between_an_image_and_the_note_of_it_it_writes_it_again() {
    let mut rig = rig();
    let (agent, held) = machine(&rig, 1);
    for _ in 0..ROUNDS {
        let id = begin(&rig, &agent, &["--kind", "test"]).id;
        let place = place(rig.data().parent().unwrap()).join(&id);
        // Without a pause: what is to be hit takes a moment.
        let end = Instant::now() + PATIENCE;
        while !fs::read_dir(&place).is_ok_and(|mut images| images.next().is_some()) {
            assert!(Instant::now() < end, "no image");
        }
        rig.kill();
        rig.start();
        let over = Failover { rig: &rig, id };
        images_are(&over.rests("ready"), &agent, &held[1]);
        over.act(&["cancel"], "cancelled");
    }
}
