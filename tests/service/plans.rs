//! Recovery plans over a directory of images: order, programs, people, and what is left wherever the service is killed.
//!
//! Deliberately not here: what becomes of one machine (`failover`).

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use mobility_tests::dice::Dice;
use serde_json::{Value, json};

use crate::{
    commits::taken_in,
    failover::{directory, images_are},
    plan_site::{contains, group, millis, plan, script, site, step, up},
    rig::wait_for,
};

#[test]
fn groups_follow_each_other_and_the_report_says_what_was_measured() {
    let site = site("");
    let machines = [site.machine(1, 3), site.machine(2, 2), site.machine(3, 1)];
    let [(a, _), (b, _), (c, _)] = &machines;
    site.script("check", "cat >\"$notes/input\"; env >\"$notes/variables\"; echo all is well");
    let first = group(&[a, b], &json!([]), &script("check", 60));
    site.set(&plan(&[first, group(&[c], &json!([]), &json!([]))]));
    let run = site.run(&["--kind", "unplanned"]);
    let report = site.rests(&run, "ready");

    // The second group began when the first was up and the program had ended.
    let over: Vec<_> = machines.iter().map(|(agent, _)| site.failover(&report, agent)).collect();
    for ((agent, held), shown) in machines.iter().zip(&over) {
        images_are(shown, agent, held);
    }
    let check = step(&report, "script", 1);
    let order = [
        up(&over[0]).max(up(&over[1])),
        millis(&check["began"]),
        millis(&check["ended"]),
        millis(&over[2]["asked"]),
    ];
    assert!(order.is_sorted(), "{order:?} {report:#}");
    assert_eq!(check["output"], "all is well\n");
    let input: Value = serde_json::from_str(&site.note("input")).unwrap();
    let phases: Vec<_> = (0..3).map(|at| input["machines"][at]["phase"].clone()).collect();
    assert_eq!(phases, [json!("ready"), json!("ready"), Value::Null], "{input:#}");
    assert_eq!(input["machines"][0]["failover"], over[0]["id"]);
    let variables = site.note("variables");
    for variable in [
        "RECOVERY_PLAN=shop".to_owned(),
        format!("RECOVERY_RUN={run}"),
        "RECOVERY_KIND=unplanned".to_owned(),
        "RECOVERY_GROUP=of 2".to_owned(),
    ] {
        assert!(variables.lines().any(|line| line == variable), "{variable}: {variables}");
    }

    // What was measured is what the failovers have measured.
    let asked = millis(&report["asked"]);
    let points: Vec<_> = over.iter().map(|shown| millis(&shown["chosen"]["time"])).collect();
    let (newest, oldest) = (points.iter().max().unwrap(), points.iter().min().unwrap());
    assert_eq!(report["rto_ms"], over.iter().map(up).max().unwrap() - asked);
    assert_eq!(report["rpo_ms"], asked - oldest);
    assert_eq!(report["spread_ms"], newest - oldest);
    for (shown, machine) in over.iter().zip(report["machines"].as_array().unwrap()) {
        assert_eq!(machine["rto_ms"], shown["took_ms"]);
        assert_eq!(machine["point"], shown["chosen"]);
        let waited = millis(&shown["asked"]) - asked;
        assert_eq!(machine["rpo_ms"].as_i64().unwrap(), shown["chosen"]["age_ms"].as_i64().unwrap() - waited);
        let roots = |of: &Value| {
            of["disks"].as_array().unwrap().iter().map(|disk| disk["root"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(roots(machine), roots(shown));
    }
    for step in report["steps"].as_array().unwrap() {
        assert_eq!(step["took_ms"], millis(&step["ended"]) - millis(&step["began"]), "{step:#}");
    }

    let committed = site.act(&run, "commit", "committed");
    for (agent, _) in &machines {
        assert_eq!(site.failover(&committed, agent)["phase"], "committed");
    }
    assert_eq!([&committed["rto_ms"], &committed["rpo_ms"]], [&report["rto_ms"], &report["rpo_ms"]]);
    let refused = site.rig.try_admin(&["plan", "cancel", &run]).unwrap_err();
    assert!(refused.contains("committed"), "{refused}");
}

#[test]
fn no_more_machines_at_once_than_the_configuration_says() {
    let site = site("machines-at-once = 1\n");
    let machines = [1, 2, 3].map(|seed| site.machine(seed, 1).0);
    site.set(&plan(&[group(&machines.each_ref(), &json!([]), &json!([]))]));
    let run = site.run(&["--kind", "test", "--point", "latest-processed"]);
    let report = site.rests(&run, "ready");
    let over = machines.each_ref().map(|agent| site.failover(&report, agent));
    for pair in over.windows(2) {
        assert!(up(&pair[0]) <= millis(&pair[1]["asked"]), "{over:#?}");
    }
    site.act(&run, "cancel", "cancelled");
}

#[test]
fn a_test_is_undone_in_reverse_order_and_leaves_nothing() {
    let site = site("");
    let mut machines = [1, 2, 3].map(|seed| site.machine(seed, 2).0);
    let manual = json!([{ "kind": "manual", "text": "open the firewall" }]);
    let [a, b, c] = &machines;
    site.set(&plan(&[group(&[a, b], &json!([]), &manual), group(&[c], &json!([]), &json!([]))]));
    let time =
        site.rig.admin(&["point", "list", "--machine", &a.machine.to_string()])["points"][0]["time"].clone();
    let run = site.run(&["--kind", "test", "--skip-manual"]);
    let report = site.rests(&run, "ready");
    assert_eq!(report["machines_up"], 3);
    contains(&step(&report, "manual", 1)["result"], "not waited for");
    let refused = site.rig.try_admin(&["plan", "commit", &run]).unwrap_err();
    assert!(refused.contains("a test is not committed"), "{refused}");
    let second = site.rig.try_admin(&["plan", "run", "shop", "--kind", "test"]).unwrap_err();
    assert!(second.contains("is not decided yet"), "{second}");

    let undone = site.act(&run, "cleanup", "cancelled");
    assert!(site.shelf_is_empty());
    let over = machines.each_ref().map(|agent| site.failover(&undone, agent));
    let steps = |of: &Value| of["steps"].as_array().unwrap().clone();
    let last = |of: &Value| steps(of).last().unwrap().clone();
    let removal = |of: &Value| steps(of).into_iter().find(|step| step["step"] == "stop-machine").unwrap();
    assert!(over.iter().all(|shown| shown["phase"] == "cancelled"));
    assert!(millis(&last(&over[2])["ended"]) <= millis(&removal(&over[0])["began"]), "{over:#?}");
    // What was measured is known for good.
    assert_eq!(
        [&undone["rto_ms"], &undone["machines"][0]["disks"]],
        [&report["rto_ms"], &report["machines"][0]["disks"]]
    );
    for agent in &mut machines {
        agent.try_heartbeat().unwrap();
    }

    // All at one time: what is newer of the others is not taken.
    let run = site.run(&["--kind", "test", "--skip-manual", "--point", time.as_str().unwrap()]);
    let report = site.rests(&run, "failed");
    assert_eq!(site.failover(&report, &machines[0])["chosen"]["epoch"], 1);
    contains(&report["hint"], "point list");
    site.act(&run, "cancel", "cancelled");
    assert!(site.shelf_is_empty());
}

#[test]
fn a_person_is_waited_for() {
    let mut site = site("");
    let (a, b) = (site.machine(1, 1).0, site.machine(2, 1).0);
    let manual = json!([{ "kind": "manual", "text": "switch the old site off" }]);
    site.set(&plan(&[group(&[&a], &manual, &json!([])), group(&[&b], &manual, &json!([]))]));
    let run = site.run(&["--kind", "unplanned"]);
    let report = site.rests(&run, "waiting");
    contains(&report["hint"], "switch the old site off");
    assert_eq!(site.failovers(&a), 0);
    let events = site.rig.admin(&["event", "list"]).to_string();
    assert!(events.contains("plan-run-waits") && events.contains("switch the old site off"), "{events}");
    site.rig.kill();
    site.rig.start();
    assert_eq!(site.show(&run)["phase"], "waiting");
    let report = site.act(&run, "confirm", "waiting");
    assert_eq!((site.failover(&report, &a)["phase"].as_str(), site.failovers(&b)), (Some("ready"), 0));
    let refused = site.rig.try_admin(&["plan", "resume", &run]).unwrap_err();
    assert!(refused.contains("is waiting"), "{refused}");
    site.act(&run, "confirm", "ready");
    site.act(&run, "cancel", "cancelled");
    assert!(site.shelf_is_empty());
}

#[test]
fn a_program_that_fails_or_hangs_stops_the_run_there() {
    let site = site("");
    let (a, b) = (site.machine(1, 1).0, site.machine(2, 1).0);
    site.script("dns", "echo the zone is locked >&2; exit 3");
    site.script("hang", "echo $$ >\"$notes/pid\"; exec sleep 1000");
    let scripts = json!([script("dns", 60)[0], script("hang", 3)[0]]);
    site.set(&plan(&[group(&[&a], &json!([]), &scripts), group(&[&b], &script("hang", 900), &json!([]))]));
    let run = site.run(&["--kind", "test"]);
    let report = site.rests(&run, "failed");
    let dns = step(&report, "script", 1).clone();
    assert!(dns["ended"].is_null(), "{report:#}");
    let of = |report: &Value, at: usize| report["steps"][at].clone();
    contains(&of(&report, 1)["result"], "exit code 3");
    assert_eq!(of(&report, 1)["output"], "the zone is locked\n");
    contains(&report["hint"], "plan skip");
    assert_eq!(site.failovers(&b), 0);

    site.script("dns", "echo done");
    let report = site.act(&run, "resume", "failed");
    assert_eq!(
        (of(&report, 1)["tries"].clone(), of(&report, 1)["output"].clone()),
        (json!(2), json!("done\n"))
    );
    contains(&of(&report, 2)["result"], "did not end within 3 s");
    let ended = |pid: &str| !Path::new(&format!("/proc/{}/cwd", pid.trim())).exists();
    assert!(ended(&site.note("pid")), "it still runs");

    // One that nobody waits for any more is ended at once, however long it may take.
    fs::remove_file(site.notes.join("pid")).ok();
    site.rig.admin(&["plan", "skip", &run]);
    let pid = wait_for("the program to run", || Some(site.note("pid")).filter(|pid| pid.ends_with('\n')));
    assert!(!ended(&pid));
    let report = site.act(&run, "cancel", "cancelled");
    contains(&of(&report, 2)["result"], "gone on without it");
    contains(&of(&report, 3)["result"], "given up");
    assert!(ended(&pid) && site.shelf_is_empty() && site.failovers(&b) == 0);
}

#[test]
fn a_machine_that_is_damaged_stops_the_run_and_it_goes_on_when_it_is_mended() {
    let site = site("");
    let machines = [site.machine(1, 2), site.machine(2, 2), site.machine(3, 1)];
    let [(a, _), (b, held), (c, _)] = &machines;
    site.set(&plan(&[group(&[a, b], &json!([]), &json!([])), group(&[c], &json!([]), &json!([]))]));
    let segments = site.rig.storage().join(format!("target/{}/segments/{:020}", b.machine, 2));
    let segment = fs::read_dir(segments).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 3] ^= 1;
    fs::write(&segment, &damaged).unwrap();

    let run = site.run(&["--kind", "unplanned"]);
    let report = site.rests(&run, "failed");
    let failed = site.failover(&report, b);
    contains(&report["hint"], failed["hint"].as_str().unwrap());
    contains(&step(&report, "fail-over", 1)["result"], "1 of 2 machines are not up");
    assert_eq!(site.failover(&report, a)["phase"], "ready", "the others go on");
    assert_eq!((report["machines_up"].as_u64(), site.failovers(c)), (Some(1), 0));
    let report = site.act(&run, "resume", "failed");
    assert_eq!(step(&report, "fail-over", 1)["tries"], 2);
    fs::write(&segment, &whole).unwrap();
    let report = site.act(&run, "resume", "ready");
    images_are(&site.failover(&report, b), b, held);
    assert_eq!(report["machines_up"], 3);
    for agent in [a, b, c] {
        assert_eq!(site.failovers(agent), 1);
    }

    // One that was undone by hand is made anew where somebody says so, and one that does not come is gone on without.
    site.act(&run, "cancel", "cancelled");
    fs::write(&segment, &damaged).unwrap();
    let run = site.run(&["--kind", "unplanned"]);
    let undone = site.failover(&site.rests(&run, "failed"), b)["id"].as_str().unwrap().to_owned();
    site.rig.admin(&["failover", "cancel", &undone, "--wait"]);
    fs::write(&segment, whole).unwrap();
    let report = site.act(&run, "resume", "ready");
    let another = site.failover(&report, b);
    assert_ne!(another["id"], undone);
    images_are(&another, b, held);
    assert_eq!([a, b, c].map(|agent| site.failovers(agent)), [2, 3, 2]);
    site.act(&run, "cancel", "cancelled");
    site.is_clean();
    site.rig.admin(&["failover", "start", &c.machine.to_string(), "--kind", "test"]);
    let run = site.run(&["--kind", "unplanned"]);
    let report = site.rests(&run, "failed");
    contains(&report["hint"], "failover list");
    let report = site.act(&run, "skip", "ready");
    assert_eq!(report["machines_up"], 2);
    let report = site.act(&run, "commit", "committed");
    assert_eq!(report["machines"][2]["failover"], Value::Null);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let site = site("");
    let (a, b) = (site.machine(1, 1).0, site.machine(2, 1).0);
    let none = json!([]);
    let unknown = json!({ "groups": [{ "machines": ["00112233445566778899aabbccddeeff"] }] });
    let refused = [
        (plan(&[]), "1 to 64 groups"),
        (plan(&[group(&[], &none, &none)]), "it has no machine"),
        (plan(&[group(&[&a], &none, &none), group(&[&a], &none, &none)]), "in the plan twice"),
        (unknown, "knows no such machines: 00112233445566778899aabbccddeeff"),
        (json!({ "groups": [{ "machines": ["nobody"] }] }), "means 0 machines"),
        (plan(&[group(&[&a], &script("../sh", 1), &none)]), "no name of a script"),
        (json!({ "groups": [], "order": 1 }), "order"),
    ];
    for (plan, hint) in refused {
        let said = site.try_set("shop", &plan).unwrap_err();
        assert!(said.contains(hint), "{hint}: {said}");
    }
    let sound = plan(&[group(&[&a, &b], &script("dns", 1), &none)]);
    assert!(site.try_set("a b", &sound).unwrap_err().contains("a plan's name"));
    site.set(&sound);
    let listed = site.rig.admin(&["plan", "list"]);
    assert_eq!(
        listed["plans"],
        json!([{ "name": "shop", "description": "the shop", "groups": 1, "machines": 2 }])
    );

    let begin = |arguments: &[&str]| {
        site.rig.try_admin(&[&["plan", "run", "shop", "--kind"][..], arguments].concat()).unwrap_err()
    };
    let says = |said: String, hint: &str| assert!(said.contains(hint), "{hint}: {said}");
    says(begin(&["test"]), "cannot be run");
    site.script("dns", "exit 0");
    fs::set_permissions(site.scripts.join("dns"), fs::Permissions::from_mode(0o777)).unwrap();
    says(begin(&["test"]), "others than its owner may write to it");
    fs::set_permissions(site.scripts.join("dns"), fs::Permissions::from_mode(0o755)).unwrap();
    says(begin(&["test", "--to", "moon"]), "there is no place 'moon'");
    says(begin(&["test", "--point", "1"]), "no point that every machine of the plan has");
    says(begin(&["unplanned", "--skip-manual"]), "left out of tests alone");
    site.rig.admin(&["machine", "revoke", &b.machine.to_string()]);
    says(begin(&["test"]), &format!("were revoked: small ({})", b.machine));
    site.rig.admin(&["plan", "remove", "shop"]);
    says(begin(&["test"]), "there is no such plan");
    says(site.rig.try_admin(&["plan", "watch", "feed"]).unwrap_err(), "is the id of 0 plan runs");
    assert_eq!(site.failovers(&a), 0, "nothing was begun");
}

#[test]
fn killed_at_any_moment_it_comes_to_its_end() {
    let mut site = site("");
    let mut machines = [site.machine(1, 1), site.machine(2, 1)];
    machines[0].0.add_disk("large", 10_000);
    let (first, second) = ("mkdir \"$notes/one\" || echo twice >>\"$notes/ran\"", "rmdir \"$notes/one\"");
    site.script("between", &format!("{first}\nsleep 0.3\necho ran >>\"$notes/ran\"\n{second}"));
    let [(a, _), (b, _)] = &machines;
    site.set(&plan(&[group(&[a], &json!([]), &script("between", 60)), group(&[b], &json!([]), &json!([]))]));
    let mut dice = Dice::new(23);
    for round in 1..=5 {
        for (agent, held) in &mut machines {
            agent.write(2_000);
            agent.commit();
            taken_in(&site.rig, agent, round + 1);
            *held = agent.disks.iter().map(|disk| disk.content.clone()).collect();
        }
        fs::remove_file(site.notes.join("ran")).ok();
        let run = site.run(&["--kind", "test"]);
        loop {
            // How long it runs is what is random here.
            std::thread::sleep(Duration::from_millis(20 + dice.below(1500)));
            site.rig.kill();
            site.rig.start();
            if site.show(&run)["phase"] != "running" || dice.below(6) == 0 {
                break;
            }
        }
        // Every other one is undone midway.
        if round % 2 == 1 {
            let report = site.rests(&run, "ready");
            for (agent, held) in &machines {
                images_are(&site.failover(&report, agent), agent, held);
                assert_eq!(site.failovers(agent) as u64, round, "it was begun twice");
            }
            assert!(directory(&site.failover(&report, &machines[0].0)).exists());
            let ran = site.note("ran");
            assert!(!ran.is_empty() && !ran.contains("twice"), "{ran}");
        }
        site.rig.admin(&["plan", "cancel", &run]);
        site.rig.kill();
        site.rig.start();
        let report = site.rests(&run, "cancelled");
        assert!(site.shelf_is_empty(), "{report:#}");
        for (agent, _) in &mut machines {
            let begun = site.failovers(agent) as u64;
            assert!(begun <= round, "{begun}");
            agent.try_heartbeat().unwrap();
            // So that the next round counts on.
            while (site.failovers(agent) as u64) < round {
                let test =
                    site.rig.admin(&["failover", "start", &agent.machine.to_string(), "--kind", "test"]);
                site.rig.admin(&["failover", "cancel", test["id"].as_str().unwrap(), "--wait"]);
            }
        }
    }
}
