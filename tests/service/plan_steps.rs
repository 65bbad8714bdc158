//! The service is killed after every single step of a plan run, when that is done and could not be noted; or the run is cancelled
//! there. It comes to its end as if nothing had happened, and each program ran once more at most.
//!
//! Deliberately not here: kills in the middle of a step, which chance hits (`plans`), and of its failovers' steps (`failover_steps`).

use std::fs;

use mobility_tests::dice::Dice;
use serde_json::json;

use crate::{
    agent::Agent,
    database::Strikes,
    plan_site::{Site, contains, group, millis, plan, script, site},
};

/// A step before and one after the machine of the first group, a person and a step after that of the second one.
fn shop(site: &Site) -> [(Agent, Vec<Vec<u8>>); 2] {
    let machines = [site.machine(1, 2), site.machine(2, 1)];
    let [(a, _), (b, _)] = &machines;
    for name in ["open", "check", "close"] {
        site.script(name, &format!("echo {name} $RECOVERY_TRY >>\"$notes/ran\""));
    }
    let person = json!([{ "kind": "manual", "text": "look" }]);
    site.set(&plan(&[
        group(&[a], &script("open", 60), &script("check", 60)),
        group(&[b], &person, &script("close", 60)),
    ]));
    machines
}

fn begin(site: &Site, arguments: &[&str]) -> String {
    fs::remove_file(site.notes.join("ran")).ok();
    site.run(arguments)
}

#[test]
fn killed_after_every_step_it_comes_to_its_end() {
    let mut site = site("");
    let machines = shop(&site);
    let strikes = Strikes::at(&mut site.rig, "plan_runs");
    let mut run = String::new();
    site.struck(&strikes, 0..3, |site| run = begin(site, &["--kind", "unplanned"]));
    site.rests(&run, "waiting");
    assert_eq!(site.failovers(&machines[1].0), 0, "nobody has confirmed anything");
    site.struck(&strikes, 3..6, |site| drop(site.rig.admin(&["plan", "confirm", &run])));
    let report = site.rests(&run, "ready");
    site.are_failed_over(&report, &machines, 1);
    let [before, after] = machines.each_ref().map(|(agent, _)| site.failover(&report, agent));
    let close = report["steps"].as_array().unwrap().last().unwrap();
    let order =
        [&before["steps"].as_array().unwrap().last().unwrap()["ended"], &after["asked"], &close["ended"]];
    assert!(order.map(millis).is_sorted(), "{order:?}");
    let twice = ["open 1", "open 2", "check 1", "check 2", "close 1", "close 2"];
    assert_eq!(site.note("ran").lines().collect::<Vec<_>>(), twice);

    site.struck(&strikes, 6..8, |site| drop(site.rig.admin(&["plan", "commit", &run])));
    let committed = site.rests(&run, "committed");
    site.is_whole(&committed);
    assert_eq!([&committed["rto_ms"], &committed["rpo_ms"]], [&report["rto_ms"], &report["rpo_ms"]]);
    for (agent, _) in &machines {
        assert_eq!(site.failover(&committed, agent)["phase"], "committed");
    }
}

#[test]
fn a_failover_that_was_begun_and_not_noted_is_the_runs_own() {
    let mut site = site("");
    let machines = [site.machine(1, 1), site.machine(2, 1)];
    let [(a, _), (b, _)] = &machines;
    site.set(&plan(&[group(&[a, b], &json!([]), &json!([]))]));
    let strikes = Strikes::at(&mut site.rig, "plan_runs");
    site.rig.database.refuse_begun();
    let mut run = String::new();
    strikes.struck(|| run = begin(&site, &["--kind", "test"]));
    strikes.kill(&mut site.rig);
    let report = site.rests(&run, "ready");
    site.are_failed_over(&report, &machines, 1);
    site.act(&run, "cancel", "cancelled");
    site.is_clean();
}

#[test]
fn cancelled_after_any_step_it_leaves_nothing() {
    let mut site = site("");
    let mut machines = shop(&site);
    let strikes = Strikes::at(&mut site.rig, "plan_runs");
    let mut dice = Dice::new(41);
    for steps in 0..5 {
        let begun: Vec<_> = machines.iter().map(|(agent, _)| site.failovers(agent)).collect();
        let mut run = String::new();
        strikes.strike(&site.rig, steps, || run = begin(&site, &["--kind", "test", "--skip-manual"]));
        site.rig.admin(&["plan", "cancel", &run]);
        strikes.kill(&mut site.rig);
        if dice.below(2) == 0 {
            site.rig.kill();
            site.rig.start();
        }
        let report = site.rests(&run, "cancelled");
        site.is_clean();
        let ended: Vec<_> = report["steps"].as_array().unwrap().iter().collect();
        assert!(ended.iter().all(|step| !step["ended"].is_null()), "{report:#}");
        contains(&ended[steps]["result"], "given up");
        let undone: Vec<_> = ended.iter().filter(|step| step["step"] == "cancel").collect();
        let groups: Vec<_> = undone.iter().map(|step| step["group"].as_u64().unwrap()).collect();
        let expected: &[u64] = match steps {
            0 => &[],
            1..4 => &[1],
            _ => &[2, 1],
        };
        assert_eq!(groups, expected, "{report:#}");
        for ((agent, _), before) in machines.iter_mut().zip(begun) {
            let now = site.failovers(agent);
            assert!(now <= before + 1, "it was failed over twice");
            agent.try_heartbeat().unwrap();
        }
    }

    // After the last one, and then after every step of being undone.
    let mut run = String::new();
    strikes.strike(&site.rig, 5, || run = begin(&site, &["--kind", "test", "--skip-manual"]));
    strikes.kill(&mut site.rig);
    let report = site.rests(&run, "ready");
    site.is_whole(&report);
    site.struck(&strikes, 6..8, |site| drop(site.rig.admin(&["plan", "cleanup", &run])));
    let undone = site.rests(&run, "cancelled");
    site.is_clean();
    site.is_whole(&undone);
    assert_eq!(
        [&undone["rto_ms"], &undone["machines"][0]["disks"]],
        [&report["rto_ms"], &report["machines"][0]["disks"]]
    );
    for (agent, _) in &mut machines {
        agent.try_heartbeat().unwrap();
    }
}
