//! Planned failover: the machine is stopped before, so nothing is lost; whatever it answers, or does not, and whoever is killed.
//!
//! Deliberately not here: how an agent stops its machine (`e2e/planned.rs`, `vm/failover.rs`).

use std::{fs, time::Duration};

use mobility_format::control::{Claim, Command, CommandResult, ErrorCode, Order};
use mobility_tests::dice::Dice;
use serde_json::Value;

use crate::{
    agent::{Agent, Refused},
    commits::ready,
    failover::{Failover, begin, images_are, machine, place},
    rig::{Rig, wait_for},
};

pub(crate) const PLANNED: [&str; 2] = ["--kind", "planned"];

/// A service that waits for so many seconds for a machine to be stopped.
pub(crate) fn rig(limit: u64) -> Rig {
    Rig::with(|dir| {
        let shelf = place(dir).display().to_string();
        format!("[limits]\nsource-s = {limit}\n[failover.shelf]\nkind = 'images'\ndirectory = '{shelf}'\n")
    })
}

/// The order that waits for the machine.
fn ordered(agent: &Agent) -> Command {
    wait_for("an order", || agent.commands(1).ok()?.commands.into_iter().next())
}

pub(crate) fn answer(agent: &Agent, command: &Command, result: &CommandResult) -> Result<(), Refused> {
    agent.post(&format!("/v1/commands/{}", command.id), result)
}

/// What an agent does that is told to stop what writes: it makes a last point and says which it is.
pub(crate) fn last_point(agent: &mut Agent) -> CommandResult {
    agent.write(7);
    agent.commit();
    let head = agent.head.as_ref().unwrap();
    let point = Claim { generation: head.generation, epoch: head.epoch, digest: head.digest };
    CommandResult { point: Some(point), ..CommandResult::done("the last point is made") }
}

#[track_caller]
fn halts(agent: &mut Agent, id: &str) {
    let command = ordered(agent);
    assert_eq!(command.order, Order::Halt { failover: id.to_owned() });
    let result = last_point(agent);
    answer(agent, &command, &result).unwrap();
}

#[track_caller]
fn switches_off(agent: &Agent, id: &str) {
    let command = ordered_off(agent);
    assert_eq!(command.order, Order::SwitchOff { failover: id.to_owned() });
    answer(agent, &command, &CommandResult::done("it goes off")).unwrap();
}

fn ordered_off(agent: &Agent) -> Command {
    wait_for("the order to switch off", || {
        let commands = agent.commands(1).ok()?.commands;
        commands.into_iter().find(|command| matches!(command.order, Order::SwitchOff { .. }))
    })
}

/// What its disks hold.
pub(crate) fn content(agent: &Agent) -> Vec<Vec<u8>> {
    agent.disks.iter().map(|disk| disk.content.clone()).collect()
}

/// What came of a step.
#[track_caller]
fn result_of(shown: &Value, step: &str) -> String {
    let steps = shown["steps"].as_array().unwrap();
    let of = steps.iter().rev().find(|done| done["step"] == step);
    of.unwrap_or_else(|| panic!("no {step}: {shown:#}"))["result"].as_str().unwrap().to_owned()
}

#[test]
fn a_planned_failover_loses_nothing() {
    let rig = rig(60);
    let (mut agent, held) = machine(&rig, 2);
    let over = begin(&rig, &agent, &PLANNED);
    halts(&mut agent, &over.id);
    // It is switched off only when its last point is safe.
    let off = ordered_off(&agent);
    let waits = over.show();
    assert_eq!(waits["source"]["last"]["epoch"], 3);
    assert!(result_of(&waits, "halt-source").contains("its last point is 3-"), "{waits:#}");
    answer(&agent, &off, &CommandResult::done("it goes off")).unwrap();
    let shown = over.rests("ready");
    images_are(&shown, &agent, &content(&agent));
    assert_eq!((&shown["chosen"]["epoch"], &shown["chosen"]["age_ms"]), (&3.into(), &0.into()));
    assert!(result_of(&shown, "choose-point").contains("with all that was written"), "{shown:#}");
    assert_eq!(agent.try_heartbeat().unwrap_err().code, ErrorCode::NotYet, "who goes on is not decided");

    // It is off: from another point the machine is made without asking it again.
    let shown = over.act(&["change-point", "--point", "1"], "ready");
    images_are(&shown, &agent, &held[1]);
    assert!(shown["chosen"]["age_ms"].as_i64().unwrap() > 0);
    let halts = shown["steps"].as_array().unwrap().iter().filter(|done| done["step"] == "halt-source");
    assert_eq!(halts.count(), 1);
    images_are(&over.act(&["change-point", "--point", "latest"], "ready"), &agent, &content(&agent));
    over.act(&["commit"], "committed");
    let refused = rig.try_admin(&["failover", "cancel", &over.id]).unwrap_err();
    assert!(refused.contains("fail back"), "{refused}");
}

#[test]
fn a_point_older_than_the_last_one_is_not_taken_in_its_place() {
    let rig = rig(60);
    let (mut agent, held) = machine(&rig, 2);
    let over = begin(&rig, &agent, &PLANNED);
    halts(&mut agent, &over.id);
    let off = ordered_off(&agent);
    // Target storage loses the machine's last point before it is chosen.
    let last = rig.storage().join(format!("target/{}/points/{:020}.point", agent.machine, 3));
    let away = rig.data().join("away");
    fs::rename(&last, &away).unwrap();
    answer(&agent, &off, &CommandResult::done("it goes off")).unwrap();
    let shown = over.rests("failed");
    assert!(result_of(&shown, "choose-point").contains("older than the machine's last one"), "{shown:#}");
    assert!(shown["hint"].as_str().unwrap().contains("change-point"), "{shown:#}");
    assert_eq!(fs::read_dir(place(rig.data().parent().unwrap())).map_or(0, Iterator::count), 0);
    fs::rename(&away, &last).unwrap();
    let shown = over.act(&["resume"], "ready");
    images_are(&shown, &agent, &content(&agent));
    assert_eq!(shown["chosen"]["age_ms"], 0);
    // Somebody who says so gets the older one.
    images_are(&over.act(&["change-point", "--point", "2"], "ready"), &agent, &held[2]);
}

#[test]
fn a_machine_without_a_point_is_not_stopped() {
    let rig = rig(60);
    let agent = ready(&rig, 1);
    let over = begin(&rig, &agent, &PLANNED);
    let shown = over.rests("failed");
    assert!(result_of(&shown, "halt-source").contains("the machine is not stopped"), "{shown:#}");
    assert_eq!(shown["source"]["asked"], false);
    assert!(agent.commands(1).unwrap().commands.is_empty());
    over.act(&["cancel"], "cancelled");
}

#[test]
fn a_machine_that_is_not_stopped_is_not_failed_over() {
    let rig = rig(3);
    let (mut agent, _) = machine(&rig, 1);
    let machine = agent.machine.to_string();
    let older = ["failover", "start", &machine, "--kind", "planned", "--point", "1"];
    assert!(rig.try_admin(&older).unwrap_err().contains("takes the machine's last point"));

    let over = begin(&rig, &agent, &PLANNED);
    let command = ordered(&agent);
    answer(&agent, &command, &CommandResult::refused("it may not be stopped (stop.allow)")).unwrap();
    let shown = over.rests("failed");
    assert!(result_of(&shown, "halt-source").contains("stop.allow"), "{shown:#}");
    assert!(shown["hint"].as_str().unwrap().contains("failover resume"), "{shown:#}");
    agent.try_heartbeat().unwrap();
    let changed = rig.try_admin(&["failover", "change-point", &over.id, "--point", "1"]).unwrap_err();
    assert!(changed.contains("not switched off yet"), "{changed}");

    // Nor does one say anything; what it says later does not count, and it hears of that.
    rig.admin(&["failover", "resume", &over.id]);
    let late = ordered(&agent);
    let shown = over.rests("failed");
    assert!(result_of(&shown, "halt-source").contains("has not said within 3 s"), "{shown:#}");
    assert!(agent.commands(0).unwrap().commands.is_empty(), "it would be stopped for nothing");
    let result = last_point(&mut agent);
    assert_eq!(answer(&agent, &late, &result).unwrap_err().code, ErrorCode::Conflict);

    // One that has gone on before it was switched off is stopped again.
    rig.admin(&["failover", "resume", &over.id]);
    halts(&mut agent, &over.id);
    let off = ordered_off(&agent);
    answer(&agent, &off, &CommandResult::refused("it is not halted")).unwrap();
    over.rests("failed");
    agent.write(9);
    agent.commit();
    rig.admin(&["failover", "resume", &over.id]);
    halts(&mut agent, &over.id);
    switches_off(&agent, &over.id);
    images_are(&over.rests("ready"), &agent, &content(&agent));
}

#[test]
fn cancelled_before_it_is_switched_off_the_machine_goes_on() {
    let rig = rig(60);
    let (mut agent, _) = machine(&rig, 1);
    let over = begin(&rig, &agent, &PLANNED);
    halts(&mut agent, &over.id);
    let off = ordered_off(&agent);
    rig.admin(&["failover", "cancel", &over.id]);
    let on = wait_for("the order to go on", || {
        let commands = agent.commands(1).ok()?.commands;
        commands.into_iter().find(|command| matches!(command.order, Order::GoOn { .. }))
    });
    let refused = answer(&agent, &off, &CommandResult::done("it goes off")).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict, "it would switch itself off though that was cancelled");
    answer(&agent, &on, &CommandResult::done("what was stopped is started again")).unwrap();
    let shown = over.rests("cancelled");
    assert!(result_of(&shown, "return-source").contains("started again"), "{shown:#}");
    agent.try_heartbeat().unwrap();
    agent.write(1);
    agent.commit();

    // After that, somebody has to switch it on.
    let over = begin(&rig, &agent, &PLANNED);
    halts(&mut agent, &over.id);
    switches_off(&agent, &over.id);
    over.rests("ready");
    let shown = over.act(&["cancel"], "cancelled");
    assert!(result_of(&shown, "return-source").contains("switch it on by hand"), "{shown:#}");
    agent.restart();
    agent.write(1);
    agent.commit();
}

#[test]
fn killed_at_any_moment_a_planned_failover_loses_nothing() {
    let mut rig = rig(60);
    let (mut agent, _) = machine(&rig, 1);
    let mut dice = Dice::new(12);
    for _ in 0..4 {
        let id = begin(&rig, &agent, &PLANNED).id;
        loop {
            // How long it runs is what is random here.
            std::thread::sleep(Duration::from_millis(dice.below(900)));
            if dice.below(2) == 0 {
                rig.kill();
                rig.start();
            }
            if rig.admin(&["failover", "show", &id])["phase"] != "running" {
                break;
            }
            // Once nobody goes on with its identity it gets none.
            let Ok(commands) = agent.commands(0) else { continue };
            for command in commands.commands {
                let result = match command.order {
                    Order::Halt { .. } => last_point(&mut agent),
                    _ => CommandResult::done("done"),
                };
                // The first answer may have been lost.
                for _ in 0..=dice.below(2) {
                    answer(&agent, &command, &result).unwrap();
                }
            }
        }
        let over = Failover { rig: &rig, id };
        let shown = over.rests("ready");
        images_are(&shown, &agent, &content(&agent));
        assert_eq!(shown["chosen"]["age_ms"], 0);
        over.act(&["cancel"], "cancelled");
        agent.restart();
    }
}
