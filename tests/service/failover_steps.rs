//! The service is killed after every single step of a failover, when that is done and could not be noted; or the failover is cancelled
//! there. It comes to the same end as if nothing had happened.
//!
//! Every list of steps that there is is gone through here. Deliberately not here: kills in the middle of a step, which chance hits
//! (`failover`, `planned`, `mending`).

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mobility_format::{
    SessionId,
    control::{CommandResult, Order},
};
use mobility_tests::dice::Dice;
use serde_json::Value;

use crate::{
    agent::Agent,
    commits::taken_in,
    database::Strikes,
    failover::{Failover, begin, directory, images_are, machine, place, rig},
    planned::{self, PLANNED, answer, content, last_point},
    rig::{Rig, wait_for},
};

const UNPLANNED: [&str; 2] = ["--kind", "unplanned"];
/// How often an agent looks for orders that does nothing else.
const LOOK: Duration = Duration::from_millis(20);

fn over<'a>(rig: &'a Rig, id: &str) -> Failover<'a> {
    Failover { rig, id: id.to_owned() }
}

fn ask(rig: &Rig, id: &str, words: &[&str]) {
    rig.admin(&[&["failover", words[0], id][..], &words[1..]].concat());
}

/// The steps of a failover, each of which has to be done.
#[track_caller]
fn done(shown: &Value) -> Vec<String> {
    let steps = shown["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| !step["ended"].is_null()), "{shown:#}");
    steps.iter().map(|step| step["step"].as_str().unwrap().to_owned()).collect()
}

/// Demands that nothing is left at the place.
#[track_caller]
fn is_clean(rig: &Rig) {
    let left = fs::read_dir(place(rig.data().parent().unwrap())).map_or(0, Iterator::count);
    assert_eq!(left, 0, "something is left at the place");
}

/// An agent that does what it is told, until it is told to end; how often it was told what.
fn obeys(agent: &mut Agent, end: &AtomicBool) -> BTreeMap<&'static str, usize> {
    let mut told = BTreeMap::new();
    while !end.load(Ordering::Relaxed) {
        // Neither a service that is away nor one that does not know who goes on gives orders.
        for command in agent.commands(0).map_or(Vec::new(), |commands| commands.commands) {
            let (what, result) = match command.order {
                Order::Halt { .. } => ("halt", last_point(agent)),
                Order::SwitchOff { .. } => ("switch-off", CommandResult::done("it goes off")),
                _ => ("go-on", CommandResult::done("it goes on")),
            };
            if answer(agent, &command, &result).is_ok() {
                *told.entry(what).or_insert(0) += 1;
            }
        }
        std::thread::sleep(LOOK);
    }
    told
}

/// Does something while an agent obeys.
fn meanwhile(agent: &mut Agent, work: impl FnOnce()) -> BTreeMap<&'static str, usize> {
    /// Also where the work fails: the agent would go on for ever.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let agent = scope.spawn(|| obeys(agent, &end));
        let ends = End(&end);
        work();
        drop(ends);
        agent.join().unwrap()
    })
}

#[test]
fn killed_after_every_step_from_its_begin_to_its_removal() {
    let mut rig = rig();
    let (mut agent, held) = machine(&rig, 3);
    let strikes = Strikes::at(&mut rig, "failovers");
    let mut id = String::new();
    strikes.at_each(&mut rig, 0..8, |rig| id = begin(rig, &agent, &UNPLANNED).id);
    let shown = over(&rig, &id).rests("ready");
    images_are(&shown, &agent, &held[3]);
    strikes.at_each(&mut rig, 8..17, |rig| ask(rig, &id, &["change-point", "--point", "1"]));
    let shown = over(&rig, &id).rests("ready");
    images_are(&shown, &agent, &held[1]);
    assert_eq!(fs::read_dir(directory(&shown)).unwrap().count(), agent.disks.len(), "something else is left");
    strikes.at_each(&mut rig, 17..18, |rig| ask(rig, &id, &["commit"]));
    over(&rig, &id).rests("committed");

    // It is admitted once more when it has made a point already.
    strikes.strike(&rig, 18, || ask(&rig, &id, &["reprotect"]));
    (agent.hardware, agent.boot) = ("at the target".to_owned(), "first boot".to_owned());
    agent.session = SessionId([9; 8]);
    wait_for("the machine at the target to be let in", || agent.try_session().ok());
    agent.new_generation();
    agent.write(1);
    agent.commit();
    taken_in(&rig, &agent, 4);
    strikes.go_on(&mut rig, 18..20);
    let shown = over(&rig, &id).rests("reprotected");
    assert_eq!(shown["admitted_at"], 3, "what is newest was looked at before anybody was let in");
    strikes.at_each(&mut rig, 20..23, |rig| ask(rig, &id, &["remove"]));
    let shown = over(&rig, &id).rests("removed");
    is_clean(&rig);
    agent.try_heartbeat().unwrap();
    let whole = [
        "hold-machine",
        "choose-point",
        "restore-disks",
        "mend-disks",
        "make-machine",
        "start-machine",
        "watch-boot",
    ];
    let expected = [
        &["check-place"],
        &whole[..],
        &["stop-machine", "remove-machine"],
        &whole,
        &[
            "let-point-go",
            "admit-machine",
            "wait-for-point",
            "stop-machine",
            "remove-machine",
            "release-machine",
        ],
    ];
    assert_eq!(done(&shown), expected.concat());
}

#[test]
fn killed_after_every_step_a_planned_failover_loses_nothing_and_is_undone() {
    let mut rig = planned::rig(60);
    let (mut agent, _) = machine(&rig, 1);
    let strikes = Strikes::at(&mut rig, "failovers");
    let mut id = String::new();
    let token = agent.machine;
    let told = meanwhile(&mut agent, || {
        let begins = |rig: &Rig| {
            let begun = rig.admin(&["failover", "start", &token.to_string(), PLANNED[0], PLANNED[1]]);
            id = begun["id"].as_str().unwrap().to_owned();
        };
        strikes.at_each(&mut rig, 0..10, begins);
        over(&rig, &id).rests("ready");
    });
    assert_eq!(told, [("halt", 1), ("switch-off", 1)].into(), "nothing is ordered twice");
    let shown = over(&rig, &id).rests("ready");
    images_are(&shown, &agent, &content(&agent));
    assert_eq!((&shown["chosen"]["epoch"], &shown["chosen"]["age_ms"]), (&2.into(), &0.into()));
    strikes.at_each(&mut rig, 10..15, |rig| ask(rig, &id, &["cancel"]));
    let shown = over(&rig, &id).rests("cancelled");
    assert_eq!((done(&shown).len(), &shown["holds_point"]), (15, &false.into()));
    is_clean(&rig);
    agent.restart();
    agent.write(1);
    agent.commit();
}

#[test]
fn an_order_that_could_not_be_noted_is_not_given_twice() {
    let mut rig = planned::rig(60);
    let (mut agent, _) = machine(&rig, 1);
    rig.database.refuse_orders();
    let id = begin(&rig, &agent, &PLANNED).id;
    let ordered = |agent: &Agent| agent.commands(1).map_or(Vec::new(), |commands| commands.commands);
    let first = wait_for("the order", || ordered(&agent).pop());
    rig.kill();
    rig.database.relent("failovers");
    rig.start();
    wait_for("the order to be noted", || over(&rig, &id).show()["source"]["command"].as_u64());
    let waiting: Vec<_> = ordered(&agent).iter().map(|command| command.id).collect();
    assert_eq!(waiting, [first.id]);
    meanwhile(&mut agent, || drop(over(&rig, &id).rests("ready")));
}

#[test]
fn cancelled_after_any_step_it_leaves_nothing() {
    let mut rig = planned::rig(60);
    let (mut agent, _) = machine(&rig, 1);
    let strikes = Strikes::at(&mut rig, "failovers");
    let mut dice = Dice::new(31);
    // All steps that both kinds have in common are the same, but for what was before.
    let rounds = (0..8).map(|steps| ("unplanned", steps)).chain((0..4).map(|steps| ("planned", steps)));
    for (kind, steps) in rounds {
        let (machine, mut id) = (agent.machine.to_string(), String::new());
        let killed = dice.below(2) == 0;
        let told = meanwhile(&mut agent, || {
            strikes.strike(&rig, steps, || {
                let begun = rig.admin(&["failover", "start", &machine, "--kind", kind]);
                id = begun["id"].as_str().unwrap().to_owned();
            });
            ask(&rig, &id, &["cancel"]);
            strikes.kill(&mut rig);
            if killed {
                rig.kill();
                rig.start();
            }
            over(&rig, &id).rests("cancelled");
        });
        let shown = over(&rig, &id).show();
        assert!(shown["holds_point"] == false && shown["disks"] == Value::Array(Vec::new()), "{shown:#}");
        is_clean(&rig);
        match shown["source"]["off"] == true {
            // Somebody has to switch it on.
            true => drop(agent.restart()),
            false => {
                assert_eq!(told.get("go-on"), told.get("halt"), "{kind} {steps}: what was stopped goes on")
            }
        }
        wait_for("the agent to go on", || agent.try_heartbeat().ok());
        agent.write(1);
        agent.commit();
    }
}
