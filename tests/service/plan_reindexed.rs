//! The database is lost, and rebuilt from what is stored: plans are there, each run is as far as it was, and what came of one is known.
//!
//! Deliberately not here: failovers by themselves (`failover_reindexed`).

use std::{fs, time::Duration};

use mobility_tests::dice::Dice;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    database::rebuild,
    failover::images_are,
    plan_site::{Site, contains, group, plan, script, site, step},
    rig::wait_for,
};

#[test]
fn plans_come_back_when_the_database_is_rebuilt() {
    let mut site = site("");
    let a = site.machine(1, 1).0;
    let sound = plan(&[group(&[&a], &script("dns", 5), &json!([]))]);
    for name in ["kept", "removed", "again"] {
        site.try_set(name, &sound).unwrap();
    }
    let other = plan(&[group(&[&a], &json!([]), &json!([]))]);
    site.try_set("kept", &other).unwrap();
    site.rig.admin(&["plan", "remove", "removed"]);
    site.rig.admin(&["plan", "remove", "again"]);
    site.try_set("again", &sound).unwrap();
    site.rig.stop();
    rebuild(&mut site.rig);
    let listed = site.rig.admin(&["plan", "list"]);
    let names: Vec<_> = listed["plans"].as_array().unwrap().iter().map(|plan| plan["name"].clone()).collect();
    assert_eq!(names, [json!("again"), json!("kept")]);
    assert_eq!(site.rig.admin(&["plan", "show", "kept"]), other);
    assert_eq!(site.rig.admin(&["plan", "show", "again"]), sound);
}

/// A plan of that name for one machine, and what is done after it is up.
fn set(site: &Site, name: &str, agent: &Agent, after: &Value) {
    site.try_set(name, &plan(&[group(&[agent], &json!([]), after)])).unwrap();
}

fn begin(site: &Site, name: &str, kind: &str) -> String {
    let run = site.rig.admin(&["plan", "run", name, "--kind", kind]);
    run["id"].as_str().unwrap().to_owned()
}

#[test]
fn runs_are_as_far_as_they_were_and_their_reports_are_kept() {
    let mut site = site("");
    let mut machines = [1, 2, 3, 4].map(|seed| site.machine(seed, 1));
    site.script("check", "echo $RECOVERY_TRY >>\"$notes/tries\"; [ -e \"$notes/go\" ] || exec sleep 1000");
    let person = json!([{ "kind": "manual", "text": "look" }]);
    let of =
        |site: &Site, number: usize, name: &str, after: &Value| set(site, name, &machines[number].0, after);
    of(&site, 0, "ended", &json!([]));
    of(&site, 1, "ready", &json!([]));
    of(&site, 2, "waiting", &person);
    of(&site, 3, "running", &script("check", 900));
    let undone = begin(&site, "ended", "test");
    let ready = begin(&site, "ready", "unplanned");
    let waiting = begin(&site, "waiting", "test");
    let running = begin(&site, "running", "test");
    site.rests(&undone, "ready");
    let undone = (site.act(&undone, "cleanup", "cancelled"), undone);
    let ended = begin(&site, "ended", "unplanned");
    site.rests(&ended, "ready");
    let ended = (site.act(&ended, "commit", "committed"), ended);
    let ready = (site.rests(&ready, "ready"), ready);
    let waiting = (site.rests(&waiting, "waiting"), waiting);
    wait_for("the program to run", || (site.note("tries") == "1\n").then_some(()));
    // As an operator does who stops the service: the program ends with it.
    site.rig.stop();
    let said = rebuild(&mut site.rig);
    assert_eq!((said["plan_runs"].as_u64(), &said["problems"]), (Some(5), &json!([])));

    // Nothing of a report is lost, also where nothing is left of what it is of.
    for (report, run) in [&undone, &ended, &ready, &waiting] {
        assert_eq!(site.report(run), *report);
    }
    let listed = site.rig.admin(&["plan", "runs", "--plan", "ended"]);
    let listed: Vec<_> = listed["runs"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect();
    assert_eq!(listed, [json!(ended.1), json!(undone.1)]);
    let other = site.rig.try_admin(&["plan", "run", "ready", "--kind", "test"]).unwrap_err();
    assert!(other.contains("is not decided yet"), "{other}");

    // What was under way goes on with the step that was begun; what waits can be told what becomes of it.
    wait_for("the program to run again", || (site.note("tries") == "1\n2\n").then_some(()));
    for (run, action) in [(&running, "cancel"), (&waiting.1, "confirm"), (&ready.1, "commit")] {
        site.rig.admin(&["plan", action, run]);
    }
    site.rests(&running, "cancelled");
    let report = site.rests(&waiting.1, "ready");
    contains(&step(&report, "manual", 1)["result"], "confirmed");
    images_are(&site.failover(&report, &machines[2].0), &machines[2].0, &machines[2].1);
    site.rig.admin(&["plan", "cancel", &waiting.1]);
    let report = site.rests(&ready.1, "committed");
    assert_eq!(
        [&report["rto_ms"], &report["machines"][0]["disks"]],
        [&ready.0["rto_ms"], &ready.0["machines"][0]["disks"]]
    );
    for run in [&ended.1, &ready.1] {
        let committed = site.report(run)["machines"][0]["failover"].as_str().unwrap().to_owned();
        site.rig.admin(&["failover", "remove", &committed]);
    }
    site.rests(&waiting.1, "cancelled");
    for number in [2, 3] {
        machines[number].0.restart();
    }
    wait_for("the last machines to be removed", || site.shelf_is_empty().then_some(()));
    site.is_clean();
}

#[test]
fn killed_in_the_middle_and_without_its_database_a_run_comes_to_its_end() {
    let mut site = site("");
    let machines = [site.machine(1, 1), site.machine(2, 1), site.machine(3, 1)];
    let [(a, _), (b, _), (c, _)] = &machines;
    site.script("between", "echo $RECOVERY_TRY >>\"$notes/ran\"");
    site.set(&plan(&[
        group(&[a, b], &json!([]), &script("between", 60)),
        group(&[c], &json!([]), &json!([])),
    ]));
    let mut dice = Dice::new(51);
    for round in 0..4 {
        fs::remove_file(site.notes.join("ran")).ok();
        let run = site.run(&["--kind", "unplanned"]);
        // How long it runs is what is random here.
        std::thread::sleep(Duration::from_millis(dice.below(3000)));
        site.rig.kill();
        let said = rebuild(&mut site.rig);
        assert_eq!((said["plan_runs"].as_u64(), &said["problems"]), (Some(round + 1), &json!([])));
        if dice.below(3) > 0 {
            let report = site.rests(&run, "ready");
            site.is_whole(&report);
            for (agent, held) in &machines {
                images_are(&site.failover(&report, agent), agent, held);
            }
            // Begun a second time where it was begun and not known to have ended.
            assert!(["1\n", "1\n2\n"].contains(&&*site.note("ran")), "{}", site.note("ran"));
        }
        site.act(&run, "cancel", "cancelled");
        site.is_clean();
    }
}

#[test]
fn what_is_remembered_of_ended_runs_has_a_limit() {
    let site = site("");
    let a = site.machine(1, 1).0;
    site.set(&plan(&[group(&[&a], &json!([]), &json!([]))]));
    let oldest = site.run(&["--kind", "test"]);
    site.act(&oldest, "cancel", "cancelled");
    let stored = site.rig.storage().join("service/plan-runs");
    let objects = |run: &str| fs::read_dir(stored.join(run)).map_or(0, Iterator::count);
    assert!((1..=2).contains(&objects(&oldest)), "{}", objects(&oldest));
    // A thousand more that have ended since.
    site.rig.database.change(&format!(
        "INSERT INTO plan_runs (id, plan, created, scripts, busy, settled, changes, stored, body)
         WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)
         SELECT CAST({first} + n AS TEXT), plan, created + 1, scripts, 0, 1, 1, 1,
            REPLACE(body, '{oldest}', CAST({first} + n AS TEXT)) FROM plan_runs, numbers",
        first = 10_u64.pow(15)
    ));
    let run = site.run(&["--kind", "test"]);
    assert!(site.rig.try_admin(&["plan", "report", &oldest]).unwrap_err().contains("of 0 plan runs"));
    assert_eq!(objects(&oldest), 0, "it would come back");
    site.act(&run, "cancel", "cancelled");
    assert!(objects(&run) > 0);
}
