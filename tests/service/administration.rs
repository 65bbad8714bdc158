//! What an administrator sees and does.
//!
//! Deliberately not here: how tables look.

use std::os::unix::fs::PermissionsExt;

use mobility_format::control::Order;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
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
    let get = |client: &reqwest::blocking::Client, path: &str, secret: Option<&str>| {
        let request = client.get(format!("{}{path}", rig.address));
        secret
            .map_or_else(
                || request.try_clone().unwrap(),
                |secret| request.try_clone().unwrap().bearer_auth(secret),
            )
            .send()
            .unwrap()
            .status()
    };
    let credential = std::fs::read(rig.data().join("administrator.json")).unwrap();
    let credential: Value = serde_json::from_slice(&credential).unwrap();
    let secret = credential["secret"].as_str().unwrap();
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
fn figures_tell_of_each_machine() {
    let rig = Rig::new();
    let mut agent = Agent::enrol(&rig, 1);
    agent.try_session().unwrap();
    agent.new_generation();
    agent.add_disk("disk", 8);
    agent.try_heartbeat().unwrap();
    agent.commit();
    taken_in(&rig, &agent, 1);
    let credential = std::fs::read(rig.data().join("administrator.json")).unwrap();
    let credential: Value = serde_json::from_slice(&credential).unwrap();
    let request = rig.client(None).get(format!("{}/metrics", rig.address));
    let text = request.bearer_auth(credential["secret"].as_str().unwrap()).send().unwrap().text().unwrap();
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
    std::thread::scope(|scope| {
        let (agent, address) = (&agent, rig.address.clone());
        let waiting = scope.spawn(move || agent.commands(50));
        wait_for("the service", || agent.client.get(format!("{address}/v1/x")).send().ok());
        rig.stop();
        waiting.join().unwrap().unwrap();
    });
    rig.start();
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
