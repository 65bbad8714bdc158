//! What an administrator sees and does.
//!
//! Deliberately not here: how tables look.

use std::os::unix::fs::PermissionsExt;

use mobility_format::{
    DiskId,
    control::{ErrorBody, ErrorCode, Order},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    client::Client,
    commits::taken_in,
    rig::{Rig, wait_for},
};

#[test]
fn secrets_are_kept_from_others_and_from_the_log() {
    let rig = Rig::new();
    for name in ["authority.pem", "administrator.json", "grants.key"] {
        let mode = std::fs::metadata(rig.data().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} can be read by others");
    }
    assert_eq!(std::fs::metadata(rig.data()).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn without_the_credential_nothing_is_administered() {
    let rig = Rig::new();
    let agent = Agent::enrol(&rig, 1);
    let get = |client: &Client, path: &str, secret: Option<&str>| {
        let request = client.get(format!("{}{path}", rig.address));
        let request = match secret {
            Some(secret) => request.bearer_auth(secret),
            None => request,
        };
        request.send().unwrap().status()
    };
    let secret = rig.secret();
    let secret = secret.as_str();
    for path in ["/v1/admin/machines", "/v1/admin/tokens", "/v1/admin/events", "/metrics"] {
        for (client, secret) in [
            (&rig.client(None), None),
            (&agent.client, None),
            (&agent.client, Some("")),
            (&agent.client, Some(&secret[..secret.len() - 1])),
        ] {
            assert_eq!(get(client, path, secret), StatusCode::UNAUTHORIZED, "{path}");
        }
        assert_eq!(get(&rig.client(None), path, Some(secret)), StatusCode::OK, "{path}");
    }
    assert!(get(&rig.client(None), "/v1/nothing", Some(secret)) == StatusCode::NOT_FOUND);
}

#[test]
fn a_changed_policy_reaches_the_machine_with_its_next_heartbeat() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    let first = agent.try_session().unwrap().policy;
    assert!(agent.try_heartbeat().unwrap().policy.is_none());
    rig.admin(&["policy", "set", "default", "--interval", "5", "--upload-rate", "1000000"]);
    let changed = wait_for("the policy", || agent.try_heartbeat().unwrap().policy);
    assert_eq!((changed.interval_s, changed.upload_rate.map(|rate| rate.0)), (5, Some(1_000_000)));
    assert!(changed.version > first.version && changed.retention == first.retention);
    agent.policy = changed.version;
    assert!(agent.try_heartbeat().unwrap().policy.is_none());
    rig.admin(&["policy", "set", "calm", "--interval", "3600"]);
    rig.admin(&["machine", "policy", &agent.machine.to_string(), "calm"]);
    let other = wait_for("the other policy", || agent.try_heartbeat().unwrap().policy);
    assert_eq!((other.name.as_str(), other.interval_s), ("calm", 3600));
    for bad in [["--interval", "0"], ["--keep", "often"], ["--interval", "100000"]] {
        assert!(rig.try_admin(&["policy", "set", "calm", bad[0], bad[1]]).is_err(), "{bad:?}");
    }
    assert!(rig.try_admin(&["machine", "policy", &agent.machine.to_string(), "none"]).is_err());
}

#[test]
fn one_machine_rests_while_others_of_its_policy_go_on() {
    let rig = Rig::new();
    let (mut agent, mut other) = (Agent::enrol(&rig, 1), Agent::enrol(&rig, 2));
    for agent in [&mut agent, &mut other] {
        assert!(!agent.try_session().unwrap().policy.paused);
        assert!(agent.try_heartbeat().unwrap().policy.is_none());
    }
    let machine = agent.machine.to_string();
    let tell = |word: &str| rig.admin(&["machine", word, &machine]);
    assert_eq!(tell("pause")["paused"], true);
    assert_eq!(tell("pause")["paused"], true, "twice is once");
    assert!(wait_for("the pause", || agent.try_heartbeat().unwrap().policy).paused);
    agent.paused = true;
    assert!(agent.try_heartbeat().unwrap().policy.is_none());
    assert!(other.try_heartbeat().unwrap().policy.is_none());
    assert!(agent.restart().policy.paused, "it is so for every run of the agent");
    let shown = rig.admin(&["machine", "show", &machine]);
    assert_eq!(shown["paused"], true);
    tell("resume");
    assert!(!wait_for("its end", || agent.try_heartbeat().unwrap().policy).paused);
    let events = rig.admin(&["event", "list", "--machine", &machine]);
    let kinds: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["resumed", "paused", "enrolled"], "newest first");
    assert!(rig.try_admin(&["machine", "pause", "no such machine"]).is_err());
}

#[test]
fn commands_wake_the_machine_that_waits_for_them() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    let machine = agent.machine.to_string();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| agent.commands(50).unwrap());
        rig.admin(&["machine", "point", &machine, "--app-consistent"]);
        let commands = waiting.join().unwrap().commands;
        assert_eq!(commands[0].order, Order::Point { application: true });
    });
    rig.admin(&["machine", "resync", &machine, "--reason", "to be sure"]);
    let commands = agent.commands(0).unwrap().commands;
    assert_eq!(commands.len(), 2);
    assert!(matches!(&commands[1].order, Order::Resync { reason, .. } if reason == "to be sure"));
    for _ in 2..64 {
        rig.admin(&["machine", "renew", &machine]);
    }
    assert!(rig.try_admin(&["machine", "renew", &machine]).is_err());
    assert!(rig.try_admin(&["machine", "renew", "no such machine"]).is_err());
}

#[test]
fn silence_is_told_once_and_its_end_too() {
    let (address, alerts) = webhook();
    let mut rig = Rig::new();
    rig.stop();
    rig.configure(&format!("webhook = '{address}'\n"));
    rig.start();
    rig.admin(&["policy", "set", "default", "--interval", "1"]);
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    agent.new_generation();
    agent.add_disk("disk", 8);
    agent.commit();
    taken_in(&rig, &agent, 1);
    let alert: Value = alerts.recv_timeout(crate::rig::PATIENCE).unwrap();
    assert_eq!((&alert["kind"], &alert["machine"]), (&json!("interval-missed"), &json!(agent.machine)));
    let shown = rig.admin(&["machine", "show", &agent.machine.to_string()]);
    assert_eq!(shown["overdue"], true);
    agent.commit();
    assert_eq!(alerts.recv_timeout(crate::rig::PATIENCE).unwrap()["kind"], "interval-met");
    let events = rig.admin(&["event", "list", "--machine", &agent.machine.to_string()]);
    let missed =
        events["events"].as_array().unwrap().iter().filter(|e| e["kind"] == "interval-missed").count();
    assert_eq!(missed, 1);
}

/// Somebody who takes alerts.
fn webhook() -> (String, std::sync::mpsc::Receiver<Value>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/alerts", listener.local_addr().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
            sender.send(serde_json::from_slice(&body).unwrap()).ok();
        }
    });
    (address, receiver)
}

#[test]
fn a_pinned_point_stays_whatever_the_policy_says() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    agent.new_generation();
    agent.add_disk("disk", 8);
    for epoch in 1..=4 {
        agent.write(2);
        agent.commit();
        taken_in(&rig, &agent, epoch);
    }
    let machine = agent.machine.to_string();
    rig.admin(&["point", "pin", &machine, "2"]);
    assert!(rig.try_admin(&["point", "pin", &machine, "9"]).is_err());
    // Only the newest stays, and what is pinned, once they are two seconds old.
    let old = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    wait_for("the points to age", || (jiff::Timestamp::now() > old).then_some(()));
    rig.admin(&["policy", "set", "default", "--keep", "1s:1s"]);
    let left = wait_for("the points to go", || {
        let vault = mobility_recovery::Vault::open(&rig.data().join("storage")).unwrap();
        let catalog = mobility_recovery::Catalog::load_locked(&vault, agent.machine).unwrap();
        let epochs: Vec<u64> = catalog.points().map(|point| point.epoch().0).collect();
        (epochs.len() < 4).then_some(epochs)
    });
    assert_eq!(left, [2, 4]);
    crate::commits::newest_point_is(&rig, &agent);
}

#[test]
fn disks_and_points_are_listed_as_the_service_has_them() {
    let rig = Rig::new();
    let (mut agent, other) = (Agent::enrol(&rig, 1), Agent::enrol(&rig, 2));
    agent.try_session().unwrap();
    agent.new_generation();
    agent.add_disk("stays", 8);
    agent.add_disk("goes", 16);
    for epoch in 1..=3 {
        if epoch == 3 {
            agent.disks.retain(|disk| disk.content.len() == 8 * 4096);
        }
        agent.write(2);
        agent.commit();
        taken_in(&rig, &agent, epoch);
    }
    // It says now which disks it has: one that is protected, and one that is not.
    let (kept, new) = (agent.disks[0].id, DiskId::derive("new"));
    let disk = |id: DiskId, name: &str, size: u64| json!({ "id": id, "name": name, "size": size, "mounts": ["/"], "labels": [], "temporary": false });
    let mut inventory = json!(crate::agent::inventory("hardware"));
    inventory["disks"] = json!([disk(kept, "/dev/kept", 8 * 4096), disk(new, "/dev/new", 4096)]);
    let began = json!({ "session": agent.session, "boot": "boot", "inventory": inventory, "claim": null });
    agent.post::<Value>("/v1/session", &began).unwrap();
    let machine = agent.machine.to_string();
    let listed = rig.admin(&["disk", "list", "--machine", &machine]);
    let mut found: Vec<_> = listed["disks"].as_array().unwrap().iter().map(what_of_disk).collect();
    found.sort();
    let gone = (16 * 4096, false, false);
    assert_eq!(found, [(4096, false, true), (8 * 4096, true, true), gone]);
    assert_eq!(rig.admin(&["disk", "list"]), listed, "the other machine has no disks");
    let none = json!({ "disks": [] });
    assert_eq!(rig.admin(&["disk", "list", "--machine", &other.machine.to_string()]), none);

    rig.admin(&["point", "pin", &machine, "2"]);
    let listed = rig.admin(&["point", "list", "--machine", &machine[..6]]);
    let points = listed["points"].as_array().unwrap();
    let what = |point: &Value| {
        let disks = point["disks"].as_array().unwrap().len();
        (point["epoch"].as_u64().unwrap(), disks, point["pinned"] == true, point["damage"].is_null())
    };
    let found: Vec<_> = points.iter().map(what).collect();
    assert_eq!(found, [(1, 2, false, true), (2, 2, true, true), (3, 1, false, true)]);
    assert!(points.iter().all(|point| point["consistency"] == "crash"));
    assert_eq!(pages_of_points(&rig, &machine, 2), [vec![1, 2], vec![3]]);
    assert_eq!(rig.admin(&["point", "list", "--machine", &other.machine.to_string()])["points"], json!([]));
    assert!(rig.try_admin(&["point", "list", "--machine", "no such machine"]).is_err());
}

/// How large it is, whether it is in the newest point, and whether the machine has it.
fn what_of_disk(disk: &Value) -> (u64, bool, bool) {
    (disk["size"].as_u64().unwrap(), disk["in_newest"] == true, disk["attached"] == true)
}

/// The epochs of a machine's points, page by page.
fn pages_of_points(rig: &Rig, machine: &str, most: usize) -> Vec<Vec<u64>> {
    let (client, secret) = (rig.client(None), rig.secret());
    let mut pages = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let url = format!("{}/v1/admin/machines/{machine}/points?after={after}&most={most}", rig.address);
        let page: Value = client.get(url).bearer_auth(&secret).send().unwrap().json();
        let points = page["points"].as_array().unwrap();
        pages.push(points.iter().map(|point| point["epoch"].as_u64().unwrap()).collect());
        after = page["next"].clone();
    }
    pages
}

#[test]
fn names_that_cannot_be_are_refused_like_everything_else() {
    let rig = Rig::new();
    let (client, secret) = (rig.client(None), rig.secret());
    for path in ["machines/x", "machines/x/points", "disks?machine=x", "events?most=-1"] {
        let answer = client.get(format!("{}/v1/admin/{path}", rig.address)).bearer_auth(&secret).send();
        assert_eq!(answer.unwrap().json::<ErrorBody>().code, ErrorCode::BadRequest, "{path}");
    }
    let wrong =
        client.post(format!("{}/v1/admin/machines", rig.address)).bearer_auth(&secret).send().unwrap();
    assert_eq!(wrong.json::<ErrorBody>().code, ErrorCode::NotFound);
}

#[test]
fn figures_tell_of_each_machine() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    agent.new_generation();
    agent.add_disk("disk", 8);
    agent.try_heartbeat().unwrap();
    agent.commit();
    taken_in(&rig, &agent, 1);
    let request = rig.client(None).get(format!("{}/metrics", rig.address));
    let answer = request.bearer_auth(&rig.secret()).send().unwrap();
    let text = String::from_utf8_lossy(answer.bytes());
    for line in [
        "recovery_service_machines 1".to_owned(),
        "recovery_service_epochs_taken_in_total 1".to_owned(),
        format!("recovery_service_machine_rpo_seconds{{machine=\"{}\"}} ", agent.machine),
        format!("recovery_service_machine_interval_seconds{{machine=\"{}\"}} 15", agent.machine),
    ] {
        assert!(text.lines().any(|found| found.starts_with(&line)), "{line} is not in\n{text}");
    }
}

#[test]
fn it_stops_when_told_although_machines_wait_for_commands() {
    let mut rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    wait_for("a wait that was begun before the end", || {
        let answer = std::thread::scope(|scope| {
            let (agent, address) = (&agent, rig.address.clone());
            let waiting = scope.spawn(move || agent.commands(50));
            wait_for("the service", || agent.client.get(format!("{address}/v1/x")).send().ok());
            rig.stop();
            waiting.join().unwrap()
        });
        rig.start();
        // One that comes too late finds nobody, and shows nothing.
        answer.ok()
    });
    agent.try_heartbeat().unwrap();
}

#[test]
fn the_authority_is_never_replaced_by_another() {
    let mut rig = Rig::new();
    let _machine = Agent::enrol(&rig, 1);
    rig.stop();
    std::fs::remove_file(rig.data().join("authority.pem")).unwrap();
    let output = rig.serve().output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("put it back from a copy"), "{said}");
    assert!(!rig.data().join("authority.pem").exists());
}
